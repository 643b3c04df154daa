//! The settings of the window as flags of `train`, so that a run started here is the one that the command line would
//! start.

use crate::form::Form;
use anyhow::{Result, anyhow};
use clap::ValueEnum;
use mantissa_app::cli::train_args::StepArgs;
use mantissa_app::cli::{DeviceArgs, TrainArgs};
use mantissa_app::config::DeviceChoice;
use mantissa_core::precision::recipe::RecipeName;

/// Flags for the run that the form asks for.
pub(super) fn train_args(form: &Form, recipe: RecipeName) -> Result<TrainArgs> {
    let device = DeviceChoice::from_str(&form.device, true).map_err(|e| anyhow!("device: {e}"))?;
    let step = StepArgs {
        model: Some(form.model.clone()),
        recipe: Some(recipe),
        batch_size: Some(form.batch),
        seq_len: form.is_text().then_some(form.seq_len),
        grad_accum: Some(form.grad_accum),
        ..StepArgs::default()
    };
    let mut args = TrainArgs {
        step,
        data: Some(form.data.clone()),
        device: DeviceArgs { device: Some(device), ..DeviceArgs::default() },
        steps: Some(form.steps),
        seed: Some(form.seed),
        lr: Some(form.lr),
        grad_clip: Some(form.clip),
        stats_every: Some(form.stats_every),
        ..TrainArgs::default()
    };
    if form.is_text() {
        args.sample_every = Some((form.steps / 5).max(1));
    }
    args.eval_every = Some((form.steps / 10).max(1));
    match recipe {
        RecipeName::F16 => {
            args.init_scale = Some(f64::from(form.init_scale_log2).exp2());
            args.growth_interval = Some(form.growth_interval);
        }
        RecipeName::Fp8Delayed => args.amax_history = Some(form.amax_history),
        RecipeName::F32 | RecipeName::Tf32 | RecipeName::Bf16 | RecipeName::Fp8Current | RecipeName::Mxfp8 => {}
    }
    Ok(args)
}

/// Devices that a run can be asked to take.
pub(super) fn devices() -> Vec<String> {
    let names = DeviceChoice::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    names.map(|v| v.get_name().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::model::PRESETS;
    use mantissa_core::precision::clip::Clip;

    #[test]
    fn every_form_is_a_run_that_the_command_line_takes() {
        for model in PRESETS {
            for recipe in RecipeName::ALL {
                let mut form = Form { model: model.into(), ..Form::default() };
                form.take_preset();
                let config = mantissa_app::cli::resolve::resolve(&train_args(&form, recipe).unwrap()).unwrap().config;
                assert_eq!(
                    (config.run.model.as_str(), config.train.recipe.name, config.train.batch),
                    (model, recipe, form.batch)
                );
            }
        }
        let form = Form {
            steps: 7,
            seed: 8,
            lr: 9e-3,
            clip: 0.5,
            grad_accum: 2,
            stats_every: 3,
            init_scale_log2: 20,
            growth_interval: 30,
            amax_history: 40,
            data: "somewhere".into(),
            ..Form::default()
        };
        let config = |recipe| mantissa_app::cli::resolve::resolve(&train_args(&form, recipe).unwrap()).unwrap().config;
        let (f16, fp8) = (config(RecipeName::F16), config(RecipeName::Fp8Delayed));
        assert_eq!((f16.train.schedule.steps, f16.train.schedule.lr, f16.train.seed), (7, 9e-3, 8));
        assert_eq!((f16.train.clip, f16.train.grad_accum), (Some(Clip::Norm(0.5)), 2));
        assert_eq!((f16.run.stats_every, f16.run.data.as_str()), (3, "somewhere"));
        let scaler = f16.train.recipe.scaler.unwrap();
        assert_eq!((scaler.init_scale, scaler.growth_interval), (f64::from(1 << 20), 30));
        assert!(fp8.to_toml().unwrap().contains("amax_history_len = 40"));
        assert!(devices().contains(&Form::default().device));
        let bad = Form { device: "abacus".into(), ..Form::default() };
        assert!(train_args(&bad, RecipeName::F32).is_err());
    }
}

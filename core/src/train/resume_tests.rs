//! A run put back where another was goes on with the same bits: every recipe, with dropout, accumulation and adaptive
//! clipping.

use super::{Session, TrainConfig};
use crate::cpu::CpuBackend;
use crate::data::Batch;
use crate::model::ModelConfig;
use crate::model::gpt::GptConfig;
use crate::optim::OptimConfig;
use crate::optim::schedule::{Decay, Schedule};
use crate::precision::OnNonFinite;
use crate::precision::clip::Clip;
use crate::precision::recipe::{Recipe, RecipeName};
use crate::rng::Rng;
use crate::telemetry::StepReport;
use std::sync::Arc;

const STEPS: u64 = 40;
const BATCH: usize = 2;
const ACCUM: usize = 2;
const CONTEXT: usize = 16;

fn config(recipe: Recipe) -> TrainConfig {
    let gpt = GptConfig { vocab: 64, context: CONTEXT, width: 32, heads: 2, layers: 2, dropout: 0.1, ..GptConfig::tiny() };
    TrainConfig {
        model: ModelConfig::Gpt(gpt),
        recipe,
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 3e-3, min_lr: 3e-4, warmup: 5, steps: STEPS, decay: Decay::Cosine },
        clip: Some(Clip::Adaptive { percentile: 50.0, window: 8, max_norm: 1.0 }),
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch: BATCH,
        grad_accum: ACCUM,
        seed: 11,
    }
}

fn run(session: &mut Session, until: u64) -> Vec<StepReport> {
    (session.steps() + 1..=until)
        .map(|step| {
            let mut rng = Rng::new(3, step as u32);
            let n = BATCH * ACCUM * CONTEXT;
            let tokens: Vec<u32> = (0..2 * n).map(|_| rng.below(64) as u32).collect();
            let (x, targets) = tokens.split_at(n);
            session.step(Batch { x: bytemuck::cast_slice(x), targets: bytemuck::cast_slice(targets) }).unwrap()
        })
        .collect()
}

fn values(session: &Session) -> Vec<(String, Vec<u8>)> {
    session.saved().map(|e| (e.name.clone(), session.read(&e.name).unwrap())).collect()
}

fn borrowed(values: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    values.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect()
}

fn new(config: &TrainConfig) -> Session {
    Session::new(Arc::new(CpuBackend::new()), config.clone()).unwrap()
}

#[test]
fn forty_steps_are_twenty_and_twenty_more() {
    for name in RecipeName::ALL {
        let recipe = match name {
            // A scale that overflows at first and grows soon after, so that every tracker moves.
            RecipeName::F16 => {
                let mut recipe = Recipe::new(name).init_scale(2f64.powi(26));
                recipe.scaler.as_mut().unwrap().growth_interval = 3;
                recipe.scaler.as_mut().unwrap().hysteresis = 2;
                recipe
            }
            RecipeName::Fp8Delayed => Recipe::new(name).amax_history(7),
            RecipeName::F32 | RecipeName::Tf32 | RecipeName::Bf16 | RecipeName::Fp8Current | RecipeName::Mxfp8 => {
                Recipe::new(name)
            }
        };
        let config = config(recipe);
        let mut whole = new(&config);
        let reports = run(&mut whole, STEPS);

        let mut first = new(&config);
        run(&mut first, STEPS / 2);
        let kept = values(&first);
        let mut second = new(&config);
        second.restore(first.steps(), first.skipped(), &borrowed(&kept)).unwrap();
        drop(first);
        // As text, since the norm of an overflowed step may be NaN; Rust prints every bit of a float.
        let (own, expected) = (run(&mut second, STEPS), &reports[STEPS as usize / 2..]);
        assert_eq!(format!("{own:?}"), format!("{expected:?}"), "{name}");
        assert_eq!(values(&second), values(&whole), "{name}");
        assert_eq!((second.steps(), second.skipped()), (whole.steps(), whole.skipped()));
        assert_eq!(whole.skipped() > 0, name == RecipeName::F16, "{name} skipped {}", whole.skipped());
    }
}

#[test]
fn an_incomplete_or_foreign_set_of_values_is_refused_and_changes_nothing() {
    let config = config(Recipe::new(RecipeName::F16));
    let mut session = new(&config);
    run(&mut session, 2);
    let before = values(&session);
    let refused =
        |session: &mut Session, values: &[(String, Vec<u8>)]| session.restore(2, 0, &borrowed(values)).unwrap_err().to_string();
    let mut zeros: Vec<(String, Vec<u8>)> = before.iter().map(|(n, b)| (n.clone(), vec![0; b.len()])).collect();
    let last = zeros.pop().unwrap();
    assert!(refused(&mut session, &zeros).contains(&format!("value `{}`", last.0)));
    zeros.push((last.0.clone(), vec![0; last.1.len() + 4]));
    assert!(refused(&mut session, &zeros).contains("bytes, found"));
    zeros.pop();
    zeros.extend([last.clone(), ("other".to_string(), vec![0; 4])]);
    assert!(refused(&mut session, &zeros).contains("`other`"));
    zeros.pop();
    zeros.push(last);
    assert!(refused(&mut session, &zeros).contains("several"));
    assert!(session.restore(1, 2, &borrowed(&before)).unwrap_err().to_string().contains("skipped steps"));
    assert_eq!(values(&session), before);
}

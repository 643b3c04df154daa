//! Tests of the explanation: sums agree with the Program, casts add up, overrides and scopes show.

use super::*;
use crate::model::ModelConfig;
use crate::optim::OptimConfig;
use crate::optim::schedule::{Decay, Schedule};
use crate::precision::OnNonFinite;
use crate::precision::recipe::{Recipe, RecipeName};

pub(in crate::plan) fn config(preset: &str, recipe: RecipeName) -> TrainConfig {
    let (model, batch) = ModelConfig::preset(preset).unwrap();
    TrainConfig {
        model,
        recipe: Recipe::new(recipe),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-3, min_lr: 1e-4, warmup: 0, steps: 10, decay: Decay::Constant },
        clip: Some(crate::precision::clip::Clip::Norm(1.0)),
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch,
        grad_accum: 1,
        seed: 1,
    }
}

fn sum(counts: &[DTypeCount]) -> u64 {
    counts.iter().map(|c| c.count).sum()
}

#[test]
fn sums_are_those_of_the_program_that_runs() {
    for name in RecipeName::ALL {
        for grad_accum in [1, 3] {
            let config = TrainConfig { grad_accum, ..config("gpt-tiny", name) };
            let program = record::train_step(&config).unwrap();
            let e = explain(&config, None).unwrap();
            let cost = program.step_cost();
            assert_eq!(e.instructions.len(), program.instrs.len(), "{name}");
            assert_eq!(e.totals.flops, cost.flops, "{name}");
            assert_eq!(e.totals.bytes, cost.read_bytes + cost.written_bytes, "{name}");
            assert_eq!(sum(&e.totals.flops_by_compute), cost.flops, "{name}");
            assert_eq!(sum(&e.totals.bytes_by_storage), e.totals.bytes, "{name}");
            assert_eq!(e.memory.iter().map(|p| p.bytes).sum::<usize>(), e.memory_bytes, "{name}");
            assert_eq!(e.casts.inserted, e.casts.shared + e.casts.folded + e.casts.left, "{name}");
        }
    }
}

#[test]
fn recipes_move_flops_and_activations_to_their_dtype() {
    let share = |name, dtype: &str| {
        let e = explain(&config("gpt-tiny", name), None).unwrap();
        let of = e.totals.flops_by_compute.iter().find(|c| c.dtype == dtype).map_or(0, |c| c.count);
        of as f64 / e.totals.flops as f64
    };
    assert!(share(RecipeName::F32, "f32") == 1.0);
    assert!(share(RecipeName::Bf16, "bf16") > 0.9);
    assert!(share(RecipeName::Tf32, "tf32") > 0.7);
    assert!(share(RecipeName::Fp8Delayed, "e4m3") > 0.2 && share(RecipeName::Fp8Delayed, "e5m2") > 0.4);
    let peak = |name| {
        let e = explain(&config("gpt-tiny", name), None).unwrap();
        e.activations.iter().map(|a| a.peak_bytes).sum::<u64>()
    };
    assert!(peak(RecipeName::Bf16) < peak(RecipeName::F32));
    let f32_casts = explain(&config("gpt-tiny", RecipeName::F32), None).unwrap().casts;
    assert_eq!((f32_casts.inserted, f32_casts.quantized), (0, 0), "nothing to cast in f32");
    assert!(explain(&config("gpt-tiny", RecipeName::Mxfp8), None).unwrap().casts.quantized >= 16 * 6);
}

#[test]
fn a_scope_limits_rows_and_an_unknown_one_is_refused() {
    let mut config = config("gpt-tiny", RecipeName::Bf16);
    config.recipe.overrides.push("gpt.head=f32".parse().unwrap());
    let e = explain(&config, Some("gpt.head")).unwrap();
    assert!(!e.instructions.is_empty() && e.instructions.iter().all(|r| r.scope == "gpt.head"));
    assert!(e.instructions.iter().any(|r| r.name == "matmul" && r.compute == "f32"));
    assert!(e.instructions.iter().any(|r| r.by_policy && r.why.contains("override gpt.head: f32")));
    assert!(e.instructions.iter().all(|r| !r.why.is_empty()));
    let error = explain(&config, Some("gpt.haed")).unwrap_err().to_string();
    assert!(error.starts_with("scope: expected") && error.contains("gpt.head"), "{error}");
}

#[test]
fn a_cast_is_called_one_and_the_update_says_what_it_is_for() {
    let e = explain(&config("gpt-tiny", RecipeName::F16), None).unwrap();
    assert!(e.instructions.iter().all(|r| r.op != "map { i0 }"), "a conversion is a cast");
    assert!(e.instructions.iter().any(|r| r.op == "cast" && r.outputs[0].starts_with("f16")));
    let why = |name: &str| e.instructions.iter().find(|r| r.name == name).map(|r| r.why.clone()).unwrap_or_default();
    assert!(why("unscale_check").contains("loss scale") && why("update_loss_scale").contains("overflow"));
    assert!(why("grad_norm").contains("norm of all gradients"));
    let fp8 = explain(&config("gpt-tiny", RecipeName::Fp8Delayed), None).unwrap();
    assert!(fp8.instructions.iter().all(|r| r.name != "reshape" || !r.by_policy), "a reshape decides nothing");
}

//! The policies for a step that is not finite, in every recipe: what stays untouched, what goes on, what ends.

use mantissa_core::cpu::CpuBackend;
use mantissa_core::precision::{OnNonFinite, Recipe, RecipeName};
use mantissa_core::rng::Rng;
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::{Session, TrainConfig, session::Batch};
use mantissa_tests::tiny;
use std::sync::Arc;

/// Steps whose inputs hold a NaN.
const BAD: [u64; 2] = [3, 4];
const STEPS: u64 = 6;

fn config(recipe: Recipe, on_nonfinite: OnNonFinite, grad_accum: usize) -> TrainConfig {
    TrainConfig { on_nonfinite, grad_accum, ..tiny::mlp(recipe) }
}

/// Runs [`STEPS`] steps; their reports, and weights and optimizer states after each.
fn run(config: &TrainConfig, bad: &[u64]) -> (Vec<StepReport>, Vec<Vec<Vec<u8>>>) {
    let mut session = Session::new(Arc::new(CpuBackend::new()), config.clone()).expect("a valid run");
    let rows = config.batch * config.grad_accum;
    let kept = |s: &Session| -> Vec<Vec<u8>> {
        let weights_and_moments = s.saved().filter(|e| e.name.starts_with("optim.") || e.name.starts_with("mlp."));
        weights_and_moments.map(|e| s.read(&e.name).expect("bytes")).collect()
    };
    let mut after = vec![kept(&session)];
    let mut reports = Vec::new();
    for step in 1..=STEPS {
        let mut rng = Rng::new(9, step as u32);
        let mut x: Vec<f32> = (0..rows * 32).map(|_| rng.normal()).collect();
        let targets: Vec<u32> = (0..rows).map(|_| rng.below(32) as u32).collect();
        if bad.contains(&step) {
            x[5] = f32::NAN;
        }
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) };
        reports.push(session.step(batch).expect("runs"));
        after.push(kept(&session));
    }
    (reports, after)
}

#[test]
fn a_skipped_step_touches_neither_weights_nor_moments_in_any_recipe() {
    for name in RecipeName::ALL {
        for grad_accum in [1, 2] {
            let (reports, after) = run(&config(Recipe::new(name), OnNonFinite::Skip, grad_accum), &BAD);
            assert!(after[0].len() >= 12, "weights, both moments of each, the step counter");
            for (r, around) in reports.iter().zip(after.windows(2)) {
                let bad = BAD.contains(&r.step);
                assert_eq!((r.skipped, r.found_inf, r.loss.is_finite()), (bad, bad, !bad), "{name} {r:?}");
                assert_eq!(around[0] == around[1], bad, "{name}, step {}", r.step);
            }
            assert_eq!(reports[STEPS as usize - 1].skipped_total, BAD.len() as u64, "{name}");
        }
    }
}

#[test]
fn a_guard_changes_no_bit_of_a_finite_run() {
    for name in RecipeName::ALL {
        let with = |policy| format!("{:?}", run(&config(Recipe::new(name), policy, 2), &[]));
        let skip = with(OnNonFinite::Skip);
        assert_eq!(skip, with(OnNonFinite::Ignore), "{name}");
        assert_eq!(skip, with(OnNonFinite::Stop), "{name}");
    }
}

#[test]
fn ignoring_applies_the_update_unless_a_scaler_skips_it() {
    for name in RecipeName::ALL {
        let recipe = Recipe::new(name);
        let scaled = recipe.scaler.is_some();
        let (reports, after) = run(&config(recipe, OnNonFinite::Ignore, 1), &BAD);
        let r = &reports[BAD[0] as usize - 1];
        assert_eq!((r.skipped, r.found_inf), (scaled, true), "{name}");
        assert_eq!(after[2] == after[3], scaled, "{name}");
        assert_eq!(reports[STEPS as usize - 1].loss.is_finite(), scaled, "{name}: NaN weights give NaN losses");
    }
}

#[test]
fn stopping_waits_for_what_a_lower_scale_may_mend() {
    for name in RecipeName::ALL {
        let config = config(Recipe::new(name), OnNonFinite::Stop, 1);
        let (reports, _) = run(&config, &BAD);
        let ends: Vec<u64> = reports.iter().filter(|r| config.ends_at(r)).map(|r| r.step).collect();
        assert_eq!(ends, BAD, "{name}");
        let going_on = TrainConfig { on_nonfinite: OnNonFinite::Skip, ..config };
        assert!(!reports.iter().any(|r| going_on.ends_at(r)), "{name}");
    }
    // A search for the first scale: skipped steps with a finite loss.
    let search = |min_scale: f64| {
        let mut recipe = Recipe::new(RecipeName::F16).init_scale(2f64.powi(40));
        recipe.scaler.as_mut().expect("f16 has one").min_scale = min_scale;
        let config = config(recipe, OnNonFinite::Stop, 1);
        let (reports, _) = run(&config, &[]);
        (reports[0].skipped, config.ends_at(&reports[0]))
    };
    assert_eq!(search(1.0), (true, false));
    assert_eq!(search(2f64.powi(40)), (true, true), "at its floor the scale goes no lower");
}

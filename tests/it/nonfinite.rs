//! The policies for a step that is not finite, in every recipe: what stays untouched, what goes on, what ends.

use mantissa_core::backend::Backend;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::op::update::NormType;
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::clip::grad_norm;
use mantissa_core::precision::{GradScaler, OnNonFinite, Recipe, RecipeName, fp8};
use mantissa_core::program::{Init, Program, Rate};
use mantissa_core::rng::Rng;
use mantissa_core::shape::Ty;
use mantissa_core::telemetry::StepReport;
use mantissa_core::trace::Graph;
use mantissa_core::train::{Session, TrainConfig};
use mantissa_core::{DType, Result};
use mantissa_tests::devices;
use mantissa_tests::machine::Machine;
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

/// What a run reports of its steps with an infinite input in micro-step `at` of steps 2 and 4, and its weights after
/// each.
fn with_infinite_operands(backend: &Arc<dyn Backend>, config: &TrainConfig, at: usize) -> (Vec<StepReport>, Vec<Vec<u8>>) {
    let mut session = Session::new(backend.clone(), config.clone()).expect("a valid run");
    let rows = config.batch * config.grad_accum;
    let (mut reports, mut weights) = (Vec::new(), vec![session.read("mlp.fc1.weight").expect("bytes")]);
    for step in 1..=5 {
        let mut rng = Rng::new(9, step);
        let mut x: Vec<f32> = (0..rows * 32).map(|_| rng.normal()).collect();
        let targets: Vec<u32> = (0..rows).map(|_| rng.below(32) as u32).collect();
        if step % 2 == 0 {
            x[at * config.batch * 32 + 7] = if step == 2 { f32::INFINITY } else { f32::NEG_INFINITY };
        }
        reports
            .push(session.step(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) }).expect("runs"));
        weights.push(session.read("mlp.fc1.weight").expect("bytes"));
    }
    (reports, weights)
}

fn fp8_recipes() -> Vec<Recipe> {
    let plain = [RecipeName::Fp8Delayed, RecipeName::Fp8Current, RecipeName::Mxfp8].map(Recipe::new);
    // With a loss scaler too, which finds nothing: the gradients behind the cast are finite.
    let scaled = Recipe { low: Some(DType::F16), ..Recipe::new(RecipeName::Fp8Current) }.init_scale(64.0);
    plain.into_iter().chain([scaled]).collect()
}

#[test]
fn an_infinite_fp8_operand_makes_the_step_non_finite_on_every_device() {
    for recipe in fp8_recipes() {
        for (grad_accum, at) in [(1, 0), (3, 0), (3, 2)] {
            for policy in [OnNonFinite::Skip, OnNonFinite::Stop] {
                let config = config(recipe.clone(), policy, grad_accum);
                let mut told = Vec::new();
                for backend in [devices::cpu()].into_iter().chain(devices::wgpu()) {
                    let (reports, weights) = with_infinite_operands(&backend, &config, at);
                    for (r, around) in reports.iter().zip(weights.windows(2)) {
                        let bad = r.step % 2 == 0;
                        assert_eq!((r.skipped, r.found_inf), (bad, bad), "{} {grad_accum} {at}: {r:?}", recipe.label());
                        assert_eq!(around[0] == around[1], bad, "{}, step {}", recipe.label(), r.step);
                        assert_eq!(config.ends_at(r), bad && policy == OnNonFinite::Stop && r.loss_scale.is_none(), "{r:?}");
                    }
                    let exact = |r: &StepReport| {
                        let count = r.fp8.as_ref().map(|f| f.nonfinite);
                        (r.skipped, r.found_inf, r.skipped_total, r.loss_scale, r.growth_tracker, count)
                    };
                    told.push(reports.iter().map(exact).collect::<Vec<_>>());
                }
                assert!(told.windows(2).all(|t| t[0] == t[1]), "{}: {told:?}", recipe.label());
            }
        }
    }
}

#[test]
fn ignoring_keeps_the_saturated_values() {
    for recipe in fp8_recipes() {
        let blocks = recipe.name == RecipeName::Mxfp8;
        let (reports, weights) = with_infinite_operands(&devices::cpu(), &config(recipe.clone(), OnNonFinite::Ignore, 1), 0);
        let r = &reports[1];
        assert_eq!(r.fp8.as_ref().map(|f| f.nonfinite > 0.0), Some(true), "{}: counted", recipe.label());
        // The largest value of a block is its scale times 448, and that scale is as large as any.
        if !blocks {
            assert_eq!((r.skipped, r.found_inf, r.loss.is_finite()), (false, false, true), "{}: {r:?}", recipe.label());
            assert_ne!(weights[1], weights[2], "{}: applied", recipe.label());
        }
    }
}

#[test]
fn an_infinite_output_gradient_is_found_behind_its_fp8_cast() {
    for name in [RecipeName::Fp8Delayed, RecipeName::Fp8Current, RecipeName::Mxfp8] {
        let record = || -> Result<Program> {
            let recipe = Recipe::new(name);
            let g = Graph::new("dy", true);
            let mut scaler = GradScaler::new(&g, None)?;
            let w = g.param("w", [32, 32], Init::Fill(0.5));
            let input = |name: &str| g.input(name, Ty::new(DType::F32, [32, 32]), Rate::MicroStep);
            let (x, dy) = (input("x"), input("dy"));
            let y = g.autocast(recipe.region(), || x.linear(w, None));
            let mut optim = Optim::new("optim", OptimConfig::sgd(0.0), vec![w])?;
            optim.set_grads(g.grad_from(&[(y, dy.cast(y.dtype()))], &[w]));
            fp8::finish(&g, recipe.fp8.as_ref().expect("an fp8 recipe"));
            let count = fp8::nonfinite(&g);
            g.begin_update();
            scaler.unscale(&mut optim)?;
            let norm = grad_norm(&scaler, &optim, NormType::L2)?;
            scaler.guard(&optim, norm, norm, count)?;
            g.output("found", scaler.found_inf(&optim).expect("guarded"));
            g.output("norm", norm);
            scaler.step(&mut optim)?;
            scaler.update()?;
            g.finish()
        };
        for backend in [devices::cpu()].into_iter().chain(devices::wgpu()) {
            let mut m = Machine::new(&*backend, record().expect("records")).expect("compiles");
            let mut step = |bad: Option<f32>| {
                let (x, mut dy) = (vec![0.5f32; 1024], vec![0.25f32; 1024]);
                dy[77] = bad.unwrap_or(dy[77]);
                let lr = 0.1f32;
                let inputs: [(&str, &[u8]); 3] =
                    [("x", bytemuck::cast_slice(&x)), ("dy", bytemuck::cast_slice(&dy)), ("optim.lr", bytemuck::bytes_of(&lr))];
                m.step(&inputs).expect("runs");
                (m.f32s("found").expect("an output")[0], m.f32s("norm").expect("an output")[0].is_finite())
            };
            assert_eq!(step(None), (0.0, true), "{name}");
            let (found, finite) = step(Some(f32::INFINITY));
            assert_eq!(
                (found, finite || name == RecipeName::Mxfp8),
                (1.0, true),
                "{name}: finite gradients, a non-finite operand"
            );
            assert_eq!(step(Some(f32::NAN)).0, 1.0, "{name}");
            assert_eq!(step(None), (0.0, true), "{name}: the next step knows nothing of it");
        }
    }
}

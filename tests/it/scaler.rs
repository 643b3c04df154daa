//! `GradScaler` in recorded steps: the traces of PyTorch 2.15 (docs/precision.md 2.4, 2.5 and 3.3), the deliberate
//! differences from it, misuse.

use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::op::update::NormType;
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::clip::{Clip, clip_grads, grad_norm};
use mantissa_core::precision::scaler::{
    GROWTH_TRACKER, GradScaler, HYSTERESIS, LEAST_SCALE, LOSS_SCALE, ScalerConfig, ScalerState,
};
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::program::memory::Purpose;
use mantissa_core::program::{Init, Program, Rate};
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use mantissa_core::train::Session;
use mantissa_core::{DType, Error, Result};
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::machine::Machine;
use mantissa_tests::tiny;
use std::sync::Arc;

const SGD: OptimConfig = OptimConfig::sgd(0.0);

fn config(init_scale: f64, growth_interval: u32) -> ScalerConfig {
    ScalerConfig { init_scale, growth_interval, ..ScalerConfig::default() }
}

/// A parameter `name` of `n` elements and its loss `sum(p * input)`, so that its gradient is that input.
fn linear_loss<'g>(g: &'g Graph, name: &str, n: usize, init: f64) -> (Var<'g>, Var<'g>) {
    let p = g.param(name, [n], Init::Fill(init));
    let grad = g.input(&format!("grad.{name}"), Ty::new(DType::F32, [n]), Rate::MicroStep);
    (p, (p * grad).sum_all())
}

/// One parameter `p` with a chosen gradient, scaled, unscaled, clipped, stepped, updated.
fn one_parameter(scaler: ScalerConfig, optim: OptimConfig, n: usize, init: f64, clip: Option<Clip>) -> Result<Program> {
    let g = Graph::new("one parameter", true);
    record_one(&g, scaler, optim, n, init, clip)?;
    g.finish()
}

fn record_one(g: &Graph, scaler: ScalerConfig, optim: OptimConfig, n: usize, init: f64, clip: Option<Clip>) -> Result<()> {
    let mut scaler = GradScaler::new(g, Some(scaler))?;
    let (p, loss) = linear_loss(g, "p", n, init);
    let mut optim = Optim::new("optim", optim, vec![p])?;
    optim.backward(scaler.scale(loss));
    update(g, &mut scaler, optim, clip)
}

/// The part of a step behind the gradients: unscaled, their norm as an output, clipped, stepped, the loss scale
/// updated.
pub(super) fn update<'g>(g: &'g Graph, scaler: &mut GradScaler<'g>, mut optim: Optim<'g>, clip: Option<Clip>) -> Result<()> {
    g.begin_update();
    scaler.unscale(&mut optim)?;
    let norm = match clip {
        Some(clip) => clip_grads(scaler, &mut optim, clip)?,
        None => grad_norm(scaler, &optim, NormType::L2)?,
    };
    g.output("norm", norm);
    scaler.step(&mut optim)?;
    scaler.update()
}

fn machine(program: Result<Program>) -> Machine {
    Machine::new(&CpuBackend::new(), program.expect("a valid step")).expect("compiles")
}

fn step(m: &mut Machine, grad: &[f32], lr: f32) -> (Vec<f32>, f32, i32) {
    let inputs: [(&str, &[u8]); 2] = [("grad.p", bytemuck::cast_slice(grad)), ("optim.lr", bytemuck::bytes_of(&lr))];
    m.step(&inputs).expect("runs");
    (m.f32s("p").expect("a parameter"), scale_of(m), tracker_of(m))
}

fn scale_of(m: &Machine) -> f32 {
    m.f32s(LOSS_SCALE).expect("a state")[0]
}

fn tracker_of(m: &Machine) -> i32 {
    m.u32s(GROWTH_TRACKER).expect("a state")[0] as i32
}

/// Runs one gradient after the other and compares `(p, scale, tracker)` after each.
fn trace(scaler: ScalerConfig, grads: &[f32], want: &[(f32, f32, i32)]) {
    let mut m = machine(one_parameter(scaler, SGD, 1, 1.0, None));
    for (i, (&grad, &(p, scale, tracker))) in grads.iter().zip(want).enumerate() {
        let (got_p, got_scale, got_tracker) = step(&mut m, &[grad], 0.1);
        assert!((got_p[0] - p).abs() <= 2e-7, "step {i}: p {} not {p}", got_p[0]);
        assert_eq!((got_scale, got_tracker), (scale, tracker), "step {i}");
    }
}

#[test]
fn growth_and_backoff() {
    let inf = f32::INFINITY;
    let want = [
        (0.9, 1024.0, 1),
        (0.8, 1024.0, 2),
        (0.7, 2048.0, 0),
        (0.6, 2048.0, 1),
        (0.6, 1024.0, 0),
        (0.5, 1024.0, 1),
        (0.4, 1024.0, 2),
    ];
    trace(config(1024.0, 3), &[1.0, 1.0, 1.0, 1.0, inf, 1.0, 1.0], &want);
}

#[test]
fn other_factors_inf_and_nan() {
    let scaler = ScalerConfig { growth_factor: 4.0, backoff_factor: 0.25, ..config(8.0, 2) };
    let want = [(1.0, 2.0, 0), (1.0, 0.5, 0), (1.0, 0.125, 0), (0.9, 0.125, 1), (0.8, 0.5, 0)];
    trace(scaler, &[f32::INFINITY, f32::NAN, f32::INFINITY, 1.0, 1.0], &want);
}

#[test]
fn two_optimizers_step_on_their_own_gradients_and_share_the_scale() {
    let record = || -> Result<Program> {
        let g = Graph::new("two optimizers", true);
        let mut scaler = GradScaler::new(&g, Some(config(16.0, 2000)))?;
        let ((a, loss_a), (b, loss_b)) = (linear_loss(&g, "a", 1, 1.0), linear_loss(&g, "b", 1, 1.0));
        let mut first = Optim::new("first", SGD, vec![a])?;
        let mut second = Optim::new("second", SGD, vec![b])?;
        first.backward(scaler.scale(loss_a));
        second.backward(scaler.scale(loss_b));
        g.begin_update();
        scaler.step(&mut first)?;
        scaler.step(&mut second)?;
        scaler.update()?;
        g.finish()
    };
    let mut m = machine(record());
    let run = |m: &mut Machine, a: f32, b: f32| {
        let lr = 0.1f32;
        let inputs = [("grad.a", a), ("grad.b", b), ("first.lr", lr), ("second.lr", lr)];
        let bytes: Vec<(&str, [u8; 4])> = inputs.iter().map(|(n, v)| (*n, v.to_ne_bytes())).collect();
        m.step(&bytes.iter().map(|(n, b)| (*n, &b[..])).collect::<Vec<_>>()).expect("runs");
        (m.f32s("a").expect("a")[0], m.f32s("b").expect("b")[0], scale_of(m))
    };
    let (a, b, scale) = run(&mut m, 1.0, f32::INFINITY);
    assert!((a - 0.9).abs() <= 1e-7);
    assert_eq!((b, scale), (1.0, 8.0));
    let (a, b, scale) = run(&mut m, f32::NAN, 1.0);
    assert!((a - 0.9).abs() <= 1e-7 && (b - 0.9).abs() <= 1e-7);
    assert_eq!(scale, 4.0);
    assert_eq!((m.u32s("first.step").expect("a counter"), m.u32s("second.step").expect("a counter")), (vec![1], vec![1]));
}

#[test]
fn clip_of_an_infinite_gradient_skips_the_step() {
    let mut m = machine(one_parameter(config(16.0, 2000), SGD, 2, 1.0, Some(Clip::Norm(1.0))));
    let (p, scale, tracker) = step(&mut m, &[f32::INFINITY, 1.0], 0.1);
    assert_eq!(m.f32s("norm").expect("an output"), [f32::INFINITY]);
    assert_eq!((p, scale, tracker), (vec![1.0, 1.0], 8.0, 0));
}

#[test]
fn clip_sees_unscaled_gradients() {
    let mut m = machine(one_parameter(config(16.0, 2000), SGD, 2, 0.0, Some(Clip::Norm(1.0))));
    let (p, _, _) = step(&mut m, &[3.0, 4.0], 1.0);
    assert_eq!(m.f32s("norm").expect("an output"), [5.0]);
    // 3 and 4 times 1 / (5 + 1e-6): the bits of docs/precision.md 3.1.
    assert_eq!([p[0].to_bits(), p[1].to_bits()], [0xbf19_9998, 0xbf4c_ccca]);
}

#[test]
fn without_a_floor_the_scale_stops_where_its_inverse_is_finite() {
    let mut m = machine(one_parameter(ScalerConfig { min_scale: 0.0, ..config(1.0, 2000) }, SGD, 1, 1.0, None));
    for i in 1..=150 {
        let (p, scale, _) = step(&mut m, &[f32::INFINITY], 0.1);
        assert_eq!(p, [1.0]);
        assert_eq!(scale, 2f32.powi(-i).max(LEAST_SCALE), "after {i} updates");
    }
    // PyTorch has reached 0 here and applies NaN: 0 * (1 / 0).
    let (p, scale, tracker) = step(&mut m, &[1.0], 0.1);
    assert_eq!((scale, tracker), (LEAST_SCALE, 1));
    assert!((p[0] - 0.9).abs() <= 1e-6, "training goes on: {p:?}");
}

#[test]
fn the_floor_ends_the_death_spiral() {
    let mut m = machine(one_parameter(config(1.0, 2000), SGD, 1, 1.0, None));
    let scales: Vec<f32> = (0..20).map(|_| step(&mut m, &[f32::INFINITY], 0.1).1).collect();
    assert_eq!(scales[12], 2.0f32.powi(-13));
    assert!(scales[13..].iter().all(|&s| s == 2.0f32.powi(-14)), "{scales:?}");
    let (p, ..) = step(&mut m, &[1.0], 0.1);
    assert!((p[0] - 0.9).abs() <= 1e-6, "training goes on from the floor: {p:?}");
}

#[test]
fn an_overflow_in_the_unscale_itself_is_found() {
    let record = || -> Result<Program> {
        let g = Graph::new("two uses", true);
        let mut scaler = GradScaler::new(&g, Some(ScalerConfig { min_scale: 0.0, ..config(0.25, 2000) }))?;
        let (p, loss) = linear_loss(&g, "p", 1, 1.0);
        let mut optim = Optim::new("optim", SGD, vec![p])?;
        optim.backward(scaler.scale(loss + loss));
        g.begin_update();
        scaler.step(&mut optim)?;
        scaler.update()?;
        g.finish()
    };
    // Scaled: 2 * 0.75e38, finite. Unscaled: 6e38, not an f32.
    let (p, scale, _) = step(&mut machine(record()), &[3e38], 0.1);
    assert_eq!((p, scale), (vec![1.0], 0.125));
}

#[test]
fn growth_to_infinity_is_refused() {
    let top = 2.0f64.powi(127);
    let mut m = machine(one_parameter(config(top, 2), SGD, 1, 1.0, None));
    assert_eq!(step(&mut m, &[0.5], 0.0), (vec![1.0], top as f32, 1));
    assert_eq!(step(&mut m, &[0.5], 0.0), (vec![1.0], top as f32, 0));
}

#[test]
fn hysteresis_forgives_the_first_overflows() {
    let mut m = machine(one_parameter(ScalerConfig { hysteresis: 2, ..config(64.0, 2000) }, SGD, 1, 1.0, None));
    let inf = f32::INFINITY;
    let scales: Vec<f32> = [inf, 1.0, inf, inf, inf].iter().map(|&g| step(&mut m, &[g], 0.1).1).collect();
    assert_eq!(scales, [64.0, 64.0, 64.0, 32.0, 16.0]);
}

#[test]
fn set_changes_the_scale_and_leaves_the_tracker() {
    let backend = CpuBackend::new();
    let mut train = machine(one_parameter(config(16.0, 2000), SGD, 1, 1.0, None));
    step(&mut train, &[1.0], 0.1);
    step(&mut train, &[1.0], 0.1);
    let record = || -> Result<Program> {
        let g = Graph::new("set", true);
        let mut scaler = GradScaler::new(&g, Some(config(16.0, 2000)))?;
        scaler.set(3.0)?;
        g.finish()
    };
    let mut set = Machine::over(&backend, record().expect("valid"), train.memory.clone()).expect("compiles");
    set.step(&[]).expect("runs");
    assert_eq!((scale_of(&train), tracker_of(&train)), (3.0, 2));
    // 1 / 3 is not exact: the next step divides by the new scale all the same.
    let before = train.f32s("p").expect("a parameter")[0];
    let (p, ..) = step(&mut train, &[1.0], 0.1);
    assert!((before - p[0] - 0.1).abs() <= 1e-6);
    for bad in [0.0, -1.0, f64::NAN, 1e39] {
        let g = Graph::new("set", true);
        let error = GradScaler::new(&g, Some(config(16.0, 2000))).expect("valid").set(bad).expect_err("refused").to_string();
        assert!(error.starts_with("scaler.init_scale: expected a positive finite f32"), "{error}");
    }
}

#[test]
fn a_skipped_step_leaves_every_bit() {
    let optims = [OptimConfig::adamw(), OptimConfig::adam(), OptimConfig::sgd(0.9), SGD];
    let clips = [
        None,
        Some(Clip::Norm(1.0)),
        Some(Clip::Value(0.5)),
        Some(Clip::Adaptive { percentile: 50.0, window: 4, max_norm: 1.0 }),
    ];
    for optim in optims {
        for clip in clips {
            let mut m = machine(one_parameter(config(16.0, 2000), optim, 3, 1.0, clip));
            step(&mut m, &[0.5, -1.0, 2.0], 0.1);
            let kept = |m: &Machine| -> Vec<(String, Vec<u8>)> {
                let layout = m.memory.layout().clone();
                let of = |name: &str| layout.find(name).expect("an entry").purpose;
                let keep = |(name, _): &(String, Vec<u8>)| matches!(of(name), Purpose::Weights | Purpose::Optimizer);
                m.snapshot().expect("reads").into_iter().filter(keep).collect()
            };
            let before = kept(&m);
            assert!(before.len() >= 2, "parameter and step counter");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                step(&mut m, &[1.0, bad, 1.0], 0.1);
                assert_eq!(kept(&m), before, "{optim:?} {clip:?} {bad}");
            }
            step(&mut m, &[0.5, -1.0, 2.0], 0.1);
            assert_ne!(kept(&m), before, "a good step moves on");
        }
    }
}

/// Records what `f` does between backward and the end, and returns its error as text.
fn misuse(enabled: bool, f: impl for<'g> Fn(&mut GradScaler<'g>, &mut Optim<'g>) -> Result<()>) -> String {
    let g = Graph::new("misuse", true);
    let mut scaler = GradScaler::new(&g, enabled.then(ScalerConfig::default)).expect("valid");
    let (p, loss) = linear_loss(&g, "p", 1, 1.0);
    let mut optim = Optim::new("optim", SGD, vec![p]).expect("valid");
    optim.backward(scaler.scale(loss));
    g.begin_update();
    let error = f(&mut scaler, &mut optim).expect_err("misuse");
    assert!(matches!(error, Error::Misuse { .. }), "{error}");
    without_place(&error.to_string())
}

/// An error of misuse without the line of this file that it names.
fn without_place(error: &str) -> String {
    let (text, _) = error.split_once(" (in tests/it/scaler.rs:").expect("the line of the call");
    text.to_string()
}

#[test]
fn misuse_is_a_typed_error_that_says_what_to_do() {
    for enabled in [true, false] {
        let twice = misuse(enabled, |s, o| s.unscale(o).and_then(|()| s.unscale(o)));
        assert_eq!(twice, "unscale: it was called for this optimizer since the last update; call it once a step");
        let late = misuse(enabled, |s, o| s.step(o).and_then(|()| s.unscale(o)));
        assert_eq!(late, "unscale: the optimizer has already stepped; unscale before step, clip in between");
        let twice = misuse(enabled, |s, o| s.step(o).and_then(|()| s.step(o)));
        assert_eq!(twice, "step: it was called for this optimizer since the last update; call update once a step");
        let late = misuse(enabled, |s, o| s.step(o).and_then(|()| clip_grads(s, o, Clip::Norm(1.0)).map(|_| ())));
        assert_eq!(late, "clip: the optimizer has already stepped; clip between unscale and step");
    }
    let unchecked = misuse(true, |s, _| s.update());
    assert_eq!(unchecked, "update: no gradient was checked since the last update; call step or unscale before update");
    let again = misuse(true, |s, o| s.step(o).and_then(|()| s.update()).and_then(|()| s.update()));
    assert_eq!(again, "update: no gradient was checked since the last update; call step or unscale before update");
    let scaled = misuse(true, |s, o| clip_grads(s, o, Clip::Norm(1.0)).map(|_| ()));
    assert_eq!(scaled, "clip: the gradients still carry the loss scale; call unscale first");
    let again = misuse(true, |s, o| s.step(o).and_then(|()| s.update()).and_then(|()| s.step(o)));
    assert_eq!(again, "optimizer: it has no gradients; call backward before unscale, clip and step");
}

#[test]
fn a_step_without_backward_is_refused() {
    for enabled in [true, false] {
        let g = Graph::new("no backward", true);
        let mut scaler = GradScaler::new(&g, enabled.then(ScalerConfig::default)).expect("valid");
        let (p, _) = linear_loss(&g, "p", 1, 1.0);
        let mut optim = Optim::new("optim", SGD, vec![p]).expect("valid");
        let error = without_place(&scaler.step(&mut optim).expect_err("no gradients").to_string());
        assert_eq!(error, "optimizer: it has no gradients; call backward before unscale, clip and step");
    }
}

#[test]
fn constructor_arguments_are_checked() {
    let good = ScalerConfig::default();
    let bad = [
        (ScalerConfig { init_scale: 0.0, ..good }, "scaler.init_scale"),
        (ScalerConfig { init_scale: f64::INFINITY, ..good }, "scaler.init_scale"),
        // 1 / scale is not an f32.
        (ScalerConfig { init_scale: 1e-39, min_scale: 0.0, ..good }, "scaler.init_scale"),
        (ScalerConfig { init_scale: 1e-50, min_scale: 0.0, ..good }, "scaler.init_scale"),
        (ScalerConfig { min_scale: 1e-39, ..good }, "scaler.min_scale"),
        (ScalerConfig { min_scale: 1e-50, ..good }, "scaler.min_scale"),
        (ScalerConfig { growth_factor: 1.0, ..good }, "scaler.growth_factor"),
        (ScalerConfig { growth_factor: f64::NAN, ..good }, "scaler.growth_factor"),
        (ScalerConfig { backoff_factor: 1.0, ..good }, "scaler.backoff_factor"),
        (ScalerConfig { backoff_factor: 0.0, ..good }, "scaler.backoff_factor"),
        (ScalerConfig { backoff_factor: -0.5, ..good }, "scaler.backoff_factor"),
        (ScalerConfig { min_scale: 1e6, ..good }, "scaler.min_scale"),
        (ScalerConfig { min_scale: -1.0, ..good }, "scaler.min_scale"),
        (ScalerConfig { growth_interval: u32::MAX, ..good }, "scaler.growth_interval"),
        (ScalerConfig { hysteresis: 0, ..good }, "scaler.hysteresis"),
    ];
    for (config, name) in bad {
        let g = Graph::new("bad", true);
        let error = GradScaler::new(&g, Some(config)).expect_err("refused").to_string();
        assert!(error.starts_with(name) && error.contains("expected") && error.contains("got"), "{error}");
    }
}

fn session(config: mantissa_core::train::TrainConfig) -> Session {
    Session::new(Arc::new(CpuBackend::new()), config).expect("a valid run")
}

fn f16_mlp(init_scale: f64, grad_accum: usize, batch: usize, optim: OptimConfig) -> Session {
    let recipe = Recipe::new(RecipeName::F16).init_scale(init_scale);
    session(mantissa_core::train::TrainConfig { grad_accum, batch, optim, clip: None, ..tiny::mlp(recipe) })
}

fn batch(n: usize, stream: u32) -> (Vec<f32>, Vec<u32>) {
    (normal(n * 32, 1.0, stream), (0..n as u32).map(|i| (i * 7 + stream) % 32).collect())
}

fn run(s: &mut Session, (x, targets): &(Vec<f32>, Vec<u32>)) -> mantissa_core::telemetry::StepReport {
    s.step(Batch { x: bytemuck::cast_slice(x), targets: bytemuck::cast_slice(targets) }).expect("runs")
}

#[test]
fn four_micro_steps_equal_one_large_batch() {
    for (name, tolerance) in [(RecipeName::F32, 2e-6f32), (RecipeName::F16, 2e-4)] {
        let config = |grad_accum, batch| mantissa_core::train::TrainConfig {
            grad_accum,
            batch,
            optim: SGD,
            clip: None,
            ..tiny::mlp(Recipe::new(name))
        };
        let (mut whole, mut parts) = (session(config(1, 64)), session(config(4, 16)));
        for step in 0..3 {
            let data = batch(64, step);
            let (a, b) = (run(&mut whole, &data), run(&mut parts, &data));
            assert!((a.loss - b.loss).abs() <= tolerance * 10.0, "{name}: loss {} and {}", a.loss, b.loss);
            assert!(
                (a.grad_norm - b.grad_norm).abs() <= tolerance * 10.0 * a.grad_norm,
                "{name}: norm {} and {}",
                a.grad_norm,
                b.grad_norm
            );
            assert_eq!(a.loss_scale, b.loss_scale);
        }
        for weight in ["mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"] {
            let (a, b) = (whole.read_f32(weight).expect("a weight"), parts.read_f32(weight).expect("a weight"));
            let off = a.iter().zip(&b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(off <= tolerance, "{name} {weight}: {off}");
        }
    }
}

#[test]
fn the_scale_is_constant_over_the_micro_steps() {
    let mut s = f16_mlp(1024.0, 4, 16, OptimConfig::adamw());
    let program = s.program();
    let scale = program.find(LOSS_SCALE).expect("a state");
    let writers: Vec<usize> = (0..program.instrs.len()).filter(|&i| program.instrs[i].outputs.contains(&scale)).collect();
    assert!(!writers.is_empty() && writers.iter().all(|&i| i >= program.micro_end), "{writers:?} of {}", program.micro_end);
    // An overflow in one micro-step of four skips the whole step and backs off once.
    let weights = |s: &Session| s.read_f32("mlp.fc1.weight").expect("a weight");
    let before = weights(&s);
    let (mut x, targets) = batch(64, 0);
    x[20 * 32] = f32::INFINITY;
    let report = run(&mut s, &(x, targets));
    assert!(report.skipped && report.found_inf && report.skipped_total == 1);
    assert_eq!(weights(&s), before);
    assert_eq!(s.scaler_state().expect("reads").expect("a scaler").scale, 512.0);
    // The sums of the skipped step do not leak into the next one.
    let report = run(&mut s, &batch(64, 1));
    assert!(!report.skipped && report.grad_norm.is_finite() && report.loss.is_finite(), "{report:?}");
    assert_ne!(weights(&s), before);
}

#[test]
fn the_state_dict_round_trips_and_bad_ones_are_refused() {
    let mut s = f16_mlp(1024.0, 1, 32, OptimConfig::adamw());
    for i in 0..3 {
        run(&mut s, &batch(32, i));
    }
    let state = s.scaler_state().expect("reads").expect("a scaler");
    assert_eq!((state.scale, state.growth_tracker), (1024.0, 3));
    let json = serde_json::to_string(&state).expect("serializes");
    for key in ["\"scale\"", "\"growth_factor\"", "\"backoff_factor\"", "\"growth_interval\"", "\"_growth_tracker\""] {
        assert!(json.contains(key), "{json}");
    }
    assert_eq!(serde_json::from_str::<ScalerState>(&json).expect("its own text"), state);
    let mut fresh = f16_mlp(1024.0, 1, 32, OptimConfig::adamw());
    let changed = ScalerState { scale: 96.0, growth_tracker: 7, ..state };
    fresh.load_scaler_state(&changed).expect("valid");
    assert_eq!(fresh.scaler_state().expect("reads"), Some(changed));

    let bad = [
        ScalerState { scale: 0.0, ..state },
        ScalerState { scale: f32::NAN, ..state },
        ScalerState { scale: -4.0, ..state },
        ScalerState { scale: f32::INFINITY, ..state },
        ScalerState { growth_tracker: -1, ..state },
        ScalerState { scale: 1e-39, ..state },
        ScalerState { growth_factor: 1.0, ..state },
        ScalerState { backoff_factor: 2.0, ..state },
        ScalerState { growth_interval: u32::MAX, ..state },
    ];
    for state in bad {
        let error = fresh.load_scaler_state(&state).expect_err("refused").to_string();
        assert!(error.contains("expected") && error.contains("got"), "{error}");
        assert_eq!(fresh.scaler_state().expect("reads"), Some(changed), "nothing is half loaded");
    }
    for text in ["{}", "{\"scale\": 1.0}", &json.replace("growth_factor", "growth"), &json.replace('{', "{\"more\": 1, ")] {
        assert!(serde_json::from_str::<ScalerState>(text).is_err(), "{text}");
    }
    let mut f32_run = session(tiny::mlp(Recipe::new(RecipeName::F32)));
    assert_eq!(f32_run.scaler_state().expect("reads"), None);
    assert!(f32_run.load_scaler_state(&changed).expect_err("no scaler").to_string().contains("a recipe with a loss scaler"));
}

#[test]
fn a_state_dict_brings_its_factors_along() {
    // PyTorch's `state_dict_reload`: the factors of the dict become those of the scaler.
    for backend in [devices::cpu()].into_iter().chain(devices::wgpu()) {
        let recipe = Recipe::new(RecipeName::F16).init_scale(1024.0);
        let config = mantissa_core::train::TrainConfig { clip: None, ..tiny::mlp(recipe) };
        let mut s = Session::new(backend.clone(), config.clone()).expect("a valid run");
        run(&mut s, &batch(32, 0));
        let weights = s.read_f32("mlp.fc1.weight").expect("a weight");
        let json =
            r#"{"scale": 8.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 3, "_growth_tracker": 1}"#;
        let dict: ScalerState = serde_json::from_str(json).expect("a state dict of PyTorch");
        s.load_scaler_state(&dict).expect("adopted");
        assert_eq!(s.scaler_state().expect("reads"), Some(dict));
        assert_eq!(s.config().recipe.scaler.map(|c| (c.growth_factor, c.growth_interval)), Some((3.0, 3)));
        assert_eq!(s.read_f32("mlp.fc1.weight").expect("a weight"), weights);
        let scale = |s: &Session| s.scaler_state().expect("reads").expect("a scaler").scale;
        let scales: Vec<f32> = (1..=2)
            .map(|i| {
                run(&mut s, &batch(32, i));
                scale(&s)
            })
            .collect();
        assert_eq!(scales, [8.0, 24.0], "the third good step grows by 3");
        let mut bad = batch(32, 5);
        bad.0[3] = f32::INFINITY;
        assert!(run(&mut s, &bad).skipped);
        assert_eq!(scale(&s), 6.0, "a quarter of 24");
        // What it computes is what a run of these factors computes.
        let mut twin_config = config;
        let scaler = twin_config.recipe.scaler.as_mut().expect("f16 has one");
        (scaler.growth_factor, scaler.backoff_factor, scaler.growth_interval) = (3.0, 0.25, 3);
        let mut twin = Session::new(backend.clone(), twin_config).expect("a valid run");
        let saved: Vec<(String, Vec<u8>)> = s.saved().map(|e| (e.name.clone(), s.read(&e.name).expect("bytes"))).collect();
        let pairs: Vec<(&str, &[u8])> = saved.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
        twin.restore(s.steps(), s.skipped(), &pairs).expect("the same run");
        for i in 6..9 {
            assert_eq!(run(&mut s, &batch(32, i)), run(&mut twin, &batch(32, i)));
        }
    }
}

#[test]
fn a_state_dict_carries_the_hysteresis() {
    let recipe = || {
        let scaler = ScalerConfig { init_scale: 1024.0, hysteresis: 3, ..ScalerConfig::default() };
        Recipe::new(RecipeName::F16).scaler(scaler)
    };
    let new = || session(mantissa_core::train::TrainConfig { clip: None, ..tiny::mlp(recipe()) });
    let mut bad = batch(32, 1);
    bad.0[3] = f32::INFINITY;
    let left = |s: &Session| bytemuck::pod_read_unaligned::<i32>(&s.read(HYSTERESIS).expect("a state"));
    let mut s = new();
    run(&mut s, &bad);
    run(&mut s, &bad);
    let state = s.scaler_state().expect("reads").expect("a scaler");
    assert_eq!((state.scale, state.hysteresis_tracker), (1024.0, Some(1)));
    let json = serde_json::to_string(&state).expect("serializes");
    assert!(json.contains("\"_hysteresis_tracker\":1"), "{json}");
    run(&mut s, &bad);
    assert_eq!(s.scaler_state().expect("reads").expect("a scaler").scale, 512.0);

    // Into a session that has stepped well, whose tracker is full.
    let mut other = new();
    run(&mut other, &batch(32, 5));
    other.load_scaler_state(&serde_json::from_str(&json).expect("its own text")).expect("loads");
    run(&mut other, &bad);
    assert_eq!(other.scaler_state().expect("reads").expect("a scaler").scale, 512.0, "as without the detour");

    // A dict without it, as PyTorch and older runs write, has all of them left; more than the config forgives is no
    // more.
    for tracker in [None, Some(9)] {
        other.load_scaler_state(&ScalerState { hysteresis_tracker: tracker, ..state }).expect("loads");
        assert_eq!(left(&other), 3);
    }
    assert!(state.agrees_with(&ScalerState { hysteresis_tracker: None, ..state }), "an older checkpoint");
    assert!(!state.agrees_with(&ScalerState { hysteresis_tracker: Some(2), ..state }));
}

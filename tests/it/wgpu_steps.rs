//! Whole training steps on wgpu against the CPU: the loss, every gradient and the weights after 20 steps, for every
//! recipe; the number of dispatches; a run that moves from one device to the other and back.

use mantissa_backend_wgpu::dispatches;
use mantissa_core::backend::{Backend, Executable, wait};
use mantissa_core::data::Batch;
use mantissa_core::diagnose::compare::{self, RowKind};
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::program::memory::{Layout, Place, Purpose};
use mantissa_core::program::{Kind, Rate, Value, ValueId};
use mantissa_core::rng::Rng;
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::record::train_step;
use mantissa_core::train::{MAX_IN_FLIGHT, Session, StepResult, TrainConfig, measured};
use mantissa_tests::data::{normal, text, windows};
use mantissa_tests::{devices, tiny};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dispatches that a training step of gpt-tiny may take.
fn budget(name: RecipeName) -> usize {
    match name {
        RecipeName::F32 | RecipeName::Tf32 => 140,
        RecipeName::Bf16 => 142,
        RecipeName::F16 => 148,
        // Three of them look for non-finite operands.
        RecipeName::Fp8Delayed => 195,
        RecipeName::Fp8Current | RecipeName::Mxfp8 => 242,
    }
}

#[test]
fn a_step_of_gpt_tiny_stays_within_its_dispatches() {
    for name in RecipeName::ALL {
        let config = TrainConfig { model: ModelConfig::Gpt(GptConfig::tiny()), ..tiny::gpt(Recipe::new(name), 10) };
        let program = train_step(&config).expect("a valid run");
        let counts = dispatches(&program).expect("a kernel for every instruction");
        let mut by_op: BTreeMap<&str, usize> = BTreeMap::new();
        for (instr, n) in program.instrs.iter().zip(&counts) {
            *by_op.entry(instr.op.row().name).or_default() += n;
        }
        let (total, budget): (usize, usize) = (counts.iter().sum(), budget(name));
        println!("{name}: {total} dispatches: {by_op:?}");
        assert!(total <= budget, "{name}: {total} dispatches, at most {budget}: {by_op:?}");
    }
}

/// Batches of a run, the same on every device.
struct Batches {
    text: Vec<u8>,
    rng: Rng,
    config: TrainConfig,
}

impl Batches {
    fn new(config: &TrainConfig) -> Batches {
        Batches { text: text(8000), rng: Rng::new(8, 0), config: config.clone() }
    }

    fn next(&mut self) -> (Vec<u8>, Vec<u8>) {
        let rows = self.config.batch * self.config.grad_accum;
        let (x, targets) = match &self.config.model {
            ModelConfig::Gpt(gpt) => {
                let (x, targets) = windows(&self.text, rows, gpt.context, &mut self.rng);
                (bytemuck::cast_slice(&x).to_vec(), targets)
            }
            ModelConfig::Mlp(mlp) => {
                let stream = self.rng.next_u32();
                let x = normal(rows * mlp.inputs, 1.0, stream);
                // A class that can be learnt from the image.
                let class = |row: &[f32]| (row.iter().sum::<f32>().abs() * 0.3) as u32 % mlp.classes as u32;
                let targets = x.chunks(mlp.inputs).map(class).collect();
                (bytemuck::cast_slice(&x).to_vec(), targets)
            }
        };
        (x, bytemuck::cast_slice(&targets).to_vec())
    }
}

fn run(session: &mut Session, batches: &mut Batches, steps: usize) -> Vec<StepReport> {
    let step = |_| {
        let (x, targets) = batches.next();
        session.step(Batch { x: &x, targets: &targets }).expect("a step runs")
    };
    (0..steps).map(step).collect()
}

/// Everything that decides how a run goes on.
fn saved(session: &Session) -> Vec<Vec<u8>> {
    session.saved().map(|entry| session.read(&entry.name).expect("bytes")).collect()
}

#[test]
fn steps_under_way_give_the_same_bits() {
    let mut on = vec![devices::cpu()];
    on.extend(devices::wgpu());
    for backend in on {
        for name in [RecipeName::F16, RecipeName::Fp8Delayed] {
            let config = tiny::gpt(Recipe::new(name), 10);
            let open = || Session::measuring(backend.clone(), config.clone(), &[]).expect("a session");
            let (mut one_by_one, mut late) = (open(), open());
            let mut batches = Batches::new(&config);
            let (mut expected, mut result) = (Vec::new(), Vec::new());
            for step in 1..=8 {
                let (x, targets) = batches.next();
                let batch = Batch { x: &x, targets: &targets };
                if step % 3 == 0 {
                    expected.push(one_by_one.step_measured(batch).expect("runs"));
                    late.submit_measured(batch).expect("starts");
                } else {
                    let report = one_by_one.step(batch).expect("runs");
                    let (fp8, next_loss_scale) =
                        (one_by_one.fp8_stats().expect("bytes"), one_by_one.scaler_state().expect("bytes"));
                    expected.push(StepResult {
                        report,
                        next_loss_scale: next_loss_scale.map(|s| s.scale),
                        hysteresis_left: None,
                        fp8,
                        tensors: None,
                    });
                    late.submit(batch).expect("starts");
                }
                result.extend(std::iter::from_fn(|| late.next_result(late.in_flight() > MAX_IN_FLIGHT).expect("lands")));
                assert!(late.in_flight() <= MAX_IN_FLIGHT);
            }
            if late.in_flight() > 0 {
                let refused = late.step(Batch { x: &[], targets: &[] }).expect_err("steps are in flight").to_string();
                assert!(refused.contains("in flight"), "{refused}");
            }
            result.extend(std::iter::from_fn(|| late.next_result(true).expect("lands")));
            assert_eq!(format!("{result:?}"), format!("{expected:?}"), "{name} on {}", backend.capabilities().device);
            assert_eq!((late.steps(), late.skipped()), (one_by_one.steps(), one_by_one.skipped()));
            assert!(saved(&late) == saved(&one_by_one), "{name}");
        }
    }
}

/// How far a recipe may lie from the CPU. Sums differ by roundoff; where such a difference lies at the border of two
/// stored values, one element moves by a step of its format. The signal-to-noise ratio of the worst value of a step
/// says how often: seen on a driver in software are 125 dB in f32, 71 in tf32, 66 in f16, 51 in bf16, 38 in mx, and 26
/// in fp8 with one scale a tensor. The limits leave room for another order of summation.
struct Limits {
    /// Worst forward value, gradient inside the backward pass and gradient of a parameter in one step, dB.
    sqnr_db: f64,
    /// Relative difference of losses over 20 steps; seen are 4e-7 in f32 and at most 1.3e-4 elsewhere.
    loss: f32,
}

fn limits(name: RecipeName) -> Limits {
    let (sqnr_db, loss) = match name {
        RecipeName::F32 => (110.0, 1e-5),
        RecipeName::Tf32 => (60.0, 5e-4),
        RecipeName::F16 => (55.0, 1e-3),
        RecipeName::Bf16 => (42.0, 1e-3),
        RecipeName::Mxfp8 => (30.0, 2e-3),
        RecipeName::Fp8Delayed | RecipeName::Fp8Current => (20.0, 2e-3),
    };
    Limits { sqnr_db, loss }
}

fn models(name: RecipeName) -> Vec<(&'static str, TrainConfig)> {
    // Slow enough for both runs to be stable: at 3e-3 this model's gradient norm jumps to 40 around step 12, and what
    // the devices differ by in the last place decides where it lands.
    let schedule = Schedule { lr: 5e-4, min_lr: 5e-4, warmup: 0, steps: 40, decay: Decay::Constant };
    let gpt = TrainConfig { schedule, ..tiny::gpt(Recipe::new(name), 40) };
    let ModelConfig::Gpt(model) = gpt.model.clone() else { panic!("a GPT") };
    let dropout = ModelConfig::Gpt(GptConfig { dropout: 0.1, ..model });
    vec![
        ("gpt", gpt.clone()),
        ("gpt with dropout, two micro-steps", TrainConfig { model: dropout, grad_accum: 2, ..gpt }),
        ("mlp", tiny::mlp(Recipe::new(name))),
    ]
}

/// The values of one step, all of them, from the same weights.
fn compare_step(what: &str, config: &TrainConfig, name: RecipeName, cpu: &Arc<dyn Backend>, gpu: &Arc<dyn Backend>) {
    let new = |backend: &Arc<dyn Backend>| Session::new(backend.clone(), config.clone()).expect("a valid run");
    let (mut a, mut b) = (new(cpu), new(gpu));
    let (x, targets) = Batches::new(config).next();
    let all = compare::step(&mut a, &mut b, Batch { x: &x, targets: &targets }, usize::MAX).expect("a step of both");
    let limit = limits(name).sqnr_db;
    let judged = |r: &&compare::Row| matches!(r.kind, RowKind::Forward | RowKind::Backward | RowKind::Gradient);
    let rows: Vec<&compare::Row> = all.rows.iter().filter(judged).collect();
    assert!(rows.len() > 5, "{what}, {name}: {} values compared", rows.len());
    let worst = rows.iter().map(|r| r.difference.sqnr_db()).fold(f64::INFINITY, f64::min);
    println!("{what}, {name}: worst SQNR {worst:.1} dB, at least {limit}");
    for row in rows {
        let sqnr = row.difference.sqnr_db();
        let (scope, op) = (&row.scope, &row.what);
        assert!(sqnr >= limit, "{what}, {name}, {scope}: {op}: SQNR {sqnr:.1} dB, at least {limit}");
    }
}

/// The same run on both.
fn compare_runs(what: &str, config: &TrainConfig, name: RecipeName, cpu: &Arc<dyn Backend>, gpu: &Arc<dyn Backend>) {
    const STEPS: usize = 20;
    let new = |backend: &Arc<dyn Backend>| Session::new(backend.clone(), config.clone()).expect("a valid run");
    let (mut a, mut b) = (new(cpu), new(gpu));
    let want = run(&mut a, &mut Batches::new(config), STEPS);
    let got = run(&mut b, &mut Batches::new(config), STEPS);
    let tolerance = limits(name).loss;
    let drift = want.iter().zip(&got).map(|(w, g)| (w.loss / g.loss - 1.0).abs()).fold(0.0, f32::max);
    println!("{what}, {name}: losses differ by at most {drift:e}, allowed {tolerance:e}");
    for (w, g) in want.iter().zip(&got) {
        let close = (w.loss - g.loss).abs() <= tolerance * w.loss.abs().max(1e-3);
        assert!(close, "{what}, {name}, step {}: loss {} on the CPU, {} on wgpu", w.step, w.loss, g.loss);
        let [w_state, g_state] = [w, g].map(|r| (r.loss_scale, r.skipped, r.growth_tracker));
        assert_eq!(w_state, g_state, "{what}, {name}, step {}", w.step);
    }
    // A weight moves by about lr a step, whatever its gradient.
    let way = STEPS as f64 * config.schedule.lr;
    for entry in a.saved().filter(|e| e.purpose == Purpose::Weights) {
        let read = |s: &Session| s.read_f32(&entry.name).expect("weights");
        let (mut w, mut g) = (read(&a), read(&b));
        if entry.name.ends_with("attn.qkv.bias") {
            // Softmax does not see the bias of the keys, the middle third: its gradient is roundoff, which Adam scales
            // to whole steps.
            let keys = w.len() / 3..2 * w.len() / 3;
            w.drain(keys.clone());
            g.drain(keys);
        }
        let mean = w.iter().zip(&g).map(|(w, g)| f64::from((w - g).abs())).sum::<f64>() / w.len() as f64;
        let allowed = way * f64::from(tolerance).sqrt();
        assert!(mean <= allowed, "{what}, {name}, {}: {mean:e} apart on average, at most {allowed:e}", entry.name);
    }
}

#[test]
fn every_recipe_trains_as_on_the_cpu() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for name in RecipeName::ALL {
        for (what, config) in models(name) {
            compare_step(what, &config, name, &cpu, &gpu);
            compare_runs(what, &config, name, &cpu, &gpu);
        }
    }
}

#[test]
fn a_run_moves_from_the_cpu_to_wgpu_and_back() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for name in [RecipeName::F32, RecipeName::F16, RecipeName::Fp8Delayed] {
        let (_, config) = models(name).remove(0);
        let mut whole = Session::new(cpu.clone(), config.clone()).expect("a run on the CPU");
        let want = run(&mut whole, &mut Batches::new(&config), 15);
        let mut batches = Batches::new(&config);
        let mut session = Session::new(cpu.clone(), config.clone()).expect("a run on the CPU");
        let mut got = run(&mut session, &mut batches, 5);
        for backend in [&gpu, &cpu] {
            let names: Vec<String> = session.saved().map(|e| e.name.clone()).collect();
            let values: Vec<Vec<u8>> = names.iter().map(|n| session.read(n).expect("a value")).collect();
            let pairs: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(values.iter().map(Vec::as_slice)).collect();
            let mut next = Session::new(backend.clone(), config.clone()).expect("the same run elsewhere");
            next.restore(session.steps(), session.skipped(), &pairs).expect("the state of the run");
            session = next;
            got.extend(run(&mut session, &mut batches, 5));
        }
        for (w, g) in want.iter().zip(&got) {
            let close = (w.loss - g.loss).abs() <= limits(name).loss * w.loss;
            assert!(close && w.step == g.step, "{name}, step {}: loss {} and {}", w.step, w.loss, g.loss);
        }
    }
}

/// The bytes at each place of a Program's own memory: length of the buffer, then buffer, offset and size of the place.
fn temporaries(executable: &dyn Executable) -> BTreeMap<[usize; 4], Vec<u8>> {
    let plan = executable.plan();
    let own = |(id, place): (u32, &Option<Place>)| {
        let Place { buffer, offset, size } = (*place)?;
        let length = plan.buffers.get(buffer.checked_sub(plan.layout.buffers.len())?)?.size;
        Some(([length, buffer, offset, size], wait(executable.read(ValueId(id)).expect("a place")).expect("bytes")))
    };
    (0u32..).zip(&plan.places).filter_map(own).collect()
}

#[test]
fn a_measured_step_on_wgpu_has_the_bits_and_the_memory_of_a_plain_one() {
    let Some(gpu) = devices::wgpu() else { return };
    for name in [RecipeName::Bf16, RecipeName::Fp8Delayed] {
        let (_, config) = models(name).remove(1);
        let all = ["**".to_string()];
        let session = || Session::measuring(gpu.clone(), config.clone(), &all).expect("a run on wgpu");
        let (mut plain, mut other) = (session(), session());
        let (mut batches, mut same) = (Batches::new(&config), Batches::new(&config));
        for step in 0..4 {
            let (x, targets) = same.next();
            let batch = Batch { x: &x, targets: &targets };
            let got = if step % 2 == 1 { other.step_measured(batch).map(|l| l.report) } else { other.step(batch) };
            assert_eq!(run(&mut plain, &mut batches, 1)[0], got.expect("a step runs"), "{name}");
        }
        for entry in plain.saved() {
            let [a, b] = [&plain, &other].map(|s| s.read(&entry.name).expect("a value"));
            assert!(a == b, "{name}: {} differs", entry.name);
        }
        let (program, tensors) = measured::step(&config, &all).expect("a valid run");
        let variant = Arc::new(measured::measured(&program, &tensors).expect("a step that measures"));
        let zeros = |(id, v): (_, &Value)| {
            let copies = if v.kind == Kind::Input(Rate::MicroStep) { config.grad_accum } else { 1 };
            (id, vec![0; copies * v.ty.size_bytes()])
        };
        let inputs: Vec<_> = variant.values_where(|v| matches!(v.kind, Kind::Input(_))).map(zeros).collect();
        let memory = gpu.alloc(Arc::new(Layout::new(&variant))).expect("memory");
        let step = gpu.compile(Arc::new(program), &memory).expect("compiles");
        let mut variant = step.compile_variant(variant).expect("compiles").expect("shares the temporaries of the step");
        assert_eq!(step.plan().total_bytes(), variant.plan().total_bytes(), "{name}");
        // What the variant writes stands in the memory of the step, which has not run.
        let inputs: Vec<_> = inputs.iter().map(|(id, bytes)| (*id, bytes.as_slice())).collect();
        variant.submit(&inputs).expect("runs");
        let [mine, theirs] = [&step, &variant].map(|e| temporaries(&**e));
        let common = mine.iter().filter_map(|(place, mine)| Some((mine, theirs.get(place)?)));
        let written: Vec<_> = common.filter(|(_, theirs)| theirs.iter().any(|byte| *byte != 0)).collect();
        assert!(!written.is_empty() && written.iter().all(|(mine, theirs)| mine == theirs), "{name}: {}", written.len());
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_on_wgpu() {
    let Some(gpu) = devices::wgpu() else { return };
    for name in [RecipeName::Bf16, RecipeName::Fp8Current] {
        let (_, config) = models(name).remove(1);
        let weights = || {
            let mut s = Session::new(gpu.clone(), config.clone()).expect("a run on wgpu");
            run(&mut s, &mut Batches::new(&config), 3);
            s.saved().map(|e| s.read(&e.name).expect("a value")).collect::<Vec<_>>()
        };
        assert!(weights() == weights(), "{name}");
    }
}

//! Whole training steps on wgpu against the CPU: the loss, every gradient and the weights after 20 steps, for every recipe; the number of
//! dispatches; a run that moves from one device to the other and back.

use mantissa_backend_wgpu::dispatches;
use mantissa_core::backend::Backend;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::rng::Rng;
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::record::train_step;
use mantissa_core::train::{Session, TrainConfig, session::Batch};
use mantissa_tests::data::{normal, text, windows};
use mantissa_tests::{devices, tiny};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dispatches that a training step of gpt-tiny in bf16 may take.
const BUDGET: usize = 150;

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
        let total: usize = counts.iter().sum();
        println!("{name}: {total} dispatches: {by_op:?}");
        if name == RecipeName::Bf16 || name == RecipeName::F32 {
            assert!(total <= BUDGET, "{name}: {total} dispatches, at most {BUDGET}: {by_op:?}");
        }
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

/// Relative difference of two losses that a recipe may show after `steps`: sums differ by roundoff, and a value at the border of two
/// stored ones may fall on either side, which a narrow format turns into its own unit.
fn loss_tolerance(name: RecipeName) -> f32 {
    match name {
        RecipeName::F32 => 1e-4,
        RecipeName::Tf32 => 1e-3,
        RecipeName::Bf16 | RecipeName::F16 => 5e-3,
        RecipeName::Fp8Delayed | RecipeName::Fp8Current | RecipeName::Mxfp8 => 2e-2,
    }
}

fn models(name: RecipeName) -> Vec<(&'static str, TrainConfig)> {
    let gpt = tiny::gpt(Recipe::new(name), 40);
    let ModelConfig::Gpt(model) = gpt.model.clone() else { panic!("a GPT") };
    let dropout = ModelConfig::Gpt(GptConfig { dropout: 0.1, ..model });
    vec![
        ("gpt", gpt.clone()),
        ("gpt with dropout, two micro-steps", TrainConfig { model: dropout, grad_accum: 2, ..gpt }),
        ("mlp", tiny::mlp(Recipe::new(name))),
    ]
}

fn compare(what: &str, config: &TrainConfig, name: RecipeName, cpu: &Arc<dyn Backend>, gpu: &Arc<dyn Backend>) {
    const STEPS: usize = 20;
    let mut a = Session::new(cpu.clone(), config.clone()).expect("a run on the CPU");
    let mut b = Session::new(gpu.clone(), config.clone()).expect("a run on wgpu");
    let want = run(&mut a, &mut Batches::new(config), STEPS);
    let got = run(&mut b, &mut Batches::new(config), STEPS);
    let tolerance = loss_tolerance(name);
    for (w, g) in want.iter().zip(&got) {
        let close = |w: f32, g: f32, tolerance: f32| (w - g).abs() <= tolerance * w.abs().max(1e-3);
        assert!(
            close(w.loss, g.loss, tolerance),
            "{what}, {name}, step {}: loss {} on the CPU, {} on wgpu",
            w.step,
            w.loss,
            g.loss
        );
        assert!(
            close(w.grad_norm, g.grad_norm, 20.0 * tolerance),
            "{what}, {name}, step {}: grad_norm {} and {}",
            w.step,
            w.grad_norm,
            g.grad_norm
        );
        assert_eq!(
            (w.loss_scale, w.skipped, w.growth_tracker),
            (g.loss_scale, g.skipped, g.growth_tracker),
            "{what}, {name}, step {}",
            w.step
        );
    }
    // Adam divides by the root of a small second moment: a weight moves by about lr a step whatever its gradient, so a bound in units of
    // the way it may have gone says that nearly all gradients agree in sign and size.
    let way = STEPS as f64 * config.schedule.lr;
    for entry in a.saved().filter(|e| e.purpose == mantissa_core::program::memory::Purpose::Weights) {
        let (w, g) = (a.read_f32(&entry.name).expect("weights"), b.read_f32(&entry.name).expect("weights"));
        let mean = w.iter().zip(&g).map(|(w, g)| f64::from((w - g).abs())).sum::<f64>() / w.len() as f64;
        let allowed = way * f64::from(tolerance).sqrt() * 2.0;
        assert!(mean <= allowed, "{what}, {name}, {}: weights differ by {mean:e} on average, at most {allowed:e}", entry.name);
    }
}

#[test]
fn every_recipe_trains_as_on_the_cpu() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for name in RecipeName::ALL {
        for (what, config) in models(name) {
            compare(what, &config, name, &cpu, &gpu);
        }
    }
}

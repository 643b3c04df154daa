//! Mantissa's side.

use crate::contender::{Contender, PRODUCTS};
use anyhow::Result;
use mantissa_backend_wgpu::{AdapterChoice, MatmulChoice, Options, Tuning, WgpuBackend};
use mantissa_core::backend::Backend;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::dtype::DType;
use mantissa_core::model::ModelConfig;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::{OnNonFinite, Recipe, RecipeName};
use mantissa_core::rng::Rng;
use mantissa_core::shape::Ty;
use mantissa_core::data::Batch;
use mantissa_core::train::{Session, TrainConfig};
use mantissa_tests::operands;
use std::sync::Arc;

/// Learning rate of every contender.
pub(crate) const LR: f64 = 1e-3;

/// Where it runs.
#[derive(Clone, Copy)]
pub(crate) enum Device {
    Wgpu,
    Cpu,
}

impl Device {
    fn name(self) -> &'static str {
        match self {
            Device::Wgpu => "mantissa wgpu",
            Device::Cpu => "mantissa cpu",
        }
    }

    fn open(self) -> Result<Arc<dyn Backend>> {
        Ok(match self {
            Device::Wgpu => {
                let matmul = MatmulChoice::Tuned { when: Tuning::Auto, folder: None };
                let options = Options { matmul, ..Options::default() };
                Arc::new(WgpuBackend::open_with_blocking(&AdapterChoice::Best, options)?)
            }
            Device::Cpu => Arc::new(CpuBackend::new()),
        })
    }
}

/// Two square matrices of numbers about 0, such that their product is about 1.
pub(crate) fn operands(side: usize) -> [Vec<f32>; 2] {
    let mut rng = Rng::new(1, 0);
    let std = (side as f32).powf(-0.25);
    std::array::from_fn(|_| (0..side * side).map(|_| rng.normal() * std).collect())
}

/// Products of square matrices.
pub(crate) fn product(device: Device, side: usize, a: &[f32], b: &[f32]) -> Result<Contender> {
    Contender::start(device.name(), || {
        let backend = device.open()?;
        let ty = Ty::new(DType::F32, [side, side]);
        let op = MatMul::new(false, false, DType::F32).op();
        let mut machine = operands::alone_on(&*backend, op, &[ty.clone(), ty], 2, 1);
        machine.memory.write("x0", bytemuck::cast_slice(a))?;
        machine.memory.write("x1", bytemuck::cast_slice(b))?;
        Ok(move || {
            (0..PRODUCTS).for_each(|_| machine.step(&[]).expect("the product runs"));
            machine.f32s("y0").expect("the product is there")
        })
    })
}

/// A batch.
pub(crate) enum Inputs {
    Tokens(Vec<u32>),
    Pixels(Vec<f32>),
}

/// What the model sees and what it should answer.
pub(crate) struct Data {
    pub(crate) x: Inputs,
    pub(crate) targets: Vec<u32>,
}

/// A batch of random data.
pub(crate) fn data(model: &ModelConfig, batch: usize) -> Data {
    let [x, targets] = model.input_types(batch).map(|ty| ty.shape.numel());
    let mut rng = Rng::new(1, 0);
    let mut words = |n: usize, below: usize| -> Vec<u32> { (0..n).map(|_| rng.below(below as u64) as u32).collect() };
    match model {
        ModelConfig::Gpt(gpt) => Data { x: Inputs::Tokens(words(x, gpt.vocab)), targets: words(targets, gpt.vocab) },
        ModelConfig::Mlp(mlp) => {
            let pixels = words(x, 256).into_iter().map(|p| p as f32 / 255.0).collect();
            Data { x: Inputs::Pixels(pixels), targets: words(targets, mlp.classes) }
        }
    }
}

/// Steps of training in f32; the result is the loss.
pub(crate) fn training(device: Device, model: &ModelConfig, batch: usize, data: &Data) -> Result<Contender> {
    let x: Vec<u8> = match &data.x {
        Inputs::Tokens(tokens) => bytemuck::cast_slice(tokens).to_vec(),
        Inputs::Pixels(pixels) => bytemuck::cast_slice(pixels).to_vec(),
    };
    let targets: Vec<u8> = bytemuck::cast_slice(&data.targets).to_vec();
    let config = TrainConfig {
        recipe: Recipe::new(RecipeName::F32),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: LR, min_lr: LR, warmup: 0, steps: 1, decay: Decay::Constant },
        clip: None,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch,
        grad_accum: 1,
        seed: 1,
        model: model.clone(),
    };
    Contender::start(device.name(), || {
        let mut session = Session::new(device.open()?, config)?;
        eprintln!("{}: {} parameters", device.name(), session.program().param_count());
        Ok(move || vec![session.step(Batch { x: &x, targets: &targets }).expect("a step runs").loss])
    })
}

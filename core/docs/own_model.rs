//! A model of one's own: recorded in f16 with loss scaling and AdamW, then run for some steps.

use mantissa_core::backend::{Backend, wait};
use mantissa_core::cpu::CpuBackend;
use mantissa_core::nn::Linear;
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::{GradScaler, Region, ScalerConfig};
use mantissa_core::program::{Program, Rate, memory::Layout};
use mantissa_core::shape::Ty;
use mantissa_core::trace::Graph;
use mantissa_core::train::session::init_memory;
use mantissa_core::{DType, Result, bytemuck};
use std::sync::Arc;

pub(crate) fn record() -> Result<Program> {
    let g = Graph::new("mine", true);
    let x = g.input("x", Ty::new(DType::F32, [64, 8]), Rate::MicroStep);
    let label = g.input("label", Ty::new(DType::U32, [64]), Rate::MicroStep);
    let loss = g.autocast(Region::low(DType::F16), || {
        let h = Linear::new("up", 8, 32).init_uniform().forward(x).gelu();
        Linear::new("down", 32, 4).init_uniform().forward(h).cross_entropy(label, 0.0)
    });
    let mut adam = Optim::new("adam", OptimConfig::adamw(), g.params())?;
    let mut scaler = GradScaler::new(&g, Some(ScalerConfig::default()))?;
    adam.backward(scaler.scale(loss));
    g.begin_update();
    scaler.step(&mut adam)?;
    scaler.update()?;
    g.output("loss", loss);
    g.finish()
}

/// Loss of each of `steps` steps on one batch, on the CPU.
pub(crate) fn train(steps: usize) -> Result<Vec<f32>> {
    let program = Arc::new(record()?);
    let id = |name: &str| program.find(name).expect("recorded above");
    let backend = CpuBackend::new();
    let memory = backend.alloc(Arc::new(Layout::new(&program)))?;
    init_memory(&*memory, 1)?;
    let mut step = backend.compile(program.clone(), &memory)?;
    let label: Vec<u32> = (0..64).map(|i| i % 4).collect();
    let x: Vec<f32> = (0..64 * 8).map(|i| if i % 8 == (i / 8) % 4 { 1.0 } else { 0.0 }).collect();
    let mut losses = Vec::new();
    for _ in 0..steps {
        let (x, label) = (bytemuck::cast_slice(&x), bytemuck::cast_slice(&label));
        step.submit(&[(id("x"), x), (id("label"), label), (id("adam.lr"), &0.01f32.to_le_bytes())])?;
        losses.push(bytemuck::pod_read_unaligned(&wait(step.read(id("loss"))?)?));
    }
    Ok(losses)
}

//! Two steps of SGD with a clipped gradient, by hand: w begins at 1 and its gradient is 3.

use mantissa_core::backend::{Backend, wait};
use mantissa_core::cpu::CpuBackend;
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::clip::{Clip, clip_grads};
use mantissa_core::precision::{GradScaler, ScalerConfig};
use mantissa_core::program::{Init, memory::Layout};
use mantissa_core::train::session::init_memory;
use mantissa_core::{Result, bytemuck, trace::Graph};
use std::sync::Arc;

pub(crate) fn clipped_sgd() -> Result<[f32; 2]> {
    let g = Graph::new("sgd", true);
    let w = g.param("w", [1], Init::Fill(1.0));
    let mut sgd = Optim::new("sgd", OptimConfig::sgd(0.0), vec![w])?;
    let mut scaler = GradScaler::new(&g, Some(ScalerConfig::default()))?;
    sgd.backward(scaler.scale((w * 3.0).sum_all())); // dw = 3 times the loss scale
    g.begin_update();
    scaler.unscale(&mut sgd)?; // dw = 3
    clip_grads(&scaler, &mut sgd, Clip::Norm(1.0))?; // dw = 1, but for the 1e-6 in the divisor
    scaler.step(&mut sgd)?;
    scaler.update()?;
    let program = Arc::new(g.finish()?);

    let backend = CpuBackend::new();
    let memory = backend.alloc(Arc::new(Layout::new(&program)))?;
    init_memory(&*memory, 1)?;
    let mut step = backend.compile(program.clone(), &memory)?;
    let lr = program.find("sgd.lr").expect("an input of every optimizer"); // lr is an input: one Program for all rates
    let mut seen = [0.0; 2];
    for w in &mut seen {
        step.submit(&[(lr, &0.25f32.to_le_bytes())])?;
        *w = bytemuck::pod_read_unaligned(&wait(memory.read("w")?)?);
    }
    Ok(seen)
}

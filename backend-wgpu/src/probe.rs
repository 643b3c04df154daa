//! What a device does at most: the rates that achieved ones are compared with.

use crate::adapter::{Gpu, WgpuBackend};
use crate::dispatch::{Binder, Dispatch};
use crate::launch::{Arg, Builder, kernel};
use crate::memory::allocate;
use mantissa_core::error::Result;
use mantissa_core::program::memory::{Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rates that a device has just shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// f32 operations a second of multiply-adds that touch no memory.
    pub flops_per_s: f64,
    /// Bytes a second of a copy, read and written ones together.
    pub bytes_per_s: f64,
}

/// How long each rate is measured.
const TIME: Duration = Duration::from_millis(60);
/// Invocations of the multiply-add kernel, and rounds of each. On a fast device it is run longer.
const INVOCATIONS: usize = 1 << 14;
const ROUNDS: usize = 1 << 10;
/// Operations of an invocation in a round: eight chains of four lanes, a multiply-add counted as two.
const FLOPS: usize = 8 * 4 * 2;
/// Bytes of the copy: beyond caches.
const COPY_BYTES: usize = 64 << 20;
const VECTOR: usize = 16;

impl WgpuBackend {
    /// Measures the device, which must be idle. A fifth of a second, and waits: not for browsers.
    pub fn peaks(&self) -> Result<Peaks> {
        let gpu = self.gpu();
        let side = COPY_BYTES.min(gpu.max_buffer_bytes() as usize);
        let invocation = FLOPS * ROUNDS;
        let fma = kernel("probe", "fma_rate").uniform("count", ROUNDS).uniform_f32("factor", 0.75);
        let flops = rate(gpu, fma.bind("y", Arg::Piece(1)).items(INVOCATIONS), INVOCATIONS * VECTOR)?;
        let copy = kernel("probe", "copy").uniform("count", side / VECTOR).uniform_f32("factor", 0.0);
        let copies = rate(gpu, copy.bind("x", Arg::Piece(0)).bind("y", Arg::Piece(1)).items(side / VECTOR), side)?;
        Ok(Peaks { flops_per_s: flops * (INVOCATIONS * invocation) as f64, bytes_per_s: copies * 2.0 * side as f64 })
    }
}

/// Runs a second of a kernel over two buffers of `bytes`, best of several.
fn rate(gpu: &Arc<Gpu>, kernel: Builder, bytes: usize) -> Result<f64> {
    let launch = kernel.done()?;
    let buffers = allocate(gpu, &[Buffer { size: bytes, purpose: Purpose::Activations }; 2])?;
    let place = |buffer| Place { buffer, offset: 0, size: bytes };
    let operands = Operands::at(vec![place(0), place(1)]);
    let dispatch = Binder::new(gpu, &buffers, &[], &[], 0, [&launch], 1)?.dispatch(&launch, &operands, 0)?;
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut times = 1;
    // The first round compiles and warms up.
    once(gpu, &dispatch, 1)?;
    while start.elapsed() < TIME || best == f64::INFINITY {
        let begin = Instant::now();
        once(gpu, &dispatch, times)?;
        let took = begin.elapsed();
        best = best.min(took.as_secs_f64() / times as f64);
        // Long enough for what a submission costs not to count.
        if took < TIME / 8 {
            times *= 2;
        }
    }
    Ok(1.0 / best)
}

/// Runs the dispatch `times` times and waits.
fn once(gpu: &Gpu, dispatch: &Dispatch, times: usize) -> Result<()> {
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("probe") });
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        (0..times).for_each(|_| dispatch.encode(&mut pass, 0));
    }
    gpu.queue.submit([encoder.finish()]);
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| gpu.error(e.to_string()))?;
    gpu.check(None)
}

//! Peak rates of a device, measured: achieved rates are compared with them.

use crate::context::Context;
use crate::dispatch::{Binder, Buffers, Dispatch};
use crate::gpu::Gpu;
use crate::launch::{Arg, Builder, kernel};
use crate::memory::allocate;
use mantissa_core::error::Result;
use mantissa_core::program::memory::{Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use std::time::{Duration, Instant};

/// How long each rate is measured.
const TIME: Duration = Duration::from_millis(120);
/// How long a round takes at least: so long that the cost of a submission does not count, and so short that one of them
/// may run undisturbed on a machine that has other work.
const ROUND: Duration = Duration::from_millis(4);
/// The same for a dispatch of the multiply-add kernel, whose start costs time too.
const DISPATCH: Duration = Duration::from_millis(1);
/// Invocations of that kernel.
const INVOCATIONS: usize = 1 << 14;
/// Lengths of its chains: the first that takes long enough is taken.
const LENGTHS: [usize; 3] = [1 << 7, 1 << 10, 1 << 13];
/// Operations of an invocation for each length: eight chains of four lanes, a multiply-add counted as two.
const FLOPS: usize = 8 * 4 * 2;
/// Bytes of the copy: beyond caches.
const COPY_BYTES: usize = 64 << 20;
const VECTOR: usize = 16;

/// Measures f32 operations a second of multiply-adds that touch no memory, on a device that must be idle: other work on
/// it can only make them too few. Waits. Errs if the device fails.
pub(crate) fn flops_per_s(context: &Context) -> Result<f64> {
    let gpu = &*context.gpu;
    let fma = |length| {
        let kernel = kernel("peak", "fma_rate").uniform("count", length).uniform_f32("factor", 0.75);
        dispatch(context, kernel.bind("y", Arg::Piece(1)).items(INVOCATIONS), INVOCATIONS * VECTOR)
    };
    let [mut length, longer @ ..] = LENGTHS;
    let mut chains = fma(length)?;
    for next in longer {
        // The first time compiles and warms up.
        time(gpu, &chains, 1)?;
        if time(gpu, &chains, 1)? >= DISPATCH {
            break;
        }
        (length, chains) = (next, fma(next)?);
    }
    Ok(rate(gpu, &chains)? * (INVOCATIONS * FLOPS * length) as f64)
}

/// Measures bytes a second of a copy, read and written ones together, likewise.
pub(crate) fn bytes_per_s(context: &Context) -> Result<f64> {
    let gpu = &*context.gpu;
    let side = COPY_BYTES.min(gpu.max_buffer_bytes() as usize);
    let copy = kernel("peak", "copy").uniform("count", side / VECTOR).uniform_f32("factor", 0.0);
    let copy = copy.bind("x", Arg::Piece(0)).bind("y", Arg::Piece(1)).items(side / VECTOR);
    Ok(rate(gpu, &dispatch(context, copy, side)?)? * 2.0 * side as f64)
}

/// A kernel over two buffers of `bytes`.
fn dispatch(context: &Context, kernel: Builder, bytes: usize) -> Result<Dispatch> {
    let launch = kernel.done()?;
    let memory = allocate(&context.gpu, &[Buffer { size: bytes, purpose: Purpose::Activations }; 2])?;
    let place = |buffer| Place { buffer, offset: 0, size: bytes };
    let operands = Operands::at(vec![place(0), place(1)]);
    let buffers = Buffers { persistent: &memory, ..Buffers::default() };
    Binder::new(context, buffers, [&launch], 1)?.dispatch(&launch, &operands, 0)
}

/// Runs a second of a dispatch, best of several rounds.
fn rate(gpu: &Gpu, dispatch: &Dispatch) -> Result<f64> {
    time(gpu, dispatch, 1)?;
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut times = 1;
    while start.elapsed() < TIME || best == f64::INFINITY {
        let took = time(gpu, dispatch, times)?;
        best = best.min(took.as_secs_f64() / times as f64);
        if took < ROUND {
            times *= 2;
        }
    }
    Ok(1.0 / best)
}

/// Runs the dispatch `times` times and waits.
fn time(gpu: &Gpu, dispatch: &Dispatch, times: usize) -> Result<Duration> {
    let start = Instant::now();
    gpu.submit_pass("peak", |pass| (0..times).for_each(|_| dispatch.encode(pass, 0)));
    gpu.wait()?;
    Ok(start.elapsed())
}

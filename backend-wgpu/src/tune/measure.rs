//! Classes of matmuls, and the time that each kernel takes for one of them.

use crate::context::Context;
use crate::dispatch::{Binder, Buffers, Dispatch};
use crate::gpu::Gpu;
use crate::launch::{LaunchLimits, MatmulKernel, launches};
use crate::memory::allocate;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::Op;
use mantissa_core::op::matmul::{Dims, MatMul};
use mantissa_core::program::memory::{Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use pollster::block_on;
use std::time::{Duration, Instant};

/// Runs of each kernel, of which the fastest counts, and matmuls in each.
const RUNS: usize = 5;
const MATMULS: usize = 4;

/// A kernel must take less than this fraction of the time of one before it in the device's order, so that noise changes
/// no choice.
const CLEARLY_FASTER: f64 = 0.9;

/// What matmuls that get the same kernel have in common: layout, dtypes, scales, and sizes as the next powers of two.
/// Errs if the operands do not fit each other.
pub(super) fn class(m: &MatMul, operands: &Operands) -> Result<String> {
    let (a, b) = (&operands.input_types[0], &operands.input_types[1]);
    let Dims { batch, m: rows, n, k, .. } = m.dims(a, b)?;
    let layout = |trans: bool| if trans { 'T' } else { 'N' };
    let sizes = [batch, rows, n, k].map(|size| size.max(1).next_power_of_two().ilog2().to_string()).join(" ");
    let (layout, out) = ([layout(m.trans_a), layout(m.trans_b)].iter().collect::<String>(), operands.output_types[0].dtype);
    Ok(format!("{layout} {} {} {out} {:?} {:?} {} 2^ {sizes}", a.dtype, b.dtype, m.scales[0], m.scales[1], m.compute))
}

/// The result of measuring the kernels for one matmul.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// The fastest kernel of those that could be measured.
    pub(super) best: Option<MatmulKernel>,
    /// Kernels that could not, and why.
    pub(super) failed: Vec<(MatmulKernel, Error)>,
}

/// Measures every kernel for this matmul, on separate memory. Errs only if the device cannot go on.
pub(super) fn fastest(
    context: &Context,
    limits: LaunchLimits,
    kernels: &[MatmulKernel],
    m: &MatMul,
    operands: &Operands,
) -> Result<Measured> {
    let (gpu, op) = (&*context.gpu, m.clone().op());
    let alone = |(buffer, place): (usize, &Place)| Place { buffer, offset: 0, size: place.size };
    let places: Vec<Place> = operands.places.iter().enumerate().map(alone).collect();
    let alone = Operands { strides: vec![0; places.len()], places, ..operands.clone() };
    let buffers = alone.places.iter().map(|p| Buffer { size: p.size, purpose: Purpose::Activations }).collect::<Vec<_>>();
    let memory = match block_on(gpu.attempt(async { allocate(gpu, &buffers) }))? {
        Ok(memory) => memory,
        Err(e) => return Ok(Measured { best: None, failed: kernels.iter().map(|kernel| (*kernel, e.clone())).collect() }),
    };
    judge(kernels, |matmul| {
        let limits = LaunchLimits { matmul, ..limits };
        block_on(gpu.attempt(async { time(context, limits, &op, &alone, &memory) }))
    })
}

/// The kernel with the least time, in the order of the device where none is clearly faster.
fn judge(kernels: &[MatmulKernel], mut time: impl FnMut(MatmulKernel) -> Result<Result<Duration>>) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut least = f64::INFINITY;
    for &kernel in kernels {
        match time(kernel)? {
            Ok(time) if time.as_secs_f64() < CLEARLY_FASTER * least => {
                (measured.best, least) = (Some(kernel), time.as_secs_f64());
            }
            Ok(_) => {}
            Err(e) => measured.failed.push((kernel, e)),
        }
    }
    Ok(measured)
}

fn time(context: &Context, limits: LaunchLimits, op: &Op, operands: &Operands, memory: &[wgpu::Buffer]) -> Result<Duration> {
    let gpu = &*context.gpu;
    let (launches, scratch) = launches(op, operands, limits)?;
    let wanted: Vec<Buffer> = scratch.iter().map(|&size| Buffer { size, purpose: Purpose::Activations }).collect();
    let scratch = allocate(gpu, &wanted)?;
    let buffers = Buffers { persistent: memory, scratch: &scratch, ..Buffers::default() };
    let binder = Binder::new(context, buffers, &launches, 1)?;
    let dispatches: Vec<Dispatch> =
        launches.iter().enumerate().map(|(slot, l)| binder.dispatch(l, operands, slot)).collect::<Result<_>>()?;
    // The first run warms up.
    run(gpu, &dispatches, 1)?;
    let times = (0..RUNS).map(|_| run(gpu, &dispatches, MATMULS)).collect::<Result<Vec<_>>>()?;
    Ok(times.into_iter().min().unwrap_or_default())
}

fn run(gpu: &Gpu, dispatches: &[Dispatch], times: usize) -> Result<Duration> {
    let start = Instant::now();
    gpu.submit_pass("tune", |pass| (0..times).flat_map(|_| dispatches).for_each(|d| d.encode(pass, 0)));
    gpu.wait()?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNELS: [MatmulKernel; 3] = [MatmulKernel::WorkgroupMemory, MatmulKernel::Registers, MatmulKernel::Subgroups(8)];

    fn ms(ms: u64) -> Result<Result<Duration>> {
        Ok(Ok(Duration::from_millis(ms)))
    }

    #[test]
    fn a_kernel_must_be_clearly_faster_to_come_before_one_that_the_device_prefers() {
        let of = |times: [u64; 3]| {
            let mut times = times.into_iter();
            judge(&KERNELS, |_| ms(times.next().expect("a time for each"))).expect("nothing fails").best
        };
        assert_eq!(of([100, 95, 91]), Some(KERNELS[0]));
        assert_eq!(of([100, 89, 85]), Some(KERNELS[1]));
        assert_eq!(of([100, 89, 50]), Some(KERNELS[2]));
    }

    #[test]
    fn a_kernel_that_fails_is_left_out_and_named() {
        let refuse = || Ok(Err(Error::config("binding", "32 bytes", "4")));
        let measured =
            judge(&KERNELS, |kernel| if kernel == KERNELS[0] { refuse() } else { ms(5) }).expect("the device goes on");
        assert_eq!(measured.best, Some(KERNELS[1]));
        assert!(matches!(&measured.failed[..], [(kernel, Error::Config { .. })] if *kernel == KERNELS[0]), "{measured:?}");
        let none = judge(&KERNELS, |_| refuse()).expect("the device goes on");
        assert_eq!((none.best, none.failed.len()), (None, 3));
        let lost = judge(&KERNELS, |_| Err(Error::DeviceLost { device: "d".into(), problem: "gone".into() }));
        assert!(lost.is_err(), "nothing can be done on a lost device");
    }
}

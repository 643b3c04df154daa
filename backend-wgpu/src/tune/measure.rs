//! Classes of products, and the time that each kind takes for one of them.

use crate::adapter::{Gpu, Products};
use crate::dispatch::{Binder, Dispatch};
use crate::launch::{Facts, launches};
use crate::memory::allocate;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::Op;
use mantissa_core::op::matmul::{Dims, MatMul};
use mantissa_core::program::memory::{Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs of each kind, of which the fastest counts, and products in each.
const RUNS: usize = 5;
const PRODUCTS: usize = 4;

/// A kind must take less than this share of the time of one before it in the device's order, so that noise changes no choice.
const CLEARLY_FASTER: f64 = 0.9;

/// What products that get the same kind have in common: layout, dtypes, scales, and sizes as the next powers of two.
pub(super) fn class(m: &MatMul, operands: &Operands) -> Result<String> {
    let (a, b) = (&operands.input_types[0], &operands.input_types[1]);
    let Dims { batch, m: rows, n, k, .. } = m.dims(a, b)?;
    let layout = |trans: bool| if trans { 'T' } else { 'N' };
    let sizes = [batch, rows, n, k].map(|size| size.max(1).next_power_of_two().ilog2().to_string()).join(" ");
    let (layout, out) = ([layout(m.trans_a), layout(m.trans_b)].iter().collect::<String>(), operands.output_types[0].dtype);
    Ok(format!("{layout} {} {} {out} {:?} {:?} {} 2^ {sizes}", a.dtype, b.dtype, m.scales[0], m.scales[1], m.compute))
}

/// What measuring the kinds of one product came to.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// The fastest kind of those that could be measured.
    pub(super) best: Option<Products>,
    /// Kinds that could not, and why.
    pub(super) failed: Vec<(Products, Error)>,
}

/// Measures every kind for this product, on memory of its own. Errs only if the device cannot go on.
pub(super) fn fastest(gpu: &Arc<Gpu>, kinds: &[Products], m: &MatMul, operands: &Operands) -> Result<Measured> {
    let op = m.clone().op();
    let alone = |(buffer, place): (usize, &Place)| Place { buffer, offset: 0, size: place.size };
    let places: Vec<Place> = operands.places.iter().enumerate().map(alone).collect();
    let alone = Operands { strides: vec![0; places.len()], places, ..operands.clone() };
    let buffers = alone.places.iter().map(|p| Buffer { size: p.size, purpose: Purpose::Activations }).collect::<Vec<_>>();
    let memory = match gpu.attempt(|| allocate(gpu, &buffers))? {
        Ok(memory) => memory,
        Err(e) => return Ok(Measured { best: None, failed: kinds.iter().map(|kind| (*kind, e.clone())).collect() }),
    };
    judge(kinds, |kind| gpu.attempt(|| time(gpu, kind, &op, &alone, &memory)))
}

/// The kind with the least time, in the order of the device where none is clearly faster.
fn judge(kinds: &[Products], mut time: impl FnMut(Products) -> Result<Result<Duration>>) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut least = f64::INFINITY;
    for &kind in kinds {
        match time(kind)? {
            Ok(time) if time.as_secs_f64() < CLEARLY_FASTER * least => {
                (measured.best, least) = (Some(kind), time.as_secs_f64());
            }
            Ok(_) => {}
            Err(e) => measured.failed.push((kind, e)),
        }
    }
    Ok(measured)
}

fn time(gpu: &Arc<Gpu>, products: Products, op: &Op, operands: &Operands, memory: &[wgpu::Buffer]) -> Result<Duration> {
    let max_storage_buffers = gpu.limits.max_storage_buffers_per_shader_stage as usize;
    let (launches, scratch) = launches(op, operands, Facts { max_storage_buffers, products })?;
    let wanted: Vec<Buffer> = scratch.iter().map(|&size| Buffer { size, purpose: Purpose::Activations }).collect();
    let scratch = allocate(gpu, &wanted)?;
    let binder = Binder::new(gpu, memory, &[], &scratch, 0, &launches, 1)?;
    let dispatches: Vec<Dispatch> =
        launches.iter().enumerate().map(|(slot, l)| binder.dispatch(l, operands, slot)).collect::<Result<_>>()?;
    // The first run warms up.
    run(gpu, &dispatches, 1)?;
    let times = (0..RUNS).map(|_| run(gpu, &dispatches, PRODUCTS)).collect::<Result<Vec<_>>>()?;
    Ok(times.into_iter().min().unwrap_or_default())
}

fn run(gpu: &Gpu, dispatches: &[Dispatch], times: usize) -> Result<Duration> {
    let start = Instant::now();
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("tune") });
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        (0..times).flat_map(|_| dispatches).for_each(|d| d.encode(&mut pass, 0));
    }
    gpu.queue.submit([encoder.finish()]);
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| gpu.error(e.to_string()))?;
    gpu.check(None)?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Products; 3] = [Products::WorkgroupMemory, Products::Registers, Products::Subgroups(8)];

    fn ms(ms: u64) -> Result<Result<Duration>> {
        Ok(Ok(Duration::from_millis(ms)))
    }

    #[test]
    fn a_kind_must_be_clearly_faster_to_come_before_one_that_the_device_prefers() {
        let of = |times: [u64; 3]| {
            let mut times = times.into_iter();
            judge(&KINDS, |_| ms(times.next().expect("a time for each"))).expect("nothing fails").best
        };
        assert_eq!(of([100, 95, 91]), Some(KINDS[0]));
        assert_eq!(of([100, 89, 85]), Some(KINDS[1]));
        assert_eq!(of([100, 89, 50]), Some(KINDS[2]));
    }

    #[test]
    fn a_kind_that_fails_is_left_out_and_named() {
        let refuse = || Ok(Err(Error::config("binding", "32 bytes", "4")));
        let measured = judge(&KINDS, |kind| if kind == KINDS[0] { refuse() } else { ms(5) }).expect("the device goes on");
        assert_eq!(measured.best, Some(KINDS[1]));
        assert!(matches!(&measured.failed[..], [(kind, Error::Config { .. })] if *kind == KINDS[0]), "{measured:?}");
        let none = judge(&KINDS, |_| refuse()).expect("the device goes on");
        assert_eq!((none.best, none.failed.len()), (None, 3));
        let lost = judge(&KINDS, |_| Err(Error::DeviceLost { device: "d".into(), problem: "gone".into() }));
        assert!(lost.is_err(), "nothing can be done on a lost device");
    }
}

//! Classes of products, and the time that each kind takes for one of them.

use crate::adapter::{Gpu, Products};
use crate::dispatch::{Binder, Dispatch};
use crate::launch::{Facts, launches};
use crate::memory::allocate;
use mantissa_core::error::Result;
use mantissa_core::op::Op;
use mantissa_core::op::matmul::{Dims, MatMul};
use mantissa_core::program::memory::{Buffer, Place, Purpose, align};
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

/// The kind that does this product fastest, on memory of its own.
pub(super) fn fastest(gpu: &Arc<Gpu>, kinds: &[Products], m: &MatMul, operands: &Operands) -> Result<Products> {
    let buffers: Vec<Buffer> = operands.places.iter().map(|p| Buffer { size: p.size, purpose: Purpose::Activations }).collect();
    let (op, memory) = (m.clone().op(), allocate(gpu, &buffers)?);
    let places = buffers.iter().enumerate().map(|(buffer, b)| Place { buffer, offset: 0, size: b.size });
    let alone = Operands { places: places.collect(), strides: vec![0; operands.places.len()], ..operands.clone() };
    let mut best: Option<(Products, Duration)> = None;
    for &kind in kinds {
        let time = time(gpu, kind, &op, &alone, &memory)?;
        if best.is_none_or(|(_, least)| time.as_secs_f64() < CLEARLY_FASTER * least.as_secs_f64()) {
            best = Some((kind, time));
        }
    }
    Ok(best.map_or(kinds[0], |(kind, _)| kind))
}

fn time(gpu: &Arc<Gpu>, products: Products, op: &Op, operands: &Operands, memory: &[wgpu::Buffer]) -> Result<Duration> {
    let max_storage_buffers = gpu.limits.max_storage_buffers_per_shader_stage as usize;
    let (launches, scratch) = launches(op, operands, Facts { max_storage_buffers, products })?;
    let wanted: Vec<Buffer> =
        scratch.iter().map(|&bytes| Buffer { size: align(bytes), purpose: Purpose::Activations }).collect();
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

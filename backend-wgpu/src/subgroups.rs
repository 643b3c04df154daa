//! Whether the subgroups of a device are what kernels take them for: of one size, in the order of the invocations, with a broadcast that works.

use crate::adapter::Gpu;
use crate::dispatch::Binder;
use crate::launch::{Arg, kernel};
use crate::memory::allocate;
use crate::readback::Download;
use mantissa_core::backend::Readback;
use mantissa_core::error::Result;
use mantissa_core::program::memory::{Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use std::sync::Arc;

/// Subgroups of the workgroup that is looked at, and a number that no kernel writes by chance.
const SUBGROUPS: usize = 4;
const SEED: u32 = 0x5eed;

/// Runs a small kernel whose every lane must see what subgroups of `size` lanes in a row show.
pub(crate) fn work(gpu: &Arc<Gpu>, size: u32) -> Result<bool> {
    let lanes = size as usize * SUBGROUPS;
    let bytes = lanes * size_of::<[u32; 4]>();
    let launch = kernel("subgroup_probe", "lanes")
        .set("SUBGROUP", size)
        .set("SUBGROUPS", SUBGROUPS as u32)
        .uniform("seed", SEED as usize)
        .bind("y", Arg::Piece(0))
        .done()?;
    let buffers = allocate(gpu, &[Buffer { size: bytes, purpose: Purpose::Activations }])?;
    let operands = Operands::at(vec![Place { buffer: 0, offset: 0, size: bytes }]);
    let dispatch = Binder::new(gpu, &buffers, &[], &[], 0, [&launch], 1)?.dispatch(&launch, &operands, 0)?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("subgroups") });
    dispatch.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), 0);
    gpu.queue.submit([encoder.finish()]);
    let seen = Download::start(gpu, &buffers[0], 0, bytes).wait()?.unwrap_or_default();
    let words = |lane: &[u8]| lane.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect::<Vec<_>>();
    let want = |i: u32| {
        let first = i / size * size;
        let value = |i: u32| i * 7 + SEED;
        vec![size, i - first, value(first), value(first + size - 1)]
    };
    Ok(seen.len() == bytes && (0u32..).zip(seen.chunks_exact(16)).all(|(i, lane)| words(lane) == want(i)))
}

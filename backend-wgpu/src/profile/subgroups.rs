//! Whether the subgroups of a device are what kernels take them for: of one size, in the order of the invocations, with a broadcast that works.
//!
//! Not looked at where sizes vary (Intel): wgpu 30 lets Vulkan choose a size for each pipeline, even for subgroups of one dispatch
//! (ALLOW_VARYING_SUBGROUP_SIZE in wgpu-hal), and offers nothing that fixes it (gfx-rs/wgpu#9523), so no probe speaks for another pipeline.

use crate::adapter::Gpu;
use crate::launch::kernel;
use mantissa_core::error::Result;
use std::sync::Arc;

/// Subgroups of the workgroup that is looked at, and a number that no kernel writes by chance.
const SUBGROUPS: u32 = 4;
const SEED: u32 = 0x5eed;

/// Runs a small kernel whose every lane must see what subgroups of `size` lanes in a row show.
pub(crate) fn has_subgroups(gpu: &Arc<Gpu>, size: u32) -> Result<bool> {
    let probe = kernel("subgroup_probe", "lanes").set("SUBGROUP", size).set("SUBGROUPS", SUBGROUPS);
    let bytes = (size * SUBGROUPS) as usize * size_of::<[u32; 4]>();
    let seen = super::written(gpu, probe.uniform("seed", SEED as usize), bytes)?;
    Ok(seen == expected(size))
}

/// What the lanes must write.
fn expected(size: u32) -> Vec<u32> {
    let lane = |i: u32| {
        let first = i / size * size;
        let value = |i: u32| i * 7 + SEED;
        [size, i - first, value(first), value(first + size - 1)]
    };
    (0..size * SUBGROUPS).flat_map(lane).collect()
}

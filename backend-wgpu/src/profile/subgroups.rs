//! Whether the subgroups of a device are what kernels take them for: of one size, in the order of the invocations, with
//! a broadcast that works.
//!
//! Not probed where sizes vary (Intel): wgpu 30 lets Vulkan choose a size for each pipeline, even for subgroups of one
//! dispatch (ALLOW_VARYING_SUBGROUP_SIZE in wgpu-hal), and offers nothing that fixes it (gfx-rs/wgpu#9523). A probe of
//! one pipeline would say nothing of another.

use crate::context::Context;
use crate::launch::kernel;
use mantissa_core::error::Result;

/// Subgroups of the probe's workgroup, and a number that no kernel writes by chance.
const SUBGROUPS: u32 = 4;
const SEED: u32 = 0x5eed;

/// Runs a small kernel whose every lane must find subgroups of `size` lanes in a row. Errs if the device fails.
pub(super) async fn work(context: &Context, size: u32) -> Result<bool> {
    let probe = kernel("subgroup_probe", "lanes").set("SUBGROUP", size).set("SUBGROUPS", SUBGROUPS);
    let bytes = (size * SUBGROUPS) as usize * size_of::<[u32; 4]>();
    let words = super::written(context, probe.uniform("seed", SEED as usize), bytes).await?;
    Ok(words == expected(size))
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

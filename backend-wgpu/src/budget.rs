//! How many dispatches a step takes and which kernels, known without a device.

use crate::adapter::Products;
use crate::launch::{Facts, Step};
use crate::pipeline::Kernel;
use mantissa_core::error::Result;
use mantissa_core::program::Program;
use mantissa_core::program::memory::{Layout, MemoryPlan, align};
use std::sync::Arc;

/// Storage buffers that every WebGPU device lets a kernel bind.
const DEFAULT_STORAGE_BUFFERS: usize = 8;

/// Dispatches of each instruction of `program` in one run of it, on a GPU with the default limits.
pub fn dispatches(program: &Program) -> Result<Vec<usize>> {
    let step = step(program, Products::WorkgroupMemory)?;
    Ok(step.instrs.iter().zip(&step.after).map(|((_, launches), records)| launches.len() + records.len()).collect())
}

/// The kernel of each launch of `program`, on a device with the default limits whose matrix products are of the kind `products`.
pub fn kernels(program: &Program, products: Products) -> Result<Vec<Kernel>> {
    Ok(step(program, products)?.launches().map(|launch| launch.kernel.clone()).collect())
}

/// Bytes of the scratch buffers that `program` takes on a device with these limits. Kinds of products differ little in it.
pub(crate) fn scratch_bytes(program: &Program, plan: &MemoryPlan, limits: &wgpu::Limits) -> Result<usize> {
    let max_storage_buffers = limits.max_storage_buffers_per_shader_stage as usize;
    let facts = Facts { max_storage_buffers, products: Products::WorkgroupMemory };
    let step = Step::new(program, plan, |_, _| Ok(facts))?;
    Ok(step.scratch.iter().map(|&bytes| align(bytes)).sum::<usize>() + step.seen)
}

fn step(program: &Program, products: Products) -> Result<Step> {
    let plan = MemoryPlan::new(program, &Arc::new(Layout::new(program)))?;
    let facts = Facts { max_storage_buffers: DEFAULT_STORAGE_BUFFERS, products };
    Step::new(program, &plan, |_, _| Ok(facts))
}

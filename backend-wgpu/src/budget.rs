//! How many dispatches a step takes and which kernels, known without a device.

use crate::launch::{AttentionKernel, Kernel, LaunchLimits, MatmulKernel, Step};
use mantissa_core::error::Result;
use mantissa_core::program::Program;
use mantissa_core::program::memory::{Layout, MemoryPlan, align};
use std::sync::Arc;

/// Storage buffers that every WebGPU device lets a kernel bind.
const DEFAULT_STORAGE_BUFFERS: usize = 8;

/// Dispatches of each instruction of `program` in one run of it, on a GPU with the default limits. Errs on an operation
/// that no kernel takes.
pub fn dispatches(program: &Program) -> Result<Vec<usize>> {
    let step = step(program, MatmulKernel::WorkgroupMemory)?;
    Ok(step.instrs.iter().zip(&step.after).map(|((_, launches), records)| launches.len() + records.len()).collect())
}

/// The kernel of each launch of `program`, on a device with the default limits that multiplies by `matmul`. Errs on an
/// operation that no kernel takes.
pub fn kernels(program: &Program, matmul: MatmulKernel) -> Result<Vec<Kernel>> {
    Ok(step(program, matmul)?.launches().map(|launch| launch.kernel.clone()).collect())
}

/// Bytes of the scratch buffers that `program` takes on a device that binds so many storage buffers. The kernel of a
/// matmul changes them little.
pub(crate) fn scratch_bytes(program: &Program, plan: &MemoryPlan, max_storage_buffers: usize) -> Result<usize> {
    let limits = usual(max_storage_buffers, MatmulKernel::WorkgroupMemory);
    let step = Step::new(program, plan, |_, _| Ok(limits))?;
    Ok(step.scratch.iter().map(|&bytes| align(bytes)).sum::<usize>() + step.staged_stats_bytes)
}

fn step(program: &Program, matmul: MatmulKernel) -> Result<Step> {
    let plan = MemoryPlan::new(program, &Arc::new(Layout::new(program)))?;
    Step::new(program, &plan, |_, _| Ok(usual(DEFAULT_STORAGE_BUFFERS, matmul)))
}

fn usual(max_storage_buffers: usize, matmul: MatmulKernel) -> LaunchLimits {
    LaunchLimits { max_storage_buffers, matmul, attention: AttentionKernel::Workgroups }
}

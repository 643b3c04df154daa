//! How many dispatches a step takes, known without a device.

use crate::adapter::Products;
use crate::launch::{Facts, cast_list, launches};
use mantissa_core::error::Result;
use mantissa_core::program::memory::{Layout, MemoryPlan};
use mantissa_core::program::operands::Operands;
use mantissa_core::program::{Instr, Program};
use std::sync::Arc;

/// Storage buffers that every WebGPU device lets a kernel bind.
const DEFAULT_STORAGE_BUFFERS: usize = 8;

/// Dispatches of each instruction of `program` in one run of it, on a GPU with the default limits.
pub fn dispatches(program: &Program) -> Result<Vec<usize>> {
    let plan = MemoryPlan::new(program, &Arc::new(Layout::new(program)))?;
    let facts = Facts { max_storage_buffers: DEFAULT_STORAGE_BUFFERS, products: Products::WorkgroupMemory };
    let count = |(at, instr): (usize, &Instr)| match plan.cast_groups.iter().find(|g| g.contains(&at)) {
        Some(group) => cast_list(program, &plan, group).map(|_| usize::from(at == group[0])),
        None => Ok(launches(&instr.op, &Operands::new(program, &plan, instr)?, facts)?.0.len()),
    };
    program.instrs.iter().enumerate().map(count).collect()
}

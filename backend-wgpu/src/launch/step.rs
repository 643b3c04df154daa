//! The launches of a whole Program: those of each instruction, casts of a list as one, and the recorders of staged
//! statistics.

use super::builder::{Frame, Launch};
use super::cast_list::cast_list;
use super::kernel_choice::LaunchLimits;
use super::recorder::{Recorders, Work};
use super::{instruction, quantize};
use mantissa_core::error::Result;
use mantissa_core::op::Op;
use mantissa_core::program::Program;
use mantissa_core::program::memory::MemoryPlan;
use mantissa_core::program::operands::Operands;

/// What a step launches.
pub(crate) struct Step {
    /// Of each instruction.
    pub(crate) instrs: Vec<Work>,
    /// Copies staged amax and counts of fp8 tensors into their states, one for each pair of states; a no-op when none
    /// is staged.
    pub(crate) records: Vec<Work>,
    /// Which of `records` follow each instruction.
    pub(crate) after: Vec<Vec<usize>>,
    /// Bytes of each scratch buffer that instructions share.
    pub(crate) scratch: Vec<usize>,
    /// Bytes of the rows that quantizations stage statistics in.
    pub(crate) staged_stats_bytes: usize,
}

impl Step {
    /// The launches of `program`, laid out as `plan`; `limits` gives those of an instruction. Errs on an operation
    /// that no kernel takes, and on an error of `limits`.
    pub(crate) fn new(
        program: &Program,
        plan: &MemoryPlan,
        limits: impl Fn(&Op, &Operands) -> Result<LaunchLimits>,
    ) -> Result<Step> {
        let recorders = Recorders::new(program);
        let mut instrs = Vec::with_capacity(program.instrs.len());
        let mut scratch: Vec<usize> = Vec::new();
        for (at, instr) in program.instrs.iter().enumerate() {
            if let Some(group) = plan.cast_groups.iter().find(|g| g.contains(&at)) {
                // The first of a group does the work of all.
                let (operands, launch) = cast_list(program, plan, group)?;
                instrs.push((operands, if at == group[0] { vec![launch] } else { Vec::new() }));
                continue;
            }
            let operands = Operands::new(program, plan, instr)?;
            let limits = limits(&instr.op, &operands)?;
            let (launches, wanted) = framed(&instr.op, Frame::new(&operands, limits, recorders.row(instr)))?;
            scratch.resize(scratch.len().max(wanted.len()), 0);
            scratch.iter_mut().zip(wanted).for_each(|(have, bytes)| *have = (*have).max(bytes));
            instrs.push((operands, launches));
        }
        let records = recorders.all.iter().map(|r| quantize::flush_stats(program, plan, r)).collect::<Result<_>>()?;
        let staged_stats_bytes = recorders.rows * quantize::STATS_ROW_BYTES;
        Ok(Step { instrs, records, after: recorders.after(program), scratch, staged_stats_bytes })
    }

    /// Everything that is launched, in the order of `instrs`, then `records`.
    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.instrs.iter().chain(&self.records).flat_map(|(_, launches)| launches)
    }
}

/// Launches of an instruction by itself, and bytes of each scratch buffer that they take.
pub(crate) fn launches(op: &Op, operands: &Operands, limits: LaunchLimits) -> Result<(Vec<Launch>, Vec<usize>)> {
    framed(op, Frame::new(operands, limits, 0))
}

fn framed(op: &Op, mut frame: Frame<'_>) -> Result<(Vec<Launch>, Vec<usize>)> {
    instruction(op, &mut frame)?;
    Ok((frame.launches, frame.scratch))
}

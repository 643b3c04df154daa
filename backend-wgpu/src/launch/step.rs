//! The launches of a whole Program: those of each instruction, casts of a list as one, and what quantizations of a run record.
//!
//! A quantization with `record` only collects (amax and counts, in a row of memory of the executable). One launch moves the rows of all tensors
//! to the states: at the end of the part of the step, or before whatever else touches the states or collects into a row that is not free.

use super::cast_list::cast_list;
use super::{Facts, Frame, Launch, instruction, quantize};
use mantissa_core::error::Result;
use mantissa_core::op::Op;
use mantissa_core::program::memory::MemoryPlan;
use mantissa_core::program::operands::Operands;
use mantissa_core::program::{Instr, Program, ValueId};

/// The states that quantizations record in, and the first of their rows in what is collected.
pub(crate) struct Recorder {
    stats: ValueId,
    history: Option<ValueId>,
    first: usize,
}

/// Launches with the operands they take.
pub(crate) type Work = (Operands, Vec<Launch>);

/// What a step launches.
pub(crate) struct Step {
    /// Of each instruction.
    pub(crate) instrs: Vec<Work>,
    /// What moves collected rows to the states, one for each pair of states.
    pub(crate) records: Vec<Work>,
    /// Which of `records` follow each instruction.
    pub(crate) after: Vec<Vec<usize>>,
    /// Bytes of each scratch buffer that instructions share.
    pub(crate) scratch: Vec<usize>,
    /// Bytes of the rows that quantizations collect in.
    pub(crate) seen: usize,
}

impl Step {
    pub(crate) fn new(program: &Program, plan: &MemoryPlan, facts: Facts) -> Result<Step> {
        let (recorders, rows) = recorders(program);
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
            let seen = recorded(instr).map_or(0, |(slot, states)| slot + recorders[of(&recorders, &states)].first);
            let mut f = Frame { operands: &operands, facts, seen, launches: Vec::new(), scratch: Vec::new() };
            instruction(&instr.op, &mut f)?;
            let Frame { launches, scratch: wanted, .. } = f;
            scratch.resize(scratch.len().max(wanted.len()), 0);
            scratch.iter_mut().zip(wanted).for_each(|(have, bytes)| *have = (*have).max(bytes));
            instrs.push((operands, launches));
        }
        let records = recorders.iter().map(|r| quantize::record(program, plan, r)).collect::<Result<_>>()?;
        Ok(Step { instrs, records, after: after(program, &recorders), scratch, seen: rows * quantize::SEEN_BYTES })
    }

    /// Everything that is launched, in the order of `instrs`, then `records`.
    pub(crate) fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.instrs.iter().chain(&self.records).flat_map(|(_, launches)| launches)
    }
}

impl Recorder {
    pub(super) fn states(&self) -> (ValueId, Option<ValueId>) {
        (self.stats, self.history)
    }

    pub(super) fn first(&self) -> usize {
        self.first
    }
}

/// Slot and states (statistics, history) of a quantization that records.
fn recorded(instr: &Instr) -> Option<(usize, (ValueId, Option<ValueId>))> {
    let stats = *instr.inputs.last()?;
    if let Op::Quantize(q) = &instr.op {
        let history = instr.inputs.get(2).copied().filter(|_| q.plain_inputs() == 2);
        return q.record.then_some((q.slot, (stats, history)));
    }
    if let Op::QuantizeMx(q) = &instr.op {
        return q.record.then_some((q.slot, (stats, None)));
    }
    None
}

fn of(recorders: &[Recorder], states: &(ValueId, Option<ValueId>)) -> usize {
    recorders.iter().position(|r| r.states() == *states).unwrap_or(0)
}

/// Every pair of states, and the rows that all take.
fn recorders(program: &Program) -> (Vec<Recorder>, usize) {
    let (mut all, mut rows): (Vec<Recorder>, usize) = (Vec::new(), 0);
    for (_, (stats, history)) in program.instrs.iter().filter_map(recorded) {
        if all.iter().all(|r| r.states() != (stats, history)) {
            all.push(Recorder { stats, history, first: rows });
            rows += program.ty(stats).shape[0];
        }
    }
    (all, rows)
}

/// Which recorders work after each instruction.
fn after(program: &Program, recorders: &[Recorder]) -> Vec<Vec<usize>> {
    let mut after = vec![Vec::new(); program.instrs.len()];
    // Slots that wait, of each recorder.
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); recorders.len()];
    for (at, instr) in program.instrs.iter().enumerate() {
        let own = recorded(instr).map(|(slot, states)| (of(recorders, &states), slot));
        for (k, recorder) in recorders.iter().enumerate() {
            let touched = instr.inputs.iter().any(|id| *id == recorder.stats || Some(*id) == recorder.history);
            let due = match own {
                Some((own, slot)) if own == k => waiting[k].contains(&slot),
                Some(_) | None => touched || at == program.micro_end,
            };
            if due && !waiting[k].is_empty() {
                after[at - 1].push(k);
                waiting[k].clear();
            }
        }
        if let Some((k, slot)) = own {
            waiting[k].push(slot);
        }
    }
    for (k, slots) in waiting.iter().enumerate() {
        if let (false, Some(last)) = (slots.is_empty(), after.last_mut()) {
            last.push(k);
        }
    }
    after
}

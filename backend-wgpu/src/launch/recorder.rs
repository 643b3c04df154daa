//! When staged statistics of fp8 tensors reach their states.
//!
//! A quantization with `record` only stages its amax and counts, in a row of memory of the executable. One launch
//! copies the rows of all tensors into the states: at the end of the part of the step, or before anything else touches
//! the states or stages into a row that is still full.

use super::builder::Launch;
use mantissa_core::op::Op;
use mantissa_core::program::operands::Operands;
use mantissa_core::program::{Instr, Program, ValueId};

/// Launches with the operands they take.
pub(crate) type Work = (Operands, Vec<Launch>);

/// The states that a group of quantizations records in: statistics, and the amax history of delayed scaling.
type States = (ValueId, Option<ValueId>);

/// Copies the staged rows of one pair of states into them.
pub(super) struct Recorder {
    /// The states.
    pub(super) states: States,
    /// First of its rows.
    pub(super) first_row: usize,
}

/// The recorders of a Program.
pub(super) struct Recorders {
    pub(super) all: Vec<Recorder>,
    /// Rows of all of them.
    pub(super) rows: usize,
}

impl Recorders {
    /// One for every pair of states that `program` records in.
    pub(super) fn new(program: &Program) -> Recorders {
        let (mut all, mut rows): (Vec<Recorder>, usize) = (Vec::new(), 0);
        for (_, states) in program.instrs.iter().filter_map(recorded) {
            if all.iter().all(|r| r.states != states) {
                all.push(Recorder { states, first_row: rows });
                rows += program.ty(states.0).shape[0];
            }
        }
        Recorders { all, rows }
    }

    /// Row that `instr` stages its statistics in; 0 if it stages none.
    pub(super) fn row(&self, instr: &Instr) -> usize {
        recorded(instr).map_or(0, |(slot, states)| slot + self.all[self.of(&states)].first_row)
    }

    fn of(&self, states: &States) -> usize {
        self.all.iter().position(|r| r.states == *states).unwrap_or(0)
    }

    /// Which recorders run after each instruction.
    pub(super) fn after(&self, program: &Program) -> Vec<Vec<usize>> {
        let mut after = vec![Vec::new(); program.instrs.len()];
        // Slots that are staged, of each recorder.
        let mut staged: Vec<Vec<usize>> = vec![Vec::new(); self.all.len()];
        for (at, instr) in program.instrs.iter().enumerate() {
            let own = recorded(instr).map(|(slot, states)| (self.of(&states), slot));
            for (k, Recorder { states: (stats, history), .. }) in self.all.iter().enumerate() {
                let used = instr.inputs.iter().any(|id| id == stats || Some(*id) == *history);
                let due = match own {
                    Some((own, slot)) if own == k => staged[k].contains(&slot),
                    Some(_) | None => used || at == program.micro_end,
                };
                if due && !staged[k].is_empty() {
                    after[at - 1].push(k);
                    staged[k].clear();
                }
            }
            if let Some((k, slot)) = own {
                staged[k].push(slot);
            }
        }
        for (k, slots) in staged.iter().enumerate() {
            if let (false, Some(last)) = (slots.is_empty(), after.last_mut()) {
                last.push(k);
            }
        }
        after
    }
}

/// Slot and states of a quantization that records.
fn recorded(instr: &Instr) -> Option<(usize, States)> {
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

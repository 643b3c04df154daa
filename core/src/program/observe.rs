//! The hook that backends call around each instruction of a step, and the times that a device with a clock gives.
//!
//! Object safe. A backend that is not asked to observe pays one branch an instruction.

use crate::float::view::View;
use crate::program::{Instr, Program, ValueId};

/// Read access to values of a step in flight.
pub trait Values {
    /// The value `id` as it lies in memory now, in the present micro-step. `None` for a value without a place.
    ///
    /// Temporaries take turns in memory: what an instruction reads is there before it, what it writes is there after
    /// it, and the operands of an elementwise instruction may be gone after it. `Param` and `State` values are always
    /// there.
    fn view(&self, id: ValueId) -> Option<View<'_>>;
}

/// A point of a step: just before or just after one instruction.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// The Program that runs.
    pub program: &'a Program,
    /// Index of the instruction.
    pub index: usize,
    /// Number of the micro-step, from 0; 0 in the update part.
    pub micro: usize,
    /// Its operands.
    pub values: &'a dyn Values,
}

impl<'a> Moment<'a> {
    /// The instruction.
    pub fn instr(&self) -> &'a Instr {
        &self.program.instrs[self.index]
    }

    /// The value `id`, see [`Values::view`].
    pub fn view(&self, id: ValueId) -> Option<View<'a>> {
        self.values.view(id)
    }
}

impl std::fmt::Debug for Moment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moment").field("index", &self.index).field("micro", &self.micro).finish_non_exhaustive()
    }
}

/// Called around each instruction of a step, on a thread of the backend.
pub trait Observer: Send {
    /// The instruction is about to run: its inputs can be read.
    fn before(&mut self, _now: &Moment<'_>) {}

    /// The instruction has run: its outputs can be read.
    fn after(&mut self, _now: &Moment<'_>) {}
}

/// One run of one instruction. Seconds by whatever clock was read, from some moment of the step on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Index of the instruction.
    pub instr: usize,
    /// Number of the micro-step, from 0; 0 in the update part.
    pub micro: usize,
    /// When it began, seconds.
    pub start_secs: f64,
    /// How long it took, seconds.
    pub length_secs: f64,
}

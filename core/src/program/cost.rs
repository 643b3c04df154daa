//! Prices of instructions: floating-point operations and bytes moved, from types alone.

use super::{Instr, Program};
use crate::op::Op;

/// What an instruction costs on any machine. Sums stop at the largest number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: u64,
    /// Bytes read from memory, each operand once.
    pub read_bytes: u64,
    /// Bytes written to memory.
    pub written_bytes: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self = Cost {
            flops: self.flops.saturating_add(other.flops),
            read_bytes: self.read_bytes.saturating_add(other.read_bytes),
            written_bytes: self.written_bytes.saturating_add(other.written_bytes),
        };
    }
}

impl Program {
    /// Price of one run of `instr`.
    pub fn cost(&self, instr: &Instr) -> Cost {
        if matches!(instr.op, Op::Reshape(_)) {
            return Cost::default();
        }
        let (inputs, outputs) = (self.input_types(instr), self.output_types(instr));
        let bytes = |list: &[crate::shape::Ty]| list.iter().map(|t| t.size_bytes() as u64).sum();
        Cost { flops: instr.op.flops(&inputs, &outputs), read_bytes: bytes(&inputs), written_bytes: bytes(&outputs) }
    }

    /// Price of one step: the micro-step part counted `grad_accum` times.
    pub fn step_cost(&self) -> Cost {
        let mut total = Cost::default();
        for (i, instr) in self.instrs.iter().enumerate() {
            let c = self.cost(instr);
            let times = if i < self.micro_end { self.grad_accum.max(1) as u64 } else { 1 };
            total += Cost {
                flops: c.flops.saturating_mul(times),
                read_bytes: c.read_bytes.saturating_mul(times),
                written_bytes: c.written_bytes.saturating_mul(times),
            };
        }
        total
    }
}

//! Prices of instructions: floating-point operations and bytes moved, from types alone.

use super::{Instr, Program};
use crate::dtype::DType;
use crate::op::Op;
use crate::op::tensor_stats::WORDS;
use crate::shape::Ty;

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
        let (read_bytes, written_bytes) = touched(&instr.op, &inputs, &outputs);
        Cost {
            flops: instr.op.flops(&inputs, &outputs),
            read_bytes: read_bytes.iter().sum(),
            written_bytes: written_bytes.iter().sum(),
        }
    }

    /// Bytes that one run of `instr` reads and writes, operand by operand, with the dtype they are stored in.
    pub fn bytes_by_dtype(&self, instr: &Instr) -> Vec<(DType, u64)> {
        if matches!(instr.op, Op::Reshape(_)) {
            return Vec::new();
        }
        let (inputs, outputs) = (self.input_types(instr), self.output_types(instr));
        let (read, written) = touched(&instr.op, &inputs, &outputs);
        let sizes = read.into_iter().chain(written);
        inputs.iter().chain(&outputs).map(|t| t.dtype).zip(sizes).collect()
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

/// Bytes touched of each input and of each output. Operations that look at a part of an operand are charged for that
/// part.
fn touched(op: &Op, inputs: &[Ty], outputs: &[Ty]) -> (Vec<u64>, Vec<u64>) {
    let whole = |list: &[Ty]| list.iter().map(|t| t.size_bytes() as u64).collect::<Vec<u64>>();
    let (mut read, mut written) = (whole(inputs), whole(outputs));
    if let (Op::Embedding | Op::Gather | Op::Slice(_), [from, ..], [to, ..]) = (op, inputs, outputs) {
        read[0] = (to.shape.numel() * from.dtype.size_bytes()) as u64;
    }
    // Scales, histories and statistics hold one entry for each fp8 tensor of the model; this tensor's is touched.
    let entry = |list: &mut [u64], types: &[Ty]| {
        list.iter_mut().zip(types).for_each(|(n, t)| *n = (*n).min(t.dtype.size_bytes() as u64));
    };
    if let Op::Quantize(_) | Op::QuantizeMx(_) = op {
        entry(&mut read[1..], &inputs[1..]);
        entry(&mut written[2..], &outputs[2..]);
    }
    if let Op::TensorStats(_) = op {
        // The row is overwritten; of the scale, one element is read.
        let last = read.len() - 1;
        entry(&mut read[1..last], &inputs[1..last]);
        read[last] = 0;
        written[0] = (WORDS * DType::U32.size_bytes()) as u64;
    }
    if let Op::Record(_) = op {
        entry(&mut read, inputs);
        entry(&mut written, outputs);
    }
    (read, written)
}

#[cfg(test)]
mod tests {
    use crate::dtype::DType;
    use crate::program::{Init, Rate};
    use crate::shape::Ty;
    use crate::trace::Graph;

    #[test]
    fn lookups_pay_for_the_rows_they_take() {
        let g = Graph::new("lookup", false);
        let table = g.param("table", [1000, 8], Init::Fill(0.0));
        let ids = g.input("ids", Ty::new(DType::U32, [5]), Rate::Step);
        g.output("rows", table.embedding(ids));
        let p = g.finish().unwrap();
        let cost = p.cost(&p.instrs[0]);
        assert_eq!((cost.read_bytes, cost.written_bytes), (5 * 8 * 4 + 5 * 4, 5 * 8 * 4));
    }
}

//! Which inputs of a Program are indices, and below what: they are checked on the host as a step is submitted, once for
//! every backend.
//!
//! Kernels cannot refuse an index. One outside its range looks up NaN there and leaves no gradient, so a step would
//! lose what it cost and the position that is to blame. Inputs are bytes of the host, few beside the work of a step, so
//! all of them are compared.

use super::{Program, Value, ValueId};
use crate::error::{Error, Result};
use crate::op::Op;
use crate::op::loss::IGNORE_INDEX;
use crate::shape::Ty;

/// The range of an input whose elements are indices, u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRange {
    /// The input.
    pub input: ValueId,
    /// Every index is below this.
    pub below: usize,
    /// [`IGNORE_INDEX`] is allowed too.
    pub ignore: bool,
}

/// The index operand of an operation: which input it is, below what, and whether it may be [`IGNORE_INDEX`].
fn operand(op: &Op, inputs: &[Ty]) -> Option<(usize, usize, bool)> {
    if let Op::Embedding = op {
        return Some((1, inputs[0].shape[0], false));
    }
    if let Op::Gather = op {
        return Some((1, inputs[0].shape.last(), false));
    }
    if let Op::CrossEntropy(_) = op {
        return Some((1, inputs[0].shape[1], true));
    }
    None
}

/// The ranges of all inputs of `program` that are used as indices, as they are or reshaped: the narrowest where there
/// are several uses.
pub fn index_ranges(program: &Program) -> Vec<IndexRange> {
    let viewed = program.viewed();
    let mut ranges: Vec<IndexRange> = Vec::new();
    for instr in &program.instrs {
        let Some((at, below, ignore)) = operand(&instr.op, &program.input_types(instr)) else { continue };
        let input = viewed[instr.inputs[at].index()];
        if !matches!(program.value(input).kind, super::Kind::Input(_)) {
            continue;
        }
        match ranges.iter_mut().find(|r| r.input == input) {
            Some(known) => (known.below, known.ignore) = (known.below.min(below), known.ignore && ignore),
            None => ranges.push(IndexRange { input, below, ignore }),
        }
    }
    ranges
}

impl IndexRange {
    /// Refuses `bytes` (the values of all micro-steps, one after the other) of which an element is out of range, naming
    /// the first.
    pub fn check(&self, value: &Value, bytes: &[u8]) -> Result<()> {
        let wrong = |word: &[u8; 4]| {
            let index = u32::from_ne_bytes(*word);
            index as usize >= self.below && !(self.ignore && index == IGNORE_INDEX)
        };
        let (words, _) = bytes.as_chunks::<4>();
        // Without an early end the loop is vectorized.
        if !words.iter().fold(false, |any, word| any | wrong(word)) {
            return Ok(());
        }
        let Some(at) = words.iter().position(wrong) else { return Ok(()) };
        let numel = value.ty.shape.numel().max(1);
        let step = if words.len() > numel { format!(" of micro-step {}", at / numel + 1) } else { String::new() };
        let mut rest = at % numel;
        let mut place = vec![0; value.ty.shape.len()];
        for (coordinate, len) in place.iter_mut().zip(value.ty.shape.iter()).rev() {
            (*coordinate, rest) = (rest % len, rest / len);
        }
        let or = if self.ignore { format!(", or {} to leave it out", IGNORE_INDEX as i32) } else { String::new() };
        let index = u32::from_ne_bytes(words[at]);
        let found = if index > i32::MAX as u32 { (index as i32).to_string() } else { index.to_string() };
        Err(Error::data(
            format!("input `{}` at {place:?}{step}", value.name),
            format!("an index below {}{or}", self.below),
            found,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::program::{Init, Rate};
    use crate::trace::Graph;

    fn u32s(values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_ne_bytes()).collect()
    }

    /// A table of 7 rows looked up by `ids`, whose rows are scores for `targets`.
    fn program(accum: usize) -> Program {
        let g = Graph::new("indices", true);
        g.set_grad_accum(accum);
        let table = g.param("table", [7, 5], Init::Fill(1.0));
        let ids = g.input("ids", Ty::new(DType::U32, [2, 3]), Rate::MicroStep);
        let targets = g.input("targets", Ty::new(DType::U32, [2, 3]), Rate::MicroStep);
        let rows = table.embedding(ids).reshape([6, 5]);
        let loss = rows.cross_entropy(targets.reshape([6]), 0.0);
        g.begin_update();
        g.output("loss", loss);
        g.finish().expect("a Program")
    }

    #[test]
    fn inputs_that_are_looked_up_have_ranges() {
        let p = program(1);
        let ranges = index_ranges(&p);
        let of = |name: &str| {
            let id = p.find(name).expect("an input");
            ranges.iter().find(|r| r.input == id).map(|r| (r.below, r.ignore))
        };
        assert_eq!((of("ids"), of("targets"), ranges.len()), (Some((7, false)), Some((5, true)), 2));
    }

    #[test]
    fn an_index_out_of_range_is_named_with_its_place() {
        let p = program(2);
        let ranges = index_ranges(&p);
        let check = |name: &str, values: &[u32]| {
            let id = p.find(name).expect("an input");
            let range = ranges.iter().find(|r| r.input == id).expect("a range");
            range.check(p.value(id), &u32s(values)).map_err(|e| e.to_string())
        };
        let good = [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 0];
        assert_eq!(check("ids", &good), Ok(()));
        let with = |at: usize, value: u32| {
            let mut values = good;
            values[at] = value;
            values
        };
        assert_eq!(check("targets", &with(3, IGNORE_INDEX)), Ok(()));
        let refused = |name: &str, at, value| check(name, &with(at, value)).expect_err("out of range");
        assert_eq!(refused("ids", 4, 7), "input `ids` at [1, 1] of micro-step 1: expected an index below 7, found 7");
        assert_eq!(refused("ids", 8, u32::MAX), "input `ids` at [0, 2] of micro-step 2: expected an index below 7, found -1");
        assert_eq!(
            refused("targets", 0, 5),
            "input `targets` at [0, 0] of micro-step 1: expected an index below 5, or -100 to leave it out, found 5"
        );
        assert!(check("ids", &with(0, IGNORE_INDEX)).is_err());
    }
}

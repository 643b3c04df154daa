//! Epilogues: what follows a product is done to its elements before they are stored, with the same bits.
//!
//! 1. A `Map` that is an activation of a product and nothing else joins it, if the product is not needed otherwise. The derivative of
//!    ReLU is no such need: it is positive where the result of ReLU is, so it reads that instead. Other derivatives need the product.
//! 2. A `Map` that adds a tensor of the same shape to a product that nobody else reads joins it: a residual connection, or a gradient that
//!    is added to its accumulator, which the product then adds to in place.
//!
//! The product may have been given another shape in between. The result comes to be where the product stood. It runs after the fusions of maps, which lose no partner this way.

use crate::dtype::DType;
use crate::op::Op;
use crate::op::expr::Map;
use crate::op::map::{BinaryFn, Node, UnaryFn};
use crate::op::matmul::{Activation, Epilogue, MatMul};
use crate::program::{Instr, Kind, Program, Value, ValueId};
use crate::shape::Ty;
use std::collections::HashSet;

/// Joins what can be joined.
pub fn run(program: &mut Program) {
    let mut dropped = vec![false; program.instrs.len()];
    for at in 0..program.instrs.len() {
        if let Some(joined) = activation(program, at).or_else(|| addend(program, at)) {
            dropped[joined] = true;
        }
    }
    super::retain(program, &dropped);
}

/// A product without an epilogue.
struct Plain<'a> {
    op: &'a MatMul,
    at: usize,
    /// The instruction that gives its result another shape before anything reads it.
    view: Option<usize>,
    /// Its result, in that shape: a temporary.
    id: ValueId,
}

impl Plain<'_> {
    fn of(program: &Program, at: usize) -> Option<Plain<'_>> {
        let Op::MatMul(op) = &program.instrs[at].op else { return None };
        let temporary = |id: ValueId| program.value(id).kind == Kind::Temp;
        let id = program.instrs[at].outputs[0];
        let view = match readers(program, id)[..] {
            [r] if matches!(program.instrs[r].op, Op::Reshape(_)) => Some(r),
            _ => None,
        };
        let seen = view.map_or(id, |r| program.instrs[r].outputs[0]);
        let fits = op.epilogue == Epilogue::None && temporary(id) && temporary(seen);
        fits.then_some(Plain { op, at, view, id: seen })
    }

    /// The product with an epilogue whose result, a value of this type and kind, takes the place of its own.
    fn with(&self, program: &Program, epilogue: Epilogue, result: ValueId) -> Option<MatMul> {
        let (stored, value) = (program.ty(self.id).dtype, program.value(result));
        // A view is a temporary.
        let fits = self.view.is_none() || value.kind == Kind::Temp;
        // What it rounds to so that its elements are those that were stored.
        let round = if stored == DType::F32 { self.op.round } else { Some(stored) };
        fits.then(|| MatMul { round, out: value.ty.dtype, epilogue, ..self.op.clone() })
    }

    /// Whether `reader` belongs to the same part of the step.
    fn beside(&self, program: &Program, reader: usize) -> bool {
        (self.at < program.micro_end) == (reader < program.micro_end)
    }
}

/// Lets the product `at` do the activation of its result. Gives the instruction that did it.
fn activation(program: &mut Program, at: usize) -> Option<usize> {
    let plain = Plain::of(program, at)?;
    let (id, view) = (plain.id, plain.view);
    let readers = readers(program, id);
    let (reader, function, result) = readers.iter().find_map(|&r| activation_of(program, r, id).map(|(f, y)| (r, f, y)))?;
    let (stored, out) = (program.ty(id).dtype, program.ty(result).dtype);
    let alone = readers.len() == 1;
    // A result of zero stands for a product that is not positive only where no positive one is rounded to zero.
    let by_result = function == Activation::Relu && (out == stored || out == DType::F32);
    let others = || readers.iter().filter(|&&r| r != reader).all(|&r| reads_sign_only(&program.instrs[r], id));
    if !plain.beside(program, reader) || !(alone || by_result && others()) {
        return None;
    }
    let joined = plain.with(program, Epilogue::Activation(function), result)?;
    for r in readers {
        program.instrs[r].inputs.iter_mut().filter(|i| **i == id).for_each(|i| *i = result);
    }
    join(program, at, view, reader, joined);
    Some(reader)
}

/// Lets the product `at` add what is added to its result. Gives the instruction that did it.
fn addend(program: &mut Program, at: usize) -> Option<usize> {
    let plain = Plain::of(program, at)?;
    let view = plain.view;
    let [reader] = readers(program, plain.id)[..] else { return None };
    let (addend, result) = sum_with(program, reader, plain.id)?;
    if !plain.beside(program, reader) || !movable(program, at, reader, addend, result) {
        return None;
    }
    let joined = plain.with(program, Epilogue::Add, result)?;
    program.instrs[at].inputs.push(addend);
    join(program, at, view, reader, joined);
    Some(reader)
}

/// The product `at` becomes `joined` and gives the result of `reader`, which is left with nothing to read or give.
fn join(program: &mut Program, at: usize, view: Option<usize>, reader: usize, joined: MatMul) {
    let done = &mut program.instrs[reader];
    let (outputs, why) = (std::mem::take(&mut done.outputs), done.why.take());
    done.inputs.clear();
    let outputs = match view {
        None => outputs,
        Some(view) => {
            let shape = program.ty(program.instrs[at].outputs[0]).shape.clone();
            let id = ValueId(program.values.len() as u32);
            program.values.push(Value { name: String::new(), ty: Ty { dtype: joined.out, shape }, kind: Kind::Temp });
            (program.instrs[view].inputs, program.instrs[view].outputs) = (vec![id], outputs);
            vec![id]
        }
    };
    let instr = &mut program.instrs[at];
    instr.op = joined.op();
    instr.outputs = outputs;
    instr.why = super::both_reasons(&instr.why, &why);
}

/// Instructions that read `id`.
fn readers(program: &Program, id: ValueId) -> Vec<usize> {
    (0..program.instrs.len()).filter(|&r| program.instrs[r].inputs.contains(&id)).collect()
}

/// The map that an instruction is and its result, if that is all it gives.
fn elementwise(program: &Program, at: usize) -> Option<(&Map, ValueId)> {
    let Op::Map(map) = &program.instrs[at].op else { return None };
    let [result] = program.instrs[at].outputs[..] else { return None };
    Some((map, result))
}

/// The activation of `id` that instruction `at` is, and its result.
fn activation_of(program: &Program, at: usize, id: ValueId) -> Option<(Activation, ValueId)> {
    let (map, result) = elementwise(program, at)?;
    let [Node::Input(0), Node::Unary(f, 0)] = map.expr.nodes[..] else { return None };
    let whole = map.expr.outputs == [1] && program.instrs[at].inputs == [id] && map.shape == program.ty(id).shape;
    let temporary = matches!(program.value(result).kind, Kind::Temp | Kind::Output);
    Activation::of(f).filter(|_| whole && temporary).map(|f| (f, result))
}

/// Whether an instruction uses `id` for nothing but the derivative of ReLU.
fn reads_sign_only(instr: &Instr, id: ValueId) -> bool {
    let Op::Map(map) = &instr.op else { return false };
    let is_it = |node: &Node| node.input().is_some_and(|n| instr.inputs[usize::from(n)] == id);
    let mut only = !map.expr.outputs.iter().any(|&o| is_it(&map.expr.nodes[usize::from(o)]));
    for node in &map.expr.nodes {
        let fine = matches!(node, Node::Unary(UnaryFn::ReluGrad, _));
        node.for_each_operand(|x| only &= fine || !is_it(&map.expr.nodes[usize::from(x)]));
    }
    only
}

/// What instruction `at` adds to `id`, an operand of the same shape, and the sum.
fn sum_with(program: &Program, at: usize, id: ValueId) -> Option<(ValueId, ValueId)> {
    let (map, result) = elementwise(program, at)?;
    let [Node::Input(a), Node::Input(b), Node::Binary(BinaryFn::Add, 0, 1)] = map.expr.nodes[..] else { return None };
    let inputs = &program.instrs[at].inputs;
    let [a, b] = [inputs[usize::from(a)], inputs[usize::from(b)]];
    let other = if a == id { b } else { a };
    let whole = map.shape == program.ty(id).shape && map.shape == program.ty(other).shape;
    let fits = map.expr.outputs == [2] && program.ty(other).dtype.is_float() && whole && other != id;
    fits.then_some((other, result))
}

/// Whether `result` may come to be at `at` instead of `reader`: the addend is there by then, and nothing between the two cares for what
/// either held. Two pieces of one buffer cannot be bound for reading and for writing, so they are not both among the persistent values
/// and the lists.
fn movable(program: &Program, at: usize, reader: usize, addend: ValueId, result: ValueId) -> bool {
    let viewed = program.viewed();
    let memory = |id: &ValueId| viewed[id.index()];
    let (from, to) = (memory(&addend), memory(&result));
    let touches = |ids: &[ValueId], what: ValueId| ids.iter().any(|id| memory(id) == what);
    let cares = |instr: &Instr| {
        let used = touches(&instr.outputs, from) || touches(&instr.outputs, to) || touches(&instr.inputs, to);
        let consumed = instr.op.aliases(instr.inputs.len()).iter().any(|&(_, k)| memory(&instr.inputs[k]) == from);
        used || consumed && !matches!(instr.op, Op::Reshape(_))
    };
    let placed = placed(program);
    let apart = from == to || !(placed.contains(&from) && placed.contains(&to));
    apart && !program.instrs[at..reader].iter().any(cares)
}

/// Values that share buffers with others: persistent ones and members of lists.
fn placed(program: &Program) -> HashSet<ValueId> {
    let viewed = program.viewed();
    let lists = program.instrs.iter().flat_map(|i| i.op.packs(i.inputs.len()).into_iter().flat_map(|r| &i.inputs[r]));
    let persistent = (0..program.values.len() as u32).map(ValueId).filter(|&id| program.value(id).kind.is_persistent());
    lists.map(|id| viewed[id.index()]).chain(persistent).collect()
}

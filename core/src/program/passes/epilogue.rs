//! Epilogues: what follows a matmul is done to its elements before they are stored, with the same bits.
//!
//! 1. A `Map` that is an activation of a matmul and nothing else joins it, if the matmul is not needed otherwise. The
//!    derivative of ReLU is no such need: it is positive where the result of ReLU is, so it reads that instead. Other
//!    derivatives need the matmul.
//! 2. A `Map` that adds a tensor of the same shape to a matmul that nobody else reads joins it: a residual connection,
//!    or a gradient that is added to its accumulator, which the matmul then adds to in place.
//!
//! The matmul may have been given another shape in between. The result comes to be where the matmul stood. It runs
//! after the fusions of maps, which lose no partner this way.

use crate::dtype::DType;
use crate::op::Op;
use crate::op::expr::Map;
use crate::op::map::{BinaryFn, Node, UnaryFn};
use crate::op::matmul::{Activation, Epilogue, MatMul};
use crate::program::{Instr, Kind, Program, Value, ValueId};
use crate::shape::Ty;
use std::ops::Range;

/// Joins what can be joined.
pub fn run(program: &mut Program) {
    let mut dropped = vec![false; program.instrs.len()];
    let mut uses = Uses::of(program);
    for at in 0..program.instrs.len() {
        if let Some(joined) = activation(program, &mut uses, at).or_else(|| addend(program, &mut uses, at)) {
            dropped[joined] = true;
        }
    }
    super::retain(program, &dropped);
}

/// A matmul without an epilogue.
struct Plain<'a> {
    op: &'a MatMul,
    at: usize,
    /// The instruction that gives its result another shape before anything reads it.
    view: Option<usize>,
    /// Its result, in that shape: a temporary.
    id: ValueId,
}

impl Plain<'_> {
    fn of<'p>(program: &'p Program, uses: &Uses, at: usize) -> Option<Plain<'p>> {
        let Op::MatMul(op) = &program.instrs[at].op else { return None };
        let temporary = |id: ValueId| program.value(id).kind == Kind::Temp;
        let id = program.instrs[at].outputs[0];
        let view = match uses.readers[id.index()][..] {
            [r] if matches!(program.instrs[r].op, Op::Reshape(_)) => Some(r),
            _ => None,
        };
        let seen = view.map_or(id, |r| program.instrs[r].outputs[0]);
        let fits = op.epilogue == Epilogue::None && temporary(id) && temporary(seen);
        fits.then_some(Plain { op, at, view, id: seen })
    }

    /// The matmul with an epilogue whose result, a value of this type and kind, takes the place of its own.
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

/// Lets the matmul `at` do the activation of its result. Gives the instruction that did it.
fn activation(program: &mut Program, uses: &mut Uses, at: usize) -> Option<usize> {
    let plain = Plain::of(program, uses, at)?;
    let (id, view) = (plain.id, plain.view);
    let readers = uses.readers[id.index()].clone();
    let (reader, function, result) = readers.iter().find_map(|&r| activation_of(program, r, id).map(|(f, y)| (r, f, y)))?;
    let (stored, out) = (program.ty(id).dtype, program.ty(result).dtype);
    let alone = readers.len() == 1;
    // A result of zero stands for a matmul that is not positive only where no positive one is rounded to zero.
    let by_result = function == Activation::Relu && (out == stored || out == DType::F32);
    let others = || readers.iter().filter(|&&r| r != reader).all(|&r| reads_sign_only(&program.instrs[r], id));
    if !plain.beside(program, reader) || !(alone || by_result && others()) {
        return None;
    }
    let joined = plain.with(program, Epilogue::Activation(function), result)?;
    for r in readers {
        program.instrs[r].inputs.iter_mut().filter(|i| **i == id).for_each(|i| *i = result);
        uses.stops_reading(r, id);
        uses.reads(r, result);
    }
    join(program, uses, at, view, reader, joined);
    Some(reader)
}

/// Lets the matmul `at` add what is added to its result. Gives the instruction that did it.
fn addend(program: &mut Program, uses: &mut Uses, at: usize) -> Option<usize> {
    let plain = Plain::of(program, uses, at)?;
    let view = plain.view;
    let [reader] = uses.readers[plain.id.index()][..] else { return None };
    let (addend, result) = sum_with(program, reader, plain.id)?;
    if !plain.beside(program, reader) || !uses.movable(program, at..reader, addend, result) {
        return None;
    }
    let joined = plain.with(program, Epilogue::Add, result)?;
    program.instrs[at].inputs.push(addend);
    uses.reads(at, addend);
    join(program, uses, at, view, reader, joined);
    Some(reader)
}

/// The matmul `at` becomes `joined` and gives the result of `reader`, which is left with nothing to read or give.
fn join(program: &mut Program, uses: &mut Uses, at: usize, view: Option<usize>, reader: usize, joined: MatMul) {
    let done = &mut program.instrs[reader];
    let (outputs, why) = (std::mem::take(&mut done.outputs), done.why.take());
    std::mem::take(&mut done.inputs).into_iter().for_each(|id| uses.stops_reading(reader, id));
    outputs.iter().for_each(|&id| uses.moves(id, reader, view.unwrap_or(at)));
    let outputs = match view {
        None => outputs,
        Some(view) => {
            let shape = program.ty(program.instrs[at].outputs[0]).shape.clone();
            let id = ValueId(program.values.len() as u32);
            program.values.push(Value { name: String::new(), ty: Ty { dtype: joined.out, shape }, kind: Kind::Temp });
            let product = program.instrs[view].inputs[0];
            uses.stops_reading(view, product);
            uses.add_product(at, view, outputs[0]);
            (program.instrs[view].inputs, program.instrs[view].outputs) = (vec![id], outputs);
            vec![id]
        }
    };
    let instr = &mut program.instrs[at];
    instr.op = joined.op();
    instr.outputs = outputs;
    instr.why = super::both_reasons(&instr.why, &why);
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

/// Who reads and writes each value, and which values show the same memory, kept up while matmuls take in what follows
/// them: looking for it anew for each matmul would make the pass quadratic.
struct Uses {
    /// Instructions that read each value, ascending.
    readers: Vec<Vec<usize>>,
    /// Instructions that write each value, ascending: several for a persistent one.
    writers: Vec<Vec<usize>>,
    /// The value whose memory each shows: itself, or what it is a reshape of.
    shows: Vec<ValueId>,
    /// The other values that show the memory of each.
    views: Vec<Vec<ValueId>>,
    /// Whether each value lies in a buffer with others: persistent ones and members of lists.
    placed: Vec<bool>,
}

impl Uses {
    fn of(program: &Program) -> Uses {
        let (n, shows) = (program.values.len(), program.viewed());
        let (mut writers, mut views) = (vec![Vec::new(); n], vec![Vec::new(); n]);
        let mut placed: Vec<bool> = program.values.iter().map(|v| v.kind.is_persistent()).collect();
        for (at, instr) in program.instrs.iter().enumerate() {
            instr.outputs.iter().for_each(|o| insert(&mut writers[o.index()], at));
            for list in instr.op.packs(instr.inputs.len()) {
                instr.inputs[list].iter().for_each(|id| placed[shows[id.index()].index()] = true);
            }
        }
        for (i, root) in shows.iter().enumerate().filter(|(i, root)| *i != root.index()) {
            views[root.index()].push(ValueId(i as u32));
        }
        Uses { readers: program.readers(), writers, shows, views, placed }
    }

    fn reads(&mut self, at: usize, id: ValueId) {
        insert(&mut self.readers[id.index()], at);
    }

    fn stops_reading(&mut self, at: usize, id: ValueId) {
        self.readers[id.index()].retain(|&r| r != at);
    }

    /// `id` is written at `to` and no more at `from`.
    fn moves(&mut self, id: ValueId, from: usize, to: usize) {
        let writers = &mut self.writers[id.index()];
        writers.retain(|&w| w != from);
        insert(writers, to);
    }

    /// A new value, written at `at` and read at `view`, whose memory `result` now shows, and whatever showed that of
    /// `result`.
    fn add_product(&mut self, at: usize, view: usize, result: ValueId) {
        let id = ValueId(self.shows.len() as u32);
        let mut views = std::mem::take(&mut self.views[result.index()]);
        views.push(result);
        views.iter().for_each(|v| self.shows[v.index()] = id);
        self.shows.push(id);
        self.views.push(views);
        self.readers.push(vec![view]);
        self.writers.push(vec![at]);
        let placed = std::mem::take(&mut self.placed[result.index()]);
        self.placed.push(placed);
    }

    /// Whether `result` may come to be at the start of `range` instead of its end: the addend is there by then, and
    /// nothing between the two cares for what either held. Two pieces of one buffer cannot be bound for reading and for
    /// writing, so they are not both among the persistent values and the lists.
    fn movable(&self, program: &Program, range: Range<usize>, addend: ValueId, result: ValueId) -> bool {
        let (from, to) = (self.shows[addend.index()], self.shows[result.index()]);
        let within = |list: &[usize]| {
            let first = list.partition_point(|&at| at < range.start);
            list[first..].iter().copied().take_while(|&at| at < range.end).collect::<Vec<_>>()
        };
        let written = |id: ValueId| !within(&self.writers[id.index()]).is_empty();
        let read = |id: ValueId| !within(&self.readers[id.index()]).is_empty();
        let consumed = |id: ValueId| {
            within(&self.readers[id.index()]).into_iter().any(|at| {
                let instr = &program.instrs[at];
                let aliases = instr.op.aliases(instr.inputs.len());
                !matches!(instr.op, Op::Reshape(_)) && aliases.iter().any(|&(_, k)| instr.inputs[k] == id)
            })
        };
        let of = |root: ValueId| std::iter::once(root).chain(self.views[root.index()].iter().copied());
        let apart = from == to || !(self.placed[from.index()] && self.placed[to.index()]);
        apart && !of(from).any(|id| written(id) || consumed(id)) && !of(to).any(|id| written(id) || read(id))
    }
}

/// Keeps `list` ascending, each entry once.
fn insert(list: &mut Vec<usize>, at: usize) {
    if let Err(place) = list.binary_search(&at) {
        list.insert(place, at);
    }
}

//! Fusion: fewer passes over memory, the same bits.
//!
//! 1. A cast that is the only reader of a value computed in f32 becomes the store dtype of the producer.
//! 2. A cast to f32 that is the only reader of a value stored narrow becomes a rounding before the producer's f32
//!    store.
//! 3. A cast to f32 whose readers take any float dtype is left out: they read the narrow value, which widens exactly.
//! 4. A `Map` that is the only reader of another `Map`'s result of the same shape takes that expression in; the storage
//!    dtype of the intermediate stays as a `Round` node.
//!
//! 5. A `Map` that reads nothing but what an earlier `Map` of the same shape reads or writes becomes further outputs of
//!    that one: the value in f32 and its copy in bf16 come from one pass.
//!
//! Fusing a producer into a later reader keeps the producer's operands alive until then. It is done only where that
//! holds back no more bytes than the intermediate itself would take.

use super::{both_reasons, retain};
use crate::dtype::DType;
use crate::op::expr::Map;

use crate::op::Op;
use crate::op::map::{MAX_OPERANDS, MapExpr, Source};
use crate::program::{Instr, Kind, Program, ValueId};

/// Runs them until nothing changes: a fusion can leave a value with one reader that had two.
pub fn run(program: &mut Program) {
    loop {
        let before = program.instrs.len();
        fold_casts(program);
        round_on_store(program);
        read_narrow(program);
        join_maps(program);
        join_outputs(program);
        if program.instrs.len() == before {
            return;
        }
    }
}

/// The index of the only reader of `id`, if it is a plain temporary with one reader in the same part of the Program.
fn only_reader(program: &Program, readers: &[Vec<usize>], id: ValueId, writer: usize) -> Option<usize> {
    let [reader] = readers[id.index()][..] else { return None };
    let together = (writer < program.micro_end) == (reader < program.micro_end);
    let once = program.instrs[reader].inputs.iter().filter(|&&i| i == id).count() == 1;
    (program.value(id).kind == Kind::Temp && together && once).then_some(reader)
}

fn fold_casts(program: &mut Program) {
    let readers = program.readers();
    let mut dropped = vec![false; program.instrs.len()];
    for at in 0..program.instrs.len() {
        let id = match program.instrs[at].outputs.first() {
            // What is rounded already would be rounded twice.
            Some(&id) if program.ty(id).dtype == DType::F32 && program.instrs[at].op.rounded_dtype().is_none() => id,
            Some(_) | None => continue,
        };
        let Some(reader) = only_reader(program, &readers, id, at) else { continue };
        let Op::Map(m) = &program.instrs[reader].op else { continue };
        let Some(dtype) = m.as_cast(program.ty(id)).filter(|d| d.is_float()) else { continue };
        let (cast_out, why) = (program.instrs[reader].outputs[0], program.instrs[reader].why.clone());
        if !matches!(program.value(cast_out).kind, Kind::Temp | Kind::Output) {
            continue;
        }
        let instr = &mut program.instrs[at];
        let Some(out) = instr.op.out_dtype_mut() else { continue };
        *out = dtype;
        instr.outputs[0] = cast_out;
        instr.why = both_reasons(&instr.why, &why);
        dropped[reader] = true;
    }
    retain(program, &dropped);
}

fn round_on_store(program: &mut Program) {
    let readers = program.readers();
    let mut dropped = vec![false; program.instrs.len()];
    for at in 0..program.instrs.len() {
        let Some(&id) = program.instrs[at].outputs.first() else { continue };
        let Some(reader) = only_reader(program, &readers, id, at) else { continue };
        let Op::Map(m) = &program.instrs[reader].op else { continue };
        let (narrow, cast_out) = (program.ty(id).dtype, program.instrs[reader].outputs[0]);
        let widens = m.as_cast(program.ty(id)) == Some(DType::F32) && narrow.is_float() && narrow != DType::F32;
        if !widens || !matches!(program.value(cast_out).kind, Kind::Temp | Kind::Output) {
            continue;
        }
        let why = program.instrs[reader].why.clone();
        let instr = &mut program.instrs[at];
        let Some(round) = instr.op.round_mut() else { continue };
        *round = Some(narrow);
        let Some(out) = instr.op.out_dtype_mut() else { continue };
        *out = DType::F32;
        instr.outputs[0] = cast_out;
        instr.why = both_reasons(&instr.why, &why);
        dropped[reader] = true;
    }
    retain(program, &dropped);
}

fn read_narrow(program: &mut Program) {
    let readers = program.readers();
    for at in 0..program.instrs.len() {
        let Op::Map(m) = &program.instrs[at].op else { continue };
        let (Some(&from), Some(&to)) = (program.instrs[at].inputs.first(), program.instrs[at].outputs.first()) else {
            continue;
        };
        let widens = m.as_cast(program.ty(from)) == Some(DType::F32) && program.ty(from).dtype.is_float();
        let temporary = program.value(from).kind == Kind::Temp && program.value(to).kind == Kind::Temp;
        let all_take_it = readers[to.index()].iter().all(|&r| {
            let reader = &program.instrs[r];
            (0..reader.inputs.len()).filter(|&k| reader.inputs[k] == to).all(|k| reader.op.reads_any_float(k))
        });
        if widens && temporary && all_take_it {
            for &r in &readers[to.index()] {
                program.instrs[r].inputs.iter_mut().filter(|i| **i == to).for_each(|i| *i = from);
            }
        }
    }
}

fn join_maps(program: &mut Program) {
    let mut readers = program.readers();
    let viewed = program.viewed();
    let mut dropped = vec![false; program.instrs.len()];
    for at in 0..program.instrs.len() {
        let Op::Map(producer) = &program.instrs[at].op else { continue };
        let [id] = program.instrs[at].outputs[..] else { continue };
        let Some(reader) = only_reader(program, &readers, id, at) else { continue };
        let Op::Map(consumer) = &program.instrs[reader].op else { continue };
        if consumer.shape != producer.shape
            || !worth_it(program, &readers, at, reader, id)
            || overwritten(program, &viewed, at, reader)
        {
            continue;
        }
        let Some((map, inputs)) = inline(program, at, reader, id, producer, consumer) else { continue };
        let why = both_reasons(&program.instrs[at].why, &program.instrs[reader].why);
        for &i in &program.instrs[at].inputs {
            let list = &mut readers[i.index()];
            list.retain(|&r| r != at && r != reader);
            list.push(reader);
            list.sort_unstable();
        }
        let instr = &mut program.instrs[reader];
        instr.op = map.op();
        instr.inputs = inputs;
        instr.why = why;
        dropped[at] = true;
    }
    retain(program, &dropped);
}

/// Joins a `Map` to an earlier one whose result it reads, where that result has other readers too.
fn join_outputs(program: &mut Program) {
    let viewed = program.viewed();
    let mut dropped = vec![false; program.instrs.len()];
    for at in 0..program.instrs.len() {
        let Op::Map(producer) = &program.instrs[at].op else { continue };
        let temporary = |id: &ValueId| program.value(*id).kind == Kind::Temp;
        if dropped[at] || producer.expr.nodes.len() == 1 || !program.instrs[at].outputs.iter().all(temporary) {
            continue;
        }
        let part = (at < program.micro_end, program.instrs[at].scope);
        let end = (at + 1 + REACH).min(program.instrs.len());
        let found = (at + 1..end).find_map(|reader| {
            let instr = &program.instrs[reader];
            let Op::Map(consumer) = &instr.op else { return None };
            let reads = instr.inputs.iter().any(|i| program.instrs[at].outputs.contains(i));
            let near = !dropped[reader] && (reader < program.micro_end) == part.0;
            let fits = near && reads && consumer.shape == producer.shape && instr.outputs.iter().all(temporary);
            if !fits || overwritten(program, &viewed, at, reader) {
                return None;
            }
            both(program, at, reader, producer, consumer).map(|map| (reader, map))
        });
        let Some((reader, map)) = found else { continue };
        let (outputs, why) = (program.instrs[reader].outputs.clone(), program.instrs[reader].why.clone());
        let instr = &mut program.instrs[at];
        instr.op = map.op();
        instr.outputs.extend(outputs);
        instr.why = both_reasons(&instr.why, &why);
        dropped[reader] = true;
    }
    retain(program, &dropped);
}

/// Instructions that a reader may come after its producer to be joined to it: its result then lives for so much longer.
const REACH: usize = 4;

/// One map with the outputs of both, over the operands of the first; `None` where the second reads anything else, or
/// the result would be too large.
fn both(program: &Program, at: usize, reader: usize, producer: &Map, consumer: &Map) -> Option<Map> {
    let first = &program.instrs[at];
    let inner: Vec<u16> = (0..first.inputs.len() as u16).collect();
    let sources: Option<Vec<Source<'_>>> = program.instrs[reader]
        .inputs
        .iter()
        .map(|v| match first.outputs.iter().position(|o| o == v) {
            Some(output) => {
                let dtype = program.ty(*v).dtype;
                Some(Source::Producer { producer: &producer.expr, output, dtype, inputs: &inner })
            }
            None => first.inputs.iter().position(|i| i == v).map(|n| Source::Input(n as u16)),
        })
        .collect();
    let second = consumer.expr.substitute(&sources?).ok()?;
    let expr = producer.expr.beside(&second).ok()?;
    let operands = first.inputs.len() + expr.outputs.len();
    (operands <= MAX_OPERANDS).then(|| Map {
        expr,
        shape: producer.shape.clone(),
        out: [producer.out.clone(), consumer.out.clone()].concat(),
    })
}

/// The consumer with the producer's expression in place of input `id`, and its operands.
fn inline(
    program: &Program,
    at: usize,
    reader: usize,
    id: ValueId,
    producer: &Map,
    consumer: &Map,
) -> Option<(Map, Vec<ValueId>)> {
    let mut inputs: Vec<ValueId> = Vec::new();
    let mut number = |v: ValueId| {
        let i = inputs.iter().position(|&x| x == v).unwrap_or_else(|| {
            inputs.push(v);
            inputs.len() - 1
        });
        i as u16
    };
    let outer: Vec<Option<u16>> = program.instrs[reader].inputs.iter().map(|&v| (v != id).then(|| number(v))).collect();
    let inner: Vec<u16> = program.instrs[at].inputs.iter().map(|&v| number(v)).collect();
    let sources: Vec<Source<'_>> = outer
        .iter()
        .map(|n| match n {
            Some(n) => Source::Input(*n),
            None => Source::Producer { producer: &producer.expr, output: 0, dtype: program.ty(id).dtype, inputs: &inner },
        })
        .collect();
    if inputs.len() + consumer.out.len() > MAX_OPERANDS {
        return None;
    }
    let expr: MapExpr = consumer.expr.substitute(&sources).ok()?;
    Some((Map { expr, shape: consumer.shape.clone(), out: consumer.out.clone() }, inputs))
}

/// Bytes of operands that only the producer still needs, against the bytes of the intermediate.
fn worth_it(program: &Program, readers: &[Vec<usize>], at: usize, reader: usize, id: ValueId) -> bool {
    let held: usize = program.instrs[at]
        .inputs
        .iter()
        .filter(|i| matches!(program.value(**i).kind, Kind::Temp))
        .filter(|i| readers[i.index()].iter().all(|&r| r < reader))
        .map(|&i| program.ty(i).size_bytes())
        .sum();
    held <= program.ty(id).size_bytes()
}

/// Whether the memory of an operand of the producer is written, or consumed in place, between the two instructions.
fn overwritten(program: &Program, viewed: &[ValueId], at: usize, reader: usize) -> bool {
    let memory = |id: &ValueId| viewed[id.index()];
    let operands: Vec<ValueId> = program.instrs[at].inputs.iter().map(memory).collect();
    program.instrs[at + 1..reader].iter().any(|instr: &Instr| {
        if let Op::Reshape(_) = instr.op {
            return false;
        }
        let written = instr.outputs.iter().any(|o| operands.contains(&memory(o)));
        let consumed = instr.op.aliases(instr.inputs.len()).iter().any(|&(_, i)| operands.contains(&memory(&instr.inputs[i])));
        written || consumed
    })
}

//! An independent check of memory plans: liveness recomputed from the instructions, then every pair of values that
//! share bytes.

use mantissa_core::op::Op;
use mantissa_core::op::matmul::Epilogue;
use mantissa_core::program::memory::{Layout, MemoryPlan, Place};
use mantissa_core::program::{Kind, Program, Rate};
use std::sync::Arc;

/// One piece of memory that holds one value, or several that are the same memory by contract.
struct Life {
    place: Place,
    /// Instruction that writes it first; `None` if it is there before the step.
    from: Option<usize>,
    /// Last instruction that reads it; `None` if it must outlive the step.
    to: Option<usize>,
    /// Values that share it.
    values: Vec<usize>,
}

fn lives(program: &Program, plan: &MemoryPlan) -> Vec<Life> {
    let n = program.values.len();
    // Union of aliases, by relabelling: small Programs.
    let mut class: Vec<usize> = (0..n).collect();
    for instr in &program.instrs {
        for (o, i) in instr.op.aliases(instr.inputs.len()) {
            let (a, b) = (class[instr.outputs[o].index()], class[instr.inputs[i].index()]);
            class.iter_mut().filter(|c| **c == a).for_each(|c| *c = b);
        }
    }
    let mut list = Vec::new();
    for c in 0..n {
        let values: Vec<usize> = (0..n).filter(|&v| class[v] == c).collect();
        let touching = |at: &usize| {
            let instr = &program.instrs[*at];
            instr.inputs.iter().chain(&instr.outputs).any(|id| values.contains(&id.index()))
        };
        let touched: Vec<usize> = (0..program.instrs.len()).filter(touching).collect();
        let (Some(&first), Some(&last)) = (touched.first(), touched.last()) else { continue };
        let place = plan.places[values[0]].expect("a touched value has a place");
        for &v in &values {
            assert_eq!(plan.places[v], Some(place), "aliases lie in one place");
            assert_eq!(place.size, program.values[v].ty.size_bytes(), "%{v} {} in its place", program.values[v].ty);
        }
        let any = |keep: fn(&Kind) -> bool| values.iter().any(|&v| keep(&program.values[v].kind));
        let outside = any(|k| k.is_persistent() || matches!(k, Kind::Input(_)));
        let kept = any(|k| k.is_persistent() || matches!(k, Kind::Output | Kind::Input(Rate::MicroStep | Rate::Step)));
        list.push(Life { place, from: (!outside).then_some(first), to: (!kept).then_some(last), values });
    }
    list
}

/// Asserts that no two live values share a byte, that every place lies in its buffer, and that the total is the sum.
pub(super) fn check(program: &Program) {
    let layout = Arc::new(Layout::new(program));
    let plan = MemoryPlan::new(program, &layout).unwrap_or_else(|e| panic!("{e}\n{program}"));
    let sizes: Vec<usize> = layout.buffers.iter().chain(&plan.buffers).map(|b| b.size).collect();
    assert_eq!(plan.total_bytes(), sizes.iter().sum::<usize>());
    assert_eq!(plan.bytes_by_purpose().iter().map(|(_, n)| n).sum::<usize>(), plan.total_bytes());
    let lives = lives(program, &plan);
    for life in &lives {
        assert!(life.place.offset + life.place.size <= sizes[life.place.buffer], "a place inside its buffer");
    }
    for (k, a) in lives.iter().enumerate() {
        for b in &lives[k + 1..] {
            let shared = a.place.buffer == b.place.buffer
                && a.place.offset < b.place.offset + b.place.size
                && b.place.offset < a.place.offset + a.place.size;
            if shared {
                let (early, late) = if a.from <= b.from { (a, b) } else { (b, a) };
                assert!(
                    disjoint(program, early, late),
                    "{:?} and {:?} are live together in one place\n{program}",
                    early.values,
                    late.values
                );
            }
        }
    }
}

/// `early` is read for the last time before `late` is written, or by the very instruction that writes `late`, element
/// by element: a map, or a matmul that adds it.
fn disjoint(program: &Program, early: &Life, late: &Life) -> bool {
    let (Some(end), Some(start)) = (early.to, late.from) else { return false };
    if end < start {
        return true;
    }
    let instr = &program.instrs[start];
    let adds_last = matches!(&instr.op, Op::MatMul(m) if m.epilogue == Epilogue::Add);
    let in_step = |k: usize| matches!(instr.op, Op::Map(_)) || adds_last && k + 1 == instr.inputs.len();
    let Some(&out) = instr.outputs.iter().find(|o| late.values.contains(&o.index())) else { return false };
    let mut shared = (0..instr.inputs.len()).filter(|&k| early.values.contains(&instr.inputs[k].index()));
    end == start && shared.all(|k| in_step(k) && program.ty(instr.inputs[k]) == program.ty(out))
}

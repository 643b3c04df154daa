//! Common subexpression elimination: an instruction equal to an earlier one (same operation, same input values, no
//! write to those inputs in between) is dropped and its readers take the earlier result.
//!
//! This is the weight-cast cache of autocast: the key holds operation (with dtype), value and version, so a cast is
//! shared exactly when it would give the same bits.

use crate::op::Op;
use crate::program::{Program, ValueId};
use std::collections::HashMap;

/// Merges equal instructions within each part of the Program.
pub fn run(program: &mut Program) {
    let n = program.values.len();
    let mut version = vec![0u32; n];
    let mut replaced: Vec<ValueId> = (0..n as u32).map(ValueId).collect();
    let mut seen: HashMap<(Op, Vec<(ValueId, u32)>), usize> = HashMap::new();
    let mut keep = vec![true; program.instrs.len()];
    // A member of a list operand has a place of its own in memory: two equal gradients stay two values.
    let mut listed = vec![false; n];
    for instr in &program.instrs {
        for list in instr.op.packs(instr.inputs.len()) {
            instr.inputs[list].iter().for_each(|i| listed[i.index()] = true);
        }
    }
    for at in 0..program.instrs.len() {
        if at == program.micro_end {
            seen.clear();
        }
        for k in 0..program.instrs[at].inputs.len() {
            let id = program.instrs[at].inputs[k];
            program.instrs[at].inputs[k] = replaced[id.index()];
        }
        let instr = &program.instrs[at];
        let writes_state = instr.outputs.iter().any(|&o| program.value(o).kind != crate::program::Kind::Temp);
        let updates_in_place = !matches!(instr.op, Op::Reshape(_)) && !instr.op.aliases(instr.inputs.len()).is_empty();
        let in_list = instr.outputs.iter().any(|o| listed[o.index()]);
        if !writes_state && !updates_in_place && !in_list {
            let key = (instr.op.clone(), instr.inputs.iter().map(|&i| (i, version[i.index()])).collect::<Vec<_>>());
            match seen.get(&key) {
                Some(&first) => {
                    for (k, &o) in program.instrs[at].outputs.iter().enumerate() {
                        replaced[o.index()] = program.instrs[first].outputs[k];
                    }
                    keep[at] = false;
                    continue;
                }
                None => {
                    seen.insert(key, at);
                }
            }
        }
        for &o in &program.instrs[at].outputs {
            version[o.index()] += 1;
        }
    }
    let micro = keep[..program.micro_end].iter().filter(|&&k| k).count();
    let mut keep = keep.into_iter();
    program.instrs.retain(|_| keep.next().unwrap_or(true));
    program.micro_end = micro;
}

//! Dead code elimination: keep what writes a `Param`, a `State` or an `Output`, and what that reads.

use crate::program::{Kind, Program, ValueId};

/// Removes instructions whose results nobody uses.
pub fn run(program: &mut Program) {
    let mut live = vec![false; program.values.len()];
    let mut keep = vec![false; program.instrs.len()];
    for (i, instr) in program.instrs.iter().enumerate().rev() {
        let used = instr.outputs.iter().any(|o| live[o.index()] || is_root(program, *o));
        if used {
            keep[i] = true;
            for id in &instr.inputs {
                live[id.index()] = true;
            }
        }
    }
    let micro = keep[..program.micro_end].iter().filter(|&&k| k).count();
    let mut keep = keep.into_iter();
    program.instrs.retain(|_| keep.next().unwrap_or(true));
    program.micro_end = micro;
}

fn is_root(program: &Program, output: ValueId) -> bool {
    match program.value(output).kind {
        Kind::Param(_) | Kind::State(..) | Kind::Output => true,
        Kind::Input(_) | Kind::Temp => false,
    }
}

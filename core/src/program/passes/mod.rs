//! Rewrites of a recorded Program that never change a bit of its results.
//!
//! Order: [`cse`] merges equal instructions (the weight-cast cache falls out of it), [`fuse`] joins elementwise chains
//! and folds casts into the stores of their producers, [`dce`] drops what nothing reads, [`epilogue`] lets matmuls do
//! what follows them. Each is idempotent.

pub mod cse;
pub mod dce;
pub mod epilogue;
pub mod fuse;

use super::Program;
use std::sync::Arc;

/// Runs all passes until nothing changes: what one leaves behind can be work for another.
pub fn optimize(program: &mut Program) {
    until_nothing_changes(program, |program| {
        without_epilogues(program);
        epilogue::run(program);
    });
}

/// All passes but [`epilogue`]: every matmul result is materialised, for observers.
pub fn without_epilogues(program: &mut Program) {
    until_nothing_changes(program, |program| {
        cse::run(program);
        dce::run(program);
        fuse::run(program);
        dce::run(program);
    });
}

fn until_nothing_changes(program: &mut Program, passes: impl Fn(&mut Program)) {
    loop {
        let before = program.instrs.len();
        passes(program);
        if program.instrs.len() == before {
            return;
        }
    }
}

/// Why an instruction does what two did.
fn both_reasons(a: &Option<Arc<str>>, b: &Option<Arc<str>>) -> Option<Arc<str>> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => Some(Arc::from(format!("{a}; {b}"))),
        (Some(x), _) | (None, Some(x)) => Some(x.clone()),
        (None, None) => None,
    }
}

fn retain(program: &mut Program, dropped: &[bool]) {
    program.micro_end -= dropped[..program.micro_end].iter().filter(|&&d| d).count();
    let mut dropped = dropped.iter();
    program.instrs.retain(|_| !dropped.next().copied().unwrap_or(false));
}

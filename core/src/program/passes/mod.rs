//! Rewrites of a recorded Program that never change a bit of its results.
//!
//! Order: [`cse`] merges equal instructions (the weight-cast cache falls out of it), [`fuse`] joins elementwise chains and folds
//! casts into the stores of their producers, [`dce`] drops what nothing reads. Each is idempotent.

pub mod cse;
pub mod dce;
pub mod fuse;

use super::Program;

/// Runs all passes until nothing changes: what one leaves behind can be work for another.
pub fn optimize(program: &mut Program) {
    loop {
        let before = program.instrs.len();
        cse::run(program);
        dce::run(program);
        fuse::run(program);
        dce::run(program);
        if program.instrs.len() == before {
            return;
        }
    }
}

//! Rules that every backend relies on. A Program that breaks one is refused, naming instruction, scope, expected and
//! found.

use super::{Instr, Kind, Program};
use crate::error::{Error, Result};
use crate::shape::Shape;

/// Elements of the largest value that is believed. Shape rules, prices and memory plans then stay far from the limits
/// of 64 bits; every memory is smaller.
pub const MAX_ELEMENTS: u64 = 1 << 40;
/// Most micro-steps of a step.
const MAX_GRAD_ACCUM: usize = 1 << 16;

/// No product of axes, empty ones aside, is above [`MAX_ELEMENTS`].
fn fits(shape: &Shape) -> bool {
    shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis.max(1) as u64)).is_some_and(|n| n <= MAX_ELEMENTS)
}

impl Program {
    /// Checks the whole Program. Fails at the first instruction that breaks a rule, with its operation, scope, what was
    /// expected and what was found.
    pub fn validate(&self) -> Result<()> {
        let mut written = vec![false; self.values.len()];
        let mut micro_temp = vec![false; self.values.len()];
        let mut consumed = vec![false; self.values.len()];
        // How often the memory of a value has been updated in place, and at which of these a view of it was taken.
        let mut updates = vec![0u32; self.values.len()];
        let mut view: Vec<Option<(usize, u32)>> = vec![None; self.values.len()];
        if self.micro_end > self.instrs.len() || !(1..=MAX_GRAD_ACCUM).contains(&self.grad_accum) || self.scopes.is_empty() {
            return Err(Error::Program {
                instr: 0,
                op: "program".into(),
                scope: String::new(),
                expected: format!(
                    "micro_end within {} instructions, grad_accum of 1 to {MAX_GRAD_ACCUM}, a root scope",
                    self.instrs.len()
                ),
                found: format!("micro_end {}, grad_accum {}, {} scopes", self.micro_end, self.grad_accum, self.scopes.len()),
            });
        }
        if let Some((i, found)) = self.values.iter().enumerate().find(|(_, v)| !fits(&v.ty.shape)) {
            return Err(Error::Program {
                instr: 0,
                op: "program".into(),
                scope: String::new(),
                expected: format!("values of at most {MAX_ELEMENTS} elements"),
                found: format!("%{i} {} {}", found.name, found.ty),
            });
        }
        for (at, instr) in self.instrs.iter().enumerate() {
            let fail = |expected: String, found: String| Error::Program {
                instr: at,
                op: instr.op.row().name.to_string(),
                scope: self.scopes.get(instr.scope.0 as usize).cloned().unwrap_or_default(),
                expected,
                found,
            };
            if instr.scope.0 as usize >= self.scopes.len() {
                return Err(fail(format!("a scope below {}", self.scopes.len()), instr.scope.0.to_string()));
            }
            for &id in instr.inputs.iter().chain(&instr.outputs) {
                if id.index() >= self.values.len() {
                    return Err(fail(format!("a value below %{}", self.values.len()), format!("%{}", id.0)));
                }
            }
            for &id in &instr.inputs {
                let i = id.index();
                match self.values[i].kind {
                    Kind::Param(_) | Kind::State(..) | Kind::Input(_) => {}
                    Kind::Temp | Kind::Output => {
                        if !written[i] {
                            return Err(fail("inputs written before they are read".into(), self.describe(i)));
                        }
                        let stale = view[i].is_some_and(|(root, taken)| updates[root] != taken);
                        if consumed[i] || stale {
                            return Err(fail("no reader after an in-place update".into(), self.describe(i)));
                        }
                        if at >= self.micro_end && micro_temp[i] && self.grad_accum > 1 {
                            let want = "only states to pass from micro-steps to the update";
                            return Err(fail(want.into(), self.describe(i)));
                        }
                    }
                }
            }
            self.check_types(instr).map_err(|e| fail("operands its rule accepts".into(), e.to_string()))?;
            for (out, input) in instr.op.updates(instr.inputs.len()) {
                let (o, i) = (instr.outputs[out], instr.inputs[input]);
                if o != i || !self.value(o).kind.is_persistent() {
                    let want = "each updated state among the outputs, at its place";
                    return Err(fail(want.into(), self.describe(o.index())));
                }
            }
            for &id in &instr.outputs {
                let i = id.index();
                match self.values[i].kind {
                    Kind::Param(_) | Kind::State(..) => updates[i] += 1,
                    Kind::Input(_) => return Err(fail("outputs that may be written".into(), self.describe(i))),
                    Kind::Temp | Kind::Output => {
                        if std::mem::replace(&mut written[i], true) {
                            return Err(fail("each temporary written once".into(), self.describe(i)));
                        }
                        micro_temp[i] = at < self.micro_end;
                    }
                }
            }
            if let crate::op::Op::Reshape(_) = instr.op {
                let i = instr.inputs[0].index();
                let root = view[i].map_or(i, |(root, _)| root);
                view[instr.outputs[0].index()] = Some((root, updates[root]));
            } else {
                for (out, input) in instr.op.aliases(instr.inputs.len()) {
                    let i = instr.inputs[input].index();
                    match self.values[i].kind {
                        Kind::Temp | Kind::Output => {
                            consumed[i] = true;
                            updates[view[i].map_or(i, |(root, _)| root)] += 1;
                        }
                        Kind::Param(_) | Kind::State(..) if instr.outputs[out] == instr.inputs[input] => {}
                        Kind::Param(_) | Kind::State(..) | Kind::Input(_) => {
                            return Err(fail("an in-place update of a temporary or of its own state".into(), self.describe(i)));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn check_types(&self, instr: &Instr) -> Result<()> {
        let want = instr.op.infer(&self.input_types(instr))?;
        let found = self.output_types(instr);
        if want == found {
            return Ok(());
        }
        let show = |list: &[crate::shape::Ty]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(Error::operand(instr.op.row().name, format!("outputs {}", show(&want)), show(&found)))
    }

    fn describe(&self, i: usize) -> String {
        let v = &self.values[i];
        format!("%{i} {} {} ({:?})", v.name, v.ty, v.kind)
    }
}

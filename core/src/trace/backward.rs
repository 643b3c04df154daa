//! Reverse-mode differentiation: walks the tape backwards and appends gradient instructions.
//!
//! A gradient always has the dtype of the value it belongs to. Contributions of several readers are summed in that
//! dtype; since every autocast use of a weight is its own cast instruction (merged only later, by cse), a weight's
//! gradients are summed in f32.

use super::graph::{Backward, Graph, Var};
use super::rules;
use crate::error::Error;
use crate::program::ValueId;
use crate::shape::Ty;
use std::collections::HashMap;
use std::sync::Arc;

/// What stands before the reason of an instruction in that of its gradient.
const OF: &str = "gradient, ";

impl Graph {
    /// Gradients of the scalar `loss` with respect to `wrt`. `None` where `loss` does not depend on the value.
    #[track_caller]
    pub fn grad<'g>(&'g self, loss: Var<'g>, wrt: &[Var<'g>]) -> Vec<Option<Var<'g>>> {
        if loss.shape().numel() != 1 {
            self.fail(Error::operand("grad", "a scalar loss", loss.ty().to_string()));
            return vec![None; wrt.len()];
        }
        let one = self.no_grad(|| self.fill(1.0, loss.ty()));
        self.grad_from(&[(loss, one)], wrt)
    }

    /// Gradients with respect to `wrt`, given the gradients of some values.
    #[track_caller]
    pub fn grad_from<'g>(&'g self, seeds: &[(Var<'g>, Var<'g>)], wrt: &[Var<'g>]) -> Vec<Option<Var<'g>>> {
        let tape = self.take_tape();
        // Only entries between `wrt` and the seeds matter.
        let mut needed: HashMap<ValueId, bool> = wrt.iter().map(|v| (v.id, true)).collect();
        for entry in &tape {
            if entry.inputs.iter().any(|i| needed.contains_key(i)) {
                needed.extend(entry.outputs.iter().map(|&o| (o, true)));
            }
        }
        let mut grads: HashMap<ValueId, Var<'g>> = HashMap::new();
        self.no_grad(|| {
            for &(v, dv) in seeds {
                accumulate(&mut grads, v.id, dv);
            }
            for entry in tape.iter().rev() {
                let needs: Vec<bool> = entry.inputs.iter().map(|i| needed.contains_key(i)).collect();
                let dy: Vec<Option<Var<'g>>> = entry.outputs.iter().map(|o| grads.get(o).copied()).collect();
                if !needs.contains(&true) || dy.iter().all(Option::is_none) || self.failed() {
                    continue;
                }
                let _scope = self.enter(entry.scope);
                let _why = self.because(entry.why.as_ref().map(|why| Arc::from(format!("{OF}{why}"))));
                let dx = self.with_source(entry.source, || match &entry.rule {
                    Backward::Op(op) => {
                        let vars = |ids: &[ValueId]| ids.iter().map(|&id| self.var(id)).collect::<Vec<_>>();
                        let (inputs, outputs) = (vars(&entry.inputs), vars(&entry.outputs));
                        rules::backward(&rules::Context {
                            g: self,
                            op,
                            inputs: &inputs,
                            outputs: &outputs,
                            dy: &dy,
                            needs: &needs,
                        })
                    }
                    Backward::Custom(rule) => dy[0].map(|dy| (rule.0)(self, dy, &needs)).unwrap_or_default(),
                });
                for (k, dx) in dx.into_iter().enumerate() {
                    if let (Some(dx), true) = (dx, needs[k]) {
                        let want: Ty = self.ty(entry.inputs[k]);
                        if dx.ty() != want && !self.failed() {
                            let what = format!("gradient of input {k} of {}", name(&entry.rule));
                            self.fail(Error::operand(what, want.to_string(), dx.ty().to_string()));
                        }
                        self.with_source(entry.source, || accumulate(&mut grads, entry.inputs[k], dx));
                    }
                }
            }
        });
        self.put_back_tape(tape);
        wrt.iter().map(|v| grads.get(&v.id).copied()).collect()
    }
}

fn name(rule: &Backward) -> &'static str {
    match rule {
        Backward::Op(op) => op.row().name,
        Backward::Custom(_) => "a composite",
    }
}

fn accumulate<'g>(grads: &mut HashMap<ValueId, Var<'g>>, id: ValueId, dv: Var<'g>) {
    match grads.get_mut(&id) {
        Some(sum) => *sum = *sum + dv,
        None => {
            grads.insert(id, dv);
        }
    }
}

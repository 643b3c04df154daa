//! Optimizers, recorded as one fused multi-tensor instruction. The step counter and the moments live on the device.
//!
//! Weights, gradients and moments are f32, and so is the update. The learning rate is an f32 input named
//! `<optimizer>.lr`. A step whose `found_inf` is not 0 changes nothing, the step counter included.
//!
//! ```
#![doc = include_str!("../../docs/optimizer.rs")]
//! ```

pub mod schedule;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::update::{Optimizer, Rule};
use crate::op::{EPSILON, Op, Real, epsilon_ok};
use crate::program::{Init, Kind, Rate, Role, ValueId};
use crate::shape::Ty;
use crate::trace::{Graph, Owed, Var};
use serde::{Deserialize, Serialize};

/// Which optimizer, with its constants. Defaults are those of GPT-2 training (AdamW) and of PyTorch (the others).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum OptimConfig {
    /// Decoupled weight decay, applied to tensors of rank 2 and more.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Share of the weight taken off per unit of lr.
        weight_decay: f64,
    },
    /// Weight decay added to the gradient, for every tensor.
    Adam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the second moment.
        eps: f64,
        /// Added to the gradient per unit of weight.
        weight_decay: f64,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// Decay of the velocity.
        momentum: f64,
        /// Share of the gradient left out of the velocity.
        dampening: f64,
        /// Look ahead along the velocity.
        nesterov: bool,
        /// Added to the gradient per unit of weight.
        weight_decay: f64,
    },
}

impl OptimConfig {
    /// AdamW as in GPT-2 training.
    pub const fn adamw() -> OptimConfig {
        OptimConfig::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }

    /// Adam with the constants of its paper.
    pub const fn adam() -> OptimConfig {
        OptimConfig::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }

    /// Plain SGD with momentum.
    pub const fn sgd(momentum: f64) -> OptimConfig {
        OptimConfig::Sgd { momentum, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }

    /// Checks every constant, as the f32 that the update takes it as.
    ///
    /// An epsilon that is 0 there is refused: a weight whose gradients have all been exactly 0 would become 0 / 0,
    /// which no policy for non-finite steps can see, since gradients and loss are finite. So is a subnormal one, which
    /// many a device takes for 0. Fails at the first that is out of range, naming it as `optim.<name>`.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, name: &str, want: &str, got: f64| {
            if ok { Ok(()) } else { Err(Error::number(format!("optim.{name}"), want, got)) }
        };
        let decay_ok = |wd: f64| {
            check(wd >= 0.0 && (wd as f32).is_finite(), "weight_decay", "a value of at least 0 that is finite as f32", wd)
        };
        match *self {
            OptimConfig::AdamW { beta1, beta2, eps, weight_decay } | OptimConfig::Adam { beta1, beta2, eps, weight_decay } => {
                check((0.0..1.0).contains(&beta1), "beta1", "a value in [0, 1)", beta1)?;
                check((0.0..1.0).contains(&beta2), "beta2", "a value in [0, 1)", beta2)?;
                check(epsilon_ok(eps as f32), "eps", EPSILON, eps)?;
                decay_ok(weight_decay)
            }
            OptimConfig::Sgd { momentum, dampening, nesterov, weight_decay } => {
                check((0.0..1.0).contains(&momentum), "momentum", "a value in [0, 1)", momentum)?;
                check((0.0..=1.0).contains(&dampening), "dampening", "a value in [0, 1]", dampening)?;
                check(!nesterov || (momentum > 0.0 && dampening == 0.0), "nesterov", "momentum without dampening", momentum)?;
                decay_ok(weight_decay)
            }
        }
    }

    fn rule(&self) -> Rule {
        match *self {
            OptimConfig::AdamW { beta1, beta2, eps, .. } => {
                Rule::Adam { beta1: Real(beta1), beta2: Real(beta2), eps: Real(eps), decoupled: true }
            }
            OptimConfig::Adam { beta1, beta2, eps, .. } => {
                Rule::Adam { beta1: Real(beta1), beta2: Real(beta2), eps: Real(eps), decoupled: false }
            }
            OptimConfig::Sgd { momentum, dampening, nesterov, .. } => {
                Rule::Sgd { momentum: Real(momentum), dampening: Real(dampening), nesterov }
            }
        }
    }

    fn decay(&self, rank: usize) -> f64 {
        match *self {
            OptimConfig::AdamW { weight_decay, .. } => {
                if rank >= 2 {
                    weight_decay
                } else {
                    0.0
                }
            }
            OptimConfig::Adam { weight_decay, .. } | OptimConfig::Sgd { weight_decay, .. } => weight_decay,
        }
    }
}

/// An optimizer over a list of parameters, while recording a step.
#[derive(Debug)]
pub struct Optim<'g> {
    g: &'g Graph,
    name: String,
    config: OptimConfig,
    params: Vec<Var<'g>>,
    grads: Option<Vec<Var<'g>>>,
    clip_coef: Option<Var<'g>>,
}

impl<'g> Optim<'g> {
    /// An optimizer named `name` (its states are `name.step`, `name.m.<param>`, ..) over `params`.
    /// [`crate::precision::GradScaler::step`] must follow. Fails if `config` is out of range, `params` is empty, or an
    /// optimizer of that name is there.
    #[track_caller]
    pub fn new(name: &str, config: OptimConfig, params: Vec<Var<'g>>) -> Result<Optim<'g>> {
        config.validate()?;
        let first = params.first().ok_or_else(|| Error::config("optim.params", "at least one parameter", "none"))?;
        let owed = Owed::Step(name.to_string());
        if first.g.knows(&owed) {
            return Err(first.g.misuse("Optim::new", format!("there is an optimizer `{name}`"), "give each a name of its own"));
        }
        first.g.owe(owed);
        Ok(Optim { g: first.g, name: name.to_string(), config, params, grads: None, clip_coef: None })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The recording it belongs to.
    pub fn graph(&self) -> &'g Graph {
        self.g
    }

    /// Its parameters.
    pub fn params(&self) -> &[Var<'g>] {
        &self.params
    }

    /// Differentiates `loss` (scaled, where there is a scaler) and keeps the gradients, summed over micro-steps if
    /// there are several. Once a step: for several losses, differentiate their sum.
    #[track_caller]
    pub fn backward(&mut self, loss: Var<'g>) {
        let grads = self.g.grad(loss, &self.params);
        self.set_grads(grads);
    }

    /// Takes gradients computed elsewhere; `None` stands for zero.
    #[track_caller]
    pub fn set_grads(&mut self, grads: Vec<Option<Var<'g>>>) {
        let g = self.g;
        if self.grads.is_some() {
            let problem =
                format!("the optimizer `{}` has gradients that were not stepped on, and they would be lost", self.name);
            g.fail(Error::misuse("backward", problem, "call it once a step, on the sum of the losses"));
            return;
        }
        g.owe(Owed::Step(self.name.clone()));
        let accumulate = g.grad_accum() > 1;
        let mut taken: Vec<ValueId> = Vec::new();
        let mut out = Vec::with_capacity(grads.len());
        for (param, grad) in self.params.iter().zip(grads) {
            let grad = match grad {
                Some(v) => v.cast(DType::F32),
                None => g.fill(0.0, param.ty()),
            };
            out.push(if accumulate {
                let name = format!("{}.grad.{}", self.name, g.name(param.id));
                let sum = g.root_state(&name, param.ty(), Role::Accumulator, 0.0);
                g.add_into(sum, grad);
                g.var(sum)
            } else if grad_is_own(g, grad.id, &taken) {
                grad
            } else {
                grad.copy()
            });
            taken.push(out[out.len() - 1].id);
        }
        self.grads = Some(out);
    }

    /// The gradients, in parameter order. Fails before [`Optim::backward`] or [`Optim::set_grads`], and after the step.
    #[track_caller]
    pub fn grads(&self) -> Result<&[Var<'g>]> {
        match &self.grads {
            Some(grads) => Ok(grads),
            None => Err(self.g.misuse("optimizer", "it has no gradients", "call backward before unscale, clip and step")),
        }
    }

    pub(crate) fn replace_grads(&mut self, grads: Vec<Var<'g>>) {
        self.grads = Some(grads);
    }

    pub(crate) fn set_clip_coef(&mut self, coef: Var<'g>) {
        self.clip_coef = Some(coef);
    }

    /// Whether a clipping factor waits for the step.
    pub(crate) fn is_clipped(&self) -> bool {
        self.clip_coef.is_some()
    }

    /// Records the update of parameters, moments and step counter, skipped where `found_inf` is not 0.
    #[track_caller]
    pub(crate) fn record_step(&mut self, found_inf: Option<Var<'g>>) -> Result<()> {
        let g = self.g;
        g.check_in_update("step")?;
        let rule = self.config.rule();
        let grads: Vec<ValueId> = self.grads()?.iter().map(|v| v.id).collect();
        let lr = g.input(&format!("{}.lr", self.name), Ty::scalar(DType::F32), Rate::Step);
        let step = g.root_state(&format!("{}.step", self.name), Ty::scalar(DType::U32), Role::Optimizer, 0.0);
        let params: Vec<ValueId> = self.params.iter().map(|v| v.id).collect();
        let moments: Vec<ValueId> = ["m", "v"][..rule.moments()]
            .iter()
            .flat_map(|m| self.params.iter().map(move |p| (m, p)))
            .map(|(m, p)| g.root_state(&format!("{}.{m}.{}", self.name, g.name(p.id)), p.ty(), Role::Optimizer, 0.0))
            .collect();
        let op = Optimizer {
            rule,
            weight_decay: self.params.iter().map(|p| Real(self.config.decay(p.shape().len()))).collect(),
            found_inf: found_inf.is_some(),
            clip_coef: self.clip_coef.is_some(),
        };
        let mut inputs = vec![lr.id, step];
        inputs.extend(found_inf.map(|v| v.id));
        inputs.extend(self.clip_coef.map(|v| v.id));
        inputs.extend([&params[..], &grads[..], &moments[..]].concat());
        let outputs: Vec<Option<ValueId>> = std::iter::once(step).chain(params).chain(moments).map(Some).collect();
        g.push_into(op.op(), &inputs, &outputs);
        if g.grad_accum() > 1 {
            let outputs: Vec<Option<ValueId>> = grads.iter().map(|&id| Some(id)).collect();
            g.push_into(Op::Zero, &grads, &outputs);
        }
        self.clip_coef = None;
        self.grads = None;
        g.settle(&Owed::Step(self.name.clone()));
        Ok(())
    }
}

/// A gradient can stand in a list as it is if it is a temporary of its own, not shared with another parameter.
fn grad_is_own(g: &Graph, id: ValueId, taken: &[ValueId]) -> bool {
    matches!(g.kind(id), Kind::Temp) && !taken.contains(&id) && !g.is_view(id)
}

/// First contents of a weight of a residual branch: GPT-2 divides by the root of the number of branches.
pub fn residual_init(std: f32, branches: usize) -> Init {
    Init::Normal { std: std / (branches as f32).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epsilon_that_f32_does_not_hold_is_refused() {
        let with = |eps: f64| {
            [
                OptimConfig::AdamW { beta1: 0.9, beta2: 0.95, eps, weight_decay: 0.1 },
                OptimConfig::Adam { beta1: 0.9, beta2: 0.95, eps, weight_decay: 0.1 },
            ]
        };
        for eps in [1e-8, 1e-30, 1.2e-38, 1.0] {
            assert!(with(eps).iter().all(|c| c.validate().is_ok()), "{eps:e}");
        }
        for eps in [0.0, -1e-8, 1e-46, 1e-40, 1e39, f64::INFINITY, f64::NAN] {
            for config in with(eps) {
                let error = config.validate().expect_err("refused").to_string();
                assert!(error.starts_with("optim.eps: expected a value of at least 1.1754944e-38"), "{error}");
            }
        }
        let decay = |weight_decay: f64| OptimConfig::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay };
        assert!(decay(0.0).validate().is_ok() && decay(1e39).validate().is_err());
    }
}

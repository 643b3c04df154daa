//! Optimizer steps over a list of parameters: AdamW, Adam and SGD, each one pass over memory.
//!
//! A set `found_inf` (anything but 0, NaN included) means that nothing at all is touched: weights, moments,
//! low-precision copies, step counter. Otherwise the gradient is multiplied by two factors (f32 products in this order,
//! the same bits as unscaling and clipping in passes of their own), and weights and moments are updated in f32 in
//! PyTorch's order of operations. `low` receives the new weight rounded once, so that the next step needs no cast.
//!
//! Adam takes a finite gradient beyond 2^63 as 2^63 with its sign, in both moments. Its square would exceed f32: in
//! PyTorch the second moment is then infinite for good, and the weight never moves again, without a word. Here updates
//! keep their bound and direction. An infinite gradient still makes the weight NaN.
//!
//! Scalars: the bias corrections `1 - beta^t` are `-expm1(t * ln beta)` in f64 and rounded to f32 once a step; a
//! backend without f64 evaluates the same form in f32, within a few ulps (invariant 3 covers skip and counter, not
//! these bits). Elements use add, subtract, multiply, divide and square root only. Products are not contracted into
//! fused multiply-adds here; a backend that does so agrees within tolerance.
//!
//! Sources: Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101; PyTorch
//! `optim/{adam,adamw,sgd}.py`.

use super::bits::is_set;
use super::chunks::{BLOCK, Splittable, blocks, for_each_chunk};
use crate::float::view::{View, ViewMut};
use crate::par::{self, simd};

/// The update rule. Coefficients are f64, as written in a config; `1 - beta` is formed before rounding to f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OptimizerRule {
    /// Adam with decoupled weight decay: `p *= 1 - lr * weight_decay`, then the Adam step.
    AdamW {
        /// Decay rates of the first and second moment, each in `[0, 1)`.
        betas: [f64; 2],
        /// Added to the root of the second moment.
        eps: f64,
    },
    /// Adam with L2 regularization: `g += weight_decay * p`.
    Adam {
        /// Decay rates of the first and second moment, each in `[0, 1)`.
        betas: [f64; 2],
        /// Added to the root of the second moment.
        eps: f64,
    },
    /// Stochastic gradient descent: `g += weight_decay * p`, then momentum if it is not 0. The first step sets the
    /// momentum buffer to the gradient, undampened.
    Sgd {
        /// Decay rate of the momentum buffer.
        momentum: f64,
        /// Share of the gradient kept out of the buffer.
        dampening: f64,
        /// Step along `g + momentum * buffer` instead of `buffer`.
        nesterov: bool,
    },
}

impl OptimizerRule {
    /// Number of f32 moments a parameter needs: 2 for Adam, 1 for SGD with momentum, else 0.
    pub fn moments(&self) -> usize {
        match self {
            OptimizerRule::AdamW { .. } | OptimizerRule::Adam { .. } => 2,
            OptimizerRule::Sgd { momentum, .. } => usize::from(*momentum != 0.0),
        }
    }
}

/// One parameter tensor and what belongs to it; all of the same length but for unused moments, which are empty.
#[derive(Debug)]
pub struct ParamRef<'a> {
    /// Master weights.
    pub param: &'a mut [f32],
    /// Gradient, any float dtype; read only.
    pub grad: View<'a>,
    /// First moment of Adam, momentum buffer of SGD. Zero before the first step.
    pub moment1: &'a mut [f32],
    /// Second moment of Adam. Zero before the first step.
    pub moment2: &'a mut [f32],
    /// Receives the new weights in a storage dtype.
    pub low: Option<ViewMut<'a>>,
    /// Weight decay of this tensor; 0 for biases and norms by custom.
    pub weight_decay: f32,
}

/// The scalars of a step, all held as f32 by the Program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepScalars {
    /// Learning rate.
    pub lr: f32,
    /// Overflow flag; anything but 0 skips the step.
    pub found_inf: f32,
    /// Multiply the gradient one after the other: the inverse of a loss scale that it still carries and a clip factor,
    /// or the two factors of a clip; 1 where there is nothing to do.
    pub factors: [f32; 2],
}

/// One step over all `params`. `step` counts the steps taken and goes up by one unless the step is skipped.
pub fn optimizer_step(params: &mut [ParamRef<'_>], rule: &OptimizerRule, step: &mut u32, scalars: &StepScalars) {
    if is_set(scalars.found_inf) {
        return;
    }
    *step = step.saturating_add(1);
    match *rule {
        OptimizerRule::AdamW { betas, eps } => {
            let adam = Adam::new(betas, eps, *step, scalars);
            each(params, |p, row| adam.update::<true>(p, row));
        }
        OptimizerRule::Adam { betas, eps } => {
            let adam = Adam::new(betas, eps, *step, scalars);
            each(params, |p, row| adam.update::<false>(p, row));
        }
        OptimizerRule::Sgd { momentum, dampening, nesterov } => {
            let sgd = Sgd::new(momentum, dampening, *step == 1, scalars);
            match (momentum != 0.0, nesterov) {
                (false, _) => each(params, |p, row| sgd.plain(p, row)),
                (true, false) => each(params, |p, row| sgd.with_momentum::<false>(p, row)),
                (true, true) => each(params, |p, row| sgd.with_momentum::<true>(p, row)),
            }
        }
    }
}

/// At most [`BLOCK`] elements of a parameter, with the gradient decoded.
struct Row<'a> {
    param: &'a mut [f32],
    grad: &'a [f32],
    moment1: &'a mut [f32],
    moment2: &'a mut [f32],
}

/// Runs `update(weight_decay, row)` over all rows of all parameters in parallel, then stores the low-precision copy.
fn each(params: &mut [ParamRef<'_>], update: impl Fn(f32, Row<'_>) + Sync + Send) {
    par::chunks(params, 1, |_, one| {
        for_each_chunk(one[0].reborrow(), &|mut p: ParamRef<'_>| {
            let mut scratch = [0.0; BLOCK];
            for range in blocks(p.param.len()) {
                let grad = p.grad.load(range.clone(), &mut scratch);
                let part = |m: &'_ [f32]| if m.is_empty() { 0..0 } else { range.clone() };
                let (part1, part2) = (part(p.moment1), part(p.moment2));
                let (moment1, moment2) = (&mut p.moment1[part1], &mut p.moment2[part2]);
                update(p.weight_decay, Row { param: &mut p.param[range.clone()], grad, moment1, moment2 });
                if let Some(low) = &mut p.low {
                    low.store(range.start, &p.param[range]);
                }
            }
        });
    });
}

impl ParamRef<'_> {
    fn reborrow(&mut self) -> ParamRef<'_> {
        ParamRef {
            param: self.param,
            grad: self.grad,
            moment1: self.moment1,
            moment2: self.moment2,
            low: self.low.as_mut().map(ViewMut::reborrow),
            weight_decay: self.weight_decay,
        }
    }
}

impl Splittable for ParamRef<'_> {
    fn elements(&self) -> usize {
        debug_assert_eq!(self.param.len(), self.grad.len());
        self.param.len()
    }
    fn split(self, at: usize) -> (Self, Self) {
        let (param0, param1) = self.param.split_at_mut(at);
        let (grad0, grad1) = self.grad.split(at);
        let (m0, m1) = self.moment1.split_at_mut(at.min(self.moment1.len()));
        let (v0, v1) = self.moment2.split_at_mut(at.min(self.moment2.len()));
        let (low0, low1) = self.low.map(|low| low.split(at)).unzip();
        let weight_decay = self.weight_decay;
        (
            ParamRef { param: param0, grad: grad0, moment1: m0, moment2: v0, low: low0, weight_decay },
            ParamRef { param: param1, grad: grad1, moment1: m1, moment2: v1, low: low1, weight_decay },
        )
    }
}

/// `1 - beta^t` for `t >= 1`, without cancellation for beta near 1. For beta 0, `ln` gives -inf and the result is 1.
fn bias_correction(beta: f64, t: u32) -> f64 {
    -(f64::from(t) * beta.ln()).exp_m1()
}

/// Coefficients of one Adam step.
struct Adam {
    lr: f32,
    factors: [f32; 2],
    one_less_beta1: f32,
    beta2: f32,
    one_less_beta2: f32,
    /// `lr / (1 - beta1^t)`
    step_size: f32,
    /// `sqrt(1 - beta2^t)`
    root_correction2: f32,
    eps: f32,
}

impl Adam {
    fn new([beta1, beta2]: [f64; 2], eps: f64, t: u32, s: &StepScalars) -> Adam {
        Adam {
            lr: s.lr,
            factors: s.factors,
            one_less_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_less_beta2: (1.0 - beta2) as f32,
            step_size: (f64::from(s.lr) / bias_correction(beta1, t)) as f32,
            root_correction2: bias_correction(beta2, t).sqrt() as f32,
            eps: eps as f32,
        }
    }

    fn update<const DECOUPLED: bool>(&self, weight_decay: f32, row: Row<'_>) {
        let n = row.param.len();
        let (p, g) = (&mut row.param[..n], &row.grad[..n]);
        let (m, v) = (&mut row.moment1[..n], &mut row.moment2[..n]);
        let keep = 1.0 - self.lr * weight_decay;
        simd::vectorize(
            #[inline(always)]
            || {
                for i in 0..n {
                    let mut g = g[i] * self.factors[0] * self.factors[1];
                    let mut w = p[i];
                    if DECOUPLED {
                        w *= keep;
                    } else {
                        g += weight_decay * w;
                    }
                    let g = held(g);
                    let moment1 = m[i] + (g - m[i]) * self.one_less_beta1;
                    let moment2 = v[i] * self.beta2 + g * g * self.one_less_beta2;
                    let denominator = moment2.sqrt() / self.root_correction2 + self.eps;
                    m[i] = moment1;
                    v[i] = moment2;
                    p[i] = w - self.step_size * (moment1 / denominator);
                }
            },
        );
    }
}

/// Root of the largest second moment.
const LARGEST: f32 = (1u64 << 63) as f32;

/// A gradient whose square is within f32, unless it is not finite.
#[inline(always)]
fn held(g: f32) -> f32 {
    let magnitude = g.abs();
    if magnitude > LARGEST && magnitude < f32::INFINITY { LARGEST.copysign(g) } else { g }
}

/// Coefficients of one SGD step.
struct Sgd {
    lr: f32,
    factors: [f32; 2],
    momentum: f32,
    /// `1 - dampening`, or 1 on the first step
    share: f32,
}

impl Sgd {
    fn new(momentum: f64, dampening: f64, first: bool, s: &StepScalars) -> Sgd {
        Sgd {
            lr: s.lr,
            factors: s.factors,
            momentum: momentum as f32,
            share: if first { 1.0 } else { (1.0 - dampening) as f32 },
        }
    }

    fn plain(&self, weight_decay: f32, row: Row<'_>) {
        let n = row.param.len();
        let (p, g) = (&mut row.param[..n], &row.grad[..n]);
        simd::vectorize(
            #[inline(always)]
            || {
                for i in 0..n {
                    let g = g[i] * self.factors[0] * self.factors[1] + weight_decay * p[i];
                    p[i] -= self.lr * g;
                }
            },
        );
    }

    fn with_momentum<const NESTEROV: bool>(&self, weight_decay: f32, row: Row<'_>) {
        let n = row.param.len();
        let (p, g, b) = (&mut row.param[..n], &row.grad[..n], &mut row.moment1[..n]);
        simd::vectorize(
            #[inline(always)]
            || {
                for i in 0..n {
                    let g = g[i] * self.factors[0] * self.factors[1] + weight_decay * p[i];
                    let buffer = self.momentum * b[i] + self.share * g;
                    b[i] = buffer;
                    p[i] -= self.lr * if NESTEROV { g + self.momentum * buffer } else { buffer };
                }
            },
        );
    }
}

#[cfg(test)]
#[path = "optimizer_tests.rs"]
mod tests;

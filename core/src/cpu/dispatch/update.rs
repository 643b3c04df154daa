//! Binding of the precision kernels: quantization, unscale, clip, optimizer, scale updates, telemetry.

use super::Frame;
use crate::cpu::clip::{self, AdaptiveClip};
use crate::cpu::fp8_scale::{self, Fp8ScaleRule};
use crate::cpu::grad_norm;
use crate::cpu::loss_scale::{self, Factor, LossScaleRule, LossScaleState};
use crate::cpu::optimizer::{self, OptimizerRule, ParamRef, StepScalars};
use crate::cpu::quantize::{self, HistoryColumn, QuantizeStats, ScaleUsed};
use crate::cpu::quantize_mx;
use crate::cpu::tensor_stats;
use crate::cpu::unscale::{self, UnscaleRef};
use crate::float::view::{View, ViewMut};
use crate::op::Real;
use crate::op::quantize::{Quantize, QuantizeMx, Scaling, UpdateFp8Scales};
use crate::op::tensor_stats::{TensorStats, WORDS};
use crate::op::update::{ClipCoef, NormType, Optimizer, Record, RecordMode, Rule, UpdateLossScale};
use crate::program::memory::align;
use crate::program::operands::Operands;

/// Elements of the list operand, padding included.
pub(super) fn list_len(o: &Operands) -> usize {
    o.input_types.iter().map(|t| align(t.size_bytes()) / size_of::<f32>()).sum()
}

pub(super) fn clip_value(limit: Real, mut f: Frame<'_>) {
    clip::clip_value(&mut [f.next()], limit.f32());
}

pub(super) fn update_fp8_scales(u: &UpdateFp8Scales, f: Frame<'_>) {
    let [mut history, mut scale, mut nonfinite] = three(f);
    let fp8_max = |i: usize| u.formats[i].max_f32();
    let rule = Fp8ScaleRule { algo: u.algo, margin: u.margin, nonfinite: u.nonfinite };
    fp8_scale::update_fp8_scales(history.f32s(), scale.f32s(), fp8_max, nonfinite.u32s(), rule);
}

fn three(mut f: Frame<'_>) -> [ViewMut<'_>; 3] {
    std::array::from_fn(|_| f.next())
}

pub(super) fn quantize(q: &Quantize, mut f: Frame<'_>) {
    let (codes, mut scale_inv) = (f.next(), f.next());
    let (x, scale_inv) = (f.x[0], &mut scale_inv.f32s()[0]);
    let mut stats = QuantizeStats::default();
    let wanted = q.record.then_some(&mut stats);
    let used = match q.scaling {
        Scaling::Delayed { warm_up } => {
            let stored = f.x[1].f32s()[q.slot];
            let mut states = q.record.then(|| (f.next(), f.tx[2].shape[1]));
            let history = states.as_mut().map(|(history, tensors)| HistoryColumn::new(history.f32s(), *tensors, q.slot));
            quantize::quantize_delayed(x, stored, warm_up, history, codes, scale_inv, wanted)
        }
        Scaling::Current { amax_epsilon, power_of_two } => {
            quantize::quantize_current(x, amax_epsilon.f32(), power_of_two, codes, scale_inv, wanted)
        }
    };
    if q.record {
        quantize::stats_row(f.next().f32s(), q.slot, used, stats, x.len());
    }
}

pub(super) fn quantize_mx(q: &QuantizeMx, mut f: Frame<'_>) {
    let (x, codes, scales) = (f.x[0], f.next(), f.next());
    let mut stats = QuantizeStats::default();
    let wanted = q.record.then_some(&mut stats);
    quantize_mx::quantize_mx(x, f.tx[0].shape.last(), q.blocks, q.rule, codes, scales.bytes, wanted);
    if q.record {
        let used = ScaleUsed { scale: 1.0, amax: quantize::amax(x) };
        quantize::stats_row(f.next().f32s(), q.slot, used, stats, x.len());
    }
}

pub(super) fn tensor_stats(s: &TensorStats, mut f: Frame<'_>, work: &mut [f32]) {
    let mut rows = f.next();
    let row = &mut rows.u32s()[s.slot * WORDS..(s.slot + 1) * WORDS];
    let scale = s.scale_at.map_or(1.0, |at| f.x[1].f32s()[at]);
    tensor_stats::tensor_stats(f.x[0], s.format, scale, row, work);
}

pub(super) fn unscale_check(mut f: Frame<'_>) {
    let (mut found, grads) = (f.next(), f.next());
    let inv_scale = crate::op::update::inv_scale(f.x[0].f32s()[0]);
    let flag = &mut found.f32s()[0];
    *flag = 0.0;
    unscale::unscale(&mut [UnscaleRef { grad: None, out: grads }], inv_scale, flag, None);
}

pub(super) fn grad_norm(norm: NormType, mut f: Frame<'_>, work: &mut [f32]) {
    let (norms, work) = work.split_at_mut(1);
    let [norm, far] = grad_norm::grad_norm(&[f.x[0]], norm, norms, work);
    f.next().f32s()[0] = norm;
    f.next().f32s()[0] = far;
}

pub(super) fn clip_coef(c: &ClipCoef, mut f: Frame<'_>) {
    let norm = [0, 1].map(|i| f.x[i].f32s()[0]);
    match c.percentile {
        None => f.next().f32s().copy_from_slice(&clip::clip_coef(norm, c.max_norm.f32())),
        Some(percentile) => {
            let [mut coef, mut ring, mut count] = three(f);
            let (ring, count) = (ring.f32s(), &mut count.u32s()[0]);
            let rule = AdaptiveClip::new(percentile.0, ring.len() as u32, c.max_norm.f32());
            coef.f32s().copy_from_slice(&clip::clip_coef(norm, rule.max_norm(ring, *count)));
            AdaptiveClip::record(ring, count, norm[0], 0.0);
        }
    }
}

pub(super) fn update_loss_scale(u: &UpdateLossScale, f: Frame<'_>) {
    let found: arrayvec::ArrayVec<f32, { super::MAX_OPERANDS }> = f.x[3..].iter().map(|v| v.f32s()[0]).collect();
    let [mut scale, mut tracker, mut hysteresis] = three(f);
    let (scale, tracker, hysteresis) = (&mut scale.f32s()[0], &mut tracker.u32s()[0], &mut hysteresis.u32s()[0]);
    let factor = |r: Real| Factor::from(r.0);
    let rule = LossScaleRule {
        growth: factor(u.growth_factor),
        backoff: factor(u.backoff_factor),
        growth_interval: u.growth_interval as i32,
        min_scale: u.min_scale.f32(),
        hysteresis: u.hysteresis as i32,
    };
    let mut state = LossScaleState { scale: *scale, growth_tracker: *tracker as i32, hysteresis_tracker: *hysteresis as i32 };
    loss_scale::update_loss_scale(&mut state, &found, &rule);
    (*scale, *tracker, *hysteresis) = (state.scale, state.growth_tracker as u32, state.hysteresis_tracker as u32);
}

pub(super) fn optimizer_step(o: &Optimizer, mut f: Frame<'_>) {
    let mut counter = f.next();
    let mut lists = [f.y.pop(), f.y.pop(), f.y.pop()];
    let Frame { x, tx, .. } = f;
    let mut scalars = StepScalars { lr: x[0].f32s()[0], found_inf: 0.0, factors: [1.0; 2] };
    if o.found_inf {
        scalars.found_inf = x[2].f32s()[0];
    }
    if o.clip_coef {
        scalars.factors.copy_from_slice(x[2 + usize::from(o.found_inf)].f32s());
    }
    let rule = match o.rule {
        Rule::Adam { beta1, beta2, eps, decoupled: true } => OptimizerRule::AdamW { betas: [beta1.0, beta2.0], eps: eps.0 },
        Rule::Adam { beta1, beta2, eps, decoupled: false } => OptimizerRule::Adam { betas: [beta1.0, beta2.0], eps: eps.0 },
        Rule::Sgd { momentum, dampening, nesterov } => {
            OptimizerRule::Sgd { momentum: momentum.0, dampening: dampening.0, nesterov }
        }
    };
    let grads = x[o.scalars() + 1].f32s();
    let [params, moment1, moment2] = lists.each_mut().map(|l| l.as_mut().map_or(&mut [][..], |v| v.f32s()));
    let mut rest = (params, grads, moment1, moment2);
    let before = counter.u32s()[0];
    let mut after = before;
    // Members with one weight decay are updated together: the list lies in one piece.
    let members: &[crate::shape::Ty] = &tx[o.scalars()..o.scalars() + o.len()];
    let mut from = 0;
    while from < members.len() {
        let decay = o.weight_decay[from];
        let to = (from..members.len()).find(|&i| o.weight_decay[i] != decay).unwrap_or(members.len());
        let len: usize = members[from..to].iter().map(|t| align(t.size_bytes()) / size_of::<f32>()).sum();
        let (p, m, v) = (cut(&mut rest.0, len), cut(&mut rest.2, len), cut(&mut rest.3, len));
        let (grad, grads) = rest.1.split_at(len);
        rest.1 = grads;
        let member = ParamRef { param: p, grad: View::of(grad), moment1: m, moment2: v, low: None, weight_decay: decay.f32() };
        let mut step = before;
        optimizer::optimizer_step(&mut [member], &rule, &mut step, &scalars);
        after = step;
        from = to;
    }
    counter.u32s()[0] = after;
}

/// Takes the first `len` elements off; an absent moment stays empty.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let whole = std::mem::take(rest);
    let (head, tail) = whole.split_at_mut(len.min(whole.len()));
    *rest = tail;
    head
}

pub(super) fn record(r: &Record, mut f: Frame<'_>) {
    let value = f.x[0].f32s()[0];
    let mut telemetry = f.next();
    let slot = &mut telemetry.f32s()[r.slot];
    match r.mode {
        RecordMode::Set => *slot = value,
        RecordMode::Add => *slot += value,
    }
}

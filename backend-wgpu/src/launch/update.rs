//! Launches of what happens after the backward pass.

use super::VEC8_BYTES;
use super::builder::{Arg, Frame, kernel};
use mantissa_core::cpu::clip::AdaptiveClip;
use mantissa_core::cpu::loss_scale::Factor;
use mantissa_core::error::Result;
use mantissa_core::op::Real;
use mantissa_core::op::update::{ClipCoef, NormType, Optimizer, Record, RecordMode, Rule, UpdateLossScale};
use mantissa_core::program::memory::align;

const WORD: usize = size_of::<u32>();

/// Vec8s of an input; a list lies in one piece.
fn vec8_count(f: &Frame<'_>, input: usize) -> usize {
    f.x_place(input).size.div_ceil(VEC8_BYTES)
}

/// A list set to zero.
pub(super) fn zero(f: &mut Frame<'_>) -> Result<()> {
    let words = f.x_place(0).size / WORD;
    f.push(kernel("zero", "zero").uniform("words", words).bind("y", f.y(0)).items(words).done()?);
    Ok(())
}

/// A scalar into its telemetry slot.
pub(super) fn record(r: &Record, f: &mut Frame<'_>) -> Result<()> {
    let add = u32::from(r.mode == RecordMode::Add);
    let launch = kernel("record", "record").set("ADD", add).uniform("slot", r.slot).bind("x", f.x(0)).bind("y", f.y(0));
    f.push(launch.done()?);
    Ok(())
}

/// The reciprocal and a cleared flag, then the list.
pub(super) fn unscale_check(f: &mut Frame<'_>) -> Result<()> {
    let vec8_count = vec8_count(f, 1);
    let inv_scale = f.scratch(WORD);
    let launch = |entry| {
        let k = kernel("unscale", entry).uniform("vec8_count", vec8_count);
        k.bind("inv_scale", inv_scale).bind("found_inf", f.y(0))
    };
    let launches = [
        launch("prepare").bind("loss_scale", f.x(0)).done()?,
        launch("unscale").bind("grads", f.y(1)).items(vec8_count).done()?,
    ];
    launches.into_iter().for_each(|l| f.push(l));
    Ok(())
}

/// The flags of more optimizers than a launch sees, then the update.
pub(super) fn update_loss_scale(u: &UpdateLossScale, f: &mut Frame<'_>) -> Result<()> {
    const FLAGS: [&str; 4] = ["found_inf0", "found_inf1", "found_inf2", "found_inf3"];
    const STATES: usize = 3;
    let joined = f.scratch(WORD);
    let (growth, backoff) = (Factor::from(u.growth_factor.0), Factor::from(u.backoff_factor.0));
    let flags: Vec<Arg> = (STATES..f.inputs()).map(|i| f.x(i)).collect();
    let parts: Vec<&[Arg]> = flags.chunks(FLAGS.len()).collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        let mut launch = kernel("loss_scale", if last { "update_loss_scale" } else { "join" })
            .set("JOINED", u32::from(i > 0))
            .uniform("growth_hi", growth.hi as usize)
            .uniform("growth_lo", growth.lo as usize)
            .uniform("backoff_hi", backoff.hi as usize)
            .uniform("backoff_lo", backoff.lo as usize)
            .uniform("growth_interval", u.growth_interval as usize)
            .uniform_f32("min_scale", u.min_scale.f32())
            .uniform("hysteresis", u.hysteresis as usize)
            .bind("joined", joined);
        for (k, name) in FLAGS.into_iter().enumerate() {
            launch = launch.bind(name, part.get(k).copied().unwrap_or(Arg::Absent));
        }
        if last {
            launch = launch.bind("loss_scale", f.y(0)).bind("growth_tracker", f.y(1)).bind("hysteresis_tracker", f.y(2));
        }
        f.push(launch.done()?);
    }
    Ok(())
}

/// Sums by pieces, then their sum.
pub(super) fn grad_norm(norm: NormType, f: &mut Frame<'_>) -> Result<()> {
    // Vec8s that a workgroup of the kernel reads.
    const PIECE: usize = 8 * 256;
    let kind = match norm {
        NormType::L2 => 0,
        NormType::L1 => 1,
        NormType::Inf => 2,
    };
    let vec8_count = vec8_count(f, 0);
    let pieces = vec8_count.div_ceil(PIECE);
    let sums = f.scratch(pieces * 4 * WORD);
    let launch = |entry| {
        let k = kernel("grad_norm", entry).set("NORM", kind);
        k.uniform("vec8_count", vec8_count).uniform("pieces", pieces).bind("sums", sums)
    };
    f.push(launch("pieces").bind("x", f.x(0)).groups(pieces).done()?);
    f.push(launch("total").bind("y", f.y(0)).bind("far", f.y(1)).done()?);
    Ok(())
}

/// The factor, and with a percentile the ring of past norms.
pub(super) fn clip_coef(c: &ClipCoef, f: &mut Frame<'_>) -> Result<()> {
    let window = f.tx().get(2).map_or(0, |ring| ring.shape.numel());
    let rank = c.percentile.map_or(0, |p| AdaptiveClip::new(p.0, window as u32, c.max_norm.f32()).rank);
    let entry = if c.percentile.is_some() { "adaptive" } else { "coef" };
    let mut launch = kernel("clip", entry)
        .uniform_f32("max_norm", c.max_norm.f32())
        .uniform("rank", rank as usize)
        .uniform("window", window)
        .uniform("vec8_count", 0)
        .bind("norm", f.x(0))
        .bind("far", f.x(1))
        .bind("coef_out", f.y(0));
    if c.percentile.is_some() {
        launch = launch.bind("ring", f.y(1)).bind("count", f.y(2));
    }
    f.push(launch.done()?);
    Ok(())
}

/// A list held in `[-limit, limit]`.
pub(super) fn clip_value(limit: Real, f: &mut Frame<'_>) -> Result<()> {
    let vec8_count = vec8_count(f, 0);
    let launch = kernel("clip", "value")
        .uniform_f32("max_norm", limit.f32())
        .uniform("rank", 0)
        .uniform("window", 0)
        .uniform("vec8_count", vec8_count)
        .bind("grads", f.y(0));
    f.push(launch.items(vec8_count).done()?);
    Ok(())
}

/// Coefficients of the step, then one pass over all lists.
pub(super) fn optimizer(o: &Optimizer, f: &mut Frame<'_>) -> Result<()> {
    // Vec8s that an invocation of the kernel updates.
    const EACH: usize = 2;
    let scalars = o.scalars();
    let moment = |k: usize| if k < o.rule.moments() { f.x(scalars + 2 + k) } else { Arg::Absent };
    let moments = [moment(0), moment(1)];
    let vec8_count = vec8_count(f, scalars);
    let decays = decays(o, f);
    let runs = decays.len() / 2;
    let now = f.scratch(8 * WORD);
    let launch = |entry| {
        let k = kernel("optimizer", entry)
            .set("FOUND_INF", u32::from(o.found_inf))
            .set("CLIP_COEF", u32::from(o.clip_coef))
            .uniform("vec8_count", vec8_count)
            .uniform("runs", runs)
            .bind("now", now);
        let (rule, [one_less_beta1, beta2, one_less_beta2, eps, momentum, one_less_dampening]) = match o.rule {
            Rule::Adam { beta1, beta2, eps, decoupled } => {
                (u32::from(!decoupled), [1.0 - beta1.0, beta2.0, 1.0 - beta2.0, eps.0, 0.0, 0.0])
            }
            Rule::Sgd { momentum, dampening, nesterov } => {
                let rule = if momentum.0 == 0.0 { 2 } else { 3 + u32::from(nesterov) };
                (rule, [0.0, 0.0, 0.0, 0.0, momentum.0, 1.0 - dampening.0])
            }
        };
        k.set("RULE", rule)
            .uniform_f32("one_less_beta1", one_less_beta1 as f32)
            .uniform_f32("beta2", beta2 as f32)
            .uniform_f32("one_less_beta2", one_less_beta2 as f32)
            .uniform_f32("eps", eps as f32)
            .uniform_f32("momentum", momentum as f32)
            .uniform_f32("one_less_dampening", one_less_dampening as f32)
    };
    let found_inf = if o.found_inf { f.x(2) } else { Arg::Absent };
    let clip_coef = if o.clip_coef { f.x(scalars - 1) } else { Arg::Absent };
    let prepare = launch("prepare").bind("lr", f.x(0)).bind("found_inf", found_inf).bind("clip_coef", clip_coef);
    f.push(prepare.table("powers", powers(&o.rule)).bind("counter", f.y(0)).done()?);
    let step_all = launch("step_all").bind("param", f.x(scalars)).bind("grad", f.x(scalars + 1));
    let step_all = step_all.bind("moment1", moments[0]).bind("moment2", moments[1]).table("decays", decays);
    f.push(step_all.items(vec8_count / EACH).done()?);
    Ok(())
}

/// `1 - beta^(2^k)` of both rates for each bit k of the step counter.
fn powers(rule: &Rule) -> Vec<u32> {
    let betas = match rule {
        Rule::Adam { beta1, beta2, .. } => [beta1.0, beta2.0],
        Rule::Sgd { .. } => [0.0; 2],
    };
    let power = |k: i32, beta: f64| (-(2f64.powi(k) * beta.ln()).exp_m1()) as f32;
    (0..u32::BITS as i32).flat_map(|k| betas.map(|beta| power(k, beta).to_bits())).collect()
}

/// For each run of members with one weight decay: the index one past its last vec8, the decay.
fn decays(o: &Optimizer, f: &Frame<'_>) -> Vec<u32> {
    let members = &f.tx()[o.scalars()..o.scalars() + o.len()];
    let mut runs: Vec<[u32; 2]> = Vec::new();
    let mut end = 0;
    for (member, decay) in members.iter().zip(&o.weight_decay) {
        end += (align(member.size_bytes()) / VEC8_BYTES) as u32;
        let decay = decay.f32().to_bits();
        match runs.last_mut() {
            Some(last) if last[1] == decay => last[0] = end,
            _ => runs.push([end, decay]),
        }
    }
    runs.into_flattened()
}

//! What the values that a run keeps say by themselves, between two steps: NaN in weights or moments, a loss scale at
//! its floor, fp8 scales and histories that are dead, frozen or poisoned.

use super::finding::{Finding, Severity};
use crate::dtype::DType;
use crate::error::Result;
use crate::precision::fp8::{HISTORY, NONFINITE, SCALE};
use crate::precision::scaler::LOSS_SCALE;
use crate::precision::settings::Fp8Scaling;
use crate::program::memory::Purpose;
use crate::train::Session;

/// Recorded amaxes from which a history that does not move counts as frozen.
const FROZEN: usize = 8;
/// Values named in a finding.
const NAMED: usize = 8;

/// Findings about the persistent values of `session` as they are now, worst first. Fails if the device does.
pub fn findings(session: &Session) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.extend(nonfinite(session)?);
    findings.extend(loss_scale(session)?);
    findings.extend(fp8(session)?);
    findings.sort_by_key(|f| f.severity);
    Ok(findings)
}

fn finding(session: &Session, severity: Severity, problem: String, evidence: Vec<String>, remedy: &str) -> Finding {
    let more = evidence.len().saturating_sub(NAMED);
    let mut evidence = evidence;
    evidence.truncate(NAMED);
    evidence.extend((more > 0).then(|| format!("and {more} more")));
    Finding { severity, step: session.steps(), problem, evidence, remedy: remedy.into() }
}

/// Weights and moments with elements that are not finite.
fn nonfinite(session: &Session) -> Result<Option<Finding>> {
    let mut bad = Vec::new();
    let judged = session.saved().filter(|e| matches!(e.purpose, Purpose::Weights | Purpose::Optimizer));
    for entry in judged.filter(|e| e.ty.dtype == DType::F32) {
        let values = session.read_f32(&entry.name)?;
        let count = |of: fn(f32) -> bool| values.iter().filter(|x| of(**x)).count();
        let (nans, infs) = (count(f32::is_nan), count(f32::is_infinite));
        if nans + infs > 0 {
            bad.push(format!("{} {}: {nans} NaN, {infs} inf of {}", entry.name, entry.ty, values.len()));
        }
    }
    let problem = format!("{} weights or moments are not finite: the run is lost from here on", bad.len());
    let remedy =
        "go back to an earlier checkpoint, or start again with a lower --lr or --grad-clip 1, and keep --on-nonfinite skip";
    Ok((!bad.is_empty()).then(|| finding(session, Severity::Fatal, problem, bad, remedy)))
}

fn loss_scale(session: &Session) -> Result<Option<Finding>> {
    let Some(config) = session.config().recipe.scaler else { return Ok(None) };
    let scale = session.read_f32(LOSS_SCALE)?[0];
    let low = f64::from(scale) <= config.min_scale || scale < 1.0;
    let problem = format!("the loss scale is {scale}: it has fallen to where it cannot be the cause of overflows");
    let evidence = vec![format!("{} of {} steps were skipped", session.skipped(), session.steps())];
    let remedy = "lower --lr, clip (--grad-clip 1), use --recipe bf16, or keep the layer that overflows in f32 (--override)";
    Ok(low.then(|| finding(session, Severity::Warning, problem, evidence, remedy)))
}

fn fp8(session: &Session) -> Result<Vec<Finding>> {
    let slots = &session.program().fp8_slots;
    let delayed = match session.config().recipe.fp8.map(|f| f.scaling) {
        Some(Fp8Scaling::Delayed { .. }) => !slots.is_empty(),
        Some(Fp8Scaling::Current { .. } | Fp8Scaling::Mx { .. }) | None => false,
    };
    if !delayed {
        return Ok(Vec::new());
    }
    let (history, scale) = (session.read_f32(HISTORY)?, session.read_f32(SCALE)?);
    let ignored: Vec<u32> = session.read(NONFINITE)?.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
    let n = slots.len();
    // Row 0 is being filled, row 1 is the oldest, the last the newest.
    let rows = history.len() / n;
    let recorded = (session.steps() as usize).min(rows.saturating_sub(1));
    let amaxes = |slot: usize| (rows - recorded..rows).map(|row| history[row * n + slot]).collect::<Vec<f32>>();
    let [mut dead, mut frozen, mut poisoned, mut unusable] = [const { Vec::new() }; 4];
    for (slot, name) in slots.iter().map(|s| &s.name).enumerate() {
        let seen = amaxes(slot);
        let first = seen.first().copied().unwrap_or_default();
        if !(scale[slot].is_finite() && scale[slot] > 0.0) {
            unusable.push(format!("{name}: scale {}", scale[slot]));
        }
        if seen.iter().any(|x| !x.is_finite()) {
            poisoned.push(format!("{name}: scale {} until the last of them has left the history", scale[slot]));
        } else if ignored[slot] > 0 {
            poisoned.push(format!("{name}: {} left out of the history", ignored[slot]));
        }
        if recorded >= FROZEN && seen.iter().all(|x| *x == first) {
            let list = if first == 0.0 { &mut dead } else { &mut frozen };
            list.push(format!("{name}: amax {first} in each of {recorded} steps, scale {}", scale[slot]));
        }
    }
    let kinds = [
        (
            unusable,
            Severity::Fatal,
            "fp8 scales are not positive numbers",
            "the checkpoint is damaged: go back to an earlier one",
        ),
        (
            poisoned,
            Severity::Warning,
            "fp8 tensors had amaxes that are not finite",
            "find the layer with `mantissa doctor`; lower --lr, clip; leave such amaxes out (nonfinite_amax = \"ignore\")",
        ),
        (
            dead,
            Severity::Warning,
            "fp8 histories are dead: no signal passes there",
            "look for dead units, a zero weight or a gradient that is cut off",
        ),
        (
            frozen,
            Severity::Warning,
            "fp8 histories are frozen: the largest value never moves",
            "look for an input that is cut off at a limit, or a weight that is not trained",
        ),
    ];
    let some = kinds.into_iter().filter(|(list, ..)| !list.is_empty());
    Ok(some
        .map(|(list, severity, what, remedy)| finding(session, severity, format!("{} {what}", list.len()), list, remedy))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Batch;
    use crate::diagnose::testing::{session, tiny, tokens};
    use crate::precision::recipe::RecipeName;

    fn trained(name: RecipeName, steps: usize) -> Session {
        let config = tiny(name);
        let (x, t) = tokens(&config);
        let mut session = session(config);
        for _ in 0..steps {
            session.step(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) }).unwrap();
        }
        session
    }

    #[test]
    fn a_good_run_has_no_findings_in_any_recipe() {
        for name in RecipeName::ALL {
            assert_eq!(findings(&trained(name, 12)).unwrap(), [], "{name}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_named() {
        let session = trained(RecipeName::F32, 1);
        for (name, bad) in [("gpt.h0.mlp.up.bias", f32::NAN), ("optim.m.gpt.h1.mlp.up.bias", f32::INFINITY)] {
            let mut values = session.read_f32(name).unwrap();
            values[3] = bad;
            session.memory().write(name, bytemuck::cast_slice(&values)).unwrap();
        }
        let found = findings(&session).unwrap();
        assert_eq!((found.len(), found[0].severity), (1, Severity::Fatal));
        let evidence = found[0].evidence.join("\n");
        assert!(evidence.contains("gpt.h0.mlp.up.bias f32[64]: 1 NaN, 0 inf of 64"), "{evidence}");
        assert!(evidence.contains("optim.m.gpt.h1.mlp.up.bias f32[64]: 0 NaN, 1 inf of 64"), "{evidence}");
    }

    #[test]
    fn a_fallen_loss_scale_is_found() {
        let session = trained(RecipeName::F16, 1);
        session.memory().write(LOSS_SCALE, bytemuck::bytes_of(&0.25f32)).unwrap();
        assert!(findings(&session).unwrap()[0].problem.contains("the loss scale is 0.25"));
    }

    #[test]
    fn dead_frozen_and_poisoned_histories_are_told_apart() {
        let session = trained(RecipeName::Fp8Delayed, 12);
        let n = session.program().fp8_slots.len();
        let mut history = session.read_f32(HISTORY).unwrap();
        let rows = history.len() / n;
        for row in 1..rows {
            (history[row * n], history[row * n + 1]) = (0.0, 2.5);
        }
        history[(rows - 1) * n + 2] = f32::INFINITY;
        session.memory().write(HISTORY, bytemuck::cast_slice(&history)).unwrap();
        let mut scale = session.read_f32(SCALE).unwrap();
        scale[3] = 0.0;
        session.memory().write(SCALE, bytemuck::cast_slice(&scale)).unwrap();
        let found = findings(&session).unwrap();
        let names: Vec<(usize, &str)> = found.iter().map(|f| (f.evidence.len(), f.problem.as_str())).collect();
        assert_eq!(
            names,
            [
                (1, "1 fp8 scales are not positive numbers"),
                (1, "1 fp8 tensors had amaxes that are not finite"),
                (1, "1 fp8 histories are dead: no signal passes there"),
                (1, "1 fp8 histories are frozen: the largest value never moves"),
            ]
        );
    }
}

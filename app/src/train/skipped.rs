//! The line about a skipped step of a run with a loss scale: what was not finite, and what became of the scale.

use crate::show;
use mantissa_core::precision::scaler::{LEAST_SCALE, ScalerConfig};
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::StepResult;

/// What is said of the skipped step `result`; `None` without a loss scale, where a warning says it once.
pub(super) fn line(result: &StepResult, scaler: Option<ScalerConfig>) -> Option<String> {
    let r = &result.report;
    let (scaler, before, after) = (scaler?, r.loss_scale?, result.next_loss_scale?);
    let what = cause(r);
    let scale = match result.hysteresis_left {
        Some(left) if before == after && left > 0 => forgiven(before, left, scaler.hysteresis),
        _ if before != after => format!("loss_scale {} -> {}", show::loss_scale(before), show::loss_scale(after)),
        _ if before <= (scaler.min_scale as f32).max(LEAST_SCALE) => {
            format!("loss_scale stays at its floor, {}", show::loss_scale(before))
        }
        _ => format!("loss_scale stays {}", show::loss_scale(before)),
    };
    Some(format!("step {}: {what}, step skipped, {scale}", r.step))
}

/// What was not finite. A loss that is not finite has other causes than the loss scale, which it does not carry.
fn cause(r: &StepReport) -> String {
    if !r.loss.is_finite() {
        return format!("the loss is {}", r.loss);
    }
    // Operands are looked at before the cast to fp8, which leaves finite gradients.
    if r.grad_norm.is_finite() && r.fp8.is_some() {
        return "an fp8 operand was not finite".into();
    }
    "gradients overflowed".into()
}

fn forgiven(scale: f32, left: i32, hysteresis: u32) -> String {
    let of = i64::from(hysteresis) - 1;
    let nth = i64::from(hysteresis) - i64::from(left);
    let more = match of - nth {
        0 => "the next one lowers it".to_string(),
        n => format!("{n} more would be"),
    };
    format!(
        "loss_scale {} kept: overflow {nth} of {of} in a row that --hysteresis {hysteresis} forgives, {more}",
        show::loss_scale(scale)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::telemetry::Fp8Report;

    fn result(before: f32, after: f32, hysteresis_left: Option<i32>) -> StepResult {
        let report = StepReport {
            step: 7,
            loss: 2.5,
            lr: 1e-3,
            grad_norm: f32::INFINITY,
            loss_scale: Some(before),
            found_inf: true,
            skipped: true,
            skipped_total: 1,
            growth_tracker: Some(0),
            fp8: None,
        };
        StepResult { report, next_loss_scale: Some(after), hysteresis_left, fp8: Vec::new(), tensors: None }
    }

    fn said(result: &StepResult, scaler: ScalerConfig) -> String {
        line(result, Some(scaler)).expect("a loss scale")
    }

    #[test]
    fn a_backoff_names_both_scales() {
        let text = said(&result(1073741824.0, 536870912.0, None), ScalerConfig::default());
        assert_eq!(text, "step 7: gradients overflowed, step skipped, loss_scale 1073741824 -> 536870912");
    }

    #[test]
    fn hysteresis_says_which_overflow_it_forgave() {
        let scaler = ScalerConfig { hysteresis: 3, ..ScalerConfig::default() };
        let first = said(&result(1024.0, 1024.0, Some(2)), scaler);
        assert!(
            first.ends_with("loss_scale 1024 kept: overflow 1 of 2 in a row that --hysteresis 3 forgives, 1 more would be"),
            "{first}"
        );
        let second = said(&result(1024.0, 1024.0, Some(1)), scaler);
        assert!(second.ends_with("overflow 2 of 2 in a row that --hysteresis 3 forgives, the next one lowers it"), "{second}");
        assert!(said(&result(1024.0, 512.0, Some(0)), scaler).ends_with("loss_scale 1024 -> 512"));
    }

    #[test]
    fn the_floor_is_called_one() {
        let floor = ScalerConfig::default().min_scale as f32;
        let text = said(&result(floor, floor, None), ScalerConfig::default());
        assert!(text.ends_with("loss_scale stays at its floor, 6.10e-05"), "{text}");
        let none = ScalerConfig { min_scale: 0.0, ..ScalerConfig::default() };
        let text = said(&result(LEAST_SCALE, LEAST_SCALE, Some(-3)), none);
        assert!(text.ends_with("loss_scale stays at its floor, 1.18e-38"), "{text}");
    }

    #[test]
    fn only_gradients_overflow() {
        let mut nan = result(1024.0, 512.0, None);
        nan.report.loss = f32::NAN;
        assert!(said(&nan, ScalerConfig::default()).starts_with("step 7: the loss is NaN, step skipped"));
        let mut fp8 = result(1024.0, 512.0, None);
        fp8.report.grad_norm = 1.0;
        fp8.report.fp8 = Some(Fp8Report { underflow: (0.0, "a".into()), saturated: (0.0, "a".into()), nonfinite: 1.0 });
        assert!(said(&fp8, ScalerConfig::default()).starts_with("step 7: an fp8 operand was not finite, step skipped"));
    }
}

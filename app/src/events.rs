//! One line of JSON per step, per evaluation and per reported tensor (`docs/events.md`): what `--json` prints and `events.jsonl` keeps. JSON has no NaN or infinity: such a number
//! is `null`, and a flag beside it (`loss_nonfinite`) says why. [`parse`] reads a line back.

use anyhow::{Context, Result};
use mantissa_core::telemetry::{Fp8Report, StepReport, TensorReport};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What the host measured of a step.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Wall time of the step, batch included, milliseconds.
    pub ms: f64,
    /// Tokens or images a second.
    pub items_per_s: f64,
    /// Model FLOPs a second over the peak.
    pub mfu: f64,
}

#[derive(Serialize, Deserialize)]
struct StepEvent<'a> {
    step: u64,
    loss: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_nonfinite: Option<bool>,
    lr: f64,
    grad_norm: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_norm_nonfinite: Option<bool>,
    /// As f64: the shortest f32 text of a power of two may be another integer.
    loss_scale: Option<f64>,
    /// Steps skipped so far.
    skipped: u64,
    found_inf: bool,
    growth_tracker: Option<i32>,
    ms: f64,
    tok_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    img_per_s: Option<f64>,
    mfu: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fp8: Option<Fp8Event<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Fp8Event<'a> {
    underflow: Option<f32>,
    underflow_tensor: Cow<'a, str>,
    saturated: Option<f32>,
    saturated_tensor: Cow<'a, str>,
    nonfinite: Option<f32>,
}

#[derive(Serialize, Deserialize)]
struct EvalEvent {
    step: u64,
    val_loss: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    val_loss_nonfinite: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    val_accuracy: Option<f32>,
}

/// The report of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorEvent {
    /// After this step.
    pub step: u64,
    /// The report.
    pub tensor: TensorReport,
}

/// What a line of an event log says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step. Whether it was skipped shows in the number of skipped steps only: `skipped` is `false`.
    Step(StepReport),
    /// An evaluation.
    Eval {
        /// After this step.
        step: u64,
        /// Loss on held-out data.
        val_loss: f32,
    },
    /// The report of a tensor.
    Tensor(TensorEvent),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line<'a> {
    #[serde(borrow)]
    Step(StepEvent<'a>),
    Tensor(TensorEvent),
    Eval(EvalEvent),
}

/// Reads a line; `None` if it is none of ours, such as one that was not written whole. Numbers that JSON cannot write come back as NaN.
pub fn parse(line: &[u8]) -> Option<Event> {
    let back = |x: Option<f32>| x.unwrap_or(f32::NAN);
    // An absent number is told from one that is `null` by the flag beside it.
    let given = |x: Option<f32>, nonfinite: Option<bool>| x.is_some() || nonfinite == Some(true);
    match serde_json::from_slice(line).ok()? {
        Line::Step(s) => given(s.loss, s.loss_nonfinite).then(|| {
            let fp8 = s.fp8.map(|f| Fp8Report {
                underflow: (back(f.underflow), f.underflow_tensor.into_owned()),
                saturated: (back(f.saturated), f.saturated_tensor.into_owned()),
                nonfinite: back(f.nonfinite),
            });
            Event::Step(StepReport {
                step: s.step,
                loss: back(s.loss),
                lr: s.lr,
                grad_norm: back(s.grad_norm),
                loss_scale: s.loss_scale.map(|x| x as f32),
                found_inf: s.found_inf,
                skipped: false,
                skipped_total: s.skipped,
                growth_tracker: s.growth_tracker,
                fp8,
            })
        }),
        Line::Tensor(event) => Some(Event::Tensor(event)),
        Line::Eval(e) => {
            given(e.val_loss, e.val_loss_nonfinite).then(|| Event::Eval { step: e.step, val_loss: back(e.val_loss) })
        }
    }
}

/// A number, and the flag that stands beside it when JSON cannot write it.
fn number(x: f32) -> (Option<f32>, Option<bool>) {
    if x.is_finite() { (Some(x), None) } else { (None, Some(true)) }
}

fn rounded(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}

/// The line of a step. `images` says what the throughput counts.
pub fn step(report: &StepReport, timing: Timing, images: bool) -> Result<String> {
    let (loss, loss_nonfinite) = number(report.loss);
    let (grad_norm, grad_norm_nonfinite) = number(report.grad_norm);
    let per_s = rounded(timing.items_per_s, 1);
    let event = StepEvent {
        step: report.step,
        loss,
        loss_nonfinite,
        lr: report.lr,
        grad_norm,
        grad_norm_nonfinite,
        loss_scale: report.loss_scale.map(f64::from),
        skipped: report.skipped_total,
        found_inf: report.found_inf,
        growth_tracker: report.growth_tracker,
        ms: rounded(timing.ms, 3),
        tok_per_s: (!images).then_some(per_s),
        img_per_s: images.then_some(per_s),
        mfu: rounded(timing.mfu, 4),
        fp8: report.fp8.as_ref().map(|f| Fp8Event {
            underflow: number(f.underflow.0).0,
            underflow_tensor: Cow::from(&f.underflow.1),
            saturated: number(f.saturated.0).0,
            saturated_tensor: Cow::from(&f.saturated.1),
            nonfinite: number(f.nonfinite).0,
        }),
    };
    serde_json::to_string(&event).context("cannot write an event as JSON")
}

/// The line of a tensor.
pub fn tensor(step: u64, tensor: &TensorReport) -> Result<String> {
    let event = TensorEvent { step, tensor: tensor.clone() };
    serde_json::to_string(&event).context("cannot write an event as JSON")
}

/// The line of an evaluation; `accuracy` for classifiers.
pub fn eval(step: u64, val_loss: f32, accuracy: Option<f32>) -> Result<String> {
    let (loss, val_loss_nonfinite) = number(val_loss);
    let event = EvalEvent { step, val_loss: loss, val_loss_nonfinite, val_accuracy: accuracy };
    serde_json::to_string(&event).context("cannot write an event as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::DType;
    use mantissa_core::telemetry::{Fp8Stats, Histogram, TensorStats};

    #[test]
    fn non_finite_numbers_become_null_with_a_flag() {
        let report = StepReport {
            step: 3,
            loss: f32::NAN,
            lr: 1e-3,
            grad_norm: f32::INFINITY,
            loss_scale: Some(65536.0),
            found_inf: true,
            skipped: true,
            skipped_total: 2,
            growth_tracker: Some(0),
            fp8: None,
        };
        let line = step(&report, Timing { ms: 12.34567, items_per_s: 1000.04, mfu: 0.5 }, false).unwrap();
        let v: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(v["loss"].is_null() && v["grad_norm"].is_null());
        assert_eq!(v["loss_nonfinite"], true);
        assert_eq!(v["grad_norm_nonfinite"], true);
        assert_eq!((v["skipped"].as_u64(), v["loss_scale"].as_f64(), v["ms"].as_f64()), (Some(2), Some(65536.0), Some(12.346)));
        let stats = Fp8Stats { amax: f32::INFINITY, scale: 2.0, underflow: 0.25, saturated: 0.0, nonfinite: 1.0 };
        let report = TensorReport::of_fp8("gpt.h0.mlp.up.x", DType::E4m3, &stats);
        let expected = r#"{"step":5,"tensor":{"name":"gpt.h0.mlp.up.x","dtype":"e4m3","amax":null,"amax_nonfinite":true,"#
            .to_string()
            + r#""scale":2.0,"underflow":0.25,"saturated":0.0,"nonfinite":1.0}}"#;
        assert_eq!(tensor(5, &report).unwrap(), expected);
        assert_eq!(parse(expected.as_bytes()), Some(Event::Tensor(TensorEvent { step: 5, tensor: report })));
        assert_eq!(eval(5, 2.5, None).unwrap(), r#"{"step":5,"val_loss":2.5}"#);
        assert_eq!(eval(5, f32::NAN, None).unwrap(), r#"{"step":5,"val_loss":null,"val_loss_nonfinite":true}"#);
    }

    #[test]
    fn lines_come_back() {
        let fp8 = Fp8Report { underflow: (0.25, "a.x".into()), saturated: (0.5, "a.\u{e4}".into()), nonfinite: 0.0 };
        let report = StepReport {
            step: 3,
            loss: 2.5,
            lr: 1e-3,
            grad_norm: 0.1,
            loss_scale: Some(65536.0),
            found_inf: true,
            skipped: false,
            skipped_total: 2,
            growth_tracker: Some(7),
            fp8: Some(fp8),
        };
        let timing = Timing { ms: 1.0, items_per_s: 2.0, mfu: 0.5 };
        let line = step(&report, timing, true).unwrap();
        assert_eq!(parse(line.as_bytes()), Some(Event::Step(report.clone())));
        let lost = StepReport { loss: f32::INFINITY, ..report };
        let line = step(&lost, timing, false).unwrap();
        let Some(Event::Step(back)) = parse(line.as_bytes()) else { panic!("{line}") };
        assert!(back.loss.is_nan());
        assert_eq!(parse(br#"{"step":5,"val_loss":2.5}"#), Some(Event::Eval { step: 5, val_loss: 2.5 }));
        for cut in 0..line.len() {
            assert_eq!(parse(&line.as_bytes()[..cut]), None, "{cut} bytes");
        }
        for bad in ["{}", "[]", "7", r#"{"step":5}"#, r#"{"step":-1,"val_loss":2}"#, "\u{0}"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn tensors_are_read_back_as_they_were_written() {
        let fp8 = Fp8Stats { amax: 3.5, scale: 2.0, underflow: 0.25, saturated: 0.0, nonfinite: 0.0 };
        let fp8 = TensorReport::of_fp8("gpt.h0.mlp.up.x", DType::E4m3, &fp8);
        let stats = TensorStats {
            stored: DType::Bf16,
            len: 7,
            mean: 0.1,
            l1: 2.5,
            l2: 1.25,
            zero: 0.0,
            subnormal: None,
            sqnr_db: Some(31.25),
            histogram: Histogram { first: 120, zeros: 0, counts: vec![3, 0, 4] },
        };
        for report in [fp8.clone(), TensorReport { stats: Some(stats), ..fp8 }] {
            let line = tensor(9, &report).unwrap();
            let event = TensorEvent { step: 9, tensor: report };
            assert_eq!(serde_json::from_str::<TensorEvent>(&line).unwrap(), event, "{line}");
            // Keys of a later version are skipped.
            let later = line.replacen("{\"name\"", "{\"colour\":[1],\"name\"", 1);
            assert_eq!(serde_json::from_str::<TensorEvent>(&later).unwrap(), event);
        }
    }
}

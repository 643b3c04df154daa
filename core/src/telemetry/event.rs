//! Events: what a run tells the world, one JSON object a line. What `--json` prints, `events.jsonl` keeps and a dashboard reads, live or later.
//!
//! Described in `docs/events.md`: `step` is the first key of every event and the second one says its kind. Readers skip keys they do not know. JSON has no NaN or infinity:
//! such a number is `null`, and a flag beside it (`loss_nonfinite`) says why.

use super::warning::Warning;
use super::{Fp8Report, StepReport, TensorReport};
use serde::{Deserialize, Serialize};

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

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A step was taken.
    Step(StepEvent),
    /// Statistics of a tensor.
    Tensor(TensorEvent),
    /// Held-out data was looked at.
    Eval(EvalEvent),
    /// Something to do something about.
    Warning(WarningEvent),
    /// A sample text was written.
    Sample(SampleEvent),
    /// Where the time of a step went.
    Profile(ProfileEvent),
    /// What a classifier says to held-out images.
    Predictions(PredictionsEvent),
    /// What memory is taken for.
    Memory(MemoryEvent),
    /// What was chosen for the device by measuring.
    Tuned(TunedEvent),
}

impl Event {
    /// As a line of JSON, without its end. Fails only if a number cannot be written as JSON, which no event holds.
    pub fn to_line(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// From a line of JSON; `None` for a kind that this version does not know. Fails if the line is no JSON, or lacks a
    /// key of its kind.
    pub fn from_line(line: &str) -> serde_json::Result<Option<Event>> {
        use serde_json::from_str;
        // The kind is looked up rather than tried out: a log may have millions of lines.
        Ok(Some(match line.split('"').nth(3) {
            Some("loss") => Event::Step(from_str(line)?),
            Some("tensor") => Event::Tensor(from_str(line)?),
            Some("val_loss") => Event::Eval(from_str(line)?),
            Some("warning") => Event::Warning(from_str(line)?),
            Some("sample") => Event::Sample(from_str(line)?),
            Some("profile") => Event::Profile(from_str(line)?),
            Some("predictions") => Event::Predictions(from_str(line)?),
            Some("memory") => Event::Memory(from_str(line)?),
            Some("tuned") => Event::Tuned(from_str(line)?),
            Some(_) | None => {
                from_str::<serde::de::IgnoredAny>(line)?;
                return Ok(None);
            }
        }))
    }

    /// The step it belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Event::Step(e) => e.step,
            Event::Tensor(e) => e.step,
            Event::Eval(e) => e.step,
            Event::Warning(e) => e.step,
            Event::Sample(e) => e.step,
            Event::Profile(e) => e.step,
            Event::Predictions(e) => e.step,
            Event::Memory(e) => e.step,
            Event::Tuned(e) => e.step,
        }
    }
}

/// What a line of a log turns out to be.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    target_pointer_width = "64",
    expect(clippy::large_enum_variant, reason = "one lives at a time; a box would cost an allocation a line")
)]
pub enum Read {
    /// An event.
    Event(Event),
    /// An event of a later version, which belongs to this step.
    Unknown(u64),
    /// Damage: no object of JSON with a step, or not what its kind has.
    Unreadable,
}

impl Read {
    /// Judges a line, without its end.
    pub fn line(line: &[u8]) -> Read {
        #[derive(Deserialize)]
        struct Stepped {
            step: u64,
        }
        // A list would do for an object, as far as its deserializer goes.
        let object = |text: &&str| text.trim_start().starts_with('{');
        let Some(text) = std::str::from_utf8(line).ok().filter(object) else { return Read::Unreadable };
        match Event::from_line(text) {
            Ok(Some(event)) => Read::Event(event),
            Ok(None) => serde_json::from_str(text).map_or(Read::Unreadable, |Stepped { step }| Read::Unknown(step)),
            Err(_) => Read::Unreadable,
        }
    }

    /// The step it belongs to; `None` for damage.
    pub fn step(&self) -> Option<u64> {
        match self {
            Read::Event(event) => Some(event.step()),
            Read::Unknown(step) => Some(*step),
            Read::Unreadable => None,
        }
    }
}

/// A step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Step number, counted from 1.
    pub step: u64,
    /// Mean training loss.
    pub loss: Option<f32>,
    /// Set if `loss` is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_nonfinite: Option<bool>,
    /// Learning rate.
    pub lr: f64,
    /// Global L2 norm of the gradients, after unscale, before clip.
    pub grad_norm: Option<f32>,
    /// Set if `grad_norm` is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm_nonfinite: Option<bool>,
    /// Loss scale that the step used. As f64: the shortest f32 text of a power of two may be another integer.
    pub loss_scale: Option<f64>,
    /// Steps skipped so far.
    pub skipped: u64,
    /// A gradient was non-finite.
    pub found_inf: bool,
    /// Good steps since the last change of the loss scale.
    pub growth_tracker: Option<i32>,
    /// Wall time, milliseconds.
    pub ms: f64,
    /// Throughput of a language model.
    pub tok_per_s: Option<f64>,
    /// Throughput of a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub img_per_s: Option<f64>,
    /// Share of the peak rate.
    pub mfu: f64,
    /// The worst fp8 tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp8: Option<Fp8Event>,
}

/// Extremes over all fp8 tensors of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fp8Event {
    /// Largest share of values that became zero though they were not.
    pub underflow: Option<f32>,
    /// Its tensor.
    pub underflow_tensor: String,
    /// Largest share of values that saturated.
    pub saturated: Option<f32>,
    /// Its tensor.
    pub saturated_tensor: String,
    /// Non-finite values over all tensors.
    pub nonfinite: Option<f32>,
}

/// An evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalEvent {
    /// Steps taken before it.
    pub step: u64,
    /// Loss on held-out data.
    pub val_loss: Option<f32>,
    /// Set if `val_loss` is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss_nonfinite: Option<bool>,
    /// Share of right answers of a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f32>,
}

/// A tensor after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorEvent {
    /// Step number.
    pub step: u64,
    /// The tensor.
    pub tensor: TensorReport,
}

/// A warning of the health checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningEvent {
    /// Step at which it was confirmed.
    pub step: u64,
    /// What is wrong and what helps.
    pub warning: Warning,
}

/// A sample text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleEvent {
    /// Steps taken before it.
    pub step: u64,
    /// The text.
    pub sample: String,
}

/// Times of one observed step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileEvent {
    /// Step number.
    pub step: u64,
    /// Kernel families, longest first.
    pub profile: Vec<ProfileRow>,
    /// What the times were read from, in words; empty in older logs.
    #[serde(default)]
    pub clock: String,
}

/// Time of the instructions of one kernel family in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    /// Kernel stem.
    pub family: String,
    /// Runs.
    pub calls: usize,
    /// Milliseconds of all of them.
    pub ms: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

/// Held-out images with what the model says to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictionsEvent {
    /// Steps taken before it.
    pub step: u64,
    /// The images.
    pub predictions: Predictions,
}

/// Images of one size and their answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predictions {
    /// Height and width.
    pub size: [usize; 2],
    /// The images.
    pub images: Vec<Prediction>,
}

/// One image and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The right class.
    pub label: u32,
    /// The class with the highest score.
    pub answer: u32,
    /// Its probability.
    pub confidence: f32,
    /// `[rows * cols]` grey values, two hexadecimal digits each.
    pub pixels: String,
}

/// The memory that the process has taken for a run: after its first step, and when it has taken more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEvent {
    /// Steps taken.
    pub step: u64,
    /// Bytes by purpose.
    pub memory: Vec<MemoryRow>,
}

/// Bytes taken for one purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// A purpose of the memory plan; or `statistics`, `evaluation`, `scores`: what these take beside the step; or `scratch`.
    pub purpose: String,
    /// Bytes.
    pub bytes: u64,
}

/// What was measured to be the fastest on the device, now or in an earlier run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunedEvent {
    /// Steps taken.
    pub step: u64,
    /// Every class of matmuls, and what it got.
    pub tuned: Vec<TunedRow>,
}

/// A class of matmuls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunedRow {
    /// Layout, dtypes, scales, and sizes as powers of two.
    pub product: String,
    /// The kind of kernel.
    pub kind: String,
}

/// A number, and the flag that stands beside it when JSON cannot write it.
fn number(x: f32) -> (Option<f32>, Option<bool>) {
    if x.is_finite() { (Some(x), None) } else { (None, Some(true)) }
}

fn rounded(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}

impl StepEvent {
    /// The event of a step. `images` says what the throughput counts.
    pub fn new(report: &StepReport, timing: Timing, images: bool) -> StepEvent {
        let (loss, loss_nonfinite) = number(report.loss);
        let (grad_norm, grad_norm_nonfinite) = number(report.grad_norm);
        let per_s = rounded(timing.items_per_s, 1);
        StepEvent {
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
            fp8: report.fp8.as_ref().map(Fp8Event::new),
        }
    }

    /// The report that it was made of. Numbers that JSON cannot write come back as NaN; whether the step was skipped shows in the number of
    /// skipped steps only.
    pub fn report(&self) -> StepReport {
        let back = |x: Option<f32>| x.unwrap_or(f32::NAN);
        StepReport {
            step: self.step,
            loss: back(self.loss),
            lr: self.lr,
            grad_norm: back(self.grad_norm),
            loss_scale: self.loss_scale.map(|x| x as f32),
            found_inf: self.found_inf,
            skipped: false,
            skipped_total: self.skipped,
            growth_tracker: self.growth_tracker,
            fp8: self.fp8.as_ref().map(|f| Fp8Report {
                underflow: (back(f.underflow), f.underflow_tensor.clone()),
                saturated: (back(f.saturated), f.saturated_tensor.clone()),
                nonfinite: back(f.nonfinite),
            }),
        }
    }
}

impl Fp8Event {
    fn new(f: &Fp8Report) -> Fp8Event {
        Fp8Event {
            underflow: number(f.underflow.0).0,
            underflow_tensor: f.underflow.1.clone(),
            saturated: number(f.saturated.0).0,
            saturated_tensor: f.saturated.1.clone(),
            nonfinite: number(f.nonfinite).0,
        }
    }
}

impl SampleEvent {
    /// Longest text kept, bytes. JSON makes at most six of one, so that the line stays below [`MAX_LINE_BYTES`](super::lines::MAX_LINE_BYTES).
    pub const MAX_BYTES: usize = 1 << 21;

    /// A text written after step `step`; one that is longer than [`SampleEvent::MAX_BYTES`] is cut, between characters.
    pub fn new(step: u64, text: &str) -> SampleEvent {
        SampleEvent { step, sample: text[..text.floor_char_boundary(SampleEvent::MAX_BYTES)].to_string() }
    }
}

impl EvalEvent {
    /// An evaluation after step `step`; `accuracy` for classifiers.
    pub fn new(step: u64, val_loss: f32, accuracy: Option<f32>) -> EvalEvent {
        let (loss, val_loss_nonfinite) = number(val_loss);
        EvalEvent { step, val_loss: loss, val_loss_nonfinite, val_accuracy: accuracy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::telemetry::warning::WarningKind;
    use crate::telemetry::{AmaxRing, Fp8Stats, Histogram, TensorStats};

    fn report() -> StepReport {
        StepReport {
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
        }
    }

    #[test]
    fn non_finite_numbers_become_null_with_a_flag() {
        let timing = Timing { ms: 12.34567, items_per_s: 1000.04, mfu: 0.5 };
        let line = Event::Step(StepEvent::new(&report(), timing, false)).to_line().unwrap();
        let expected = r#"{"step":3,"loss":null,"loss_nonfinite":true,"lr":0.001,"grad_norm":null,"grad_norm_nonfinite":true,"#
            .to_string()
            + r#""loss_scale":65536.0,"skipped":2,"found_inf":true,"growth_tracker":0,"ms":12.346,"tok_per_s":1000.0,"mfu":0.5}"#;
        assert_eq!(line, expected);
        assert_eq!(Event::Eval(EvalEvent::new(5, 2.5, None)).to_line().unwrap(), r#"{"step":5,"val_loss":2.5}"#);
        let nan = Event::Eval(EvalEvent::new(5, f32::NAN, None));
        assert_eq!(nan.to_line().unwrap(), r#"{"step":5,"val_loss":null,"val_loss_nonfinite":true}"#);
    }

    #[test]
    fn a_line_is_an_event_one_of_a_later_version_or_damage() {
        let line = Event::Eval(EvalEvent::new(5, 2.5, None)).to_line().unwrap();
        assert_eq!(Read::line(line.as_bytes()).step(), Some(5));
        assert_eq!(Read::line(b"{\"step\":7,\"later\":[\"val_loss\"]}\r"), Read::Unknown(7));
        let damage: [&[u8]; 9] = [
            b"",
            b"\0\0",
            b"\xff",
            b"[1]",
            b"{}",
            b"{\"step\":\"7\",\"later\":1}",
            b"{\"step\":-7}",
            b"{\"step\":5,\"val_loss\":2.5}{\"step\":6,\"val_loss\":2.5}",
            b"{\"step\":5,\"val_loss\":2.",
        ];
        for damage in damage {
            assert_eq!(Read::line(damage), Read::Unreadable, "{}", damage.escape_ascii());
        }
    }

    #[test]
    fn the_longest_sample_fits_into_a_line() {
        for c in ["\u{1}", "\u{fffd}", "\u{1f600}", "x"] {
            let event = SampleEvent::new(1, &c.repeat(SampleEvent::MAX_BYTES));
            assert!((SampleEvent::MAX_BYTES - 3..=SampleEvent::MAX_BYTES).contains(&event.sample.len()));
            assert!(Event::Sample(event).to_line().unwrap().len() <= crate::telemetry::lines::MAX_LINE_BYTES);
        }
        assert_eq!(SampleEvent::new(1, "short").sample, "short");
    }

    #[test]
    fn every_kind_comes_back_from_its_line() {
        let fp8 = Fp8Report { underflow: (0.5, "a".into()), saturated: (0.25, "b".into()), nonfinite: 1.0 };
        let report = StepReport { loss: 2.5, grad_norm: 1.5, fp8: Some(fp8), ..report() };
        let timing = Timing { ms: 12.0, items_per_s: 1000.0, mfu: 0.5 };
        let stats = Fp8Stats { amax: 1.0, scale: 2.0, underflow: 0.25, saturated: 0.0, nonfinite: 0.0 };
        let warning =
            Warning { kind: WarningKind::Fp8Underflow, step: 9, message: "a \"quoted\" one".into(), remedy: "none".into() };
        let row = ProfileRow { family: "matmul".into(), calls: 2, ms: 1.5, flops: 10, bytes: 20 };
        let image = Prediction { label: 3, answer: 3, confidence: 0.75, pixels: "00ff".into() };
        let fp8 = TensorReport::of_fp8("x", DType::E5m2, &stats);
        let ring = AmaxRing { room: 3, held: 2, largest: None, largest_age: 1, newest: vec![Some(0.1), None] };
        let measured = TensorStats {
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
        let events = [
            Event::Step(StepEvent::new(&report, timing, true)),
            Event::Tensor(TensorEvent { step: 4, tensor: fp8.clone() }),
            Event::Tensor(TensorEvent { step: 4, tensor: TensorReport { ring: Some(ring), ..fp8.clone() } }),
            Event::Tensor(TensorEvent { step: 4, tensor: TensorReport { stats: Some(measured), ..fp8 } }),
            Event::Eval(EvalEvent::new(5, 2.5, Some(0.5))),
            Event::Warning(WarningEvent { step: 9, warning }),
            Event::Sample(SampleEvent { step: 7, sample: "loss\n\"x\"".into() }),
            Event::Profile(ProfileEvent { step: 8, profile: vec![row], clock: "host".into() }),
            Event::Predictions(PredictionsEvent { step: 8, predictions: Predictions { size: [1, 2], images: vec![image] } }),
            Event::Memory(MemoryEvent { step: 1, memory: vec![MemoryRow { purpose: "scratch".into(), bytes: 1 << 33 }] }),
            Event::Tuned(TunedEvent { step: 1, tuned: vec![TunedRow { product: "NN f32".into(), kind: "registers".into() }] }),
        ];
        for event in events {
            let line = event.to_line().unwrap();
            assert_eq!(Event::from_line(&line).unwrap(), Some(event), "{line}");
        }
    }

    #[test]
    fn unknown_kinds_and_keys_are_passed_over_and_damage_is_an_error() {
        assert_eq!(Event::from_line(r#"{"step":1,"later":{"a":[1]}}"#).unwrap(), None);
        let more = r#"{"step":1,"val_loss":2.0,"later":true}"#;
        assert_eq!(Event::from_line(more).unwrap(), Some(Event::Eval(EvalEvent::new(1, 2.0, None))));
        for bad in ["", "{", "nonsense", r#"{"step":1,"loss":2."#, r#"{"step":-1,"val_loss":1.0}"#, r#"{"step":1,"lat"#] {
            assert!(Event::from_line(bad).is_err(), "{bad}");
        }
    }
}

//! Events: what a run reports, one JSON object a line. What `--json` prints, `events.jsonl` keeps and a
//! dashboard reads, live or later.
//!
//! Described in `docs/events.md`: `kind` says what a line is. Readers skip keys and kinds they do not know. JSON has no
//! NaN or infinity: such a number is `null`, and a flag beside it (`loss_nonfinite`) says why.
//! [`crate::telemetry::reader`] reads the lines of a file.

pub use super::Timing;
pub use super::step_event::StepEvent;

use super::TensorReport;
use super::kind::Kind;
use super::warning::Warning;
use serde::{Deserialize, Serialize};

/// The version of the form of a log. Lines of version 1 have no `kind`: they are told apart by the key that only their
/// kind has.
pub const SCHEMA: u32 = 2;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A log begins, or goes on in another form.
    Log(LogEvent),
    /// A step was taken.
    Step(StepEvent),
    /// Statistics of a tensor.
    Tensor(TensorEvent),
    /// An evaluation on held-out data.
    Eval(EvalEvent),
    /// Something to do something about.
    Warning(WarningEvent),
    /// A sample text was written.
    Sample(SampleEvent),
    /// Where the time of a step went.
    Profile(ProfileEvent),
    /// Answers of a classifier to held-out images.
    Predictions(PredictionsEvent),
    /// Memory taken, by purpose.
    Memory(MemoryEvent),
    /// Kernels chosen by measuring the device.
    Tuned(TunedEvent),
}

impl Event {
    /// As a line of JSON, without its end. Fails only if a number cannot be written as JSON, which no event holds.
    pub fn to_line(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// From a line of JSON; `None` for a kind that this version does not know. Fails if the line is no JSON, or lacks
    /// a key of its kind.
    pub fn from_line(line: &str) -> serde_json::Result<Option<Event>> {
        use serde_json::from_str;
        // The kind is looked up rather than tried out: a log may have millions of lines.
        Ok(match Kind::of_line(line)? {
            Some(Kind::Log) => Some(Event::Log(from_str(line)?)),
            Some(Kind::Step) => Some(Event::Step(from_str(line)?)),
            Some(Kind::Tensor) => Some(Event::Tensor(from_str(line)?)),
            Some(Kind::Eval) => Some(Event::Eval(from_str(line)?)),
            Some(Kind::Warning) => Some(Event::Warning(from_str(line)?)),
            Some(Kind::Sample) => Some(Event::Sample(from_str(line)?)),
            Some(Kind::Profile) => Some(Event::Profile(from_str(line)?)),
            Some(Kind::Predictions) => Some(Event::Predictions(from_str(line)?)),
            Some(Kind::Memory) => Some(Event::Memory(from_str(line)?)),
            Some(Kind::Tuned) => Some(Event::Tuned(from_str(line)?)),
            None => None,
        })
    }

    /// The step it belongs to.
    pub fn step(&self) -> u64 {
        match self {
            Event::Log(e) => e.step,
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

/// The first line of a log. In a log of an earlier version it stands where a run went on: the lines behind it are of
/// this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEvent {
    /// Version of the form, [`SCHEMA`].
    pub schema: u32,
    /// Steps taken before it.
    #[serde(default)]
    pub step: u64,
}

impl LogEvent {
    /// The line of this version after `step` steps.
    pub fn new(step: u64) -> LogEvent {
        LogEvent { schema: SCHEMA, step }
    }
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
    /// A purpose of the memory plan; or `statistics`, `evaluation`, `scores`: what these take beside the step; or
    /// `scratch`.
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

impl SampleEvent {
    /// Longest text kept, bytes. JSON makes at most six of one, so that the line stays below
    /// [`MAX_LINE_BYTES`](super::lines::MAX_LINE_BYTES).
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
    use crate::telemetry::{AmaxRing, Fp8Report, Fp8Stats, Histogram, StepReport, TensorStats};

    #[test]
    fn a_loss_that_is_not_finite_is_null_with_a_flag() {
        let eval = Event::Eval(EvalEvent::new(5, 2.5, None));
        assert_eq!(eval.to_line().unwrap(), r#"{"kind":"eval","step":5,"val_loss":2.5}"#);
        let nan = Event::Eval(EvalEvent::new(5, f32::NAN, None));
        assert_eq!(nan.to_line().unwrap(), r#"{"kind":"eval","step":5,"val_loss":null,"val_loss_nonfinite":true}"#);
        let log = Event::Log(LogEvent::new(0));
        assert_eq!(log.to_line().unwrap(), r#"{"kind":"log","schema":2,"step":0}"#);
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
        let report = StepReport { fp8: Some(fp8), ..crate::diagnose::testing::report(3) };
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
            Event::Log(LogEvent::new(3)),
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
            assert_eq!(Event::from_line(&line).unwrap().as_ref(), Some(&event), "{line}");
            // With its keys sorted, as `jq -S` leaves them.
            let sorted = serde_json::from_str::<serde_json::Value>(&line).unwrap().to_string();
            assert_eq!(Event::from_line(&sorted).unwrap().as_ref(), Some(&event), "{sorted}");
            // Without its kind, as the first version wrote it, in any order.
            let older = line.replacen(&line[1..line.find(',').unwrap() + 1], "", 1);
            let mut unsorted: serde_json::Value = serde_json::from_str(&sorted).unwrap();
            unsorted.as_object_mut().unwrap().remove("kind");
            if !matches!(event, Event::Log(_)) {
                for older in [older, unsorted.to_string()] {
                    assert_eq!(Event::from_line(&older).unwrap().as_ref(), Some(&event), "{older}");
                }
            }
        }
    }

    #[test]
    fn unknown_kinds_and_keys_are_passed_over_and_damage_is_an_error() {
        for unknown in
            [r#"{"step":1,"later":{"a":[1]}}"#, r#"{"kind":"later","step":1,"loss":[1]}"#, r#"{"a":1,"kind":"later"}"#]
        {
            assert_eq!(Event::from_line(unknown).unwrap(), None, "{unknown}");
        }
        let more = r#"{"step":1,"val_loss":2.0,"later":true}"#;
        assert_eq!(Event::from_line(more).unwrap(), Some(Event::Eval(EvalEvent::new(1, 2.0, None))));
        let bad = [
            "",
            "{",
            "nonsense",
            r#"{"step":1,"loss":2."#,
            r#"{"step":-1,"val_loss":1.0}"#,
            r#"{"step":1,"lat"#,
            r#"{"kind":"eval","step":1,"val_loss":1.0"#,
            r#"{"kind":"later","step":1"#,
            r#"{"kind":7,"step":1,"val_loss":1.0}"#,
            r#"{"kind":"step","step":1,"val_loss":1.0}"#,
        ];
        for bad in bad {
            assert!(Event::from_line(bad).is_err(), "{bad}");
        }
    }
}

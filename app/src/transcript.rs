//! The lines of a terminal that follow from the events of a run: as they happen, or read back from its `events.jsonl`.

use crate::show;
use crate::watcher::Begin;
use mantissa_core::telemetry::event::{EvalEvent, Event, SampleEvent, StepEvent};
use mantissa_core::telemetry::schema::StepScalar;
use std::time::Duration;

/// Longest time between two lines of progress that are kept.
const LINE_AFTER: Duration = Duration::from_secs(10);

/// A text that follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// The step just taken. `keep` says that it is worth a line, so that a long run leaves a short list.
    Progress {
        /// The step in words.
        text: String,
        /// Whether the line stays.
        keep: bool,
    },
    /// A line for people.
    Line(String),
    /// A warning.
    Warning(String),
}

/// Turns events into lines.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// Steps that the run is to take.
    steps: u64,
    /// The first step of this process.
    first: u64,
    log_every: u64,
    /// When the last line of progress was kept.
    last_line: Duration,
    /// Steps of this process.
    taken: u64,
    /// Steps skipped up to the last one; `None` before the first.
    skipped: Option<u64>,
    skipped_in_a_row: u64,
}

impl Transcript {
    /// Of a run that begins.
    pub fn new(run: &Begin<'_>) -> Transcript {
        Transcript {
            steps: run.config.train.schedule.steps,
            first: run.steps + 1,
            log_every: run.config.run.log_every,
            last_line: Duration::ZERO,
            taken: 0,
            skipped: None,
            skipped_in_a_row: 0,
        }
    }

    /// Gives the texts of `event` to `say`. `elapsed` is the time since the run began.
    pub fn event(&mut self, event: &Event, elapsed: Duration, mut say: impl FnMut(Text)) {
        match event {
            Event::Step(e) => self.step(e, elapsed, say),
            Event::Eval(EvalEvent { step, val_loss, val_accuracy, .. }) => {
                let text = evaluation(val_loss.unwrap_or(f32::NAN), *val_accuracy);
                say(Text::Line(format!("eval  step {step} | {text}")));
            }
            Event::Sample(SampleEvent { step, sample }) => {
                say(Text::Line(format!("sample at step {step}:\n{}\n", sample.trim_end())));
            }
            Event::Warning(e) => say(Text::Warning(e.warning.to_string())),
            Event::Log(_)
            | Event::Tensor(_)
            | Event::Profile(_)
            | Event::Predictions(_)
            | Event::Memory(_)
            | Event::Tuned(_) => {}
        }
    }

    fn step(&mut self, e: &StepEvent, elapsed: Duration, mut say: impl FnMut(Text)) {
        self.taken += 1;
        let ends = e.step == self.first || e.step == self.steps;
        let due = self.log_every > 0 && e.step.is_multiple_of(self.log_every);
        let keep = ends || due || elapsed.saturating_sub(self.last_line) >= LINE_AFTER;
        if keep {
            self.last_line = elapsed;
        }
        let left = self.steps.saturating_sub(e.step) as f64 * elapsed.as_secs_f64() / self.taken as f64;
        let (steps, width) = (self.steps, self.steps.to_string().len());
        let parts = std::iter::once(format!("step {:>width$}/{steps}", e.step)).chain(e.progress());
        let text = parts.chain([format!("eta {}", show::clock(left))]).collect::<Vec<_>>().join(" | ");
        say(Text::Progress { text, keep });
        let skipped = e.was_skipped(self.skipped.replace(e.skipped_total()));
        if skipped {
            self.skipped_in_a_row += 1;
        } else if self.skipped_in_a_row > 0 {
            let scale = e.get(StepScalar::LossScale);
            let at = scale.map_or_else(String::new, |s| format!(" at loss_scale {}", show::loss_scale(s as f32)));
            let after = match self.skipped_in_a_row {
                1 => "one skipped step".to_string(),
                n => format!("{n} skipped steps"),
            };
            say(Text::Line(format!("step {}: recovered{at} after {after}", e.step)));
            self.skipped_in_a_row = 0;
        }
    }
}

/// An evaluation in words; `accuracy` is that of a classifier.
pub fn evaluation(val_loss: f32, accuracy: Option<f32>) -> String {
    match accuracy {
        Some(a) => format!("val_loss {val_loss:.4} | val_accuracy {:.2}%", 100.0 * a),
        None => format!("val_loss {val_loss:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::resolve::resolve;
    use mantissa_core::telemetry::StepReport;
    use mantissa_core::telemetry::event::Timing;
    use std::path::Path;

    fn step(step: u64, skipped_total: u64) -> Event {
        let report = StepReport {
            step,
            loss: 2.0,
            lr: 1e-3,
            grad_norm: 1.0,
            loss_scale: Some(1024.0),
            found_inf: false,
            skipped: false,
            skipped_total,
            growth_tracker: Some(1),
            fp8: None,
        };
        Event::Step(StepEvent::new(&report, Timing { ms: 500.0, items_per_s: 2048.0, mfu: 0.25 }, false))
    }

    #[test]
    fn lines_follow_from_events() {
        let mut config = resolve(&Default::default()).unwrap().config;
        config.train.schedule.steps = 100;
        config.run.log_every = 0;
        let mut transcript = Transcript::new(&Begin { config: &config, folder: Path::new("r"), steps: 5 });
        let mut said = Vec::new();
        let skips = [0, 0, 1, 2, 2];
        for (i, skipped) in skips.into_iter().enumerate() {
            let elapsed = Duration::from_millis(500 * (i as u64 + 1));
            transcript.event(&step(6 + i as u64, skipped), elapsed, |text| said.push(text));
        }
        transcript.event(&step(11, 2), Duration::from_secs(12), |text| said.push(text));
        transcript.event(&Event::Eval(EvalEvent::new(11, 1.5, Some(0.5))), Duration::from_secs(12), |text| said.push(text));
        let sample = Event::Sample(SampleEvent::new(11, "to be\nor not\n\n"));
        transcript.event(&sample, Duration::from_secs(12), |text| said.push(text));
        let kept: Vec<String> = said
            .into_iter()
            .filter_map(|text| match text {
                Text::Progress { text, keep } => keep.then_some(text),
                Text::Line(text) | Text::Warning(text) => Some(text),
            })
            .collect();
        let line = |step: u64, skipped: u64, eta: &str| {
            format!(
                "step {step:>3}/100 | loss 2.0000 | lr 1.00e-03 | grad_norm 1.000 | loss_scale 1024 | skipped {skipped} | \
                 500.0 ms | 2.0k tok/s | mfu 25.0% | eta {eta}"
            )
        };
        let expected = [
            line(6, 0, "0:47"),
            "step 10: recovered at loss_scale 1024 after 2 skipped steps".into(),
            line(11, 2, "2:58"),
            "eval  step 11 | val_loss 1.5000 | val_accuracy 50.00%".into(),
            "sample at step 11:\nto be\nor not\n".into(),
        ];
        assert_eq!(kept, expected);
    }
}

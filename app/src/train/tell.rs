//! What a run tells of its steps: events, logs, progress, and what people should know beside the numbers.

use super::{Run, skipped};
use crate::show;
use anyhow::{Context, Result};
use mantissa_core::telemetry::TensorReport;
use mantissa_core::telemetry::event::{
    Event, LogEvent, MemoryEvent, MemoryRow, StepEvent, TensorEvent, Timing, TunedEvent, TunedRow, WarningEvent,
};
use mantissa_core::train::Landed;
use std::time::{Duration, Instant};

/// Longest time between two lines of progress that are kept.
const LINE_AFTER: Duration = Duration::from_secs(10);

impl Run<'_> {
    /// Events, logs and progress of a step that has landed and took `ms`.
    pub(super) fn tell(&mut self, landed: Landed, ms: f64) -> Result<()> {
        let Landed { report, tensors, .. } = &landed;
        let items_per_s = self.config.train.items_per_step() as f64 / (ms / 1e3);
        let timing = Timing { ms, items_per_s, mfu: self.ceiling.share(ms) };
        let event = StepEvent::new(report, timing, self.images);
        let progress = self.progress(&event);
        self.event(Event::Step(event))?;
        self.logs.step(report, timing, self.watcher);
        self.tensors(report.step, tensors.as_deref().unwrap_or_default())?;
        self.notices(&landed)?;
        self.tell_memory()?;
        self.tell_tuned()?;
        let (steps, every, now) = (self.config.train.schedule.steps, self.config.run.log_every, Instant::now());
        let ends = report.step == self.first_step || report.step == steps;
        let due = every > 0 && report.step.is_multiple_of(every);
        let print = ends || due || now.duration_since(self.last_line) >= LINE_AFTER;
        if print {
            self.last_line = now;
        }
        self.watcher.progress(&progress, print);
        self.ended |= self.config.train.ends_at(report);
        Ok(())
    }

    /// Keeps an event and tells it.
    pub(super) fn event(&mut self, event: Event) -> Result<()> {
        let line = event.to_line().context("cannot write an event as JSON")?;
        self.watcher.event(&event, &line);
        self.logs.event(&line, self.watcher);
        Ok(())
    }

    /// Says of which schema the log is, on the first line that this process prints and, once, in the log.
    pub(super) fn begin_log(&mut self) -> Result<()> {
        let line = Event::Log(LogEvent::new(self.session.steps()));
        let text = line.to_line().context("cannot write an event as JSON")?;
        self.watcher.event(&line, &text);
        if !self.logs.folder.log().has_begun() {
            self.logs.event(&text, self.watcher);
        }
        Ok(())
    }

    /// The tensors that a step has measured.
    fn tensors(&mut self, step: u64, reports: &[TensorReport]) -> Result<()> {
        for report in reports {
            self.logs.tensor(step, report, self.watcher);
            self.event(Event::Tensor(TensorEvent { step, tensor: report.clone() }))?;
        }
        Ok(())
    }

    /// Tells what memory is taken, if it is not what was told last.
    pub(super) fn tell_memory(&mut self) -> Result<()> {
        let taken = self.session.taken_bytes();
        if taken == self.memory {
            return Ok(());
        }
        let row = |(purpose, bytes): &(&str, usize)| MemoryRow { purpose: purpose.to_string(), bytes: *bytes as u64 };
        let memory = taken.iter().map(row).collect();
        self.memory = taken;
        self.event(Event::Memory(MemoryEvent { step: self.session.steps(), memory }))
    }

    /// Tells what was chosen by measuring, if it is not what was told last, and what went wrong with it.
    pub(super) fn tell_tuned(&mut self) -> Result<()> {
        let warnings = self.session.warnings();
        warnings.iter().skip(self.warnings_told).for_each(|warning| self.watcher.warn(warning));
        self.warnings_told = warnings.len();
        let tuned = self.session.tuned();
        if tuned == self.tuned {
            return Ok(());
        }
        let rows = tuned.iter().cloned().map(|(product, kind)| TunedRow { product, kind }).collect();
        self.tuned = tuned;
        self.event(Event::Tuned(TunedEvent { step: self.session.steps(), tuned: rows }))
    }

    fn progress(&self, event: &StepEvent) -> String {
        let steps = self.config.train.schedule.steps;
        let width = steps.to_string().len();
        let taken = self.times.count().max(1) as f64;
        let left = (steps - event.step) as f64 * self.start.elapsed().as_secs_f64() / taken;
        let parts = std::iter::once(format!("step {:>width$}/{steps}", event.step)).chain(event.progress());
        parts.chain([format!("eta {}", show::clock(left))]).collect::<Vec<_>>().join(" | ")
    }

    /// What people should know about a step beside its numbers.
    fn notices(&mut self, landed: &Landed) -> Result<()> {
        let r = &landed.report;
        if r.skipped {
            self.skipped_in_a_row += 1;
            if let Some(line) = skipped::line(landed, self.config.train.recipe.scaler) {
                self.watcher.line(&line);
            }
        } else if self.skipped_in_a_row > 0 {
            let at = r.loss_scale.map_or_else(String::new, |s| format!(" at loss_scale {}", show::loss_scale(s)));
            let skipped = match self.skipped_in_a_row {
                1 => "one skipped step".to_string(),
                n => format!("{n} skipped steps"),
            };
            self.watcher.line(&format!("step {}: recovered{at} after {skipped}", r.step));
            self.skipped_in_a_row = 0;
        }
        for warning in self.health.observe(r, &landed.fp8) {
            self.watcher.warn(&warning.to_string());
            self.event(Event::Warning(WarningEvent { step: r.step, warning }))?;
        }
        Ok(())
    }
}

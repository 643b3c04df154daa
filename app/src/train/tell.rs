//! What a run reports of its steps: events, logs, and what people should know beside the numbers.

use super::{Run, skipped};
use anyhow::{Context, Result};
use mantissa_core::telemetry::TensorReport;
use mantissa_core::telemetry::event::{
    Event, LogEvent, MemoryEvent, MemoryRow, StepEvent, TensorEvent, Timing, TunedEvent, TunedRow, WarningEvent,
};
use mantissa_core::train::StepResult;

impl Run<'_> {
    /// Events and logs of a step that has arrived and took `ms`.
    pub(super) fn tell(&mut self, result: StepResult, ms: f64) -> Result<()> {
        let StepResult { report, tensors, .. } = &result;
        let items_per_s = self.config.train.items_per_step() as f64 / (ms / 1e3);
        let timing = Timing { ms, items_per_s, mfu: self.ceiling.share(ms) };
        self.event(Event::Step(StepEvent::new(report, timing, self.images)))?;
        self.logs.step(report, timing, self.watcher);
        self.tensors(report.step, tensors.as_deref().unwrap_or_default())?;
        self.notices(&result)?;
        self.tell_memory()?;
        self.tell_tuned()?;
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

    /// What people should know about a step beside its numbers.
    fn notices(&mut self, result: &StepResult) -> Result<()> {
        let r = &result.report;
        if let Some(line) = r.skipped.then(|| skipped::line(result, self.config.train.recipe.scaler)).flatten() {
            self.watcher.line(&line);
        }
        for warning in self.health.observe(r, &result.fp8) {
            self.event(Event::Warning(WarningEvent { step: r.step, warning }))?;
        }
        Ok(())
    }
}

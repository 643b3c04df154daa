//! Reads the event log of a run that may have ended in the middle of a line, or been damaged since: what cannot be read is counted and left out.

use crate::event_log::read_lines;
use crate::run_folder::EVENTS;
use anyhow::{Context, Result};
use mantissa_core::telemetry::StepReport;
use mantissa_core::telemetry::event::{Event, Read, TensorEvent};
use mantissa_core::telemetry::in_order::InOrder;
use std::fs::File;
use std::path::Path;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines.
    pub lines: usize,
    /// Lines among them that are no events.
    pub corrupt: usize,
    /// Number of the first of those, from 1.
    pub first_corrupt: usize,
    /// Events among the others that were out of order.
    pub out_of_order: usize,
}

/// What a log says of numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Logged {
    /// A step.
    Step(StepReport),
    /// The report of a tensor.
    Tensor(TensorEvent),
}

/// Gives every step and every report of a tensor in the log of `run` to `each`; a run without a log has none.
pub fn read(run: &Path, mut each: impl FnMut(Logged)) -> Result<Counts> {
    let path = run.join(EVENTS);
    let context = || format!("cannot read the event log: {}", path.display());
    let mut counts = Counts::default();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(counts),
        Err(e) => return Err(e).with_context(context),
    };
    let (mut order, mut skipped) = (InOrder::default(), None);
    let mut take = |event| match event {
        Event::Step(step) => each(Logged::Step(judged(step.report(), &mut skipped))),
        Event::Tensor(event) => each(Logged::Tensor(event)),
        Event::Eval(_)
        | Event::Warning(_)
        | Event::Sample(_)
        | Event::Profile(_)
        | Event::Predictions(_)
        | Event::Memory(_)
        | Event::Tuned(_) => {}
    };
    let unfinished = read_lines(file, |line| {
        counts.lines += 1;
        match line.text.map(Read::line) {
            Some(Read::Event(event)) => order.push(event, &mut take),
            // A later version may have more to tell.
            Some(Read::Unknown(_)) => {}
            Some(Read::Unreadable) | None => counts.unreadable(),
        }
    });
    if unfinished.with_context(context)? > 0 {
        counts.lines += 1;
        counts.unreadable();
    }
    order.finish(take);
    counts.out_of_order = order.out_of_order as usize;
    Ok(counts)
}

impl Counts {
    /// The last line cannot be read.
    fn unreadable(&mut self) {
        self.corrupt += 1;
        self.first_corrupt = if self.corrupt == 1 { self.lines } else { self.first_corrupt };
    }
}

/// A step was skipped if it raised the number of skipped steps; without the line before it, if it was not finite and there are any.
fn judged(report: StepReport, before: &mut Option<u64>) -> StepReport {
    let total = report.skipped_total;
    let skipped = match before.replace(total) {
        Some(before) => total > before,
        None => total > 0 && report.found_inf,
    };
    StepReport { skipped, ..report }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), |_| {}).unwrap(), Counts::default());
        let step = |step: u64, skipped: u64| {
            format!(
                "{{\"step\":{step},\"loss\":2.0,\"lr\":0.1,\"skipped\":{skipped},\"found_inf\":true,\"ms\":1.0,\"mfu\":0.1}}\n"
            )
        };
        let long = "x".repeat(mantissa_core::telemetry::lines::MAX_LINE_BYTES + 1);
        let later = "{\"step\":2,\"later\":1}\n".to_string();
        let log = [
            step(1, 1),
            "garbage\n".into(),
            step(2, 1),
            later,
            format!("{long}\n"),
            step(999, 7),
            step(3, 2),
            "{\"step\":4,\"lo".into(),
        ];
        std::fs::write(dir.path().join(EVENTS), log.concat()).unwrap();
        let mut seen = Vec::new();
        let counts = read(dir.path(), |e| {
            let Logged::Step(r) = e else { panic!("{e:?}") };
            seen.push((r.step, r.skipped));
        });
        assert_eq!(seen, [(1, true), (2, false), (3, true)]);
        assert_eq!(counts.unwrap(), Counts { lines: 8, corrupt: 3, first_corrupt: 2, out_of_order: 1 });
    }
}

//! Reads the event log of a run that may have ended in the middle of a line, or been damaged since: what cannot be read is counted and left out.

use crate::run_folder::EVENTS;
use anyhow::{Context, Result};
use mantissa_core::telemetry::StepReport;
use mantissa_core::telemetry::event::{Event, TensorEvent};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longest line believed to be one, bytes.
const MAX_LINE_BYTES: u64 = 1 << 16;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines.
    pub lines: usize,
    /// Lines among them that are no events.
    pub corrupt: usize,
    /// Number of the first of those, from 1.
    pub first_corrupt: usize,
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
    let mut reader = match File::open(&path) {
        Ok(file) => BufReader::new(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(counts),
        Err(e) => return Err(e).with_context(context),
    };
    let (mut line, mut skipped) = (Vec::new(), None);
    while (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).with_context(context)? > 0 {
        counts.lines += 1;
        let event = std::str::from_utf8(&line).ok().and_then(|l| Event::from_line(l).ok()).flatten();
        match event {
            Some(Event::Step(step)) => each(Logged::Step(judged(step.report(), &mut skipped))),
            Some(Event::Tensor(event)) => each(Logged::Tensor(event)),
            Some(
                Event::Eval(_)
                | Event::Warning(_)
                | Event::Sample(_)
                | Event::Profile(_)
                | Event::Predictions(_)
                | Event::Memory(_)
                | Event::Tuned(_),
            ) => {}
            None => {
                counts.corrupt += 1;
                counts.first_corrupt = if counts.corrupt == 1 { counts.lines } else { counts.first_corrupt };
            }
        }
        line.clear();
    }
    Ok(counts)
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
        let long = "x".repeat(3 * MAX_LINE_BYTES as usize / 2);
        let log = [step(1, 1), "garbage\n".into(), step(2, 1), format!("{long}\n"), step(3, 2), "{\"step\":4,\"lo".into()];
        std::fs::write(dir.path().join(EVENTS), log.concat()).unwrap();
        let mut seen = Vec::new();
        let counts = read(dir.path(), |e| {
            let Logged::Step(r) = e else { panic!("{e:?}") };
            seen.push((r.step, r.skipped));
        });
        assert_eq!(seen, [(1, true), (2, false), (3, true)]);
        assert_eq!(counts.unwrap(), Counts { lines: 7, corrupt: 4, first_corrupt: 2 });
    }
}

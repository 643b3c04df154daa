//! The numbers in the event log of a run that may have ended in the middle of a line, or been damaged since: what
//! cannot be read is counted and left out ([`mantissa_core::telemetry::reader`]).

use crate::event_log::read_chunks;
use crate::run_folder::EVENTS;
use anyhow::{Context, Result};
use mantissa_core::telemetry::StepReport;
use mantissa_core::telemetry::event::{Event, TensorEvent};
use mantissa_core::telemetry::reader::{Counts, LogReader};
use std::fs::File;
use std::path::Path;

/// What a log says of numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Logged {
    /// A step.
    Step(StepReport),
    /// The report of a tensor.
    Tensor(TensorEvent),
}

/// Gives every step and every report of a tensor in the log of `run` to `each`; a run without a log has none. Errs for
/// a log that cannot be read or is of a later schema.
pub fn read(run: &Path, mut each: impl FnMut(Logged)) -> Result<Counts> {
    let path = run.join(EVENTS);
    let context = || format!("cannot read the event log: {}", path.display());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Counts::default()),
        Err(e) => return Err(e).with_context(context),
    };
    let (mut reader, mut skipped) = (LogReader::default(), None);
    let mut take = |event| match event {
        Event::Step(step) => {
            let skipped = step.was_skipped(skipped.replace(step.skipped_total()));
            each(Logged::Step(StepReport { skipped, ..step.report() }));
        }
        Event::Tensor(event) => each(Logged::Tensor(event)),
        Event::Log(_)
        | Event::Eval(_)
        | Event::Warning(_)
        | Event::Sample(_)
        | Event::Profile(_)
        | Event::Predictions(_)
        | Event::Memory(_)
        | Event::Tuned(_) => {}
    };
    read_chunks(file, |bytes| Ok(reader.feed(bytes, &mut take)?)).with_context(context)?;
    reader.finish(take);
    Ok(reader.counts())
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
                "{{\"step\":{step},\"loss\":2.0,\"lr\":0.1,\"skipped\":{skipped},\"found_inf\":true,\"ms\":1.0,\"tok_per_s\":1.0,\"mfu\":0.1}}\n"
            )
        };
        let long = "x".repeat(mantissa_core::telemetry::lines::MAX_LINE_BYTES + 1);
        let later = "{\"kind\":\"later\",\"step\":2}\n".to_string();
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
        assert_eq!(counts.unwrap(), Counts { lines: 8, damaged: 3, first_damaged: 2, unknown: 1, out_of_order: 1 });
    }

    #[test]
    fn a_log_of_a_later_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(EVENTS), "{\"kind\":\"log\",\"schema\":3}\n").unwrap();
        let message = format!("{:#}", read(dir.path(), |_| {}).unwrap_err());
        assert!(message.contains("expected schema at most 2, found 3") && message.contains(EVENTS), "{message}");
    }
}

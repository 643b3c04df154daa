//! Whoever watches a run: a terminal, a window. A run reports to it what happens and never waits for it.

use crate::config::RunConfig;
use mantissa_core::telemetry::event::Event;
use std::path::Path;

/// What a run is, reported once before its first step.
#[derive(Clone, Copy, Debug)]
pub struct Begin<'a> {
    /// Every setting, resolved.
    pub config: &'a RunConfig,
    /// The run folder.
    pub folder: &'a Path,
    /// Steps taken by the run that it goes on with.
    pub steps: u64,
}

/// Hears what happens in a run.
pub trait Watcher {
    /// The run is about to take its first step.
    fn begin(&self, _run: &Begin<'_>) {}

    /// An event, also as the line of JSON that the run folder keeps. What people read of it follows from it
    /// ([`crate::transcript`]).
    fn event(&self, event: &Event, line: &str);

    /// No more progress will come.
    fn end_progress(&self) {}

    /// A line for people.
    fn line(&self, text: &str);

    /// Something worth knowing.
    fn note(&self, text: &str);

    /// A warning.
    fn warn(&self, text: &str);

    /// The final result.
    fn result(&self, text: &str);

    /// What can be done next.
    fn hint(&self, _text: &str) {}
}

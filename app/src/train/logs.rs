//! Where the numbers of a run are kept. What cannot be kept costs itself and one warning, never the run: lines wait for
//! room, see [`crate::append`].

use crate::append::Backlog;
use crate::run_folder::RunFolder;
use crate::sinks::Sinks;
use crate::watcher::Watcher;
use anyhow::{Result, bail};
use mantissa_core::telemetry::event::Timing;
use mantissa_core::telemetry::{StepReport, TensorReport};

/// The folder of a run and its logs.
pub(super) struct Logs {
    pub(super) folder: RunFolder,
    sinks: Sinks,
    /// What has been warned of.
    told: Vec<String>,
    /// Something waits to be written, and that was reported.
    behind: bool,
    /// Lines that are lost for good.
    lost: u64,
}

impl Logs {
    pub(super) fn new(folder: RunFolder, sinks: Sinks) -> Logs {
        Logs { folder, sinks, told: Vec::new(), behind: false, lost: 0 }
    }

    /// A line of the event log.
    pub(super) fn event(&mut self, line: &str, watcher: &dyn Watcher) {
        let done = self.folder.event(line);
        self.after(done, watcher);
    }

    pub(super) fn step(&mut self, report: &StepReport, timing: Timing, watcher: &dyn Watcher) {
        let done = self.sinks.step(report, timing);
        self.after(done, watcher);
    }

    pub(super) fn eval(&mut self, step: u64, val_loss: f32, val_accuracy: Option<f32>, watcher: &dyn Watcher) {
        let done = self.sinks.eval(step, val_loss, val_accuracy);
        self.after(done, watcher);
    }

    pub(super) fn tensor(&mut self, step: u64, tensor: &TensorReport, watcher: &dyn Watcher) {
        let done = self.sinks.tensor(step, tensor);
        self.after(done, watcher);
    }

    pub(super) fn sample(&mut self, step: u64, text: &str, watcher: &dyn Watcher) {
        let done = self.folder.sample(step, text);
        self.after(done, watcher);
    }

    /// Makes all that was written last, before a checkpoint that it leads to.
    pub(super) fn sync(&mut self, watcher: &dyn Watcher) {
        for done in [self.folder.sync(), self.sinks.sync()] {
            self.after(done, watcher);
        }
    }

    /// The last chance to write what waits; what is lost then is reported.
    pub(super) fn close(&mut self, watcher: &dyn Watcher) {
        self.sync(watcher);
        let Backlog { waiting, dropped } = self.backlog();
        self.lost = waiting + dropped;
        if self.lost > 0 {
            watcher.warn(&format!(
                "{} lines of the logs are lost, there was no room for them: {}",
                self.lost,
                self.folder.path().display()
            ));
        }
    }

    /// Errs if lines were lost: the run is whole, its logs are not.
    pub(super) fn whole(&self) -> Result<()> {
        match self.lost {
            0 => Ok(()),
            lost => bail!("the run is saved, but {lost} lines of its logs are not: {}", self.folder.path().display()),
        }
    }

    fn backlog(&self) -> Backlog {
        self.folder.backlog() + self.sinks.backlog()
    }

    fn after(&mut self, done: Result<()>, watcher: &dyn Watcher) {
        let waiting = self.backlog().waiting;
        match done {
            Err(e) => {
                self.behind |= waiting > 0;
                let text = format!("{e:#}");
                if !self.told.contains(&text) {
                    watcher.warn(&format!(
                        "{text}; the run goes on{}",
                        if waiting > 0 { ", and the lines wait for room" } else { "" }
                    ));
                    self.told.push(text);
                }
            }
            Ok(()) if self.behind && waiting == 0 => {
                watcher.note("the lines that waited for room are in the logs now");
                self.behind = false;
                self.told.clear();
            }
            Ok(()) => {}
        }
    }
}

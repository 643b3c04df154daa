//! What a run leaves behind: checkpoints on its way, and the ways it ends. What could be lost is saved before anything
//! else is done.

use super::look::Eval;
use super::{Run, due};
use crate::checkpoint::write;
use crate::event_log::Looks;
use crate::run_folder::RunFolder;
use crate::{Outcome, findings, init_from, is_of_device, show};
use anyhow::{Context, Result, anyhow};
use mantissa_core::data::{BatchBytes, Dataset};
use mantissa_core::diagnose::doctor::Doctor;
use mantissa_core::precision::OnNonFinite;
use std::path::{Path, PathBuf};

/// Folders tried beside a run folder that is gone.
const MAX_RESCUES: usize = 1000;

/// A checkpoint that could not be written.
#[derive(Debug)]
pub(super) struct Unsaved {
    /// Why.
    error: String,
    /// The innermost part of that, which is the same for every step.
    cause: String,
    /// How many in a row, for the same cause.
    count: u64,
    /// The step of the last of them.
    step: u64,
}

impl Run<'_> {
    /// Writes a checkpoint, unless the last one is of this step; whether this step is saved now. One that cannot be
    /// written is warned of and tried again with the next one that is due. Errs if the device or the run folder is
    /// gone.
    pub fn save(&mut self) -> Result<bool> {
        self.settle()?;
        let step = self.session.steps();
        if self.saved == Some(step) {
            return Ok(true);
        }
        self.refuse_moved()?;
        self.logs.sync(self.watcher);
        match self.write(self.logs.folder.path()) {
            Ok(()) => {
                self.saved = Some(step);
                if let Some(Unsaved { count: count @ 2.., .. }) = self.unsaved.take() {
                    self.watcher.note(&format!("step {step} is saved; {count} checkpoints before it could not be written"));
                }
                self.stop.saved(step);
                Ok(true)
            }
            Err(e) if is_of_device(&e) => Err(e),
            Err(e) => {
                let (error, cause) = (format!("{e:#}"), e.root_cause().to_string());
                let last = self.unsaved.take().filter(|unsaved| unsaved.cause == cause);
                let again = last.as_ref().is_some_and(|unsaved| unsaved.step == step);
                let count = last.map_or(0, |unsaved| unsaved.count) + u64::from(!again);
                let saved = self.last_saved();
                match count {
                    _ if again => {}
                    1 => self.watcher.warn(&format!("{error}; {saved}")),
                    // Said in full once, and then now and then how often.
                    n if n.is_power_of_two() => {
                        self.watcher.warn(&format!("{n} checkpoints in a row could not be written ({cause}); {saved}"));
                    }
                    _ => {}
                }
                self.unsaved = Some(Unsaved { error, cause, count, step });
                Ok(false)
            }
        }
    }

    /// The checkpoint of this step in a run folder, without the oldest ones there.
    fn write(&self, folder: &Path) -> Result<()> {
        let saved = write::save(folder, &self.session, self.health.state(), &self.around, self.config.run.keep)?;
        saved.warnings.iter().for_each(|warning| self.watcher.warn(warning));
        Ok(())
    }

    /// Ends a run before all its steps or in its last evaluation: a checkpoint, and how to go on.
    pub fn interrupt(&mut self) -> Result<()> {
        self.watcher.end_progress();
        self.save_at_end()?;
        let (step, took, path) = (self.session.steps(), self.took(), self.logs.folder.path().display());
        let how = if self.is_over() {
            "all steps are saved, what was to follow the last one is left out"
        } else {
            "go on with --resume"
        };
        self.watcher.result(&format!("interrupted after step {step} ({took}); {how}: {path}"));
        Ok(())
    }

    /// Ends a run that is over: checkpoint, last evaluation, sample, result.
    pub fn finish(&mut self) -> Result<Outcome> {
        self.watcher.end_progress();
        if self.ended {
            self.give_up()?;
            return Ok(Outcome::NonFinite);
        }
        self.save()?;
        // A run that was whole but for these does only them.
        let owed = std::mem::take(&mut self.owed);
        let looks = if owed.any() { owed } else { due(&self.config, self.session.steps()) };
        let eval = if looks.eval { self.evaluate()? } else { None };
        self.look(Looks { eval: false, ..looks })?;
        if let Some(signal) = self.stop.asked() {
            self.interrupt()?;
            return Ok(Outcome::Interrupted(signal));
        }
        self.save_at_end()?;
        self.result(eval);
        self.logs.whole()?;
        Ok(Outcome::Done)
    }

    /// Errs if the run folder no longer stands where it was; then the run is saved elsewhere, and nothing is written in
    /// its old place.
    pub(super) fn refuse_moved(&mut self) -> Result<()> {
        if self.logs.folder.is_here() {
            return Ok(());
        }
        self.settle()?;
        self.watcher.end_progress();
        let (old, step) = (self.logs.folder.path().to_path_buf(), self.session.steps());
        let (what, place) = match self.logs.folder.moved_to() {
            Some(new) => ("was moved", Ok(new)),
            None => ("was moved or removed", self.folder_beside(&old)),
        };
        let saved = place.and_then(|place| {
            self.write(&place)?;
            Ok(place)
        });
        let old = old.display();
        Err(match saved {
            Ok(place) => {
                self.stop.saved(step);
                anyhow!("the run folder {old} {what}; step {step} is saved, go on with --resume: {}", place.display())
            }
            Err(e) => e.context(format!(
                "the run folder {old} {what}, and step {step} cannot be saved beside it; {}",
                self.last_saved()
            )),
        })
    }

    /// A new run folder of the same config beside `old`.
    fn folder_beside(&self, old: &Path) -> Result<PathBuf> {
        let name = old.file_name().context("a run folder has a name")?.to_string_lossy();
        let mut places = (1..=MAX_RESCUES).map(|n| old.with_file_name(format!("{name}-rescued-{n}")));
        let place = places.find(|place| !place.exists()).context("expected a free name, found none")?;
        let folder = RunFolder::create(Some(&place), &init_from::model_name(&self.config), &self.config)?;
        self.vocabulary.save(folder.path())?;
        Ok(place)
    }

    /// Ends a run at a step that was not finite: a checkpoint, and where the step went wrong.
    fn give_up(&mut self) -> Result<()> {
        // Saved first: looking into the step moves scales and histories once more.
        self.save_at_end()?;
        let step = self.session.steps();
        let which = match self.config.train.on_nonfinite {
            OnNonFinite::Ignore => "after",
            OnNonFinite::Skip | OnNonFinite::Stop => {
                self.explain()?;
                "before"
            }
        };
        let (took, path) = (self.took(), self.logs.folder.path().display());
        self.watcher
            .result(&format!("stopped at step {step} ({took}), which is not finite; the weights {which} it are saved: {path}"));
        Ok(())
    }

    /// Says where the last step, which was skipped, went wrong.
    fn explain(&mut self) -> Result<()> {
        let mut batch = BatchBytes::default();
        self.loader.train(self.session.steps(), &mut batch)?;
        let mut doctor = Doctor::new(&self.session);
        match doctor.repeat(&mut self.session, batch.batch()) {
            Ok(_) => doctor.findings().iter().flat_map(findings::lines).for_each(|line| self.watcher.result(&line)),
            // The checkpoint is what matters; `doctor` can look again.
            Err(e) => self.watcher.warn(&format!("cannot look into the step: {e}")),
        }
        Ok(())
    }

    /// The last checkpoint and the last lines of a run. Errs, with what is saved, if the checkpoint cannot be written.
    fn save_at_end(&mut self) -> Result<()> {
        let saved = self.save()?;
        self.logs.close(self.watcher);
        match &self.unsaved {
            Some(Unsaved { error, .. }) if !saved => {
                let (step, path) = (self.session.steps(), self.logs.folder.path().display());
                Err(anyhow!("step {step} is not saved: {error}; {}: {path}", self.last_saved()))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn last_saved(&self) -> String {
        self.saved.map_or("no step is saved".into(), |step| format!("the last saved step is {step}"))
    }

    /// What the run came to, and what can be done with it.
    fn result(&mut self, eval: Option<Eval>) {
        let (steps, skipped) = (self.session.steps(), self.session.skipped());
        let folder = self.logs.folder.path().display().to_string();
        if skipped * 2 > steps {
            self.watcher.warn(&format!(
                "{skipped} of {steps} steps were skipped because they were not finite, the weights are those of the other {}; \
                 to see why: mantissa doctor {folder}",
                steps - skipped
            ));
        }
        let mut parts = vec![format!("done: {steps} {} in {}", show::plural(steps as usize, "step"), self.took())];
        parts.extend(eval.map(|eval| eval.show()));
        if self.times.count() > 0 {
            let ms = self.times.median();
            let rate = show::prefixed(self.config.train.items_per_step() as f64 / (ms / 1e3));
            parts.push(format!("median {ms:.1} ms, {rate} {}/s", self.loader.data().unit()));
        }
        parts.push(folder.clone());
        self.watcher.result(&parts.join(" | "));
        let writes = matches!(self.loader.data(), Dataset::Tokens(_)) && self.vocabulary.has_text();
        let sample = if writes { format!("mantissa sample --run {folder} | ") } else { String::new() };
        let more = format!("mantissa train --resume {folder} --steps {}", 2 * steps);
        self.watcher.hint(&format!("next: {sample}mantissa gui {folder} | {more}"));
    }

    fn took(&self) -> String {
        show::clock(self.start.elapsed().as_secs_f64())
    }
}

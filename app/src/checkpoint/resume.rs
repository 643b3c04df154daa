//! What `--resume` means: which run, which checkpoint, which config, and which folder it goes on in.
//!
//! The config is that of the run. Flags may be given again; one that would change numbers is refused, except `--steps`,
//! which may move the end, and `--on-nonfinite`; both are reported. Nothing in the run folder is changed before
//! everything has been checked.
//!
//! A run goes on in its folder from its newest checkpoint; what its log says of the steps after that is taken again.
//! From an older checkpoint it goes on in a new folder (`branch`), since the newer ones and their steps would be lost,
//! or, with `--discard-newer`, says what it drops and drops it.

use super::branch::branch;
use super::state::{RunFingerprint, State};
use super::{CHECKPOINTS, DONE, complete, instead_of, list, newest, read, remove, step_of};
use crate::checkpoint::run_source::config_of;
use crate::cli::{TrainArgs, overlay, resolve};
use crate::config::{BUILTIN, RunConfig};
use crate::event_log::Looks;
use crate::plain_file;
use crate::run_folder::{self, CONFIG, RUNS, RunFolder, UNFINISHED};
use crate::show;
use crate::watcher::Watcher;
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::diagnose::health::HealthState;
use mantissa_core::train::{Session, TrainConfig};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use toml::{Table, Value};

/// Entry with the end of a run.
const STEPS: &str = "train.schedule.steps";
/// Entries that a resumed run may change although they decide numbers: nothing that has happened depends on them.
const MAY_CHANGE: [&str; 2] = [STEPS, "train.on_nonfinite"];
/// Clocks of two machines that share a folder may differ by this; what is later than that comes from a wrong clock.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// A run to go on with.
#[derive(Debug)]
pub struct Resume {
    /// The run, open and locked.
    pub folder: RunFolder,
    /// Its config with the flags applied.
    pub config: RunConfig,
    /// The checkpoint and what it knows; `None` for a run that ended before its first one, which starts again.
    pub checkpoint: Option<(PathBuf, State)>,
    /// Things to tell before going on.
    pub notes: Vec<String>,
    /// The data that the run had, if others are given: they must be the same data.
    pub data_before: Option<String>,
    /// Whether a tokenizer is given that the run did not name: it must be the same one.
    pub tokenizer_given: bool,
    /// Things to tell even to those who want to hear little: what is passed over or dropped.
    warnings: Vec<String>,
    config_changed: bool,
    way: Way,
}

/// Where a run goes on.
#[derive(Debug)]
enum Way {
    /// In its folder, without these checkpoints.
    Same { discard: Vec<PathBuf> },
    /// In a new folder, named or not.
    Branch { out: Option<PathBuf> },
}

/// Finds the run and checkpoint that `path` (a run, a checkpoint, or nothing: the newest run) means, and checks flags
/// and files.
pub fn open(path: Option<&Path>, args: &TrainArgs) -> Result<Resume> {
    let (run, named) = locate(path)?;
    let stored = config_of(&run)?;
    // Locked before anything is read: the files of a run that another process still writes may be removed at any
    // moment.
    let folder = RunFolder::open(&run)?;
    folder.log().check()?;
    let mut args = args.clone();
    args.step.config = Some(run.join(CONFIG));
    let mut config = resolve::resolve(&args)?.config;
    let mut notes = Vec::new();
    let changed = differences(&stored, &config)?;
    let tokenizer_given = config.run.tokenizer != stored.run.tokenizer;
    let decides = |entry: &str| {
        (entry.starts_with("train.") && !MAY_CHANGE.contains(&entry))
            || matches!(entry, "run.model" | "run.init_from")
            || (entry == "run.tokenizer" && (config.run.tokenizer.is_none() || stored.run.tokenizer.is_none()))
    };
    // Another model or recipe changes many entries: its name says it best.
    let refused = changed.iter().filter(|(entry, ..)| decides(entry)).min_by_key(|(entry, ..)| {
        let named = matches!(entry.as_str(), "run.model" | "train.recipe.name" | "train.optim.kind");
        (!named, entry.clone())
    });
    if let Some((entry, before, now)) = refused {
        let run = run.display();
        bail!("--resume: {entry}: expected {before} as in the run, got {now}; a run with other numbers is a new run: {run}");
    }
    for (entry, before, now) in changed.iter().filter(|(entry, ..)| MAY_CHANGE.contains(&entry.as_str())) {
        notes.push(format!("{entry} was {before}, is {now}"));
    }
    // A path that is given (by --set, too) is meant as it is typed, also where the run was given the same words in
    // another folder.
    let same_builtin = config.run.data == BUILTIN && stored.run.data == BUILTIN;
    let given = args.data.is_some() || config.run.data != stored.run.data;
    let data_before = (given && !same_builtin).then(|| stored.run.data.clone());
    if data_before.is_some() {
        config.run.started_in = run_folder::started_in();
    }
    let mut warnings = Vec::new();
    let checkpoint = match checkpoint_of(&run, named.as_deref(), &mut warnings)? {
        None => {
            warnings.push(format!("no checkpoint that can be used is there, the run starts again: {}", run.display()));
            None
        }
        Some(dir) => {
            let state =
                read::state(&dir).map_err(|e| anyhow!("{e:#}; {}", instead_of(&run, &dir, "mantissa train --resume")))?;
            same_config(&state, &stored.train).with_context(|| format!("cannot use the checkpoint {}", dir.display()))?;
            if state.step > config.train.schedule.steps {
                bail!(
                    "--resume: expected --steps of at least {}, which the checkpoint has taken, got {}: {}",
                    state.step,
                    config.train.schedule.steps,
                    dir.display()
                );
            }
            notes.extend(rate_jump(&stored.train, &config.train, state.step));
            Some((dir, state))
        }
    };
    let step = checkpoint.as_ref().map_or(0, |(_, state)| state.step);
    let way = way(&folder, step, args.out.clone(), args.discard_newer, &mut warnings)?;
    let config_changed = config != stored;
    Ok(Resume { config_changed, folder, config, checkpoint, notes, data_before, tokenizer_given, warnings, way })
}

/// The checkpoint to go on from: the one named, or the newest that is complete.
fn checkpoint_of(run: &Path, named: Option<&Path>, warnings: &mut Vec<String>) -> Result<Option<PathBuf>> {
    if let Some(named) = named {
        return Ok(Some(named.to_path_buf()));
    }
    let newest = newest(run)?;
    let step = newest.as_deref().and_then(step_of).unwrap_or_default();
    for (_, passed) in list(run)?.iter().filter(|(s, _)| *s > step) {
        warnings.push(format!("passed over, since it has no {DONE}: {}", passed.display()));
    }
    Ok(newest)
}

/// Where a run goes on from `step`.
fn way(run: &RunFolder, step: u64, out: Option<PathBuf>, discard: bool, warnings: &mut Vec<String>) -> Result<Way> {
    if out.is_some() {
        return Ok(Way::Branch { out });
    }
    let newer: Vec<PathBuf> = complete(run.path())?.into_iter().filter(|(s, _)| *s > step).map(|(_, path)| path).collect();
    if newer.is_empty() {
        return Ok(Way::Same { discard: newer });
    }
    if !discard {
        return Ok(Way::Branch { out: None });
    }
    let names: Vec<_> = newer.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect();
    let (names, steps) = (names.join(", "), run.log().steps_after(step)?);
    warnings.push(format!(
        "--discard-newer drops what came after step {step}: {steps} steps of the log, and of the checkpoints {names}: {}",
        run.path().display()
    ));
    Ok(Way::Same { discard: newer })
}

impl Resume {
    /// Steps taken so far.
    pub fn step(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |(_, state)| state.step)
    }

    /// What the warnings of the run go by.
    pub fn health(&self) -> HealthState {
        self.checkpoint.as_ref().map(|(_, state)| state.health.clone()).unwrap_or_default()
    }

    /// What the log has of the evaluation and the sample after the last step: a process that ended early may have left
    /// them out.
    pub fn looks(&self) -> Result<Looks> {
        self.folder.log().looks(self.step())
    }

    /// Puts a session made from the config where the checkpoint was, and says what differs from then.
    pub fn restore(&self, session: &mut Session, around: &RunFingerprint) -> Result<Vec<String>> {
        let Some((dir, state)) = &self.checkpoint else { return Ok(Vec::new()) };
        read::restore(dir, state, session)?;
        let differences = state.differences(around).into_iter();
        Ok(differences.map(|d| format!("{d}: the run goes on, but not bit for bit as it would have")).collect())
    }

    /// The folder to go on in, as it was at the checkpoint; tells what is dropped, left out or made. The last moment at
    /// which the resumption can still be refused is past.
    pub fn go_on(mut self, watcher: &dyn Watcher) -> Result<RunFolder> {
        let step = self.step();
        self.warnings.iter().for_each(|warning| watcher.warn(warning));
        let (folder, warnings) = match &self.way {
            Way::Same { discard } => {
                // The latest first: while one is left, the events that lead to it must be there.
                discard.iter().rev().try_for_each(|newer| remove(newer))?;
                if self.config_changed {
                    self.folder.configure(&self.config)?;
                }
                let warnings = self.folder.rewind(step)?;
                (self.folder, warnings)
            }
            Way::Branch { out } => {
                let checkpoint = self.checkpoint.as_ref().map(|(dir, state)| (state.step, dir.as_path()));
                let (new, warnings) = branch(&self.folder, out.as_deref(), checkpoint, &self.config)?;
                let in_place = if out.is_some() { "" } else { " (--discard-newer goes on in it and drops what is newer)" };
                let (old, new_path) = (self.folder.path().display(), new.path().display());
                watcher.warn(&format!("goes on in a new folder, {old} stays as it is{in_place}: {new_path}"));
                (new, warnings)
            }
        };
        warnings.iter().for_each(|warning| watcher.warn(warning));
        Ok(folder)
    }
}

/// What a moved end of the schedule does to the learning rate right after `step`.
fn rate_jump(then: &TrainConfig, now: &TrainConfig, step: u64) -> Option<String> {
    let next = step + 1;
    // The old schedule has no rate beyond its end.
    let planned = then.schedule.lr(next.min(then.schedule.steps));
    let (before, after) = (then.schedule.lr(step), now.schedule.lr(next));
    let from = |lr: f64, step: u64| format!("{} (step {step})", show::scientific(lr));
    (step > 0 && now.schedule != then.schedule && after != planned).then(|| {
        format!(
            "the learning rate follows the new number of steps: lr goes from {} to {}",
            from(before, step),
            from(after, next)
        )
    })
}

/// The run, and the checkpoint if one was named.
fn locate(path: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>)> {
    let Some(path) = path else {
        let newest = newest_run(false, |_| true);
        let none = || format!("no run to go on with; train first or name one with --resume PATH: {RUNS}");
        return Ok((newest.with_context(none)?, None));
    };
    if path.join(CONFIG).is_file() {
        return Ok((path.to_path_buf(), None));
    }
    if !path.is_dir() {
        let (found, path) = (plain_file::found(path), path.display());
        bail!("--resume: expected the folder of a run or of one of its checkpoints, found {found}: {path}");
    }
    // A path such as `.` has neither name nor parents of its own.
    let full = path.canonicalize().with_context(|| format!("cannot read the folder: {}", path.display()))?;
    let parent = full.parent().filter(|p| step_of(&full).is_some() && p.file_name().is_some_and(|n| n == CHECKPOINTS));
    match parent.and_then(Path::parent).filter(|run| run.join(CONFIG).is_file()) {
        // In the user's words, if they name the run.
        Some(run) => match path.ancestors().nth(2).filter(|named| named.canonicalize().is_ok_and(|named| named == run)) {
            Some(named) => Ok((named.to_path_buf(), Some(path.to_path_buf()))),
            None => Ok((run.to_path_buf(), Some(full.clone()))),
        },
        None => {
            bail!("--resume: expected a run (with {CONFIG}) or a checkpoint inside one, found neither: {}", path.display())
        }
    }
}

/// The run under `runs/` that was written to last among those that `wanted` takes; `saved` asks for one with a
/// checkpoint. A time in the future comes from a clock that was wrong: such a run counts only where no other does.
pub fn newest_run(saved: bool, wanted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let time = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    let written = |run: &PathBuf| -> Option<SystemTime> {
        let checkpoint = newest(run).ok().flatten().and_then(|dir| time(&dir.join(DONE)));
        checkpoint.or_else(|| if saved { None } else { time(&run.join(CONFIG)) })
    };
    let runs = std::fs::read_dir(RUNS).ok().into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path()));
    let whole = |p: &PathBuf| !p.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
    let runs = runs.filter(|p| whole(p) && p.join(CONFIG).is_file()).filter_map(|p| written(&p).map(|t| (t, p)));
    latest(runs.filter(|(_, run)| wanted(run)), SystemTime::now())
}

/// The run with the latest time that is not in the future; if all are, the latest.
fn latest(runs: impl Iterator<Item = (SystemTime, PathBuf)>, now: SystemTime) -> Option<PathBuf> {
    runs.map(|(time, path)| (time <= now + CLOCK_SLACK, time, path)).max().map(|(_, _, path)| path)
}

/// Refuses a run whose config was edited after the checkpoint, except in what [`MAY_CHANGE`].
fn same_config(state: &State, stored: &TrainConfig) -> Result<()> {
    let table = |train: &TrainConfig| Table::try_from(train).context("config as TOML");
    let (then, now) = (table(&state.config)?, table(stored)?);
    match differing(&then, &now, "train.").into_iter().find(|(entry, ..)| !MAY_CHANGE.contains(&entry.as_str())) {
        Some((entry, then, now)) => {
            bail!("{entry}: expected {then}, with which it was made, found {now} in the {CONFIG} of the run")
        }
        None => Ok(()),
    }
}

fn differences(stored: &RunConfig, now: &RunConfig) -> Result<Vec<(String, String, String)>> {
    let table = |c: &RunConfig| Table::try_from(c).context("config as TOML");
    Ok(differing(&table(stored)?, &table(now)?, ""))
}

/// Entries that differ, as (path, left, right); an absent one is `none`.
fn differing(a: &Table, b: &Table, prefix: &str) -> Vec<(String, String, String)> {
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    let show = |v: Option<&Value>| v.map_or("none".to_string(), Value::to_string);
    let mut out = Vec::new();
    for key in keys {
        let path = format!("{prefix}{key}");
        match (overlay::get(a, key), overlay::get(b, key)) {
            (Some(Value::Table(a)), Some(Value::Table(b))) => out.extend(differing(a, b, &format!("{path}."))),
            (left, right) if left != right => out.push((path, show(left), show(right))),
            (Some(_) | None, _) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_the_future_does_not_win() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let of = |runs: &[(u64, &str)]| {
            let runs =
                runs.iter().map(|(secs, name)| (SystemTime::UNIX_EPOCH + Duration::from_secs(*secs), PathBuf::from(name)));
            latest(runs, now).unwrap()
        };
        assert_eq!(of(&[(999_000, "a"), (999_999, "b"), (998_000, "c")]), Path::new("b"));
        assert_eq!(of(&[(999_000, "a"), (2_000_000, "future"), (998_000, "c")]), Path::new("a"));
        assert_eq!(of(&[(999_000, "a"), (1_000_030, "ahead by seconds")]), Path::new("ahead by seconds"));
        assert_eq!(of(&[(2_000_000, "x"), (3_000_000, "y")]), Path::new("y"));
    }

    #[test]
    fn differing_entries_are_named_with_both_values() {
        let a: Table = "x = 1\n[t]\ny = 2.5\nz = \"s\"\n[u]\nq = 1".parse().unwrap();
        let b: Table = "x = 1\n[t]\ny = 2.25\nw = 4".parse().unwrap();
        let found = differing(&a, &b, "");
        let text: Vec<String> = found.iter().map(|(p, l, r)| format!("{p} {l} {r}")).collect();
        assert_eq!(text, ["t.w none 4", "t.y 2.5 2.25", "t.z \"s\" none", "u { q = 1 } none"]);
        assert!(differing(&a, &a, "").is_empty());
    }
}

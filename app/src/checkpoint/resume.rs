//! What `--resume` means: which run, which checkpoint, which config.
//!
//! The config is that of the run. Flags may be given again; one that would change numbers is refused, except `--steps`, which may move the end, and
//! `--on-nonfinite`; both are reported. Nothing in the run folder is changed before everything has been checked.

use super::state::{State, Surroundings};
use super::{CHECKPOINTS, list, newest, read, remove, step_of};
use crate::cli::{TrainArgs, overlay, resolve};
use crate::config::RunConfig;
use crate::run_folder::{CONFIG, RUNS, RunFolder, write_whole};
use crate::weights::config_of;
use anyhow::{Context, Result, bail};
use mantissa_core::probe::health::HealthState;
use mantissa_core::train::{Session, TrainConfig};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use toml::{Table, Value};

/// Entry with the end of a run.
const STEPS: &str = "train.schedule.steps";
/// Entries that a resumed run may change although they decide numbers: nothing that has happened depends on them.
const MAY_CHANGE: [&str; 2] = [STEPS, "train.on_nonfinite"];

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
    config_changed: bool,
}

/// Finds the run and checkpoint that `path` (a run, a checkpoint, or nothing: the newest run) means, and checks flags and files.
pub fn open(path: Option<&Path>, args: &TrainArgs) -> Result<Resume> {
    let (run, named) = locate(path)?;
    let stored = config_of(&run)?;
    // Locked before anything is read: the files of a run that another process still writes may be removed at any moment.
    let folder = RunFolder::open(&run)?;
    let mut args = args.clone();
    args.step.config = Some(run.join(CONFIG));
    let config = resolve::resolve(&args)?.config;
    let mut notes = Vec::new();
    let changed = differences(&stored, &config)?;
    let decides = |entry: &str| {
        (entry.starts_with("train.") && !MAY_CHANGE.contains(&entry))
            || matches!(entry, "run.data" | "run.model" | "run.tokenizer" | "run.init_from")
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
        let but = if entry == STEPS { "; a cosine of the learning rate is stretched with it" } else { "" };
        notes.push(format!("{entry} was {before}, is {now}{but}"));
    }
    let dir = match named {
        Some(dir) => Some(dir),
        None => newest(&run)?,
    };
    let checkpoint = match dir {
        None => {
            notes.push("the run ended before its first checkpoint: it starts again".into());
            None
        }
        Some(dir) => {
            let state = read::state(&dir)?;
            same_config(&state, &stored.train).with_context(|| format!("cannot use the checkpoint {}", dir.display()))?;
            if state.step > config.train.schedule.steps {
                bail!(
                    "--resume: expected --steps of at least {}, which the checkpoint has taken, got {}: {}",
                    state.step,
                    config.train.schedule.steps,
                    dir.display()
                );
            }
            Some((dir, state))
        }
    };
    Ok(Resume { config_changed: config != stored, folder, config, checkpoint, notes })
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

    /// Puts a session made from the config where the checkpoint was, and says what differs from then.
    pub fn restore(&self, session: &mut Session, around: &Surroundings) -> Result<Vec<String>> {
        let Some((dir, state)) = &self.checkpoint else { return Ok(Vec::new()) };
        read::restore(dir, state, session)?;
        let differences = state.differences(around).into_iter();
        Ok(differences.map(|d| format!("{d}: the run goes on, but not bit for bit as it would have")).collect())
    }

    /// Takes back what the run did after the checkpoint, and hands its folder over. The last moment at which the resumption can still be refused is past.
    pub fn rewind(mut self) -> Result<RunFolder> {
        let (run, step) = (self.folder.path().to_path_buf(), self.step());
        // Later checkpoints first: while one is left, the events that lead to it must be there.
        for (_, later) in list(&run)?.into_iter().rev().filter(|(s, _)| *s > step) {
            remove(&later)?;
        }
        if self.config_changed {
            write_whole(&run.join(CONFIG), self.config.to_toml()?.as_bytes())?;
        }
        self.folder.rewind(step)?;
        Ok(self.folder)
    }
}

/// The run, and the checkpoint if one was named.
fn locate(path: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>)> {
    let Some(path) = path else { return Ok((newest_run(false)?, None)) };
    if path.join(CONFIG).is_file() {
        return Ok((path.to_path_buf(), None));
    }
    if !path.is_dir() {
        bail!("--resume: expected the folder of a run or of one of its checkpoints, found none: {}", path.display());
    }
    // A path such as `.` has neither name nor parents of its own.
    let full = path.canonicalize().with_context(|| format!("cannot read the folder: {}", path.display()))?;
    let parent = full.parent().filter(|p| step_of(&full).is_some() && p.file_name().is_some_and(|n| n == CHECKPOINTS));
    match parent.and_then(Path::parent).filter(|run| run.join(CONFIG).is_file()) {
        Some(run) => Ok((run.to_path_buf(), Some(full.clone()))),
        None => {
            bail!("--resume: expected a run (with {CONFIG}) or a checkpoint inside one, found neither: {}", path.display())
        }
    }
}

/// The run under `runs/` that was written to last; `saved` asks for one with a checkpoint.
pub fn newest_run(saved: bool) -> Result<PathBuf> {
    let time = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
    let written = |run: &PathBuf| -> Option<SystemTime> {
        let checkpoint = newest(run).ok().flatten().and_then(|dir| time(&dir.join(super::DONE)));
        checkpoint.or_else(|| if saved { None } else { time(&run.join(CONFIG)) })
    };
    let runs = std::fs::read_dir(RUNS).ok().into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path()));
    let newest = runs.filter(|p| p.join(CONFIG).is_file()).filter_map(|p| written(&p).map(|t| (t, p))).max();
    newest.map(|(_, path)| path).with_context(|| match saved {
        true => format!("no run with weights; train first or name one with --run DIR: {RUNS}"),
        false => format!("no run to go on with; train first or name one with --resume PATH: {RUNS}"),
    })
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
    fn differing_entries_are_named_with_both_values() {
        let a: Table = "x = 1\n[t]\ny = 2.5\nz = \"s\"\n[u]\nq = 1".parse().unwrap();
        let b: Table = "x = 1\n[t]\ny = 2.25\nw = 4".parse().unwrap();
        let found = differing(&a, &b, "");
        let text: Vec<String> = found.iter().map(|(p, l, r)| format!("{p} {l} {r}")).collect();
        assert_eq!(text, ["t.w none 4", "t.y 2.5 2.25", "t.z \"s\" none", "u { q = 1 } none"]);
        assert!(differing(&a, &a, "").is_empty());
    }
}

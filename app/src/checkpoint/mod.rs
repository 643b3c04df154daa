//! Checkpoints: everything a run needs to go on bit for bit, in `RUN/checkpoints/step-00001000/`.
//!
//! | file | holds |
//! | --- | --- |
//! | `model.safetensors`, `config.json` | weights and sizes; a GPT as `transformers` keeps it ([`model`]) |
//! | `tokenizer.json`, `tokenizer_config.json` | what tokens mean ([`export`](crate::vocabulary::export)) |
//! | `generation_config.json`, `meta.json` | the same, for `transformers` and for a folder that is moved |
//! | `optim.safetensors` | every optimizer and precision state, by name |
//! | `state.json` | step, seeds, data position, scaler, config, sizes and checksums of the files above ([`state`]) |
//! | `DONE` | size and checksum of `state.json` |
//!
//! A folder is written under a temporary name and renamed when it is complete, `DONE` included ([`mod@write`]): a
//! folder that has its final name is whole. Reading ([`read`]) follows the checksums from `DONE` down and touches a
//! session only after all has been checked. [`resume`] finds the run and the checkpoint that `--resume` means,
//! [`moved`] the files that it was started with, [`branch`] gives an older checkpoint a folder of its own.

pub mod branch;
pub mod model;
pub mod moved;
pub mod parts;
pub mod read;
pub mod resume;
pub mod run_source;
pub mod state;
pub mod tensors;
pub mod write;

use crate::plain_file;
use crate::run_folder::UNFINISHED;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Folder of a run with its checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// Weights of a model.
pub const MODEL: &str = "model.safetensors";
/// Optimizer and precision states.
pub const OPTIM: &str = "optim.safetensors";
/// Everything that is not a tensor.
pub const STATE: &str = "state.json";
/// Says that all the others are there.
pub const DONE: &str = "DONE";

/// What the name of a checkpoint begins with.
const STEP_PREFIX: &str = "step-";
/// Prefix of a folder that is being removed.
const REMOVED: &str = ".removed-";
/// Names tried where one is taken.
const MAX_NAMES: usize = 1000;

/// The folder of the checkpoint after `step` steps.
pub fn folder(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(format!("{STEP_PREFIX}{step:08}"))
}

/// The step in the name of a checkpoint folder; `None` for any other name.
pub fn step_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix(STEP_PREFIX)?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Folders with the name of a checkpoint, oldest first, complete or not.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let dir = run.join(CHECKPOINTS);
    let context = || format!("cannot read the checkpoints: {}", dir.display());
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if let Some(step) = step_of(&path).filter(|_| path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The complete checkpoints of a run, oldest first.
pub fn complete(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let mut all = list(run)?;
    all.retain(|(_, path)| path.join(DONE).is_file());
    Ok(all)
}

/// The newest complete checkpoint of a run; `None` if it has no checkpoint folder at all. Folders without `DONE` are
/// passed over, but a run that has only such folders is refused.
pub fn newest(run: &Path) -> Result<Option<PathBuf>> {
    match complete(run)?.pop() {
        Some((_, path)) => Ok(Some(path)),
        None => match list(run)?.len() {
            0 => Ok(None),
            n => bail!("expected a checkpoint with {DONE}, found {n} without: {}", run.join(CHECKPOINTS).display()),
        },
    }
}

/// What to do where the checkpoint `dir` of `run` cannot be used: `how`, in front of its path, takes the newest one
/// that is whole.
pub fn instead_of(run: &Path, dir: &Path, how: &str) -> String {
    let step = step_of(dir);
    let others = complete(run).unwrap_or_default().into_iter().rev().filter(|(s, _)| Some(*s) != step);
    match others.into_iter().find(|(_, path)| read::state(path).is_ok()) {
        Some((step, path)) => format!("the checkpoint of step {step} is whole: {how} {}", path.display()),
        None => "no other checkpoint of the run is whole".into(),
    }
}

/// Reads a file of a few bytes; a larger one is not what it should be.
pub(crate) fn read_small(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    plain_file::read(path, max_bytes).with_context(|| format!("cannot read the file: {}", path.display()))
}

/// Removes a checkpoint: renamed first, so that what is left after a crash does not look like one.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let aside = set_aside(path, REMOVED, "")?;
    std::fs::remove_dir_all(&aside).with_context(|| format!("cannot remove the checkpoint: {}", aside.display()))
}

/// Renames what is at `path` to the first free name of `prefix`, its own and `suffix`; returns that.
fn set_aside(path: &Path, prefix: &str, suffix: &str) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = free(&path.with_file_name(format!("{prefix}{name}{suffix}")))?;
    std::fs::rename(path, &aside).with_context(|| format!("cannot rename to {}: {}", aside.display(), path.display()))?;
    Ok(aside)
}

/// `path`, or if it is taken the first free name that it gives with a number. Nobody else takes it: a run has one
/// writer.
fn free(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = std::iter::once(path.to_path_buf()).chain((2..=MAX_NAMES).map(|n| path.with_file_name(format!("{name}-{n}"))));
    for path in names {
        match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(path),
            Ok(_) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read the folder: {}", path.display())),
        }
    }
    bail!("expected a free name, found {MAX_NAMES} taken: {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_folders_with_the_right_name_are_picked() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        assert_eq!(newest(run).unwrap(), None);
        let make = |name: &str, done: bool| {
            let path = run.join(CHECKPOINTS).join(name);
            std::fs::create_dir_all(&path).unwrap();
            if done {
                std::fs::write(path.join(DONE), b"x").unwrap();
            }
        };
        make("step-00000030", false);
        assert!(newest(run).unwrap_err().to_string().contains("found 1 without"));
        make("step-00000010", true);
        make("step-00000020", true);
        for name in [".unfinished-step-00000040", "step-40", "step-0000004x", "step-00000050.old", "step-", "steps"] {
            make(name, true);
        }
        std::fs::write(run.join(CHECKPOINTS).join("step-00000060"), b"a file").unwrap();
        assert_eq!(newest(run).unwrap(), Some(folder(run, 20)));
        assert_eq!(list(run).unwrap().iter().map(|(s, _)| *s).collect::<Vec<_>>(), [10, 20, 30]);
        make("step-100000000", true);
        assert_eq!(newest(run).unwrap(), Some(folder(run, 100_000_000)));
        // Whatever has the name that a checkpoint gets while it is removed.
        for name in [".removed-step-100000000", ".removed-step-100000000-2"] {
            std::fs::write(run.join(CHECKPOINTS).join(name), b"a file").unwrap();
        }
        remove(&folder(run, 100_000_000)).unwrap();
        assert_eq!(newest(run).unwrap(), Some(folder(run, 20)));
        assert!(!run.join(CHECKPOINTS).join(".removed-step-100000000-3").exists());
    }
}

//! Writes a checkpoint so that a crash at any moment leaves the earlier ones as they are.
//!
//! Order: a folder with a temporary name; each file written and synced; `DONE` last, inside it; the folder synced;
//! renamed to its final name; the parent synced; only then are old checkpoints removed. `DONE` comes before the rename
//! because the rename is the one atomic step: a folder with its final name then always has everything, and what a crash
//! left behind has a name that nobody looks for. The other order would leave, after a crash between the two, a complete
//! checkpoint that nobody may use and that stands in the way of the next attempt. `DONE` is still worth having: it
//! vouches (by checksum, through `state.json`) for copies made by tools that know nothing of this order.
//!
//! What stands in the way is no reason to lose a step: a file in the place of the checkpoint is moved aside, taken
//! names are passed over, and old checkpoints that cannot be removed stay. All of that is reported.

use super::state::{RunFingerprint, State};
use super::tensors::{self, Source};
use super::{DONE, MODEL, OPTIM, REMOVED, STATE, UNFINISHED, complete, folder, free, model, remove, set_aside};
use crate::digest::Digest;
use crate::files::sync_folder;
use crate::run_folder::own_folder;
use crate::tensor_file::{file_dtype, swap_if_big_endian};
use crate::vocabulary::export;
use anyhow::{Context, Result};
use mantissa_core::diagnose::health::HealthState;
use mantissa_core::program::memory::Purpose;
use mantissa_core::train::Session;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A checkpoint that was written.
#[derive(Debug)]
pub struct Saved {
    /// Its folder.
    pub path: PathBuf,
    /// What stood in the way.
    pub warnings: Vec<String>,
}

/// Writes the checkpoint of `session` and of what warnings go by into `run` and removes all but the newest `keep` (0
/// keeps all). The folder of the run must be there.
pub fn save(run: &Path, session: &Session, health: &HealthState, around: &RunFingerprint, keep: usize) -> Result<Saved> {
    let path = folder(run, session.steps());
    let mut warnings = Vec::new();
    write(run, &path, &mut warnings, |dir| fill(run, dir, session, health, around))
        .with_context(|| format!("cannot write the checkpoint: {}", path.display()))?;
    // The new one is safe: what goes wrong from here on costs disk space only.
    match old(run, session.steps(), keep) {
        Ok(old) => warnings.extend(old.iter().filter_map(|path| remove(path).err()).map(|e| format!("{e:#}"))),
        Err(e) => warnings.push(format!("{e:#}")),
    }
    Ok(Saved { path, warnings })
}

/// Puts what `fill` makes in the place of `target`, whole.
fn write(run: &Path, target: &Path, warnings: &mut Vec<String>, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = run.join(super::CHECKPOINTS);
    own_folder(&parent)?;
    let synced = |dir: &Path| sync_folder(dir).with_context(|| format!("cannot sync the folder: {}", dir.display()));
    synced(run)?;
    clean(&parent, warnings);
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = free(&parent.join(format!("{UNFINISHED}{name}")))?;
    std::fs::create_dir(&unfinished).with_context(|| format!("cannot create the folder: {}", unfinished.display()))?;
    let placed = fill(&unfinished).and_then(|()| {
        make_room(target, warnings)?;
        std::fs::rename(&unfinished, target).with_context(|| format!("cannot rename the folder: {}", unfinished.display()))
    });
    if placed.is_err() {
        // The first error is the one to report; what is left has a name that nobody looks for.
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    placed?;
    synced(&parent)
}

/// Frees the place of a checkpoint. One of the same step, which a resumed run has left behind, is replaced; anything
/// else is kept under another name.
fn make_room(target: &Path, warnings: &mut Vec<String>) -> Result<()> {
    match std::fs::symlink_metadata(target) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot read the folder: {}", target.display())),
        Ok(meta) if meta.is_dir() && target.join(DONE).is_file() => {
            let aside = set_aside(target, REMOVED, "")?;
            if let Err(e) = std::fs::remove_dir_all(&aside) {
                warnings.push(format!("cannot remove the old checkpoint of this step: {e}: {}", aside.display()));
            }
        }
        Ok(_) => {
            let aside = set_aside(target, "", ".aside")?;
            warnings.push(format!("found something else in the place of the checkpoint, which is kept: {}", aside.display()));
        }
    }
    Ok(())
}

fn fill(run: &Path, dir: &Path, session: &Session, health: &HealthState, around: &RunFingerprint) -> Result<()> {
    tensors::write_new(&dir.join(MODEL), &model::sources(session), Some(model::FORMAT))?;
    write_file(&dir.join(model::CONFIG), model::config_json(&session.config().model)?.as_bytes())?;
    for (name, bytes) in export::files(run, &session.config().model)? {
        write_file(&dir.join(name), &bytes)?;
    }
    tensors::write_new(&dir.join(OPTIM), &states(session), None)?;
    let mut files = BTreeMap::new();
    for name in [MODEL, model::CONFIG, OPTIM] {
        files.insert(name.to_string(), Digest::of_file(&dir.join(name))?);
    }
    let state = State::new(session, health, around, files)?.to_json()?;
    write_file(&dir.join(STATE), state.as_bytes())?;
    let done = serde_json::to_string(&Digest::of(state.as_bytes())).context("cannot write a checksum as JSON")?;
    write_file(&dir.join(DONE), format!("{done}\n").as_bytes())?;
    sync_folder(dir).context("cannot sync the folder")
}

/// Every persistent value but the weights.
fn states(session: &Session) -> Vec<Source<'_>> {
    let entries = session.saved().filter(|e| e.purpose != Purpose::Weights);
    let sources = entries.map(|entry| Source {
        name: entry.name.clone(),
        dtype: file_dtype(entry.ty.dtype),
        shape: entry.ty.shape.to_vec(),
        bytes: Box::new(|| {
            let mut bytes = session.read(&entry.name)?;
            swap_if_big_endian(entry.ty.dtype.size_bytes(), &mut bytes);
            Ok(bytes)
        }),
    });
    sources.collect()
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write the file: {}", path.display()))
}

/// Removes what a crash left behind. The caller is the only writer of the run. A file is nothing that was left here,
/// and stays.
fn clean(parent: &Path, warnings: &mut Vec<String>) {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) => return warnings.push(format!("cannot read the checkpoints: {e}: {}", parent.display())),
    };
    for entry in entries.filter_map(std::io::Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let ours = name.starts_with(UNFINISHED) || name.starts_with(REMOVED);
        if ours
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Err(e) = std::fs::remove_dir_all(&path)
        {
            warnings.push(format!("cannot remove what an earlier checkpoint left: {e}: {}", path.display()));
        }
    }
}

/// The complete checkpoints before `step`, but for the newest `keep - 1` of them (0 keeps all).
fn old(run: &Path, step: u64, keep: usize) -> Result<Vec<PathBuf>> {
    if keep == 0 {
        return Ok(Vec::new());
    }
    let mut old: Vec<PathBuf> = complete(run)?.into_iter().filter(|(s, _)| *s < step).map(|(_, path)| path).collect();
    old.truncate(old.len().saturating_sub(keep - 1));
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::CHECKPOINTS;

    fn put(run: &Path, step: u64, text: &str) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        write(run, &folder(run, step), &mut warnings, |dir| write_file(&dir.join(DONE), text.as_bytes()))?;
        Ok(warnings)
    }

    fn names(run: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(run.join(CHECKPOINTS)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_stands_in_the_way_is_kept_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        assert_eq!(put(run, 1, "one").unwrap(), Vec::<String>::new());
        let at = |name: &str| run.join(CHECKPOINTS).join(name);
        for file in ["step-00000002", ".removed-x", ".unfinished-step-00000002", ".removed-step-00000001"] {
            std::fs::write(at(file), "mine").unwrap();
        }
        std::fs::create_dir(at("step-00000003")).unwrap();
        // What a crash left.
        std::fs::create_dir(at(".unfinished-step-00000009")).unwrap();
        let warnings = put(run, 2, "two").unwrap();
        assert!(warnings.len() == 1 && warnings[0].ends_with("step-00000002.aside"), "{warnings:?}");
        assert!(put(run, 3, "three").unwrap()[0].ends_with("step-00000003.aside"));
        assert_eq!(put(run, 1, "again").unwrap(), Vec::<String>::new());
        assert_eq!(std::fs::read_to_string(folder(run, 1).join(DONE)).unwrap(), "again");
        let kept = [".removed-step-00000001", ".removed-x", ".unfinished-step-00000002", "step-00000001", "step-00000002"];
        let aside = ["step-00000002.aside", "step-00000003", "step-00000003.aside"];
        assert_eq!(names(run), [&kept[..], &aside[..]].concat());
        assert_eq!(std::fs::read_to_string(at("step-00000002.aside")).unwrap(), "mine");
    }

    #[test]
    fn a_checkpoint_that_fails_leaves_nothing_and_names_what_failed() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path();
        let fails = |run: &Path| {
            let failed = write(run, &folder(run, 1), &mut Vec::new(), |_| Err(anyhow::anyhow!("full")));
            format!("{:#}", failed.unwrap_err())
        };
        assert_eq!(fails(run), "full");
        assert_eq!(names(run), [""; 0]);
        // A run that is gone is not made again.
        let gone = run.join("gone");
        assert!(fails(&gone).contains("gone/checkpoints") && !gone.exists(), "{}", fails(&gone));
        std::fs::remove_dir(run.join(CHECKPOINTS)).unwrap();
        std::fs::write(run.join(CHECKPOINTS), "a file").unwrap();
        assert!(fails(run).contains("expected a folder, found a file"), "{}", fails(run));
    }

    #[test]
    fn the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        (1..=4).for_each(|step| drop(put(dir.path(), step, "x").unwrap()));
        let old = |keep| old(dir.path(), 4, keep).unwrap().len();
        assert_eq!([old(0), old(1), old(2), old(4), old(9)], [0, 3, 2, 0, 0]);
    }
}

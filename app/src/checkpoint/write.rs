//! Writes a checkpoint so that a crash at any moment leaves the earlier ones as they are.
//!
//! Order: a folder with a temporary name; each file written and synced; `DONE` last, inside it; the folder synced; renamed to its final name; the
//! parent synced; only then are old checkpoints removed. `DONE` comes before the rename because the rename is the one atomic step: a
//! folder with its final name then always has everything, and what a crash left behind has a name that nobody looks for. The other order would
//! leave, after a crash between the two, a complete checkpoint that nobody may use and that stands in the way of the next attempt. `DONE` is
//! still worth having: it vouches (by checksum, through `state.json`) for copies made by tools that know nothing of this order.

use super::state::{State, Surroundings};
use super::tensors::{self, Digest, Source, file_dtype, swap_if_big_endian};
use super::{DONE, OPTIM, REMOVED, STATE, UNFINISHED, clear, folder, model, remove};
use anyhow::{Context, Result};
use mantissa_core::probe::health::HealthState;
use mantissa_core::program::memory::Purpose;
use mantissa_core::train::Session;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes the checkpoint of `session` and of what warnings go by into `run` and removes all but the newest `keep` (0 keeps all).
pub fn save(run: &Path, session: &Session, health: &HealthState, around: &Surroundings, keep: usize) -> Result<PathBuf> {
    let target = folder(run, session.steps());
    let parent = run.join(super::CHECKPOINTS);
    let context = || format!("cannot write the checkpoint: {}", target.display());
    std::fs::create_dir_all(&parent).and_then(|()| sync_folder(run)).with_context(context)?;
    clean(&parent).with_context(context)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unfinished = parent.join(format!("{UNFINISHED}{name}"));
    std::fs::create_dir(&unfinished).with_context(context)?;
    let written = fill(&unfinished, session, health, around);
    if written.is_err() {
        // The first error is the one to report; what is left has a name that nobody looks for.
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    written.with_context(context)?;
    if target.exists() {
        // A folder without DONE, or one of the same step that a resumed run has left behind.
        remove(&target)?;
    }
    std::fs::rename(&unfinished, &target).and_then(|()| sync_folder(&parent)).with_context(context)?;
    prune(run, session.steps(), keep)?;
    Ok(target)
}

fn fill(dir: &Path, session: &Session, health: &HealthState, around: &Surroundings) -> Result<()> {
    tensors::write(&dir.join(model::MODEL), &model::sources(session), Some(model::FORMAT))?;
    write_file(&dir.join(model::CONFIG), model::config_json(&session.config().model)?.as_bytes())?;
    tensors::write(&dir.join(OPTIM), &states(session), None)?;
    let mut files = BTreeMap::new();
    for name in [model::MODEL, model::CONFIG, OPTIM] {
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
    let sources = entries.filter_map(|entry| {
        Some(Source {
            name: entry.name.clone(),
            dtype: file_dtype(entry.ty.dtype)?,
            shape: entry.ty.shape.to_vec(),
            bytes: Box::new(|| {
                let mut bytes = session.read(&entry.name)?;
                swap_if_big_endian(entry.ty.dtype.size_bytes(), &mut bytes);
                Ok(bytes)
            }),
        })
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

/// Makes the names in a folder last. Only Unix lets a folder be opened for that.
fn sync_folder(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Removes what a crash left behind. The caller is the only writer of the run.
fn clean(parent: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(UNFINISHED) || name.starts_with(REMOVED) {
            clear(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the complete checkpoints before `step`, but for the newest `keep - 1` of them.
fn prune(run: &Path, step: u64, keep: usize) -> Result<()> {
    if keep == 0 {
        return Ok(());
    }
    let old: Vec<PathBuf> = super::list(run)?
        .into_iter()
        .filter(|(s, path)| *s < step && path.join(DONE).is_file())
        .map(|(_, path)| path)
        .collect();
    for path in &old[..old.len().saturating_sub(keep - 1)] {
        remove(path)?;
    }
    Ok(())
}

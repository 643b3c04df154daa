//! A run that goes on from one of its checkpoints in a folder of its own, so that what came after that checkpoint stays where it is.
//!
//! The new folder gets the checkpoint, and what the logs and samples say up to its step. The config comes last: until then it is no run, and whatever a
//! crash leaves of it is not mistaken for one.

use super::{CHECKPOINTS, UNFINISHED, folder};
use crate::config::RunConfig;
use crate::files::sync_folder;
use crate::run_folder::{RunFolder, SAMPLES, asked_for, numbered, own_folder, sample_step};
use crate::sinks;
use anyhow::{Context, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The folder for going on with `run` from `step`: `out`, or a new one beside it.
fn new_folder(run: &Path, step: u64, out: Option<&Path>) -> Result<PathBuf> {
    if let Some(out) = out {
        return asked_for(out);
    }
    let full = run.canonicalize().with_context(|| format!("cannot read the folder: {}", run.display()))?;
    let name = full.file_name().unwrap_or_default().to_string_lossy();
    // As short as the user wrote it, where that has a parent.
    let parent = run.parent().filter(|_| run.file_name().is_some()).or(full.parent()).unwrap_or(&full);
    numbered(parent, &format!("{name}-from-{step}"))
}

/// Makes the new run, open and locked; the warnings tell what is not as it should be in the old one's log.
pub(super) fn branch(
    run: &RunFolder,
    out: Option<&Path>,
    checkpoint: Option<(u64, &Path)>,
    config: &RunConfig,
) -> Result<(RunFolder, Vec<String>)> {
    let step = checkpoint.map_or(0, |(step, _)| step);
    let path = new_folder(run.path(), step, out)?;
    let made = fill(run, &path, checkpoint, config);
    if made.is_err() && out.is_none() {
        // Made here, and no run yet. The first error is the one to report.
        let _ = std::fs::remove_dir_all(&path);
    }
    made
}

/// Puts the new run into its folder.
fn fill(
    run: &RunFolder,
    path: &Path,
    checkpoint: Option<(u64, &Path)>,
    config: &RunConfig,
) -> Result<(RunFolder, Vec<String>)> {
    let step = checkpoint.map_or(0, |(step, _)| step);
    let (new, warnings) = run.branch(path.to_path_buf(), step)?;
    if let Some((step, from)) = checkpoint {
        copy_checkpoint(from, new.path(), step)?;
    }
    let samples = run.path().join(SAMPLES);
    for text in std::fs::read_dir(&samples).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path())) {
        if sample_step(&text).is_some_and(|of| of <= step) {
            own_folder(&new.path().join(SAMPLES))?;
            copy(&text, &new.path().join(SAMPLES))?;
        }
    }
    for log in sinks::files(run.path())? {
        copy(&log, new.path())?;
    }
    new.configure(config)?;
    Ok((new, warnings))
}

fn copy_checkpoint(from: &Path, run: &Path, step: u64) -> Result<()> {
    let target = folder(run, step);
    let checkpoints = run.join(CHECKPOINTS);
    own_folder(&checkpoints)?;
    let unfinished = checkpoints.join(format!("{UNFINISHED}{step}"));
    own_folder(&unfinished)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read the checkpoint: {}", from.display()))? {
        copy(&entry?.path(), &unfinished)?;
    }
    let placed =
        sync_folder(&unfinished).and_then(|()| std::fs::rename(&unfinished, &target)).and_then(|()| sync_folder(&checkpoints));
    placed.with_context(|| format!("cannot write the checkpoint: {}", target.display()))
}

/// Copies a file into a folder that does not have it, and makes it last.
fn copy(file: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(file.file_name().unwrap_or_default());
    let copied = File::open(file).and_then(|mut from| {
        let mut to = File::create_new(&to)?;
        std::io::copy(&mut from, &mut to)?;
        to.sync_all()
    });
    copied.with_context(|| format!("cannot copy {} to {}", file.display(), to.display()))
}

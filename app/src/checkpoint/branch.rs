//! A run that goes on from one of its checkpoints in a folder of its own, so that what came after that checkpoint stays
//! where it is.
//!
//! The new folder gets the checkpoint, and what the logs and samples say up to its step. It is filled under a name that
//! nobody looks for, and gets its own name when it is whole: a process that ends in the middle leaves no half of a run.
//! What it does leave is removed by the next attempt.

use super::{CHECKPOINTS, UNFINISHED, folder, free};
use crate::config::RunConfig;
use crate::event_log::in_use;
use crate::files::{sync_folder, sync_parent};
use crate::run_folder::{CONFIG, EVENTS, RunFolder, SAMPLES, number, own_folder, refuse_used, sample_step};
use crate::sinks;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// What a folder is called, behind [`UNFINISHED`], that is filled inside the one it is for.
const INSIDE: &str = "fork";

/// Where the new run goes.
#[derive(Debug)]
enum Place {
    /// An empty folder that is there. It may be where a disk is mounted, so that it cannot be replaced.
    Inside(PathBuf),
    /// A new folder that the user named.
    Named(PathBuf),
    /// The first free number of a name.
    Numbered { parent: PathBuf, stem: String },
}

impl Place {
    /// For going on with `run` from `step`: `out`, or a new folder beside the run.
    fn new(run: &Path, step: u64, out: Option<&Path>) -> Result<Place> {
        if let Some(out) = out {
            refuse_used(out)?;
            if in_use(&out.join(EVENTS)) {
                bail!("--out: expected a new or empty folder, found it in use: {}", out.display());
            }
            return Ok(if out.is_dir() { Place::Inside(out.into()) } else { Place::Named(out.into()) });
        }
        let full = run.canonicalize().with_context(|| format!("cannot read the folder: {}", run.display()))?;
        let name = full.file_name().unwrap_or_default().to_string_lossy();
        // As short as the user wrote it, where that has a parent.
        let parent = run.parent().filter(|_| run.file_name().is_some()).or(full.parent()).unwrap_or(&full);
        Ok(Place::Numbered { parent: parent.to_path_buf(), stem: format!("{name}-from-{step}") })
    }

    /// The folder to fill: new, on the disk of the place itself.
    fn begin(&self) -> Result<PathBuf> {
        let (parent, name) = match self {
            Place::Inside(out) => (out.clone(), INSIDE.into()),
            Place::Named(out) => {
                let parent = out.parent().unwrap_or(Path::new(""));
                (parent.to_path_buf(), out.file_name().unwrap_or_default().to_string_lossy().into_owned())
            }
            Place::Numbered { parent, stem } => (parent.clone(), stem.clone()),
        };
        let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
        std::fs::create_dir_all(&parent).with_context(|| format!("cannot create the folder: {}", parent.display()))?;
        remove_leftovers(&parent, &name);
        let unfinished = free(&parent.join(format!("{UNFINISHED}{name}")))?;
        std::fs::create_dir(&unfinished).with_context(|| format!("cannot create the folder: {}", unfinished.display()))?;
        Ok(unfinished)
    }

    /// Gives the folder, which is whole, its name; returns that.
    fn end(&self, unfinished: &Path) -> Result<PathBuf> {
        let path = match self {
            Place::Inside(out) => {
                move_into(unfinished, out).with_context(|| format!("cannot fill the run folder: {}", out.display()))?;
                out.clone()
            }
            Place::Named(out) => {
                rename_new(unfinished, out).with_context(|| format!("cannot create the run folder: {}", out.display()))?;
                out.clone()
            }
            Place::Numbered { parent, stem } => number(parent, stem, |path| rename_new(unfinished, path))?,
        };
        sync_parent(&path).with_context(|| format!("cannot sync the folder of: {}", path.display()))?;
        Ok(path)
    }
}

/// Removes what processes left that ended while they filled a folder for `name`, or for the same run and another step.
/// Whoever fills one has the log in it open.
fn remove_leftovers(parent: &Path, name: &str) {
    let of_run = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let entries = std::fs::read_dir(parent).into_iter().flatten().filter_map(std::io::Result::ok);
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = file_name.strip_prefix(UNFINISHED).and_then(|rest| rest.strip_prefix(of_run)) else { continue };
        if rest.bytes().all(|b| b.is_ascii_digit() || b == b'-') && !in_use(&entry.path().join(EVENTS)) {
            // One that stays only takes room.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Renames a folder to a name that nothing has.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    // Some systems put a folder in the place of an empty one.
    if to.symlink_metadata().is_ok() {
        return Err(Error::from(ErrorKind::AlreadyExists));
    }
    std::fs::rename(from, to)
}

/// Moves all that is in a folder into another one on the same disk, the config last: until then that one is no run.
fn move_into(from: &Path, to: &Path) -> std::io::Result<()> {
    let names = std::fs::read_dir(from)?.map(|entry| entry.map(|e| e.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    for name in names.iter().filter(|name| *name != CONFIG) {
        std::fs::rename(from.join(name), to.join(name))?;
    }
    std::fs::rename(from.join(CONFIG), to.join(CONFIG))?;
    sync_folder(to)?;
    std::fs::remove_dir(from)
}

/// Makes the new run, open and locked; the warnings tell what is not as it should be in the old one's log.
pub(super) fn branch(
    run: &RunFolder,
    out: Option<&Path>,
    checkpoint: Option<(u64, &Path)>,
    config: &RunConfig,
) -> Result<(RunFolder, Vec<String>)> {
    let step = checkpoint.map_or(0, |(step, _)| step);
    let place = Place::new(run.path(), step, out)?;
    let unfinished = place.begin()?;
    let made = fill(run, &unfinished, checkpoint, config).and_then(|warnings| Ok((place.end(&unfinished)?, warnings)));
    if made.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(&unfinished);
    }
    let (path, warnings) = made?;
    let mut new = RunFolder::open(&path)?;
    // Nothing is left to cut: the log only learns how its first line says it is written.
    new.rewind(step)?;
    Ok((new, warnings))
}

/// Puts the new run into the folder `path`.
fn fill(run: &RunFolder, path: &Path, checkpoint: Option<(u64, &Path)>, config: &RunConfig) -> Result<Vec<String>> {
    let step = checkpoint.map_or(0, |(step, _)| step);
    let (new, warnings) = run.branch(path.to_path_buf(), step)?;
    if let Some((step, from)) = checkpoint {
        copy_checkpoint(from, path, step)?;
    }
    let samples = run.path().join(SAMPLES);
    for text in std::fs::read_dir(&samples).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path())) {
        if sample_step(&text).is_some_and(|of| of <= step) && text.is_file() {
            own_folder(&path.join(SAMPLES))?;
            copy(&text, &path.join(SAMPLES))?;
        }
    }
    for log in sinks::files(run.path())? {
        copy(&log, path)?;
    }
    new.configure(config)?;
    sync_folder(path).with_context(|| format!("cannot sync the folder: {}", path.display()))?;
    Ok(warnings)
}

fn copy_checkpoint(from: &Path, run: &Path, step: u64) -> Result<()> {
    let target = folder(run, step);
    for dir in [&run.join(CHECKPOINTS), &target] {
        own_folder(dir)?;
    }
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read the checkpoint: {}", from.display()))? {
        let path = entry?.path();
        // Its own files are there and whole; a pipe or a folder is nothing of it.
        if path.is_file() {
            copy(&path, &target)?;
        }
    }
    let synced = sync_folder(&target).and_then(|()| sync_parent(&target));
    synced.with_context(|| format!("cannot write the checkpoint: {}", target.display()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_log::EventLog;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn leftovers_of_the_same_run_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let gone = [".unfinished-r-from-5", ".unfinished-r-from-5-2", ".unfinished-r-from-12"];
        let kept = [".unfinished-r-from-5x", ".unfinished-r2-from-5", ".unfinished-r-from-7-from-5", "r-from-5-1"];
        for name in gone.iter().chain(&kept) {
            std::fs::create_dir_all(dir.path().join(name).join("samples")).unwrap();
        }
        // One that a process is filling, and a file of somebody.
        let busy = dir.path().join(".unfinished-r-from-9");
        std::fs::create_dir(&busy).unwrap();
        let _log = EventLog::open(&busy.join(EVENTS)).unwrap();
        std::fs::write(dir.path().join(".unfinished-r-from-8"), "mine").unwrap();
        remove_leftovers(dir.path(), "r-from-5");
        let mut expected: Vec<&str> = kept.into_iter().chain([".unfinished-r-from-8", ".unfinished-r-from-9"]).collect();
        expected.sort_unstable();
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn a_whole_folder_gets_its_name_and_takes_no_other_one() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("r");
        for taken in ["r", "r-from-5-1", "empty"] {
            std::fs::create_dir(dir.path().join(taken)).unwrap();
        }
        std::fs::write(dir.path().join("r-from-5-2"), "mine").unwrap();
        let place = |out: Option<&str>| {
            let place = Place::new(&run, 5, out.map(|out| dir.path().join(out)).as_deref()).unwrap();
            let unfinished = place.begin().unwrap();
            std::fs::write(unfinished.join(CONFIG), "x").unwrap();
            std::fs::create_dir(unfinished.join(SAMPLES)).unwrap();
            let path = place.end(&unfinished).unwrap();
            assert!(!unfinished.exists() && names(&path) == [CONFIG, SAMPLES], "{}", path.display());
            path.strip_prefix(dir.path()).unwrap().display().to_string()
        };
        assert_eq!([place(None), place(Some("new/deep")), place(Some("empty"))], ["r-from-5-3", "new/deep", "empty"]);
        assert!(rename_new(&run, &dir.path().join("r-from-5-1")).is_err());
        assert!(Place::new(&run, 5, Some(&dir.path().join("empty"))).is_err());
        assert!(names(dir.path()).iter().all(|name| !name.starts_with('.')), "{:?}", names(dir.path()));
    }
}

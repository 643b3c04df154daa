//! The folder of a run: `config.toml`, `events.jsonl`, `samples/`, `model.safetensors`. Whole files are written under a temporary name in the
//! same folder, synced and renamed: whatever happens, a file is the old one or the new one.

use crate::config::RunConfig;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where runs go when nothing else is said.
pub const RUNS: &str = "runs";
/// The resolved config.
pub const CONFIG: &str = "config.toml";
/// One JSON object per step and evaluation.
pub const EVENTS: &str = "events.jsonl";
/// The weights.
pub const WEIGHTS: &str = "model.safetensors";
/// Sample texts.
pub const SAMPLES: &str = "samples";

/// Folders tried before giving up on a free number.
const MAX_RUNS: usize = 1_000_000;

/// The folder of a run that is being written.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    events: File,
}

impl RunFolder {
    /// Makes the folder (`out`, or a new one under `runs/`) and writes the config.
    pub fn create(out: Option<&Path>, config: &RunConfig) -> Result<RunFolder> {
        let path = match out {
            Some(path) => {
                refuse_used(path)?;
                std::fs::create_dir_all(path).with_context(|| format!("cannot create the run folder: {}", path.display()))?;
                path.to_path_buf()
            }
            None => new_folder(&format!("{}-{}", config.run.model, config.train.recipe.name))?,
        };
        write_whole(&path.join(CONFIG), config.to_toml()?.as_bytes())?;
        let events = path.join(EVENTS);
        let events = File::create_new(&events).with_context(|| format!("cannot create the event log: {}", events.display()))?;
        Ok(RunFolder { path, events })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line to the event log, in one write.
    pub fn event(&mut self, line: &str) -> Result<()> {
        let done = self.events.write_all(format!("{line}\n").as_bytes());
        done.with_context(|| format!("cannot write the event log: {}", self.path.join(EVENTS).display()))
    }

    /// Keeps a sample text.
    pub fn sample(&self, step: u64, text: &str) -> Result<()> {
        let dir = self.path.join(SAMPLES);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create the folder: {}", dir.display()))?;
        write_whole(&dir.join(format!("step-{step:08}.txt")), text.as_bytes())
    }
}

/// Refuses a path that holds something already, so that no run overwrites another.
pub fn refuse_used(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if !path.is_dir() {
        bail!("--out: expected a new or empty folder, found a file: {}", path.display());
    }
    let mut entries = std::fs::read_dir(path).with_context(|| format!("cannot read the run folder: {}", path.display()))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => bail!("--out: expected a new or empty folder, found files in it: {}", path.display()),
    }
}

/// `runs/<stem>-<n>` with the first free number.
fn new_folder(stem: &str) -> Result<PathBuf> {
    let runs = Path::new(RUNS);
    std::fs::create_dir_all(runs).with_context(|| format!("cannot create the folder: {}", runs.display()))?;
    for n in 1..=MAX_RUNS {
        let path = runs.join(format!("{stem}-{n}"));
        // Creating is the test: two runs started together get different folders.
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("cannot create the run folder: {}", path.display())),
        }
    }
    bail!("--out: expected a free number up to {MAX_RUNS}, found none: {}/{stem}", runs.display())
}

/// Writes a whole file: under a temporary name beside it, synced, renamed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_through(path, |file| Ok(file.write_all(bytes)?))
}

/// As [`write_whole`], for contents that are written bit by bit.
pub fn write_through(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let write = || -> Result<()> {
        let mut file = File::create(&temporary)?;
        fill(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The rename itself lasts once the folder is synced; only Unix lets a folder be opened for that.
        #[cfg(unix)]
        File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    };
    write().with_context(|| {
        // The first error is the one to report; a leftover is overwritten by the next write.
        let _ = std::fs::remove_file(&temporary);
        format!("cannot write the file: {}", path.display())
    })
}

/// The run under `runs/` that saved weights last.
pub fn latest() -> Result<PathBuf> {
    let newest = std::fs::read_dir(RUNS).ok().and_then(|entries| {
        let saved = |p: &PathBuf| std::fs::metadata(p.join(WEIGHTS)).and_then(|m| m.modified()).ok();
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter_map(|p| saved(&p).map(|t| (t, p))).max()
    });
    newest.map(|(_, path)| path).with_context(|| format!("no run with weights; train first or name one with --run DIR: {RUNS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bin");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bin");
        write_whole(&path, b"old").unwrap();
        // A folder in the place of the temporary file makes the write fail.
        std::fs::create_dir(dir.path().join("x.bin.tmp")).unwrap();
        assert!(write_whole(&path, b"new").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn a_used_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_used(dir.path()).is_ok());
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        assert!(refuse_used(dir.path()).unwrap_err().to_string().contains("new or empty folder"));
        assert!(refuse_used(&dir.path().join("a")).is_err());
    }
}

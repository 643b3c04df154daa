//! The folder of a run: `config.toml`, `events.jsonl`, `samples/`, `checkpoints/`. Whole files are written under a temporary name in the
//! same folder, synced and renamed: whatever happens, a file is the old one or the new one. The event log grows line by line; a resumed run
//! cuts it back to its checkpoint. While a run is written, its event log is locked.

use crate::config::RunConfig;
use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

/// Where runs go when nothing else is said.
pub const RUNS: &str = "runs";
/// The resolved config.
pub const CONFIG: &str = "config.toml";
/// One JSON object per step and evaluation.
pub const EVENTS: &str = "events.jsonl";
/// Sample texts.
pub const SAMPLES: &str = "samples";

/// The config while it is being written.
const UNFINISHED_CONFIG: &str = "config.toml.tmp";

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
        RunFolder::open(&path)
    }

    /// Opens a run that is there, as its only writer.
    pub fn open(path: &Path) -> Result<RunFolder> {
        let events = path.join(EVENTS);
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&events);
        let events = opened.with_context(|| format!("cannot open the event log: {}", events.display()))?;
        // Elsewhere a lock would keep others from reading, too. It goes with the process, however that ends.
        if cfg!(unix) {
            match events.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    bail!("expected a run that nobody writes to, found it in use: {}", path.display())
                }
                // A file system without locks is no reason not to train.
                Err(TryLockError::Error(_)) => {}
            }
        }
        Ok(RunFolder { path: path.to_path_buf(), events })
    }

    /// Cuts the event log back to what was written up to `step`; a line that was not written whole goes, too.
    pub fn rewind(&mut self, step: u64) -> Result<()> {
        let mut cut = || -> std::io::Result<()> {
            self.events.rewind()?;
            let mut reader = BufReader::new(&self.events);
            let (mut kept, mut line) = (0u64, Vec::new());
            while reader.read_until(b'\n', &mut line)? > 0 {
                let of = serde_json::from_slice::<serde_json::Value>(&line).ok().and_then(|v| v.get("step")?.as_u64());
                if !line.ends_with(b"\n") || of.is_none_or(|of| of > step) {
                    break;
                }
                kept += line.len() as u64;
                line.clear();
            }
            self.events.set_len(kept)
        };
        cut().with_context(|| format!("cannot cut the event log: {}", self.path.join(EVENTS).display()))
    }

    /// Makes the events last: before a checkpoint that they lead to.
    pub fn sync(&self) -> Result<()> {
        self.events.sync_data().with_context(|| format!("cannot sync the event log: {}", self.path.join(EVENTS).display()))
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

/// Refuses a path that holds something already, so that no run overwrites another. What a run leaves behind that ended while it wrote its config
/// does not count.
pub fn refuse_used(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if !path.is_dir() {
        bail!("--out: expected a new or empty folder, found a file: {}", path.display());
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read the run folder: {}", path.display()))?;
    let mut others = entries.filter(|e| e.as_ref().map_or(true, |e| e.file_name().to_string_lossy() != UNFINISHED_CONFIG));
    match others.next() {
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
    replace(path, |temporary| {
        let mut file = File::create(temporary)?;
        fill(&mut file)?;
        Ok(file.sync_all()?)
    })
}

/// Puts what `write` makes (and syncs) under a temporary name in the place of `path`.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let rename = || -> Result<()> {
        write(&temporary)?;
        std::fs::rename(&temporary, path)?;
        // The rename itself lasts once the folder is synced; only Unix lets a folder be opened for that.
        #[cfg(unix)]
        File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    };
    rename().with_context(|| {
        // The first error is the one to report; a leftover is overwritten by the next write.
        let _ = std::fs::remove_file(&temporary);
        format!("cannot write the file: {}", path.display())
    })
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

    #[test]
    fn the_event_log_is_cut_back_to_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join(EVENTS);
        let all = "{\"step\":1}\n{\"step\":1,\"val_loss\":2}\n{\"step\":2}\n{\"step\":3}\n{\"ste";
        for (step, lines) in [(0, 0), (1, 2), (2, 3), (3, 4), (9, 4)] {
            std::fs::write(&log, all).unwrap();
            let mut folder = RunFolder::open(dir.path()).unwrap();
            folder.rewind(step).unwrap();
            folder.event("{\"step\":10}").unwrap();
            let text = std::fs::read_to_string(&log).unwrap();
            let expected: Vec<&str> = all.lines().take(lines).chain(["{\"step\":10}"]).collect();
            assert_eq!(text.lines().collect::<Vec<_>>(), expected, "step {step}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_run_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::open(dir.path()).unwrap();
        assert!(RunFolder::open(dir.path()).unwrap_err().to_string().contains("in use"));
        drop(first);
        RunFolder::open(dir.path()).unwrap();
    }
}

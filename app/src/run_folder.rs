//! The folder of a run: `config.toml`, `events.jsonl`, `samples/`, `checkpoints/`. Whole files are written under a
//! temporary name in the same folder, synced and renamed: whatever happens, a file is the old one or the new one. The
//! event log ([`crate::event_log`]) grows line by line and is locked while the run is written. Links in the folder are
//! never written through: it may come from somebody else.

use crate::append::Backlog;
use crate::config::RunConfig;
use crate::event_log::{EventLog, in_use};
use crate::files;
use anyhow::{Context, Result, bail};
use same_file::Handle;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where runs go when nothing else is said.
pub const RUNS: &str = "runs";
/// The resolved config.
pub const CONFIG: &str = "config.toml";
/// One JSON object per step and evaluation.
pub const EVENTS: &str = "events.jsonl";
/// Sample texts.
pub const SAMPLES: &str = "samples";

/// What the name of a folder begins with that is being filled: a run, or a checkpoint of one.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// The config while it is being written.
const UNFINISHED_CONFIG: &str = "config.toml.tmp";

/// Folders tried before giving up on a free number.
const MAX_RUNS: usize = 1_000_000;

/// The folder of a run that is being written.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    events: EventLog,
    /// The folder itself, whatever it is called by now.
    here: Handle,
}

impl RunFolder {
    /// Makes the folder (`out`, or a new one under `runs/` that is named after `model` and recipe) and writes the
    /// config.
    pub fn create(out: Option<&Path>, model: &str, config: &RunConfig) -> Result<RunFolder> {
        let path = match out {
            Some(path) => asked_for(path)?,
            None => new_folder(&format!("{model}-{}", config.train.recipe.label()))?,
        };
        // Locked before anything is written: of runs that are started together in one folder, one goes on.
        let folder = RunFolder::open(&path)?;
        refuse_others(&path)?;
        let mut config = config.clone();
        config.run.started_in = started_in();
        folder.configure(&config)?;
        Ok(folder)
    }

    /// Opens a run that is there, as its only writer.
    pub fn open(path: &Path) -> Result<RunFolder> {
        RunFolder::of(path.to_path_buf(), EventLog::open(&path.join(EVENTS))?)
    }

    fn of(path: PathBuf, events: EventLog) -> Result<RunFolder> {
        let here = Handle::from_path(&path).with_context(|| format!("cannot open the run folder: {}", path.display()))?;
        Ok(RunFolder { path, events, here })
    }

    /// Whether the folder with its config still stands where it was made or opened.
    pub fn is_here(&self) -> bool {
        self.is_at(&self.path)
    }

    /// Where the folder has been moved to, if that is beside its old place.
    pub fn moved_to(&self) -> Option<PathBuf> {
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(parent).ok()?.filter_map(|e| e.ok());
        // Only folders are opened: a pipe would wait for its other end.
        let mut folders =
            entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| self.path.with_file_name(e.file_name()));
        folders.find(|path| self.is_at(path))
    }

    fn is_at(&self, path: &Path) -> bool {
        path.join(CONFIG).is_file() && Handle::from_path(path).is_ok_and(|there| there == self.here)
    }

    /// Cuts the event log back to what was written up to `step`; returns warnings about what is not as it should be.
    pub fn rewind(&mut self, step: u64) -> Result<Vec<String>> {
        self.events.rewind(step)
    }

    /// A run in a new folder with the events of this one up to `step`, and warnings as of [`RunFolder::rewind`]. It
    /// becomes a run with its config.
    pub fn branch(&self, path: PathBuf, step: u64) -> Result<(RunFolder, Vec<String>)> {
        let (events, warnings) = self.events.branch(&path.join(EVENTS), step)?;
        Ok((RunFolder::of(path, events)?, warnings))
    }

    /// Writes the config.
    pub fn configure(&self, config: &RunConfig) -> Result<()> {
        files::write_whole(&self.path.join(CONFIG), config.to_toml()?.as_bytes())
    }

    /// The event log.
    pub fn log(&self) -> &EventLog {
        &self.events
    }

    /// Makes the events last: before a checkpoint that they lead to.
    pub fn sync(&mut self) -> Result<()> {
        self.events.sync()
    }

    /// Lines that are not in the event log.
    pub fn backlog(&self) -> Backlog {
        self.events.backlog()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line to the event log, whole or not at all. Errs if it has to wait for room; it is kept all the same.
    pub fn event(&mut self, line: &str) -> Result<()> {
        self.events.append(line)
    }

    /// Keeps a sample text.
    pub fn sample(&self, step: u64, text: &str) -> Result<()> {
        let dir = self.path.join(SAMPLES);
        own_folder(&dir)?;
        files::write_whole(&dir.join(sample_name(step)), text.as_bytes())
    }
}

/// The folder that relative paths are about, for [`crate::config::RunOptions::started_in`].
pub fn started_in() -> Option<String> {
    std::env::current_dir().ok()?.to_str().map(String::from)
}

/// Name of the file of a sample text.
fn sample_name(step: u64) -> String {
    format!("step-{step:08}.txt")
}

/// The step of a sample text, by the name of its file.
pub fn sample_step(path: &Path) -> Option<u64> {
    let step = path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".txt")?.parse().ok()?;
    (path.file_name()?.to_str()? == sample_name(step)).then_some(step)
}

/// Makes a folder inside a run, if it is not there. The run itself must be there; a link is refused, since writing into
/// it would leave the run.
pub fn own_folder(dir: &Path) -> Result<()> {
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let meta = std::fs::symlink_metadata(dir).with_context(|| format!("cannot read the folder: {}", dir.display()))?;
            if meta.is_symlink() {
                bail!("expected a folder, found a link, which is not written through: {}", dir.display());
            }
            if !meta.is_dir() {
                bail!("expected a folder, found a file: {}", dir.display());
            }
            Ok(())
        }
        Err(e) => Err(e).with_context(|| format!("cannot create the folder: {}", dir.display())),
    }
}

/// Refuses a path that holds something already, so that no run overwrites another. What a run leaves behind that ended
/// before its config was there does not count.
pub fn refuse_used(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if !path.is_dir() {
        bail!("--out: expected a new or empty folder, found a file: {}", path.display());
    }
    refuse_others(path)
}

fn refuse_others(path: &Path) -> Result<()> {
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read the run folder: {}", path.display()))?;
    let started = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let is_empty_file = || entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0);
        let is_folder = || entry.file_type().is_ok_and(|kind| kind.is_dir());
        name == UNFINISHED_CONFIG
            || (name == EVENTS && is_empty_file())
            || (name.to_string_lossy().starts_with(UNFINISHED) && is_folder())
    };
    let mut others = entries.filter(|entry| entry.as_ref().map_or(true, |entry| !started(entry)));
    match others.next() {
        None => Ok(()),
        Some(_) if in_use(&path.join(EVENTS)) => {
            bail!("--out: expected a new or empty folder, found it in use: {}", path.display())
        }
        Some(_) => bail!("--out: expected a new or empty folder, found files in it: {}", path.display()),
    }
}

/// The folder that a user asked for, made if it is not there.
fn asked_for(path: &Path) -> Result<PathBuf> {
    refuse_used(path)?;
    std::fs::create_dir_all(path).with_context(|| format!("cannot create the run folder: {}", path.display()))?;
    Ok(path.to_path_buf())
}

/// `runs/<stem>-<n>` with the first free number.
fn new_folder(stem: &str) -> Result<PathBuf> {
    let runs = Path::new(RUNS);
    std::fs::create_dir_all(runs).with_context(|| format!("cannot create the folder: {}", runs.display()))?;
    number(runs, stem, |path| std::fs::create_dir(path))
}

/// `<parent>/<stem>-<n>` with the first free number; `take` makes it, and errs where something has the name.
pub fn number(parent: &Path, stem: &str, take: impl Fn(&Path) -> std::io::Result<()>) -> Result<PathBuf> {
    for n in 1..=MAX_RUNS {
        let path = parent.join(format!("{stem}-{n}"));
        // Taking is the test: two runs started together get different folders.
        match take(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("cannot create the run folder: {}", path.display())),
        }
    }
    bail!("--out: expected a free number up to {MAX_RUNS}, found none: {}/{stem}", parent.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refuse_used(dir.path()).is_ok());
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        assert!(refuse_used(dir.path()).unwrap_err().to_string().contains("new or empty folder"));
        assert!(refuse_used(&dir.path().join("a")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_run_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunFolder::open(dir.path()).unwrap();
        assert!(RunFolder::open(dir.path()).unwrap_err().to_string().contains("in use"));
        // Of a run that has just been started there is only its lock.
        assert!(refuse_used(dir.path()).is_ok());
        std::fs::write(dir.path().join(CONFIG), "x").unwrap();
        assert!(refuse_used(dir.path()).unwrap_err().to_string().contains("found it in use"));
        drop(first);
        assert!(refuse_used(dir.path()).unwrap_err().to_string().contains("found files in it"));
        RunFolder::open(dir.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn links_are_never_written_through() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        for name in ["x.txt", "x.txt.tmp"] {
            symlink(&victim, run.join(name)).unwrap();
        }
        files::write_whole(&run.join("x.txt"), b"new").unwrap();
        assert_eq!(std::fs::read(run.join("x.txt")).unwrap(), b"new");
        symlink(dir.path().join("elsewhere"), run.join(SAMPLES)).unwrap();
        let message = RunFolder::open(&run).unwrap().sample(1, "text").unwrap_err().to_string();
        assert!(message.contains("found a link") && message.contains(SAMPLES), "{message}");
        assert_eq!(std::fs::read_dir(dir.path().join("elsewhere")).unwrap().count(), 0);
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn samples_are_known_by_name() {
        let step = |name: &str| sample_step(Path::new(name));
        assert_eq!((step("r/samples/step-00000012.txt"), step("step-123456789.txt")), (Some(12), Some(123_456_789)));
        assert_eq!([step("step-12.txt"), step("step-0000001x.txt"), step("notes.txt")], [None; 3]);
    }

    #[test]
    fn a_folder_that_was_moved_is_missed_and_found_beside_its_old_place() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("r"), dir.path().join("r2"));
        std::fs::create_dir(&old).unwrap();
        std::fs::write(old.join(CONFIG), "").unwrap();
        let folder = RunFolder::open(&old).unwrap();
        assert!(folder.is_here() && folder.moved_to() == Some(old.clone()));
        std::fs::rename(&old, &new).unwrap();
        // Another folder in its place is not the same one.
        std::fs::create_dir(&old).unwrap();
        std::fs::write(old.join(CONFIG), "").unwrap();
        assert!(!folder.is_here());
        assert_eq!(folder.moved_to(), Some(new.clone()));
        std::fs::remove_dir_all(&new).unwrap();
        assert_eq!(folder.moved_to(), None);
    }
}

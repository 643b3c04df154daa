//! Reads the event log of a run folder as far as it goes, and further when it grows. A log that was cut back (by a resumed run) is read again.

use crate::store::{LineReader, Origin, Run};
use anyhow::{Context, Result, bail};
use mantissa_app::config::RunConfig;
use mantissa_app::run_folder::{CONFIG, EVENTS};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time: a long log appears piece by piece, and the window stays alive.
const BITE_BYTES: usize = 1 << 21;

/// Opens the run in a folder, without its events.
pub(super) fn open(folder: &Path) -> Result<Run> {
    let path = folder.join(CONFIG);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("expected the folder of a run, with {CONFIG} in it: {}", folder.display()))?;
    let config = RunConfig::from_toml(&text).with_context(|| format!("cannot read the config: {}", path.display()))?;
    Ok(Run::new(&folder.to_string_lossy(), &config.run.model, Origin::Saved, config.train))
}

/// Whether a folder holds a run.
pub(super) fn is_run(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// The place in a log up to which it was read.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    at: u64,
    reader: LineReader,
    buffer: Vec<u8>,
}

impl Follower {
    pub(super) fn new(folder: &Path) -> Follower {
        Follower { path: folder.join(EVENTS), at: 0, reader: LineReader::default(), buffer: Vec::new() }
    }

    /// Reads the next bite into `run`; returns whether there is more.
    pub(super) fn poll(&mut self, run: &mut Run) -> Result<bool> {
        let Ok(mut file) = File::open(&self.path) else {
            // A run that has not begun has no log yet.
            return Ok(false);
        };
        let context = || format!("cannot read the event log: {}", self.path.display());
        let len = file.metadata().with_context(context)?.len();
        if len < self.at {
            run.clear();
            *self = Follower { path: std::mem::take(&mut self.path), ..Follower::new(Path::new("")) };
            return Ok(true);
        }
        if len == self.at {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.at)).with_context(context)?;
        self.buffer.clear();
        let read = file.take(BITE_BYTES as u64).read_to_end(&mut self.buffer).with_context(context)?;
        if read == 0 {
            bail!("expected more of the event log, found its end: {}", self.path.display());
        }
        self.at += read as u64;
        self.reader.feed(&self.buffer, |event| run.push(event));
        run.corrupt = self.reader.corrupt;
        Ok(self.at < len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_app::cli::resolve::resolve;
    use mantissa_core::telemetry::event::{EvalEvent, Event};
    use std::io::Write;

    fn line(step: u64) -> String {
        Event::Eval(EvalEvent::new(step, 1.0, None)).to_line().unwrap() + "\n"
    }

    #[test]
    fn a_log_is_followed_as_it_grows_and_read_again_when_cut() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("expected the folder of a run"));
        assert!(!is_run(dir.path()));
        let config = resolve(&Default::default()).unwrap().config;
        std::fs::write(dir.path().join(CONFIG), config.to_toml().unwrap()).unwrap();
        let mut run = open(dir.path()).unwrap();
        let mut follower = Follower::new(dir.path());
        assert!(!follower.poll(&mut run).unwrap(), "no log yet");
        let path = dir.path().join(EVENTS);
        let mut log = File::create(&path).unwrap();
        let text = line(1) + "damaged\n" + &line(2);
        log.write_all(&text.as_bytes()[..text.len() - 5]).unwrap();
        follower.poll(&mut run).unwrap();
        assert_eq!((run.evals.len(), run.corrupt), (1, 1));
        log.write_all(&text.as_bytes()[text.len() - 5..]).unwrap();
        follower.poll(&mut run).unwrap();
        assert_eq!(run.evals.len(), 2);
        std::fs::write(&path, line(1)).unwrap();
        while follower.poll(&mut run).unwrap() {}
        assert_eq!((run.evals.len(), run.corrupt), (1, 0));
    }
}

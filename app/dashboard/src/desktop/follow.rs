//! Reads the event log of a run folder as far as it goes, and further when it grows. A log that is no longer the one
//! that was read (a resumed run has cut it back, or has put another in its place) is read again, also if it has grown
//! beyond its old length meanwhile.

use crate::store::{Origin, Run};
use anyhow::{Context, Result};
use mantissa_app::config;
use mantissa_app::files::same_file;
use mantissa_app::run_folder::{CONFIG, EVENTS};
use mantissa_core::telemetry::reader::LogReader;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time: a long log appears piece by piece, and the window stays alive.
const READ_BYTES: usize = 1 << 21;
/// Bytes before the place up to which a log was read that are compared: some steps with their times, which no other
/// branch of a run repeats.
const TAIL_BYTES: usize = 1 << 12;

/// Opens the run in a folder, without its events.
pub(super) fn open(folder: &Path) -> Result<Run> {
    let config = config::read(&folder.join(CONFIG))
        .with_context(|| format!("expected the folder of a run, with {CONFIG} in it: {}", folder.display()))?;
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
    /// The file read last.
    file: Option<File>,
    at: u64,
    /// The last bytes before that place.
    tail: Vec<u8>,
    reader: LogReader,
    buffer: Vec<u8>,
}

impl Follower {
    pub(super) fn new(folder: &Path) -> Follower {
        Follower::of(folder.join(EVENTS))
    }

    fn of(path: PathBuf) -> Follower {
        Follower { path, file: None, at: 0, tail: Vec::new(), reader: LogReader::default(), buffer: Vec::new() }
    }

    /// Reads the next bite into `run`; returns whether there is more.
    pub(super) fn poll(&mut self, run: &mut Run) -> Result<bool> {
        let Ok(mut file) = File::open(&self.path) else {
            // A run that has not begun has no log yet.
            return Ok(false);
        };
        let context = || format!("cannot read the event log: {}", self.path.display());
        let len = file.metadata().with_context(context)?.len();
        if !self.goes_on(&mut file, len).with_context(context)? {
            run.clear();
            *self = Follower::of(std::mem::take(&mut self.path));
            return Ok(true);
        }
        if len > self.at {
            file.seek(SeekFrom::Start(self.at)).with_context(context)?;
            self.buffer.clear();
            let read = (&file).take(READ_BYTES as u64).read_to_end(&mut self.buffer).with_context(context)?;
            self.at += read as u64;
            self.tail.extend_from_slice(&self.buffer);
            self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
            let fed = self.reader.feed(&self.buffer, |event| run.push(event));
            fed.with_context(context)?;
            let counts = self.reader.counts();
            run.corrupt = counts.damaged + counts.out_of_order;
        }
        self.file = Some(file);
        // Cut while it was read, it is shorter; the next poll finds that out.
        Ok(self.at < len)
    }

    /// Whether what was read is still there, in front of what is new.
    fn goes_on(&self, file: &mut File, len: u64) -> std::io::Result<bool> {
        let same = match &self.file {
            Some(before) => same_file(before, file)?,
            None => true,
        };
        if !same || len < self.at {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.at - self.tail.len() as u64))?;
        let mut tail = Vec::with_capacity(self.tail.len());
        file.take(self.tail.len() as u64).read_to_end(&mut tail)?;
        Ok(tail == self.tail)
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

    #[test]
    fn a_log_that_was_cut_and_grew_beyond_its_old_length_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EVENTS);
        let config = resolve(&Default::default()).unwrap().config;
        let branch = |from: u64, to: u64, loss: f32| -> String {
            (from..=to).map(|s| Event::Eval(EvalEvent::new(s, loss, None)).to_line().unwrap() + "\n").collect()
        };
        let old = branch(1, 1000, 3.0);
        // Lines of another length, so that the old place is in the middle of one.
        let new = branch(1, 500, 3.0) + &branch(501, 1200, 9.125);
        for replaced in [false, true] {
            std::fs::write(&path, &old).unwrap();
            let mut run = Run::new("r", "gpt-tiny", Origin::Saved, config.train.clone());
            let mut follower = Follower::new(dir.path());
            while follower.poll(&mut run).unwrap() {}
            assert_eq!(run.evals.last().unwrap().0, 1000);
            if replaced {
                std::fs::write(dir.path().join("b"), &new).unwrap();
                std::fs::rename(dir.path().join("b"), &path).unwrap();
            } else {
                std::fs::write(&path, &new).unwrap();
            }
            while follower.poll(&mut run).unwrap() {}
            assert_eq!((run.evals.last().unwrap().0, run.corrupt, run.refused), (1200, 0, 0), "replaced: {replaced}");
            let newer = run.evals.last().unwrap().1;
            assert_eq!(newer[0], 9.125);
            while follower.poll(&mut run).unwrap() {}
            assert_eq!(run.evals.last().unwrap().0, 1200, "nothing is read twice");
        }
    }
}

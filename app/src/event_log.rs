//! The event log of a run that is written: one writer, whole lines, and the way back to a checkpoint.
//!
//! Going back cuts what belongs to steps after the checkpoint and nothing else. A line that cannot be read costs that
//! line: it is left out, counted and reported, and the log as it was is kept under another name. The log is replaced,
//! not written over, so that a crash leaves the old one or the new one. The lock lies on the file, not on its name: the
//! new file is locked before it gets the name, and whoever opens a log looks whether the file locked is still the one
//! of that name.

use crate::append::{Appender, Backlog};
use crate::files::{keep_aside, refuse_link, remove_leftover, same_file, sync_parent};
use anyhow::{Context, Result, bail};
use mantissa_core::telemetry::event::{Event, SCHEMA};
use mantissa_core::telemetry::lines::{Line, Lines};
use mantissa_core::telemetry::reader::{Counts, LineReader, Read as Parsed};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 16;
/// Tries to open a log that is being replaced.
const OPEN_TRIES: usize = 8;

/// The log, open and locked.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    log: Appender,
    /// It has the line that says of which schema it is.
    begun: bool,
}

impl EventLog {
    /// Opens the log at `path`, or makes one. A log that another process writes to is refused, and so is a link or
    /// anything else that is no file.
    pub fn open(path: &Path) -> Result<EventLog> {
        for _ in 0..OPEN_TRIES {
            refuse_link(path)?;
            let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
            let file = opened.with_context(|| format!("cannot open the event log: {}", path.display()))?;
            lock(&file, path)?;
            if is_at(&file, path) {
                return Ok(EventLog { path: path.to_path_buf(), log: Appender::of(file), begun: false });
            }
        }
        bail!("expected an event log that stays where it is, found it replaced again and again: {}", path.display())
    }

    /// Whether it has the line that says of which schema it is, as far as [`EventLog::rewind`] or [`EventLog::branch`]
    /// has seen.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Appends a line. Errs if it has to wait for room; it is kept all the same.
    pub fn append(&mut self, line: &str) -> Result<()> {
        let done = self.log.append(format!("{line}\n").as_bytes());
        done.with_context(|| format!("cannot write the event log: {}", self.path.display()))
    }

    /// Appends what waits, and makes the lines last.
    pub fn sync(&mut self) -> Result<()> {
        self.log.sync().with_context(|| format!("cannot write the event log: {}", self.path.display()))
    }

    /// Lines that are not in the log.
    pub fn backlog(&self) -> Backlog {
        self.log.backlog()
    }

    /// Errs if the log cannot be read or is of a later schema: before anything of the run is changed.
    pub fn check(&self) -> Result<()> {
        self.survey(0).map(|_| ())
    }

    /// How many steps after `step` have a line.
    pub fn steps_after(&self, step: u64) -> Result<u64> {
        Ok(self.survey(step)?.later_steps)
    }

    /// What the log has of the looks at `step`.
    pub fn looks(&self, step: u64) -> Result<Looks> {
        let mut looks = Looks::default();
        self.each_line(|read, _| {
            if let Parsed::Event(Event::Eval(e)) = &read {
                looks.eval |= e.step == step;
            } else if let Parsed::Event(Event::Sample(e)) = &read {
                looks.sample |= e.step == step;
            }
        })?;
        Ok(looks)
    }

    /// Cuts the log back to what was written up to `step`; the warnings say what is not as it should be.
    pub fn rewind(&mut self, step: u64) -> Result<Vec<String>> {
        let survey = self.survey(step)?;
        self.begun = survey.begun;
        let mut warnings = survey.warnings(&self.path, step);
        let path = self.path.clone();
        let context = || format!("cannot cut the event log: {}", path.display());
        // Back to the start: all that the run had learned is gone but for its log.
        let starts_again = step == 0 && survey.later_steps > 0;
        if survey.damaged.count == 0 && survey.misplaced == Counted::default() && !starts_again {
            // What is kept is one piece at the start: cutting is a single change.
            let end = survey.kept.last().map_or(0, |range| range.end);
            self.log.file().set_len(end).with_context(context)?;
        } else {
            let aside = self.replace(&survey).with_context(context)?;
            warnings.push(format!("the event log as it was is kept: {}", aside.display()));
        }
        Ok(warnings)
    }

    /// A new log at `path` with what was written up to `step`, and warnings as of [`EventLog::rewind`]. This one stays
    /// as it is.
    pub fn branch(&self, path: &Path, step: u64) -> Result<(EventLog, Vec<String>)> {
        let survey = self.survey(step)?;
        let branch = EventLog { begun: survey.begun, ..EventLog::open(path)? };
        self.copy(&survey.kept, branch.log.file())
            .with_context(|| format!("cannot write the event log: {}", path.display()))?;
        Ok((branch, survey.warnings(&self.path, step)))
    }

    fn survey(&self, step: u64) -> Result<Survey> {
        let mut survey = Survey::default();
        let counts = self.each_line(|read, size_bytes| survey.line(read, size_bytes, step))?;
        survey.damaged = Counted { count: counts.damaged, first: counts.first_damaged };
        survey.steps.sort_unstable();
        survey.steps.dedup();
        Ok(survey)
    }

    /// Gives every line, and its bytes, to `each`.
    fn each_line(&self, mut each: impl FnMut(Parsed, u64)) -> Result<Counts> {
        let mut reader = LineReader::default();
        let mut file = self.log.file();
        let feed = |bytes: &[u8]| Ok(reader.feed(bytes, &mut each)?);
        let done = file.rewind().map_err(anyhow::Error::from).and_then(|()| read_chunks(file, feed));
        done.with_context(|| format!("cannot read the event log: {}", self.path.display()))?;
        Ok(reader.counts())
    }

    /// Puts a log of the lines kept in the place of this one; returns where the old one is now.
    fn replace(&mut self, survey: &Survey) -> Result<PathBuf> {
        let mut name = self.path.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary = self.path.with_file_name(name);
        remove_leftover(&temporary)?;
        let fresh = OpenOptions::new().read(true).append(true).create_new(true).open(&temporary)?;
        lock(&fresh, &temporary)?;
        self.copy(&survey.kept, &fresh)?;
        let aside = keep_aside(&self.path, &self.path.file_name().unwrap_or_default().to_string_lossy())?;
        std::fs::rename(&temporary, &self.path)?;
        sync_parent(&self.path)?;
        self.log = Appender::of(fresh);
        Ok(aside)
    }

    fn copy(&self, ranges: &[Range<u64>], mut to: &File) -> std::io::Result<()> {
        let mut from = self.log.file();
        for range in ranges {
            from.seek(SeekFrom::Start(range.start))?;
            std::io::copy(&mut from.take(range.end - range.start), &mut to)?;
        }
        to.flush()?;
        to.sync_all()
    }
}

/// What follows a step beside a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// An evaluation.
    pub eval: bool,
    /// A sample text.
    pub sample: bool,
}

impl Looks {
    /// Those of these that `done` has not.
    pub fn without(self, done: Looks) -> Looks {
        Looks { eval: self.eval && !done.eval, sample: self.sample && !done.sample }
    }

    /// Whether there is one.
    pub fn any(self) -> bool {
        self.eval || self.sample
    }
}

/// How many, and the number of the first line of them, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    count: u64,
    first: u64,
}

impl Counted {
    fn add(&mut self, count: u64, first: u64) {
        if self.count == 0 {
            self.first = first;
        }
        self.count += count;
    }
}

/// What a log holds, seen from a checkpoint.
#[derive(Debug, Default)]
struct Survey {
    /// Bytes so far.
    at: u64,
    /// Lines so far.
    lines: u64,
    /// Places of the lines up to the checkpoint.
    kept: Vec<Range<u64>>,
    /// The line with the schema is among them.
    begun: bool,
    /// Steps up to the checkpoint that have a line.
    steps: Vec<u64>,
    /// Lines that cannot be read.
    damaged: Counted,
    /// Lines after the checkpoint so far, behind which none before it has come.
    later: Counted,
    /// Steps among them.
    later_steps: u64,
    /// Lines of later steps that stand between earlier ones.
    misplaced: Counted,
}

impl Survey {
    fn line(&mut self, parsed: Parsed, size_bytes: u64, step: u64) {
        let start = self.at;
        self.at += size_bytes;
        self.lines += 1;
        let is_step = matches!(parsed, Parsed::Event(Event::Step(_)));
        match parsed.step() {
            Some(of) if of <= step => {
                let later = std::mem::take(&mut self.later);
                self.later_steps = 0;
                if later.count > 0 {
                    self.misplaced.add(later.count, later.first);
                }
                if is_step {
                    self.steps.push(of);
                }
                self.begun |= matches!(parsed, Parsed::Event(Event::Log(log)) if log.schema == SCHEMA);
                match self.kept.last_mut() {
                    Some(last) if last.end == start => last.end = self.at,
                    Some(_) | None => self.kept.push(start..self.at),
                }
            }
            Some(_) => {
                self.later.add(1, self.lines);
                self.later_steps += u64::from(is_step);
            }
            // Counted by the reader.
            None => {}
        }
    }

    fn warnings(&self, path: &Path, step: u64) -> Vec<String> {
        let mut out = Vec::new();
        let Counted { count, first } = self.damaged;
        let (lines, path) = (self.lines, path.display());
        if count > 0 {
            out.push(format!(
                "{count} of {lines} lines of the event log cannot be read and are left out, the first is line {first}: {path}"
            ));
        }
        let Counted { count, first } = self.misplaced;
        if count > 0 {
            out.push(format!(
                "{count} of {lines} lines of the event log are out of order (about steps after {step}, among earlier ones) and are left out, \
                 the first is line {first}: {path}"
            ));
        }
        match step.saturating_sub(self.steps.len() as u64) {
            0 => {}
            missing if missing == step => {
                out.push(format!("the event log has no line of the {step} steps taken so far: {path}"))
            }
            missing => out.push(format!("{missing} of the {step} steps taken so far have no line in the event log: {path}")),
        }
        out
    }
}

/// Gives the bytes of a file to `each`, piece by piece. Errs if it cannot be read, or with the first error of `each`.
pub fn read_chunks(mut file: impl Read, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => each(&chunk[..n])?,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Gives every line of a file of text to `each`; returns how many bytes a last line has that was cut off. Errs if it
/// cannot be read.
pub fn read_lines(file: impl Read, mut each: impl FnMut(Line<'_>)) -> Result<u64> {
    let mut lines = Lines::default();
    read_chunks(file, |bytes| {
        lines.feed(bytes, &mut each);
        Ok(())
    })?;
    Ok(lines.unfinished_bytes())
}

/// Whether another process writes to the run in the folder of this log.
pub fn in_use(path: &Path) -> bool {
    let locked = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    cfg!(unix) && refuse_link(path).is_ok() && File::open(path).is_ok_and(locked)
}

/// Locks a log for its only writer. The lock goes with the process, however that ends.
fn lock(file: &File, path: &Path) -> Result<()> {
    // Elsewhere a lock would keep others from reading, too.
    if cfg!(unix) {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let run = path.parent().unwrap_or(path).display();
                bail!("expected a run that nobody writes to, found it in use: {run}")
            }
            // A file system without locks is no reason not to train.
            Err(TryLockError::Error(_)) => {}
        }
    }
    Ok(())
}

/// Whether a file has the name `path`, as far as a system can tell.
fn is_at(file: &File, path: &Path) -> bool {
    File::open(path).and_then(|named| same_file(file, &named)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> String {
        format!(
            "{{\"step\":{step},\"loss\":2.0,\"lr\":0.1,\"grad_norm\":1.0,\"skipped\":0,\"found_inf\":false,\"ms\":1.0,\"tok_per_s\":1.0,\"mfu\":0.1}}\n"
        )
    }

    fn eval(step: u64) -> String {
        format!("{{\"step\":{step},\"val_loss\":2.0}}\n")
    }

    /// What `log` becomes when it goes back to `at`, and the warnings.
    fn rewound(log: &[u8], at: u64) -> (Vec<u8>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        std::fs::write(&path, log).unwrap();
        let mut events = EventLog::open(&path).unwrap();
        let warnings = events.rewind(at).unwrap();
        events.append("{\"step\":99}").unwrap();
        let text = std::fs::read(&path).unwrap();
        let text = text.strip_suffix(b"{\"step\":99}\n").unwrap().to_vec();
        // Whoever replaced the log still holds it.
        assert!(cfg!(not(unix)) || in_use(&path));
        let aside = path.with_file_name("events.jsonl.damaged-1");
        let kept_aside = warnings.iter().any(|w| w.contains("is kept"));
        assert_eq!(aside.exists(), kept_aside);
        if kept_aside {
            assert_eq!(std::fs::read(&aside).unwrap(), log);
        }
        assert!(!path.with_file_name("events.jsonl.tmp").exists());
        // The same from a branch.
        let (dir, path) = (tempfile::tempdir().unwrap(), path.with_file_name("whole"));
        std::fs::write(&path, log).unwrap();
        EventLog::open(&path).unwrap().branch(&dir.path().join("branch"), at).unwrap();
        assert_eq!(std::fs::read(dir.path().join("branch")).unwrap(), text);
        assert_eq!(std::fs::read(&path).unwrap(), log, "a branch leaves the log as it is");
        (text, warnings)
    }

    #[test]
    fn a_log_goes_back_to_a_step() {
        let all = [step(1), eval(1), step(2), step(3), "{\"step\":4,\"lo".into()].concat();
        for (at, lines) in [(1, 2), (2, 3), (3, 4)] {
            let expected: String = all.split_inclusive('\n').take(lines).collect();
            assert_eq!(rewound(all.as_bytes(), at), (expected.into_bytes(), Vec::new()), "step {at}");
        }
    }

    #[test]
    fn a_log_that_starts_again_keeps_what_it_held() {
        let all = [step(1), eval(1), step(2)].concat();
        let (text, warnings) = rewound(all.as_bytes(), 0);
        assert_eq!(text, b"");
        assert!(warnings.len() == 1 && warnings[0].starts_with("the event log as it was is kept: "), "{warnings:?}");
    }

    #[test]
    fn one_bad_line_costs_that_line() {
        let good: Vec<String> = (1..=6).map(step).collect();
        let bad: [&[u8]; 8] = [
            b"\n",
            b"\0\0\0\n",
            b"\xff\xfe\n",
            b"a note of mine\n",
            b"{\"loss\":2.0}\n",
            b"{\"step\":3,\"loss\":\n",
            b"{\"step\":3,\"loss\":true}\n",
            b"[1]\n",
        ];
        for bad in bad {
            let log = [good[..2].concat().as_bytes(), bad, good[2..].concat().as_bytes()].concat();
            let (text, warnings) = rewound(&log, 5);
            assert_eq!(text, good[..5].concat().into_bytes(), "{}", bad.escape_ascii());
            assert!(warnings[0].contains("1 of 7 lines") && warnings[0].contains("the first is line 3"), "{warnings:?}");
            assert_eq!(warnings.len(), 2);
        }
        let log = [good[..2].concat(), step(999), good[2..].concat()].concat();
        let (text, warnings) = rewound(log.as_bytes(), 5);
        assert_eq!(text, good[..5].concat().into_bytes());
        assert!(warnings[0].contains("1 of 7 lines") && warnings[0].contains("out of order"), "{warnings:?}");
    }

    #[test]
    fn an_event_of_a_later_version_stays() {
        let log = step(1) + "{\"step\":1,\"later\":{\"x\":[1,2]}}\n{\"kind\":\"later\",\"step\":1}\n" + &step(2);
        assert_eq!(rewound(log.as_bytes(), 2), (log.into_bytes(), Vec::new()));
    }

    #[test]
    fn a_log_says_once_of_which_schema_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let header = |step: u64| Event::Log(mantissa_core::telemetry::event::LogEvent::new(step)).to_line().unwrap() + "\n";
        // New, of an earlier version, whole, and continued from an earlier version: before and after the seam.
        let continued = step(1) + &step(2) + &header(2) + &step(3);
        let logs =
            [(String::new(), 0, false), (step(1), 1, false), (header(0) + &step(1), 1, true), (header(0) + &step(1), 0, true)];
        for (log, at, begun) in logs.into_iter().chain([(continued.clone(), 1, false), (continued, 3, true)]) {
            std::fs::write(&path, &log).unwrap();
            let mut events = EventLog::open(&path).unwrap();
            events.rewind(at).unwrap();
            assert_eq!(events.has_begun(), begun, "{log} at {at}");
            std::fs::remove_file(&path).unwrap();
        }
        std::fs::write(&path, "{\"kind\":\"log\",\"schema\":3,\"step\":0}\n{\"kind\":\"step\"}\n").unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut events = EventLog::open(&path).unwrap();
        let refused = [
            events.check().err(),
            events.rewind(0).err(),
            events.steps_after(0).err(),
            events.branch(&dir.path().join("b"), 0).err(),
        ];
        for error in refused.map(|e| format!("{:#}", e.unwrap())) {
            assert!(error.contains("expected schema at most 2, found 3") && error.contains("events.jsonl"), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(!dir.path().join("b").exists(), "nothing half-written");
    }

    #[test]
    fn a_line_too_long_costs_that_line() {
        let long = "x".repeat(mantissa_core::telemetry::lines::MAX_LINE_BYTES + 1) + "\n";
        let (text, warnings) = rewound((step(1) + &long + &step(2)).as_bytes(), 2);
        assert_eq!(text, (step(1) + &step(2)).into_bytes());
        assert!(warnings[0].contains("1 of 3 lines"), "{warnings:?}");
    }

    #[test]
    fn what_is_missing_is_told() {
        let (text, warnings) = rewound(b"", 5);
        assert!(text.is_empty() && warnings[0].contains("no line of the 5 steps"), "{warnings:?}");
        let (_, warnings) = rewound((step(1) + &step(2) + &step(2)).as_bytes(), 5);
        assert!(warnings[0].contains("3 of the 5 steps"), "{warnings:?}");
        assert!(rewound(b"", 0).1.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused_and_a_replaced_log_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("events.jsonl"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        let message = EventLog::open(&path).unwrap_err().to_string();
        assert!(message.contains("found a link") && message.contains("events.jsonl"), "{message}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(EventLog::open(&path).unwrap_err().to_string().contains("something else"));
        std::fs::remove_dir(&path).unwrap();
        // A leftover of the name that a new log gets first is a link, too.
        std::fs::write(&path, "damaged\n").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("events.jsonl.tmp")).unwrap();
        let mut log = EventLog::open(&path).unwrap();
        log.rewind(3).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert!(EventLog::open(&path).unwrap_err().to_string().contains("in use"));
        drop(log);
        EventLog::open(&path).unwrap();
    }
}

//! A file that grows by whole pieces: lines of a log, rows of a table, records. A piece that could not be written
//! whole, such as on a full disk, is taken back, so that the next one does not run into its remains; it waits in
//! bounded memory and is written, in order, once there is room.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::path::Path;

/// Bytes that wait at most; pieces beyond are dropped and counted.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// A file to append to.
#[derive(Debug)]
pub struct Appender {
    file: File,
    /// Where the file ends, if the remains of a piece behind it could not be taken back yet.
    torn_at: Option<u64>,
    /// Pieces that could not be written yet, oldest first.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    dropped: u64,
}

/// Pieces that are not in their file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Those that wait.
    pub waiting: u64,
    /// Those that are lost, because too many waited.
    pub dropped: u64,
}

impl std::ops::Add for Backlog {
    type Output = Backlog;

    fn add(self, other: Backlog) -> Backlog {
        Backlog { waiting: self.waiting + other.waiting, dropped: self.dropped + other.dropped }
    }
}

impl Appender {
    /// A new file; an error if there is something at `path`, be it a link that leads nowhere.
    pub fn create_new(path: &Path) -> Result<Appender> {
        OpenOptions::new().read(true).append(true).create_new(true).open(path).map(Appender::of)
    }

    /// A file that is open for appending.
    pub fn of(file: File) -> Appender {
        Appender { file, torn_at: None, waiting: VecDeque::new(), waiting_bytes: 0, dropped: 0 }
    }

    /// Appends what waits and then a piece, each in one write, whole or not at all. After an error the piece waits,
    /// too.
    pub fn append(&mut self, piece: &[u8]) -> Result<()> {
        let done = self.flush().and_then(|()| self.write(piece));
        if done.is_err() {
            if self.waiting_bytes + piece.len() > MAX_WAITING_BYTES {
                self.dropped += 1;
            } else {
                self.waiting_bytes += piece.len();
                self.waiting.push_back(piece.to_vec());
            }
        }
        done
    }

    /// Appends what waits.
    pub fn flush(&mut self) -> Result<()> {
        while let Some(piece) = self.waiting.pop_front() {
            let done = self.write(&piece);
            if done.is_err() {
                self.waiting.push_front(piece);
                return done;
            }
            self.waiting_bytes -= piece.len();
        }
        Ok(())
    }

    /// Appends what waits, and makes all of it last.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data()
    }

    /// What is not in the file.
    pub fn backlog(&self) -> Backlog {
        Backlog { waiting: self.waiting.len() as u64, dropped: self.dropped }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn write(&mut self, piece: &[u8]) -> Result<()> {
        if let Some(end) = self.torn_at {
            self.file.set_len(end)?;
            self.torn_at = None;
        }
        let end = self.file.metadata()?.len();
        let written = self.file.write_all(piece);
        if written.is_err() && self.file.set_len(end).is_err() {
            self.torn_at = Some(end);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = Appender::create_new(&path).unwrap();
        assert!(Appender::create_new(&path).is_err());
        file.append(b"one\n").unwrap();
        file.append(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn remains_are_taken_back_before_the_next_piece() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = Appender::create_new(&path).unwrap();
        file.append(b"one\n").unwrap();
        // As after a failed write whose remains could not be taken back at once.
        file.append(b"tw").unwrap();
        file.torn_at = Some(4);
        file.append(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        assert_eq!(file.torn_at, None);
    }

    /// A device that is always full refuses both the write and the cut.
    #[cfg(target_os = "linux")]
    fn full() -> File {
        OpenOptions::new().append(true).open("/dev/full").unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_failed_write_is_an_error_and_is_remembered() {
        let mut full = Appender::of(full());
        assert!(full.append(b"one\n").is_err());
        assert_eq!(full.torn_at, Some(0));
        assert!(full.append(b"two\n").is_err());
        assert_eq!(full.backlog(), Backlog { waiting: 2, dropped: 0 });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pieces_wait_in_order_until_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = Appender::create_new(&path).unwrap();
        file.append(b"one\n").unwrap();
        let real = std::mem::replace(&mut file.file, full());
        assert!(file.append(b"two\n").unwrap_err().to_string().contains("No space left"));
        assert!(file.append(b"three\n").is_err());
        (file.file, file.torn_at) = (real, None);
        file.append(b"four\n").unwrap();
        assert_eq!(file.backlog(), Backlog::default());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\nfour\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let mut file = Appender::of(full());
        let piece = vec![b'x'; MAX_WAITING_BYTES / 4];
        (0..6).for_each(|_| assert!(file.append(&piece).is_err()));
        assert_eq!(file.backlog(), Backlog { waiting: 4, dropped: 2 });
    }
}

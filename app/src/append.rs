//! A file that grows by whole pieces: lines of a log, rows of a table, records. A piece that could not be written whole, such as on a full disk, is
//! taken back, so that the next one does not run into its remains.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::path::Path;

/// A file to append to.
#[derive(Debug)]
pub struct Appender {
    file: File,
    /// Where the file ends, if the remains of a piece behind it could not be taken back yet.
    torn_at: Option<u64>,
}

impl Appender {
    /// A new file; an error if there is something at `path`, be it a link that leads nowhere.
    pub fn create_new(path: &Path) -> Result<Appender> {
        OpenOptions::new().read(true).append(true).create_new(true).open(path).map(Appender::of)
    }

    /// A file that is open for appending.
    pub fn of(file: File) -> Appender {
        Appender { file, torn_at: None }
    }

    /// Appends a piece in one write, whole or not at all.
    pub fn append(&mut self, piece: &[u8]) -> Result<()> {
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

    /// Makes what was written last.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data()
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
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
    #[test]
    fn a_failed_write_is_an_error_and_is_remembered() {
        let file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut full = Appender::of(file);
        assert!(full.append(b"one\n").is_err());
        assert_eq!(full.torn_at, Some(0));
        assert!(full.append(b"two\n").is_err());
    }
}

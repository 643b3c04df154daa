//! TensorBoard event files: records of an `Event` protocol buffer each.
//!
//! `records` has their form. The crates that write such files are unmaintained or bring a protocol-buffer compiler; the five messages used here take
//! a few lines. A run that goes on writes another file, which TensorBoard reads after those that are there: it goes by their names.
//! Sources: tensorflow `core/util/event.proto`, `core/framework/summary.proto`.

mod records;

use super::Scalar;
use crate::append::{Appender, Backlog};
use crate::files::refuse_link;
use anyhow::{Context, Result};
use mantissa_core::telemetry::Histogram;
use records::{mend, record};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// First event of every file.
const FILE_VERSION: &[u8] = b"brain.Event:2";
/// What the name of every file begins with; seconds follow.
const PREFIX: &str = "events.out.tfevents.";
/// Digits of the seconds in a name.
const SECS_DIGITS: usize = 10;
/// Names tried before giving up.
const MAX_FILES: usize = 1000;

/// Field numbers of `Event`.
mod event {
    pub(super) const WALL_TIME: u32 = 1;
    pub(super) const STEP: u32 = 2;
    pub(super) const FILE_VERSION: u32 = 3;
    pub(super) const SUMMARY: u32 = 5;
    pub(super) const SESSION_LOG: u32 = 7;
}

/// Field numbers of `Summary`, `Summary.Value`, `HistogramProto` and `SessionLog`, and the status that starts a session.
mod field {
    pub(super) const SUMMARY_VALUE: u32 = 1;
    pub(super) const VALUE_TAG: u32 = 1;
    pub(super) const VALUE_SIMPLE: u32 = 2;
    pub(super) const VALUE_HISTOGRAM: u32 = 5;
    pub(super) const HISTOGRAM_MIN: u32 = 1;
    pub(super) const HISTOGRAM_MAX: u32 = 2;
    pub(super) const HISTOGRAM_NUM: u32 = 3;
    pub(super) const HISTOGRAM_SUM: u32 = 4;
    pub(super) const HISTOGRAM_SUM_SQUARES: u32 = 5;
    pub(super) const HISTOGRAM_LIMITS: u32 = 6;
    pub(super) const HISTOGRAM_BUCKETS: u32 = 7;
    pub(super) const SESSION_STATUS: u32 = 1;
    pub(super) const STATUS_START: u64 = 1;
}

/// An event file.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: Appender,
}

impl TensorBoard {
    /// A new file in `folder`. A run that goes on after step `after` tells TensorBoard to forget what older files say about later steps; damaged records
    /// of those are left out, and `warnings` tell of them.
    pub fn create(folder: &Path, after: Option<u64>, warnings: &mut Vec<String>) -> Result<TensorBoard> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let old = files(folder)?;
        for path in &old {
            let mended = refuse_link(path).and_then(|()| mend(path));
            let mended = mended.with_context(|| format!("cannot read the TensorBoard file: {}", path.display()))?;
            if let Some((places, aside)) = mended {
                warnings.push(format!(
                    "damaged in {places} places, what is there is left out; the TensorBoard file as it was is kept: {}",
                    aside.display()
                ));
            }
        }
        // The clock may have been set back since.
        let newest = old.iter().filter_map(|path| secs_of(path)).max();
        let (path, file) = new_file(folder, newest.map_or(now, |newest| now.max(newest + 1)))?;
        let mut board = TensorBoard { path, file };
        board.event(None, event::FILE_VERSION, FILE_VERSION)?;
        if let Some(after) = after {
            let mut start = Vec::new();
            varint_field(&mut start, field::SESSION_STATUS, field::STATUS_START);
            board.event(Some(after + 1), event::SESSION_LOG, &start)?;
        }
        Ok(board)
    }

    /// Writes the numbers that there are, each under `prefix` and its name.
    pub fn scalars(&mut self, step: u64, prefix: &str, scalars: &[Scalar]) -> Result<()> {
        let mut summary = Vec::new();
        for (name, value) in scalars.iter().filter_map(|s| s.value.map(|v| (s.name, v))) {
            let mut message = Vec::new();
            bytes_field(&mut message, field::VALUE_TAG, format!("{prefix}{name}").as_bytes());
            float_field(&mut message, field::VALUE_SIMPLE, value as f32);
            bytes_field(&mut summary, field::SUMMARY_VALUE, &message);
        }
        self.event(Some(step), event::SUMMARY, &summary)
    }

    /// Writes how the binary logarithms of the magnitudes are spread; zeros and what is not finite have none. Sums take each element for the middle of its bucket.
    pub fn histogram(&mut self, step: u64, tag: &str, histogram: &Histogram) -> Result<()> {
        let buckets: Vec<(i32, u32)> = histogram.magnitudes().collect();
        let (Some(&(first, _)), Some(&(last, _))) = (buckets.first(), buckets.last()) else { return Ok(()) };
        let mut counts = vec![0.0; (last - first + 1) as usize];
        for &(k, n) in &buckets {
            counts[(k - first) as usize] = f64::from(n);
        }
        let limits: Vec<f64> = (first..=last).map(|k| f64::from(k + 1)).collect();
        let sum = |power: i32| limits.iter().zip(&counts).map(|(limit, n)| n * (limit - 0.5).powi(power)).sum();
        let mut message = Vec::new();
        double_field(&mut message, field::HISTOGRAM_MIN, f64::from(first));
        double_field(&mut message, field::HISTOGRAM_MAX, f64::from(last + 1));
        double_field(&mut message, field::HISTOGRAM_NUM, counts.iter().sum());
        double_field(&mut message, field::HISTOGRAM_SUM, sum(1));
        double_field(&mut message, field::HISTOGRAM_SUM_SQUARES, sum(2));
        doubles_field(&mut message, field::HISTOGRAM_LIMITS, &limits);
        doubles_field(&mut message, field::HISTOGRAM_BUCKETS, &counts);
        let mut value = Vec::new();
        bytes_field(&mut value, field::VALUE_TAG, tag.as_bytes());
        bytes_field(&mut value, field::VALUE_HISTOGRAM, &message);
        let mut summary = Vec::new();
        bytes_field(&mut summary, field::SUMMARY_VALUE, &value);
        self.event(Some(step), event::SUMMARY, &summary)
    }

    /// Makes sure that all events outlive a crash of the machine.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync().with_context(|| format!("cannot write the TensorBoard file: {}", self.path.display()))
    }

    /// Events that are not in the file.
    pub fn backlog(&self) -> Backlog {
        self.file.backlog()
    }

    fn event(&mut self, step: Option<u64>, what: u32, content: &[u8]) -> Result<()> {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let mut message = Vec::new();
        double_field(&mut message, event::WALL_TIME, wall_time);
        if let Some(step) = step {
            varint_field(&mut message, event::STEP, step);
        }
        bytes_field(&mut message, what, content);
        let done = self.file.append(&record(&message));
        done.with_context(|| format!("cannot write the TensorBoard file: {}", self.path.display()))
    }
}

/// The event files in a folder, in the order of their names.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read the run folder: {}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if secs_of(&path).is_some() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The seconds in the name of an event file.
fn secs_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    name.split('.').next().filter(|digits| digits.len() == SECS_DIGITS)?.parse().ok()
}

fn new_file(folder: &Path, secs: u64) -> Result<(PathBuf, Appender)> {
    let mut last = None;
    for n in 0..MAX_FILES {
        let path = folder.join(format!("{PREFIX}{secs:0SECS_DIGITS$}.mantissa.{n}"));
        match Appender::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => last = Some(e),
            Err(e) => return Err(e).with_context(|| format!("cannot create the TensorBoard file: {}", path.display())),
        }
    }
    let error = last.map_or_else(|| anyhow::anyhow!("no name is free"), anyhow::Error::from);
    Err(error).with_context(|| format!("cannot create a TensorBoard file: {}", folder.display()))
}

/// Wire types of protocol buffers.
const VARINT: u32 = 0;
const FIXED_64: u32 = 1;
const BYTES: u32 = 2;
const FIXED_32: u32 = 5;

fn key(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    varint(out, u64::from(field << 3 | wire_type));
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn varint(out: &mut Vec<u8>, mut x: u64) {
    while x >= 0x80 {
        out.push(x as u8 | 0x80);
        x >>= 7;
    }
    out.push(x as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u32, x: u64) {
    key(out, field, VARINT);
    varint(out, x);
}

fn double_field(out: &mut Vec<u8>, field: u32, x: f64) {
    key(out, field, FIXED_64);
    out.extend_from_slice(&x.to_le_bytes());
}

/// Packed, as proto3 writes repeated numbers.
fn doubles_field(out: &mut Vec<u8>, field: u32, x: &[f64]) {
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes_field(out, field, &bytes);
}

fn float_field(out: &mut Vec<u8>, field: u32, x: f32) {
    key(out, field, FIXED_32);
    out.extend_from_slice(&x.to_le_bytes());
}

fn bytes_field(out: &mut Vec<u8>, field: u32, x: &[u8]) {
    key(out, field, BYTES);
    varint(out, x.len() as u64);
    out.extend_from_slice(x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_protocol_buffers() {
        let mut out = Vec::new();
        varint_field(&mut out, 2, 300);
        float_field(&mut out, 2, 1.0);
        bytes_field(&mut out, 1, b"ab");
        double_field(&mut out, 1, 1.0);
        assert_eq!(out, [0x10, 0xAC, 0x02, 0x15, 0, 0, 0x80, 0x3F, 0x0A, 2, b'a', b'b', 0x09, 0, 0, 0, 0, 0, 0, 0xF0, 0x3F]);
    }

    #[test]
    fn records_follow_each_other_and_names_never_clash() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = TensorBoard::create(dir.path(), None, &mut Vec::new()).unwrap();
        let second = TensorBoard::create(dir.path(), Some(7), &mut Vec::new()).unwrap();
        assert_ne!(first.path, second.path);
        let scalars = [Scalar { name: "loss", value: Some(2.5) }, Scalar { name: "loss_scale", value: None }];
        first.scalars(3, "train/", &scalars).unwrap();
        let bytes = std::fs::read(&first.path).unwrap();
        let (mut at, mut records) = (0, Vec::new());
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let data = &bytes[at + 12..at + 12 + length];
            assert_eq!(record(data), &bytes[at..at + 16 + length]);
            records.push(data.to_vec());
            at += 16 + length;
        }
        assert_eq!(records.len(), 2);
        assert!(records[0].ends_with(FILE_VERSION));
        assert!(records[1].windows(10).any(|w| w == b"train/loss") && !records[1].windows(10).any(|w| w == b"loss_scale"));
        assert!(records[1].ends_with(&2.5f32.to_le_bytes()));
    }

    #[test]
    fn files_follow_each_other_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        // Written while the clock was ahead.
        let ahead = dir.path().join(format!("{PREFIX}9000000000.mantissa.0"));
        std::fs::write(&ahead, record(FILE_VERSION)).unwrap();
        std::fs::write(dir.path().join(format!("{PREFIX}99999999999.mantissa.0")), b"of another program").unwrap();
        let names: Vec<PathBuf> =
            (0..3).map(|n| TensorBoard::create(dir.path(), Some(n), &mut Vec::new()).unwrap().path).collect();
        let all = [vec![ahead], names].concat();
        assert!(all.is_sorted() && all[3].to_string_lossy().contains("9000000003"), "{all:?}");
        assert_eq!(files(dir.path()).unwrap(), all);
    }

    #[test]
    fn damaged_records_of_older_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path(), None, &mut Vec::new()).unwrap();
        let scalars = [Scalar { name: "loss", value: Some(2.5) }];
        (1..=3).for_each(|step| board.scalars(step, "train/", &scalars).unwrap());
        let mut bytes = std::fs::read(&board.path).unwrap();
        let at = bytes.windows(10).position(|w| w == b"train/loss").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&board.path, &bytes).unwrap();
        let mut warnings = Vec::new();
        TensorBoard::create(dir.path(), Some(3), &mut warnings).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("damaged in 1 place"), "{warnings:?}");
        let left = std::fs::read(&board.path).unwrap();
        assert_eq!(left.windows(10).filter(|w| w == b"train/loss").count(), 2);
    }

    #[test]
    fn histograms_are_over_logarithms_with_a_bucket_for_each_octave() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::create(dir.path(), None, &mut Vec::new()).unwrap();
        let before = std::fs::metadata(&board.path).unwrap().len() as usize;
        board.histogram(4, "tensors/w/log2", &Histogram::default()).unwrap();
        assert_eq!(std::fs::metadata(&board.path).unwrap().len() as usize, before);
        // Magnitudes in [1/4, 1/2) three times and in [1, 2) once.
        board.histogram(4, "tensors/w/log2", &Histogram { first: 125, zeros: 0, counts: vec![3, 0, 1] }).unwrap();
        let bytes = std::fs::read(&board.path).unwrap();
        let data = &bytes[before + 12..bytes.len() - 4];
        let packed = |field: u8, x: [f64; 3]| [&[field << 3 | 2, 24], x.map(f64::to_le_bytes).as_flattened()].concat();
        let tail = [packed(6, [-1.0, 0.0, 1.0]), packed(7, [3.0, 0.0, 1.0])].concat();
        assert!(data.ends_with(&tail));
        // Sum of the middles: 3 * -1.5 + 0.5.
        let sums = [[0x21].as_slice(), &(-4.0f64).to_le_bytes(), &[0x29], &(3.0 * 2.25 + 0.25f64).to_le_bytes()].concat();
        assert!(data.windows(sums.len()).any(|w| w == sums));
    }
}

//! TensorBoard event files: records of an `Event` protocol buffer each.
//!
//! `messages` has what they say, `records` their form. The crates that write such files are unmaintained or bring a
//! protocol-buffer compiler, so the five messages are declared here. A run that goes on writes another file, which
//! TensorBoard reads after those that are there: it goes by their names.

mod messages;
mod records;

use super::Scalar;
use crate::append::{Appender, Backlog};
use crate::files::refuse_link;
use anyhow::{Context, Result};
use mantissa_core::telemetry::Histogram;
use messages::{Event, HistogramProto, Point, SessionLog, Status, Summary, Value, What};
use prost::Message;
use records::{mend, record};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// First event of every file.
const FILE_VERSION: &str = "brain.Event:2";
/// What the name of every file begins with; seconds follow.
const PREFIX: &str = "events.out.tfevents.";
/// Digits of the seconds in a name.
const SECS_DIGITS: usize = 10;
/// Names tried before giving up.
const MAX_FILES: usize = 1000;

/// An event file.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: Appender,
}

impl TensorBoard {
    /// A new file in `folder`. A run that goes on after step `after` makes TensorBoard forget what older files say
    /// about later steps; damaged records of those are left out, and `warnings` name them.
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
        board.event(None, What::FileVersion(FILE_VERSION.into()))?;
        if let Some(after) = after {
            board.event(Some(after + 1), What::SessionLog(SessionLog { status: Status::Start.into() }))?;
        }
        Ok(board)
    }

    /// Writes the numbers that there are, each under `prefix` and its name.
    pub fn scalars(&mut self, step: u64, prefix: &str, scalars: &[Scalar]) -> Result<()> {
        let there = scalars.iter().filter_map(|s| s.value.map(|v| (s.name, v)));
        let point = |(name, value)| Value { tag: format!("{prefix}{name}"), point: Some(Point::Simple(value as f32)) };
        self.event(Some(step), What::Summary(Summary { value: there.map(point).collect() }))
    }

    /// Writes how the binary logarithms of the magnitudes are spread; zeros and what is not finite have none. Sums take
    /// each element for the middle of its bucket.
    pub fn histogram(&mut self, step: u64, tag: &str, histogram: &Histogram) -> Result<()> {
        let buckets: Vec<(i32, u32)> = histogram.magnitudes().collect();
        let (Some(&(first, _)), Some(&(last, _))) = (buckets.first(), buckets.last()) else { return Ok(()) };
        let mut counts = vec![0.0; (last - first + 1) as usize];
        for &(k, n) in &buckets {
            counts[(k - first) as usize] = f64::from(n);
        }
        let limits: Vec<f64> = (first..=last).map(|k| f64::from(k + 1)).collect();
        let sum = |power: i32| limits.iter().zip(&counts).map(|(limit, n)| n * (limit - 0.5).powi(power)).sum();
        let histogram = HistogramProto {
            min: Some(f64::from(first)),
            max: Some(f64::from(last + 1)),
            num: Some(counts.iter().sum()),
            sum: Some(sum(1)),
            sum_squares: Some(sum(2)),
            bucket_limit: limits,
            bucket: counts,
        };
        let value = Value { tag: tag.to_string(), point: Some(Point::Histogram(histogram)) };
        self.event(Some(step), What::Summary(Summary { value: vec![value] }))
    }

    /// Makes sure that all events outlive a crash of the machine.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync().with_context(|| format!("cannot write the TensorBoard file: {}", self.path.display()))
    }

    /// Events that are not in the file.
    pub fn backlog(&self) -> Backlog {
        self.file.backlog()
    }

    fn event(&mut self, step: Option<u64>, what: What) -> Result<()> {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let event = Event { wall_time: Some(wall_time), step: step.map(|step| step as i64), what: Some(what) };
        let done = self.file.append(&record(&event.encode_to_vec()));
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(records[0].ends_with(FILE_VERSION.as_bytes()));
        assert!(records[1].windows(10).any(|w| w == b"train/loss") && !records[1].windows(10).any(|w| w == b"loss_scale"));
        assert!(records[1].ends_with(&2.5f32.to_le_bytes()));
    }

    #[test]
    fn files_follow_each_other_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        // Written while the clock was ahead.
        let ahead = dir.path().join(format!("{PREFIX}9000000000.mantissa.0"));
        std::fs::write(&ahead, record(FILE_VERSION.as_bytes())).unwrap();
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

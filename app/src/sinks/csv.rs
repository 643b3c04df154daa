//! Tables for spreadsheets and data frames: `steps.csv`, `evals.csv` and, once tensors are reported, `tensors.csv`. One
//! row at a time reaches the file, so that a table can be read while the run goes on. An absent number is an empty
//! field. A run that goes on leaves out the rows about later steps; a row that cannot be read costs that row, is
//! counted and reported.

use super::{Scalar, tensor_scalars};
use crate::append::{Appender, Backlog};
use crate::event_log::read_lines;
use crate::files::write_through;
use crate::files::{keep_aside, refuse_link};
use anyhow::{Context, Result};
use csv::{ReaderBuilder, Writer};
use mantissa_core::telemetry::schema::{EVAL, TENSOR, step_columns};
use mantissa_core::telemetry::{Histogram, TensorReport};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const STEPS: &str = "steps.csv";
const EVALS: &str = "evals.csv";
const TENSORS: &str = "tensors.csv";
/// The tables.
pub(super) const FILES: [&str; 3] = [STEPS, EVALS, TENSORS];
/// Columns that hold no numbers.
const TEXTS: [&str; 3] = ["name", "dtype", "histogram"];

/// The tables of a run.
#[derive(Debug)]
pub struct Tables {
    steps: Table,
    evals: Table,
    tensors: Option<Table>,
    folder: PathBuf,
}

impl Tables {
    /// New tables; or, `after` a step, the old ones without their rows about later steps. What could not be read goes
    /// to `warnings`.
    pub fn open(folder: &Path, images: bool, after: Option<u64>, warnings: &mut Vec<String>) -> Result<Tables> {
        let steps = Table::open(&folder.join(STEPS), &step_header(images), after, warnings)?;
        let evals = Table::open(&folder.join(EVALS), &eval_header(), after, warnings)?;
        let path = folder.join(TENSORS);
        let tensors = match after {
            Some(_) if path.exists() => Some(Table::open(&path, &tensor_header(), after, warnings)?),
            Some(_) | None => None,
        };
        Ok(Tables { steps, evals, tensors, folder: folder.to_path_buf() })
    }

    /// A row of `steps.csv`.
    pub fn step(&mut self, step: u64, scalars: &[Scalar]) -> Result<()> {
        self.steps.row(&[&step.to_string()], scalars, &[])
    }

    /// A row of `evals.csv`.
    pub fn eval(&mut self, step: u64, scalars: &[Scalar]) -> Result<()> {
        self.evals.row(&[&step.to_string()], scalars, &[])
    }

    /// A row of `tensors.csv`. A histogram is the bucket of the smallest magnitude and the counts from there on, with
    /// spaces between them: how many are 0 or not finite stands in columns of its own.
    pub fn tensor(&mut self, step: u64, tensor: &TensorReport) -> Result<()> {
        let keys = [&step.to_string(), &tensor.name, tensor.dtype.name()];
        let scalars = tensor_scalars(tensor);
        let (first, counts) = match &tensor.stats {
            Some(stats) => histogram(&stats.histogram),
            None => Default::default(),
        };
        let table = match self.tensors.take() {
            Some(table) => table,
            None => Table::open(&self.folder.join(TENSORS), &tensor_header(), None, &mut Vec::new())?,
        };
        self.tensors.insert(table).row(&keys, &scalars, &[&first, &counts])
    }

    /// Makes sure that all rows outlive a crash of the machine.
    pub fn sync(&mut self) -> Result<()> {
        let tables = [&mut self.steps, &mut self.evals].into_iter().chain(&mut self.tensors);
        let synced = tables.map(|table| {
            let done = table.log.sync();
            done.with_context(|| format!("cannot write the table: {}", table.path.display()))
        });
        // Every table has its turn, whatever becomes of the others.
        synced.fold(Ok(()), Result::and)
    }

    /// Rows that are not in the files.
    pub fn backlog(&self) -> Backlog {
        let tables = [&self.steps, &self.evals].into_iter().chain(&self.tensors);
        tables.map(|table| table.log.backlog()).fold(Backlog::default(), std::ops::Add::add)
    }
}

/// The exponent field of the smallest magnitude, and the counts from there to the largest.
fn histogram(histogram: &Histogram) -> (String, String) {
    let buckets: Vec<(i32, u32)> = histogram.magnitudes().collect();
    let (Some(&(first, _)), Some(&(last, _))) = (buckets.first(), buckets.last()) else { return Default::default() };
    let mut counts = vec![0; (last - first + 1) as usize];
    buckets.iter().for_each(|&(k, n)| counts[(k - first) as usize] = n);
    ((first + Histogram::BIAS).to_string(), counts.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
}

fn header(keys: &[&'static str], scalars: impl Iterator<Item = &'static str>, rest: &[&'static str]) -> Vec<String> {
    keys.iter().copied().chain(scalars).chain(rest.iter().copied()).map(String::from).collect()
}

fn step_header(images: bool) -> Vec<String> {
    header(&["step"], step_columns(images).map(|(name, _)| name), &[])
}

fn eval_header() -> Vec<String> {
    header(&["step"], EVAL.iter().map(|row| row.name), &[])
}

fn tensor_header() -> Vec<String> {
    header(&["step", "name", "dtype"], TENSOR.iter().map(|row| row.name), &["histogram_first", "histogram"])
}

/// One file.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    log: Appender,
}

impl Table {
    fn open(path: &Path, columns: &[String], after: Option<u64>, warnings: &mut Vec<String>) -> Result<Table> {
        let context = || format!("cannot write the table: {}", path.display());
        refuse_link(path)?;
        write_through(path, |file| {
            let mut out = BufWriter::new(file);
            out.write_all(&line(columns)?)?;
            if let Some(after) = after.filter(|_| path.exists()) {
                warnings.extend(copy_rows(path, columns, after, &mut out)?);
            }
            Ok(out.flush()?)
        })?;
        let file = OpenOptions::new().append(true).open(path).with_context(context)?;
        Ok(Table { path: path.to_path_buf(), log: Appender::of(file) })
    }

    fn row(&mut self, keys: &[&str], scalars: &[Scalar], rest: &[&str]) -> Result<()> {
        let values = scalars.iter().map(|s| s.value.map_or(String::new(), |v| v.to_string()));
        let text = |columns: &[&str]| columns.iter().map(|c| (*c).to_string()).collect::<Vec<_>>();
        let fields: Vec<String> = text(keys).into_iter().chain(values).chain(text(rest)).collect();
        let done = line(&fields).and_then(|line| Ok(self.log.append(&line)?));
        done.with_context(|| format!("cannot write the table: {}", self.path.display()))
    }
}

/// A row as it stands in the file.
fn line(fields: &[String]) -> Result<Vec<u8>> {
    let mut writer = Writer::from_writer(Vec::new());
    writer.write_record(fields)?;
    writer.into_inner().map_err(|e| e.into_error().into())
}

/// Copies the rows up to step `after` of the table at `path`. A last row that was cut off is left out; of others that
/// are no rows there is a warning, and the table as it was is kept.
fn copy_rows(path: &Path, columns: &[String], after: u64, out: &mut impl Write) -> Result<Option<String>> {
    let (mut lines, mut damaged, mut first, mut failure) = (0u64, 0u64, 0, None);
    let mut record = csv::ByteRecord::new();
    read_lines(File::open(path)?, |line| {
        lines += 1;
        let text = line.text.unwrap_or_default();
        if lines == 1 && text.trim_ascii_end() == columns.join(",").as_bytes() {
            return;
        }
        match step_of_row(text, columns, &mut record) {
            Some(step) if step <= after => {
                let written = out.write_all(text).and_then(|()| out.write_all(b"\n"));
                failure = failure.take().or(written.err());
            }
            Some(_) => {}
            None => {
                damaged += 1;
                first = if damaged == 1 { lines } else { first };
            }
        }
    })?;
    if let Some(e) = failure {
        return Err(e.into());
    }
    if damaged == 0 {
        return Ok(None);
    }
    let aside = keep_aside(path, &path.file_name().unwrap_or_default().to_string_lossy())?;
    Ok(Some(format!(
        "{damaged} of {lines} lines of a table cannot be read and are left out, the first is line {first}; the table as it was is kept: {}",
        aside.display()
    )))
}

/// The step of a row; `None` for what is no row of a table with these columns.
fn step_of_row(text: &[u8], columns: &[String], record: &mut csv::ByteRecord) -> Option<u64> {
    // Each line by itself: a quotation mark that opens in a damaged row would run on through the others.
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    if !reader.read_byte_record(record).ok()? || record.len() != columns.len() {
        return None;
    }
    let field = |i: usize| std::str::from_utf8(&record[i]).ok();
    let fits = |(i, column): (usize, &String)| {
        let text = field(i)?;
        (text.is_empty() || TEXTS.contains(&column.as_str()) || text.parse::<f64>().is_ok()).then_some(())
    };
    columns.iter().enumerate().try_for_each(|c| fits(c).ok_or(())).ok()?;
    field(0)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::{eval_scalars, step_scalars};
    use mantissa_core::DType;
    use mantissa_core::telemetry::event::Timing;
    use mantissa_core::telemetry::{Fp8Stats, StepReport, TensorStats};

    fn scalars(x: f64) -> Vec<Scalar> {
        let report = StepReport {
            step: 0,
            loss: x as f32,
            lr: 1e-3,
            grad_norm: f32::INFINITY,
            loss_scale: None,
            found_inf: true,
            skipped: false,
            skipped_total: 3,
            growth_tracker: Some(7),
            fp8: None,
        };
        step_scalars(&report, Timing { ms: 1.5, items_per_s: 10.0, mfu: 0.25 }, false)
    }

    #[test]
    fn rows_reach_the_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut tables = Tables::open(dir.path(), false, None, &mut Vec::new()).unwrap();
        tables.step(1, &scalars(2.5)).unwrap();
        tables.eval(1, &eval_scalars(f32::NAN, None)).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let head = "step,loss,lr,grad_norm,loss_scale,skipped,found_inf,growth_tracker,underflow,saturated,ms,tok_per_s,mfu\n";
        assert_eq!(read(STEPS), format!("{head}1,2.5,0.001,inf,,3,1,7,,,1.5,10,0.25\n"));
        assert_eq!(read(EVALS), "step,val_loss,val_accuracy\n1,NaN,\n");
        assert!(!dir.path().join(TENSORS).exists());
        let stats = Fp8Stats { amax: 1.0, scale: 448.0, underflow: 0.5, saturated: 0.0, nonfinite: 0.0 };
        let fp8 = TensorReport::of_fp8("gpt.h0.mlp.up.x", DType::E4m3, &stats);
        tables.tensor(1, &fp8).unwrap();
        let histogram = Histogram { first: 120, zeros: 0, counts: vec![3, 0, 4] };
        let (stored, subnormal, sqnr_db) = (DType::Bf16, Some(0.25), None);
        let stats = TensorStats { stored, len: 7, mean: 0.5, l1: 2.0, l2: 1.0, zero: 0.0, subnormal, sqnr_db, histogram };
        tables.tensor(2, &TensorReport { stats: Some(stats), scale: None, ..fp8 }).unwrap();
        let head = "step,name,dtype,amax,scale,underflow,saturated,nonfinite,mean,l1,l2,zero,subnormal,sqnr_db,histogram_first,histogram";
        let rows =
            ["1,gpt.h0.mlp.up.x,e4m3,1,448,0.5,0,0,,,,,,,,", "2,gpt.h0.mlp.up.x,e4m3,1,,0.5,0,0,0.5,2,1,0,0.25,,120,3 0 4"];
        assert_eq!(read(TENSORS), format!("{head}\n{}\n", rows.join("\n")));
    }

    #[test]
    fn a_run_that_goes_on_drops_later_rows_and_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STEPS);
        let mut tables = Tables::open(dir.path(), false, None, &mut Vec::new()).unwrap();
        (1..=4).for_each(|step| tables.step(step, &scalars(step as f64)).unwrap());
        drop(tables);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let mut warnings = Vec::new();
        let mut tables = Tables::open(dir.path(), false, Some(2), &mut warnings).unwrap();
        (3..=4).for_each(|step| tables.step(step, &scalars(step as f64)).unwrap());
        assert_eq!((std::fs::read_to_string(&path).unwrap(), warnings), (whole, Vec::new()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "steps and evaluations, nothing beside them");
    }

    #[test]
    fn a_damaged_row_costs_that_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STEPS);
        let mut tables = Tables::open(dir.path(), false, None, &mut Vec::new()).unwrap();
        (1..=6).for_each(|step| tables.step(step, &scalars(step as f64)).unwrap());
        drop(tables);
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let last = lines[3].trim_end();
        let bad = ["\n", "\"\n", "1,2\n", "\0\0\0\n", "x\n", &format!("{},9\n", last), &last.replacen("0.001", "0.0x1", 1)];
        for (n, bad) in bad.iter().enumerate() {
            let bad = format!("{}\n", bad.trim_end_matches('\n'));
            let log = lines[..3].concat() + &bad + &lines[3..].concat();
            std::fs::write(&path, &log).unwrap();
            let mut warnings = Vec::new();
            Tables::open(dir.path(), false, Some(5), &mut warnings).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), lines[..6].concat(), "{bad:?}");
            assert!(warnings[0].contains("1 of 8 lines") && warnings[0].contains("the first is line 4"), "{warnings:?}");
            let aside = dir.path().join(format!("{STEPS}.damaged-{}", n + 1));
            assert_eq!(std::fs::read_to_string(aside).unwrap(), log);
        }
        // A head that cannot be read costs the head, which is known.
        std::fs::write(&path, whole.replacen("step,loss", "stop,loss", 1)).unwrap();
        Tables::open(dir.path(), false, Some(6), &mut Vec::new()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }

    #[test]
    fn the_counts_of_a_histogram_begin_with_the_smallest_magnitude() {
        let mut counts = vec![0; 124];
        (counts[0], counts[120], counts[123]) = (9, 3, 4);
        assert_eq!(histogram(&Histogram { first: 0, zeros: 9, counts: counts.clone() }), ("120".into(), "3 0 0 4".into()));
        assert_eq!(
            histogram(&Histogram { first: 0, zeros: 7, counts }).0,
            "0",
            "subnormal numbers lie in the bucket of the zeros"
        );
        assert_eq!(histogram(&Histogram::default()), Default::default());
    }

    #[cfg(unix)]
    #[test]
    fn a_table_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(STEPS)).unwrap();
        let message = Tables::open(dir.path(), false, Some(2), &mut Vec::new()).unwrap_err().to_string();
        assert!(message.contains("found a link") && message.contains(STEPS), "{message}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }
}

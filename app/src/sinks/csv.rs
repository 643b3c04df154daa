//! Tables for spreadsheets and data frames: `steps.csv`, `evals.csv` and, once tensors are reported, `tensors.csv`. One row at a time
//! reaches the file, so that a table can be read while the run goes on. An absent number is an empty field.

use super::{Scalar, eval_scalars, step_scalars, tensor_scalars};
use crate::run_folder::write_whole;
use anyhow::{Context, Result, bail};
use csv::{ReaderBuilder, StringRecord, Writer};
use mantissa_core::DType;
use mantissa_core::telemetry::event::Timing;
use mantissa_core::telemetry::{Fp8Stats, StepReport, TensorReport};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

const STEPS: &str = "steps.csv";
const EVALS: &str = "evals.csv";
const TENSORS: &str = "tensors.csv";

/// The tables of a run.
#[derive(Debug)]
pub struct Tables {
    steps: Table,
    evals: Table,
    tensors: Option<Table>,
    folder: PathBuf,
    after: Option<u64>,
}

impl Tables {
    /// New tables; or, `after` a step, the old ones without their rows about later steps.
    pub fn open(folder: &Path, images: bool, after: Option<u64>) -> Result<Tables> {
        let steps = Table::open(&folder.join(STEPS), &step_header(images), after)?;
        let evals = Table::open(&folder.join(EVALS), &header(&["step"], &eval_scalars(0.0, None)), after)?;
        let mut tables = Tables { steps, evals, tensors: None, folder: folder.to_path_buf(), after };
        if tables.folder.join(TENSORS).exists() {
            tables.open_tensors()?;
        }
        Ok(tables)
    }

    /// A row of `steps.csv`.
    pub fn step(&mut self, step: u64, scalars: &[Scalar]) -> Result<()> {
        self.steps.row(&[&step.to_string()], scalars, &[])
    }

    /// A row of `evals.csv`.
    pub fn eval(&mut self, step: u64, scalars: &[Scalar]) -> Result<()> {
        self.evals.row(&[&step.to_string()], scalars, &[])
    }

    /// A row of `tensors.csv`. A histogram is its first bucket and its counts, with spaces between them.
    pub fn tensor(&mut self, step: u64, tensor: &TensorReport) -> Result<()> {
        let keys = [&step.to_string(), &tensor.name, tensor.dtype.name()];
        let scalars = tensor_scalars(tensor);
        let histogram = tensor.stats.as_ref().map(|s| &s.histogram);
        let first = histogram.map(|h| h.first.to_string()).unwrap_or_default();
        let counts = histogram.map(|h| h.counts.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
        self.open_tensors()?.row(&keys, &scalars, &[&first, &counts.unwrap_or_default()])
    }

    /// Makes sure that all rows outlive a crash of the machine.
    pub fn sync(&self) -> Result<()> {
        for table in [&self.steps, &self.evals].into_iter().chain(&self.tensors) {
            let done = table.writer.get_ref().sync_data();
            done.with_context(|| format!("cannot write the table: {}", table.path.display()))?;
        }
        Ok(())
    }

    fn open_tensors(&mut self) -> Result<&mut Table> {
        let table = match self.tensors.take() {
            Some(table) => table,
            None => {
                let stats = Fp8Stats { amax: 0.0, scale: 0.0, underflow: 0.0, saturated: 0.0, nonfinite: 0.0 };
                let scalars = tensor_scalars(&TensorReport::of_fp8("", DType::E4m3, &stats));
                let mut columns = header(&["step", "name", "dtype"], &scalars);
                columns.extend(["histogram_first", "histogram"].map(String::from));
                Table::open(&self.folder.join(TENSORS), &columns, self.after)?
            }
        };
        Ok(self.tensors.insert(table))
    }
}

fn step_header(images: bool) -> Vec<String> {
    let report = StepReport {
        step: 0,
        loss: 0.0,
        lr: 0.0,
        grad_norm: 0.0,
        loss_scale: None,
        found_inf: false,
        skipped: false,
        skipped_total: 0,
        growth_tracker: None,
        fp8: None,
    };
    header(&["step"], &step_scalars(&report, Timing { ms: 0.0, items_per_s: 0.0, mfu: 0.0 }, images))
}

fn header(keys: &[&str], scalars: &[Scalar]) -> Vec<String> {
    keys.iter().copied().chain(scalars.iter().map(|s| s.name)).map(String::from).collect()
}

/// One file.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    writer: Writer<File>,
}

impl Table {
    fn open(path: &Path, columns: &[String], after: Option<u64>) -> Result<Table> {
        let context = || format!("cannot write the table: {}", path.display());
        let bytes = match after {
            Some(after) if path.exists() => rows_until(path, columns, after).with_context(context)?,
            Some(_) | None => {
                let mut writer = Writer::from_writer(Vec::new());
                writer.write_record(columns).with_context(context)?;
                writer.into_inner().map_err(|e| e.into_error()).with_context(context)?
            }
        };
        write_whole(path, &bytes)?;
        let file = OpenOptions::new().append(true).open(path).with_context(context)?;
        Ok(Table { path: path.to_path_buf(), writer: Writer::from_writer(file) })
    }

    fn row(&mut self, keys: &[&str], scalars: &[Scalar], rest: &[&str]) -> Result<()> {
        let values = scalars.iter().map(|s| s.value.map_or(String::new(), |v| v.to_string()));
        let text = |columns: &[&str]| columns.iter().map(|c| (*c).to_string()).collect::<Vec<_>>();
        let record: StringRecord = text(keys).into_iter().chain(values).chain(text(rest)).collect();
        let done = self.writer.write_record(&record).map_err(anyhow::Error::from);
        let done = done.and_then(|()| Ok(self.writer.flush()?));
        done.with_context(|| format!("cannot write the table: {}", self.path.display()))
    }
}

/// The table without its rows about steps later than `after`, and without a last row that was cut off.
fn rows_until(path: &Path, columns: &[String], after: u64) -> Result<Vec<u8>> {
    let mut reader = ReaderBuilder::new().flexible(true).from_path(path)?;
    let found = reader.headers()?.clone();
    if found != *columns {
        bail!("expected the columns {}, found {}", columns.join(","), found.iter().collect::<Vec<_>>().join(","));
    }
    let mut writer = Writer::from_writer(Vec::new());
    writer.write_record(columns)?;
    for record in reader.records() {
        let record = record?;
        let step = record.get(0).and_then(|s| s.parse::<u64>().ok());
        if record.len() == columns.len() && step.is_some_and(|s| s <= after) {
            writer.write_record(&record)?;
        }
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::telemetry::{Histogram, TensorStats};

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
        let mut tables = Tables::open(dir.path(), false, None).unwrap();
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
        let mut tables = Tables::open(dir.path(), false, None).unwrap();
        (1..=4).for_each(|step| tables.step(step, &scalars(step as f64)).unwrap());
        drop(tables);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let mut tables = Tables::open(dir.path(), false, Some(2)).unwrap();
        (3..=4).for_each(|step| tables.step(step, &scalars(step as f64)).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        let message = format!("{:#}", Tables::open(dir.path(), true, Some(2)).unwrap_err());
        assert!(message.contains("expected the columns") && message.contains("img_per_s"), "{message}");
    }
}

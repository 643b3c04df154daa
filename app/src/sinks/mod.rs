//! Where the numbers of a run go beside `events.jsonl`: [`csv`] tables and [`tensorboard`] event files, in the run
//! folder.
//!
//! Sinks write numbers as they are, NaN and infinity included; only JSON has no word for them.

pub mod csv;
pub mod tensorboard;

use crate::append::Backlog;
use crate::config::LogKind;
use anyhow::Result;
use csv::Tables;
use mantissa_core::telemetry::event::Timing;
use mantissa_core::telemetry::schema::{EVAL, TENSOR, step_columns};
use mantissa_core::telemetry::{StepReport, TensorReport};
use std::path::{Path, PathBuf};
use tensorboard::TensorBoard;

/// One number of a step or an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// Name in the glossary.
    pub name: &'static str,
    /// `None` where the recipe has no such number.
    pub value: Option<f64>,
}

/// The numbers of a step, always the same ones in the same order. `images` says what the throughput counts.
pub fn step_scalars(r: &StepReport, timing: Timing, images: bool) -> Vec<Scalar> {
    step_columns(images).map(|(name, of)| Scalar { name, value: of(r, timing) }).collect()
}

/// The numbers of an evaluation.
pub fn eval_scalars(val_loss: f32, val_accuracy: Option<f32>) -> [Scalar; EVAL.len()] {
    EVAL.each_ref().map(|row| Scalar { name: row.name, value: (row.of)(val_loss, val_accuracy) })
}

/// The numbers of a tensor, always the same ones in the same order.
pub fn tensor_scalars(t: &TensorReport) -> [Scalar; TENSOR.len()] {
    TENSOR.each_ref().map(|row| Scalar { name: row.name, value: (row.of)(t) })
}

/// The files of the logs in the folder of a run, whether they are written or not.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let tables = csv::FILES.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    Ok(tables.chain(tensorboard::files(folder)?).collect())
}

/// The open logs of a run.
#[derive(Debug)]
pub struct Sinks {
    images: bool,
    tables: Option<Tables>,
    tensorboard: Option<TensorBoard>,
}

impl Sinks {
    /// Opens the logs named in `logs`. A run that goes on after step `after` drops what was written about later steps;
    /// the warnings say what could not be read.
    pub fn open(folder: &Path, logs: &[LogKind], images: bool, after: Option<u64>) -> Result<(Sinks, Vec<String>)> {
        let mut warnings = Vec::new();
        let (mut tables, mut tensorboard) = (None, None);
        if logs.contains(&LogKind::Csv) {
            tables = Some(Tables::open(folder, images, after, &mut warnings)?);
        }
        if logs.contains(&LogKind::Tensorboard) {
            tensorboard = Some(TensorBoard::create(folder, after, &mut warnings)?);
        }
        Ok((Sinks { images, tables, tensorboard }, warnings))
    }

    /// Writes what waits, and makes sure that all that was written outlives a crash of the machine.
    pub fn sync(&mut self) -> Result<()> {
        self.each(Tables::sync, TensorBoard::sync)
    }

    /// Rows and events that could not be written yet, or are lost.
    pub fn backlog(&self) -> Backlog {
        let rows = self.tables.as_ref().map(Tables::backlog).unwrap_or_default();
        rows + self.tensorboard.as_ref().map(TensorBoard::backlog).unwrap_or_default()
    }

    /// Writes a step.
    pub fn step(&mut self, report: &StepReport, timing: Timing) -> Result<()> {
        let scalars = step_scalars(report, timing, self.images);
        self.each(|t| t.step(report.step, &scalars), |b| b.scalars(report.step, "train/", &scalars))
    }

    /// Writes an evaluation.
    pub fn eval(&mut self, step: u64, val_loss: f32, val_accuracy: Option<f32>) -> Result<()> {
        let scalars = eval_scalars(val_loss, val_accuracy);
        // The tags of one quantity share their last word: `train/loss`, `val/loss`.
        let short = scalars.clone().map(|s| Scalar { name: s.name.trim_start_matches("val_"), ..s });
        self.each(|t| t.eval(step, &scalars), |b| b.scalars(step, "val/", &short))
    }

    /// Writes the report of a tensor.
    pub fn tensor(&mut self, step: u64, tensor: &TensorReport) -> Result<()> {
        let prefix = format!("tensors/{}/", tensor.name);
        self.each(
            |t| t.tensor(step, tensor),
            |b| {
                let scalars = b.scalars(step, &prefix, &tensor_scalars(tensor));
                let histogram = tensor.stats.as_ref().map(|s| b.histogram(step, &format!("{prefix}log2"), &s.histogram));
                scalars.and(histogram.unwrap_or(Ok(())))
            },
        )
    }

    /// Does something to every log there is: one that fails does not keep the others from their turn. The first error.
    fn each(
        &mut self,
        tables: impl FnOnce(&mut Tables) -> Result<()>,
        tensorboard: impl FnOnce(&mut TensorBoard) -> Result<()>,
    ) -> Result<()> {
        let tables = self.tables.as_mut().map_or(Ok(()), tables);
        tables.and(self.tensorboard.as_mut().map_or(Ok(()), tensorboard))
    }
}

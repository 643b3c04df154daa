//! One tensor of a run over the steps at which it was reported.

use super::table::Table;
use mantissa_core::DType;
use mantissa_core::telemetry::TensorReport;
use std::collections::VecDeque;

/// Rows at full detail.
const ROWS: usize = 1 << 12;
/// Reports with a histogram that are kept: a way back through time.
const HISTOGRAMS: usize = 64;

/// Columns of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum TensorColumn {
    /// Largest magnitude.
    Amax,
    /// fp8 scale.
    Scale,
    /// Share that became zero.
    Underflow,
    /// Share above the largest value.
    Saturated,
    /// Elements that are not finite.
    Nonfinite,
}

const COLUMNS: usize = TensorColumn::Nonfinite as usize + 1;

/// A tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Scope and role.
    pub name: String,
    /// Its format.
    pub dtype: DType,
    /// What was reported of it.
    pub rows: Table<COLUMNS>,
    /// Reports with histograms, every `keep_every`-th of those that came.
    pub reports: VecDeque<(u64, TensorReport)>,
    seen: usize,
    keep_every: usize,
}

impl Tensor {
    pub(super) fn new(name: &str, dtype: DType) -> Tensor {
        let (name, reports) = (name.to_string(), VecDeque::new());
        Tensor { name, dtype, rows: Table::new(ROWS), reports, seen: 0, keep_every: 1 }
    }

    pub(super) fn push(&mut self, step: u64, secs: f64, report: TensorReport) -> bool {
        let number = |x: Option<f32>| x.unwrap_or(f32::NAN);
        let amax = if report.amax_nonfinite == Some(true) { f32::INFINITY } else { number(report.amax) };
        let values = [amax, number(report.scale), number(report.underflow), number(report.saturated), number(report.nonfinite)];
        if !self.rows.push(step, secs, values) {
            return false;
        }
        if report.stats.is_some() {
            self.keep(step, report);
        }
        true
    }

    /// Keeps reports spread over the whole run: when there are too many, every other one goes.
    fn keep(&mut self, step: u64, report: TensorReport) {
        if self.seen.is_multiple_of(self.keep_every) {
            if self.reports.len() == HISTOGRAMS {
                let mut index = 0;
                self.reports.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.keep_every *= 2;
            }
            self.reports.push_back((step, report));
        } else if let Some(last) = self.reports.back_mut() {
            // The newest is always there.
            *last = (step, report);
        }
        self.seen += 1;
    }

    /// Whether it has an fp8 scale.
    pub fn is_scaled(&self) -> bool {
        self.rows.last().is_some_and(|(_, v)| !v[TensorColumn::Scale as usize].is_nan())
    }

    pub(super) fn size_bytes(&self) -> usize {
        let reports = self.reports.iter().filter_map(|(_, r)| r.stats.as_ref()).map(|s| 4 * s.histogram.counts.len());
        self.rows.size_bytes() + reports.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::telemetry::{Histogram, TensorStats};

    fn report(amax: f32) -> TensorReport {
        let stats = TensorStats {
            stored: DType::F32,
            len: 1,
            mean: 0.0,
            l1: 0.0,
            l2: 0.0,
            zero: 0.0,
            subnormal: None,
            sqnr_db: None,
            histogram: Histogram { first: 127, zeros: 0, counts: vec![1] },
        };
        TensorReport {
            name: "w".into(),
            dtype: DType::E4m3,
            amax: Some(amax),
            amax_nonfinite: None,
            scale: Some(2.0),
            underflow: Some(0.0),
            saturated: Some(0.0),
            nonfinite: Some(0.0),
            stats: Some(stats),
        }
    }

    #[test]
    fn histograms_span_the_run_in_bounded_number_and_end_with_the_newest() {
        let mut t = Tensor::new("w", DType::E4m3);
        for step in 1..=10_000 {
            assert!(t.push(step, 0.0, report(step as f32)));
            assert!(t.reports.len() <= HISTOGRAMS);
            assert_eq!(t.reports.back().unwrap().0, step);
        }
        assert!(t.reports.front().unwrap().0 == 1 && t.reports.len() >= HISTOGRAMS / 2);
        assert!(t.is_scaled() && t.rows.len() <= ROWS);
    }
}

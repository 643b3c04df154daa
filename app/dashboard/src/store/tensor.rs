//! One tensor of a run over the steps at which it was reported.

use super::spread::Spread;
use super::table::Table;
use mantissa_core::DType;
use mantissa_core::telemetry::{AmaxRing, TensorReport};

/// Rows at full detail.
const ROWS: usize = 1 << 12;
/// Reports with a histogram that are kept: a way back through time.
const HISTOGRAMS: usize = 64;
/// Rings that are kept.
const RINGS: usize = 256;

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
    /// Reports with histograms.
    pub reports: Spread<TensorReport>,
    /// Rings of amaxes, as they were after a step.
    pub rings: Spread<AmaxRing>,
}

impl Tensor {
    pub(super) fn new(name: &str, dtype: DType) -> Tensor {
        let (reports, rings) = (Spread::new(HISTOGRAMS), Spread::new(RINGS));
        Tensor { name: name.to_string(), dtype, rows: Table::new(ROWS), reports, rings }
    }

    pub(super) fn push(&mut self, step: u64, secs: f64, mut report: TensorReport) -> bool {
        let number = |x: Option<f32>| x.unwrap_or(f32::NAN);
        let amax = if report.amax_nonfinite == Some(true) { f32::INFINITY } else { number(report.amax) };
        let values = [amax, number(report.scale), number(report.underflow), number(report.saturated), number(report.nonfinite)];
        if !self.rows.push(step, secs, values) {
            return false;
        }
        if let Some(ring) = report.ring.take() {
            self.rings.push(step, ring);
        }
        if report.stats.is_some() {
            self.reports.push(step, report);
        }
        true
    }

    /// Whether it has an fp8 scale.
    pub fn is_scaled(&self) -> bool {
        self.rows.last().is_some_and(|(_, v)| !v[TensorColumn::Scale as usize].is_nan())
    }

    pub(super) fn size_bytes(&self) -> usize {
        let stats = self.reports.items().iter().filter_map(|(_, r)| r.stats.as_ref());
        let reports: usize = stats.map(|s| 4 * s.histogram.counts.len()).sum();
        let rings: usize = self.rings.items().iter().map(|(_, r)| size_of_val(&r.newest[..])).sum();
        self.rows.size_bytes() + reports + rings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_and_reports_are_kept_apart() {
        let mut t = Tensor::new("w", DType::E4m3);
        let ring = |held| AmaxRing { room: 3, held, ..AmaxRing::default() };
        for step in 1..=1_000 {
            let report = TensorReport {
                name: "w".into(),
                dtype: DType::E4m3,
                amax: Some(step as f32),
                amax_nonfinite: None,
                scale: Some(2.0),
                underflow: None,
                saturated: Some(0.0),
                nonfinite: Some(0.0),
                ring: Some(ring(step as usize)),
                stats: None,
            };
            assert!(t.push(step, 0.0, report));
        }
        assert!(t.is_scaled() && t.reports.items().is_empty());
        assert_eq!((t.rings.at(1), t.rings.at(9_999)), (Some(&(1, ring(1))), Some(&(1_000, ring(1_000)))));
    }
}

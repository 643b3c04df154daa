//! Steps in flight: a host may submit steps before it has the reports of those before them. A report is copied out
//! right behind it on the device and lands some steps later, in order, so that no step waits for the host.

use super::measured::Tensor;
use crate::backend::Readback;
use crate::error::Result;
use crate::op::tensor_stats::WORDS;
use crate::program::Fp8Slot;
use crate::telemetry::{AmaxRing, Fp8Report, Fp8Stats, Slot, StepReport, TensorReport};

/// Steps that a host should have in flight at most, beside the one whose report it takes: enough to keep a device busy
/// while the host prepares the next batch.
pub const MAX_IN_FLIGHT: usize = 2;

/// The result of a step.
#[derive(Clone, Debug)]
pub struct StepResult {
    /// Its scalars.
    pub report: StepReport,
    /// Loss scale after it; `None` without a scaler.
    pub next_loss_scale: Option<f32>,
    /// Overflows left after it before the loss scale backs off; `None` where the first one does it.
    pub hysteresis_left: Option<i32>,
    /// Statistics of every fp8 tensor, in the order of `program().fp8_slots`.
    pub fp8: Vec<Fp8Stats>,
    /// The fp8 tensors and the measured ones, in the order of the model; `None` unless the step was measured.
    pub tensors: Option<Vec<TensorReport>>,
}

/// Bytes of one value: first on their way, then here.
pub(super) enum Bytes {
    Coming(Box<dyn Readback>),
    Here(Vec<u8>),
}

impl Bytes {
    /// Whether they are here now; `wait` says to sleep until they are.
    fn arrive(&mut self, wait: bool) -> Result<bool> {
        while let Bytes::Coming(readback) = self {
            let read = if wait { readback.wait()? } else { readback.poll()? };
            match read {
                Some(bytes) => *self = Bytes::Here(bytes),
                None if wait => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn words(&self) -> impl Iterator<Item = [u8; 4]> {
        let bytes: &[u8] = match self {
            Bytes::Here(bytes) => bytes,
            Bytes::Coming(_) => &[],
        };
        bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]])
    }

    fn f32s(&self) -> Vec<f32> {
        self.words().map(f32::from_ne_bytes).collect()
    }
}

/// A step that was submitted.
pub(super) struct InFlight {
    pub(super) step: u64,
    pub(super) lr: f64,
    pub(super) telemetry: Bytes,
    /// With a loss scaler.
    pub(super) loss_scale: Option<Bytes>,
    /// With a loss scaler that forgives overflows.
    pub(super) hysteresis: Option<Bytes>,
    /// With fp8.
    pub(super) fp8: Option<Bytes>,
    /// Of a measured step.
    pub(super) tensors: Option<Bytes>,
    /// Of a measured step with delayed scaling.
    pub(super) history: Option<Bytes>,
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight").field("step", &self.step).finish_non_exhaustive()
    }
}

impl InFlight {
    /// Whether all of its result is here.
    pub(super) fn arrive(&mut self, wait: bool) -> Result<bool> {
        let more = [&mut self.loss_scale, &mut self.hysteresis, &mut self.fp8, &mut self.tensors, &mut self.history];
        for bytes in more.into_iter().flatten().chain([&mut self.telemetry]) {
            if !bytes.arrive(wait)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Slots of the telemetry state.
    pub(super) fn slots(&self) -> Vec<f32> {
        self.telemetry.f32s()
    }

    /// What has arrived, read. `skipped_before` steps were skipped before it; `guarded` says that a step that is not
    /// finite is skipped even without a loss scale, `tells_found_inf` that the step has recorded whether it is.
    pub(super) fn into_result(
        self,
        slots: &[Fp8Slot],
        measured: &[Tensor],
        skipped_before: u64,
        [guarded, tells_found_inf]: [bool; 2],
    ) -> StepResult {
        let t = self.slots();
        let scaled = self.loss_scale.is_some();
        let (loss, grad_norm) = (t[Slot::Loss as usize], t[Slot::GradNorm as usize]);
        let found = match tells_found_inf {
            true => t[Slot::FoundInf as usize] != 0.0,
            false => !(loss.is_finite() && grad_norm.is_finite()),
        };
        let skipped = found && (scaled || guarded);
        let fp8 = self.fp8.as_ref().map_or_else(Vec::new, |bytes| Fp8Stats::rows(&bytes.f32s()));
        let tensors = self.tensors.as_ref().map(|bytes| {
            let words: Vec<u32> = bytes.words().map(u32::from_ne_bytes).collect();
            let history = self.history.as_ref().map_or_else(Vec::new, Bytes::f32s);
            tensor_reports(slots, &fp8, &history, measured, &words)
        });
        let report = StepReport {
            step: self.step,
            loss,
            lr: self.lr,
            grad_norm,
            loss_scale: scaled.then(|| t[Slot::LossScale as usize]),
            found_inf: found || !grad_norm.is_finite(),
            skipped,
            skipped_total: skipped_before + u64::from(skipped),
            growth_tracker: scaled.then(|| t[Slot::GrowthTracker as usize] as i32),
            fp8: fp8_report(slots, &fp8),
        };
        let next_loss_scale = self.loss_scale.map(|bytes| bytes.f32s()[0]);
        let hysteresis_left = self.hysteresis.and_then(|bytes| bytes.words().map(i32::from_ne_bytes).next());
        StepResult { report, next_loss_scale, hysteresis_left, fp8, tensors }
    }
}

fn fp8_report(slots: &[Fp8Slot], stats: &[Fp8Stats]) -> Option<Fp8Report> {
    let worst = |of: fn(&Fp8Stats) -> f32| {
        let best = stats.iter().map(of).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or((0.0, String::new()), |(i, v)| (v, slots[i].name.clone()))
    };
    (!stats.is_empty()).then(|| Fp8Report {
        underflow: worst(|s| s.underflow),
        saturated: worst(|s| s.saturated),
        nonfinite: stats.iter().map(|s| s.nonfinite).sum(),
    })
}

/// The measured tensors, those in fp8 with what their quantization counted, then the fp8 tensors that were not
/// measured.
fn tensor_reports(
    slots: &[Fp8Slot],
    fp8: &[Fp8Stats],
    history: &[f32],
    measured: &[Tensor],
    words: &[u32],
) -> Vec<TensorReport> {
    let report = |(slot, (s, stats)): (usize, (&Fp8Slot, &Fp8Stats))| TensorReport {
        ring: (!history.is_empty()).then(|| AmaxRing::of_history(history, slots.len(), slot)),
        ..TensorReport::of_fp8(&s.name, s.dtype, stats)
    };
    let fp8: Vec<TensorReport> = slots.iter().zip(fp8).enumerate().map(report).collect();
    let mut left = vec![true; fp8.len()];
    let mut reports: Vec<TensorReport> = measured
        .iter()
        .zip(words.chunks_exact(WORDS))
        .map(|(t, row)| {
            let stats = TensorReport::of_row(&t.name, t.format, t.stored, row);
            match t.fp8_slot {
                None => stats,
                Some(slot) => {
                    left[slot] = false;
                    fp8[slot].clone().with_stats(stats, t.judged)
                }
            }
        })
        .collect();
    reports.extend(fp8.into_iter().zip(left).filter(|(_, left)| *left).map(|(report, _)| report));
    reports
}

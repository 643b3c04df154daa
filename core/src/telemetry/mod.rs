//! What a step reports to the host: a small fixed [`schema`] of scalars, written on the device by `Record` and read
//! late. Hosts pass it on as [`event`]s.

pub mod event;
pub mod in_order;
mod kind;
pub mod lines;
pub mod reader;
pub mod ring;
pub mod schema;
mod step_event;
pub mod tensor;
pub mod warning;

pub use ring::AmaxRing;
pub use tensor::{FormatLoss, Histogram, TensorReport, TensorStats};

use crate::op::quantize::STATS;
use serde::{Deserialize, Serialize};

/// Name of the state that `Record` instructions write.
pub const TELEMETRY: &str = "telemetry";

/// Slots of the telemetry state. Each has a row in [`schema::STEP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Slot {
    /// Mean training loss of the step.
    Loss,
    /// Global L2 norm of the gradients, after unscale, before clip.
    GradNorm,
    /// Loss scale that this step used.
    LossScale,
    /// 1 if a gradient, the loss or an fp8 operand was non-finite; written by recipes with a loss scale or, where such
    /// steps are skipped, with fp8.
    FoundInf,
    /// Good steps since the last change of the loss scale, after this step.
    GrowthTracker,
    /// Number of slots.
    Count,
}

/// What one step reported. Non-finite values are kept as they are; sinks decide how to write them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Step number, counted from 1.
    pub step: u64,
    /// Mean training loss of the step.
    pub loss: f32,
    /// Learning rate.
    pub lr: f64,
    /// Global L2 norm of the gradients, after unscale, before clip.
    pub grad_norm: f32,
    /// Loss scale that this step used; `None` without a scaler.
    pub loss_scale: Option<f32>,
    /// A gradient, the loss or, where such steps are skipped, an fp8 operand was non-finite.
    pub found_inf: bool,
    /// The optimizer left everything as it was.
    pub skipped: bool,
    /// Steps skipped so far.
    pub skipped_total: u64,
    /// Good steps since the last change of the loss scale; `None` without a scaler.
    pub growth_tracker: Option<i32>,
    /// The worst fp8 tensors of the last micro-step; `None` without fp8.
    pub fp8: Option<Fp8Report>,
}

/// What the host measured of a step.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Wall time of the step, batch included, milliseconds.
    pub ms: f64,
    /// Tokens or images a second.
    pub items_per_s: f64,
    /// Model FLOPs a second over the peak.
    pub mfu: f64,
}

/// Extremes over all fp8 tensors of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fp8Report {
    /// Largest share of values that became zero though they were not, and its tensor.
    pub underflow: (f32, String),
    /// Largest share of values that saturated, and its tensor.
    pub saturated: (f32, String),
    /// Non-finite values over all tensors.
    pub nonfinite: f32,
}

/// Statistics of one fp8 tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fp8Stats {
    /// Largest magnitude.
    pub amax: f32,
    /// Scale used.
    pub scale: f32,
    /// Values that became zero though they were not, as a share of all (as Transformer Engine counts).
    pub underflow: f32,
    /// Share of values above the largest of the format.
    pub saturated: f32,
    /// Number of non-finite values.
    pub nonfinite: f32,
}

impl Fp8Stats {
    /// The rows of the fp8 statistics state.
    pub fn rows(values: &[f32]) -> Vec<Fp8Stats> {
        values
            .chunks_exact(STATS)
            .map(|r| Fp8Stats { amax: r[0], scale: r[1], underflow: r[2], saturated: r[3], nonfinite: r[4] })
            .collect()
    }
}

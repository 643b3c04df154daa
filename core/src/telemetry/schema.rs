//! The scalars that a run reports: one row each, of a step ([`STEP`]), of an evaluation ([`EVAL`]) and of a tensor
//! ([`TENSOR`]).
//!
//! What is written and shown follows from the rows: the keys of a step's event and how each is written
//! (`StepEvent`), columns of CSV tables, tags of TensorBoard, the line of progress, columns
//! of a dashboard's store, and the tables of `docs/events.md`. A new scalar of a step is a row here and the field of
//! [`StepReport`] that it reads.
//!
//! Invariant: names and the order of rows are what older files have. A new row goes behind the others.

use super::{Slot, StepReport, TensorReport, Timing};

/// A scalar of a step: the index of its row in [`STEP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum StepScalar {
    /// Mean training loss.
    Loss,
    /// Learning rate.
    Lr,
    /// Global L2 norm of the gradients.
    GradNorm,
    /// Loss scale.
    LossScale,
    /// Steps skipped so far.
    Skipped,
    /// 1 if something was not finite.
    FoundInf,
    /// Good steps since the last change of the loss scale.
    GrowthTracker,
    /// Largest underflowing fraction of an fp8 tensor.
    Underflow,
    /// Largest saturated fraction of an fp8 tensor.
    Saturated,
    /// Non-finite values of all fp8 tensors.
    Nonfinite,
    /// Wall time, milliseconds.
    Ms,
    /// Tokens or images a second.
    Rate,
    /// Fraction of the peak FLOP rate.
    Mfu,
}

impl StepScalar {
    /// Number of scalars.
    pub const COUNT: usize = STEP.len();

    /// Its row.
    pub fn row(self) -> &'static StepRow {
        &STEP[self as usize]
    }
}

/// How a number is written as JSON. A number that is not finite is `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// The shortest text of an f32.
    F32,
    /// The shortest text of an f64.
    F64,
    /// An f64 rounded to so many decimals.
    Decimals(i32),
    /// An integer from 0 on.
    Count,
    /// `true` or `false`; 1 or 0 in tables.
    Bool,
}

/// Where a scalar comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A slot of the telemetry state, written on the device.
    Slot(Slot),
    /// The state of fp8 statistics, read from the device.
    Fp8Stats,
    /// The schedule or the count of the host.
    Host,
    /// The clock of the host.
    Clock,
}

/// When a scalar is absent from an event, and what stands in its place. A CSV table has an empty field then, or the
/// number that JSON cannot write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Every step has it.
    Never,
    /// `null` in the event.
    Null(&'static str),
    /// The event has no such key.
    LeftOut(&'static str),
}

/// How the line of progress shows a scalar, beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not at all.
    Hidden,
    /// With so many digits after the point.
    Digits(usize),
    /// As `1.00e-03`.
    Scientific,
    /// As a loss scale.
    LossScale,
    /// An integer, in runs with a loss scale or once it is above 0.
    Skips,
    /// As a percentage.
    Percent,
    /// Milliseconds, without the name.
    Ms,
    /// As `85.0k tok/s`, without the name.
    Rate,
}

/// A row: a scalar and what reads it.
#[derive(Clone, Copy, Debug)]
pub struct Row<F: 'static> {
    /// Its name: the key of events, the column of tables, the last word of a TensorBoard tag.
    pub name: &'static str,
    /// How it is written as JSON.
    pub number: Number,
    /// Its unit; empty for a plain number.
    pub unit: &'static str,
    /// When it is absent.
    pub absent: Absent,
    /// What it is.
    pub doc: &'static str,
    /// Reads it; `None` where it is absent.
    pub of: F,
}

/// Reads a scalar of a step.
pub type OfStep = fn(&StepReport, Timing) -> Option<f64>;
/// Reads a scalar of an evaluation from its loss and, of a classifier, its accuracy.
pub type OfEval = fn(f32, Option<f32>) -> Option<f64>;
/// Reads a scalar of a tensor.
pub type OfTensor = fn(&TensorReport) -> Option<f64>;

impl<F: Copy> Row<F> {
    const fn new(name: &'static str, number: Number, of: F) -> Row<F> {
        Row { name, number, unit: "", absent: Absent::Never, doc: "", of }
    }

    const fn doc(self, doc: &'static str) -> Row<F> {
        Row { doc, ..self }
    }

    const fn unit(self, unit: &'static str) -> Row<F> {
        Row { unit, ..self }
    }

    const fn absent(self, absent: Absent) -> Row<F> {
        Row { absent, ..self }
    }
}

// Functions with a type of their own, so that closures need none.
const fn of_eval(name: &'static str, number: Number, of: OfEval) -> Row<OfEval> {
    Row::new(name, number, of)
}

const fn of_tensor(name: &'static str, number: Number, of: OfTensor) -> Row<OfTensor> {
    Row::new(name, number, of)
}

/// The row of a scalar of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepRow {
    /// The scalar.
    pub scalar: StepScalar,
    /// Name, unit and the rest.
    pub row: Row<OfStep>,
    /// Where it comes from.
    pub source: Source,
    /// Its name where a run counts images instead of tokens.
    pub image_name: Option<&'static str>,
    /// The object of the event that holds it; `None` for the event itself.
    pub group: Option<&'static str>,
    /// Where it is not finite, the flag `<name>_nonfinite: true` stands beside its `null`.
    pub flagged: bool,
    /// The tensor that has it; the event has its name as `<name>_tensor`.
    pub tensor: Option<fn(&StepReport) -> Option<&str>>,
    /// CSV tables and TensorBoard have it.
    pub in_tables: bool,
    /// How the line of progress shows it.
    pub progress: Progress,
}

impl StepRow {
    const fn new(scalar: StepScalar, name: &'static str, number: Number, source: Source, of: OfStep) -> StepRow {
        StepRow {
            scalar,
            row: Row::new(name, number, of),
            source,
            image_name: None,
            group: None,
            flagged: false,
            tensor: None,
            in_tables: true,
            progress: Progress::Hidden,
        }
    }

    const fn doc(self, doc: &'static str) -> StepRow {
        StepRow { row: self.row.doc(doc), ..self }
    }

    const fn unit(self, unit: &'static str) -> StepRow {
        StepRow { row: self.row.unit(unit), ..self }
    }

    const fn absent(self, absent: Absent) -> StepRow {
        StepRow { row: self.row.absent(absent), ..self }
    }

    const fn flagged(self) -> StepRow {
        StepRow { flagged: true, ..self }
    }

    const fn of_images(self, name: &'static str) -> StepRow {
        StepRow { image_name: Some(name), ..self }
    }

    const fn of_fp8(self) -> StepRow {
        StepRow { group: Some(FP8), ..self.absent(WITHOUT_FP8) }
    }

    const fn of_tensor(self, tensor: fn(&StepReport) -> Option<&str>) -> StepRow {
        StepRow { tensor: Some(tensor), ..self }
    }

    const fn not_in_tables(self) -> StepRow {
        StepRow { in_tables: false, ..self }
    }

    const fn shown(self, progress: Progress) -> StepRow {
        StepRow { progress, ..self }
    }

    /// Its name in a run that counts images, or tokens.
    pub fn name(&self, images: bool) -> &'static str {
        self.image_name.filter(|_| images).unwrap_or(self.row.name)
    }

    /// Whether an event may have `null` for it, or lack it.
    pub fn may_be_null(&self) -> bool {
        self.flagged || self.row.absent != Absent::Never
    }
}

/// The object of an event that holds what fp8 recipes report.
pub const FP8: &str = "fp8";
/// Objects inside the event of a step.
pub const GROUPS: [&str; 1] = [FP8];

const WITHOUT_SCALER: Absent = Absent::Null("without a loss scaler");
const WITHOUT_FP8: Absent = Absent::LeftOut("without fp8");
const NOT_KNOWN: Absent = Absent::Null("where it is not known");
const NOT_MEASURED: Absent = Absent::LeftOut("unless statistics were taken");
const FRACTION: &str = "fraction";

/// The scalars of a step, in the order of tables.
pub const STEP: [StepRow; 13] = {
    use Number::{Bool, Count, Decimals, F32, F64};
    use Source::{Clock, Fp8Stats, Host};
    use StepScalar as S;
    [
        StepRow::new(S::Loss, "loss", F32, Source::Slot(Slot::Loss), |r, _| Some(f64::from(r.loss)))
            .doc("mean training loss of the step")
            .flagged()
            .shown(Progress::Digits(4)),
        StepRow::new(S::Lr, "lr", F64, Host, |r, _| Some(r.lr)).doc("learning rate").shown(Progress::Scientific),
        StepRow::new(S::GradNorm, "grad_norm", F32, Source::Slot(Slot::GradNorm), |r, _| Some(f64::from(r.grad_norm)))
            .doc("L2 norm of all gradients, after unscale, before clip; 3.4028235e38, the largest f32, where it is larger")
            .flagged()
            .shown(Progress::Digits(3)),
        // As f64: the shortest f32 text of a power of two may be another integer.
        StepRow::new(S::LossScale, "loss_scale", F64, Source::Slot(Slot::LossScale), |r, _| r.loss_scale.map(f64::from))
            .doc("loss scale that the step used")
            .absent(WITHOUT_SCALER)
            .shown(Progress::LossScale),
        StepRow::new(S::Skipped, "skipped", Count, Host, |r, _| Some(r.skipped_total as f64))
            .doc("steps skipped so far")
            .unit("steps")
            .shown(Progress::Skips),
        StepRow::new(S::FoundInf, "found_inf", Bool, Source::Slot(Slot::FoundInf), |r, _| {
            Some(f64::from(u8::from(r.found_inf)))
        })
        .doc("a gradient, the loss or, where such steps are skipped, an fp8 operand was not finite"),
        StepRow::new(S::GrowthTracker, "growth_tracker", Count, Source::Slot(Slot::GrowthTracker), |r, _| {
            r.growth_tracker.map(f64::from)
        })
        .doc("good steps since the loss scale changed")
        .unit("steps")
        .absent(WITHOUT_SCALER),
        StepRow::new(S::Underflow, "underflow", F32, Fp8Stats, |r, _| r.fp8.as_ref().map(|f| f64::from(f.underflow.0)))
            .doc("largest fraction of any fp8 tensor that became zero")
            .unit(FRACTION)
            .of_fp8()
            .of_tensor(|r| r.fp8.as_ref().map(|f| f.underflow.1.as_str()))
            .shown(Progress::Percent),
        StepRow::new(S::Saturated, "saturated", F32, Fp8Stats, |r, _| r.fp8.as_ref().map(|f| f64::from(f.saturated.0)))
            .doc("largest fraction of any fp8 tensor above the largest value of its format")
            .unit(FRACTION)
            .of_fp8()
            .of_tensor(|r| r.fp8.as_ref().map(|f| f.saturated.1.as_str()))
            .shown(Progress::Percent),
        StepRow::new(S::Nonfinite, "nonfinite", F32, Fp8Stats, |r, _| r.fp8.as_ref().map(|f| f64::from(f.nonfinite)))
            .doc("values of all fp8 tensors that are not finite")
            .of_fp8()
            .not_in_tables(),
        StepRow::new(S::Ms, "ms", Decimals(3), Clock, |_, t| Some(t.ms))
            .doc("wall time of the step, batch included")
            .unit("ms")
            .shown(Progress::Ms),
        StepRow::new(S::Rate, "tok_per_s", Decimals(1), Clock, |_, t| Some(t.items_per_s))
            .doc("throughput, of a language model or a classifier")
            .unit("1/s")
            .of_images("img_per_s")
            .shown(Progress::Rate),
        StepRow::new(S::Mfu, "mfu", Decimals(4), Clock, |_, t| Some(t.mfu))
            .doc("FLOPs of the model a second over the peak of the device")
            .unit(FRACTION)
            .shown(Progress::Percent),
    ]
};

/// The scalars of an evaluation, in the order of tables.
pub const EVAL: [Row<OfEval>; 2] = [
    of_eval("val_loss", Number::F32, |loss, _| Some(f64::from(loss)))
        .doc("loss on held-out data")
        .absent(Absent::Null("where it is not finite, with `val_loss_nonfinite`")),
    of_eval("val_accuracy", Number::F32, |_, accuracy| accuracy.map(f64::from))
        .doc("fraction of right answers")
        .unit(FRACTION)
        .absent(Absent::LeftOut("for language models")),
];

/// The scalars of a tensor, in the order of tables.
pub const TENSOR: [Row<OfTensor>; 11] = {
    use Number::{F32, F64};
    [
        of_tensor("amax", F32, |t| t.amax.or(t.amax_nonfinite.map(|_| f32::INFINITY)).map(f64::from))
            .doc("largest magnitude; infinite for an fp8 tensor with an infinity in it (`amax_nonfinite`)")
            .absent(Absent::Null("where it is not finite")),
        of_tensor("scale", F32, |t| t.scale.map(f64::from))
            .doc("fp8 scale used: fractions and `sqnr_db` are about `x * scale`; mxfp8 says 1 and scales blocks")
            .absent(Absent::LeftOut("for a tensor without one")),
        of_tensor("underflow", F32, |t| t.underflow.map(f64::from))
            .doc("fraction of all elements that are not zero and become zero in `dtype`")
            .unit(FRACTION)
            .absent(NOT_KNOWN),
        of_tensor("saturated", F32, |t| t.saturated.map(f64::from))
            .doc("fraction of all elements above the largest value of `dtype`")
            .unit(FRACTION)
            .absent(NOT_KNOWN),
        of_tensor("nonfinite", F32, |t| t.nonfinite.map(f64::from)).doc("elements that are infinite or NaN").absent(NOT_KNOWN),
        of_tensor("mean", F64, |t| t.stats.as_ref().map(|s| s.mean)).doc("mean of the finite elements").absent(NOT_MEASURED),
        of_tensor("l1", F64, |t| t.stats.as_ref().map(|s| s.l1))
            .doc("sum of the magnitudes of the finite elements")
            .absent(NOT_MEASURED),
        of_tensor("l2", F64, |t| t.stats.as_ref().map(|s| s.l2)).doc("L2 norm of the finite elements").absent(NOT_MEASURED),
        of_tensor("zero", F64, |t| t.stats.as_ref().map(|s| s.zero))
            .doc("fraction of zeros")
            .unit(FRACTION)
            .absent(NOT_MEASURED),
        of_tensor("subnormal", F64, |t| t.stats.as_ref().and_then(|s| s.subnormal))
            .doc("fraction of all elements that become subnormal in `dtype`; null for mxfp8, whose scales belong to blocks")
            .unit(FRACTION)
            .absent(NOT_MEASURED),
        of_tensor("sqnr_db", F64, |t| t.stats.as_ref().and_then(|s| s.sqnr_db))
            .doc("signal to noise ratio of rounding to `dtype`, over finite elements; null if nothing is lost, and for mxfp8")
            .unit("dB")
            .absent(NOT_MEASURED),
    ]
};

/// The scalars of a step that tables have, by name. `images` says what a run counts.
pub fn step_columns(images: bool) -> impl Iterator<Item = (&'static str, OfStep)> {
    STEP.iter().filter(|row| row.in_tables).map(move |row| (row.name(images), row.row.of))
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;

//! Two recipes on the same batch from the same weights: what each value of one is worth in the other.
//!
//! The first session runs an observed step and keeps its values; the second runs the same step and is measured against
//! them, instruction by instruction ([`Key`]), gradient by gradient and update by update. Conversions inside the second
//! Program (fp8 quantization, casts) are measured against their own inputs. Gradients are compared without the loss
//! scale. With accumulation the first micro-step is compared.

use super::conversion;
use super::stats::{Difference, Scaled};
use crate::backend::wait;
use crate::data::Batch;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::float::view::View;
use crate::op::Op;
use crate::op::update::Optimizer;
use crate::program::memory::Purpose;
use crate::program::observe::{Moment, Observer};
use crate::program::{Instr, Program};
use crate::telemetry::StepReport;
use crate::train::Session;
use crate::train::phase::{self, Key, Phase};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What is compared in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowKind {
    /// A value of the forward pass.
    Forward,
    /// A gradient inside the backward pass.
    Backward,
    /// The gradient of a parameter, after unscale, before clip.
    Gradient,
    /// What the step did to a parameter.
    Update,
    /// A conversion of the second recipe, against its own input.
    Conversion,
}

impl RowKind {
    /// All kinds.
    pub const ALL: [RowKind; 5] =
        [RowKind::Forward, RowKind::Backward, RowKind::Gradient, RowKind::Update, RowKind::Conversion];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            RowKind::Forward => "forward",
            RowKind::Backward => "backward",
            RowKind::Gradient => "gradient",
            RowKind::Update => "update",
            RowKind::Conversion => "conversion",
        }
    }
}

/// One compared value.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is.
    pub kind: RowKind,
    /// Scope, or name of the parameter.
    pub scope: String,
    /// Operation.
    pub what: String,
    /// Instruction in the second Program.
    pub instr: usize,
    /// Stored dtypes in the first and second Program; for a conversion, of its input and output.
    pub dtypes: [DType; 2],
    /// The second against the first.
    pub difference: Difference,
}

/// What a compared step gave.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Reports of the first and second session.
    pub reports: [StepReport; 2],
    /// Every compared value, worst first: lowest SQNR, ties in Program order.
    pub rows: Vec<Row>,
    /// Instructions of the second Program that compute something and have no counterpart in the first.
    pub unmatched: usize,
}

/// Gives `b` the weights and optimizer states of `a`, so that a compared step shows one step's loss and not the drift
/// before it. Fails if a device does.
pub fn share_weights(a: &Session, b: &Session) -> Result<()> {
    for entry in &b.memory().layout().entries {
        let wanted = matches!(entry.purpose, Purpose::Weights | Purpose::Optimizer);
        if wanted && a.memory().layout().find(&entry.name).is_some_and(|e| e.ty == entry.ty) {
            b.memory().write(&entry.name, &wait(a.memory().read(&entry.name)?)?)?;
        }
    }
    Ok(())
}

/// Bytes of values of `a` that [`step`] keeps in memory.
pub fn kept_bytes(a: &Program, b: &Program) -> usize {
    let wanted: Vec<Key> = phase::keys(b).into_iter().flatten().collect();
    let values = phase::keys(a).into_iter().enumerate().filter_map(|(i, k)| k.filter(|k| wanted.contains(k)).map(|_| i));
    // The gradients are kept once, the weights before and after.
    values.map(|i| a.ty(a.instrs[i].outputs[0]).size_bytes()).sum::<usize>() + 3 * 4 * a.param_count()
}

/// Runs one step of both sessions on `batch` and compares them. Refuses to keep more than `limit_bytes`. Fails if that
/// is too little, if `batch` does not fit, or if a device fails.
pub fn step(a: &mut Session, b: &mut Session, batch: Batch<'_>, limit_bytes: usize) -> Result<Comparison> {
    let need = kept_bytes(a.program(), b.program());
    if need > limit_bytes {
        let mib = |n: usize| format!("{} MiB", n.div_ceil(1 << 20));
        let found = format!("{} of values to keep; take a smaller batch or a shorter context", mib(need));
        return Err(Error::config("compare", format!("at most {}", mib(limit_bytes)), found));
    }
    let keys_b = phase::keys(b.program());
    let inverse = |s: &Session| -> Result<f32> { Ok(s.scaler_state()?.map_or(1.0, |state| 1.0 / state.scale)) };
    let (inverse_a, inverse_b) = (inverse(a)?, inverse(b)?);

    let mut keep =
        Keep { wanted: phase::keys(a.program()), inverse: inverse_a, kept: HashMap::new(), params: Params::default() };
    for key in &mut keep.wanted {
        key.take_if(|k| !keys_b.contains(&Some(k.clone())));
    }
    let report_a = a.step_observed(batch, &mut keep)?.report;
    let mut against = Against {
        keys: keys_b,
        inverse: inverse_b,
        kept: keep.kept,
        params: Params::default(),
        rows: Vec::new(),
        unmatched: 0,
    };
    let report_b = b.step_observed(batch, &mut against)?.report;
    let Against { mut rows, unmatched, params, .. } = against;
    rows.extend(params.rows(&keep.params));
    let order = |d: &Difference| if d.new_nonfinite() > 0 { f64::NEG_INFINITY } else { d.sqnr_db() };
    rows.sort_by(|x, y| order(&x.difference).total_cmp(&order(&y.difference)));
    Ok(Comparison { reports: [report_a, report_b], rows, unmatched })
}

/// A value of the first session.
struct Kept {
    dtype: DType,
    bytes: Vec<u8>,
    factor: f32,
}

/// Gradients and updates of all parameters of one session.
#[derive(Default)]
struct Params {
    instr: usize,
    names: Vec<String>,
    before: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    updates: Vec<Vec<f32>>,
}

impl Params {
    fn before(&mut self, now: &Moment<'_>) {
        let instr = now.instr();
        let Op::Optimizer(o) = &instr.op else { return };
        let lists = |at: usize| {
            let ids = &instr.inputs[Optimizer::scalars(o) + at * o.len()..][..o.len()];
            ids.iter().filter_map(|&id| now.view(id)).map(|v| v.f32s().to_vec()).collect::<Vec<_>>()
        };
        let ids = &instr.inputs[o.scalars()..o.scalars() + o.len()];
        self.names.extend(ids.iter().map(|&id| now.program.value(id).name.clone()));
        self.before.extend(lists(0));
        self.gradients.extend(lists(1));
        self.instr = now.index;
    }

    fn after(&mut self, now: &Moment<'_>) {
        let instr = now.instr();
        let Op::Optimizer(o) = &instr.op else { return };
        let start = self.updates.len();
        for (k, &id) in instr.outputs[1..=o.len()].iter().enumerate() {
            let after = now.view(id).map(|v| v.f32s()).unwrap_or_default();
            self.updates.push(after.iter().zip(&self.before[start + k]).map(|(new, old)| new - old).collect());
        }
    }

    fn rows(&self, original: &Params) -> Vec<Row> {
        let mut rows = Vec::new();
        for (k, name) in self.names.iter().enumerate() {
            let Some(at) = original.names.iter().position(|n| n == name) else { continue };
            let lists = [
                (RowKind::Gradient, &original.gradients[at], &self.gradients[k]),
                (RowKind::Update, &original.updates[at], &self.updates[k]),
            ];
            rows.extend(lists.map(|(kind, a, b)| Row {
                kind,
                scope: name.clone(),
                what: kind.name().to_string(),
                instr: self.instr,
                dtypes: [DType::F32; 2],
                difference: Difference::of(View::of(a), View::of(b)),
            }));
        }
        rows
    }
}

/// Keeps what the second session will be measured against.
struct Keep {
    wanted: Vec<Option<Key>>,
    inverse: f32,
    kept: HashMap<Key, Kept>,
    params: Params,
}

impl Observer for Keep {
    fn before(&mut self, now: &Moment<'_>) {
        self.params.before(now);
    }

    fn after(&mut self, now: &Moment<'_>) {
        self.params.after(now);
        let Some(key) = self.wanted[now.index].as_ref().filter(|_| now.micro == 0) else { return };
        if let Some(v) = now.view(now.instr().outputs[0]) {
            let factor = factor(key, self.inverse);
            self.kept.insert(key.clone(), Kept { dtype: v.dtype, bytes: v.bytes.to_vec(), factor });
        }
    }
}

/// Backward values carry the loss scale.
fn factor(key: &Key, inverse: f32) -> f32 {
    match key.phase {
        Phase::Backward => inverse,
        Phase::Forward | Phase::Update => 1.0,
    }
}

/// Measures the second session against the first.
struct Against {
    keys: Vec<Option<Key>>,
    inverse: f32,
    kept: HashMap<Key, Kept>,
    params: Params,
    rows: Vec<Row>,
    unmatched: usize,
}

impl Against {
    fn row(&mut self, now: &Moment<'_>, kind: RowKind, dtypes: [DType; 2], difference: Difference) {
        let instr: &Instr = now.instr();
        let what = phase::short(instr);
        let scope = now.program.scope(instr.scope).to_string();
        self.rows.push(Row { kind, scope, what, instr: now.index, dtypes, difference });
    }
}

impl Observer for Against {
    fn before(&mut self, now: &Moment<'_>) {
        self.params.before(now);
    }

    fn after(&mut self, now: &Moment<'_>) {
        self.params.after(now);
        if now.micro > 0 {
            return;
        }
        if let Some(difference) = conversion::error(now) {
            let program = now.program;
            let dtypes = [now.instr().inputs[0], now.instr().outputs[0]].map(|id| program.ty(id).dtype);
            return self.row(now, RowKind::Conversion, dtypes, difference);
        }
        let Some(key) = self.keys[now.index].clone() else { return };
        let Some(v) = now.view(now.instr().outputs[0]) else { return };
        // Each value is needed once: its memory is given back here.
        let Some(a) = self.kept.remove(&key) else {
            self.unmatched += 1;
            return;
        };
        let original = Scaled { view: View::new(a.dtype, &a.bytes), factor: a.factor };
        let difference = Difference::of(original, Scaled { view: v, factor: factor(&key, self.inverse) });
        let kind = match key.phase {
            Phase::Forward => RowKind::Forward,
            Phase::Backward | Phase::Update => RowKind::Backward,
        };
        self.row(now, kind, [a.dtype, v.dtype], difference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{session, tiny, tokens};
    use crate::precision::recipe::RecipeName;

    fn compared(a: RecipeName, b: RecipeName, grad_accum: usize) -> Comparison {
        let config = |name| {
            let mut c = tiny(name);
            c.grad_accum = grad_accum;
            c
        };
        let (x, t) = tokens(&config(a));
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) };
        let (mut a, mut b) = (session(config(a)), session(config(b)));
        for _ in 0..2 {
            a.step(batch).unwrap();
            b.step(batch).unwrap();
        }
        share_weights(&a, &b).unwrap();
        step(&mut a, &mut b, batch, 1 << 30).unwrap()
    }

    fn median(c: &Comparison, kind: RowKind) -> f64 {
        let of_kind: Vec<f64> = c.rows.iter().filter(|r| r.kind == kind).map(|r| r.difference.sqnr_db()).collect();
        assert!(of_kind.len() > 10, "{kind:?}: {}", of_kind.len());
        of_kind[of_kind.len() / 2]
    }

    #[test]
    fn a_recipe_equals_itself() {
        let c = compared(RecipeName::F16, RecipeName::F16, 2);
        let own: Vec<&Row> = c.rows.iter().filter(|r| r.kind != RowKind::Conversion).collect();
        assert!(own.len() > 50 && own.iter().all(|r| r.difference.noise == 0.0));
        assert_eq!(c.unmatched, 0);
    }

    #[test]
    fn narrower_formats_lose_more() {
        let [bf16, f16, fp8] =
            [RecipeName::Bf16, RecipeName::F16, RecipeName::Fp8Delayed].map(|b| compared(RecipeName::F32, b, 1));
        for kind in [RowKind::Forward, RowKind::Gradient] {
            let [f, b, e] = [&f16, &bf16, &fp8].map(|c| median(c, kind));
            assert!(f > b + 10.0 && b > e + 5.0, "{kind:?}: f16 {f} bf16 {b} fp8 {e}");
            assert!((35.0..60.0).contains(&b) && (15.0..45.0).contains(&e), "{kind:?}: bf16 {b} fp8 {e}");
        }
        assert_eq!(fp8.unmatched, 0, "every computation of fp8 has its f32 counterpart");
        assert!(fp8.rows.windows(2).all(|w| w[0].difference.sqnr_db() <= w[1].difference.sqnr_db()), "worst first");
        assert!(fp8.rows.iter().any(|r| r.kind == RowKind::Conversion && r.dtypes[1] == DType::E5m2));
    }

    #[test]
    fn scaled_gradients_are_compared_without_their_scale() {
        let c = compared(RecipeName::F32, RecipeName::F16, 1);
        assert!(median(&c, RowKind::Backward) > 30.0, "{}", median(&c, RowKind::Backward));
    }

    #[test]
    fn too_large_a_comparison_is_refused() {
        let config = tiny(RecipeName::F32);
        let (x, t) = tokens(&config);
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) };
        let (mut a, mut b) = (session(config.clone()), session(config));
        let error = step(&mut a, &mut b, batch, 1000).unwrap_err().to_string();
        assert!(error.contains("smaller batch"), "{error}");
    }
}

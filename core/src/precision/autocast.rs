//! Autocast: which dtype an operation computes in, by its class. The CUDA operation list of PyTorch 2.15, on every
//! backend.
//!
//! Regions nest: an inner region replaces the outer one until it ends. With autocast off, operations take their
//! operands as they are. Casts are ordinary instructions and carry their reason. `F32` operations read narrow inputs
//! directly, since widening is exact, and store f32.

use super::fp8;
use super::settings::Region;
use crate::dtype::DType;
use crate::op::{CastClass, Op};
use crate::trace::{Graph, Policy, Prepared, Var};
use std::rc::Rc;
use std::sync::Arc;

impl Policy for Region {
    fn prepare(&self, g: &Graph, op: Op, inputs: &[Var<'_>]) -> Prepared {
        apply(self, g, op, inputs)
    }

    fn elementwise(&self, g: &Graph, class: CastClass, name: &str, promoted: DType) -> (DType, Option<Arc<str>>) {
        let narrow = promoted.is_float() && promoted != DType::F32;
        match (class, self.low) {
            (CastClass::F32, Some(_)) if narrow => (DType::F32, Some(reason(g, &format!("{name} is in the f32 class")))),
            _ => (promoted, None),
        }
    }

    fn linear<'g>(&self, x: Var<'g>, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
        fp8::linear(self, x, weight, bias)
    }

    fn asks_for_fp8(&self) -> bool {
        self.fp8.is_some()
    }

    fn without_fp8(&self) -> Rc<dyn Policy> {
        Rc::new(Region { fp8: None, ..self.clone() })
    }
}

/// Applies `region` to an operation that is not `Keep`.
fn apply(region: &Region, g: &Graph, mut op: Op, inputs: &[Var<'_>]) -> Prepared {
    let ids = |vars: &[Var<'_>]| vars.iter().map(|v| v.id).collect::<Vec<_>>();
    let Some(low) = region.low else { return (op, ids(inputs), None) };
    let row = op.row();
    match row.class {
        CastClass::Keep => (op, ids(inputs), None),
        // tf32 and f32 are stored as f32: narrow operands, which only an override meets here, are widened.
        CastClass::Low if matches!(low, DType::Tf32 | DType::F32) => {
            let mut why = (low == DType::F32).then(|| reason(g, &format!("{} computes in f32", row.name)));
            if let (Op::MatMul(m), DType::Tf32) = (&mut op, low) {
                m.compute = DType::Tf32;
                why = Some(reason(g, &format!("{} multiplies in tf32", row.name)));
            }
            let narrow = inputs.iter().any(|v| v.dtype().is_float() && v.dtype() != DType::F32);
            if narrow && why.is_none() {
                why = Some(reason(g, &format!("{} computes in f32", row.name)));
            }
            let inputs = match &why {
                Some(why) => all_to(g, inputs, DType::F32, why),
                None => inputs.to_vec(),
            };
            if let Some(out) = op.out_dtype_mut() {
                *out = DType::F32;
            }
            (op, ids(&inputs), why)
        }
        CastClass::Low => {
            let why = reason(g, &format!("{} is in the low class: {low}", row.name));
            let inputs = all_to(g, inputs, low, &why);
            if let Some(out) = op.out_dtype_mut() {
                *out = low;
            }
            (op, ids(&inputs), Some(why))
        }
        CastClass::F32 => {
            let narrow = inputs.iter().any(|v| v.dtype().is_float() && v.dtype() != DType::F32);
            if let Some(out) = op.out_dtype_mut() {
                *out = DType::F32;
            }
            (op, ids(inputs), narrow.then(|| reason(g, &format!("{} is in the f32 class", row.name))))
        }
        CastClass::Promote => {
            let widest = inputs.iter().map(|v| v.dtype()).filter(|d| d.is_float()).reduce(DType::promote);
            let Some(widest) = widest else { return (op, ids(inputs), None) };
            let why = reason(g, &format!("{} takes its widest input: {widest}", row.name));
            let cast = all_to(g, inputs, widest, &why);
            (op, ids(&cast), Some(why))
        }
    }
}

/// The float inputs cast to `dtype`, with the reason.
fn all_to<'g>(g: &Graph, inputs: &[Var<'g>], dtype: DType, why: &Arc<str>) -> Vec<Var<'g>> {
    let _why = g.because(Some(why.clone()));
    let mut cast = Vec::with_capacity(inputs.len());
    // A loop, not a closure: the casts carry the source line of the model code.
    for &v in inputs {
        cast.push(if v.dtype().is_float() { v.cast(dtype) } else { v });
    }
    cast
}

fn reason(g: &Graph, text: &str) -> Arc<str> {
    match g.outer_reason() {
        Some(outer) => Arc::from(format!("{outer}; autocast: {text}")),
        None => Arc::from(format!("autocast: {text}")),
    }
}

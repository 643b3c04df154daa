//! How far an f32 result may lie from the exact one, and the comparison that applies it.
//!
//! Bounds are in units of the roundoff `u = 2^-24`: products by `c * K * u * sum |a||b|` (the classic forward bound),
//! sums by `c * u * sum |x|`, everything else by ulps of the largest magnitude of its tensor, from [`ulps`].

use mantissa_core::dtype::DType;
use mantissa_core::op::Op;

/// Allowed error of a result of `op`, in `u` times the largest magnitude of the tensor. Why each: elementwise functions
/// are polynomials good to a few ulps, chained up to four deep; norms, softmax and losses divide sums of tens of terms;
/// layout ops copy.
pub fn ulps(op: &Op) -> f64 {
    match op {
        Op::Map(_) => 16.0,
        Op::Reduce(_) => 16.0,
        Op::MatMul(_) | Op::Conv2d(_) => 4.0,
        Op::Attention(_) => 64.0,
        Op::Norm(_) | Op::Softmax(_) | Op::CrossEntropy(_) => 32.0,
        Op::Pool2d(_) => 4.0,
        Op::Embedding | Op::Reshape(_) | Op::Permute(_) | Op::Concat(_) | Op::Slice(_) | Op::Gather | Op::TopK(_) => 0.0,
        Op::AttentionBackward(_)
        | Op::NormBackward(_)
        | Op::SoftmaxBackward(_)
        | Op::CrossEntropyBackward(_)
        | Op::EmbeddingBackward(_)
        | Op::SliceBackward(_)
        | Op::GatherBackward(_)
        | Op::Conv2dDgrad(_)
        | Op::Conv2dWgrad(_)
        | Op::Pool2dBackward(_) => 64.0,
        Op::Quantize(_)
        | Op::QuantizeMx(_)
        | Op::UnscaleCheck(_)
        | Op::GradNorm(_)
        | Op::ClipCoef(_)
        | Op::ClipValue(_)
        | Op::UpdateLossScale(_)
        | Op::UpdateFp8Scales(_)
        | Op::Optimizer(_)
        | Op::Zero
        | Op::Record(_)
        | Op::TensorStats(_) => 0.0,
    }
}

/// Factor of a gradient's tolerance over that of its forward: a rule recomputes the forward and multiplies a few more
/// times.
pub const GRADIENT_FACTOR: f64 = 8.0;

/// Roundoff of the comparison itself: central differences of an f64 function, relative to the largest magnitude.
pub const DIFFERENCE_ERROR: f64 = 2e-8;

/// Compares an f32 result to the exact one. `bound` is absolute, one for each element or one for all. Errs naming the
/// first element that is off; NaN never passes, and infinities must match exactly.
pub fn compare(what: &str, got: &[f32], want: &[f64], bound: &[f64]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: expected {} elements, found {}", want.len(), got.len()));
    }
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let limit = bound[i.min(bound.len() - 1)];
        let same_infinity = f64::from(g) == w;
        let close = (f64::from(g) - w).abs() <= limit;
        if !(same_infinity || close) {
            return Err(format!("{what}[{i}]: expected {w:e} within {limit:e}, found {g:e}"));
        }
    }
    Ok(())
}

/// `factor * u` of f32 relative to the largest magnitude of `values`.
pub fn relative(values: &[f64], factor: f64) -> f64 {
    factor * DType::F32.unit_roundoff() * values.iter().fold(0.0f64, |m, v| m.max(v.abs()))
}

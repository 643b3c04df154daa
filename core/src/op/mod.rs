//! The closed instruction set: what a Program can ask of a backend.
//!
//! Each operation has one row in the [`table`] (name, kernel stem, family, cast class, gradient, how it shares memory)
//! and answers for its types ([`Op::infer`]) and its price ([`Op::flops`]) in the file of its family. Matches on [`Op`]
//! are exhaustive, so that a new variant fails to compile until every answer is there. Gradient rules are in
//! `trace/rules`.

pub mod attention;
pub mod cast_class;
pub mod conv;
pub mod embedding;
pub mod expr;
pub mod index;
pub mod layout;
pub mod loss;
pub mod map;
pub mod matmul;
pub mod norm;
pub mod quantize;
pub mod reduce;
pub mod scale;
pub mod table;
pub mod tensor_stats;
pub mod update;

use crate::error::{Error, Result};
use crate::shape::Ty;

pub use cast_class::CastClass;
pub use table::{Family, Gradient, Row};

/// A real attribute of an operation: compares and hashes by its bits, so that operations can be dictionary keys.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl Real {
    /// The value as f32, rounded to nearest.
    pub fn f32(self) -> f32 {
        self.0 as f32
    }
}

impl PartialEq for Real {
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for Real {}
impl std::hash::Hash for Real {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}
impl std::fmt::Display for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// One operation with its attributes. Operands are named in the family files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Elementwise expression with broadcasting.
    Map(expr::Map),
    /// Sum, mean or maximum over axes.
    Reduce(reduce::Reduce),
    /// Matmul.
    MatMul(matmul::MatMul),
    /// Fused attention.
    Attention(attention::Attention),
    /// Gradient of `Attention`.
    AttentionBackward(attention::Attention),
    /// Layer norm or RMS norm over the last axis.
    Norm(norm::Norm),
    /// Gradient of `Norm`.
    NormBackward(norm::Norm),
    /// Softmax or log-softmax over the last axis.
    Softmax(loss::Softmax),
    /// Gradient of `Softmax` from its output.
    SoftmaxBackward(loss::Softmax),
    /// Mean cross-entropy of logits against class indices.
    CrossEntropy(loss::CrossEntropy),
    /// Gradient of `CrossEntropy`.
    CrossEntropyBackward(loss::CrossEntropy),
    /// Rows of a table by index.
    Embedding,
    /// Gradient of `Embedding`: scatter-add into a zeroed table.
    EmbeddingBackward(embedding::EmbeddingBackward),
    /// Same elements, other shape; no data moves.
    Reshape(crate::shape::Shape),
    /// Axes in another order.
    Permute(Vec<usize>),
    /// Operands joined along an axis.
    Concat(usize),
    /// A range of one axis.
    Slice(layout::Slice),
    /// Gradient of `Slice`: zeros outside the range.
    SliceBackward(layout::Slice),
    /// Elements of the last axis by index.
    Gather,
    /// Gradient of `Gather`.
    GatherBackward(index::GatherBackward),
    /// The `k` largest of the last axis.
    TopK(usize),
    /// 2-D convolution, N H W C.
    Conv2d(conv::Conv2d),
    /// Gradient of `Conv2d` to its input.
    Conv2dDgrad(conv::Conv2d),
    /// Gradient of `Conv2d` to its weight.
    Conv2dWgrad(conv::Conv2d),
    /// 2-D pooling, N H W C.
    Pool2d(conv::Pool2d),
    /// Gradient of `Pool2d`.
    Pool2dBackward(conv::Pool2d),
    /// fp8 with one scale per tensor.
    Quantize(quantize::Quantize),
    /// fp8 with one E8M0 scale per 32 elements.
    QuantizeMx(quantize::QuantizeMx),
    /// Gradients times `1/loss_scale`, with the finite check.
    UnscaleCheck(update::UnscaleCheck),
    /// Global norm of a list of gradients.
    GradNorm(update::GradNorm),
    /// The factor that brings the norm down to its limit.
    ClipCoef(update::ClipCoef),
    /// Gradients clamped elementwise.
    ClipValue(update::ClipValue),
    /// Loss scale backoff and growth.
    UpdateLossScale(update::UpdateLossScale),
    /// Delayed scaling: amax histories to scales.
    UpdateFp8Scales(quantize::UpdateFp8Scales),
    /// One optimizer step over a list of parameters.
    Optimizer(update::Optimizer),
    /// A list of values set to zero.
    Zero,
    /// A scalar written into the telemetry buffer.
    Record(update::Record),
    /// Histogram, counts and sums of a tensor, written into a row of a block.
    TensorStats(tensor_stats::TensorStats),
}

impl Op {
    /// Types of all outputs for inputs of these types, or what is wrong with the inputs. An output that is a `Param` or
    /// `State` is written in place and has the type given here too. Fails with what was expected and found.
    pub fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        match self {
            Op::Map(o) => o.infer(inputs),
            Op::Reduce(o) => o.infer(inputs),
            Op::MatMul(o) => o.infer(inputs),
            Op::Attention(o) => o.infer(inputs),
            Op::AttentionBackward(o) => o.infer_backward(inputs),
            Op::Norm(o) => o.infer(inputs),
            Op::NormBackward(o) => o.infer_backward(inputs),
            Op::Softmax(o) => o.infer(inputs),
            Op::SoftmaxBackward(o) => o.infer_backward(inputs),
            Op::CrossEntropy(o) => o.infer(inputs),
            Op::CrossEntropyBackward(o) => o.infer_backward(inputs),
            Op::Embedding => embedding::infer(inputs),
            Op::EmbeddingBackward(o) => o.infer(inputs),
            Op::Reshape(shape) => layout::reshape(shape, inputs),
            Op::Permute(axes) => layout::permute(axes, inputs),
            Op::Concat(axis) => layout::concat(*axis, inputs),
            Op::Slice(o) => o.infer(inputs),
            Op::SliceBackward(o) => o.infer_backward(inputs),
            Op::Gather => index::gather(inputs),
            Op::GatherBackward(o) => o.infer(inputs),
            Op::TopK(k) => index::top_k(*k, inputs),
            Op::Conv2d(o) => o.infer(inputs),
            Op::Conv2dDgrad(o) => o.infer_dgrad(inputs),
            Op::Conv2dWgrad(o) => o.infer_wgrad(inputs),
            Op::Pool2d(o) => o.infer(inputs),
            Op::Pool2dBackward(o) => o.infer_backward(inputs),
            Op::Quantize(o) => o.infer(inputs),
            Op::QuantizeMx(o) => o.infer(inputs),
            Op::UnscaleCheck(o) => o.infer(inputs),
            Op::GradNorm(o) => o.infer(inputs),
            Op::ClipCoef(o) => o.infer(inputs),
            Op::ClipValue(o) => o.infer(inputs),
            Op::UpdateLossScale(o) => o.infer(inputs),
            Op::UpdateFp8Scales(o) => o.infer(inputs),
            Op::Optimizer(o) => o.infer(inputs),
            Op::Zero => Ok(inputs.to_vec()),
            Op::Record(o) => o.infer(inputs),
            Op::TensorStats(o) => o.infer(inputs),
        }
    }

    /// Floating-point operations, a multiply-add counted as two.
    pub fn flops(&self, inputs: &[Ty], outputs: &[Ty]) -> u64 {
        let n = |t: &Ty| t.shape.numel() as u64;
        let read: u64 = inputs.iter().map(n).sum();
        let wrote: u64 = outputs.iter().map(n).sum();
        match self {
            Op::Map(o) => o.expr.flops() * outputs.first().map_or(0, n),
            Op::Reduce(_) => read,
            Op::MatMul(o) => o.flops(inputs),
            Op::Attention(o) => o.flops(inputs),
            Op::AttentionBackward(o) => o.flops_backward(inputs),
            Op::Norm(_) | Op::Softmax(_) | Op::CrossEntropy(_) => 8 * n(&inputs[0]),
            Op::NormBackward(_) | Op::SoftmaxBackward(_) | Op::CrossEntropyBackward(_) => 12 * n(&inputs[0]),
            Op::EmbeddingBackward(_) | Op::GatherBackward(_) => read,
            Op::Conv2d(o) | Op::Conv2dDgrad(o) | Op::Conv2dWgrad(o) => o.flops(inputs),
            Op::Pool2d(_) | Op::Pool2dBackward(_) => read + wrote,
            Op::Quantize(_) | Op::QuantizeMx(_) => 4 * n(&inputs[0]),
            Op::TensorStats(_) => 16 * n(&inputs[0]),
            Op::UnscaleCheck(_) | Op::GradNorm(_) | Op::ClipValue(_) => 2 * read,
            Op::Optimizer(o) => o.flops(inputs),
            Op::Embedding
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::SliceBackward(_)
            | Op::Gather
            | Op::TopK(_)
            | Op::ClipCoef(_)
            | Op::UpdateLossScale(_)
            | Op::UpdateFp8Scales(_)
            | Op::Zero
            | Op::Record(_) => 0,
        }
    }
}

/// Refuses a wrong number of inputs.
pub(crate) fn arity(op: &'static str, inputs: &[Ty], expected: usize) -> Result<()> {
    if inputs.len() == expected {
        return Ok(());
    }
    Err(Error::operand(op, format!("{expected} inputs"), format!("{} inputs", inputs.len())))
}

/// Refuses an operand that is not what `expected` says.
pub(crate) fn expect(ok: bool, op: &'static str, expected: impl Into<String>, got: &impl ToString) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::operand(op, expected, got.to_string())) }
}

/// Refuses a rounding that the store would not keep.
pub(crate) fn expect_round(op: &'static str, round: Option<crate::DType>, out: crate::DType) -> Result<()> {
    let fits = round.is_none_or(|d| d.is_float() && d.size_bytes() < out.size_bytes() && out == crate::DType::F32);
    expect(fits, op, "a narrower float to round to before an f32 store", &format!("{round:?} before {out}"))
}

/// What an epsilon must be.
pub(crate) const EPSILON: &str =
    "a value of at least 1.1754944e-38 that is finite as f32; a smaller one may count as 0, and give 0 / 0";

/// Whether something divided by `eps` alone is right on every device: it is neither 0, nor subnormal, nor infinite.
pub(crate) fn epsilon_ok(eps: f32) -> bool {
    eps >= f32::MIN_POSITIVE && eps.is_finite()
}

/// Refuses a value that is not a floating-point tensor.
pub(crate) fn expect_float(op: &'static str, t: &Ty) -> Result<()> {
    expect(t.dtype.is_float(), op, "a floating-point operand", t)
}

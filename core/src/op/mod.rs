//! The closed instruction set: what a Program can ask of a backend.
//!
//! Each operation answers the same questions, all through exhaustive matches so that a new variant fails to compile until
//! every answer is there: its row ([`Op::row`]: name, kernel stem, cast class, whether it has a gradient), its types
//! ([`Op::infer`]), its price ([`Op::flops`]), which outputs share memory with inputs ([`Op::aliases`]) and which operands
//! are lists that must lie in one piece ([`Op::packs`]). Gradient rules are in `trace/rules`.

pub mod attention;
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
pub mod update;

use crate::error::{Error, Result};
use crate::shape::Ty;
use std::ops::Range;

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

/// What autocast does with the inputs of an operation (the CUDA list of PyTorch, used on every backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CastClass {
    /// Matrix products, convolutions, attention: float inputs are cast to the region's low dtype.
    Low,
    /// Softmax, norms, losses, sums: computed and stored in f32. Inputs are read as they lie (widening is exact).
    F32,
    /// All float inputs are cast to the widest among them.
    Promote,
    /// Inputs are taken as they are; ordinary promotion decides the result.
    Keep,
}

/// Whether gradients flow through an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// It has a rule in `trace/rules`.
    Rule,
    /// It has none, for this reason.
    None(&'static str),
}

/// The table row of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name in printed Programs.
    pub name: &'static str,
    /// Base name shared by the CPU, WGSL and CUDA kernels and the parity case.
    pub stem: &'static str,
    /// What autocast does with its inputs.
    pub class: CastClass,
    /// Whether gradients flow through it.
    pub gradient: Gradient,
}

/// One operation with its attributes. Operands are named in the family files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Elementwise expression with broadcasting.
    Map(expr::Map),
    /// Sum, mean or maximum over axes.
    Reduce(reduce::Reduce),
    /// Matrix product.
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
}

impl Op {
    /// The table row.
    #[rustfmt::skip]
    pub fn row(&self) -> Row {
        use CastClass::{F32, Keep, Low};
        const FINAL: Gradient = Gradient::None("it is itself a gradient");
        const UPDATE: Gradient = Gradient::None("it changes state after the backward pass");
        const INDEX: Gradient = Gradient::None("indices have no gradient");
        const CAST: Gradient = Gradient::None("fp8 layers carry their own rule: see precision/fp8.rs");
        let row = |name, stem, class, gradient| Row { name, stem, class, gradient };
        match self {
            Op::Map(_)                  => row("map", "map", Keep, Gradient::Rule),
            Op::Reduce(r)               => row("reduce", "reduce", r.class(), Gradient::Rule),
            Op::MatMul(_)               => row("matmul", "matmul", Low, Gradient::Rule),
            Op::Attention(_)            => row("attention", "attention", Low, Gradient::Rule),
            Op::AttentionBackward(_)    => row("attention_backward", "attention", Keep, FINAL),
            Op::Norm(_)                 => row("norm", "norm", F32, Gradient::Rule),
            Op::NormBackward(_)         => row("norm_backward", "norm", Keep, FINAL),
            Op::Softmax(_)              => row("softmax", "softmax", F32, Gradient::Rule),
            Op::SoftmaxBackward(_)      => row("softmax_backward", "softmax", Keep, FINAL),
            Op::CrossEntropy(_)         => row("cross_entropy", "xent", F32, Gradient::Rule),
            Op::CrossEntropyBackward(_) => row("cross_entropy_backward", "xent", Keep, FINAL),
            Op::Embedding               => row("embedding", "embedding", Keep, Gradient::Rule),
            Op::EmbeddingBackward(_)    => row("embedding_backward", "embedding", Keep, FINAL),
            Op::Reshape(_)              => row("reshape", "reshape", Keep, Gradient::Rule),
            Op::Permute(_)              => row("permute", "permute", Keep, Gradient::Rule),
            Op::Concat(_)               => row("concat", "concat", CastClass::Promote, Gradient::Rule),
            Op::Slice(_)                => row("slice", "concat", Keep, Gradient::Rule),
            Op::SliceBackward(_)        => row("slice_backward", "concat", Keep, FINAL),
            Op::Gather                  => row("gather", "gather", Keep, Gradient::Rule),
            Op::GatherBackward(_)       => row("gather_backward", "gather", Keep, FINAL),
            Op::TopK(_)                 => row("top_k", "gather", Keep, INDEX),
            Op::Conv2d(_)               => row("conv2d", "conv2d", Low, Gradient::Rule),
            Op::Conv2dDgrad(_)          => row("conv2d_dgrad", "conv2d", Keep, FINAL),
            Op::Conv2dWgrad(_)          => row("conv2d_wgrad", "conv2d", Keep, FINAL),
            Op::Pool2d(_)               => row("pool2d", "pool", Keep, Gradient::Rule),
            Op::Pool2dBackward(_)       => row("pool2d_backward", "pool", Keep, FINAL),
            Op::Quantize(_)             => row("quantize", "quantize", Keep, CAST),
            Op::QuantizeMx(_)           => row("quantize_mx", "quantize_mx", Keep, CAST),
            Op::UnscaleCheck(_)         => row("unscale_check", "unscale", Keep, UPDATE),
            Op::GradNorm(_)             => row("grad_norm", "grad_norm", Keep, UPDATE),
            Op::ClipCoef(_)             => row("clip_coef", "clip", Keep, UPDATE),
            Op::ClipValue(_)            => row("clip_value", "clip", Keep, UPDATE),
            Op::UpdateLossScale(_)      => row("update_loss_scale", "loss_scale", Keep, UPDATE),
            Op::UpdateFp8Scales(_)      => row("update_fp8_scales", "fp8_scale", Keep, UPDATE),
            Op::Optimizer(_)            => row("optimizer", "optimizer", Keep, UPDATE),
            Op::Zero                    => row("zero", "zero", Keep, UPDATE),
            Op::Record(_)               => row("record", "record", Keep, UPDATE),
        }
    }

    /// Types of all outputs for inputs of these types, or what is wrong with the inputs. An output that is a
    /// `Param` or `State` is written in place and has the type given here too.
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

    /// Pairs (output, input) that are the same memory by the operation's contract: a view, or a list updated in place.
    /// The input must have no later reader unless the operation only views it.
    pub fn aliases(&self, n_inputs: usize) -> Vec<(usize, usize)> {
        match self {
            Op::Reshape(_) => vec![(0, 0)],
            Op::UnscaleCheck(_) => (1..n_inputs).map(|i| (i, i)).collect(),
            Op::ClipValue(_) => (0..n_inputs).map(|i| (i, i)).collect(),
            Op::Map(_)
            | Op::Reduce(_)
            | Op::MatMul(_)
            | Op::Attention(_)
            | Op::AttentionBackward(_)
            | Op::Norm(_)
            | Op::NormBackward(_)
            | Op::Softmax(_)
            | Op::SoftmaxBackward(_)
            | Op::CrossEntropy(_)
            | Op::CrossEntropyBackward(_)
            | Op::Embedding
            | Op::EmbeddingBackward(_)
            | Op::Permute(_)
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::SliceBackward(_)
            | Op::Gather
            | Op::GatherBackward(_)
            | Op::TopK(_)
            | Op::Conv2d(_)
            | Op::Conv2dDgrad(_)
            | Op::Conv2dWgrad(_)
            | Op::Pool2d(_)
            | Op::Pool2dBackward(_)
            | Op::Quantize(_)
            | Op::QuantizeMx(_)
            | Op::GradNorm(_)
            | Op::ClipCoef(_)
            | Op::UpdateLossScale(_)
            | Op::UpdateFp8Scales(_)
            | Op::Optimizer(_)
            | Op::Zero
            | Op::Record(_) => Vec::new(),
        }
    }

    /// Pairs (output, input) that must be one and the same `Param` or `State`: the operation reads its old contents and writes the new.
    pub fn updates(&self, n_inputs: usize) -> Vec<(usize, usize)> {
        match self {
            Op::Quantize(o) => (o.plain_inputs()..n_inputs).enumerate().map(|(k, i)| (2 + k, i)).collect(),
            Op::QuantizeMx(_) => (1..n_inputs).map(|i| (1 + i, i)).collect(),
            Op::ClipCoef(_) => (1..n_inputs).map(|i| (i, i)).collect(),
            Op::UpdateLossScale(_) | Op::UpdateFp8Scales(_) => (0..3).map(|i| (i, i)).collect(),
            Op::Optimizer(o) => {
                // The step counter, the parameters, then the moments behind the gradients.
                let (s, n) = (o.scalars(), o.len());
                let lists = (s..s + n).chain(s + 2 * n..n_inputs);
                std::iter::once(1).chain(lists).enumerate().collect()
            }
            Op::Zero => (0..n_inputs).map(|i| (i, i)).collect(),
            Op::Record(_) => vec![(0, 1)],
            Op::Map(_)
            | Op::Reduce(_)
            | Op::MatMul(_)
            | Op::Attention(_)
            | Op::AttentionBackward(_)
            | Op::Norm(_)
            | Op::NormBackward(_)
            | Op::Softmax(_)
            | Op::SoftmaxBackward(_)
            | Op::CrossEntropy(_)
            | Op::CrossEntropyBackward(_)
            | Op::Embedding
            | Op::EmbeddingBackward(_)
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::SliceBackward(_)
            | Op::Gather
            | Op::GatherBackward(_)
            | Op::TopK(_)
            | Op::Conv2d(_)
            | Op::Conv2dDgrad(_)
            | Op::Conv2dWgrad(_)
            | Op::Pool2d(_)
            | Op::Pool2dBackward(_)
            | Op::UnscaleCheck(_)
            | Op::GradNorm(_)
            | Op::ClipValue(_) => Vec::new(),
        }
    }

    /// Ranges of inputs that are lists over the same parameters: the memory plan lays each list out in one piece, in order,
    /// so that one launch covers the whole list whatever its length.
    pub fn packs(&self, n_inputs: usize) -> Vec<Range<usize>> {
        match self {
            Op::UnscaleCheck(_) => Vec::from([1..n_inputs]),
            Op::GradNorm(_) | Op::ClipValue(_) | Op::Zero => Vec::from([0..n_inputs]),
            Op::Optimizer(o) => o.packs(n_inputs),
            Op::Map(_)
            | Op::Reduce(_)
            | Op::MatMul(_)
            | Op::Attention(_)
            | Op::AttentionBackward(_)
            | Op::Norm(_)
            | Op::NormBackward(_)
            | Op::Softmax(_)
            | Op::SoftmaxBackward(_)
            | Op::CrossEntropy(_)
            | Op::CrossEntropyBackward(_)
            | Op::Embedding
            | Op::EmbeddingBackward(_)
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::SliceBackward(_)
            | Op::Gather
            | Op::GatherBackward(_)
            | Op::TopK(_)
            | Op::Conv2d(_)
            | Op::Conv2dDgrad(_)
            | Op::Conv2dWgrad(_)
            | Op::Pool2d(_)
            | Op::Pool2dBackward(_)
            | Op::Quantize(_)
            | Op::QuantizeMx(_)
            | Op::ClipCoef(_)
            | Op::UpdateLossScale(_)
            | Op::UpdateFp8Scales(_)
            | Op::Record(_) => Vec::new(),
        }
    }

    /// The dtype this operation stores its first output in, where that is an attribute that a following cast may change:
    /// the kernel computes in f32 and rounds once on store, so storing narrower equals storing f32 and casting after.
    pub fn out_dtype_mut(&mut self) -> Option<&mut crate::DType> {
        match self {
            Op::MatMul(o) => Some(&mut o.out),
            Op::Norm(o) => Some(&mut o.out),
            Op::Softmax(o) => Some(&mut o.out),
            Op::Reduce(o) => Some(&mut o.out),
            Op::Conv2d(o) | Op::Conv2dDgrad(o) | Op::Conv2dWgrad(o) => Some(&mut o.out),
            Op::EmbeddingBackward(_)
            | Op::Map(_)
            | Op::Attention(_)
            | Op::AttentionBackward(_)
            | Op::NormBackward(_)
            | Op::SoftmaxBackward(_)
            | Op::CrossEntropy(_)
            | Op::CrossEntropyBackward(_)
            | Op::Embedding
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::SliceBackward(_)
            | Op::Gather
            | Op::GatherBackward(_)
            | Op::TopK(_)
            | Op::Pool2d(_)
            | Op::Pool2dBackward(_)
            | Op::Quantize(_)
            | Op::QuantizeMx(_)
            | Op::UnscaleCheck(_)
            | Op::GradNorm(_)
            | Op::ClipCoef(_)
            | Op::ClipValue(_)
            | Op::UpdateLossScale(_)
            | Op::UpdateFp8Scales(_)
            | Op::Optimizer(_)
            | Op::Zero
            | Op::Record(_) => None,
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

/// Refuses a value that is not a floating-point tensor.
pub(crate) fn expect_float(op: &'static str, t: &Ty) -> Result<()> {
    expect(t.dtype.is_float(), op, "a floating-point operand", t)
}

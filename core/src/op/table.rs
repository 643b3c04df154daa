//! The operation table: one row an operation, and what follows from it.

use super::Op;
use super::cast_class::CastClass;
use super::matmul::Epilogue;
use serde::Serialize;
use std::ops::Range;

/// Whether gradients flow through an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// It has a rule in `trace/rules`.
    Rule,
    /// It has none, for this reason.
    None(&'static str),
}

/// Kinds of work: what shares reports and efficiencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Matmuls.
    Product,
    /// Fused attention, forward.
    Attention,
    /// Fused attention, backward.
    AttentionBackward,
    /// Convolutions.
    Convolution,
    /// Elementwise expressions, casts among them.
    Elementwise,
    /// Norms, softmax, losses, sums, pooling.
    Reduction,
    /// fp8 casts with amax and scale.
    Quantize,
    /// Embedding and gather, both ways.
    Index,
    /// Permute, concat, slice.
    Layout,
    /// Unscale, norm, clip, optimizer, scale updates.
    Update,
    /// Another shape for the same memory; no work at all.
    View,
}

/// The table row of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name in printed Programs.
    pub name: &'static str,
    /// Base name shared by the CPU, WGSL and CUDA kernels and the parity case.
    pub stem: &'static str,
    /// Kind of work.
    pub family: Family,
    /// What autocast does with its inputs.
    pub class: CastClass,
    /// Whether gradients flow through it.
    pub gradient: Gradient,
    /// Inputs from this one on are one list over the same parameters.
    list_from: Option<usize>,
    /// Inputs from this one on are updated in place: output `i` is input `i`.
    in_place_from: Option<usize>,
    /// An input that may have any float dtype without changing a result or its type.
    any_float_input: Option<usize>,
}

impl Row {
    const fn list(self, from: usize) -> Row {
        Row { list_from: Some(from), ..self }
    }

    const fn in_place(self, from: usize) -> Row {
        Row { in_place_from: Some(from), ..self }
    }

    const fn any_float(self, input: usize) -> Row {
        Row { any_float_input: Some(input), ..self }
    }
}

impl Op {
    /// The table row.
    #[rustfmt::skip]
    pub fn row(&self) -> Row {
        use CastClass::{F32, Keep, Low, Promote};
        use Family::{Attention, AttentionBackward, Convolution, Elementwise, Index, Layout, Product, Quantize, Reduction, Update, View};
        use Gradient::Rule;
        const FINAL: Gradient = Gradient::None("it is itself a gradient");
        const UPDATE: Gradient = Gradient::None("it changes state after the backward pass");
        const INDEX: Gradient = Gradient::None("indices have no gradient");
        const COUNTS: Gradient = Gradient::None("counts have no gradient");
        const CAST: Gradient = Gradient::None("fp8 layers carry their own rule: see precision/fp8.rs");
        let row = |name, stem, family, class, gradient| Row {
            name, stem, family, class, gradient, list_from: None, in_place_from: None, any_float_input: None,
        };
        match self {
            Op::Map(_)                  => row("map", "map", Elementwise, Keep, Rule),
            Op::Reduce(r)               => row("reduce", "reduce", Reduction, r.class(), Rule).any_float(0),
            Op::MatMul(_)               => row("matmul", "matmul", Product, Low, Rule),
            Op::Attention(_)            => row("attention", "attention", Attention, Low, Rule),
            Op::AttentionBackward(_)    => row("attention_backward", "attention", AttentionBackward, Keep, FINAL),
            Op::Norm(_)                 => row("norm", "norm", Reduction, F32, Rule).any_float(0),
            Op::NormBackward(_)         => row("norm_backward", "norm", Reduction, Keep, FINAL).any_float(0),
            Op::Softmax(_)              => row("softmax", "softmax", Reduction, F32, Rule).any_float(0),
            Op::SoftmaxBackward(_)      => row("softmax_backward", "softmax", Reduction, Keep, FINAL),
            Op::CrossEntropy(_)         => row("cross_entropy", "xent", Reduction, F32, Rule),
            Op::CrossEntropyBackward(_) => row("cross_entropy_backward", "xent", Reduction, Keep, FINAL),
            Op::Embedding               => row("embedding", "embedding", Index, Keep, Rule),
            Op::EmbeddingBackward(_)    => row("embedding_backward", "embedding", Index, Keep, FINAL).any_float(1),
            Op::Reshape(_)              => row("reshape", "reshape", View, Keep, Rule),
            Op::Permute(_)              => row("permute", "permute", Layout, Keep, Rule),
            Op::Concat(_)               => row("concat", "concat", Layout, Promote, Rule),
            Op::Slice(_)                => row("slice", "concat", Layout, Keep, Rule),
            Op::SliceBackward(_)        => row("slice_backward", "concat", Layout, Keep, FINAL),
            Op::Gather                  => row("gather", "gather", Index, Keep, Rule),
            Op::GatherBackward(_)       => row("gather_backward", "gather", Index, Keep, FINAL),
            Op::TopK(_)                 => row("top_k", "gather", Index, Keep, INDEX),
            Op::Conv2d(_)               => row("conv2d", "conv2d", Convolution, Low, Rule),
            Op::Conv2dDgrad(_)          => row("conv2d_dgrad", "conv2d", Convolution, Keep, FINAL),
            Op::Conv2dWgrad(_)          => row("conv2d_wgrad", "conv2d", Convolution, Keep, FINAL),
            Op::Pool2d(_)               => row("pool2d", "pool", Reduction, Keep, Rule),
            Op::Pool2dBackward(_)       => row("pool2d_backward", "pool", Reduction, Keep, FINAL),
            Op::Quantize(_)             => row("quantize", "quantize", Quantize, Keep, CAST),
            Op::QuantizeMx(_)           => row("quantize_mx", "quantize_mx", Quantize, Keep, CAST),
            Op::UnscaleCheck(_)         => row("unscale_check", "unscale", Update, Keep, UPDATE).list(1).in_place(1),
            Op::GradNorm(_)             => row("grad_norm", "grad_norm", Update, Keep, UPDATE).list(0),
            Op::ClipCoef(_)             => row("clip_coef", "clip", Update, Keep, UPDATE),
            Op::ClipValue(_)            => row("clip_value", "clip", Update, Keep, UPDATE).list(0).in_place(0),
            Op::UpdateLossScale(_)      => row("update_loss_scale", "loss_scale", Update, Keep, UPDATE),
            Op::UpdateFp8Scales(_)      => row("update_fp8_scales", "fp8_scale", Update, Keep, UPDATE),
            Op::Optimizer(_)            => row("optimizer", "optimizer", Update, Keep, UPDATE),
            Op::Zero                    => row("zero", "zero", Update, Keep, UPDATE).list(0),
            Op::Record(_)               => row("record", "record", Update, Keep, UPDATE),
            Op::TensorStats(_)          => row("tensor_stats", "tensor_stats", Reduction, Keep, COUNTS),
        }
    }

    /// Pairs (output, input) that are the same memory by the operation's contract: a view, or a list updated in place.
    /// The input must have no later reader unless the operation only views it.
    pub fn aliases(&self, n_inputs: usize) -> Vec<(usize, usize)> {
        match (self, self.row().in_place_from) {
            (Op::Reshape(_), _) => vec![(0, 0)],
            (_, Some(from)) => (from..n_inputs).map(|i| (i, i)).collect(),
            (_, None) => Vec::new(),
        }
    }

    /// The inputs that are read in step with the store of the output, element for element: one that dies may be
    /// overwritten by it.
    pub fn elementwise_inputs(&self, n_inputs: usize) -> Range<usize> {
        if let Op::MatMul(o) = self {
            return o.addend_input().map_or(0..0, |i| i..i + 1);
        }
        if let Op::Map(_) = self { 0..n_inputs } else { 0..0 }
    }

    /// Pairs (output, input) that must be one and the same `Param` or `State`: the operation reads its old contents and
    /// writes the new.
    pub fn updates(&self, n_inputs: usize) -> Vec<(usize, usize)> {
        let same = |range: Range<usize>| range.map(|i| (i, i)).collect();
        if let Op::Optimizer(o) = self {
            // The step counter, the parameters, then the moments behind the gradients.
            let (s, n) = (o.scalars(), o.len());
            let lists = (s..s + n).chain(s + 2 * n..n_inputs);
            return std::iter::once(1).chain(lists).enumerate().collect();
        }
        if let Op::Quantize(o) = self {
            return (o.plain_inputs()..n_inputs).enumerate().map(|(k, i)| (2 + k, i)).collect();
        }
        if let Op::QuantizeMx(_) = self {
            return (1..n_inputs).map(|i| (1 + i, i)).collect();
        }
        if let Op::Record(_) = self {
            return vec![(0, 1)];
        }
        if let Op::TensorStats(_) = self {
            return vec![(0, n_inputs - 1)];
        }
        if let Op::UpdateLossScale(_) | Op::UpdateFp8Scales(_) = self {
            return same(0..3);
        }
        if let Op::ClipCoef(_) = self {
            return (2..n_inputs).map(|i| (i - 1, i)).collect();
        }
        if let Op::Zero = self { same(0..n_inputs) } else { Vec::new() }
    }

    /// Ranges of inputs that are lists over the same parameters: the memory plan lays each list out in one piece, in
    /// order, so that one launch covers the whole list whatever its length.
    pub fn packs(&self, n_inputs: usize) -> Vec<Range<usize>> {
        match (self, self.row().list_from) {
            (Op::Optimizer(o), _) => o.packs(n_inputs),
            (_, Some(from)) => Vec::from([from..n_inputs]),
            (_, None) => Vec::new(),
        }
    }

    /// The dtype this operation stores its first output in, where that is an attribute that a following cast may
    /// change: the kernel computes in f32 and rounds once on store, so storing narrower equals storing f32 and casting
    /// after.
    pub fn out_dtype_mut(&mut self) -> Option<&mut crate::DType> {
        if let Op::MatMul(o) = self {
            return Some(&mut o.out);
        }
        if let Op::Norm(o) = self {
            return Some(&mut o.out);
        }
        if let Op::Softmax(o) = self {
            return Some(&mut o.out);
        }
        if let Op::Reduce(o) = self {
            return Some(&mut o.out);
        }
        if let Op::Conv2d(o) | Op::Conv2dDgrad(o) | Op::Conv2dWgrad(o) = self { Some(&mut o.out) } else { None }
    }

    /// The dtype whose values the first output takes though it is stored in f32, if there is one.
    pub fn rounded_dtype(&self) -> Option<crate::DType> {
        if let Op::MatMul(o) = self {
            return o.round.filter(|_| o.epilogue == Epilogue::None);
        }
        if let Op::Reduce(o) = self { o.round } else { None }
    }

    /// The dtype this operation rounds its first output to before an f32 store, where it has that attribute.
    pub fn round_mut(&mut self) -> Option<&mut Option<crate::DType>> {
        if let Op::MatMul(o) = self {
            return (o.epilogue == Epilogue::None).then_some(&mut o.round);
        }
        if let Op::Reduce(o) = self { Some(&mut o.round) } else { None }
    }

    /// Whether input `k` may have any float dtype without changing a result or its type.
    pub fn reads_any_float(&self, k: usize) -> bool {
        self.row().any_float_input == Some(k)
    }
}

//! Gradient rules: for each operation, the instructions that turn output gradients into input gradients.
//!
//! A rule returns one entry per input, of exactly the input's type, or `None` where no gradient flows. Backward
//! instructions run in the dtype chosen forward: they are recorded with operands as they are, outside autocast.

mod elementwise;
mod layout;
mod nn;
mod product;

pub(crate) use product::bias_gradient;

use super::graph::{Graph, Var};
use crate::op::Op;

/// What a rule may look at.
pub(super) struct Context<'a, 'g> {
    pub(super) g: &'g Graph,
    pub(super) op: &'a Op,
    pub(super) inputs: &'a [Var<'g>],
    pub(super) outputs: &'a [Var<'g>],
    pub(super) dy: &'a [Option<Var<'g>>],
    pub(super) needs: &'a [bool],
}

pub(super) fn backward<'g>(ctx: &Context<'_, 'g>) -> Vec<Option<Var<'g>>> {
    let none = || vec![None; ctx.inputs.len()];
    // Every rule below differentiates output 0; the others are row statistics and indices.
    let Some(dy) = ctx.dy.first().copied().flatten() else { return none() };
    match ctx.op {
        Op::Map(m) => elementwise::map(ctx, m, dy),
        Op::Reduce(r) => elementwise::reduce(ctx, r, dy),
        Op::MatMul(m) => product::matmul(ctx, m, dy),
        Op::Conv2d(c) => product::conv2d(ctx, c, dy),
        Op::Pool2d(p) => product::pool2d(ctx, p, dy),
        Op::Attention(a) => nn::attention(ctx, a, dy),
        Op::Norm(n) => nn::norm(ctx, n, dy),
        Op::Softmax(s) => nn::softmax(ctx, s, dy),
        Op::CrossEntropy(c) => nn::cross_entropy(ctx, c, dy),
        Op::Embedding => nn::embedding(ctx, dy),
        Op::Reshape(_) => vec![Some(dy.reshape(ctx.inputs[0].shape()))],
        Op::Permute(axes) => layout::permute(axes, dy),
        Op::Concat(axis) => layout::concat(ctx, *axis, dy),
        Op::Slice(s) => vec![Some(ctx.g.push(Op::SliceBackward(*s), &[dy.id])[0])],
        Op::Gather => layout::gather(ctx, dy),
        Op::AttentionBackward(_)
        | Op::NormBackward(_)
        | Op::SoftmaxBackward(_)
        | Op::CrossEntropyBackward(_)
        | Op::EmbeddingBackward(_)
        | Op::SliceBackward(_)
        | Op::GatherBackward(_)
        | Op::TopK(_)
        | Op::Conv2dDgrad(_)
        | Op::Conv2dWgrad(_)
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
        | Op::Record(_)
        | Op::TensorStats(_) => none(),
    }
}

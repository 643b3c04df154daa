//! Gradients of the fused layers: attention, norms, softmax, cross-entropy, embedding.

use super::Context;
use crate::op::Op;
use crate::op::attention::Attention;
use crate::op::embedding::EmbeddingBackward;
use crate::op::loss::{CrossEntropy, Softmax};
use crate::op::norm::Norm;
use crate::trace::Var;

pub(super) fn attention<'g>(ctx: &Context<'_, 'g>, a: &Attention, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let (qkv, y, stats) = (ctx.inputs[0], ctx.outputs[0], ctx.outputs[1]);
    let mut ids = vec![qkv.id, y.id, stats.id, dy.id];
    ids.extend(ctx.inputs[1..].iter().map(|v| v.id));
    let mut grads = vec![None; ctx.inputs.len()];
    grads[0] = Some(ctx.g.push(Op::AttentionBackward(a.clone()), &ids)[0]);
    grads
}

pub(super) fn norm<'g>(ctx: &Context<'_, 'g>, n: &Norm, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let mut ids = vec![dy.id, ctx.inputs[0].id];
    if n.affine {
        ids.push(ctx.inputs[1].id);
    }
    ids.extend(ctx.outputs[1..].iter().map(|v| v.id));
    let grads = ctx.g.push(Op::NormBackward(n.clone()), &ids);
    grads.into_iter().zip(ctx.inputs).map(|(d, x)| Some(d.cast(x.dtype()))).collect()
}

pub(super) fn softmax<'g>(ctx: &Context<'_, 'g>, s: &Softmax, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let op = Softmax { log: s.log, out: ctx.inputs[0].dtype() };
    vec![Some(ctx.g.push(Op::SoftmaxBackward(op), &[ctx.outputs[0].id, dy.id])[0])]
}

pub(super) fn cross_entropy<'g>(ctx: &Context<'_, 'g>, c: &CrossEntropy, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let ids = [ctx.inputs[0].id, ctx.inputs[1].id, ctx.outputs[1].id, ctx.outputs[2].id, dy.id];
    vec![Some(ctx.g.push(Op::CrossEntropyBackward(c.clone()), &ids)[0]), None]
}

pub(super) fn embedding<'g>(ctx: &Context<'_, 'g>, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let (table, ids) = (ctx.inputs[0], ctx.inputs[1]);
    let op = EmbeddingBackward { rows: table.shape()[0] };
    let d = ctx.g.push(Op::EmbeddingBackward(op), &[ids.id, dy.id])[0];
    vec![Some(d.cast(table.dtype())), None]
}

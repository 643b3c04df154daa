//! Gradients of operations that only move elements.

use super::Context;
use crate::op::Op;
use crate::op::index::GatherBackward;
use crate::op::layout::Slice;
use crate::trace::Var;

pub(super) fn permute<'g>(axes: &[usize], dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let mut inverse = vec![0; axes.len()];
    for (i, &a) in axes.iter().enumerate() {
        inverse[a] = i;
    }
    vec![Some(dy.g.push(Op::Permute(inverse), &[dy.id])[0])]
}

pub(super) fn concat<'g>(ctx: &Context<'_, 'g>, axis: usize, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let full = dy.shape()[axis];
    let mut start = 0;
    let mut grads = Vec::with_capacity(ctx.inputs.len());
    for (k, x) in ctx.inputs.iter().enumerate() {
        let end = start + x.shape()[axis];
        let part = Slice { axis, start, end, full };
        grads.push(ctx.needs[k].then(|| ctx.g.push(Op::Slice(part), &[dy.id])[0]));
        start = end;
    }
    grads
}

pub(super) fn gather<'g>(ctx: &Context<'_, 'g>, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let op = GatherBackward { last: ctx.inputs[0].shape().last() };
    vec![Some(ctx.g.push(Op::GatherBackward(op), &[ctx.inputs[1].id, dy.id])[0]), None]
}

//! Gradients of matmuls, convolutions and pooling: matmuls again, in the compute dtype chosen forward.

use super::Context;
use crate::error::Error;
use crate::op::Op;
use crate::op::conv::{Conv2d, Pool2d};
use crate::op::matmul::{Epilogue, MatMul};
use crate::op::reduce::{Reduce, ReduceKind};
use crate::trace::Var;

/// `dA = dY B^T`, `dB = A^T dY`, `dbias` the sum of `dY` over rows; each stored in the dtype of its operand.
pub(super) fn matmul<'g>(ctx: &Context<'_, 'g>, m: &MatMul, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let (a, b) = (ctx.inputs[0], ctx.inputs[1]);
    let g = ctx.g;
    if m.epilogue != Epilogue::None {
        g.fail(Error::operand("matmul", "no epilogue before the passes: it has no gradient", format!("{:?}", m.epilogue)));
    }
    let product = |x: Var<'g>, y: Var<'g>, trans_a: bool, trans_b: bool, out| {
        let op = MatMul { trans_a, trans_b, compute: m.compute, ..MatMul::new(false, false, out) };
        g.push(op.op(), &[x.id, y.id])[0]
    };
    let shared = b.shape().len() == 2 && a.shape().len() > 2;
    let mut grads = vec![None; ctx.inputs.len()];
    if ctx.needs[0] {
        // y = op(a) op(b): da = dy op(b)^T, transposed if a is stored transposed.
        grads[0] = Some(if m.trans_a && shared {
            // One matrix cannot stand on the left of a batch: the transpose of the matmul instead.
            let rank = a.shape().len();
            let axes: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
            let transposed = product(dy, b, false, !m.trans_b, a.dtype());
            g.push(Op::Permute(axes), &[transposed.id])[0]
        } else if m.trans_a {
            product(b, dy, m.trans_b, true, a.dtype())
        } else {
            product(dy, b, false, !m.trans_b, a.dtype())
        });
    }
    if ctx.needs[1] {
        // A matrix shared by all leading axes gets the sum over them: fold them into the rows.
        let (a, dy) = if shared && !m.trans_a { (a.rows(), dy.rows()) } else { (a, dy) };
        let db =
            if m.trans_b { product(dy, a, true, m.trans_a, b.dtype()) } else { product(a, dy, !m.trans_a, false, b.dtype()) };
        grads[1] = Some(if db.shape() == b.shape() { db } else { sum_leading(db, b.shape().len()) });
    }
    if let Some(i) = m.bias_input().filter(|&i| ctx.needs[i]) {
        grads[i] = Some(bias_gradient(dy, ctx.inputs[i].dtype()));
    }
    grads
}

/// Sum of `dy` [.., N] over all rows, stored as `out`.
pub(crate) fn bias_gradient(dy: Var<'_>, out: crate::DType) -> Var<'_> {
    let axes: Vec<usize> = (0..dy.shape().len() - 1).collect();
    dy.g.push(Op::Reduce(Reduce { kind: ReduceKind::Sum, axes, keep: false, out, round: None }), &[dy.id])[0]
}

fn sum_leading(x: Var<'_>, rank: usize) -> Var<'_> {
    let axes: Vec<usize> = (0..x.shape().len() - rank).collect();
    x.g.push(Op::Reduce(Reduce { kind: ReduceKind::Sum, axes, keep: false, out: x.dtype(), round: None }), &[x.id])[0]
}

pub(super) fn conv2d<'g>(ctx: &Context<'_, 'g>, c: &Conv2d, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let (x, w) = (ctx.inputs[0], ctx.inputs[1]);
    let dx = || ctx.g.push(Op::Conv2dDgrad(Conv2d { out: x.dtype(), ..c.clone() }), &[dy.id, w.id])[0];
    let dw = || ctx.g.push(Op::Conv2dWgrad(Conv2d { out: w.dtype(), ..c.clone() }), &[dy.id, x.id])[0];
    vec![ctx.needs[0].then(dx), ctx.needs[1].then(dw)]
}

pub(super) fn pool2d<'g>(ctx: &Context<'_, 'g>, p: &Pool2d, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    vec![Some(ctx.g.push(Op::Pool2dBackward(p.clone()), &[ctx.inputs[0].id, dy.id])[0])]
}

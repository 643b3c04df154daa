//! Binding of the compute kernels: elementwise maps, matmuls, attention, norms, losses, data movement.

use super::{Frame, MAX_OPERANDS, ViewsMut, matrix};
use crate::cpu::attention::{AttentionArgs, Dropout};
use crate::cpu::conv2d::ConvShape;
use crate::cpu::epilogue::Epilogue;
use crate::cpu::map::{self, MapInput};
use crate::cpu::matmul::{self, MatMulArgs, Operand, Scale};
use crate::cpu::norm;
use crate::cpu::window::Window;
use crate::dtype::DType;
use crate::float::slices;
use crate::float::view::{View, ViewMut};
use crate::op::attention::Attention;
use crate::op::conv::{Conv2d, Pool2d};
use crate::op::expr::{Map, dropout_threshold, rng_input};
use crate::op::matmul::{self as op, Dims, MatMul};
use crate::op::norm::{Norm, NormKind};
use crate::op::reduce::Reduce;
use crate::op::scale::OperandScale;
use crate::par;
use crate::program::operands::Operands;
use crate::shape::Ty;
use arrayvec::ArrayVec;

/// Elementwise maps: an input in the memory of an output is read in place.
pub(super) fn map(m: &Map, operands: &Operands, pieces: &mut [&mut [u8]], work: &mut [f32]) {
    let mut outputs: ViewsMut<'_> =
        operands.outputs.iter().map(|&(i, dtype)| ViewMut::new(dtype, std::mem::take(&mut pieces[i]))).collect();
    let strides: ArrayVec<ArrayVec<usize, { map::MAX_RANK }>, MAX_OPERANDS> = operands
        .input_types
        .iter()
        .enumerate()
        .map(|(k, t)| {
            let random = m.expr.nodes.iter().any(|n| rng_input(n) == Some(k as u16));
            if random { ArrayVec::new() } else { broadcast_strides(t, m) }
        })
        .collect();
    let inputs: ArrayVec<MapInput<'_>, MAX_OPERANDS> = operands
        .inputs
        .iter()
        .zip(&strides)
        .map(|(&(piece, dtype), strides)| match operands.outputs.iter().position(|&(out, _)| out == piece) {
            Some(k) => MapInput::InPlace(k),
            None => MapInput::View { view: View::new(dtype, &*pieces[piece]), strides },
        })
        .collect();
    map::map(&m.expr, &inputs, &m.shape, &mut outputs, work);
}

/// [`crate::shape::Shape::broadcast_strides`] without allocation.
fn broadcast_strides(t: &Ty, m: &Map) -> ArrayVec<usize, { map::MAX_RANK }> {
    let lead = m.shape.len() - t.shape.len();
    let mut strides: ArrayVec<usize, { map::MAX_RANK }> = m.shape.iter().map(|_| 0).collect();
    let mut step = 1;
    for (axis, &len) in t.shape.iter().enumerate().rev() {
        strides[lead + axis] = if len == 1 { 0 } else { step };
        step *= len;
    }
    strides
}

pub(super) fn mask(r: &Reduce) -> u32 {
    r.axes.iter().fold(0, |m, &a| m | 1 << a)
}

/// Elements before and after an axis.
pub(super) fn around(t: &Ty, axis: usize) -> (usize, usize) {
    (t.shape[..axis].iter().product(), t.shape[axis + 1..].iter().product())
}

pub(super) fn image(t: &Ty) -> [usize; 4] {
    std::array::from_fn(|i| t.shape[i])
}

/// Whether a matmul is added to what its output held.
fn accumulates(m: &MatMul, operands: &Operands) -> bool {
    m.addend_input().is_some_and(|i| operands.inputs[i].0 == operands.outputs[0].0)
}

pub(super) fn matmul_args(m: &MatMul, operands: &Operands) -> Option<MatMulArgs> {
    let tx = &operands.input_types;
    let Dims { batch, m: rows, n, k, b_shared } = m.dims(&tx[0], &tx[1]).ok()?;
    Some(MatMulArgs {
        batch,
        m: rows,
        n,
        k,
        a_batch_stride: rows * k,
        b_batch_stride: if b_shared { 0 } else { k * n },
        compute: m.compute,
        accumulate: accumulates(m, operands),
    })
}

pub(super) fn matmul(m: &MatMul, operands: &Operands, mut f: Frame<'_>, work: &mut [f32]) {
    let y = f.next();
    let x = f.x;
    let Some(args) = matmul_args(m, operands) else { return };
    let operand = |i: usize, trans: bool| {
        let scale = match (m.scales[i], m.scale_input(i)) {
            (OperandScale::Tensor, Some(s)) => Scale::PerTensor(x[s].f32s()[0]),
            (OperandScale::Blocks(axis), Some(s)) => Scale::Blocks { scales: x[s], axis },
            (OperandScale::None, _) | (_, None) => Scale::None,
        };
        Operand { view: x[i], trans, scale }
    };
    let bias = m.bias_input().map(|i| x[i]);
    let activation = if let op::Epilogue::Activation(a) = m.epilogue { Some(a) } else { None };
    let addend = m.addend_input().filter(|_| !args.accumulate).map(|i| x[i]);
    let epilogue = Epilogue { round: m.round, activation, addend };
    matmul::matmul(y, &operand(0, m.trans_a), &operand(1, m.trans_b), bias, &epilogue, &args, work);
}

/// Lets `kernel` fill `y`, whose values then take those of the dtype `round`.
pub(super) fn storing(mut y: ViewMut<'_>, round: Option<DType>, kernel: impl FnOnce(ViewMut<'_>)) {
    /// Elements of a task.
    const PART: usize = 1 << 14;
    kernel(ViewMut::new(y.dtype, &mut *y.bytes));
    if let Some(dtype) = round {
        par::chunks(y.f32s(), PART, |_, part| slices::round(dtype, part));
    }
}

pub(super) fn attention_args(a: &Attention, qkv: &Ty, rng: Option<&View<'_>>) -> AttentionArgs {
    let dropout = a.dropout.map(|d| {
        let p = d.p.f32();
        let [seed, step] = rng.map_or([0; 2], |v| [v.u32s()[0], v.u32s()[1]]);
        Dropout { threshold: dropout_threshold(p), scale: 1.0 / (1.0 - p), seed, stream: d.stream, step }
    });
    AttentionArgs {
        batch: qkv.shape[0],
        t: qkv.shape[1],
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_size: a.head_size(qkv.shape[2]),
        causal: a.causal,
        scale: a.scale.f32(),
        dropout,
    }
}

pub(super) fn norm_backward(n: &Norm, mut f: Frame<'_>, work: &mut [f32]) {
    let dx = f.next();
    let dweight = n.affine.then(|| f.next());
    let dbias = n.bias.then(|| f.next());
    let Frame { x, tx, .. } = f;
    let weight = n.affine.then(|| x[2]);
    let stats = &x[2 + usize::from(n.affine)..];
    let (mean, rstd) = match n.kind {
        NormKind::Layer => (stats[0].f32s(), stats[1].f32s()),
        NormKind::Rms => (&[][..], stats[0].f32s()),
    };
    norm::norm_backward(n.kind, x[0], x[1], matrix(&tx[1].shape), weight, mean, rstd, dx, dweight, dbias, work);
}

pub(super) fn conv_shape(c: &Conv2d) -> ConvShape {
    let (x, w) = (&c.x_shape, &c.w_shape);
    let window = Window { kernel: [w[0], w[1]], stride: c.stride, pad: c.padding, dilation: c.dilation };
    ConvShape { n: x[0], input: [x[1], x[2]], cin: x[3], cout: w[3], window }
}

pub(super) fn window(p: &Pool2d) -> Window {
    Window { kernel: p.window, stride: p.stride, pad: p.padding, dilation: [1; 2] }
}

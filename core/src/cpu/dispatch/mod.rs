//! From instruction to kernel: binds operands to views and calls the kernel of the stem. No arithmetic here.

mod layer;
mod update;

use super::{
    attention, attention_backward, concat, conv2d, embedding, gather, grad_norm, map, matmul, norm, permute, pool, reduce,
    softmax, tensor_stats, xent,
};
use crate::float::view::{View, ViewMut};
use crate::op::Op;
use crate::op::conv::PoolKind;
use crate::op::norm::NormKind;
use crate::program::operands::Operands;
use crate::shape::{Shape, Ty};
use arrayvec::ArrayVec;

const MAX_OPERANDS: usize = super::arena::MAX_PIECES;

type Views<'a> = ArrayVec<View<'a>, MAX_OPERANDS>;
type ViewsMut<'a> = ArrayVec<ViewMut<'a>, MAX_OPERANDS>;

/// A kernel's view of its operands. An input that is updated in place is empty here and found among the outputs.
struct Frame<'a> {
    x: Views<'a>,
    /// Outputs not taken yet, the last first.
    y: ViewsMut<'a>,
    tx: &'a [Ty],
    ty: &'a [Ty],
}

impl<'a> Frame<'a> {
    fn new<'p>(operands: &'a Operands, pieces: &'a mut [&'p mut [u8]]) -> Frame<'a>
    where
        'p: 'a,
    {
        // A piece listed twice among the outputs is lent to the first.
        let mut y: ViewsMut<'_> =
            operands.outputs.iter().map(|&(i, dtype)| ViewMut::new(dtype, std::mem::take(&mut pieces[i]))).collect();
        y.reverse();
        let x = operands.inputs.iter().map(|&(i, dtype)| View::new(dtype, &*pieces[i])).collect();
        Frame { x, y, tx: &operands.input_types, ty: &operands.output_types }
    }

    /// The next output.
    fn next(&mut self) -> ViewMut<'a> {
        self.y.pop().expect("the op's rule gives this output")
    }
}

/// Rows and width of a shape read as a matrix over the last axis.
fn matrix(shape: &Shape) -> [usize; 2] {
    [shape.rows(), shape.last()]
}

/// Scratch elements (f32) that [`run`] needs.
pub(super) fn work_len(op: &Op, o: &Operands) -> usize {
    let tx = &o.input_types;
    let rows = |i: usize| matrix(&tx[i].shape);
    match op {
        Op::Map(m) => map::map_work_len(&m.expr, &m.shape),
        Op::Reduce(r) => reduce::reduce_work_len(&tx[0].shape, layer::mask(r)),
        Op::MatMul(m) => layer::matmul_args(m, o).map_or(0, |a| matmul::matmul_work_len(&a, m.out)),
        Op::Attention(a) => attention::attention_work_len(&layer::attention_args(a, &tx[0], None)),
        Op::AttentionBackward(a) => attention_backward::attention_backward_work_len(&layer::attention_args(a, &tx[0], None)),
        Op::Norm(_) => norm::norm_work_len(rows(0)[0], rows(0)[1]),
        Op::NormBackward(_) => norm::norm_backward_work_len(rows(1)[0], rows(1)[1]),
        Op::Softmax(_) | Op::SoftmaxBackward(_) => softmax::softmax_work_len(rows(0)[0], rows(0)[1]),
        Op::CrossEntropy(_) => rows(0)[0],
        Op::EmbeddingBackward(b) => embedding::embedding_backward_work_len(o.output_types[0].dtype, b.rows, rows(1)[1]),
        Op::Gather | Op::TopK(_) => gather::gather_work_len(rows(0)[0], rows(0)[1]),
        Op::GatherBackward(b) => gather::gather_work_len(rows(1)[0], b.last),
        Op::Conv2d(c) => conv2d::conv2d_work_len(&layer::conv_shape(c)),
        Op::Conv2dDgrad(c) => conv2d::conv2d_dgrad_work_len(&layer::conv_shape(c)),
        Op::Conv2dWgrad(c) => conv2d::conv2d_wgrad_work_len(&layer::conv_shape(c)),
        Op::Pool2dBackward(_) => pool::pool_backward_work_len(tx[0].dtype, layer::image(&tx[0])),
        Op::GradNorm(_) => grad_norm::grad_norm_work_len([update::list_len(o)]) + 1,
        Op::TensorStats(_) => tensor_stats::tensor_stats_work_len(tx[0].shape.numel()),
        Op::Embedding
        | Op::CrossEntropyBackward(_)
        | Op::Reshape(_)
        | Op::Permute(_)
        | Op::Concat(_)
        | Op::Slice(_)
        | Op::SliceBackward(_)
        | Op::Pool2d(_)
        | Op::Quantize(_)
        | Op::QuantizeMx(_)
        | Op::UnscaleCheck(_)
        | Op::ClipCoef(_)
        | Op::ClipValue(_)
        | Op::UpdateLossScale(_)
        | Op::UpdateFp8Scales(_)
        | Op::Optimizer(_)
        | Op::Zero
        | Op::Record(_) => 0,
    }
}

/// Runs one instruction.
pub(super) fn run(op: &Op, operands: &Operands, pieces: &mut [&mut [u8]], work: &mut [f32]) {
    // Maps may update in place element by element; of everything else only a matmul may read what its output held.
    if let Op::Map(m) = op {
        return layer::map(m, operands, pieces, work);
    }
    let mut f = Frame::new(operands, pieces);
    match op {
        Op::Map(_) | Op::Reshape(_) => {}
        Op::Quantize(q) => update::quantize(q, f),
        Op::QuantizeMx(q) => update::quantize_mx(q, f),
        Op::UnscaleCheck(_) => update::unscale_check(f),
        Op::GradNorm(n) => update::grad_norm(n.norm, f, work),
        Op::ClipCoef(c) => update::clip_coef(c, f),
        Op::ClipValue(c) => update::clip_value(c.limit, f),
        Op::UpdateLossScale(u) => update::update_loss_scale(u, f),
        Op::UpdateFp8Scales(u) => update::update_fp8_scales(u, f),
        Op::Optimizer(o) => update::optimizer_step(o, f),
        Op::Zero => f.next().bytes.fill(0),
        Op::Record(r) => update::record(r, f),
        Op::Reduce(r) => {
            let y = f.next();
            layer::storing(y, r.round, |y| reduce::reduce(r.kind, f.x[0], &f.tx[0].shape, layer::mask(r), y, work));
        }
        Op::TensorStats(s) => update::tensor_stats(s, f, work),
        Op::MatMul(m) => layer::matmul(m, operands, f, work),
        Op::Attention(a) => {
            let (out, mut stats) = (f.next(), f.next());
            attention::attention(f.x[0], out, stats.f32s(), &layer::attention_args(a, &f.tx[0], f.x.get(1)), work);
        }
        Op::AttentionBackward(a) => {
            let args = layer::attention_args(a, &f.tx[0], f.x.get(4));
            attention_backward::attention_backward(f.x[0], f.x[1], f.x[2].f32s(), f.x[3], f.next(), &args, work);
        }
        Op::Norm(n) => {
            let (out, mut first, mut second) = (f.next(), f.next(), (n.kind == NormKind::Layer).then(|| f.next()));
            let (weight, bias) = (n.affine.then(|| f.x[1]), n.bias.then(|| f.x[2]));
            let (mean, rstd) = match &mut second {
                Some(rstd) => (first.f32s(), rstd.f32s()),
                None => (&mut [][..], first.f32s()),
            };
            norm::norm(n.kind, f.x[0], matrix(&f.tx[0].shape), weight, bias, n.eps.f32(), out, mean, rstd, work);
        }
        Op::NormBackward(n) => layer::norm_backward(n, f, work),
        Op::Softmax(s) => {
            let kernel = if s.log { softmax::log_softmax } else { softmax::softmax };
            kernel(f.x[0], matrix(&f.tx[0].shape), f.next(), work);
        }
        Op::SoftmaxBackward(s) => {
            let kernel = if s.log { softmax::log_softmax_backward } else { softmax::softmax_backward };
            kernel(f.x[1], f.x[0], matrix(&f.tx[0].shape), f.next(), work);
        }
        Op::CrossEntropy(c) => {
            let (mut loss, mut stats, mut count) = (f.next(), f.next(), f.next());
            let shape = matrix(&f.tx[0].shape);
            let per_row = &mut work[..shape[0]];
            let (mean, rows) = xent::xent(f.x[0], f.x[1], shape, c.label_smoothing.f32(), per_row, stats.f32s());
            loss.f32s()[0] = mean;
            count.f32s()[0] = rows as f32;
        }
        Op::CrossEntropyBackward(c) => {
            let count = f.x[3].f32s()[0] as u32;
            let smoothing = c.label_smoothing.f32();
            xent::xent_backward(f.x[0], f.x[1], matrix(&f.tx[0].shape), smoothing, f.x[2].f32s(), f.x[4], count, f.next());
        }
        Op::Embedding => embedding::embedding(f.x[0], f.x[1], matrix(&f.tx[0].shape), f.next()),
        Op::EmbeddingBackward(b) => {
            embedding::embedding_backward(f.x[1], f.x[0], [b.rows, f.tx[1].shape.last()], false, f.next(), work);
        }
        Op::Permute(axes) => permute::permute(f.x[0], &f.tx[0].shape, axes, f.next()),
        Op::Concat(axis) => {
            let lens: ArrayVec<usize, MAX_OPERANDS> = f.tx.iter().map(|t| t.shape[*axis]).collect();
            let (outer, inner) = layer::around(&f.tx[0], *axis);
            let y = f.next();
            concat::concat(&f.x, &lens, [outer, inner], y);
        }
        Op::Slice(s) => {
            let (outer, inner) = layer::around(&f.tx[0], s.axis);
            concat::slice(f.x[0], [outer, s.full, inner], s.start, s.end - s.start, f.next());
        }
        Op::SliceBackward(s) => {
            let (outer, inner) = layer::around(&f.tx[0], s.axis);
            concat::slice_backward(f.x[0], [outer, s.full, inner], s.start, s.end - s.start, f.next());
        }
        Op::Gather => gather::gather(f.x[0], f.x[1], matrix(&f.tx[0].shape), f.tx[1].shape.last(), f.next()),
        Op::GatherBackward(b) => {
            gather::gather_backward(f.x[1], f.x[0], [f.tx[1].shape.rows(), b.last], f.tx[1].shape.last(), f.next(), work);
        }
        Op::TopK(k) => {
            let (values, mut indices) = (f.next(), f.next());
            gather::top_k(f.x[0], matrix(&f.tx[0].shape), *k, values, indices.u32s(), work);
        }
        Op::Conv2d(c) => conv2d::conv2d(f.x[0], f.x[1], &layer::conv_shape(c), f.next(), work),
        Op::Conv2dDgrad(c) => conv2d::conv2d_dgrad(f.x[0], f.x[1], &layer::conv_shape(c), f.next(), work),
        Op::Conv2dWgrad(c) => conv2d::conv2d_wgrad(f.x[1], f.x[0], &layer::conv_shape(c), f.next(), work),
        Op::Pool2d(p) => match p.kind {
            PoolKind::Max => pool::max_pool(f.x[0], layer::image(&f.tx[0]), &layer::window(p), f.next()),
            PoolKind::Average => pool::avg_pool(f.x[0], layer::image(&f.tx[0]), &layer::window(p), true, f.next()),
        },
        Op::Pool2dBackward(p) => match p.kind {
            PoolKind::Max => pool::max_pool_backward(f.x[1], f.x[0], layer::image(&f.tx[0]), &layer::window(p), f.next(), work),
            PoolKind::Average => {
                pool::avg_pool_backward(f.x[1], layer::image(&f.ty[0]), &layer::window(p), true, f.next(), work)
            }
        },
    }
}

//! `MatMul`: the batched matmul over any float storage dtypes,
//! `y = store(epilogue(scale_a scale_b sum_k a b + bias) (+ old y))`.
//!
//! Operands are decoded while they are packed (see `pack.rs`), sums are f32 (see `gemm.rs`), and the result is rounded
//! once on store. A per-tensor scale multiplies the finished sum, as in a tensor-core GEMM; a block scale multiplies
//! its 32 elements as they are decoded. With `compute` = tf32, f32 operands are rounded to 10 mantissa bits first.

use super::epilogue::Epilogue;
use super::gemm::{Parallelism, Product, product, product_work_len, sums_in};
use super::pack::Source;
use crate::dtype::DType;
use crate::float::view::{View, ViewMut};
use crate::op::scale::BlockAxis;
use crate::par;

/// How stored values of an operand relate to true ones.
#[derive(Clone, Copy, Debug)]
pub enum Scale<'a> {
    /// As they are.
    None,
    /// One `scale_inv` for the whole tensor.
    PerTensor(f32),
    /// One E8M0 scale for 32 elements along the axis that the matmul sums over. The last block of a row or column may
    /// be short. For a batched operand the scales of matrix after matrix follow each other.
    Blocks {
        /// `[rows, ceil(columns / 32)]` for [`BlockAxis::Last`], `[ceil(rows / 32), columns]` for
        /// [`BlockAxis::SecondLast`].
        scales: View<'a>,
        /// Which way the blocks lie in the stored matrix.
        axis: BlockAxis,
    },
}

/// One operand of a matmul.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// The stored matrices, dense and row-major, any float dtype.
    pub view: View<'a>,
    /// Stored as the transpose of what the matmul reads.
    pub trans: bool,
    /// Scales of the stored values.
    pub scale: Scale<'a>,
}

/// Sizes and modes of a matmul: `y[batch, m, n] = a[batch, m, k] b[batch, k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatMulArgs {
    /// Number of matmuls.
    pub batch: usize,
    /// Rows of each result.
    pub m: usize,
    /// Columns of each result.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Elements from one matrix of A to the next; 0 shares one matrix.
    pub a_batch_stride: usize,
    /// Elements from one matrix of B to the next; 0 shares one matrix.
    pub b_batch_stride: usize,
    /// `Tf32` rounds f32 operands to 10 mantissa bits; any other dtype reads operands as stored.
    pub compute: DType,
    /// Add to the old `y` instead of replacing it: last of all.
    pub accumulate: bool,
}

/// `y[batch, m, n]` of any float dtype; `bias` is `[n]`, any float dtype. f32 accumulation.
/// `work` has [`matmul_work_len`] elements.
pub fn matmul(
    y: ViewMut<'_>,
    a: &Operand<'_>,
    b: &Operand<'_>,
    bias: Option<View<'_>>,
    epilogue: &Epilogue<'_>,
    args: &MatMulArgs,
    work: &mut [f32],
) {
    let MatMulArgs { batch, m, n, .. } = *args;
    debug_assert_eq!(y.len(), batch * m * n);
    debug_assert!(work.len() >= matmul_work_len(args, y.dtype));
    if y.is_empty() {
        return;
    }
    let (bias_row, work) = work.split_at_mut(n);
    let bias = bias.map(|bias| bias.load(0..n, bias_row));
    let plan = Batches::new(args, y.dtype);
    let matrix_bytes = m * n * y.dtype.size_bytes();
    let one = |i: usize, y: ViewMut<'_>, work: &mut [f32]| {
        let p = Product {
            a: a.source(i, args.a_batch_stride, (m, args.k), args.compute),
            b: b.source(i, args.b_batch_stride, (args.k, n), args.compute),
            m,
            n,
            k: args.k,
            alpha: a.factor() * b.factor(),
            bias,
            epilogue: epilogue.part(i * m * n..(i + 1) * m * n),
            accumulate: args.accumulate,
        };
        product(&p, y, plan.parallelism, work);
    };
    let dtype = y.dtype;
    for (g, bytes) in y.bytes.chunks_mut(plan.group * matrix_bytes).enumerate() {
        if plan.group == 1 {
            one(g, ViewMut::new(dtype, bytes), work);
        } else {
            // A work part of length 0 cannot be cut in step.
            let part = plan.part_len.max(1);
            par::chunks2((bytes, matrix_bytes), (&mut work[..plan.group * part], part), |i, bytes, work| {
                one(g * plan.group + i, ViewMut::new(dtype, bytes), work);
            });
        }
    }
}

/// f32 elements of scratch that [`matmul`] needs for an output of dtype `y`.
pub fn matmul_work_len(args: &MatMulArgs, y: DType) -> usize {
    let plan = Batches::new(args, y);
    args.n + plan.group * plan.part_len.max(1)
}

/// How a batch is cut: small matmuls run side by side, large ones one after the other on all threads.
struct Batches {
    parallelism: Parallelism,
    /// Matmuls that run side by side.
    group: usize,
    /// Scratch of one matmul.
    part_len: usize,
}

impl Batches {
    /// Multiply-adds up to which a matmul stays on one thread.
    const SMALL: usize = 1 << 22;
    /// Scratch elements of a group: 16 MiB.
    const GROUP_WORK: usize = 1 << 22;

    fn new(args: &MatMulArgs, y: DType) -> Batches {
        let MatMulArgs { batch, m, n, k, .. } = *args;
        let sums_in_y = sums_in(y, args.accumulate);
        let part_len = |parallelism| product_work_len((m, n, k), sums_in_y, parallelism);
        if batch > 1 && m * n * k <= Self::SMALL {
            let part_len = part_len(Parallelism::Seq);
            let group = (Self::GROUP_WORK / part_len.max(1)).clamp(1, batch);
            if group > 1 {
                return Batches { parallelism: Parallelism::Seq, group, part_len };
            }
        }
        Batches { parallelism: Parallelism::Par, group: 1, part_len: part_len(Parallelism::Par) }
    }
}

impl<'a> Operand<'a> {
    /// Matrix `i` of a batch, which the matmul reads as `rows x columns`.
    fn source(&self, i: usize, stride: usize, (rows, columns): (usize, usize), compute: DType) -> Source<'a> {
        let (rows, ld) = if self.trans { (columns, rows) } else { (rows, columns) };
        let view = self.view.part(i * stride..i * stride + rows * ld);
        let matrix = if stride == 0 { 0 } else { i };
        let scales = match self.scale {
            Scale::None | Scale::PerTensor(_) => None,
            Scale::Blocks { scales, axis } => {
                let [lines, width] = axis.scales_shape(rows, ld);
                Some((axis, &scales.bytes[matrix * lines * width..]))
            }
        };
        let tf32 = compute == DType::Tf32 && view.as_f32().is_some();
        Source { view, ld, trans: self.trans, tf32, scales }
    }

    /// What multiplies the sums.
    fn factor(&self) -> f32 {
        match self.scale {
            Scale::PerTensor(scale_inv) => scale_inv,
            Scale::None | Scale::Blocks { .. } => 1.0,
        }
    }
}

#[cfg(test)]
mod tests;

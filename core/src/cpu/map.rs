//! `Map`: evaluates an elementwise expression in one pass over memory.
//!
//! The output is cut into pieces (one task each) and these into blocks of `BLOCK` elements, whose intermediate rows
//! stay in the L1 cache. Every node is one tight loop over the block. f32 inputs in output order are read where they
//! lie; f32 outputs are written where they lie. All arithmetic is f32 in the order of the nodes, so the bits equal
//! those of [`eval_scalar`], of any split and of any fusion that keeps its `Round` nodes (NaN payloads excepted).
//!
//! Parts: `functions` (what each function computes), `scalar` (the interpreter), `plan` (rows and liveness), `access`
//! (broadcast reads), `block` (the loops).

mod access;
mod block;
pub mod functions;
mod plan;
mod scalar;

pub use scalar::eval_scalar;

use crate::dtype::DType;
use crate::float::view::{View, ViewMut};
use crate::op::map::{MAX_INPUTS, MAX_OUTPUTS, MapExpr};
use crate::par::{self, simd};
use arrayvec::ArrayVec;
use block::{Call, Feed, Piece, run_piece};
use plan::{Plan, Source};

/// Most axes an output may have.
pub const MAX_RANK: usize = 8;

/// Elements of a scratch row: 4 KiB, so that about ten rows share the L1 cache.
const BLOCK: usize = 1024;
/// Fewest elements worth a task of their own.
const MIN_PIECE: usize = 16 * BLOCK;
/// Most tasks a call is cut into.
const MAX_PIECES: usize = 64;

/// One operand of [`map`].
#[derive(Clone, Copy, Debug)]
pub enum MapInput<'a> {
    /// Values of any dtype, broadcast to the output.
    View {
        /// The elements.
        view: View<'a>,
        /// Element strides, one an output axis; 0 repeats the element. Ignored for `[seed, step]` inputs.
        strides: &'a [usize],
    },
    /// The old contents of this output, which has the input's shape and dtype.
    InPlace(usize),
}

/// Evaluates `expr` over an output of `shape` (at most [`MAX_RANK`] axes, row-major) and stores every output, which all
/// have that shape, rounding once under its dtype's own overflow rule. `expr` is valid for `inputs.len()` inputs and
/// `work` has at least [`map_work_len`] elements.
pub fn map(expr: &MapExpr, inputs: &[MapInput<'_>], shape: &[usize], outputs: &mut [ViewMut<'_>], work: &mut [f32]) {
    let len: usize = shape.iter().product();
    if len == 0 {
        return;
    }
    debug_assert_eq!(expr.outputs.len(), outputs.len());
    debug_assert!(outputs.iter().all(|y| y.len() == len));
    debug_assert!(work.len() >= map_work_len(expr, shape));

    let feeds: ArrayVec<Feed<'_>, MAX_INPUTS> = inputs.iter().map(|input| Feed::new(input, shape)).collect();
    let plan = Plan::new(expr, |n| feeds[usize::from(n)].source(), |i| is_f32(outputs[i].dtype));
    let call = Call { expr, plan: &plan, feeds: &feeds, row_len: len.min(BLOCK) };

    let piece_len = piece_len(len);
    let mut rest: ArrayVec<ViewMut<'_>, MAX_OUTPUTS> = outputs.iter_mut().map(ViewMut::reborrow).collect();
    let mut work = work;
    let mut pieces: ArrayVec<Piece<'_>, MAX_PIECES> = ArrayVec::new();
    for start in (0..len).step_by(piece_len) {
        let n = piece_len.min(len - start);
        let (own, others) = std::mem::take(&mut work).split_at_mut(plan.rows * call.row_len);
        work = others;
        pieces.push(Piece { start, len: n, outputs: rest.iter_mut().map(|y| cut(y, n)).collect(), work: own });
    }
    par::chunks(&mut pieces, 1, |_, piece| {
        // The hint matters: a closure that is only called would be compiled for the baseline.
        simd::vectorize(
            #[inline(always)]
            || run_piece(&call, &mut piece[0]),
        );
    });
}

/// Elements of f32 scratch that [`map`] needs, whatever the inputs' strides and the dtypes.
pub fn map_work_len(expr: &MapExpr, shape: &[usize]) -> usize {
    let len: usize = shape.iter().product();
    if len == 0 {
        return 0;
    }
    let plan = Plan::new(expr, |_| Source::Scalar, |_| false);
    plan.rows * len.min(BLOCK) * len.div_ceil(piece_len(len))
}

/// Elements of one task: depends on the size only.
fn piece_len(len: usize) -> usize {
    len.div_ceil(MAX_PIECES).next_multiple_of(BLOCK).max(MIN_PIECE)
}

/// The storage is plain f32: decoding and encoding copy.
const fn is_f32(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::Tf32)
}

/// Takes the first `n` elements off `rest`.
fn cut<'a>(rest: &mut ViewMut<'a>, n: usize) -> ViewMut<'a> {
    let (first, others) = std::mem::take(&mut rest.bytes).split_at_mut(n * rest.dtype.size_bytes());
    rest.bytes = others;
    ViewMut::new(rest.dtype, first)
}

#[cfg(test)]
mod tests;

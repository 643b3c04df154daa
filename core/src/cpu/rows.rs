//! How row kernels split `[N, C]`, write rows of any dtype and add up what their tasks summed.

use crate::float::view::ViewMut;
use crate::par::{self, simd};
use std::ops::Range;

/// Elements that one task of a row kernel should have at least: enough to pay for handing it over.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Most tasks that one call splits its rows into: bounds the scratch that each task takes from `work`.
const MAX_TASKS: usize = 64;

/// Rows per task for `[n, c]`: depends on the shape only.
pub(crate) fn per_task(n: usize, c: usize) -> usize {
    (TASK_ELEMENTS / c.max(1)).max(n.div_ceil(MAX_TASKS)).max(1)
}

/// Number of tasks for `[n, c]`.
pub(crate) fn tasks(n: usize, c: usize) -> usize {
    n.div_ceil(per_task(n, c))
}

/// Lets `f` fill the elements `range` of `y`: in place when they are f32, else in `scratch`, rounded once on the way
/// out.
#[inline]
pub(crate) fn write(y: &mut ViewMut<'_>, range: Range<usize>, scratch: &mut [f32], f: impl FnOnce(&mut [f32])) {
    match y.as_f32() {
        Some(y) => f(&mut y[range]),
        None => {
            let row = &mut scratch[..range.len()];
            f(row);
            y.store(range.start, row);
        }
    }
}

/// Columns that one task of [`combine`] adds up.
const COMBINE: usize = 256;

/// `out[j] = sum over tasks t, in order, of work[t * stride + offset + j]`, in f32, rounded once. No tasks give 0.
pub(crate) fn combine(work: &[f32], stride: usize, offset: usize, out: &mut ViewMut<'_>) {
    let dtype = out.dtype;
    par::chunks(out.bytes, COMBINE * dtype.size_bytes(), |b, out| {
        let mut out = ViewMut::new(dtype, out);
        let (mut acc, n) = ([0.0f32; COMBINE], out.len());
        let acc = &mut acc[..n];
        simd::vectorize(
            #[inline(always)]
            || {
                for part in work.chunks_exact(stride) {
                    let part = &part[offset + b * COMBINE..][..n];
                    for j in 0..n {
                        acc[j] += part[j];
                    }
                }
            },
        );
        out.store(0, acc);
    });
}

//! Concatenation and slices along one axis, as bits. A tensor is seen as `[outer, axis, inner]`.

use crate::float::view::{View, ViewMut};
use crate::par;

/// Bytes per task, about.
const TASK_BYTES: usize = 128 * 1024;

/// `y = concat(parts)` along the axis: part `p` is `[outer, lens[p], inner]`, `y` is `[outer, sum lens, inner]`; one
/// dtype.
pub fn concat(parts: &[View<'_>], lens: &[usize], [outer, inner]: [usize; 2], y: ViewMut<'_>) {
    debug_assert!(parts.iter().all(|p| p.dtype == y.dtype) && parts.len() == lens.len());
    debug_assert!(parts.iter().zip(lens).all(|(p, len)| p.len() == outer * len * inner));
    let run = inner * y.dtype.size_bytes();
    each_row(y.bytes, lens.iter().sum::<usize>() * run, |row, mut y| {
        for (part, len) in parts.iter().zip(lens) {
            let (piece, rest) = y.split_at_mut(len * run);
            piece.copy_from_slice(&part.bytes[row * len * run..(row + 1) * len * run]);
            y = rest;
        }
    });
}

/// `y = x[:, start..start + len, :]`; `x: [outer, axis, inner]`, `y: [outer, len, inner]`.
pub fn slice(x: View<'_>, [outer, axis, inner]: [usize; 3], start: usize, len: usize, y: ViewMut<'_>) {
    debug_assert!(start + len <= axis && x.len() == outer * axis * inner && y.len() == outer * len * inner);
    let run = inner * y.dtype.size_bytes();
    each_row(y.bytes, len * run, |row, y| {
        let from = (row * axis + start) * run;
        y.copy_from_slice(&x.bytes[from..from + len * run]);
    });
}

/// `dx[:, start..start + len, :] = dy`, zero elsewhere; `dy: [outer, len, inner]`, `dx: [outer, axis, inner]`.
pub fn slice_backward(dy: View<'_>, [outer, axis, inner]: [usize; 3], start: usize, len: usize, dx: ViewMut<'_>) {
    debug_assert!(start + len <= axis && dx.len() == outer * axis * inner && dy.len() == outer * len * inner);
    let run = inner * dx.dtype.size_bytes();
    each_row(dx.bytes, axis * run, |row, dx| {
        let (before, dx) = dx.split_at_mut(start * run);
        let (middle, after) = dx.split_at_mut(len * run);
        before.fill(0);
        middle.copy_from_slice(&dy.bytes[row * len * run..(row + 1) * len * run]);
        after.fill(0);
    });
}

/// Calls `f(i, row_i)` for each `row_bytes`-long row of `y`.
fn each_row(y: &mut [u8], row_bytes: usize, f: impl Fn(usize, &mut [u8]) + Sync + Send) {
    if y.is_empty() {
        return;
    }
    let rows = (TASK_BYTES / row_bytes).max(1);
    par::chunks(y, rows * row_bytes, |i, y| {
        for (r, y) in y.chunks_exact_mut(row_bytes).enumerate() {
            f(i * rows + r, y);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{FLOATS, Stored, normal};

    #[test]
    fn slices_undo_concat_and_their_gradients_add_up_to_it() {
        for dtype in FLOATS {
            for [outer, inner] in [[1, 1], [3, 7], [257, 65], [0, 4]] {
                let lens = [3, 0, 1, 65];
                let axis: usize = lens.iter().sum();
                let parts: Vec<Stored> =
                    lens.iter().zip(1..).map(|(len, seed)| Stored::of(dtype, &normal(outer * len * inner, seed))).collect();
                let mut y = Stored::dirty(dtype, outer * axis * inner);
                concat(&parts.iter().map(Stored::view).collect::<Vec<_>>(), &lens, [outer, inner], y.view_mut());
                let (mut start, mut sum) = (0, vec![0.0; outer * axis * inner]);
                for (part, len) in parts.iter().zip(lens) {
                    let mut back = Stored::dirty(dtype, outer * len * inner);
                    slice(y.view(), [outer, axis, inner], start, len, back.view_mut());
                    assert_eq!(back.values(), part.values());
                    let mut dx = Stored::dirty(dtype, outer * axis * inner);
                    slice_backward(part.view(), [outer, axis, inner], start, len, dx.view_mut());
                    sum.iter_mut().zip(dx.values()).for_each(|(sum, dx)| *sum += dx);
                    start += len;
                }
                assert_eq!(sum, y.values(), "{dtype} {outer} {inner}");
            }
        }
    }
}

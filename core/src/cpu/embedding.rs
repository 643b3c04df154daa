//! Embedding: rows of a table by id, and the scatter-add of their gradients. Also `index_select` over the first axis.
//!
//! Ids are u32 (an i32 view works too: negative ids are out of range). An id outside the table gives a row of NaN and
//! is skipped by the backward. The backward splits the table, not the batch: each task owns a range of rows and walks
//! all ids in order, so every row of `dtable` is the sum over its positions in ascending order, whatever the machine.
//! Accumulation is f32, with one rounding on store.

use super::rows;
use crate::float::view::{View, ViewMut};
use crate::par::{self, simd};

/// Elements that are converted at a time when table and output differ in dtype.
const BLOCK: usize = 512;

/// `y[i] = table[ids[i]]`. `table: [v, c]`, `ids: [n]`, `y: [n, c]`; equal dtypes are copied bit for bit.
pub fn embedding(table: View<'_>, ids: View<'_>, [v, c]: [usize; 2], y: ViewMut<'_>) {
    let ids = ids.u32s();
    debug_assert!(table.len() == v * c && y.len() == ids.len() * c);
    if y.is_empty() {
        return;
    }
    let (task, dtype, size) = (rows::per_task(ids.len(), c), y.dtype, y.dtype.size_bytes());
    par::chunks(y.bytes, task * c * size, |i, y| {
        let mut y = ViewMut::new(dtype, y);
        let mut block = [0.0f32; BLOCK];
        for r in 0..y.len() / c {
            let id = ids[i * task + r] as usize;
            if id < v && table.dtype == dtype {
                y.part(r * c..(r + 1) * c).bytes.copy_from_slice(table.part(id * c..(id + 1) * c).bytes);
                continue;
            }
            for from in (0..c).step_by(BLOCK) {
                let to = (from + BLOCK).min(c);
                if id < v {
                    y.store(r * c + from, table.load(id * c + from..id * c + to, &mut block));
                } else {
                    y.store(r * c + from, &[f32::NAN; BLOCK][..to - from]);
                }
            }
        }
    });
}

/// Scratch that [`embedding_backward`] takes, in f32 elements: a table of f32 sums where `dtable` is narrower.
pub fn embedding_backward_work_len(dtable: crate::DType, v: usize, c: usize) -> usize {
    if dtable.size_bytes() == 4 { 0 } else { v * c }
}

/// `dtable[ids[i]] += dy[i]`, onto zeros or, with `accumulate`, onto what `dtable` holds. `dy: [n, c]`,
/// `dtable: [v, c]`.
pub fn embedding_backward(
    dy: View<'_>,
    ids: View<'_>,
    [v, c]: [usize; 2],
    accumulate: bool,
    mut dtable: ViewMut<'_>,
    work: &mut [f32],
) {
    let ids = ids.u32s();
    debug_assert!(dtable.len() == v * c && dy.len() == ids.len() * c);
    if v * c == 0 {
        return;
    }
    let task = rows::per_task(v, c).min(v.div_ceil(MIN_TASKS));
    let dtype = dtable.dtype;
    let sum = |i: usize, dtable: &mut [f32]| add_rows(dy, ids, i * task, c, dtable);
    match dtable.as_f32() {
        Some(dtable) => par::chunks(dtable, task * c, |i, dtable| {
            if !accumulate {
                dtable.fill(0.0);
            }
            sum(i, dtable);
        }),
        None => {
            let work = (&mut work[..v * c], task * c);
            par::chunks2((dtable.bytes, task * c * dtype.size_bytes()), work, |i, out, sums| {
                let mut out = ViewMut::new(dtype, out);
                if accumulate {
                    out.as_view().decode_into(sums);
                } else {
                    sums.fill(0.0);
                }
                sum(i, sums);
                out.store(0, sums);
            });
        }
    }
}

/// Tasks that even a small table is split into: a batch is usually larger than the vocabulary of a character model.
const MIN_TASKS: usize = 16;

/// Adds the rows of `dy` whose id lies in the table rows `first..first + dtable.len() / c`.
fn add_rows(dy: View<'_>, ids: &[u32], first: usize, c: usize, dtable: &mut [f32]) {
    let (mut block, count) = ([0.0f32; BLOCK], dtable.len() / c);
    for (i, &id) in ids.iter().enumerate() {
        let row = (id as usize).wrapping_sub(first);
        if row >= count {
            continue;
        }
        let sums = &mut dtable[row * c..(row + 1) * c];
        for (b, sums) in sums.chunks_mut(BLOCK).enumerate() {
            let at = i * c + b * BLOCK;
            let dy = dy.load(at..at + sums.len(), &mut block);
            simd::vectorize(
                #[inline(always)]
                || {
                    for (sum, &dy) in sums.iter_mut().zip(dy) {
                        *sum += dy;
                    }
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{FLOATS, SIZES, Stored, assert_close, normal};
    use crate::dtype::DType;

    fn ids(n: usize, v: usize) -> Vec<u32> {
        (0..n).map(|i| if i % 9 == 5 { [v as u32, u32::MAX][i % 2] } else { (i * i * 31 % v) as u32 }).collect()
    }

    fn words(x: &[u32]) -> View<'_> {
        View::new(DType::U32, bytemuck::cast_slice(x))
    }

    #[test]
    fn rows_are_looked_up_for_every_pair_of_dtypes() {
        for from in FLOATS {
            for to in FLOATS {
                for c in SIZES.into_iter().chain([1300]) {
                    let (n, v) = (40, 11);
                    let table = Stored::of(from, &normal(v * c, 1));
                    let mut y = Stored::dirty(to, n * c);
                    embedding(table.view(), words(&ids(n, v)), [v, c], y.view_mut());
                    let (table, y) = (table.exact(), y.values());
                    for (i, &id) in ids(n, v).iter().enumerate() {
                        let y = &y[i * c..(i + 1) * c];
                        match table.get(id as usize * c..(id as usize + 1) * c) {
                            Some(row) => assert_close(to, y, row, 0.0, "y"),
                            None => assert!(y.iter().all(|y| y.is_nan())),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn gradients_of_equal_ids_add_up() {
        for dtype in FLOATS {
            for accumulate in [false, true] {
                for [n, v, c] in [[1, 1, 1], [40, 11, 7], [300, 257, 65], [2048, 65, 600]] {
                    let dy = Stored::of(DType::Bf16, &normal(n * c, 2));
                    let before = Stored::of(dtype, &normal(v * c, 3));
                    let mut dtable = Stored::of(dtype, &before.values());
                    let mut work = vec![f32::NAN; embedding_backward_work_len(dtype, v, c)];
                    embedding_backward(dy.view(), words(&ids(n, v)), [v, c], accumulate, dtable.view_mut(), &mut work);
                    let mut want = if accumulate { before.exact() } else { vec![0.0; v * c] };
                    for (dy, &id) in dy.exact().chunks(c).zip(&ids(n, v)).filter(|(_, id)| (**id as usize) < v) {
                        want[id as usize * c..][..c].iter_mut().zip(dy).for_each(|(w, dy)| *w += dy);
                    }
                    assert_close(dtype, &dtable.values(), &want, 1e-5, "dtable");
                }
            }
        }
    }
}

//! Gather along the last axis with its scatter-add, top-k and argmax. (`index_select` over rows is `embedding`.)
//!
//! Order of top-k and argmax: larger first, equal values (and -0 with +0) by lower index, NaN after everything else. So
//! NaN is chosen only where nothing else is left; PyTorch puts it first. An index outside the row gathers NaN and
//! scatters nothing.

use super::{lanes, rows};
use crate::float::view::{View, ViewMut};
use crate::par::{self, simd};

/// Scratch of [`gather_backward`] and [`top_k`] for rows of `c` elements, in f32 elements.
pub fn gather_work_len(n: usize, c: usize) -> usize {
    rows::tasks(n, c) * c
}

/// `y[i, j] = x[i, ids[i, j]]`. `x: [n, c]`, `ids: [n, k]` u32, `y: [n, k]`, the last two cut by rows.
pub fn gather(x: View<'_>, ids: View<'_>, [n, c]: [usize; 2], k: usize, y: ViewMut<'_>) {
    let ids = ids.u32s();
    debug_assert!(x.len() == n * c && ids.len() == n * k && y.len() == n * k);
    let (task, dtype) = (rows::per_task(n, k), y.dtype);
    if y.is_empty() {
        return;
    }
    par::chunks(y.bytes, task * k * dtype.size_bytes(), |i, y| {
        let mut y = ViewMut::new(dtype, y);
        for j in 0..y.len() {
            let at = i * task * k + j;
            let id = ids[at] as usize;
            let value = if id < c { element(x, at / k * c + id) } else { f32::NAN };
            y.store(j, &[value]);
        }
    });
}

/// `dx[i, ids[i, j]] += dy[i, j]` onto zeros, in order of `j`. `dy, ids: [n, k]`, `dx: [n, c]`; sums in f32.
pub fn gather_backward(dy: View<'_>, ids: View<'_>, [n, c]: [usize; 2], k: usize, dx: ViewMut<'_>, work: &mut [f32]) {
    let ids = ids.u32s();
    debug_assert!(dx.len() == n * c && ids.len() == n * k && dy.len() == n * k);
    if dx.is_empty() {
        return;
    }
    let (task, dtype) = (rows::per_task(n, c), dx.dtype);
    let work = (&mut work[..gather_work_len(n, c)], c);
    par::chunks2((dx.bytes, task * c * dtype.size_bytes()), work, |i, dx, scratch| {
        let mut dx = ViewMut::new(dtype, dx);
        for r in 0..dx.len() / c {
            rows::write(&mut dx, r * c..(r + 1) * c, scratch, |dx| {
                dx.fill(0.0);
                for at in (i * task + r) * k..(i * task + r + 1) * k {
                    if let Some(dx) = dx.get_mut(ids[at] as usize) {
                        *dx += element(dy, at);
                    }
                }
            });
        }
    });
}

/// The `k` largest of each row, in order. `x: [n, c]`, `values: [n, k]` of any float dtype, `indices: [n, k]`;
/// `k <= c`.
pub fn top_k(x: View<'_>, [n, c]: [usize; 2], k: usize, values: ViewMut<'_>, indices: &mut [u32], work: &mut [f32]) {
    debug_assert!(k <= c && x.len() == n * c && values.len() == n * k && indices.len() == n * k);
    if n * k == 0 {
        return;
    }
    let (task, dtype) = (rows::per_task(n, c), values.dtype);
    let values = (values.bytes, task * k * dtype.size_bytes());
    let work = (&mut work[..gather_work_len(n, c)], c);
    par::chunks3(values, (indices, task * k), work, |i, values, indices, scratch| {
        let mut values = ViewMut::new(dtype, values);
        for (r, indices) in indices.chunks_exact_mut(k).enumerate() {
            let at = (i * task + r) * c;
            let x = x.load(at..at + c, scratch);
            select(x, indices);
            for (j, &id) in indices.iter().enumerate() {
                values.store(r * k + j, &[x[id as usize]]);
            }
        }
    });
}

/// Index of the first largest element of each row. `x: [n, c]` with `c > 0`, `indices: [n]`.
pub fn argmax(x: View<'_>, [n, c]: [usize; 2], indices: &mut [u32]) {
    debug_assert!(x.len() == n * c && indices.len() == n && c > 0);
    const BLOCK: usize = 1024;
    let task = rows::per_task(n, c);
    par::chunks(indices, task, |i, indices| {
        let mut block = [0.0f32; BLOCK];
        for (r, index) in indices.iter_mut().enumerate() {
            let row = x.part((i * task + r) * c..(i * task + r + 1) * c);
            // Found is false until the row shows something that is not NaN: -inf may be the maximum.
            let (mut best, mut at, mut found) = (f32::NEG_INFINITY, 0, false);
            for from in (0..c).step_by(BLOCK) {
                let x = row.load(from..(from + BLOCK).min(c), &mut block);
                let m = simd::vectorize(
                    #[inline(always)]
                    || lanes::max_skip_nan(x),
                );
                if (m > best || !found)
                    && let Some(j) = x.iter().position(|&x| x == m)
                {
                    (best, at, found) = (m, from + j, true);
                }
            }
            *index = at as u32;
        }
    });
}

/// A key whose ascending order is: larger value first, then lower index; NaN last.
#[inline(always)]
fn rank(x: &[f32], i: u32) -> (u32, u32) {
    // Adding 0 turns -0 into +0. The sign trick makes the bits of floats ascend with their values.
    let bits = (x[i as usize] + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (if x[i as usize].is_nan() { u32::MAX } else { !ascending }, i)
}

/// Fills `best` with the indices of the first `best.len()` elements in rank order: a heap with the last ranked on top.
fn select(x: &[f32], best: &mut [u32]) {
    let k = best.len();
    best.iter_mut().zip(0..).for_each(|(b, i)| *b = i);
    for root in (0..k / 2).rev() {
        sink(x, best, root);
    }
    simd::vectorize(
        #[inline(always)]
        || {
            let mut worst = rank(x, best[0]);
            for (b, block) in x[k..].chunks(lanes::LANES).enumerate() {
                // Later elements win only by a larger value, or against a NaN: most blocks are dismissed by their
                // maximum.
                let least = x[best[0] as usize];
                if lanes::max_skip_nan(block) <= least {
                    continue;
                }
                for i in (k + b * lanes::LANES) as u32..(k + b * lanes::LANES + block.len()) as u32 {
                    if rank(x, i) < worst {
                        best[0] = i;
                        sink(x, best, 0);
                        worst = rank(x, best[0]);
                    }
                }
            }
        },
    );
    for end in (1..k).rev() {
        best.swap(0, end);
        sink(x, &mut best[..end], 0);
    }
}

/// Restores the heap below `root`.
fn sink(x: &[f32], heap: &mut [u32], mut root: usize) {
    loop {
        let mut child = 2 * root + 1;
        if child >= heap.len() {
            return;
        }
        if child + 1 < heap.len() && rank(x, heap[child + 1]) > rank(x, heap[child]) {
            child += 1;
        }
        if rank(x, heap[root]) >= rank(x, heap[child]) {
            return;
        }
        heap.swap(root, child);
        root = child;
    }
}

/// One element as f32.
fn element(x: View<'_>, i: usize) -> f32 {
    let mut one = [0.0f32];
    x.load(i..i + 1, &mut one)[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{FLOATS, SIZES, Stored, assert_close, normal};
    use crate::dtype::DType;

    fn words(x: &[u32]) -> View<'_> {
        View::new(DType::U32, bytemuck::cast_slice(x))
    }

    #[test]
    fn gather_and_its_gradient() {
        for dtype in FLOATS {
            for c in SIZES {
                let (n, k) = (9, 5);
                let ids: Vec<u32> =
                    (0..n * k).map(|i| if i % 11 == 3 { c as u32 + i as u32 } else { (i * i % c) as u32 }).collect();
                let (x, dy) = (Stored::of(dtype, &normal(n * c, 1)), Stored::of(DType::F16, &normal(n * k, 2)));
                let (mut y, mut dx) = (Stored::dirty(dtype, n * k), Stored::dirty(dtype, n * c));
                gather(x.view(), words(&ids), [n, c], k, y.view_mut());
                gather_backward(dy.view(), words(&ids), [n, c], k, dx.view_mut(), &mut vec![f32::NAN; gather_work_len(n, c)]);
                let (x, y, mut want) = (x.values(), y.values(), vec![0.0; n * c]);
                for (at, &id) in ids.iter().enumerate() {
                    if (id as usize) < c {
                        assert_eq!(y[at], x[at / k * c + id as usize]);
                        want[at / k * c + id as usize] += dy.exact()[at];
                    } else {
                        assert!(y[at].is_nan());
                    }
                }
                assert_close(dtype, &dx.values(), &want, 1e-6, "dx");
            }
        }
    }

    #[test]
    fn top_k_is_a_stable_sort_and_argmax_its_head() {
        for dtype in FLOATS {
            for c in SIZES.into_iter().chain([2100]) {
                let n = 7;
                let mut x = normal(n * c, 3);
                for (i, x) in x.iter_mut().enumerate() {
                    match i * 7 % 23 {
                        0 => *x = f32::NAN,
                        1 => *x = -f32::INFINITY,
                        2 => *x = 0.0,
                        3 => *x = -0.0,
                        _ => {}
                    }
                }
                x[..c].fill(f32::NAN);
                x[c..2 * c].fill(f32::NEG_INFINITY);
                x[c] = f32::NAN;
                let x = Stored::of(dtype, &x);
                let exact = x.values();
                for k in [1, 2, c / 2, c].into_iter().filter(|&k| 0 < k && k <= c) {
                    let (mut values, mut indices) = (Stored::dirty(dtype, n * k), vec![7; n * k]);
                    top_k(x.view(), [n, c], k, values.view_mut(), &mut indices, &mut vec![f32::NAN; gather_work_len(n, c)]);
                    let mut heads = vec![7; n];
                    argmax(x.view(), [n, c], &mut heads);
                    for (r, x) in exact.chunks(c).enumerate() {
                        let mut order: Vec<u32> = (0..c as u32).collect();
                        order.sort_by(|&a, &b| {
                            let (a, b) = (x[a as usize], x[b as usize]);
                            a.is_nan().cmp(&b.is_nan()).then(b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal))
                        });
                        assert_eq!(indices[r * k..(r + 1) * k], order[..k], "{dtype} row {r} of {c}");
                        assert_eq!(heads[r], order[0], "{dtype} row {r} of {c}");
                        for (v, &i) in values.values()[r * k..].iter().zip(&order[..k]) {
                            assert_eq!(v.to_bits(), x[i as usize].to_bits());
                        }
                    }
                }
            }
        }
    }
}

//! Strided copies: permutation of axes and broadcast, as bits. Nothing is decoded, so NaN payloads survive.
//!
//! The destination is contiguous; every source axis has a stride in elements, 0 for a broadcast axis. Axes that walk
//! the source like one axis merge first. Then the innermost axis is a run (stride 1: copied), a repeat (stride 0:
//! filled) or strided; in the last case the axis with stride 1, if any, is paired with it and copied in square tiles,
//! so that both sides touch whole cache lines.

use crate::float::view::{View, ViewMut};
use crate::par::{self, simd};
use arrayvec::ArrayVec;

/// Most axes that a copy may have.
pub const MAX_RANK: usize = 8;

/// Tile of a transposition, in elements: rows of `y` by columns. Wide, so that each row of `y` gets whole lines in one
/// go.
const TILE: usize = 32;
const TILE_COLUMNS: usize = 128;

/// Elements per task, about.
const TASK: usize = 32 * 1024;

/// `y[i_perm[0], i_perm[1], ..] = x[i_0, i_1, ..]`: axis `a` of `y` is axis `perm[a]` of `x`, which has `shape`.
pub fn permute(x: View<'_>, shape: &[usize], perm: &[usize], y: ViewMut<'_>) {
    let mut strides: ArrayVec<usize, MAX_RANK> = shape.iter().map(|_| 1).collect();
    for a in (0..shape.len().saturating_sub(1)).rev() {
        strides[a] = strides[a + 1] * shape[a + 1];
    }
    let lens: ArrayVec<usize, MAX_RANK> = perm.iter().map(|&a| shape[a]).collect();
    let strides: ArrayVec<usize, MAX_RANK> = perm.iter().map(|&a| strides[a]).collect();
    strided_copy(x, 0, &lens, &strides, y);
}

/// `y[i] = x[offset + sum i_a * strides[a]]` over all points `i` of `shape`; `y` is contiguous and of the same dtype as
/// `x`.
pub fn strided_copy(x: View<'_>, offset: usize, shape: &[usize], strides: &[usize], y: ViewMut<'_>) {
    debug_assert_eq!(x.dtype.size_bytes(), y.dtype.size_bytes());
    debug_assert_eq!(y.len(), shape.iter().product::<usize>());
    if y.is_empty() {
        return;
    }
    let axes = merge(shape, strides);
    match x.dtype.size_bytes() {
        1 => copy(&x.bytes[offset..], &axes, y.bytes),
        2 => copy::<u16>(&bytemuck::cast_slice(x.bytes)[offset..], &axes, bytemuck::cast_slice_mut(y.bytes)),
        _ => copy::<u32>(&bytemuck::cast_slice(x.bytes)[offset..], &axes, bytemuck::cast_slice_mut(y.bytes)),
    }
}

/// One axis of a copy.
#[derive(Clone, Copy)]
struct Axis {
    len: usize,
    stride: usize,
}

type Axes = ArrayVec<Axis, MAX_RANK>;

fn merge(shape: &[usize], strides: &[usize]) -> Axes {
    let mut axes = Axes::new();
    for (&len, &stride) in shape.iter().zip(strides).filter(|(len, _)| **len != 1) {
        match axes.last_mut() {
            Some(last) if last.stride == stride * len => *last = Axis { len: last.len * len, stride },
            Some(_) | None => axes.push(Axis { len, stride }),
        }
    }
    if axes.is_empty() {
        axes.push(Axis { len: 1, stride: 1 });
    }
    axes
}

fn offset(axes: &[Axis], mut i: usize) -> usize {
    let mut at = 0;
    for axis in axes.iter().rev() {
        at += i % axis.len * axis.stride;
        i /= axis.len;
    }
    at
}

fn volume(axes: &[Axis]) -> usize {
    axes.iter().map(|axis| axis.len).product()
}

fn copy<T: Copy + Send + Sync>(x: &[T], axes: &[Axis], y: &mut [T]) {
    let (last, outer) = axes.split_last().expect("merge leaves an axis");
    let unit = outer.iter().rposition(|axis| axis.stride == 1);
    match unit {
        Some(unit) if last.stride > 1 => transpose(x, axes, unit, y),
        Some(_) | None => rows(x, outer, *last, y),
    }
}

/// The innermost axis is a run, a repeat, or strided without a partner.
fn rows<T: Copy + Send + Sync>(x: &[T], outer: &[Axis], last: Axis, y: &mut [T]) {
    // Long rows are cut as well: a task is any piece of `y`.
    par::chunks(y, TASK, |i, y| {
        let mut done = 0;
        while done < y.len() {
            let at = i * TASK + done;
            let (row, column) = (at / last.len, at % last.len);
            let n = (last.len - column).min(y.len() - done);
            let (y, from) = (&mut y[done..done + n], offset(outer, row) + column * last.stride);
            match last.stride {
                0 => y.fill(x[from]),
                1 => y.copy_from_slice(&x[from..from + n]),
                stride => y.iter_mut().zip(x[from..].iter().step_by(stride)).for_each(|(y, &x)| *y = x),
            }
            done += n;
        }
    });
}

/// Axis `unit` (stride 1) against the last axis, in tiles. The axes before `unit` are outer, those between are middle
/// ones.
fn transpose<T: Copy + Send + Sync>(x: &[T], axes: &[Axis], unit: usize, y: &mut [T]) {
    let (outer, rest) = axes.split_at(unit);
    let (a, rest) = (rest[0], &rest[1..]);
    let (last, middle) = rest.split_last().expect("the last axis comes after `unit`");
    let pitch = volume(middle) * last.len;
    // A band is a piece of axis `a` with all that lies inside it, so it is contiguous in `y`. Bands must have one
    // length to be cut apart: where `a` is not a multiple of the tile and there are outer axes, a band is all of `a`.
    let band = if a.len.is_multiple_of(TILE) || outer.is_empty() { TILE.min(a.len) } else { a.len };
    let bands = a.len.div_ceil(band);
    let per_task = (TASK / (band * pitch)).max(1);
    par::chunks(y, per_task * band * pitch, |t, y| {
        for (b, y) in y.chunks_mut(band * pitch).enumerate() {
            let i = t * per_task + b;
            let (from_outer, from_a) = (offset(outer, i / bands), i % bands * band);
            let count = y.len() / pitch;
            for m in 0..volume(middle) {
                let from = from_outer + from_a + offset(middle, m);
                for a in (0..count).step_by(TILE) {
                    for l in (0..last.len).step_by(TILE_COLUMNS) {
                        let (na, nl) = (TILE.min(count - a), TILE_COLUMNS.min(last.len - l));
                        let x = &x[from + a + l * last.stride..];
                        let y = &mut y[a * pitch + m * last.len + l..];
                        simd::vectorize(
                            #[inline(always)]
                            || tile(x, last.stride, y, pitch, [na, nl]),
                        );
                    }
                }
            }
        }
    });
}

/// `y[a * pitch + l] = x[l * stride + a]` for `a < na`, `l < nl`.
#[inline(always)]
fn tile<T: Copy>(x: &[T], stride: usize, y: &mut [T], pitch: usize, [na, nl]: [usize; 2]) {
    const SIDE: usize = 8;
    let (whole_a, whole_l) = (na / SIDE * SIDE, nl / SIDE * SIDE);
    for a in (0..whole_a).step_by(SIDE) {
        for l in (0..whole_l).step_by(SIDE) {
            let rows: [&[T; SIDE]; SIDE] =
                std::array::from_fn(|k| x[(l + k) * stride + a..].first_chunk().expect("the tile lies in x"));
            for j in 0..SIDE {
                let y: &mut [T; SIDE] = y[(a + j) * pitch + l..].first_chunk_mut().expect("the tile lies in y");
                *y = std::array::from_fn(|k| rows[k][j]);
            }
        }
    }
    for a in 0..na {
        let from = if a < whole_a { whole_l } else { 0 };
        for l in from..nl {
            y[a * pitch + l] = x[l * stride + a];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    /// Distinct bit patterns, NaN codes among them.
    fn bits(dtype: DType, n: usize) -> Vec<u32> {
        (0..(n * dtype.size_bytes()).div_ceil(4)).map(|i| (i as u32).wrapping_mul(0x9E37_79B9) ^ 0x7FC0_FFFF).collect()
    }

    fn check(dtype: DType, source_len: usize, offset: usize, shape: &[usize], strides: &[usize]) {
        let size = dtype.size_bytes();
        let words = bits(dtype, source_len);
        let x = &bytemuck::cast_slice::<u32, u8>(&words)[..source_len * size];
        let n: usize = shape.iter().product();
        let mut words = vec![0u32; (n * size).div_ceil(4)];
        let y = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut words)[..n * size];
        strided_copy(View::new(dtype, x), offset, shape, strides, ViewMut::new(dtype, y));
        for i in 0..n {
            let (mut rest, mut at) = (i, offset);
            for (&len, &stride) in shape.iter().zip(strides).rev() {
                at += rest % len * stride;
                rest /= len;
            }
            assert_eq!(y[i * size..(i + 1) * size], x[at * size..(at + 1) * size], "{dtype} {shape:?} {strides:?} [{i}]");
        }
    }

    const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::E4m3];

    #[test]
    fn every_permutation_of_four_axes() {
        let shape = [3usize, 33, 5, 40];
        for code in 0..256usize {
            let perm = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
            if (0..4).any(|a| !perm.contains(&a)) {
                continue;
            }
            for dtype in DTYPES {
                let n = shape.iter().product();
                let strides = [33 * 5 * 40, 5 * 40, 40, 1];
                check(dtype, n, 0, &perm.map(|a| shape[a]), &perm.map(|a| strides[a]));
            }
            let words = bits(DType::U32, shape.iter().product());
            let x = View::new(DType::U32, bytemuck::cast_slice(&words));
            let (mut y, mut back) = (vec![0u32; words.len()], vec![0u32; words.len()]);
            permute(x, &shape, &perm, ViewMut::new(DType::U32, bytemuck::cast_slice_mut(&mut y)));
            let inverse = [0, 1, 2, 3].map(|a| perm.iter().position(|&p| p == a).expect("a permutation"));
            let y = View::new(DType::U32, bytemuck::cast_slice(&y));
            permute(y, &perm.map(|a| shape[a]), &inverse, ViewMut::new(DType::U32, bytemuck::cast_slice_mut(&mut back)));
            assert_eq!(back, words);
        }
    }

    #[test]
    fn transposes_of_awkward_and_large_sizes() {
        for dtype in DTYPES {
            for [r, c] in [[1, 1], [1, 7], [3, 65], [65, 257], [64, 64], [300, 513], [2, 40_000], [40_000, 2]] {
                check(dtype, r * c, 0, &[c, r], &[1, c]);
            }
            check(dtype, 6 * 64 * 257, 0, &[6, 257, 64], &[64 * 257, 1, 257]);
            check(dtype, 6 * 64 * 257, 0, &[6, 64, 257], &[64 * 257, 1, 64]);
            check(dtype, 6 * 64 * 96, 0, &[96, 6, 64], &[1, 64 * 96, 96]);
        }
    }

    #[test]
    fn broadcasts_and_windows() {
        for dtype in DTYPES {
            check(dtype, 7, 0, &[5, 7], &[0, 1]);
            check(dtype, 5, 0, &[5, 7], &[1, 0]);
            check(dtype, 1, 0, &[50_000], &[0]);
            check(dtype, 35, 0, &[5, 3, 7, 4], &[7, 0, 1, 0]);
            check(dtype, 100, 11, &[4, 6], &[20, 3]);
            check(dtype, 100, 3, &[], &[]);
            check(dtype, 9, 0, &[3, 0, 4], &[3, 1, 0]);
            check(dtype, 70_000, 1, &[34_000], &[2]);
        }
    }
}

//! Reading a matrix operand of any storage dtype as f32: rows of the left one, column panels of the right one.
//!
//! A low-precision matrix exists in f32 only as packed panels and small blocks: decoding happens where packing would
//! copy anyway, so it costs no extra pass over memory. Invariant: packing changes layout, dtype, block scales and (for
//! tf32) the mantissa width; it never changes the order of a sum.

use super::micro::{Left, NR, Right};
use crate::dtype::DType;
use crate::float;
use crate::float::view::View;
use crate::op::scale::{BlockAxis, MX_BLOCK};
use crate::par::simd;

/// Columns one packing task handles: four panels.
pub(super) const GROUP: usize = 4 * NR;
/// Longest stretch of `k` between two visits to a C tile.
pub(super) const KC: usize = 384;
/// Stored rows that are transposed together.
const LINES: usize = 16;
/// Rows of A that are decoded at a time.
pub(super) const MC: usize = 64;

/// A matrix as it is stored: `rows x ld` elements of any float dtype, read as its transpose when `trans`.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) view: View<'a>,
    /// Elements of a stored row.
    pub(super) ld: usize,
    pub(super) trans: bool,
    /// Round the decoded values to 10 mantissa bits.
    pub(super) tf32: bool,
    /// E8M0 scales of the stored matrix, laid out as [`BlockAxis::scales_shape`] says.
    pub(super) scales: Option<(BlockAxis, &'a [u8])>,
}

impl<'a> Source<'a> {
    /// A source of plain f32 values.
    pub(super) fn of(x: &'a [f32], ld: usize, trans: bool) -> Source<'a> {
        Source { view: View::of(x), ld, trans, tf32: false, scales: None }
    }

    /// Rows `i..` and columns `kk..` of the operand where they lie, if nothing has to be decoded.
    pub(super) fn in_place(&self, i: usize, kk: usize) -> Option<Left<'a>> {
        if self.trans || self.tf32 || self.scales.is_some() {
            return None;
        }
        let x = self.view.as_f32()?;
        Some(Left { x: &x[i * self.ld + kk..], ld: self.ld, trans: false })
    }

    /// Rows `i..i + m` and columns `kk..kk + k` of the operand, decoded into `block` (`m <= MC`, `MC * k` fits).
    pub(super) fn left<'b>(&self, (i, m): (usize, usize), (kk, k): (usize, usize), block: &'b mut [f32]) -> Left<'b> {
        let (ld, trans) = (if self.trans { MC } else { block.len() / MC }, self.trans);
        let (row0, rows, column0, columns) = if trans { (kk, k, i, m) } else { (i, m, kk, k) };
        for r in 0..rows {
            self.row(row0 + r, column0, &mut block[r * ld..][..columns]);
        }
        Left { x: block, ld, trans }
    }

    /// Stored elements `column..` of stored row `row`, as f32.
    fn row(&self, row: usize, column: usize, y: &mut [f32]) {
        let start = row * self.ld + column;
        self.view.part(start..start + y.len()).decode_into(y);
        match self.scales {
            None => {}
            Some((BlockAxis::Last, scales)) => {
                let scales = &scales[row * self.ld.div_ceil(MX_BLOCK)..];
                let (mut y, mut column) = (&mut *y, column);
                while !y.is_empty() {
                    let (head, tail) = y.split_at_mut(y.len().min(MX_BLOCK - column % MX_BLOCK));
                    let scale = float::e8m0::decode(scales[column / MX_BLOCK]);
                    head.iter_mut().for_each(|y| *y *= scale);
                    (column, y) = (column + head.len(), tail);
                }
            }
            Some((BlockAxis::SecondLast, scales)) => {
                let scales = &scales[row / MX_BLOCK * self.ld + column..];
                for (y, &scale) in y.iter_mut().zip(scales) {
                    *y *= float::e8m0::decode(scale);
                }
            }
        }
        if self.tf32 {
            float::slices::round(DType::Tf32, y);
        }
    }
}

/// Elements of the packed form of `k x n`, cut into steps of `kc`.
pub(super) fn packed_len(k: usize, n: usize, kc: usize) -> usize {
    steps(k, kc) * kc * n.next_multiple_of(GROUP)
}

/// Steps of `kc` that cover `k`; one for an empty sum.
pub(super) fn steps(k: usize, kc: usize) -> usize {
    k.div_ceil(kc).max(1)
}

/// Packs chunk number `chunk` (`kc * GROUP` elements) of the columns `j0..j0 + n` and rows `k0..k0 + k` of `b`. Chunks
/// run over the steps of `k` first; inside one lie its panels, each `[kc, NR]`. Columns past `n` are zero.
pub(super) fn pack(b: &Source<'_>, (k0, k): (usize, usize), (j0, n): (usize, usize), kc: usize, chunk: usize, y: &mut [f32]) {
    let steps = steps(k, kc);
    let (group, step) = (chunk / steps, chunk % steps);
    let (first, rows) = (k0 + step * kc, kc.min(k - step * kc));
    let columns = GROUP.min(n - group * GROUP);
    let column0 = j0 + group * GROUP;
    if columns < GROUP {
        y.fill(0.0);
    }
    if b.trans {
        let mut lines = [[0.0; KC]; LINES];
        for j in (0..columns).step_by(LINES) {
            let width = LINES.min(columns - j);
            for (i, line) in lines[..width].iter_mut().enumerate() {
                b.row(column0 + j + i, first, &mut line[..rows]);
            }
            let y = &mut y[j / NR * kc * NR + j % NR..];
            simd::vectorize(
                #[inline(always)]
                || transpose(&lines, width, rows, y),
            );
        }
    } else {
        let mut line = [0.0; GROUP];
        for kk in 0..rows {
            b.row(first + kk, column0, &mut line[..columns]);
            for (p, x) in line[..columns].chunks(NR).enumerate() {
                y[(p * kc + kk) * NR..][..x.len()].copy_from_slice(x);
            }
        }
    }
}

/// `y[kk * NR + j] = lines[j][kk]` for `width` lines of `rows` values.
#[inline(always)]
fn transpose(lines: &[[f32; KC]; LINES], width: usize, rows: usize, y: &mut [f32]) {
    for (kk, y) in y.chunks_mut(NR).take(rows).enumerate() {
        if let (LINES, Some(y)) = (width, y.first_chunk_mut::<LINES>()) {
            *y = std::array::from_fn(|j| lines[j][kk]);
        } else {
            y[..width].iter_mut().zip(lines).for_each(|(y, line)| *y = line[kk]);
        }
    }
}

/// Panel `jp` (columns `NR jp..`) of step `step` in the packed form of `k` rows.
pub(super) fn packed_panel(packed: &[f32], k: usize, kc: usize, step: usize, jp: usize) -> Right<'_> {
    let chunk = jp * NR / GROUP * steps(k, kc) + step;
    let start = chunk * kc * GROUP + jp * NR % GROUP * kc;
    Right { x: &packed[start..start + kc * NR], ld: NR }
}

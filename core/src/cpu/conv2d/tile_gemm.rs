//! The small matmul inside the convolutions: `C += A B` with `A` at any strides and `B` packed in panels.
//!
//! f32 throughout, one multiplication and one addition per term (no fused step: the same bits on every machine), terms
//! in ascending order. A tile of `MR` x `NR` sums stays in registers while it walks the inner dimension.

use crate::par::simd;

/// Columns of a panel: one vector of AVX-512, two of AVX2, four of SSE or NEON.
pub(super) const NR: usize = 16;

/// Rows of a register tile.
const MR: usize = 6;

/// `A` as a strided matrix whose inner dimension has two levels: element `(i, k)` is
/// `data[i * row + k / inner * outer + k % inner * col]`.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) col: usize,
    pub(super) inner: usize,
    pub(super) outer: usize,
}

/// `B` in panels of [`NR`] columns, each `[depth, NR]` with zeros beyond the last column.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    pub(super) data: &'a [f32],
    pub(super) depth: usize,
    /// Columns of `B`.
    pub(super) n: usize,
}

/// Elements that panels of a `[depth, n]` matrix take.
pub(super) fn panels_len(depth: usize, n: usize) -> usize {
    n.div_ceil(NR) * NR * depth
}

/// `c[i * pitch + j] += sum over k in 0..depth of a(i, k) * b(k0 + k, j)`, for `i` in `0..m` and all columns `j` of
/// `b`.
pub(super) fn gemm(a: Strided<'_>, m: usize, k0: usize, depth: usize, b: Panels<'_>, c: &mut [f32], pitch: usize) {
    simd::vectorize(
        #[inline(always)]
        || {
            for (p, from) in (0..b.n).step_by(NR).enumerate() {
                let panel = b.data[(p * b.depth + k0) * NR..][..depth * NR].as_chunks::<NR>().0;
                let n = NR.min(b.n - from);
                let mut i = 0;
                while i + MR <= m {
                    tile::<MR>(a, i, panel, &mut c[i * pitch + from..], pitch, n);
                    i += MR;
                }
                if i + 4 <= m {
                    tile::<4>(a, i, panel, &mut c[i * pitch + from..], pitch, n);
                    i += 4;
                }
                if i + 2 <= m {
                    tile::<2>(a, i, panel, &mut c[i * pitch + from..], pitch, n);
                    i += 2;
                }
                if i < m {
                    tile::<1>(a, i, panel, &mut c[i * pitch + from..], pitch, n);
                }
            }
        },
    );
}

#[inline(always)]
fn tile<const M: usize>(a: Strided<'_>, i: usize, panel: &[[f32; NR]], c: &mut [f32], pitch: usize, n: usize) {
    let mut acc = [[0.0f32; NR]; M];
    for r in 0..M {
        if n == NR {
            acc[r].copy_from_slice(&c[r * pitch..][..NR]);
        } else {
            acc[r][..n].copy_from_slice(&c[r * pitch..][..n]);
        }
    }
    for (g, group) in panel.chunks(a.inner).enumerate() {
        let from = i * a.row + g * a.outer;
        let rows: [&[f32]; M] = std::array::from_fn(|r| &a.data[from + r * a.row..][..(group.len() - 1) * a.col + 1]);
        for (k, b) in group.iter().enumerate() {
            for r in 0..M {
                let a = rows[r][k * a.col];
                for l in 0..NR {
                    acc[r][l] += a * b[l];
                }
            }
        }
    }
    for r in 0..M {
        if n == NR {
            c[r * pitch..][..NR].copy_from_slice(&acc[r]);
        } else {
            c[r * pitch..][..n].copy_from_slice(&acc[r][..n]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::normal;

    #[test]
    fn products_of_awkward_sizes() {
        for [m, k, n] in [[1, 1, 1], [3, 7, 5], [6, 16, 16], [13, 33, 17], [11, 2, 48]] {
            for transposed in [false, true] {
                let (a, b, c0) = (normal(m * k, 1), normal(k * n, 2), normal(m * (n + 3), 3));
                let mut packed = vec![0.0; panels_len(k, n)];
                for kk in 0..k {
                    for j in 0..n {
                        packed[(j / NR * k + kk) * NR + j % NR] = b[kk * n + j];
                    }
                }
                let (row, col) = if transposed { (1, m) } else { (k, 1) };
                let mut c = c0.clone();
                // The levels split a plain dimension here; the convolutions test them apart.
                let inner = k.div_ceil(3);
                gemm(
                    Strided { data: &a, row, col, inner, outer: inner * col },
                    m,
                    0,
                    k,
                    Panels { data: &packed, depth: k, n },
                    &mut c,
                    n + 3,
                );
                for i in 0..m {
                    for j in 0..n + 3 {
                        let at = i * (n + 3) + j;
                        let sum: f64 = (0..k)
                            .map(|kk| if j < n { f64::from(a[i * row + kk * col]) * f64::from(b[kk * n + j]) } else { 0.0 })
                            .sum();
                        assert!((f64::from(c[at]) - f64::from(c0[at]) - sum).abs() <= 1e-5, "{m} {k} {n}");
                    }
                }
            }
        }
    }
}

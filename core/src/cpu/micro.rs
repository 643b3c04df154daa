//! The register-tile matmul under every matrix kernel: `C[m, 32 p] (+)= A[m, k] B[k, 32 p]` in f32.
//!
//! Per element the sum runs over `k` in order, one fused multiply-add a term (multiply then add where the machine has
//! no FMA), so the bits depend neither on the vector width, nor on the tile an element falls in, nor on threads. The
//! tile is `MR` rows by [`NR`] columns: 8 x 2 vectors of AVX-512, 2 x 4 of AVX2, 2 x 8 of NEON or simd128: the
//! accumulators stay in registers and a step of `k` costs fewer loads than multiply-adds.
//!
//! Pseudo-code of one tile: `for kk in 0..k { for r in 0..MR { acc[r][..] += a[r, kk] * b[kk, ..] } }`
//! Source of the scheme: Van Zee and van de Geijn, "BLIS" (ACM TOMS 2015). Safe vectors come from the `pulp` crate.

use pulp::Simd;

/// Columns of a register tile, the same on every machine.
pub(super) const NR: usize = 32;

/// A left operand: element `(i, kk)` is `x[i * ld + kk]`, or `x[kk * ld + i]` when `trans`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) x: &'a [f32],
    pub(super) ld: usize,
    pub(super) trans: bool,
}

/// A right operand of [`NR`] columns: element `(kk, j)` is `x[kk * ld + j]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) x: &'a [f32],
    pub(super) ld: usize,
}

/// What happens to a finished tile: `c = alpha * acc (+ old c) (+ bias)`.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) alpha: f32,
    pub(super) add_old: bool,
    /// One value a column.
    pub(super) bias: Option<&'a [f32]>,
}

/// `c[m, n] = finish(A[m, k] B[k, n])` for one panel, `n <= NR`; `c` has rows of `ldc`. `b` must have all `NR` columns.
#[inline(always)]
pub(super) fn panel<S: Simd>(
    simd: S,
    c: &mut [f32],
    ldc: usize,
    (m, n, k): (usize, usize, usize),
    a: Left<'_>,
    b: Right<'_>,
    finish: Finish<'_>,
) {
    match S::F32_LANES {
        16 => rows::<S, 8, 2>(simd, c, ldc, (m, n, k), a, b, finish),
        8 => rows::<S, 2, 4>(simd, c, ldc, (m, n, k), a, b, finish),
        4 => rows::<S, 2, 8>(simd, c, ldc, (m, n, k), a, b, finish),
        _ => rows::<S, 1, 32>(simd, c, ldc, (m, n, k), a, b, finish),
    }
}

/// All row tiles of a panel: full ones, then halves.
#[inline(always)]
fn rows<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    c: &mut [f32],
    ldc: usize,
    (m, n, k): (usize, usize, usize),
    a: Left<'_>,
    b: Right<'_>,
    finish: Finish<'_>,
) {
    let mut i = 0;
    while i + MR <= m {
        tile::<S, MR, NV>(simd, &mut c[i * ldc..], ldc, (n, k), a.below(i), b, finish);
        i += MR;
    }
    if MR > 4 && i + 4 <= m {
        tile::<S, 4, NV>(simd, &mut c[i * ldc..], ldc, (n, k), a.below(i), b, finish);
        i += 4;
    }
    if MR > 2 && i + 2 <= m {
        tile::<S, 2, NV>(simd, &mut c[i * ldc..], ldc, (n, k), a.below(i), b, finish);
        i += 2;
    }
    if i < m {
        tile::<S, 1, NV>(simd, &mut c[i * ldc..], ldc, (n, k), a.below(i), b, finish);
    }
}

impl<'a> Left<'a> {
    /// Without its first `i` rows.
    #[inline(always)]
    fn below(self, i: usize) -> Left<'a> {
        Left { x: &self.x[if self.trans { i } else { i * self.ld }..], ..self }
    }
}

#[inline(always)]
fn tile<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    c: &mut [f32],
    ldc: usize,
    (n, k): (usize, usize),
    a: Left<'_>,
    b: Right<'_>,
    finish: Finish<'_>,
) {
    // Iterators that cannot panic: a bounds check in these loops makes the compiler keep the accumulators in memory.
    let mut acc = [[simd.splat_f32s(0.0); NV]; MR];
    let b = b.x.chunks(b.ld).map_while(|b| b.first_chunk::<NR>()).take(k);
    if a.trans {
        for (a, b) in a.x.chunks(a.ld).map_while(|a| a.first_chunk::<MR>()).zip(b) {
            acc = step(simd, acc, a, b);
        }
    } else {
        let rows: [&[f32]; MR] = std::array::from_fn(|r| &a.x[r * a.ld..][..k]);
        for (kk, b) in b.enumerate() {
            acc = step(simd, acc, &std::array::from_fn(|r| rows[r][kk]), b);
        }
    }
    let alpha = simd.splat_f32s(finish.alpha);
    for r in 0..MR {
        for v in 0..NV {
            acc[r][v] = simd.mul_f32s(alpha, acc[r][v]);
        }
        let row = &mut c[r * ldc..][..n];
        if n == NR {
            let (row, _) = S::as_mut_simd_f32s(row);
            for v in 0..NV {
                let mut y = acc[r][v];
                if finish.add_old {
                    y = simd.add_f32s(y, row[v]);
                }
                if let Some(bias) = finish.bias {
                    y = simd.add_f32s(y, S::as_simd_f32s(&bias[..NR]).0[v]);
                }
                row[v] = y;
            }
        } else {
            let mut full = [0.0; NR];
            S::as_mut_simd_f32s(&mut full).0.copy_from_slice(&acc[r]);
            for j in 0..n {
                let old = if finish.add_old { full[j] + row[j] } else { full[j] };
                row[j] = finish.bias.map_or(old, |bias| old + bias[j]);
            }
        }
    }
}

/// One step of `k`.
#[inline(always)]
fn step<S: Simd, const MR: usize, const NV: usize>(
    simd: S,
    mut acc: [[S::f32s; NV]; MR],
    a: &[f32; MR],
    b: &[f32; NR],
) -> [[S::f32s; NV]; MR] {
    let (b, _) = S::as_simd_f32s(b);
    for r in 0..MR {
        let ar = simd.splat_f32s(a[r]);
        for v in 0..NV {
            acc[r][v] = simd.mul_add_e_f32s(ar, b[v], acc[r][v]);
        }
    }
    acc
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    struct Run<'a>(&'a mut [f32], usize, usize, usize, &'a [f32], &'a [f32], bool);

    impl pulp::WithSimd for Run<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Run(c, m, n, k, a, b, trans) = self;
            let a = Left { x: a, ld: if trans { m } else { k }, trans };
            let finish = Finish { alpha: 0.5, add_old: true, bias: Some(&b[..NR]) };
            panel(simd, c, n, (m, n, k), a, Right { x: b, ld: NR }, finish);
        }
    }

    /// The definition: terms in order, fused if `fused`.
    fn reference(c: f32, a: impl Fn(usize) -> f32, b: &[f32], (j, k): (usize, usize), fused: bool) -> f32 {
        let mut acc = 0.0f32;
        for kk in 0..k {
            acc = if fused { a(kk).mul_add(b[kk * NR + j], acc) } else { a(kk) * b[kk * NR + j] + acc };
        }
        0.5 * acc + c + b[j]
    }

    #[test]
    fn every_vector_width_gives_the_bits_of_the_definition() {
        let mut rng = crate::rng::Rng::new(1, 0);
        let x: Vec<f32> = (0..64 * 64).map(|_| rng.normal()).collect();
        let (a, b) = (&x[..], &x[7..]);
        for (m, n, k) in [(1, 32, 1), (8, 32, 40), (15, 32, 33), (7, 5, 19), (31, 31, 63)] {
            for trans in [false, true] {
                let check = |c: &[f32], fused: bool| {
                    for i in 0..m {
                        for j in 0..n {
                            let at = |kk: usize| a[if trans { kk * m + i } else { i * k + kk }];
                            let want = reference(1.0, at, b, (j, k), fused);
                            assert_eq!(c[i * n + j].to_bits(), want.to_bits(), "{m} {n} {k} {trans} {fused} [{i},{j}]");
                        }
                    }
                };
                let run = |f: &dyn Fn(Run<'_>)| {
                    let mut c = vec![1.0; m * n];
                    f(Run(&mut c, m, n, k, a, b, trans));
                    c
                };
                if let Some(v3) = pulp::x86::V3::try_new() {
                    check(&run(&|r| pulp::Simd::vectorize(v3, r)), true);
                }
                if let Some(v4) = pulp::x86::V4::try_new() {
                    check(&run(&|r| pulp::Simd::vectorize(v4, r)), true);
                }
                check(&run(&|r| pulp::WithSimd::with_simd(r, pulp::Scalar)), false);
            }
        }
    }
}

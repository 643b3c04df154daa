//! LayerNorm and RmsNorm over the last axis, forward and backward.
//!
//! Layer: `y = (x - mean) * rstd * weight + bias`; rms: `y = x * rstd * weight + bias` with
//! `rstd = 1 / sqrt(mean(x^2) + eps)`. The variance is the corrected two-pass form `(sum d^2 - (sum d)^2 / C) / C` with
//! `d = x - mean`, and the mean itself is corrected by `sum d / C`, so rows with a large common offset keep their
//! accuracy (Chan, Golub, LeVeque 1983).
//!
//! A row whose sum or squares leave f32 (from about 1e19) is normalised after a factor of 2^-80, which is exact; so
//! every finite row has its norm. Rows in which an element is infinite or NaN are NaN as a whole. The factor is fixed
//! and not the row's maximum: ordinary rows then need no pass for a maximum, and keep their bits. Where all elements of
//! such a row are equal its variance is exactly 0. The parameter gradients are summed per task of rows into `work` and
//! the tasks added in order: same bits on any machine. Arithmetic and accumulation are f32; every result is rounded
//! once on store. Source: Ba et al. 2016 (arXiv 1607.06450); Zhang and Sennrich 2019 (arXiv 1910.07467).

use super::{lanes, rows};
use crate::float::view::{View, ViewMut};
use crate::op::norm::NormKind;
use crate::par::{self, simd};

/// Scratch that [`norm`] takes for `[n, c]`, in f32 elements.
pub fn norm_work_len(n: usize, c: usize) -> usize {
    rows::tasks(n, c) * 4 * c
}

/// Forward. `x, y: [n, c]`; `weight, bias: [c]` (absent: 1 and 0); `rstd: [n]`; `mean: [n]` for `Layer`, empty for
/// `Rms`.
pub fn norm(
    kind: NormKind,
    x: View<'_>,
    [n, c]: [usize; 2],
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f32,
    y: ViewMut<'_>,
    mean: &mut [f32],
    rstd: &mut [f32],
    work: &mut [f32],
) {
    debug_assert!(x.len() == n * c && y.len() == n * c && rstd.len() == n);
    if n * c == 0 {
        return;
    }
    let (task, dtype) = (rows::per_task(n, c), y.dtype);
    let y = (y.bytes, task * c * dtype.size_bytes());
    let work = (&mut work[..norm_work_len(n, c)], 4 * c);
    let run = |i: usize, y: &mut [u8], mut mean: Option<&mut [f32]>, rstd: &mut [f32], work: &mut [f32]| {
        let mut y = ViewMut::new(dtype, y);
        let (x_row, work) = work.split_at_mut(c);
        let (y_row, work) = work.split_at_mut(c);
        let (w_row, b_row) = work.split_at_mut(c);
        let weight = parameter(weight, c, 1.0, w_row);
        // x + -0 is x for every x, -0 included.
        let bias = parameter(bias, c, -0.0, b_row);
        for r in 0..rstd.len() {
            let at = (i * task + r) * c;
            let x = x.load(at..at + c, x_row);
            rows::write(&mut y, r * c..(r + 1) * c, y_row, |y| {
                let (m, s) = simd::vectorize(
                    #[inline(always)]
                    || forward_row(kind, x, weight, bias, eps, y),
                );
                rstd[r] = s;
                if let Some(mean) = &mut mean {
                    mean[r] = m;
                }
            });
        }
    };
    match kind {
        NormKind::Layer => {
            debug_assert_eq!(mean.len(), n);
            par::chunks4(y, (mean, task), (rstd, task), work, |i, y, mean, rstd, work| run(i, y, Some(mean), rstd, work));
        }
        NormKind::Rms => par::chunks3(y, (rstd, task), work, |i, y, rstd, work| run(i, y, None, rstd, work)),
    }
}

/// Scratch that [`norm_backward`] takes for `[n, c]`, in f32 elements.
pub fn norm_backward_work_len(n: usize, c: usize) -> usize {
    rows::tasks(n, c) * 6 * c
}

/// Backward. `dy, x, dx: [n, c]`, `weight, dweight, dbias: [c]`, `mean` and `rstd` as the forward left them (`mean` is
/// empty for `Rms`). With `xhat = (x - mean) * rstd` and `g = dy * weight`:
/// `dx = rstd * (g - mean(g) - xhat * mean(g * xhat))` (rms: without `mean(g)`), `dweight = sum dy * xhat`,
/// `dbias = sum dy`.
pub fn norm_backward(
    kind: NormKind,
    dy: View<'_>,
    x: View<'_>,
    [n, c]: [usize; 2],
    weight: Option<View<'_>>,
    mean: &[f32],
    rstd: &[f32],
    dx: ViewMut<'_>,
    dweight: Option<ViewMut<'_>>,
    dbias: Option<ViewMut<'_>>,
    work: &mut [f32],
) {
    debug_assert!(dy.len() == n * c && x.len() == n * c && dx.len() == n * c && rstd.len() == n);
    let (task, dtype) = (rows::per_task(n, c), dx.dtype);
    let work = &mut work[..norm_backward_work_len(n, c)];
    let sums = dweight.is_some() || dbias.is_some();
    if n * c > 0 {
        par::chunks2((dx.bytes, task * c * dtype.size_bytes()), (&mut *work, 6 * c), |i, dx, work| {
            let mut dx = ViewMut::new(dtype, dx);
            let (partial, work) = work.split_at_mut(2 * c);
            let (dw, db) = partial.split_at_mut(c);
            let (x_row, work) = work.split_at_mut(c);
            let (dy_row, work) = work.split_at_mut(c);
            let (dx_row, w_row) = work.split_at_mut(c);
            let weight = parameter(weight, c, 1.0, w_row);
            dw.fill(0.0);
            db.fill(0.0);
            for r in 0..dx.len() / c {
                let row = i * task + r;
                let range = row * c..(row + 1) * c;
                let x = if rstd[row] < LARGE { reduced(x.part(range.clone()), x_row) } else { x.load(range.clone(), x_row) };
                let dy = dy.load(range, dy_row);
                let centre = match kind {
                    NormKind::Layer => mean[row],
                    NormKind::Rms => 0.0,
                };
                // Of a large row all is taken after the factor; only `dx` knows of it again.
                let factor = if rstd[row] < LARGE { REDUCE } else { 1.0 };
                let (centre, rstd) = (centre * factor, rstd[row] / factor);
                rows::write(&mut dx, r * c..(r + 1) * c, dx_row, |dx| {
                    simd::vectorize(
                        #[inline(always)]
                        || {
                            backward_row(kind, dy, x, weight, centre, rstd, dx);
                            if sums {
                                add_partials(dy, x, centre, rstd, dw, db);
                            }
                        },
                    );
                    if factor != 1.0 {
                        dx.iter_mut().for_each(|dx| *dx *= factor);
                    }
                });
            }
        });
    }
    for (which, out) in [dweight, dbias].into_iter().enumerate() {
        if let Some(mut out) = out {
            rows::combine(work, 6 * c, which * c, &mut out);
        }
    }
}

/// A parameter row as f32: decoded once a task, or a constant where it is absent.
fn parameter<'s>(p: Option<View<'s>>, c: usize, absent: f32, row: &'s mut [f32]) -> &'s [f32] {
    match p {
        Some(p) => p.load(0..c, row),
        None => {
            row.fill(absent);
            row
        }
    }
}

/// One row; returns mean and rstd.
#[inline(always)]
fn forward_row(kind: NormKind, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) -> (f32, f32) {
    let n = x.len();
    let (centre, var) = moments(kind, x);
    if !var.is_finite() {
        return forward_large_row(kind, x, weight, bias, eps, y);
    }
    let rstd = 1.0 / (var + eps).sqrt();
    let (weight, bias, y) = (&weight[..n], &bias[..n], &mut y[..n]);
    for i in 0..n {
        y[i] = (x[i] - centre) * rstd * weight[i] + bias[i];
    }
    (centre, rstd)
}

/// Brings any finite row to where 2^31 squares cannot overflow.
const REDUCE: f32 = 1.0 / (1u128 << 80) as f32;
/// A row with a smaller rstd may have elements that differ by more than f32 holds, and the rstd may be subnormal.
const LARGE: f32 = 1.0 / (1u128 << 100) as f32;

/// [`forward_row`] of a row whose plain moments are not finite.
#[cold]
fn forward_large_row(kind: NormKind, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) -> (f32, f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = x * REDUCE);
    let (mut centre, mut var) = moments(kind, y);
    if kind == NormKind::Layer {
        // Once more about the corrected mean, which is exact where all elements are equal: their deviations are then 0,
        // not rounding.
        (centre, var) = moments_about(centre, y);
    }
    let spread = if var.is_finite() { var + eps * REDUCE * REDUCE } else { f32::NAN };
    // Here eps vanishes beside any variance but 0.
    let (scale, rstd) = if spread == 0.0 { (0.0, 1.0 / eps.sqrt()) } else { (1.0 / spread.sqrt(), REDUCE / spread.sqrt()) };
    for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
        *y = (*y - centre) * scale * weight + bias;
    }
    (centre / REDUCE, rstd)
}

/// Decodes a large row into `row`, after the factor.
#[cold]
fn reduced<'s>(x: View<'_>, row: &'s mut [f32]) -> &'s [f32] {
    x.decode_into(row);
    row.iter_mut().for_each(|x| *x *= REDUCE);
    row
}

/// Mean (0 for `Rms`) of a row and its mean square about it.
#[inline(always)]
fn moments(kind: NormKind, x: &[f32]) -> (f32, f32) {
    let inv_n = 1.0 / x.len() as f32;
    match kind {
        NormKind::Layer => {
            let rough = lanes::sum(
                x,
                #[inline(always)]
                |x| x,
            ) * inv_n;
            moments_about(rough, x)
        }
        NormKind::Rms => (
            0.0,
            lanes::sum(
                x,
                #[inline(always)]
                |x| x * x,
            ) * inv_n,
        ),
    }
}

/// Mean and variance, from deviations from a `rough` mean.
#[inline(always)]
fn moments_about(rough: f32, x: &[f32]) -> (f32, f32) {
    let inv_n = 1.0 / x.len() as f32;
    let (sum_d, sum_dd) = deviations(x, rough);
    let shift = sum_d * inv_n;
    // Rounding can leave a constant row slightly below 0; the comparison is written so that NaN stays.
    let var = sum_dd * inv_n - shift * shift;
    (rough + shift, if var < 0.0 { 0.0 } else { var })
}

/// `sum (x - m)` and `sum (x - m)^2` in one pass.
#[inline(always)]
fn deviations(x: &[f32], m: f32) -> (f32, f32) {
    const LANES: usize = lanes::LANES;
    let (mut one, mut two) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (whole, tail) = x.as_chunks::<LANES>();
    for x in whole {
        for l in 0..LANES {
            let d = x[l] - m;
            one[l] += d;
            two[l] += d * d;
        }
    }
    for (l, &x) in tail.iter().enumerate() {
        let d = x - m;
        one[l] += d;
        two[l] += d * d;
    }
    (lanes::fold_sum(one), lanes::fold_sum(two))
}

#[inline(always)]
fn backward_row(kind: NormKind, dy: &[f32], x: &[f32], weight: &[f32], centre: f32, rstd: f32, dx: &mut [f32]) {
    const LANES: usize = lanes::LANES;
    let n = x.len();
    let inv_n = 1.0 / n as f32;
    let (mut g_acc, mut gx_acc) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (dy_whole, dy_tail) = dy.as_chunks::<LANES>();
    let (x_whole, x_tail) = x.as_chunks::<LANES>();
    let (w_whole, w_tail) = weight.as_chunks::<LANES>();
    for ((dy, x), w) in dy_whole.iter().zip(x_whole).zip(w_whole) {
        for l in 0..LANES {
            let g = dy[l] * w[l];
            g_acc[l] += g;
            gx_acc[l] += g * ((x[l] - centre) * rstd);
        }
    }
    for (l, ((&dy, &x), &w)) in dy_tail.iter().zip(x_tail).zip(w_tail).enumerate() {
        let g = dy * w;
        g_acc[l] += g;
        gx_acc[l] += g * ((x - centre) * rstd);
    }
    let mean_g = match kind {
        NormKind::Layer => lanes::fold_sum(g_acc) * inv_n,
        NormKind::Rms => 0.0,
    };
    let mean_gx = lanes::fold_sum(gx_acc) * inv_n;
    let (dy, weight, dx) = (&dy[..n], &weight[..n], &mut dx[..n]);
    for i in 0..n {
        let xhat = (x[i] - centre) * rstd;
        dx[i] = (dy[i] * weight[i] - mean_g - xhat * mean_gx) * rstd;
    }
}

#[inline(always)]
fn add_partials(dy: &[f32], x: &[f32], centre: f32, rstd: f32, dw: &mut [f32], db: &mut [f32]) {
    let n = x.len();
    let (dy, dw, db) = (&dy[..n], &mut dw[..n], &mut db[..n]);
    for i in 0..n {
        dw[i] += dy[i] * ((x[i] - centre) * rstd);
        db[i] += dy[i];
    }
}

#[cfg(test)]
mod tests;

//! Softmax and log-softmax over the last axis, forward and backward.
//!
//! Rows are shifted by their maximum, so no finite row overflows. A row with NaN or +inf, or of -inf only, becomes NaN,
//! as in PyTorch. Arithmetic and accumulation are f32; every result is rounded once on store. The backward reads the
//! output `y`.

use super::{lanes, rows};
use crate::float::math;
use crate::float::view::{View, ViewMut};
use crate::par::{self, simd};

/// Scratch that every function of this file takes for `[n, c]`, in f32 elements.
pub fn softmax_work_len(n: usize, c: usize) -> usize {
    rows::tasks(n, c) * 3 * c
}

/// `y = e^(x - m) / sum e^(x - m)` with `m = max x`. `x, y: [n, c]`.
pub fn softmax(x: View<'_>, [n, c]: [usize; 2], y: ViewMut<'_>, work: &mut [f32]) {
    each_row(
        [x, x],
        [n, c],
        y,
        work,
        #[inline(always)]
        |[x, _], y| {
            let m = lanes::max_skip_nan(x);
            let scale = 1.0
                / lanes::map_sum(
                    x,
                    y,
                    #[inline(always)]
                    |x| math::exp(x - m),
                );
            for y in y.iter_mut() {
                *y *= scale;
            }
        },
    );
}

/// `dx = y * (dy - sum(dy * y))`. `dy, y, dx: [n, c]`.
pub fn softmax_backward(dy: View<'_>, y: View<'_>, [n, c]: [usize; 2], dx: ViewMut<'_>, work: &mut [f32]) {
    each_row(
        [dy, y],
        [n, c],
        dx,
        work,
        #[inline(always)]
        |[dy, y], dx| {
            let dot = lanes::sum2(
                dy,
                y,
                #[inline(always)]
                |dy, y| dy * y,
            );
            for i in 0..dx.len() {
                dx[i] = y[i] * (dy[i] - dot);
            }
        },
    );
}

/// `y = (x - m) - ln(sum e^(x - m))` with `m = max x`. `x, y: [n, c]`.
pub fn log_softmax(x: View<'_>, [n, c]: [usize; 2], y: ViewMut<'_>, work: &mut [f32]) {
    each_row(
        [x, x],
        [n, c],
        y,
        work,
        #[inline(always)]
        |[x, _], y| {
            let m = lanes::max_skip_nan(x);
            let ln_sum = math::ln(lanes::sum(
                x,
                #[inline(always)]
                |x| math::exp(x - m),
            ));
            for i in 0..y.len() {
                y[i] = (x[i] - m) - ln_sum;
            }
        },
    );
}

/// `dx = dy - e^y * sum(dy)`. `dy, y, dx: [n, c]`.
pub fn log_softmax_backward(dy: View<'_>, y: View<'_>, [n, c]: [usize; 2], dx: ViewMut<'_>, work: &mut [f32]) {
    each_row(
        [dy, y],
        [n, c],
        dx,
        work,
        #[inline(always)]
        |[dy, y], dx| {
            let sum = lanes::sum(
                dy,
                #[inline(always)]
                |dy| dy,
            );
            for i in 0..dx.len() {
                dx[i] = dy[i] - math::exp(y[i]) * sum;
            }
        },
    );
}

/// Runs `f` on every row: two inputs (decoded once where they are one), one output; all of length `c`.
#[inline(always)]
fn each_row(
    inputs: [View<'_>; 2],
    [n, c]: [usize; 2],
    out: ViewMut<'_>,
    work: &mut [f32],
    f: impl Fn([&[f32]; 2], &mut [f32]) + Sync + Send,
) {
    debug_assert!(inputs.iter().all(|x| x.len() == n * c) && out.len() == n * c);
    if n * c == 0 {
        return;
    }
    let (task, dtype) = (rows::per_task(n, c), out.dtype);
    let shared = std::ptr::eq(inputs[0].bytes, inputs[1].bytes);
    let work = (&mut work[..softmax_work_len(n, c)], 3 * c);
    par::chunks2((out.bytes, task * c * dtype.size_bytes()), work, |i, out, work| {
        let mut out = ViewMut::new(dtype, out);
        let (a_row, work) = work.split_at_mut(c);
        let (b_row, out_row) = work.split_at_mut(c);
        for r in 0..out.len() / c {
            let at = (i * task + r) * c;
            let a = inputs[0].load(at..at + c, a_row);
            let b = if shared { a } else { inputs[1].load(at..at + c, b_row) };
            rows::write(&mut out, r * c..(r + 1) * c, out_row, |out| {
                simd::vectorize(
                    #[inline(always)]
                    || {
                        let n = out.len();
                        f([&a[..n], &b[..n]], out);
                    },
                );
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{FLOATS, SIZES, Stored, assert_close, normal, numeric_gradient};
    use crate::dtype::DType;

    type Forward = fn(View<'_>, [usize; 2], ViewMut<'_>, &mut [f32]);
    type Backward = fn(View<'_>, View<'_>, [usize; 2], ViewMut<'_>, &mut [f32]);
    type Exact = fn(&[f64]) -> Vec<f64>;
    const CASES: [(&str, Forward, Backward, Exact); 2] = [
        ("softmax", softmax, softmax_backward, |x| exact_log_softmax(x).into_iter().map(f64::exp).collect()),
        ("log_softmax", log_softmax, log_softmax_backward, exact_log_softmax),
    ];

    fn exact_log_softmax(x: &[f64]) -> Vec<f64> {
        let m = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let ln_sum = x.iter().map(|x| (x - m).exp()).sum::<f64>().ln();
        x.iter().map(|x| x - m - ln_sum).collect()
    }

    fn run(forward: Forward, x: &Stored, [n, c]: [usize; 2], dtype: DType) -> Stored {
        let mut y = Stored::dirty(dtype, n * c);
        forward(x.view(), [n, c], y.view_mut(), &mut vec![f32::NAN; softmax_work_len(n, c)]);
        y
    }

    #[test]
    fn forward_is_the_closed_form_for_every_dtype() {
        for (name, forward, _, exact) in CASES {
            for dtype in FLOATS {
                for c in SIZES {
                    let n = 4;
                    let x = Stored::of(dtype, &normal(n * c, 1).iter().map(|x| 8.0 * x + 90.0).collect::<Vec<_>>());
                    let want: Vec<f64> = x.exact().chunks(c).flat_map(exact).collect();
                    assert_close(dtype, &run(forward, &x, [n, c], dtype).values(), &want, 1e-6, name);
                }
            }
        }
    }

    #[test]
    fn backward_is_the_numeric_gradient_and_the_same_for_every_dtype() {
        for (name, forward, backward, exact) in CASES {
            for c in SIZES {
                let n = 3;
                let (x, dy) = (Stored::of(DType::F32, &normal(n * c, 2)), Stored::of(DType::Bf16, &normal(n * c, 3)));
                let y = run(forward, &x, [n, c], DType::F32);
                let loss = |x: &[f64]| -> f64 { x.chunks(c).flat_map(exact).zip(dy.exact()).map(|(y, dy)| y * dy).sum() };
                let want = numeric_gradient(&x.exact(), loss);
                for dtype in FLOATS {
                    let mut dx = Stored::dirty(dtype, n * c);
                    let mut work = vec![f32::NAN; softmax_work_len(n, c)];
                    backward(dy.view(), y.view(), [n, c], dx.view_mut(), &mut work);
                    assert_close(dtype, &dx.values(), &want, 1e-5, name);
                }
            }
        }
    }

    #[test]
    fn extreme_rows_follow_the_documented_rules() {
        let inf = f32::INFINITY;
        for (name, forward, _, _) in CASES {
            let x =
                [[1.0, f32::NAN, 2.0], [inf, 0.0, 1.0], [-inf, -inf, -inf], [-inf, 3.0e38, -3.0e38], [0.0, -inf, 0.0]].concat();
            let y = run(forward, &Stored::of(DType::F32, &x), [5, 3], DType::F32).values();
            assert!(y[..9].iter().all(|y| y.is_nan()), "{name}: {y:?}");
            let like = |p: f32| if name == "softmax" { p } else { p.ln() };
            assert_eq!([y[10], y[13]], [like(1.0), like(0.0)], "{name}");
            assert!((y[12] - like(0.5)).abs() <= 1e-6 && y[12] == y[14], "{name}");
        }
    }
}

//! Sums and maxima of a row in a fixed order that the compiler can vectorize.
//!
//! Element `i` goes to accumulator `i % LANES`; the accumulators are then folded in halves. The order depends on the
//! length alone, never on the width of the vector unit, so every machine gives the same bits. Each term enters one
//! addition per `LANES` elements, so the error grows with `n / LANES + log2(LANES)`.
//!
//! All functions are meant to be called inside `simd::vectorize`; closures given to them carry `#[inline(always)]`,
//! without which the compiler may leave them outside the vector code.

/// Independent accumulators: two vectors of AVX-512, four of AVX2, eight of SSE, NEON or simd128.
pub(crate) const LANES: usize = 32;

/// `sum f(a[i])`.
#[inline(always)]
pub(crate) fn sum(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let (whole, tail) = a.as_chunks::<LANES>();
    for a in whole {
        for l in 0..LANES {
            acc[l] += f(a[l]);
        }
    }
    for (acc, &a) in acc.iter_mut().zip(tail) {
        *acc += f(a);
    }
    fold_sum(acc)
}

/// `sum f(a[i], b[i])`; both slices have the same length.
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let ((whole_a, tail_a), (whole_b, tail_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for l in 0..LANES {
            acc[l] += f(a[l], b[l]);
        }
    }
    for ((acc, &a), &b) in acc.iter_mut().zip(tail_a).zip(tail_b) {
        *acc += f(a, b);
    }
    fold_sum(acc)
}

/// Writes `y[i] = f(a[i])` and returns `sum y[i]`.
#[inline(always)]
pub(crate) fn map_sum(a: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let ((whole_a, tail_a), (whole_y, tail_y)) = (a.as_chunks::<LANES>(), y.as_chunks_mut::<LANES>());
    for (a, y) in whole_a.iter().zip(whole_y) {
        for l in 0..LANES {
            let v = f(a[l]);
            y[l] = v;
            acc[l] += v;
        }
    }
    for ((acc, &a), y) in acc.iter_mut().zip(tail_a).zip(tail_y) {
        *y = f(a);
        *acc += *y;
    }
    fold_sum(acc)
}

/// Largest element that is not NaN; -inf where there is none.
#[inline(always)]
pub(crate) fn max_skip_nan(a: &[f32]) -> f32 {
    fold_max(
        a,
        #[inline(always)]
        |m, v| if v > m { v } else { m },
    )
}

/// Largest element; NaN where any is NaN, -inf where there is none.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    fold_max(a, pick_max)
}

/// The larger of a running maximum and a value; a NaN on either side wins.
#[inline(always)]
pub(crate) fn pick_max(m: f32, v: f32) -> f32 {
    if v > m || v.is_nan() { v } else { m }
}

#[inline(always)]
fn fold_max(a: &[f32], pick: impl Fn(f32, f32) -> f32) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let (whole, tail) = a.as_chunks::<LANES>();
    for a in whole {
        for l in 0..LANES {
            acc[l] = pick(acc[l], a[l]);
        }
    }
    for (acc, &a) in acc.iter_mut().zip(tail) {
        *acc = pick(*acc, a);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            acc[l] = pick(acc[l], acc[l + half]);
        }
        half /= 2;
    }
    acc[0]
}

#[inline(always)]
pub(crate) fn fold_sum(mut acc: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            acc[l] += acc[l + half];
        }
        half /= 2;
    }
    acc[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{SIZES, normal};

    #[test]
    fn sums_and_maxima_are_those_of_f64() {
        for n in SIZES {
            let (a, b) = (normal(n, 1), normal(n, 2));
            let exact: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let scale: f64 = a.iter().zip(&b).map(|(&a, &b)| (f64::from(a) * f64::from(b)).abs()).sum();
            assert!((f64::from(sum2(&a, &b, |a, b| a * b)) - exact).abs() <= 1e-6 * scale, "{n}");
            let mut y = vec![0.0; n];
            assert_eq!(map_sum(&a, &mut y, |a| 2.0 * a), sum(&a, |a| 2.0 * a));
            assert!(a.iter().zip(&y).all(|(a, y)| 2.0 * a == *y));
            let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!((max(&a), max_skip_nan(&a)), (largest, largest));
            let mut with_nan = a.clone();
            with_nan.insert(n / 2, f32::NAN);
            assert!(max(&with_nan).is_nan());
            assert_eq!(max_skip_nan(&with_nan), largest);
        }
    }
}

//! Statistics of one tensor, of a rounded copy against its original, and of what a format would do to a tensor.
//!
//! Sums are f64 in a fixed number of accumulators over pieces of fixed length, folded in order, so the numbers do not
//! depend on the number of threads. Non-finite elements are counted and left out of every sum and extreme.

use crate::dtype::DType;
use crate::float::slices;
use crate::float::view::View;
use crate::op::tensor_stats::BUCKETS;
use crate::par::{self, simd};
use serde::{Deserialize, Serialize};

/// Independent accumulators of a sum.
const LANES: usize = 16;
/// Elements of one task.
const PIECE: usize = 1 << 15;

/// Statistics of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// Number of elements.
    pub len: u64,
    /// Largest finite magnitude.
    pub amax: f32,
    /// Smallest non-zero magnitude; 0 if there is none.
    pub min_nonzero: f32,
    /// Sum of the finite elements.
    pub sum: f64,
    /// Sum of their magnitudes.
    pub l1: f64,
    /// Sum of their squares.
    pub sum_squares: f64,
    /// Zeros.
    pub zeros: u64,
    /// Non-zero values below the smallest normal value of the tensor's dtype.
    pub subnormals: u64,
    /// NaNs.
    pub nans: u64,
    /// Infinities.
    pub infs: u64,
    /// Number of elements by f32 exponent field.
    pub exponents: Box<[u64; BUCKETS]>,
}

impl Stats {
    /// Statistics of `x`. Integers are read as numbers.
    pub fn of(x: View<'_>) -> Stats {
        Stats::of_values(x, x.dtype)
    }

    /// Statistics of `x`, which holds values of `dtype` whatever it is stored in.
    pub fn of_values(x: View<'_>, dtype: DType) -> Stats {
        let min_normal = dtype.format().map_or(0.0, |f| f.min_normal as f32);
        let mut pieces = vec![Piece::default(); x.len().div_ceil(PIECE)];
        par::chunks(&mut pieces, 1, |i, piece| {
            let range = i * PIECE..((i + 1) * PIECE).min(x.len());
            let mut scratch = vec![0.0; range.len()];
            piece[0] = Piece::of(x.load(range, &mut scratch), min_normal);
        });
        let mut s = Stats {
            len: x.len() as u64,
            amax: 0.0,
            min_nonzero: f32::INFINITY,
            sum: 0.0,
            l1: 0.0,
            sum_squares: 0.0,
            zeros: 0,
            subnormals: 0,
            nans: 0,
            infs: 0,
            exponents: Box::new([0; BUCKETS]),
        };
        for p in &pieces {
            s.amax = s.amax.max(p.amax);
            s.min_nonzero = s.min_nonzero.min(p.min_nonzero);
            s.sum += p.sum;
            s.l1 += p.l1;
            s.sum_squares += p.sum_squares;
            s.zeros += p.zeros;
            s.subnormals += p.subnormals;
            s.nans += p.nans;
            s.infs += p.infs;
            for (all, &n) in s.exponents.iter_mut().zip(&p.exponents) {
                *all += u64::from(n);
            }
        }
        if s.min_nonzero == f32::INFINITY {
            s.min_nonzero = 0.0;
        }
        s
    }

    /// NaNs and infinities.
    pub fn nonfinite(&self) -> u64 {
        self.nans + self.infs
    }

    /// Mean of the finite elements; 0 if there is none.
    pub fn mean(&self) -> f64 {
        self.sum / (self.len - self.nonfinite()).max(1) as f64
    }

    /// Root of the sum of squares.
    pub fn l2(&self) -> f64 {
        self.sum_squares.sqrt()
    }

    /// Share of zeros.
    pub fn zero_share(&self) -> f64 {
        share(self.zeros, self.len)
    }

    /// Share of the non-zero elements that are subnormal in the tensor's dtype.
    pub fn subnormal_share(&self) -> f64 {
        share(self.subnormals, self.len - self.zeros)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[derive(Clone)]
struct Piece {
    amax: f32,
    min_nonzero: f32,
    sum: f64,
    l1: f64,
    sum_squares: f64,
    zeros: u64,
    subnormals: u64,
    nans: u64,
    infs: u64,
    exponents: [u32; BUCKETS],
}

impl Default for Piece {
    fn default() -> Piece {
        Piece {
            amax: 0.0,
            min_nonzero: f32::INFINITY,
            sum: 0.0,
            l1: 0.0,
            sum_squares: 0.0,
            zeros: 0,
            subnormals: 0,
            nans: 0,
            infs: 0,
            exponents: [0; BUCKETS],
        }
    }
}

struct Sums {
    amax: [f32; LANES],
    min_nonzero: [f32; LANES],
    sum: [f64; LANES],
    l1: [f64; LANES],
    sum_squares: [f64; LANES],
    zeros: [u32; LANES],
    subnormals: [u32; LANES],
    nans: [u32; LANES],
    infs: [u32; LANES],
}

impl Sums {
    #[inline(always)]
    fn put(&mut self, lane: usize, x: f32, min_normal: f32) {
        let a = x.abs();
        let finite = a < f32::INFINITY;
        let (x, kept) = if finite { (x, a) } else { (0.0, 0.0) };
        let (wide, wide_abs) = (f64::from(x), f64::from(kept));
        self.amax[lane] = if kept > self.amax[lane] { kept } else { self.amax[lane] };
        let small = if a > 0.0 { a } else { f32::INFINITY };
        self.min_nonzero[lane] = if small < self.min_nonzero[lane] { small } else { self.min_nonzero[lane] };
        self.sum[lane] += wide;
        self.l1[lane] += wide_abs;
        self.sum_squares[lane] += wide * wide;
        self.zeros[lane] += u32::from(a == 0.0);
        self.subnormals[lane] += u32::from(a > 0.0 && a < min_normal);
        self.nans[lane] += u32::from(a.is_nan());
        self.infs[lane] += u32::from(a == f32::INFINITY);
    }
}

impl Piece {
    fn of(x: &[f32], min_normal: f32) -> Piece {
        let sums = simd::vectorize(
            #[inline(always)]
            move || {
                let mut s = Sums {
                    amax: [0.0; LANES],
                    min_nonzero: [f32::INFINITY; LANES],
                    sum: [0.0; LANES],
                    l1: [0.0; LANES],
                    sum_squares: [0.0; LANES],
                    zeros: [0; LANES],
                    subnormals: [0; LANES],
                    nans: [0; LANES],
                    infs: [0; LANES],
                };
                let (whole, tail) = x.as_chunks::<LANES>();
                for block in whole {
                    for l in 0..LANES {
                        s.put(l, block[l], min_normal);
                    }
                }
                for (l, &x) in tail.iter().enumerate() {
                    s.put(l, x, min_normal);
                }
                s
            },
        );
        let count = |lanes: [u32; LANES]| lanes.iter().map(|&n| u64::from(n)).sum();
        let mut exponents = [0u32; BUCKETS];
        for x in x {
            exponents[(x.to_bits() >> 23) as usize & (BUCKETS - 1)] += 1;
        }
        Piece {
            amax: sums.amax.into_iter().fold(0.0, f32::max),
            min_nonzero: sums.min_nonzero.into_iter().fold(f32::INFINITY, f32::min),
            sum: sums.sum.iter().sum(),
            l1: sums.l1.iter().sum(),
            sum_squares: sums.sum_squares.iter().sum(),
            zeros: count(sums.zeros),
            subnormals: count(sums.subnormals),
            nans: count(sums.nans),
            infs: count(sums.infs),
            exponents,
        }
    }
}

/// A tensor and the factor that takes its elements to the values they stand for: `scale_inv` of fp8 codes,
/// `1 / loss_scale` of scaled gradients.
#[derive(Clone, Copy, Debug)]
pub struct Scaled<'a> {
    /// Elements.
    pub view: View<'a>,
    /// Factor.
    pub factor: f32,
}

impl<'a> From<View<'a>> for Scaled<'a> {
    fn from(view: View<'a>) -> Scaled<'a> {
        Scaled { view, factor: 1.0 }
    }
}

/// A copy of a tensor against the original. Elements that are not finite on either side count as such and enter no sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Number of elements.
    pub len: u64,
    /// Sum of squares of the original.
    pub signal: f64,
    /// Sum of squares of the difference.
    pub noise: f64,
    /// Largest magnitude of the difference.
    pub max_error: f64,
    /// Largest magnitude of the original.
    pub amax: f64,
    /// Non-zero elements of the original.
    pub nonzero: u64,
    /// Of these, the ones that are zero in the copy.
    pub underflow: u64,
    /// Elements of the copy that hold the largest value of its dtype where the original is larger still.
    pub saturated: u64,
    /// Elements of the original that are not finite.
    pub nonfinite_original: u64,
    /// Elements of the copy that are not finite.
    pub nonfinite_copy: u64,
}

impl Difference {
    /// Compares two tensors of the same number of elements.
    pub fn of<'a>(original: impl Into<Scaled<'a>>, copy: impl Into<Scaled<'a>>) -> Difference {
        let (a, b) = (original.into(), copy.into());
        debug_assert_eq!(a.view.len(), b.view.len());
        let limit = b.view.dtype.max_f32() * b.factor.abs();
        let n = a.view.len().min(b.view.len());
        let mut pieces = vec![Difference::default(); n.div_ceil(PIECE)];
        par::chunks(&mut pieces, 1, |i, piece| {
            let range = i * PIECE..((i + 1) * PIECE).min(n);
            let (mut scratch_a, mut scratch_b) = (vec![0.0; range.len()], vec![0.0; range.len()]);
            let (xa, xb) = (a.view.load(range.clone(), &mut scratch_a), b.view.load(range, &mut scratch_b));
            piece[0] = difference(xa, a.factor, xb, b.factor, limit);
        });
        pieces.iter().fold(Difference::default(), |all, p| all.joined(p))
    }

    /// Both together, as if the tensors were one.
    pub fn joined(&self, other: &Difference) -> Difference {
        Difference {
            len: self.len + other.len,
            signal: self.signal + other.signal,
            noise: self.noise + other.noise,
            max_error: self.max_error.max(other.max_error),
            amax: self.amax.max(other.amax),
            nonzero: self.nonzero + other.nonzero,
            underflow: self.underflow + other.underflow,
            saturated: self.saturated + other.saturated,
            nonfinite_original: self.nonfinite_original + other.nonfinite_original,
            nonfinite_copy: self.nonfinite_copy + other.nonfinite_copy,
        }
    }

    /// Signal-to-noise ratio in dB: +inf for an exact copy, -inf for noise without signal.
    pub fn sqnr_db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }

    /// Share of non-zero elements that became zero.
    pub fn underflow_share(&self) -> f64 {
        share(self.underflow, self.nonzero)
    }

    /// Share of elements that saturated.
    pub fn saturated_share(&self) -> f64 {
        share(self.saturated, self.len)
    }

    /// Elements that are not finite in the copy alone.
    pub fn new_nonfinite(&self) -> u64 {
        self.nonfinite_copy.saturating_sub(self.nonfinite_original)
    }
}

struct Errors {
    signal: [f64; LANES],
    noise: [f64; LANES],
    max_error: [f64; LANES],
    amax: [f64; LANES],
    /// nonzero, underflow, saturated, non-finite in the original, in the copy.
    counts: [[u32; LANES]; 5],
}

impl Errors {
    #[inline(always)]
    fn put(&mut self, l: usize, a: f32, b: f32, limit: f32) {
        let (finite_a, finite_b) = (a.abs() < f32::INFINITY, b.abs() < f32::INFINITY);
        let both = finite_a && finite_b;
        let (wide, delta) = if both { (f64::from(a), f64::from(a) - f64::from(b)) } else { (0.0, 0.0) };
        self.signal[l] += wide * wide;
        self.noise[l] += delta * delta;
        let (error, magnitude) = (delta.abs(), wide.abs());
        self.max_error[l] = if error > self.max_error[l] { error } else { self.max_error[l] };
        self.amax[l] = if magnitude > self.amax[l] { magnitude } else { self.amax[l] };
        let nonzero = finite_a && a != 0.0;
        self.counts[0][l] += u32::from(nonzero);
        self.counts[1][l] += u32::from(nonzero && b == 0.0);
        self.counts[2][l] += u32::from(finite_a && b.abs() >= limit && finite_b && a.abs() > b.abs());
        self.counts[3][l] += u32::from(!finite_a);
        self.counts[4][l] += u32::from(!finite_b);
    }
}

fn difference(a: &[f32], fa: f32, b: &[f32], fb: f32, limit: f32) -> Difference {
    let e = simd::vectorize(
        #[inline(always)]
        move || {
            let zero = [0.0; LANES];
            let mut e = Errors { signal: zero, noise: zero, max_error: zero, amax: zero, counts: [[0; LANES]; 5] };
            let ((whole_a, tail_a), (whole_b, tail_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            for (a, b) in whole_a.iter().zip(whole_b) {
                for l in 0..LANES {
                    e.put(l, a[l] * fa, b[l] * fb, limit);
                }
            }
            for (l, (&a, &b)) in tail_a.iter().zip(tail_b).enumerate() {
                e.put(l, a * fa, b * fb, limit);
            }
            e
        },
    );
    let [nonzero, underflow, saturated, nonfinite_original, nonfinite_copy] =
        e.counts.map(|lanes| lanes.iter().map(|&n| u64::from(n)).sum());
    Difference {
        len: a.len() as u64,
        signal: e.signal.iter().sum(),
        noise: e.noise.iter().sum(),
        max_error: e.max_error.into_iter().fold(0.0, f64::max),
        amax: e.amax.into_iter().fold(0.0, f64::max),
        nonzero,
        underflow,
        saturated,
        nonfinite_original,
        nonfinite_copy,
    }
}

/// How a tensor is scaled before it is rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FitScale {
    /// As it is.
    One,
    /// Its largest magnitude goes to the largest value of the format: fp8 with current scaling.
    Amax,
    /// By this factor.
    By(f32),
}

/// What storing `x` in `dtype` would do to it: the difference of the rounded copy.
pub fn fit(x: View<'_>, dtype: DType, scale: FitScale) -> Difference {
    let scale = match scale {
        FitScale::One => 1.0,
        FitScale::By(scale) => scale,
        FitScale::Amax => {
            let amax = Stats::of(x).amax;
            let scale = dtype.max_f32() / amax;
            if amax > 0.0 && scale.is_finite() { scale } else { 1.0 }
        }
    };
    let mut pieces = vec![Difference::default(); x.len().div_ceil(PIECE)];
    par::chunks(&mut pieces, 1, |i, piece| {
        let range = i * PIECE..((i + 1) * PIECE).min(x.len());
        let mut scratch = vec![0.0; range.len()];
        let x = x.load(range, &mut scratch);
        let mut copy: Vec<f32> = x.iter().map(|v| v * scale).collect();
        slices::round(dtype, &mut copy);
        let inv = 1.0 / scale;
        piece[0] = difference(x, 1.0, &copy, inv, dtype.max_f32() * inv);
    });
    pieces.iter().fold(Difference::default(), |all, p| all.joined(p))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float;
    use crate::rng::Rng;

    fn values(n: usize) -> Vec<f32> {
        let mut rng = Rng::new(7, 1);
        let mut x: Vec<f32> = (0..n).map(|i| rng.normal() * 2f32.powi((i % 60) as i32 - 40)).collect();
        for (i, v) in [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40].into_iter().enumerate() {
            x[i * n / 7] = v;
        }
        x
    }

    #[test]
    fn statistics_agree_with_plain_f64() {
        for n in [7, 8, 31, 1000, PIECE + 3, 3 * PIECE] {
            let x = values(n);
            let s = Stats::of(View::of(&x));
            let finite: Vec<f64> = x.iter().filter(|v| v.is_finite()).map(|&v| f64::from(v)).collect();
            let close = |got: f64, want: f64, of: f64| (got - want).abs() <= 1e-12 * of;
            let l1: f64 = finite.iter().map(|v| v.abs()).sum();
            assert!(close(s.sum, finite.iter().sum(), l1));
            assert!(close(s.l1, l1, l1));
            let squares: f64 = finite.iter().map(|v| v * v).sum();
            assert!(close(s.sum_squares, squares, squares) && close(s.l2(), squares.sqrt(), squares.sqrt()));
            assert!(close(s.mean(), finite.iter().sum::<f64>() / finite.len() as f64, l1));
            assert_eq!(f64::from(s.amax), finite.iter().fold(0.0, |m, v| v.abs().max(m)));
            let least = finite.iter().filter(|v| **v != 0.0).fold(f64::INFINITY, |m, v| v.abs().min(m));
            assert_eq!(f64::from(s.min_nonzero), least);
            assert_eq!(s.zeros, x.iter().filter(|v| **v == 0.0).count() as u64);
            assert_eq!(s.subnormals, x.iter().filter(|v| v.is_subnormal()).count() as u64);
            assert_eq!((s.nans, s.infs, s.len), (1, 2, n as u64));
            assert_eq!(s.exponents.iter().sum::<u64>(), n as u64);
            let ones = x.iter().filter(|v| (1.0..2.0).contains(&v.abs())).count() as u64;
            assert_eq!(s.exponents[127], ones);
            assert_eq!(s.exponents[255], 3);
        }
    }

    #[test]
    fn subnormals_are_those_of_the_stored_format() {
        let x: Vec<f32> = vec![0.0, 2f32.powi(-9), 2f32.powi(-7), 2f32.powi(-6), 1.0];
        let mut codes = vec![0u8; 5];
        slices::encode(DType::E4m3, DType::E4m3.overflow(), &x, &mut codes);
        let s = Stats::of(View::new(DType::E4m3, &codes));
        assert_eq!((s.zeros, s.subnormals), (1, 2));
        assert_eq!(s.subnormal_share(), 0.5);
    }

    #[test]
    fn empty_and_blank_tensors_have_no_extremes() {
        let s = Stats::of(View::of::<f32>(&[]));
        assert_eq!((s.len, s.amax, s.min_nonzero, s.mean()), (0, 0.0, 0.0, 0.0));
        let s = Stats::of(View::of(&[0.0; 40]));
        assert_eq!((s.zeros, s.amax, s.min_nonzero, s.l2()), (40, 0.0, 0.0, 0.0));
    }

    #[test]
    fn a_fit_agrees_with_the_scalar_codec() {
        let x: Vec<f32> = values(5000).into_iter().filter(|v| v.is_finite()).collect();
        for (dtype, scale) in [(DType::F16, 1.0f32), (DType::E4m3, 16.0), (DType::E5m2, 1.0), (DType::Bf16, 1.0)] {
            let d = fit(View::of(&x), dtype, FitScale::By(scale));
            let y: Vec<f32> = x.iter().map(|v| float::round_to(dtype, v * scale) / scale).collect();
            let noise: f64 =
                x.iter().zip(&y).filter(|(_, b)| b.is_finite()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            assert!((d.noise - noise).abs() <= 1e-9 * noise, "{dtype}: {} {noise}", d.noise);
            assert_eq!(d.underflow, x.iter().zip(&y).filter(|(a, b)| **a != 0.0 && **b == 0.0).count() as u64, "{dtype}");
            let above = x.iter().zip(&y).filter(|(a, b)| b.is_finite() && (*a * scale).abs() > dtype.max_f32()).count();
            assert_eq!(d.saturated, above as u64, "{dtype}");
            assert_eq!(d.nonfinite_copy, y.iter().filter(|v| !v.is_finite()).count() as u64);
        }
    }

    #[test]
    fn sqnr_of_rounding_is_near_the_theory() {
        // Uniform values in a binade: relative noise u^2 / 3 of the squared spacing, over the mean square 7/3.
        let x: Vec<f32> = (0..40_000).map(|i| 1.0 + i as f32 / 40_000.0).collect();
        for dtype in [DType::E4m3, DType::F16] {
            let spacing = 2.0 * dtype.unit_roundoff();
            let want = 10.0 * ((7.0 / 3.0) / (spacing * spacing / 12.0)).log10();
            let got = fit(View::of(&x), dtype, FitScale::One).sqnr_db();
            assert!((got - want).abs() <= 0.2, "{dtype}: {got} dB, theory {want} dB");
        }
        assert_eq!(fit(View::of(&x), DType::F32, FitScale::One).sqnr_db(), f64::INFINITY);
    }

    #[test]
    fn scaling_by_amax_neither_saturates_nor_depends_on_size() {
        let x: Vec<f32> = (1..2000).map(|i| i as f32 * 1e-9).collect();
        let plain = fit(View::of(&x), DType::E4m3, FitScale::One);
        assert_eq!(plain.underflow_share(), 1.0);
        let scaled = fit(View::of(&x), DType::E4m3, FitScale::Amax);
        assert_eq!((scaled.underflow, scaled.saturated), (0, 0));
        assert!(scaled.sqnr_db() > 25.0);
        assert_eq!(fit(View::of(&[0.0; 5]), DType::E4m3, FitScale::Amax).noise, 0.0);
    }

    #[test]
    fn non_finite_elements_are_counted_and_left_out() {
        let a = [1.0, f32::NAN, 3.0, f32::INFINITY, 0.0];
        let b = [1.5, 2.0, f32::INFINITY, f32::INFINITY, 0.0];
        let d = Difference::of(View::of(&a), View::of(&b));
        assert_eq!((d.nonfinite_original, d.nonfinite_copy, d.new_nonfinite()), (2, 2, 0));
        assert_eq!((d.signal, d.noise, d.max_error, d.nonzero, d.underflow), (1.0, 0.25, 0.5, 2, 0));
    }

    #[test]
    fn factors_are_applied_to_both_sides() {
        let (a, b) = ([2.0f32, 4.0], [8.0f32, 0.0]);
        let d = Difference::of(Scaled { view: View::of(&a), factor: 0.5 }, Scaled { view: View::of(&b), factor: 0.125 });
        assert_eq!((d.signal, d.noise, d.underflow), (5.0, 4.0, 1));
    }
}

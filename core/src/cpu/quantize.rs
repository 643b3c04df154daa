//! Per-tensor fp8 quantization: `q = satRNE(x * scale)`, the amax of `x` and the multiplier that undoes the scale.
//!
//! One pass does everything (delayed scaling, where the scale is known before); current scaling runs [`amax`] and
//! [`current_scale`] first. All arithmetic is one f32 product or quotient, rounded once, plus integer work on bits.
//! Invariants: amax is the largest `|x|` as IEEE bits with NaN left out (so a NaN never shows in it, but an infinity
//! does); NaN elements get the NaN code; infinities saturate; `scale_inv = RN(1 / scale)` belongs to the scale actually
//! used. Maximum and counts are integer reductions, so no order of evaluation changes them.
//!
//! Subnormals: for a scale above 2^126 `scale_inv` is an f32 subnormal, here and in the reference. A backend that
//! flushes subnormals, or whose division is not correctly rounded (WGSL allows 2.5 ulp), needs an integer quotient for
//! it.
//!
//! Sources: Transformer Engine `recipe_common.cuh`, `current_scaling.cu`, `cast` kernels; docs/precision.md 1.1 and 4.

use super::bits::{ABS_MASK, INF_BITS, is_positive, ordered_bits};
use super::chunks::{BLOCK, CHUNK, Count, blocks, for_each_chunk};
use super::fp8_scale::scale_from_amax;
use crate::dtype::{DType, Overflow};
use crate::float::view::{View, ViewMut};
use crate::float::{e4m3, e5m2};
use crate::op::quantize::STATS;
use crate::par::{self, simd};
use std::sync::atomic::{AtomicU32, Ordering};

/// What quantizing did to the elements of a tensor. The three counts are independent: an infinity is counted as
/// saturated and as non-finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantizeStats {
    /// Non-zero elements that became zero.
    pub underflow: u32,
    /// Elements with `|x * scale|` above the largest value of the format before clamping, infinities included.
    pub saturated: u32,
    /// Elements that are infinite or NaN before scaling.
    pub nonfinite: u32,
}

impl QuantizeStats {
    /// Adds the counts of another part of the same tensor.
    pub fn merge(&mut self, other: QuantizeStats) {
        self.underflow += other.underflow;
        self.saturated += other.saturated;
        self.nonfinite += other.nonfinite;
    }
}

/// Quantizes `x` (any float dtype, any shape) into `q` (E4M3 or E5M2, same length): `q = satRNE(RN(x * scale))`.
///
/// `scale_inv` receives `RN(1 / scale)`. `amax`, where given, is raised to the largest `|x|` (never lowered; an
/// infinity is merged too, the update of the scales decides what becomes of it). `stats`, where given, is overwritten;
/// counting costs about a quarter of the speed.
pub fn quantize(
    x: View<'_>,
    scale: f32,
    q: ViewMut<'_>,
    scale_inv: &mut f32,
    amax: Option<&mut f32>,
    stats: Option<&mut QuantizeStats>,
) {
    debug_assert!(q.dtype.is_fp8() && x.len() == q.len());
    *scale_inv = 1.0 / scale;
    let seen = Seen::default();
    let dtype = q.dtype;
    let counting = stats.is_some();
    par::chunks(q.bytes, CHUNK, |i, q| {
        let x = x.part(i * CHUNK..i * CHUNK + q.len());
        match (dtype == DType::E4m3, counting) {
            (true, false) => piece::<false>(x, scale, q, &seen, dtype, encode_e4m3),
            (true, true) => piece::<true>(x, scale, q, &seen, dtype, encode_e4m3),
            (false, false) => piece::<false>(x, scale, q, &seen, dtype, encode_e5m2),
            (false, true) => piece::<true>(x, scale, q, &seen, dtype, encode_e5m2),
        }
    });
    if let Some(amax) = amax {
        *amax = f32::from_bits(amax.to_bits().max(seen.amax.load(Ordering::Relaxed)));
    }
    if let Some(stats) = stats {
        *stats = seen.stats();
    }
}

/// The scale that a tensor was quantized with, and its amax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaleUsed {
    /// The factor before rounding.
    pub scale: f32,
    /// The largest magnitude, NaN left out.
    pub amax: f32,
}

/// One tensor's column of the amax histories [len, tensors]. Row 0 is the staging row.
#[derive(Debug)]
pub struct HistoryColumn<'a> {
    history: &'a mut [f32],
    tensors: usize,
    slot: usize,
}

impl<'a> HistoryColumn<'a> {
    /// Column `slot` of `history`, which has one column for each of `tensors`.
    pub fn new(history: &'a mut [f32], tensors: usize, slot: usize) -> HistoryColumn<'a> {
        debug_assert!(slot < tensors && history.len().is_multiple_of(tensors));
        HistoryColumn { history, tensors, slot }
    }

    /// Whether the tensor has no amax yet.
    fn is_fresh(&self) -> bool {
        self.history[self.slot..].iter().step_by(self.tensors).all(|&amax| amax == 0.0)
    }

    /// Raises the staged amax of this micro-step. Compared as bits, so that infinity is kept.
    fn stage(&mut self, amax: f32) {
        let staged = &mut self.history[self.slot];
        *staged = f32::from_bits(staged.to_bits().max(amax.to_bits()));
    }
}

/// [`quantize`] by delayed scaling: with `stored`, the scale that past amaxes gave.
///
/// Training gives the tensor's `history`, which takes the present amax. With `warm_up` a tensor without any amax is
/// scaled by its present one instead. Without a history nothing is recorded, and the amax returned is 0.
pub fn quantize_delayed(
    x: View<'_>,
    stored: f32,
    warm_up: bool,
    history: Option<HistoryColumn<'_>>,
    q: ViewMut<'_>,
    scale_inv: &mut f32,
    stats: Option<&mut QuantizeStats>,
) -> ScaleUsed {
    let Some(mut history) = history else {
        quantize(x, stored, q, scale_inv, None, None);
        return ScaleUsed { scale: stored, amax: 0.0 };
    };
    let fresh = warm_up && history.is_fresh();
    let scale = if fresh { current_scale(amax(x), q.dtype, 0.0, false, 0) } else { stored };
    let mut amax = 0.0;
    quantize(x, scale, q, scale_inv, Some(&mut amax), stats);
    history.stage(amax);
    ScaleUsed { scale, amax }
}

/// [`quantize`] by current scaling, see [`current_scale`].
pub fn quantize_current(
    x: View<'_>,
    epsilon: f32,
    pow2: bool,
    q: ViewMut<'_>,
    scale_inv: &mut f32,
    stats: Option<&mut QuantizeStats>,
) -> ScaleUsed {
    let amax = amax(x);
    let scale = current_scale(amax, q.dtype, epsilon, pow2, 0);
    quantize(x, scale, q, scale_inv, None, stats);
    ScaleUsed { scale, amax }
}

/// Writes row `slot` of the statistics [tensors, STATS] of a tensor of `n` elements; counts become fractions of them.
pub fn stats_row(rows: &mut [f32], slot: usize, used: ScaleUsed, s: QuantizeStats, n: usize) {
    let fraction = |count: u32| count as f32 / n.max(1) as f32;
    let row = [used.amax, used.scale, fraction(s.underflow), fraction(s.saturated), s.nonfinite as f32];
    rows[slot * STATS..(slot + 1) * STATS].copy_from_slice(&row);
}

/// Largest `|x|` of a tensor of any float dtype, NaN left out; 0 for an empty tensor or one of NaN only.
pub fn amax(x: View<'_>) -> f32 {
    let seen = AtomicU32::new(0);
    for_each_chunk(x, &|x: View<'_>| {
        let mut scratch = [0.0; BLOCK];
        let mut top = 0;
        for range in blocks(x.len()) {
            let x = x.load(range, &mut scratch);
            top = top.max(simd::vectorize(
                #[inline(always)]
                || amax_bits(x),
            ));
        }
        seen.fetch_max(top, Ordering::Relaxed);
    });
    f32::from_bits(seen.into_inner())
}

/// The scale of current scaling: `(fp8_max * 2^-margin) / max(amax, epsilon)`, at most `f32::MAX`, and at least the
/// smallest normal f32 (reached only with a margin). 1.0 where amax is zero, infinite or NaN. `pow2` clears the
/// mantissa: the power of two below, so that nothing saturates that did not before.
pub fn current_scale(amax: f32, dtype: DType, epsilon: f32, pow2: bool, margin: i32) -> f32 {
    let amax = if amax < epsilon { epsilon } else { amax };
    if !is_positive(amax) {
        return 1.0;
    }
    let scale = scale_from_amax(amax, dtype.max_f32(), margin);
    if pow2 { f32::from_bits(scale.to_bits() & INF_BITS) } else { scale }
}

/// Bits of the largest magnitude in `x`, NaN left out. A first look takes NaN for large, which is plain integer code at
/// the speed of memory; only if it finds one does a second look leave it out (testing each element at once: 21 GB/s,
/// not 47).
#[inline(always)]
pub(super) fn amax_bits(x: &[f32]) -> u32 {
    let top = x.iter().fold(0, |top: u32, v| top.max(v.to_bits() & ABS_MASK));
    if top <= INF_BITS {
        return top;
    }
    x.iter().fold(0, |top, &v| top.max(ordered_bits(v)))
}

#[inline(always)]
pub(super) fn encode_e4m3(x: f32) -> u8 {
    e4m3::encode(Overflow::Saturate, x)
}

#[inline(always)]
pub(super) fn encode_e5m2(x: f32) -> u8 {
    e5m2::encode(Overflow::Saturate, x)
}

/// What the pieces of one tensor report.
#[derive(Default)]
pub(super) struct Seen {
    amax: AtomicU32,
    underflow: Count,
    saturated: Count,
    nonfinite: Count,
}

impl Seen {
    /// Adds the counts of a piece.
    pub(super) fn add(&self, s: QuantizeStats) {
        self.underflow.add(s.underflow);
        self.saturated.add(s.saturated);
        self.nonfinite.add(s.nonfinite);
    }

    /// The totals.
    pub(super) fn stats(&self) -> QuantizeStats {
        QuantizeStats { underflow: self.underflow.get(), saturated: self.saturated.get(), nonfinite: self.nonfinite.get() }
    }
}

/// Counts one element: `x` was multiplied to `y` and encoded to `code`; `max` is the bits of the format's largest
/// value.
#[inline(always)]
pub(super) fn count(s: &mut QuantizeStats, x: f32, y: f32, code: u8, max: u32) {
    let (x, y) = (x.to_bits() & ABS_MASK, y.to_bits() & ABS_MASK);
    s.underflow += u32::from(x != 0 && code & 0x7F == 0);
    s.saturated += u32::from(y > max && y <= INF_BITS);
    s.nonfinite += u32::from(x >= INF_BITS);
}

fn piece<const COUNT: bool>(
    x: View<'_>,
    scale: f32,
    q: &mut [u8],
    seen: &Seen,
    dtype: DType,
    encode: impl Fn(f32) -> u8 + Copy,
) {
    let mut scratch = [0.0; BLOCK];
    let max = dtype.max_f32().to_bits();
    let (mut top, mut total) = (0, QuantizeStats::default());
    for range in blocks(x.len()) {
        let q = &mut q[range.clone()];
        let x = x.load(range, &mut scratch);
        let (t, s) = simd::vectorize(
            #[inline(always)]
            || {
                let (mut top, mut s) = (0, QuantizeStats::default());
                for (q, &x) in q.iter_mut().zip(x) {
                    let y = x * scale;
                    *q = encode(y);
                    top = ordered_bits(x).max(top);
                    if COUNT {
                        count(&mut s, x, y, *q, max);
                    }
                }
                (top, s)
            },
        );
        top = top.max(t);
        total.merge(s);
    }
    seen.amax.fetch_max(top, Ordering::Relaxed);
    if COUNT {
        seen.add(total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float;
    use crate::rng::Rng;

    fn run(x: View<'_>, scale: f32, dtype: DType) -> (Vec<u8>, f32, f32, QuantizeStats) {
        let mut q = vec![0u8; x.len()];
        let (mut inv, mut amax, mut stats) = (0.0, 0.0, QuantizeStats::default());
        quantize(x, scale, ViewMut::new(dtype, &mut q), &mut inv, Some(&mut amax), Some(&mut stats));
        let mut again = vec![0u8; x.len()];
        quantize(x, scale, ViewMut::new(dtype, &mut again), &mut inv, None, None);
        assert_eq!(q, again, "counting must not change a code");
        (q, inv, amax, stats)
    }

    /// Normal values over many binades, with specials sprinkled in.
    fn sample(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, 0);
        let special =
            [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 464.0, 465.0, 61440.0, 1e-45, 2f32.powi(-10)];
        (0..n)
            .map(|i| match i % 17 {
                5 => special[(i / 17) % special.len()],
                _ => rng.normal() * 2f32.powi(rng.below(40) as i32 - 24),
            })
            .collect()
    }

    #[test]
    fn golden_delayed_quantize() {
        // docs/precision.md 4.3.
        let (q, inv, amax, stats) = run(View::of(&[1.0, 2.0, 2.5, -0.3, 1e-5, 3.0]), 224.0, DType::E4m3);
        assert_eq!(q, [0x76, 0x7E, 0x7E, 0xE8, 0x01, 0x7E]);
        assert_eq!(inv, (1.0f64 / 224.0) as f32);
        assert_eq!(amax, 3.0);
        assert_eq!(stats, QuantizeStats { underflow: 0, saturated: 2, nonfinite: 0 });
    }

    #[test]
    fn equals_the_scalar_codec_for_every_storage_dtype_and_size() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
            for n in [1, 3, 7, 65, 257, 1025, 2 * CHUNK + 19] {
                let mut bytes = vec![0u8; n * dtype.size_bytes()];
                float::slices::encode(dtype, dtype.overflow(), &sample(n, n as u64), &mut bytes);
                let x = View::new(dtype, &bytes);
                let mut wide = vec![0.0; n];
                x.decode_into(&mut wide);
                for (to, scale) in [(DType::E4m3, 1.0), (DType::E4m3, 37.3), (DType::E5m2, 0.01), (DType::E5m2, 3e38)] {
                    let (q, _, amax, stats) = run(x, scale, to);
                    let (mut top, mut expect) = (0.0f32, QuantizeStats::default());
                    for (&v, &q) in wide.iter().zip(&q) {
                        let code = float::encode(to, Overflow::Saturate, v * scale) as u8;
                        assert_eq!(q, code, "{dtype} {v:e}");
                        top = if v.abs() > top { v.abs() } else { top };
                        expect.underflow += u32::from(v != 0.0 && float::decode(to, u32::from(code)) == 0.0);
                        expect.saturated += u32::from((v * scale).abs() > to.max_f32());
                        expect.nonfinite += u32::from(!v.is_finite());
                    }
                    assert_eq!(amax.to_bits(), top.to_bits());
                    assert_eq!(super::amax(x).to_bits(), top.to_bits());
                    assert_eq!(stats, expect, "{dtype} {n}");
                }
            }
        }
    }

    #[test]
    fn amax_is_merged_and_blind_to_nan_only() {
        let mut slot = 5.0;
        let mut inv = 0.0;
        let mut q = [0u8; 2];
        quantize(View::of(&[f32::NAN, -3.0]), 1.0, ViewMut::new(DType::E4m3, &mut q), &mut inv, Some(&mut slot), None);
        assert_eq!((slot, q), (5.0, [0x7F, 0xC4]));
        quantize(View::of(&[f32::NEG_INFINITY, 1.0]), 1.0, ViewMut::new(DType::E4m3, &mut q), &mut inv, Some(&mut slot), None);
        assert_eq!((slot, q), (f32::INFINITY, [0xFE, 0x38]));
        assert_eq!(amax(View::of::<f32>(&[])), 0.0);
        assert_eq!(amax(View::of(&[f32::NAN])), 0.0);
    }

    #[test]
    fn golden_current_scale() {
        // docs/precision.md 4.4.
        let hex = |amax, dtype, pow2| current_scale(amax, dtype, 0.0, pow2, 0).to_bits();
        let rows = [
            (3.0, 0x4315_5555, 0x4300_0000),
            (0.1, 0x458C_0000, 0x4580_0000),
            (500.0, 0x3F65_6042, 0x3F00_0000),
            (1e-37, 0x7F7F_FFFF, 0x7F00_0000),
            (0.0, 0x3F80_0000, 0x3F80_0000),
            (f32::INFINITY, 0x3F80_0000, 0x3F80_0000),
            (f32::NAN, 0x3F80_0000, 0x3F80_0000),
        ];
        for (amax, exact, pow2) in rows {
            assert_eq!(hex(amax, DType::E4m3, false), exact, "{amax}");
            assert_eq!(hex(amax, DType::E4m3, true), pow2, "{amax}");
        }
        assert_eq!(hex(3.0, DType::E5m2, false), 0x4695_5555);
        assert_eq!(current_scale(3.0, DType::E4m3, 0.0, false, 1), 448.0 / 6.0);
        assert_eq!(current_scale(1e-9, DType::E4m3, 0.5, false, 0), 896.0);
        assert_eq!(current_scale(0.0, DType::E4m3, 0.5, false, 0), 896.0);
        assert_eq!(current_scale(f32::MAX, DType::E4m3, 0.0, true, 40), f32::MIN_POSITIVE);
    }

    #[test]
    fn two_pass_current_scaling_reaches_the_published_sqnr() {
        // docs/precision.md 4.5: N(0,1), scale of the amax.
        let mut rng = Rng::new(3, 1);
        let x: Vec<f32> = (0..1 << 18).map(|_| rng.normal()).collect();
        for (dtype, expect_db) in [(DType::E4m3, 31.54), (DType::E5m2, 25.57)] {
            let scale = current_scale(amax(View::of(&x)), dtype, 0.0, false, 0);
            let (q, inv, _, stats) = run(View::of(&x), scale, dtype);
            let (mut signal, mut noise) = (0.0, 0.0);
            for (&x, &q) in x.iter().zip(&q) {
                let y = float::decode(dtype, u32::from(q)) * inv;
                signal += f64::from(x).powi(2);
                noise += f64::from(x - y).powi(2);
            }
            let db = 10.0 * (signal / noise).log10();
            assert!((db - expect_db).abs() <= 0.15, "{dtype} {db}");
            assert_eq!(stats.nonfinite, 0);
        }
    }
}

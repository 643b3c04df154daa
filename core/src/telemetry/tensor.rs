//! What a run reports about one tensor: plain data, one JSON line each (`docs/events.md`), and what it says about
//! formats that were not used.

use super::{AmaxRing, Fp8Stats};
use crate::dtype::DType;
use crate::op::tensor_stats::{BUCKETS, WORDS, Word, unit};
use serde::{Deserialize, Serialize};

/// Elements by magnitude, without the empty ends. Bucket `e` holds magnitudes in `[2^(e-127), 2^(e-126))`; 0 holds
/// zeros and f32 subnormals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Bucket of the first count.
    pub first: usize,
    /// Zeros, which bucket 0 counts too.
    pub zeros: u32,
    /// Elements of each bucket from `first` on; neither the first nor the last is 0.
    pub counts: Vec<u32>,
}

impl Histogram {
    fn new(buckets: &[u32], zeros: u32) -> Histogram {
        let first = buckets.iter().position(|&n| n != 0).unwrap_or(0);
        let end = buckets.iter().rposition(|&n| n != 0).map_or(0, |last| last + 1);
        Histogram { first, zeros, counts: buckets[first..end.max(first)].to_vec() }
    }

    /// The exponent field of 1: bucket `k + BIAS` holds the magnitudes in `[2^k, 2^(k+1))`.
    pub const BIAS: i32 = 127;

    /// Elements that are finite and not zero, as (k, count) where magnitudes lie in `[2^k, 2^(k+1))`. f32 subnormals
    /// stand at k = -127.
    pub fn magnitudes(&self) -> impl Iterator<Item = (i32, u32)> {
        let count = |(i, &n): (usize, &u32)| {
            let bucket = self.first + i;
            let n = if bucket == 0 { n.saturating_sub(self.zeros) } else { n };
            (n > 0 && bucket < BUCKETS - 1).then_some((bucket as i32 - Histogram::BIAS, n))
        };
        self.counts.iter().enumerate().filter_map(count)
    }

    /// Number of elements.
    pub fn len(&self) -> u64 {
        self.counts.iter().map(|&n| u64::from(n)).sum()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

/// Shares of all elements that a format would spoil.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FormatLoss {
    /// Not zero, and would become zero.
    pub underflow: f64,
    /// Would become subnormal.
    pub subnormal: f64,
    /// Above the largest value.
    pub saturated: f64,
}

/// What `TensorStats` measured of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorStats {
    /// Dtype in which the tensor lay in memory.
    pub stored: DType,
    /// Elements.
    pub len: u64,
    /// Mean of the finite elements.
    pub mean: f64,
    /// Sum of their magnitudes.
    pub l1: f64,
    /// Root of the sum of their squares.
    pub l2: f64,
    /// Share of zeros.
    pub zero: f64,
    /// Share of all elements that become subnormal in the format of the report; `None` where that is not known.
    pub subnormal: Option<f64>,
    /// Signal to noise ratio of rounding to the format; `None` if nothing is lost, or where it is not known.
    pub sqnr_db: Option<f64>,
    /// Elements by magnitude.
    pub histogram: Histogram,
}

/// The report of one tensor: what an fp8 recipe keeps about it, what `TensorStats` measured, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorReport {
    /// Scope and role, such as `gpt.h0.mlp.up.x`.
    pub name: String,
    /// The format that shares and `sqnr_db` are about.
    pub dtype: DType,
    /// Largest magnitude; `None` if it is not finite.
    pub amax: Option<f32>,
    /// Says that it is not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amax_nonfinite: Option<bool>,
    /// fp8 scale used; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Share of all elements that became zero though they were not.
    pub underflow: Option<f32>,
    /// Share of all elements above the largest value.
    pub saturated: Option<f32>,
    /// Number of elements that are not finite.
    pub nonfinite: Option<f32>,
    /// The amaxes from which its next scale comes; `None` without delayed scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<AmaxRing>,
    /// What `TensorStats` measured, if it was asked.
    #[serde(flatten)]
    pub stats: Option<TensorStats>,
}

impl TensorReport {
    /// The report of a tensor that an fp8 recipe quantizes.
    pub fn of_fp8(name: &str, dtype: DType, s: &Fp8Stats) -> TensorReport {
        let finite = |x: f32| x.is_finite().then_some(x);
        TensorReport {
            name: name.to_string(),
            dtype,
            amax: finite(s.amax),
            amax_nonfinite: (!s.amax.is_finite()).then_some(true),
            scale: finite(s.scale),
            underflow: finite(s.underflow),
            saturated: finite(s.saturated),
            nonfinite: finite(s.nonfinite),
            ring: None,
            stats: None,
        }
    }

    /// The report of a tensor from the row that `TensorStats` wrote about it, judged by `format`.
    pub fn of_row(name: &str, format: DType, stored: DType, row: &[u32]) -> TensorReport {
        debug_assert_eq!(row.len(), WORDS);
        let word = |w: Word| row[w as usize];
        let real = |w: Word| f32::from_bits(word(w));
        let len = u64::from(word(Word::Len));
        let share = |w: Word| f64::from(word(w)) / len.max(1) as f64;
        let amax = real(Word::Amax);
        let whole = 1.0 / f64::from(unit(amax));
        let sum = |w: Word| f64::from(real(w)) * whole;
        let finite = len - u64::from(word(Word::NonFinite));
        let noise = f64::from(real(Word::Noise));
        let stats = TensorStats {
            stored,
            len,
            mean: digits(sum(Word::Sum) / finite.max(1) as f64, 7),
            l1: digits(sum(Word::L1), 7),
            l2: digits(f64::from(real(Word::Squares)).sqrt() * whole, 7),
            zero: digits(share(Word::Zeros), 7),
            subnormal: Some(digits(share(Word::Subnormal), 7)),
            sqnr_db: (noise > 0.0).then(|| digits(10.0 * (f64::from(real(Word::Signal)) / noise).log10(), 5)),
            histogram: Histogram::new(&row[..BUCKETS], word(Word::Zeros)),
        };
        TensorReport {
            name: name.to_string(),
            dtype: format,
            amax: Some(amax),
            amax_nonfinite: None,
            scale: None,
            underflow: Some(share(Word::Underflow) as f32),
            saturated: Some(share(Word::Saturated) as f32),
            nonfinite: Some(word(Word::NonFinite) as f32),
            ring: None,
            stats: Some(stats),
        }
    }

    /// With what `TensorStats` measured of the same tensor. `judged` says whether it judged by the format and scale of
    /// this report.
    pub fn with_stats(self, measured: TensorReport, judged: bool) -> TensorReport {
        let unknown = |s: TensorStats| TensorStats { subnormal: None, sqnr_db: None, ..s };
        TensorReport { stats: if judged { measured.stats } else { measured.stats.map(unknown) }, ..self }
    }

    /// What storing `x * scale` in `dtype` would spoil, from the histogram; `None` without one.
    ///
    /// Exact where the edges of the format, divided by `scale`, are powers of two, up to values that lie on an edge or
    /// within half an ulp of the smallest normal value. An edge inside a bucket splits it as if its elements were
    /// spread evenly over the logarithm; nothing saturates if the amax does not.
    pub fn what_if(&self, dtype: DType, scale: f32) -> Option<FormatLoss> {
        let histogram = &self.stats.as_ref()?.histogram;
        let format = dtype.format()?;
        let scale = f64::from(scale);
        let [zero, normal, max] = [0.5 * format.min_subnormal, format.min_normal, format.max].map(|edge| edge / scale);
        // The scale that takes the amax to the largest value is itself rounded.
        let fits = self.amax.is_some_and(|amax| f64::from(amax) <= max * (1.0 + f64::from(f32::EPSILON)));
        let mut n = FormatLoss::default();
        for (k, count) in histogram.magnitudes() {
            let below = |edge: f64| (edge.log2() - f64::from(k)).clamp(0.0, 1.0);
            let count = f64::from(count);
            n.underflow += count * below(zero);
            n.subnormal += count * (below(normal) - below(zero));
            n.saturated += if fits { 0.0 } else { count * (1.0 - below(max)) };
        }
        let all = histogram.len().max(1) as f64;
        Some(FormatLoss { underflow: n.underflow / all, subnormal: n.subnormal / all, saturated: n.saturated / all })
    }

    /// The scale that takes the amax to the largest value of `dtype`, as current scaling does; 1 without an amax.
    pub fn amax_scale(&self, dtype: DType) -> f32 {
        let scale = dtype.max_f32() / self.amax.unwrap_or(0.0);
        if scale.is_finite() { scale } else { 1.0 }
    }
}

/// `x` with as many significant digits as its sum has: more would be noise in every line.
fn digits(x: f64, n: usize) -> f64 {
    format!("{x:.*e}", n - 1).parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tensor_stats::{tensor_stats, tensor_stats_work_len};
    use crate::diagnose::stats::{FitScale, Stats, fit};
    use crate::float::round_to;
    use crate::float::view::View;
    use crate::rng::Rng;

    fn report(x: &[f32], format: DType, scale: f32) -> TensorReport {
        let mut row = vec![0; WORDS];
        tensor_stats(View::of(x), format, scale, &mut row, &mut vec![0.0; tensor_stats_work_len(x.len())]);
        TensorReport::of_row("t", format, DType::F32, &row)
    }

    fn values(n: usize, octaves: i32) -> Vec<f32> {
        let mut rng = Rng::new(5, 0);
        (0..n).map(|i| rng.normal() * 2f32.powi(i as i32 % octaves - octaves / 2)).collect()
    }

    #[test]
    fn agrees_with_the_host_statistics() {
        let x = values(30_000, 40);
        let (host, near) = (Stats::of(View::of(&x)), |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs());
        for (format, scale) in [(DType::E4m3, 1.0), (DType::F16, 1.0), (DType::E5m2, 0.125)] {
            let r = report(&x, format, scale);
            let s = r.stats.as_ref().unwrap();
            assert!(near(s.l1, host.l1) && near(s.l2, host.l2()), "{s:?}");
            assert!((s.mean - host.mean()).abs() <= 1e-5 * host.l1 / host.len as f64);
            let d = fit(View::of(&x), format, FitScale::By(scale));
            assert!((s.sqnr_db.unwrap() - d.sqnr_db()).abs() <= 1e-3, "{format}: {s:?} {}", d.sqnr_db());
            assert!(near(f64::from(r.underflow.unwrap()), d.underflow as f64 / d.len as f64));
            assert_eq!((r.amax.unwrap(), s.histogram.len()), (host.amax, host.len));
            assert_eq!(u64::from(s.histogram.counts[0]), host.exponents[s.histogram.first]);
        }
        assert_eq!(report(&x, DType::F32, 1.0).stats.unwrap().sqnr_db, None);
    }

    #[test]
    fn histograms_have_no_empty_ends() {
        let h = report(&[0.0, 1.0, 5.0, f32::from_bits(1)], DType::F32, 1.0).stats.unwrap().histogram;
        assert_eq!((h.first, h.zeros, h.counts.len(), h.len()), (0, 1, 130, 4));
        assert_eq!(h.magnitudes().collect::<Vec<_>>(), [(-127, 1), (0, 1), (2, 1)]);
        let h = report(&[1.0, f32::NAN, -1.5], DType::F32, 1.0).stats.unwrap().histogram;
        assert_eq!((h.first, h.counts.len(), h.magnitudes().collect::<Vec<_>>()), (127, 129, vec![(0, 2)]));
        let h = report(&[], DType::F32, 1.0).stats.unwrap().histogram;
        assert!(h.is_empty() && h.first == 0);
    }

    #[test]
    fn what_if_is_exact_at_powers_of_two() {
        // Off the edges and the neighbourhood of the smallest normal value; scales are powers of two.
        let x: Vec<f32> =
            values(20_000, 60).into_iter().map(|v| f32::from_bits(v.to_bits() & !0x0070_0000 | 0x0010_0000)).collect();
        let r = report(&x, DType::F32, 1.0);
        for dtype in [DType::E4m3, DType::E5m2, DType::F16, DType::Bf16] {
            let f = dtype.format().unwrap();
            for scale in [1.0, 0.25, 4096.0] {
                let got = r.what_if(dtype, scale).unwrap();
                let share = |hit: &dyn Fn(f64) -> bool| {
                    let hits = x.iter().filter(|v| hit(f64::from(round_to(dtype, **v * scale).abs())));
                    hits.count() as f64 / x.len() as f64
                };
                assert!((got.underflow - share(&|r| r == 0.0)).abs() <= 1e-12, "{dtype} {scale}");
                assert!((got.subnormal - share(&|r| r > 0.0 && r < f.min_normal)).abs() <= 1e-12, "{dtype} {scale}");
                // The largest value is no power of two: its bucket is split.
                let above = |edge: f64| x.iter().filter(|v| f64::from(v.abs() * scale) >= edge).count() as f64 / x.len() as f64;
                let top = f.max.log2().floor().exp2();
                assert!((above(2.0 * top)..=above(top)).contains(&got.saturated), "{dtype} {scale}: {got:?}");
            }
        }
    }

    #[test]
    fn nothing_saturates_under_the_scale_of_the_amax() {
        let r = report(&values(5000, 12), DType::F32, 1.0);
        for dtype in [DType::E4m3, DType::E5m2, DType::F16] {
            assert_eq!(r.what_if(dtype, r.amax_scale(dtype)).unwrap().saturated, 0.0);
            assert!(r.what_if(dtype, 2.0 * r.amax_scale(dtype)).unwrap().saturated > 0.0);
        }
        assert_eq!(report(&[0.0], DType::F32, 1.0).amax_scale(DType::E4m3), 1.0);
    }
}

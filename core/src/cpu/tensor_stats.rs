//! Statistics of one tensor: an exponent histogram, what rounding to a format does to its elements, and sums. Layout
//! and meaning of the block: `op/tensor_stats.rs`.
//!
//! Two passes over pieces of fixed length. The first counts and finds the amax: integer work on bits. The second sums
//! in f32 what the amax has brought near one: 16 lanes over blocks of 1024, lanes over the 16 blocks of a piece, then
//! halving, then pieces by halving. So no sum has more than about 80 + log2(pieces) additions in a row, and none
//! depends on the number of threads.

use super::bits::{ABS_MASK, INF_BITS, subnormal_end_bits, underflow_bits};
use super::chunks::{BLOCK, CHUNK, blocks, for_each_chunk};
use crate::dtype::DType;
use crate::float::slices;
use crate::float::view::View;
use crate::op::tensor_stats::{BUCKETS, WORDS, Word, unit};
use crate::par::{self, simd};
use std::sync::atomic::{AtomicU32, Ordering};

/// Sums of the second pass: of `x`, `|x|`, `x^2`, signal, noise.
const SUMS: usize = 5;
/// Independent histograms: neighbours often fall into one bucket, and would wait for each other.
const HISTOGRAMS: usize = 4;
/// Independent accumulators of a sum.
const LANES: usize = 16;

/// Scratch of [`tensor_stats`] for `len` elements, in f32.
pub fn tensor_stats_work_len(len: usize) -> usize {
    SUMS * len.div_ceil(CHUNK)
}

/// Writes the statistics of `x * scale`, judged by `format`, to `row: [WORDS]`.
pub fn tensor_stats(x: View<'_>, format: DType, scale: f32, row: &mut [u32], work: &mut [f32]) {
    debug_assert_eq!(row.len(), WORDS);
    let amax = counts(x, format, scale, row);
    let sums = sums(x, format, scale, amax, &mut work[..tensor_stats_work_len(x.len())]);
    row[Word::Len as usize] = x.len() as u32;
    row[Word::Amax as usize] = amax.to_bits();
    row[Word::Scale as usize] = scale.to_bits();
    row[Word::Sum as usize..WORDS].copy_from_slice(&sums.map(f32::to_bits));
}

/// Bits at which a rounded magnitude changes its kind.
#[derive(Clone, Copy, Debug)]
pub struct Edges {
    /// Rounds to zero up to here.
    pub zero: u32,
    /// Rounds to a subnormal below this.
    pub normal: u32,
    /// The largest value.
    pub max: u32,
}

impl Edges {
    /// Those of `format`.
    pub fn new(format: DType) -> Edges {
        Edges { zero: underflow_bits(format), normal: subnormal_end_bits(format), max: format.max_f32().to_bits() }
    }
}

/// The histogram and the counts, and the amax.
fn counts(x: View<'_>, format: DType, scale: f32, row: &mut [u32]) -> f32 {
    const COUNTS: usize = Word::Len as usize;
    let edges = Edges::new(format);
    let total: [AtomicU32; COUNTS] = std::array::from_fn(|_| AtomicU32::new(0));
    let top = AtomicU32::new(0);
    for_each_chunk(x, &|x: View<'_>| {
        let (mut own, mut histograms) = ([0; COUNTS], [[0u32; BUCKETS]; HISTOGRAMS]);
        let mut own_top = 0;
        let mut scratch = [0.0; BLOCK];
        for range in blocks(x.len()) {
            let x = x.load(range, &mut scratch);
            let bucket = |v: f32| (v.to_bits() >> 23) as usize & (BUCKETS - 1);
            let (whole, tail) = x.as_chunks::<HISTOGRAMS>();
            for x in whole {
                for (histogram, v) in histograms.iter_mut().zip(x) {
                    histogram[bucket(*v)] += 1;
                }
            }
            tail.iter().for_each(|v| histograms[0][bucket(*v)] += 1);
            let (kinds, top) = simd::vectorize(
                #[inline(always)]
                move || kinds(x, scale, edges),
            );
            own[BUCKETS..].iter_mut().zip(kinds).for_each(|(n, k)| *n += k);
            own_top = own_top.max(top);
        }
        for (b, n) in own[..BUCKETS].iter_mut().enumerate() {
            *n = histograms.iter().map(|h| h[b]).sum();
        }
        total.iter().zip(own).filter(|(_, n)| *n != 0).for_each(|(t, n)| _ = t.fetch_add(n, Ordering::Relaxed));
        top.fetch_max(own_top, Ordering::Relaxed);
    });
    row.iter_mut().zip(&total).for_each(|(word, t)| *word = t.load(Ordering::Relaxed));
    f32::from_bits(top.into_inner())
}

/// Zeros, underflows, subnormals, saturated and non-finite elements in the order of [`Word`], and the bits of the amax.
#[inline(always)]
fn kinds(x: &[f32], scale: f32, edges: Edges) -> ([u32; Word::Len as usize - BUCKETS], u32) {
    let [mut zeros, mut underflow, mut subnormal, mut saturated, mut nonfinite, mut top] = [0u32; 6];
    for &x in x {
        let a = x.to_bits() & ABS_MASK;
        let y = (x * scale).to_bits() & ABS_MASK;
        let finite = a < INF_BITS;
        zeros += u32::from(a == 0);
        underflow += u32::from(finite && a != 0 && y <= edges.zero);
        subnormal += u32::from(finite && y > edges.zero && y < edges.normal);
        saturated += u32::from(finite && y > edges.max);
        nonfinite += u32::from(!finite);
        top = top.max(if finite { a } else { 0 });
    }
    ([zeros, underflow, subnormal, saturated, nonfinite], top)
}

/// The sums of the block, in its order.
fn sums(x: View<'_>, format: DType, scale: f32, amax: f32, work: &mut [f32]) -> [f32; SUMS] {
    let units = [unit(amax), unit(amax * scale)];
    par::chunks(work, SUMS, |i, sums| {
        let x = x.part(i * CHUNK..x.len().min((i + 1) * CHUNK));
        let (mut scratch, mut rounded) = ([0.0; BLOCK], [0.0; BLOCK]);
        let mut total = [[0.0; LANES]; SUMS];
        for range in blocks(x.len()) {
            let x = x.load(range, &mut scratch);
            let rounded = &mut rounded[..x.len()];
            rounded.iter_mut().zip(x).for_each(|(r, &x)| *r = x * scale);
            slices::round(format, rounded);
            let rounded: &[f32] = rounded;
            let block = simd::vectorize(
                #[inline(always)]
                move || block(x, rounded, scale, units),
            );
            total.iter_mut().flatten().zip(block.iter().flatten()).for_each(|(t, b)| *t += b);
        }
        for (sum, mut lanes) in sums.iter_mut().zip(total) {
            let mut width = LANES / 2;
            while width > 0 {
                (0..width).for_each(|l| lanes[l] += lanes[l + width]);
                width /= 2;
            }
            *sum = lanes[0];
        }
    });
    fold(work)
}

/// The sums of one block, lane by lane.
#[inline(always)]
fn block(x: &[f32], rounded: &[f32], scale: f32, units: [f32; 2]) -> [[f32; LANES]; SUMS] {
    let mut sums = [[0.0; LANES]; SUMS];
    let ((whole_x, tail_x), (whole_r, tail_r)) = (x.as_chunks::<LANES>(), rounded.as_chunks::<LANES>());
    for (x, r) in whole_x.iter().zip(whole_r) {
        for l in 0..LANES {
            put(&mut sums, l, x[l], r[l], scale, units);
        }
    }
    for (l, (&x, &r)) in tail_x.iter().zip(tail_r).enumerate() {
        put(&mut sums, l, x, r, scale, units);
    }
    sums
}

#[inline(always)]
fn put(sums: &mut [[f32; LANES]; SUMS], l: usize, x: f32, rounded: f32, scale: f32, [f, g]: [f32; 2]) {
    let y = x * scale;
    let xf = if x.abs() < f32::INFINITY { x * f } else { 0.0 };
    let both = y.abs() < f32::INFINITY && rounded.abs() < f32::INFINITY;
    let (yg, eg) = if both { (y * g, (rounded - y) * g) } else { (0.0, 0.0) };
    let terms = [xf, xf.abs(), xf * xf, yg * yg, eg * eg];
    for k in 0..SUMS {
        sums[k][l] += terms[k];
    }
}

/// Rows of sums added up by halving.
fn fold(rows: &[f32]) -> [f32; SUMS] {
    match rows.len() / SUMS {
        0 => [0.0; SUMS],
        1 => std::array::from_fn(|k| rows[k]),
        n => {
            let (left, right) = rows.split_at(n / 2 * SUMS);
            let (left, right) = (fold(left), fold(right));
            std::array::from_fn(|k| left[k] + right[k])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{FLOATS, SIZES, Stored, normal};
    use crate::float::round_to;

    fn run(x: View<'_>, format: DType, scale: f32) -> Vec<u32> {
        let mut row = vec![0xDEAD_BEEF; WORDS];
        let mut work = vec![f32::NAN; tensor_stats_work_len(x.len())];
        tensor_stats(x, format, scale, &mut row, &mut work);
        row
    }

    fn word(row: &[u32], w: Word) -> u32 {
        row[w as usize]
    }

    fn real(row: &[u32], w: Word) -> f64 {
        f64::from(f32::from_bits(word(row, w)))
    }

    /// The same by the definitions, sums in f64.
    struct Plain {
        words: Vec<u32>,
        /// Value and sum of magnitudes of each sum.
        sums: [(f64, f64); SUMS],
    }

    fn plain(x: &[f32], format: DType, scale: f32) -> Plain {
        let mut words = vec![0u32; Word::Sum as usize];
        let f = format.format().unwrap();
        let amax = x.iter().filter(|v| v.is_finite()).fold(0.0f32, |m, v| m.max(v.abs()));
        let mut sums = [(0.0, 0.0); SUMS];
        for &v in x {
            words[(v.to_bits() >> 23 & 0xFF) as usize] += 1;
            let y = v * scale;
            let r = round_to(format, y);
            let mut count = |w: Word, hit: bool| words[w as usize] += u32::from(hit);
            count(Word::NonFinite, !v.is_finite());
            count(Word::Zeros, v == 0.0);
            count(Word::Underflow, v.is_finite() && v != 0.0 && r == 0.0);
            count(Word::Subnormal, v.is_finite() && r != 0.0 && f64::from(r.abs()) < f.min_normal);
            count(Word::Saturated, v.is_finite() && f64::from(y.abs()) > f.max);
            let x = if v.is_finite() { f64::from(v) * f64::from(unit(amax)) } else { 0.0 };
            let g = f64::from(unit(amax * scale));
            let kept = y.is_finite() && r.is_finite();
            let (signal, noise) = if kept { (f64::from(y) * g, (f64::from(r) - f64::from(y)) * g) } else { (0.0, 0.0) };
            for (sum, term) in sums.iter_mut().zip([x, x.abs(), x * x, signal * signal, noise * noise]) {
                *sum = (sum.0 + term, sum.1 + term.abs());
            }
        }
        words[Word::Len as usize] = x.len() as u32;
        words[Word::Amax as usize] = amax.to_bits();
        words[Word::Scale as usize] = scale.to_bits();
        Plain { words, sums }
    }

    #[track_caller]
    fn check(stored: &Stored, format: DType, scale: f32) {
        let got = run(stored.view(), format, scale);
        let want = plain(&stored.values(), format, scale);
        assert_eq!(got[..Word::Sum as usize], want.words[..], "{format} scale {scale}");
        let bound = (80.0 + (stored.view().len() as f64).log2()) * 2f64.powi(-24);
        for (k, (want, magnitude)) in want.sums.into_iter().enumerate() {
            let got = f64::from(f32::from_bits(got[Word::Sum as usize + k]));
            let error = (got - want).abs();
            assert!(error <= bound * magnitude + 1e-30, "{format} scale {scale} sum {k}: {got} {want} ({magnitude})");
        }
    }

    /// Values from the f32 subnormals to the largest, with zeros, infinities and NaN.
    fn wide(n: usize) -> Vec<f32> {
        let mut x = normal(n, 3);
        for (i, v) in x.iter_mut().enumerate() {
            *v *= ((i * 37 % 276) as f32 - 148.0).exp2();
        }
        for (at, v) in [(2, 0.0), (4, -0.0), (5, f32::INFINITY), (6, f32::NAN), (40, f32::NEG_INFINITY)] {
            if at < n {
                x[at] = v;
            }
        }
        x
    }

    #[test]
    fn equals_the_definitions_for_every_dtype_format_scale_and_size() {
        for n in SIZES.into_iter().chain([CHUNK - 1, 2 * CHUNK + 77]) {
            for stored in FLOATS {
                let x = Stored::of(stored, &wide(n));
                for format in FLOATS.into_iter().chain([DType::Tf32]) {
                    for scale in [1.0, 0.37, 1024.0] {
                        check(&x, format, scale);
                    }
                }
            }
        }
    }

    #[test]
    fn every_code_and_its_neighbours_are_counted_as_the_codecs_round() {
        for format in [DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
            let codes = 1u32 << (8 * format.size_bytes() - 1);
            let x: Vec<f32> = (0..codes)
                .map(|c| crate::float::decode(format, c))
                .filter(|v| v.is_finite())
                .flat_map(|v| [v.to_bits().saturating_sub(1), v.to_bits(), v.to_bits() + 1].map(f32::from_bits))
                // Ties between neighbours, exact in f32.
                .flat_map(|v| [v, v * 1.5, v * 0.5])
                .collect();
            check(&Stored::of(DType::F32, &x), format, 1.0);
        }
    }

    #[test]
    fn golden_block() {
        let x = [0.0f32, -0.0, 1.0, -3.0, 500.0, 2f32.powi(-10), 2f32.powi(-9), f32::NAN];
        let row = run(View::of(&x), DType::E4m3, 1.0);
        let counts = [Word::Zeros, Word::Underflow, Word::Subnormal, Word::Saturated, Word::NonFinite, Word::Len];
        assert_eq!(counts.map(|w| word(&row, w)), [2, 1, 1, 1, 1, 8]);
        assert_eq!([0, 117, 118, 127, 128, 135, 255].map(|b| row[b]), [2, 1, 1, 1, 1, 1, 1]);
        assert_eq!(row[..BUCKETS].iter().sum::<u32>(), 8);
        assert_eq!((real(&row, Word::Amax), real(&row, Word::Scale)), (500.0, 1.0));
        // unit(500) is 2^-8. 500 saturates to 448, 2^-10 becomes 0.
        let unit = 2f64.powi(-8);
        assert_eq!(real(&row, Word::Sum), f64::from((498.0 + 3.0 * 2f32.powi(-10)) * unit as f32));
        assert_eq!(real(&row, Word::Noise), f64::from((52.0 * 52.0 + 2f32.powi(-20)) * (unit * unit) as f32));
    }

    #[test]
    fn an_empty_tensor_and_zeros_have_zero_sums() {
        for x in [&[][..], &[0.0; 7]] {
            let row = run(View::of(x), DType::F16, 1.0);
            assert_eq!(word(&row, Word::Zeros), x.len() as u32);
            assert!(row[Word::Sum as usize..].iter().all(|&w| w == 0) && word(&row, Word::Amax) == 0);
        }
    }

    #[test]
    fn extreme_magnitudes_neither_overflow_nor_vanish() {
        for x in [3e38f32, 1e-38] {
            let row = run(View::of(&vec![x; 40_000]), DType::F32, 1.0);
            let u = f64::from(unit(x));
            let l2 = real(&row, Word::Squares).sqrt() / u;
            assert!((l2 / (f64::from(x) * 200.0) - 1.0).abs() <= 1e-5, "{l2}");
        }
    }
}

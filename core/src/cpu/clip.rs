//! Gradient clipping by norm, by value, and by a norm that adapts to the run.
//!
//! The coefficient is multiplied in unconditionally (no host sync): with an infinite norm it is 0, which turns infinite
//! gradients into NaN, as in PyTorch; the step is skipped for `found_inf` all the same.
//!
//! It has two factors, since one f32 does not reach: for a norm of 4e38 it would be subnormal, and 0 on many a device.
//! The first is 1, and 2^-64 for norms from 2^64 on, whose coefficient is found from the norm times 2^-64. The settings
//! are validated where they are made: a negative `max_norm` would turn gradients round.
//!
//! Sources: PyTorch `clip_grad.py`, docs/precision.md 3; adaptive: Seetharaman et al., "AutoClip", arXiv 2007.14469.

use super::bits::{ABS_MASK, INF_BITS, is_set};
use super::chunks::{BLOCK, blocks, for_each_chunk};
use super::grad_norm::FAR;
use crate::float::view::ViewMut;
use crate::par::{self, simd};

/// `min(1, max_norm / (norm + 1e-6))`, rounded as PyTorch does: reciprocal first, then the product. NaN stays NaN. Two
/// factors, to be multiplied in one after the other. `norm` and `far` as [`super::grad_norm::grad_norm`] gives them.
pub fn clip_coef([norm, far]: [f32; 2], max_norm: f32) -> [f32; 2] {
    if norm >= 1.0 / FAR {
        let coef = 1.0 / far * max_norm;
        return if coef > 1.0 / FAR { [1.0; 2] } else { [FAR, coef] };
    }
    let coef = 1.0 / (norm + 1e-6) * max_norm;
    [1.0, if coef > 1.0 { 1.0 } else { coef }]
}

/// Multiplies every gradient (any float dtype) by the two factors of `coef`, in place.
pub fn clip_apply(grads: &mut [ViewMut<'_>], coef: [f32; 2]) {
    for_each_value(grads, move |x| x * coef[0] * coef[1]);
}

/// Clamps every gradient element (any float dtype) to `[-value, value]` in place. NaN stays, infinities become `value`.
pub fn clip_value(grads: &mut [ViewMut<'_>], value: f32) {
    for_each_value(grads, move |x| {
        let x = if x > value { value } else { x };
        if x < -value { -value } else { x }
    });
}

/// The settings of adaptive clipping: `max_norm` is a percentile of recent gradient norms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveClip {
    /// Which of the remembered norms, in ascending order, counted from 0.
    pub rank: u32,
    /// `max_norm` until the memory is full.
    pub fallback: f32,
}

impl AdaptiveClip {
    /// The `percentile` (0 to 100, nearest rank) of the last `window` norms.
    pub fn new(percentile: f64, window: u32, fallback: f32) -> AdaptiveClip {
        let rank = (percentile / 100.0 * f64::from(window)).ceil() as u32; // negative and NaN give 0
        AdaptiveClip { rank: rank.clamp(1, window.max(1)) - 1, fallback }
    }

    /// `max_norm` of this step, from the norms of earlier steps: `history: [n]`, of which `count` entries have been
    /// written so far. Each entry is ranked by counting smaller ones, ties by position: `n^2` compares and no scratch.
    pub fn max_norm(&self, history: &[f32], count: u32) -> f32 {
        if history.is_empty() || (count as usize) < history.len() {
            return self.fallback;
        }
        let rank_of = |i: usize| {
            let before = |j: usize| history[j] < history[i] || (history[j] == history[i] && j < i);
            (0..history.len()).filter(|&j| before(j)).count()
        };
        (0..history.len()).find(|&i| rank_of(i) == self.rank as usize).map_or(self.fallback, |i| history[i])
    }

    /// Remembers the norm (before clipping) of the step just made. Skipped steps and non-finite norms do not enter.
    /// `count` goes up to `2n - 1` and then back to `n`: what matters is its place in the ring and whether that is
    /// full.
    pub fn record(history: &mut [f32], count: &mut u32, norm: f32, found_inf: f32) {
        let n = history.len() as u32;
        if n == 0 || is_set(found_inf) || norm.to_bits() & ABS_MASK >= INF_BITS {
            return;
        }
        history[(*count % n) as usize] = norm;
        *count = if *count + 1 >= 2 * n { n } else { *count + 1 };
    }
}

/// Replaces each element `x` by `f(x)`, computed in f32 and rounded once.
fn for_each_value(grads: &mut [ViewMut<'_>], f: impl Fn(f32) -> f32 + Copy + Sync + Send) {
    let apply = |x: &mut [f32]| {
        simd::vectorize(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x = f(*x)),
        )
    };
    par::chunks(grads, 1, |_, grad| {
        for_each_chunk(grad[0].reborrow(), &|mut piece: ViewMut<'_>| {
            if let Some(x) = piece.as_f32() {
                return apply(x);
            }
            let mut row = [0.0; BLOCK];
            for range in blocks(piece.len()) {
                let row = &mut row[..range.len()];
                piece.as_view().part(range.clone()).decode_into(row);
                apply(row);
                piece.store(range.start, row);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::grad_norm::{grad_norm, grad_norm_work_len};
    use super::super::unscale::{UnscaleRef, unscale};
    use super::*;
    use crate::dtype::DType;
    use crate::float;
    use crate::float::view::View;
    use crate::op::update::NormType;

    /// Clips in place; the norm and all elements.
    fn clip(mut grads: Vec<Vec<f32>>, kind: NormType, max_norm: f32) -> (f32, Vec<f32>) {
        let views: Vec<_> = grads.iter().map(|g| View::of(g)).collect();
        let mut work = vec![0.0; grad_norm_work_len(views.iter().map(View::len))];
        let norm = grad_norm(&views, kind, &mut vec![0.0; views.len()], &mut work);
        let mut outs: Vec<_> = grads.iter_mut().map(|g| ViewMut::of(g)).collect();
        clip_apply(&mut outs, clip_coef(norm, max_norm));
        (norm[0], grads.concat())
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn golden_clip_by_norm() {
        // docs/precision.md 3.1.
        let (norm, g) = clip(vec![vec![3.0, 4.0]], NormType::L2, 1.0);
        assert_eq!((norm, bits(&g)), (5.0, vec![0x3F19_9998, 0x3F4C_CCCA]));
        let (norm, g) = clip(vec![vec![3.0, 4.0], vec![12.0]], NormType::L2, 1.3);
        assert_eq!((norm, bits(&g)), (13.0, vec![0x3E99_9999, 0x3ECC_CCCC, 0x3F99_9999]));
        let (_, g) = clip(vec![vec![3.0, -4.0]], NormType::Inf, 2.0);
        assert_eq!(bits(&g), [0x3FBF_FFFD, 0xBFFF_FFFC]);
        let (_, g) = clip(vec![vec![3.0, -4.0]], NormType::L1, 3.5);
        assert_eq!(bits(&g), [0x3FBF_FFFE, 0xBFFF_FFFD]);
        assert_eq!(clip(vec![vec![3.0, 4.0]], NormType::L2, 10.0).1, [3.0, 4.0]);
        assert_eq!(clip(vec![vec![0.0, 0.0]], NormType::L2, 1.0).1, [0.0, 0.0]);
        assert_eq!(clip(vec![vec![3.0, 4.0]], NormType::L2, 0.0).1, [0.0, 0.0]);
        let (norm, g) = clip(vec![vec![f32::INFINITY, 1.0]], NormType::L2, 1.0);
        assert!(norm == f32::INFINITY && g[0].is_nan() && g[1] == 0.0);
        assert!(clip(vec![vec![f32::NAN, 1.0]], NormType::L2, 1.0).1.iter().all(|x| x.is_nan()));
        assert!(clip(vec![vec![f32::INFINITY, 1.0]], NormType::L2, f32::INFINITY).1.iter().all(|x| x.is_nan()));
        assert_eq!(clip_coef([5.0, 0.0], f32::INFINITY), [1.0; 2]);
    }

    #[test]
    fn finite_gradients_of_any_size_are_clipped_to_the_limit() {
        for (large, small) in [(3e38f32, 3e38f32), (3e38, 1.0), (1e38, -1e37), (2e19, 2e19), (1e18, 3e18)] {
            for max_norm in [1.0f32, 0.01, 1e30] {
                let (norm, g) = clip(vec![vec![large], vec![small]], NormType::L2, max_norm);
                let exact = f64::from(large).hypot(f64::from(small));
                assert!((f64::from(norm) / exact.min(f64::from(f32::MAX)) - 1.0).abs() <= 2e-7, "{norm:e} for {exact:e}");
                let factor = (f64::from(max_norm) / exact).min(1.0);
                for (g, x) in g.iter().zip([large, small]) {
                    let want = f64::from(x) * factor;
                    assert!((f64::from(*g) - want).abs() <= 4e-7 * want.abs() + 1e-44, "{g:e} for {want:e}");
                }
            }
        }
    }

    #[test]
    fn golden_unscale_then_clip() {
        // docs/precision.md 3.3: scaled [inf, 16], then [48, 64], scale 16.
        let mut found = 0.0;
        let mut g = [f32::INFINITY, 16.0];
        unscale(&mut [UnscaleRef { grad: None, out: ViewMut::of(&mut g) }], 1.0 / 16.0, &mut found, None);
        let (norm, g) = clip(vec![g.to_vec()], NormType::L2, 1.0);
        assert!(found == 1.0 && norm == f32::INFINITY && g[0].is_nan() && g[1] == 0.0);
        let (mut found, mut g) = (0.0, [48.0, 64.0]);
        unscale(&mut [UnscaleRef { grad: None, out: ViewMut::of(&mut g) }], 1.0 / 16.0, &mut found, None);
        let (norm, g) = clip(vec![g.to_vec()], NormType::L2, 1.0);
        assert_eq!((found, norm, bits(&g)), (0.0, 5.0, vec![0x3F19_9998, 0x3F4C_CCCA]));
    }

    #[test]
    fn golden_clip_by_value() {
        // docs/precision.md 3.2.
        let mut x = [-3.0, 0.5, f32::NAN, f32::INFINITY];
        clip_value(&mut [ViewMut::of(&mut x)], 1.0);
        assert!(x[0] == -1.0 && x[1] == 0.5 && x[2].is_nan() && x[3] == 1.0);
    }

    #[test]
    fn every_dtype_and_size_rounds_once() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for n in [1, 3, 7, 65, 257, 1025, 20_000] {
                let x: Vec<f32> = (0..n).map(|i| (i as f32 - n as f32 / 2.0) * 0.37).collect();
                let mut bytes = vec![0; n * dtype.size_bytes()];
                float::slices::encode(dtype, dtype.overflow(), &x, &mut bytes);
                let mut expect = vec![0.0; n];
                View::new(dtype, &bytes).decode_into(&mut expect);
                let coef = 0.3;
                let rounded = |v: f32| float::decode(dtype, float::encode(dtype, dtype.overflow(), v));
                expect.iter_mut().for_each(|v| *v = rounded(*v * coef));
                clip_apply(&mut [ViewMut::new(dtype, &mut bytes), ViewMut::of::<f32>(&mut [])], [1.0, coef]);
                let mut got = vec![0.0; n];
                View::new(dtype, &bytes).decode_into(&mut got);
                assert_eq!(got, expect, "{dtype} {n}");
            }
        }
    }

    #[test]
    fn adaptive_norm_is_the_percentile_of_the_last_finite_norms() {
        let clip = AdaptiveClip::new(50.0, 4, 9.0);
        let (mut history, mut count) = ([0.0; 4], 0);
        let mut last: Vec<f32> = Vec::new();
        let norms = [5.0, f32::INFINITY, 2.0, 2.0, f32::NAN, 7.0, 1.0, 3.0, 3.0, 8.0, 0.5, 4.0, 6.0];
        for (i, &norm) in norms.iter().enumerate() {
            let expect = if last.len() < 4 {
                9.0
            } else {
                let mut window = last[last.len() - 4..].to_vec();
                window.sort_by(f32::total_cmp);
                window[1]
            };
            assert_eq!(clip.max_norm(&history, count), expect, "step {i}");
            let skipped = i == 7;
            AdaptiveClip::record(&mut history, &mut count, norm, f32::from(skipped));
            if norm.is_finite() && !skipped {
                last.push(norm);
            }
        }
        assert!((4..8).contains(&count));
        assert_eq!(AdaptiveClip::new(100.0, 10, 1.0).rank, 9);
        assert_eq!(AdaptiveClip::new(0.0, 10, 1.0).rank, 0);
        assert_eq!(AdaptiveClip::new(90.0, 10, 1.0).rank, 8);
        assert_eq!(clip.max_norm(&[], 0), 9.0);
    }
}

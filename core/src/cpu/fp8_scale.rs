//! Delayed fp8 scaling: rolls the amax histories of all tensors of a recipe and derives their next scales.
//!
//! Histories are `[len, n]` f32, row-major, one column a tensor: row 0 is the staging slot that quantizing raises, row
//! 1 the oldest recorded value, row `len - 1` the newest. The window of an update is rows `1..` and the staged value,
//! so row 1 takes part once more and is then dropped. A staged zero (tensor not used, or all zero) rolls nothing and
//! changes nothing. Arithmetic is one product by a power of two and one quotient. Tests for zero and for non-finite
//! values look at bits, so that hardware that flushes subnormals rolls the same histories (a subnormal amax gives the
//! largest scale either way). A backend whose division is not correctly rounded (WGSL allows 2.5 ulp) needs a
//! correction step to match.
//!
//! Source: Transformer Engine `common/recipe/delayed_scaling.cu`; docs/precision.md 4.1.

use super::bits::{ABS_MASK, INF_BITS, is_positive, is_set, ordered_bits};
use crate::op::quantize::{AmaxAlgo, NonFiniteAmax};

/// The settings of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fp8ScaleRule {
    /// Window to amax.
    pub algo: AmaxAlgo,
    /// Headroom: scales are divided by `2^margin`.
    pub margin: i32,
    /// Treatment of non-finite amaxes.
    pub nonfinite: NonFiniteAmax,
}

/// One update of `n` tensors.
///
/// `history: [len, n]`, `scale: [n]`, `fp8_max(i)` the largest value of tensor i's format, `nonfinite: [n]` counts of
/// ignored amaxes.
pub fn update_fp8_scales(
    history: &mut [f32],
    scale: &mut [f32],
    fp8_max: impl Fn(usize) -> f32,
    nonfinite: &mut [u32],
    rule: Fp8ScaleRule,
) {
    let n = scale.len();
    debug_assert!(n == nonfinite.len());
    if n == 0 {
        return;
    }
    debug_assert!(!history.is_empty() && history.len().is_multiple_of(n));
    let len = history.len() / n;
    for t in 0..n {
        let staged = history[t];
        if !is_set(staged) {
            continue;
        }
        history[t] = 0.0;
        let ignore = rule.nonfinite == NonFiniteAmax::Ignore;
        if ignore && !finite(staged) {
            nonfinite[t] = nonfinite[t].saturating_add(1);
            continue;
        }
        let mut top = ordered_bits(staged);
        for row in 1..len {
            let a = history[row * n + t];
            if !ignore || finite(a) {
                top = top.max(ordered_bits(a));
            }
            history[row * n + t] = if row + 1 < len { history[(row + 1) * n + t] } else { staged };
        }
        let amax = match rule.algo {
            AmaxAlgo::Max => f32::from_bits(top),
            AmaxAlgo::MostRecent => staged,
        };
        if is_positive(amax) {
            scale[t] = scale_from_amax(amax, fp8_max(t), rule.margin);
        }
    }
}

/// `(fp8_max * 2^-margin) / amax` for a finite amax above 0: at most `f32::MAX`, and at least the smallest normal f32,
/// so that `1 / scale` is finite on every backend (reached only with a margin of 8 or more).
pub(super) fn scale_from_amax(amax: f32, fp8_max: f32, margin: i32) -> f32 {
    (range(fp8_max, margin) / amax).clamp(f32::MIN_POSITIVE, f32::MAX)
}

/// `fp8_max * 2^-margin`, the margin held between -100 and 100.
pub fn range(fp8_max: f32, margin: i32) -> f32 {
    fp8_max * f32::from_bits(((127 - margin.clamp(-100, 100)) as u32) << 23)
}

fn finite(x: f32) -> bool {
    x.to_bits() & ABS_MASK < INF_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    const INF: f32 = f32::INFINITY;
    const NAN: f32 = f32::NAN;
    const RECORD: Fp8ScaleRule = Fp8ScaleRule { algo: AmaxAlgo::Max, margin: 0, nonfinite: NonFiniteAmax::Record };
    const IGNORE: Fp8ScaleRule = Fp8ScaleRule { nonfinite: NonFiniteAmax::Ignore, ..RECORD };
    const RECENT: Fp8ScaleRule = Fp8ScaleRule { algo: AmaxAlgo::MostRecent, ..RECORD };

    fn one(rule: Fp8ScaleRule, dtype: DType, history: &[f32], scale: f32) -> (Vec<f32>, f32, u32) {
        let (mut h, mut s, mut c) = (history.to_vec(), [scale], [0]);
        update_fp8_scales(&mut h, &mut s, |_| dtype.max_f32(), &mut c, rule);
        (h, s[0], c[0])
    }

    fn same(a: &[f32], b: &[f32]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
    }

    #[test]
    fn golden_single_updates() {
        // docs/precision.md 4.1.
        let e4m3 = DType::E4m3;
        type Row = (Fp8ScaleRule, DType, &'static [f32], f32, &'static [f32], u32);
        let rows: [Row; 12] = [
            (RECORD, e4m3, &[2.0, 0.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 2.0], 0x4360_0000),
            (RECORD, e4m3, &[1.0, 0.0, 0.0, 2.0], 224.0, &[0.0, 0.0, 2.0, 1.0], 0x4360_0000),
            (RECORD, e4m3, &[0.0, 4.0, 1.0, 2.0], 112.0, &[0.0, 4.0, 1.0, 2.0], 0x42E0_0000),
            (RECORD, e4m3, &[INF, 4.0, 1.0, 2.0], 112.0, &[0.0, 1.0, 2.0, INF], 0x42E0_0000),
            (RECORD, e4m3, &[NAN, 4.0, 1.0, 2.0], 7.0, &[0.0, 1.0, 2.0, NAN], 0x42E0_0000),
            (RECORD, e4m3, &[1.0, 4.0, 1.0, INF], 112.0, &[0.0, 1.0, INF, 1.0], 0x42E0_0000),
            (RECORD, e4m3, &[1e-40, 0.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 1e-40], 0x7F7F_FFFF),
            (Fp8ScaleRule { margin: 1, ..RECORD }, e4m3, &[2.0, 0.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 2.0], 0x42E0_0000),
            (RECENT, e4m3, &[2.0, 8.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 2.0], 0x4360_0000),
            (RECENT, e4m3, &[NAN, 8.0, 0.0, 0.0], 56.0, &[0.0, 0.0, 0.0, NAN], 0x4260_0000),
            (RECORD, e4m3, &[3.0], 1.0, &[0.0], 0x4315_5555),
            (RECORD, DType::E5m2, &[1.0, 0.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 1.0], 0x4760_0000),
        ];
        for (i, (rule, dtype, history, scale, expect, bits)) in rows.into_iter().enumerate() {
            let (h, s, count) = one(rule, dtype, history, scale);
            assert!(same(&h, expect), "row {i}: {h:?}");
            assert_eq!((s.to_bits(), count), (bits, 0), "row {i}: {s}");
        }
    }

    fn steps(rule: Fp8ScaleRule, amaxes: &[f32]) -> Vec<f32> {
        let (mut h, mut s) = (vec![0.0; 4], 1.0);
        amaxes
            .iter()
            .map(|&a| {
                let used = s;
                h[0] = a;
                (h, s, _) = one(rule, DType::E4m3, &h, s);
                used
            })
            .collect()
    }

    #[test]
    fn golden_sequences() {
        // docs/precision.md 4.2: the amax 8 leaves the window only after four further updates; one infinity pins the
        // scale.
        assert_eq!(steps(RECORD, &[8.0, 2.0, 1.0, 0.5, 0.0]), [1.0, 56.0, 56.0, 56.0, 56.0]);
        let used = steps(RECORD, &[8.0, 2.0, 1.0, 0.5, 0.0, INF, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(used[5..], [56.0, 56.0, 56.0, 56.0, 56.0, 448.0]);
        // Ours: the infinity never enters, so the scales go on as if that step had not been.
        let used = steps(IGNORE, &[8.0, 2.0, 1.0, 0.5, 0.0, INF, 1.0, 1.0, 1.0]);
        assert_eq!(used[5..], [56.0, 56.0, 224.0, 448.0]);
        assert_eq!(used[6..], steps(IGNORE, &[8.0, 2.0, 1.0, 0.5, 0.0, 1.0, 1.0, 1.0])[5..]);
    }

    #[test]
    fn ignored_amaxes_are_counted_and_leave_the_tensor_alone() {
        for bad in [INF, NAN, -INF] {
            let (h, s, count) = one(IGNORE, DType::E4m3, &[bad, 4.0, 1.0, 2.0], 112.0);
            assert_eq!((h.as_slice(), s, count), (&[0.0, 4.0, 1.0, 2.0][..], 112.0, 1));
        }
        let (h, s, count) = one(IGNORE, DType::E4m3, &[1.0, INF, 2.0, NAN], 7.0);
        assert!(same(&h, &[0.0, 2.0, NAN, 1.0]));
        assert_eq!((s, count), (224.0, 0));
    }

    #[test]
    fn tensors_do_not_touch_each_other() {
        // [len 3, n 3]: used, unused, infinite.
        let mut h = [2.0, 0.0, INF, 1.0, 5.0, 6.0, 3.0, 7.0, 8.0];
        let (mut s, mut c) = ([1.0, 2.0, 3.0], [0, 0, 4]);
        update_fp8_scales(&mut h, &mut s, |i| [448.0, 448.0, 57344.0][i], &mut c, IGNORE);
        assert_eq!(h, [0.0, 0.0, 0.0, 3.0, 5.0, 6.0, 2.0, 7.0, 8.0]);
        assert_eq!((s, c), ([448.0 / 3.0, 2.0, 3.0], [0, 0, 5]));
        update_fp8_scales(&mut [], &mut [], |_| 1.0, &mut [], IGNORE);
    }

    #[test]
    fn scale_equals_the_f64_rule() {
        let mut rng = crate::rng::Rng::new(2, 0);
        for _ in 0..200_000 {
            let amax = f32::from_bits(rng.next_u32() & 0x7FFF_FFFF);
            let margin = rng.below(7) as i32 - 3;
            if is_positive(amax) {
                let exact = (448.0 * 2f64.powi(-margin) / f64::from(amax)) as f32;
                assert_eq!(scale_from_amax(amax, 448.0, margin), exact.min(f32::MAX), "{amax:e}");
            }
        }
        assert_eq!(scale_from_amax(f32::MAX, 448.0, 50), f32::MIN_POSITIVE);
    }
}

//! The dynamic loss scale: growth after a run of good steps, backoff after an overflow.
//!
//! Bit-exact twin of PyTorch's update kernel, which forms `scale * factor` in f64 and rounds twice: to f64, then to
//! f32. No f64 is needed for that: [`scale_times`] multiplies the significands as integers in 32-bit words and rounds
//! twice in the same way, so WGSL reproduces it word for word, subnormal results included. Ours beyond PyTorch: a
//! floor, since repeated backoff otherwise reaches 0 and writes NaN into the weights; several flags may be set, or set
//! to 2 or NaN, and still mean overflow; hysteresis.
//!
//! Sources: PyTorch `AmpKernels.cu` (PR #98876 for the growth guard), apex `update_scale_hysteresis.cu`;
//! docs/precision.md 2.1, 2.5 and 2.6.

use super::bits::{ABS_MASK, INF_BITS, is_set};

/// A factor given as f64, carried as its two 32-bit words so that backends without f64 can hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Factor {
    /// Sign, exponent and the upper 20 bits of the mantissa.
    pub hi: u32,
    /// The lower 32 bits of the mantissa.
    pub lo: u32,
}

impl From<f64> for Factor {
    /// The words of `factor`, which must be finite (settings are validated before they come here).
    fn from(factor: f64) -> Factor {
        debug_assert!(factor.is_finite());
        let bits = factor.to_bits();
        Factor { hi: (bits >> 32) as u32, lo: bits as u32 }
    }
}

/// The settings of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleRule {
    /// Multiplies the scale after `growth_interval` good steps.
    pub growth: Factor,
    /// Multiplies the scale after an overflow.
    pub backoff: Factor,
    /// Good steps in a row that make the scale grow; 0 means never. Compared with `==`, as in PyTorch.
    pub growth_interval: i32,
    /// Backoff stops here (it never raises a scale that is already lower). 0 is PyTorch's behaviour.
    pub min_scale: f32,
    /// Overflows in a row before the scale backs off. 1 is PyTorch's behaviour.
    pub hysteresis: i32,
}

impl Default for LossScaleRule {
    fn default() -> LossScaleRule {
        LossScaleRule {
            growth: Factor::from(2.0),
            backoff: Factor::from(0.5),
            growth_interval: 2000,
            min_scale: 1.0 / 16384.0,
            hysteresis: 1,
        }
    }
}

/// What an update changes; all of it belongs in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaleState {
    /// The loss scale.
    pub scale: f32,
    /// Good steps since the last change.
    pub growth_tracker: i32,
    /// Overflows left before the scale backs off; starts at [`LossScaleRule::hysteresis`].
    pub hysteresis_tracker: i32,
}

/// One update. An overflow is any entry of `found_inf` other than 0, NaN included; an empty list is a good step.
///
/// Overflow: the growth tracker is reset; the scale backs off once the hysteresis is used up. Otherwise the tracker
/// counts up, and at `growth_interval` the scale grows unless the result would not be finite; the tracker is reset in
/// either case.
pub fn update_loss_scale(state: &mut LossScaleState, found_inf: &[f32], rule: &LossScaleRule) {
    if found_inf.iter().any(|&f| is_set(f)) {
        state.growth_tracker = 0;
        state.hysteresis_tracker = state.hysteresis_tracker.saturating_sub(1);
        if state.hysteresis_tracker <= 0 {
            let floor = if rule.min_scale < state.scale { rule.min_scale } else { state.scale };
            let lower = scale_times(state.scale, rule.backoff);
            state.scale = if lower < floor { floor } else { lower };
        }
        return;
    }
    state.hysteresis_tracker = rule.hysteresis;
    state.growth_tracker = state.growth_tracker.wrapping_add(1);
    if state.growth_tracker == rule.growth_interval {
        state.growth_tracker = 0;
        let higher = scale_times(state.scale, rule.growth);
        if higher.to_bits() & ABS_MASK < INF_BITS {
            state.scale = higher;
        }
    }
}

/// `f32(f64(scale) * f64(factor))`: the product rounded to 53 bits, then to f32; integer work only.
pub fn scale_times(scale: f32, factor: Factor) -> f32 {
    let sign = (scale.to_bits() ^ factor.hi) & !ABS_MASK;
    let a = scale.to_bits() & ABS_MASK;
    if a >= INF_BITS {
        return scale;
    }
    let (exponent, fraction) = (a >> 23, a & 0x7F_FFFF);
    let f_exponent = (factor.hi >> 20) & 0x7FF;
    if a == 0 || f_exponent == 0 {
        return f32::from_bits(sign); // a subnormal f64 factor is far below the f32 range
    }
    // scale = s * 2^(e - 150) with s in [2^23, 2^24).
    let shift = if exponent == 0 { fraction.leading_zeros() - 8 } else { 0 };
    let s = if exponent == 0 { fraction << shift } else { fraction | 0x80_0000 };
    let e = exponent.max(1) as i32 - shift as i32;
    // The magnitude of factor is f * 2^(f_exponent - 1075), f of 53 bits. Product of s and the bytes of f, lowest
    // first, in 80 bits w2 w1 w0.
    let f_hi = (factor.hi & 0xF_FFFF) | 0x10_0000;
    let mut words = [0u32; 3];
    let mut carry = 0;
    for i in 0..7 {
        let byte = (if i < 4 { factor.lo >> (8 * i) } else { f_hi >> (8 * (i - 4)) }) & 0xFF;
        let p = s * byte + carry; // at most (2^24 - 1) * 255 + 2^24 - 1, below 2^32
        words[i / 4] |= (p & 0xFF) << (8 * (i % 4));
        carry = p >> 8;
    }
    words[1] |= carry << 24;
    words[2] = carry >> 8;
    let [w0, w1, w2] = words;
    // First rounding: drop 23 or 24 of the 76 or 77 bits, leaving 53 (or 2^53, which the second rounding takes as
    // well).
    let drop = 23 + u32::from(w2 >> 12 != 0);
    let (hi, lo) = ((w1 >> drop) | (w2 << (32 - drop)), (w0 >> drop) | (w1 << (32 - drop)));
    let (hi, lo) = nearest_even(hi, lo, w0 & ((1 << drop) - 1), 1 << (drop - 1));
    // value = (hi, lo) * 2^power; second rounding: to 24 bits, or fewer where the result is subnormal in f32.
    let power = e - 150 + f_exponent as i32 - 1075 + drop as i32;
    let exponent = power + 52 + 127; // f32 exponent field if the value is normal
    if exponent >= 255 {
        return f32::from_bits(sign | INF_BITS);
    }
    let drop = 29 + (1 - exponent).max(0) as u32;
    if drop > 54 {
        return f32::from_bits(sign); // below half of the smallest subnormal
    }
    let (kept, rest, half) = match drop {
        0..=31 => ((hi << (32 - drop)) | (lo >> drop), [0, lo & ((1 << drop) - 1)], [0, 1 << (drop - 1)]),
        32 => (hi, [0, lo], [0, 1 << 31]),
        _ => (hi >> (drop - 32), [hi & ((1 << (drop - 32)) - 1), lo], [1 << (drop - 33), 0]),
    };
    let up = rest > half || (rest == half && kept & 1 == 1);
    // The leading bit of `kept` (24 bits when normal) adds 1 to the exponent field; so does a carry out of the
    // mantissa.
    let bits = (((exponent.max(1) - 1) as u32) << 23) + kept + u32::from(up);
    f32::from_bits(sign | bits.min(INF_BITS))
}

/// The number in two words, plus one if `rest` (of a unit of `2 * half`) rounds up to even.
fn nearest_even(hi: u32, lo: u32, rest: u32, half: u32) -> (u32, u32) {
    let up = rest > half || (rest == half && lo & 1 == 1);
    let lo = lo.wrapping_add(u32::from(up));
    (hi + u32::from(up && lo == 0), lo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::update::inv_scale;
    use crate::rng::Rng;

    const TORCH: LossScaleRule = LossScaleRule {
        growth: Factor { hi: 0x4000_0000, lo: 0 },
        backoff: Factor { hi: 0x3FE0_0000, lo: 0 },
        growth_interval: 2000,
        min_scale: 0.0,
        hysteresis: 1,
    };

    fn update(scale: f32, tracker: i32, found_inf: &[f32], rule: LossScaleRule) -> (f32, i32) {
        let mut state = LossScaleState { scale, growth_tracker: tracker, hysteresis_tracker: rule.hysteresis };
        update_loss_scale(&mut state, found_inf, &rule);
        (state.scale, state.growth_tracker)
    }

    #[test]
    fn golden_update_kernel() {
        // docs/precision.md 2.1.
        let every = |growth_interval| LossScaleRule { growth_interval, ..TORCH };
        let top = 2f32.powi(127);
        assert_eq!(update(65536.0, 0, &[0.0], every(2)), (65536.0, 1));
        assert_eq!(update(65536.0, 1, &[0.0], every(2)), (131072.0, 0));
        assert_eq!(update(65536.0, 1, &[1.0], every(2)), (32768.0, 0));
        assert_eq!(update(65536.0, 5, &[3.0], TORCH), (32768.0, 0));
        assert_eq!(update(65536.0, 5, &[f32::NAN], TORCH), (32768.0, 0));
        assert_eq!(update(top, 0, &[0.0], every(1)), (top, 0));
        assert_eq!(update(f32::from_bits(1), 0, &[1.0], TORCH), (0.0, 0));
        assert_eq!(update(8.0, 5, &[0.0], every(3)), (8.0, 6));
        assert_eq!(update(8.0, 0, &[0.0], every(1)), (16.0, 0));
        assert_eq!(update(8.0, 0, &[0.0], every(0)), (8.0, 1));
        let thirds = LossScaleRule { backoff: Factor::from(0.3), ..TORCH };
        assert_eq!(update(10.0, 0, &[1.0], thirds), (f32::from_bits(0x4040_0000), 0));
        let half_more = LossScaleRule { growth: Factor::from(1.5), ..every(1) };
        assert_eq!(update(10.0, 0, &[0.0], half_more), (15.0, 0));
        assert_eq!(update(8.0, 3, &[0.0, -0.0, 0.0], TORCH), (8.0, 4));
        assert_eq!(update(8.0, 3, &[0.0, f32::NAN, 0.0], TORCH), (4.0, 0));
        // docs/precision.md 2.4: two optimizers, one overflow.
        assert_eq!(update(16.0, 0, &[0.0, 1.0], TORCH), (8.0, 0));
    }

    fn trace(scale: f32, found_inf: &[f32], rule: LossScaleRule) -> Vec<(f32, i32)> {
        let mut at = (scale, 0);
        let step = |f: &f32| {
            at = update(at.0, at.1, &[*f], rule);
            at
        };
        found_inf.iter().map(step).collect()
    }

    #[test]
    fn golden_traces() {
        // docs/precision.md 2.4, the scaler's part.
        let g4 = trace(1024.0, &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], LossScaleRule { growth_interval: 3, ..TORCH });
        assert_eq!(g4, [(1024.0, 1), (1024.0, 2), (2048.0, 0), (2048.0, 1), (1024.0, 0), (1024.0, 1), (1024.0, 2)]);
        let rule = LossScaleRule { growth: Factor::from(4.0), backoff: Factor::from(0.25), growth_interval: 2, ..TORCH };
        let g5 = trace(8.0, &[1.0, 1.0, 1.0, 0.0, 0.0], rule);
        assert_eq!(g5, [(2.0, 0), (0.5, 0), (0.125, 0), (0.125, 1), (0.5, 0)]);
    }

    #[test]
    fn death_spiral_of_torch_and_our_floor() {
        // docs/precision.md 2.5: 1.0 reaches exactly 0 after 150 halvings.
        let torch = trace(1.0, &[1.0; 150], TORCH);
        assert!(torch[148].0 > 0.0 && torch[149].0 == 0.0);
        let ours = trace(1.0, &[1.0; 150], LossScaleRule::default());
        assert_eq!(ours[149].0, 2f32.powi(-14));
        // A scale that starts below the floor stays, it is not raised by an overflow.
        assert_eq!(update(2f32.powi(-20), 0, &[1.0], LossScaleRule::default()).0, 2f32.powi(-20));
    }

    #[test]
    fn hysteresis_spends_its_overflows_first() {
        let rule = LossScaleRule { hysteresis: 3, ..TORCH };
        let mut s = LossScaleState { scale: 64.0, growth_tracker: 9, hysteresis_tracker: 3 };
        let seen: Vec<_> = [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
            .iter()
            .map(|&f| {
                update_loss_scale(&mut s, &[f], &rule);
                (s.scale, s.growth_tracker, s.hysteresis_tracker)
            })
            .collect();
        assert_eq!(seen, [(64.0, 0, 2), (64.0, 0, 1), (32.0, 0, 0), (16.0, 0, -1), (16.0, 1, 3), (16.0, 0, 2), (16.0, 0, 1)]);
    }

    #[test]
    fn golden_inverse() {
        // docs/precision.md 2.2.
        for (scale, bits) in [(3.0, 0x3EAA_AAAB), (7.0, 0x3E12_4925), (65536.0, 0x3780_0000), (1e-40, 0x7F80_0000)] {
            assert_eq!(inv_scale(scale).to_bits(), bits);
        }
    }

    #[test]
    fn inverse_equals_the_f64_reciprocal_for_every_significand() {
        // A binade with normal results stands for all of them; the two last binades have subnormal results.
        for exponent in [127u32, 253, 254] {
            for fraction in 0..1 << 23 {
                let scale = f32::from_bits(exponent << 23 | fraction);
                assert_eq!(inv_scale(scale).to_bits(), ((1.0 / f64::from(scale)) as f32).to_bits(), "{scale:e}");
            }
        }
    }

    #[test]
    fn product_equals_the_f64_product() {
        let mut rng = Rng::new(42, 0);
        let check = |scale: f32, factor: f64| {
            let expect = (f64::from(scale) * factor) as f32;
            assert_eq!(scale_times(scale, Factor::from(factor)).to_bits(), expect.to_bits(), "{scale:e} * {factor:e}");
        };
        for i in 0..4_000_000u64 {
            let scale = f32::from_bits(rng.next_u32());
            let mantissa = (u64::from(rng.next_u32()) << 32 | u64::from(rng.next_u32())) >> 12;
            // Near 1 as real factors are, and now and then anywhere that products of f32 range can come from.
            let spread = if i % 4 == 0 { 320 } else { 4 };
            let exponent = 1023 + rng.below(2 * spread) - spread;
            // Short significands make ties, and ties a bit off in the last place are where two roundings differ from
            // one.
            let mantissa = match i % 3 {
                0 => mantissa,
                1 => mantissa & !0xFF_FFFF_FFFF,
                _ => (mantissa & !0xFF_FFFF_FFFF).wrapping_add(rng.below(5)) & ((1 << 52) - 1),
            };
            let factor = f64::from_bits(exponent << 52 | mantissa);
            if !scale.is_nan() {
                check(scale, factor);
                check(f32::from_bits(rng.next_u32() >> 8), factor);
                check(f32::from_bits(scale.to_bits() & 0xFFFF_F000), if i % 5 == 0 { -factor } else { factor });
            }
        }
        for scale in [0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE, f32::MAX, 10.0, 1.0] {
            for factor in [0.0, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 1e-300, 5e-324, 1e300, 2f64.powi(-25), 1.0 + f64::EPSILON] {
                check(scale, factor);
            }
        }
    }

    #[test]
    fn product_rounds_twice_where_that_shows() {
        // A product just above an f32 tie that 53 bits turn into the tie: one rounding would go up, PyTorch's two go to
        // even.
        let mut rng = Rng::new(9, 0);
        let mut shown = 0;
        for _ in 0..200_000 {
            let scale = f32::from_bits(0x3F80_0000 | rng.next_u32() >> 9);
            // factor so that scale * factor is within 2^-53 of a tie: tie / scale, rounded to f64.
            let tie = f64::from(f32::from_bits(0x3F80_0000 | rng.next_u32() >> 9)) + 2f64.powi(-24);
            let factor = tie / f64::from(scale);
            let product = f64::from(scale) * factor;
            assert_eq!(scale_times(scale, Factor::from(factor)).to_bits(), (product as f32).to_bits());
            let exact_differs = f64::from(scale).mul_add(factor, -product) != 0.0;
            shown += u32::from(product == tie && exact_differs);
        }
        assert!(shown >= 1000, "{shown}");
    }
}

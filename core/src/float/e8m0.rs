//! OCP E8M0: an unsigned power of two `2^(code - 127)`, the scale of an MX block. No zero, no infinity; NaN is 0xFF.
//!
//! Code 0 is `2^-127`, a subnormal of f32 (not zero), so everything here is integer work on f32 bits: hardware that
//! flushes subnormals gives the same result. The sign of an argument is ignored (a scale comes from a largest
//! magnitude).
//!
//! | function | 0 | below 2^-126 | Inf | NaN | rule |
//! |---|---|---|---|---|---|
//! | [`encode`] | 00 | 00, above 2^-127 01 | FE saturating, else FF | FF | nearest, ties to the larger |
//! | [`encode_ceil`] | 00 | 00, above 2^-127 01 | FE | FF | next power of two up (Transformer Engine) |
//! | [`encode_floor`] | 00 | 00 | FF | FF | exponent of amax less `emax` (OCP Microscaling 1.0) |
//!
//! Sources: OCP Microscaling Formats 1.0, 5.4.1 and 6.3; Transformer Engine `float_to_e8m0`; arXiv 2506.08027.

use super::minifloat::{F32_INF, F32_MAGNITUDE, F32_NAN};
use crate::dtype::{DType, Overflow};

const NAN_CODE: u32 = 0xFF;
const MAX_CODE: u32 = NAN_CODE - 1;
const F32_MANTISSA_BITS: u32 = f32::MANTISSA_DIGITS - 1;
/// f32 bits of code 0.
const MIN_BITS: u32 = 1 << (F32_MANTISSA_BITS - 1);

/// Code of the power of two nearest to `|x|`; a tie (1.5 * 2^k) goes to the larger.
///
/// As PyTorch and ml_dtypes: what lies between `2^-127` and `2^-126` goes up. Zero and negative numbers, where those
/// two differ from each other, follow PyTorch: 00, and the sign ignored.
#[inline(always)]
pub fn encode(overflow: Overflow, x: f32) -> u8 {
    let a = x.to_bits() & F32_MAGNITUDE;
    let normal = (a + MIN_BITS) >> F32_MANTISSA_BITS;
    let subnormal = u32::from(a > MIN_BITS);
    let code = if a < MIN_BITS << 1 { subnormal } else { normal };
    finish(a, code.min(cap(overflow)))
}

/// Code of one of the two powers of two around `|x|`, the upper one with probability (distance to the lower / gap),
/// read from the upper 23 bits of `random` (22 below 2^-126). Below `2^-127` there is no lower one: code 0.
#[inline(always)]
pub fn encode_stochastic(overflow: Overflow, x: f32, random: u32) -> u8 {
    let a = x.to_bits() & F32_MAGNITUDE;
    let mantissa = a & ((1 << F32_MANTISSA_BITS) - 1);
    let normal = (a >> F32_MANTISSA_BITS) + u32::from(random >> (32 - F32_MANTISSA_BITS) < mantissa);
    let subnormal = u32::from(random >> (33 - F32_MANTISSA_BITS) < a.saturating_sub(MIN_BITS));
    let code = if a < MIN_BITS << 1 { subnormal } else { normal };
    finish(a, code.min(cap(overflow)))
}

/// Code of the smallest power of two that is not below `|x|` (Transformer Engine's round-up rule for `amax / max`).
/// Beyond `2^127`, infinity included: 0xFE.
#[inline(always)]
pub fn encode_ceil(x: f32) -> u8 {
    let a = x.to_bits() & F32_MAGNITUDE;
    let normal = (a + ((1 << F32_MANTISSA_BITS) - 1)) >> F32_MANTISSA_BITS;
    let subnormal = u32::from(a > MIN_BITS);
    let code = if a < MIN_BITS << 1 { subnormal } else { normal };
    finish(a, code.min(MAX_CODE))
}

/// Code of `2^(floor(log2 amax) - emax)` (the OCP rule, with `emax` from [`emax`] of the element format), clamped to
/// the codes there are; a non-finite `amax` gives 0xFF.
#[inline(always)]
pub fn encode_floor(amax: f32, emax: i32) -> u8 {
    let a = amax.to_bits() & F32_MAGNITUDE;
    let code = ((a >> F32_MANTISSA_BITS) as i32).saturating_sub(emax).clamp(0, NAN_CODE as i32) as u32;
    (if a >= F32_INF { NAN_CODE } else { code }) as u8
}

/// Exponent of the largest value of an element format: 8 for E4M3, 15 for E5M2; 0 for the integer types.
pub const fn emax(dtype: DType) -> i32 {
    match dtype.format() {
        Some(row) => ((row.max as f32).to_bits() >> F32_MANTISSA_BITS) as i32 - (f32::MAX_EXP - 1),
        None => 0,
    }
}

/// `2^(code - 127)`; 0xFF gives NaN.
#[inline(always)]
pub fn decode(code: u8) -> f32 {
    let code = u32::from(code);
    let bits = if code == 0 { MIN_BITS } else { code << F32_MANTISSA_BITS };
    f32::from_bits(if code == NAN_CODE { F32_NAN } else { bits })
}

/// `1 / decode(code)`, exact: the multiplier that quantizes a block. 0xFE gives the subnormal `2^-127`, 0xFF gives NaN.
#[inline(always)]
pub fn reciprocal(code: u8) -> f32 {
    decode(if u32::from(code) == NAN_CODE { code } else { MAX_CODE as u8 - code })
}

/// The power of two nearest to `|x|`, saturating.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    decode(encode(DType::E8m0.overflow(), x))
}

#[inline(always)]
fn finish(a: u32, code: u32) -> u8 {
    (if a > F32_INF { NAN_CODE } else { code }) as u8
}

#[inline(always)]
fn cap(overflow: Overflow) -> u32 {
    MAX_CODE + u32::from(matches!(overflow, Overflow::Ieee))
}

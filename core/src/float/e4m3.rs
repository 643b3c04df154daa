//! OCP E4M3 (`e4m3fn`): no infinities, one NaN per sign (`S.1111.111`), largest value 448.
//!
//! Encoding NaN: the NaN of the same sign. Decoding: the canonical f32 NaN of the same sign. Under `Ieee` a number
//! above 464 (the tie 464 itself goes to 448) and infinity become NaN; under `Saturate` they become 448. Free of
//! branches: a loop over these functions becomes vector code.

use super::minifloat::{F32_INF, F32_MAGNITUDE, F32_NAN, Layout};
use crate::dtype::{DType, Overflow};

const LAYOUT: Layout = Layout::of(DType::E4m3);

/// Code of `x`, rounded to nearest even.
#[inline(always)]
pub fn encode(overflow: Overflow, x: f32) -> u8 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode(overflow, a))
}

/// Code of `x`, rounded up in magnitude if `random` says so; see [`super::encode_stochastic`].
#[inline(always)]
pub fn encode_stochastic(overflow: Overflow, x: f32, random: u32) -> u8 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode_stochastic(overflow, a, random))
}

/// Value of a code; exact.
#[inline(always)]
pub fn decode(code: u8) -> f32 {
    let magnitude = LAYOUT.magnitude(u32::from(code));
    let sign = (u32::from(code) ^ magnitude) << 24;
    let bits = if magnitude > LAYOUT.max_code { F32_NAN } else { LAYOUT.decode(magnitude) };
    f32::from_bits(bits | sign)
}

/// `x` rounded to the grid of the format, saturating.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    decode(encode(DType::E4m3.overflow(), x))
}

#[inline(always)]
fn signed(x: f32, a: u32, finite: u32) -> u8 {
    let code = if a > F32_INF { LAYOUT.over_code() } else { finite };
    (code | LAYOUT.sign(x.to_bits())) as u8
}

//! Codecs between f32 and the stored formats: the law of rounding on every backend.
//!
//! One file a format, each with `encode`, `decode`, `round` and `encode_stochastic` for use inside vector loops; this
//! file picks one by [`DType`] for a single value, [`slices`] does so for whole slices.
//!
//! Invariants, proven over every code and (by the ignored tests in `slices_tests`) over every f32:
//! - rounding is to nearest even, subnormals included, in one step; the sign of zero is kept;
//! - `Saturate` never gives a non-finite code for a number or an infinity; `Ieee` gives infinity, or NaN in E4M3;
//! - NaN stays NaN with its sign: quiet with the upper payload bits in f16, bf16 and tf32, canonical in the 8-bit
//!   formats;
//! - `encode(decode(code)) == code` for every code that is not a NaN.
//!
//! Sources: IEEE 754-2019; OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0; for saturation
//! cuda_fp8.hpp. Interop types are those of the `half` and `float8` crates; `interop_tests` lists where those differ.

use crate::dtype::{DType, Overflow};

pub mod bf16;
pub mod e4m3;
pub mod e5m2;
pub mod e8m0;
pub mod element;
pub mod f16;
pub mod math;
mod minifloat;
pub mod slices;
pub mod tf32;
pub mod view;

#[cfg(test)]
mod interop_tests;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod slices_tests;
#[cfg(test)]
mod tests;

/// Code of `x` in `dtype`, rounded to nearest even (E8M0: nearest power of two, ties up). The integer types convert
/// toward zero, saturating; NaN gives 0.
#[inline]
pub fn encode(dtype: DType, overflow: Overflow, x: f32) -> u32 {
    match dtype {
        DType::F32 => x.to_bits(),
        DType::Tf32 => tf32::encode(overflow, x),
        DType::F16 => u32::from(f16::encode(overflow, x)),
        DType::Bf16 => u32::from(bf16::encode(overflow, x)),
        DType::E4m3 => u32::from(e4m3::encode(overflow, x)),
        DType::E5m2 => u32::from(e5m2::encode(overflow, x)),
        DType::E8m0 => u32::from(e8m0::encode(overflow, x)),
        DType::U32 => x as u32,
        DType::I32 => x as i32 as u32,
    }
}

/// Code of one of the two neighbours of `x` in `dtype`: the one further from zero with probability
/// (distance to the nearer to zero / gap), so that the expected value is `x`.
///
/// `random` is 32 uniform bits. It is read as a fraction of 2^32: `x` moves away from zero if it is less than the part
/// of the gap that truncation would lose. A conversion that discards `s` mantissa bits therefore uses the upper `s`
/// bits of `random`: 13 for f16 and tf32, 16 for bf16, 20 for E4M3, 21 for E5M2, and one more for each binade below the
/// smallest normal value; up to 32 bits the probability is exact, beyond that low by less than 2^-32. Under `Saturate`
/// a number never leaves the finite values; under `Ieee` one above the largest value may become infinite (NaN in E4M3)
/// with the same rule. f32 and the integer types are not rounded at random.
#[inline]
pub fn encode_stochastic(dtype: DType, overflow: Overflow, x: f32, random: u32) -> u32 {
    match dtype {
        DType::Tf32 => tf32::encode_stochastic(overflow, x, random),
        DType::F16 => u32::from(f16::encode_stochastic(overflow, x, random)),
        DType::Bf16 => u32::from(bf16::encode_stochastic(overflow, x, random)),
        DType::E4m3 => u32::from(e4m3::encode_stochastic(overflow, x, random)),
        DType::E5m2 => u32::from(e5m2::encode_stochastic(overflow, x, random)),
        DType::E8m0 => u32::from(e8m0::encode_stochastic(overflow, x, random)),
        DType::F32 | DType::U32 | DType::I32 => encode(dtype, overflow, x),
    }
}

/// Value of a code; exact for every floating format. Bits of `code` above the format's width are ignored.
#[inline]
pub fn decode(dtype: DType, code: u32) -> f32 {
    match dtype {
        DType::F32 => f32::from_bits(code),
        DType::Tf32 => tf32::decode(code),
        DType::F16 => f16::decode(code as u16),
        DType::Bf16 => bf16::decode(code as u16),
        DType::E4m3 => e4m3::decode(code as u8),
        DType::E5m2 => e5m2::decode(code as u8),
        DType::E8m0 => e8m0::decode(code as u8),
        DType::U32 => code as f32,
        DType::I32 => code as i32 as f32,
    }
}

/// `x` rounded to a value of `dtype` under the dtype's own overflow rule: what storing and loading it would give.
#[inline]
pub fn round_to(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::F32 => x,
        DType::Tf32 => tf32::round(x),
        DType::F16 => f16::round(x),
        DType::Bf16 => bf16::round(x),
        DType::E4m3 => e4m3::round(x),
        DType::E5m2 => e5m2::round(x),
        DType::E8m0 => e8m0::round(x),
        DType::U32 => x as u32 as f32,
        DType::I32 => x as i32 as f32,
    }
}

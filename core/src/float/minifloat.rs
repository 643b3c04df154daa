//! The bit arithmetic that the signed narrow formats share, derived from [`DType::format`] at compile time.
//!
//! Everything here works on the magnitude (the f32 bits without the sign) and is free of branches, so that a loop over
//! it becomes vector code. NaN is left to the format's own file, since each keeps another part of the payload.
//!
//! Rounding to nearest even, two ways, of which a select takes one: normal range: add half of the last kept place less
//! one, plus the last kept bit, then drop the rest (a carry walks into the exponent by itself); subnormal range: add
//! `2^23 * min_subnormal`, whose last place is `min_subnormal`, and let the f32 adder round (the method of Giesen,
//! "float_to_half_fast3_rtne"). No f32 subnormal is produced on the way, so flush-to-zero hardware gives the same bits.
//!
//! Overflow needs no branch either: the code above the largest finite one is infinity where the format has it, and NaN
//! in E4M3; so clamping at one or the other is the whole rule.
//!
//! Sources: OCP 8-bit Floating Point Specification 1.0; IEEE 754-2019; conventions of cuda_fp8.hpp.

use crate::dtype::{DType, Overflow};

/// Bits of f32 infinity; a larger magnitude is NaN.
pub(super) const F32_INF: u32 = f32::INFINITY.to_bits();
/// The bit that makes an f32 NaN quiet.
pub(super) const F32_QUIET: u32 = 1 << (F32_MANTISSA_BITS - 1);
/// The canonical quiet NaN of f32, without sign.
pub(super) const F32_NAN: u32 = F32_INF | F32_QUIET;
/// Every bit of an f32 but the sign.
pub(super) const F32_MAGNITUDE: u32 = !(1 << 31);

const F32_MANTISSA_BITS: u32 = f32::MANTISSA_DIGITS - 1;
const F32_BIAS: i32 = f32::MAX_EXP - 1;

/// What the codecs need to know of a format, as shifts and code values.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Explicit mantissa bits.
    mantissa_bits: u32,
    /// Mantissa bits of f32 that the format lacks.
    shift: u32,
    /// Where the sign sits: exponent and mantissa bits together.
    sign_at: u32,
    /// f32 exponent field of the smallest normal value.
    min_exponent: u32,
    /// Code of the largest finite value.
    pub(super) max_code: u32,
}

impl Layout {
    /// The layout of a signed floating format. Evaluated at compile time only.
    pub(super) const fn of(dtype: DType) -> Layout {
        let Some(f) = dtype.format() else { panic!("an integer type has no layout") };
        assert!(f.signed && f.mantissa_bits < F32_MANTISSA_BITS, "layouts are for signed formats narrower than f32");
        let all_ones = (1 << (f.exponent_bits + f.mantissa_bits)) - 1;
        let top_exponent = all_ones ^ ((1 << f.mantissa_bits) - 1);
        Layout {
            mantissa_bits: f.mantissa_bits,
            shift: F32_MANTISSA_BITS - f.mantissa_bits,
            sign_at: f.exponent_bits + f.mantissa_bits,
            min_exponent: (F32_BIAS - f.bias + 1) as u32,
            max_code: if f.has_inf { top_exponent - 1 } else { all_ones - 1 },
        }
    }

    /// The code one above the largest finite one: infinity, or NaN where there is none.
    pub(super) const fn over_code(self) -> u32 {
        self.max_code + 1
    }

    /// The sign of an f32 at its place in the code.
    #[inline(always)]
    pub(super) const fn sign(self, bits: u32) -> u32 {
        (bits >> 31) << self.sign_at
    }

    /// A code without its sign.
    #[inline(always)]
    pub(super) const fn magnitude(self, code: u32) -> u32 {
        code & ((1 << self.sign_at) - 1)
    }

    /// Code of the quiet NaN that keeps the upper payload bits of the f32 NaN `a`, as F16C does.
    #[inline(always)]
    pub(super) const fn nan_with_payload(self, a: u32) -> u32 {
        let mantissa = (a >> self.shift) & ((1 << self.mantissa_bits) - 1);
        self.over_code() | 1 << (self.mantissa_bits - 1) | mantissa
    }

    /// Code of the magnitude `a` (not NaN), rounded to nearest even.
    #[inline(always)]
    pub(super) fn encode(self, overflow: Overflow, a: u32) -> u32 {
        let half_less_one = (1 << (self.shift - 1)) - 1;
        let odd = (a >> self.shift) & 1;
        let normal = a.wrapping_add(half_less_one).wrapping_add(odd).wrapping_sub(self.rebias()) >> self.shift;
        if self.min_exponent == 1 {
            return normal.min(self.cap(overflow)); // f32's own exponent range: its subnormals round like the rest
        }
        let magic = (self.min_exponent + self.shift) << F32_MANTISSA_BITS;
        let subnormal = (f32::from_bits(a) + f32::from_bits(magic)).to_bits().wrapping_sub(magic);
        let code = if a < self.min_normal() { subnormal } else { normal };
        code.min(self.cap(overflow))
    }

    /// Code of the magnitude `a` (not NaN), rounded up with probability (distance to the lower neighbour / gap).
    ///
    /// The discarded part of the significand, as a fraction of the gap, is compared with `random` read as a fraction of
    /// 2^32, most significant bit first: where `s` bits are discarded only the upper `s` bits of `random` matter. The
    /// probability is exact for `s <= 32` and otherwise (values below `2^-8` of the smallest subnormal) low by less
    /// than 2^-32.
    #[inline(always)]
    pub(super) fn encode_stochastic(self, overflow: Overflow, a: u32, random: u32) -> u32 {
        let implicit = 1 << F32_MANTISSA_BITS;
        let exponent = (a >> F32_MANTISSA_BITS).max(1);
        let significand = (a & (implicit - 1)) | if a < implicit { 0 } else { implicit };
        let discarded = self.shift + self.min_exponent.saturating_sub(exponent);
        // A shift by 32 or more is a shift by 31 and one more, for WGSL's sake as well as Rust's.
        let kept = significand >> discarded.min(31);
        let fraction = if discarded <= 31 { significand << (32 - discarded) } else { significand >> (discarded - 32).min(31) };
        let code = ((exponent.max(self.min_exponent) - self.min_exponent) << self.mantissa_bits) + kept;
        (code + u32::from(random < fraction)).min(self.cap(overflow))
    }

    /// f32 bits of the finite magnitude `code`; infinities and NaN come out as numbers beyond the largest value.
    #[inline(always)]
    pub(super) fn decode(self, code: u32) -> u32 {
        let wide = code << self.shift;
        if self.min_exponent == 1 {
            return wide;
        }
        let min_normal = f32::from_bits(self.min_normal());
        let subnormal = (f32::from_bits(wide | self.min_normal()) - min_normal).to_bits();
        if code < 1 << self.mantissa_bits { subnormal } else { wide + self.rebias() }
    }

    /// As [`Layout::decode`] for a format with infinities: they stay, and NaN becomes quiet and keeps its payload.
    #[inline(always)]
    pub(super) fn decode_ieee(self, code: u32) -> u32 {
        let bits = self.decode(code);
        let non_finite = bits | F32_INF; // the exponent field is all ones already but for the bias
        let quiet = if code > self.over_code() { F32_QUIET } else { 0 };
        if code > self.max_code { non_finite | quiet } else { bits }
    }

    /// Difference of the biases, at the exponent's place in f32.
    const fn rebias(self) -> u32 {
        (self.min_exponent - 1) << F32_MANTISSA_BITS
    }

    /// f32 bits of the smallest normal value.
    const fn min_normal(self) -> u32 {
        self.min_exponent << F32_MANTISSA_BITS
    }

    /// The largest code that a number may get.
    #[inline(always)]
    fn cap(self, overflow: Overflow) -> u32 {
        self.max_code + u32::from(matches!(overflow, Overflow::Ieee))
    }
}

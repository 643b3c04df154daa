//! Tests and orders of f32 values by their bits, so that hardware that flushes subnormals or folds NaN gives the same
//! answers.

use crate::dtype::{DType, Overflow};

/// Bits of `f32::INFINITY`: with the sign bit cleared, a larger word is a NaN, an equal one an infinity.
pub(crate) const INF_BITS: u32 = f32::INFINITY.to_bits();

/// Everything but the sign.
pub(crate) const ABS_MASK: u32 = 0x7FFF_FFFF;

/// A flag kept as f32 (`found_inf`) is set: anything but +0 and -0, so NaN and 2.0 count.
#[inline(always)]
pub(crate) fn is_set(flag: f32) -> bool {
    flag.to_bits() & ABS_MASK != 0
}

/// Bits of the largest f32 that a store to `dtype` turns into zero: half the smallest subnormal (the tie goes to even).
pub(crate) fn underflow_bits(dtype: DType) -> u32 {
    dtype.format().map_or(0.0, |f| (0.5 * f.min_subnormal) as f32).to_bits()
}

/// Bits of the smallest f32 that a store to `dtype` turns into a normal value: half an ulp below the smallest one (the
/// tie goes to even, up).
pub(crate) fn subnormal_end_bits(dtype: DType) -> u32 {
    dtype.format().map_or(0.0, |f| (f.min_normal - 0.5 * f.min_subnormal) as f32).to_bits()
}

/// Bits of the smallest positive f32 that a store to `dtype` turns into infinity: half an ulp above the largest finite
/// value, which is odd, so the tie goes up. For f32 itself, and for the saturating formats, infinity.
pub(crate) fn overflow_bits(dtype: DType) -> u32 {
    let own = 23 - dtype.format().map_or(23, |f| if f.has_inf { f.mantissa_bits } else { 23 });
    match (dtype.overflow(), own) {
        (Overflow::Saturate, _) | (_, 0) => INF_BITS,
        (Overflow::Ieee, drop) => dtype.max_f32().to_bits() + (1 << (drop - 1)),
    }
}

/// The magnitude as bits, which order as the values do; 0 for NaN.
#[inline(always)]
pub(crate) fn ordered_bits(x: f32) -> u32 {
    let a = x.to_bits() & ABS_MASK;
    if a > INF_BITS { 0 } else { a }
}

/// Finite and above zero, subnormals included.
pub(crate) fn is_positive(x: f32) -> bool {
    (1..INF_BITS).contains(&x.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_thresholds_are_those_of_the_codecs() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
            let at = overflow_bits(dtype);
            let finite = |bits| {
                let code = crate::float::encode(dtype, dtype.overflow(), f32::from_bits(bits));
                crate::float::decode(dtype, code).is_finite()
            };
            assert!(finite(at - 1), "{dtype}");
            assert_eq!(finite(at), dtype.is_fp8(), "{dtype}");
            let zero = |bits| crate::float::encode(dtype, dtype.overflow(), f32::from_bits(bits)) == 0;
            assert!(zero(underflow_bits(dtype)) && !zero(underflow_bits(dtype) + 1), "{dtype}");
        }
    }
}

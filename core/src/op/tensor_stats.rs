//! `TensorStats`: what a tensor looks like and what a format would make of it, as one block of words for the host. CPU
//! kernel: `cpu/tensor_stats.rs`.
//!
//! Inputs `x` (any float dtype), where `scale_at` says so `scale` f32, then `stats` u32 [n, WORDS]; output `stats` with
//! row `slot` overwritten. With `y = x * scale` (rounded to f32; `y = x` without a scale), a row holds
//!
//! | words | type | content |
//! | --- | --- | --- |
//! | `0..BUCKETS` | u32 | elements by exponent field of `x` as f32 |
//! | [`Word::Zeros`] | u32 | zeros of either sign |
//! | [`Word::Underflow`] | u32 | finite, not zero, and zero once `y` is rounded to the format |
//! | [`Word::Subnormal`] | u32 | finite, and subnormal once `y` is rounded |
//! | [`Word::Saturated`] | u32 | finite, and `y` is above the largest value of the format |
//! | [`Word::NonFinite`] | u32 | infinite or NaN; counted here only |
//! | [`Word::Len`] | u32 | elements; 0 until the row is written |
//! | [`Word::Amax`] | f32 | largest finite magnitude of `x` |
//! | [`Word::Scale`] | f32 | the scale used, 1 without one |
//! | [`Word::Sum`], [`Word::L1`], [`Word::Squares`] | f32 | of `x * unit(amax)`, finite elements |
//! | [`Word::Signal`], [`Word::Noise`] | f32 | squares of `y * g` and of `(rounded(y) - y) * g`, see below |
//!
//! `g` is `unit(amax * scale)`; signal and noise are those of elements whose `y` and `rounded(y)` are finite.
//!
//! Counts, amax and scale are the same bits on every backend. Sums are f32 over terms of magnitude below 4, since
//! [`unit()`] is a power of two: nothing overflows, and what vanishes is below 2^-126 of the largest term. Their order
//! is the backend's own, with blocks of fixed size; the bound is `(80 + log2(len)) * 2^-24` of the sum of magnitudes of
//! the terms.

use super::{Op, arity, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;

/// Buckets of the exponent histogram: one for each exponent field of f32. Field `e` holds magnitudes in
/// `[2^(e-127), 2^(e-126))`; 0 holds zeros and f32 subnormals, 255 what is not finite.
pub const BUCKETS: usize = 256;

/// Words of a row behind the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the table at the top of the file")]
pub enum Word {
    Zeros = BUCKETS,
    Underflow,
    Subnormal,
    Saturated,
    NonFinite,
    Len,
    Amax,
    Scale,
    Sum,
    L1,
    Squares,
    Signal,
    Noise,
    Count,
}

/// Words of a row.
pub const WORDS: usize = Word::Count as usize;

/// Attributes of `TensorStats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorStats {
    /// The format that the tensor is judged by.
    pub format: DType,
    /// Which element of the `scale` operand is the scale; `None` without that operand.
    pub scale_at: Option<usize>,
    /// Row of the block.
    pub slot: usize,
}

impl TensorStats {
    /// The instruction.
    pub fn op(self) -> Op {
        Op::TensorStats(self)
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        const OP: &str = "tensor_stats";
        let states = 1 + usize::from(self.scale_at.is_some());
        arity(OP, inputs, 1 + states)?;
        let (x, stats) = (&inputs[0], &inputs[states]);
        expect_float(OP, x)?;
        expect(x.shape.numel() <= u32::MAX as usize, OP, "at most 2^32 - 1 elements, which a count can hold", x)?;
        expect(self.format.is_float(), OP, "a floating-point format", &self.format)?;
        if let Some(at) = self.scale_at {
            let ok = inputs[1].dtype == DType::F32 && at < inputs[1].shape.numel();
            expect(ok, OP, format!("a scale f32 with more than {at} elements"), &inputs[1])?;
        }
        let ok = stats.dtype == DType::U32 && stats.shape.len() == 2 && self.slot < stats.shape[0] && stats.shape[1] == WORDS;
        expect(ok, OP, format!("statistics u32 [n, {WORDS}] with n > {}", self.slot), stats)?;
        Ok(vec![stats.clone()])
    }
}

/// The power of two that brings `amax` into `[1, 2)`, as far as it is a normal f32.
pub fn unit(amax: f32) -> f32 {
    let exponent = (amax.to_bits() >> 23 & 0xFF).clamp(1, 253);
    f32::from_bits((254 - exponent) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_two_that_normalize() {
        for amax in [f32::MIN_POSITIVE, 1e-30, 0.3, 1.0, 1.999, 448.0, 1.7e38] {
            let u = unit(amax);
            assert_eq!(u.to_bits() & 0x007F_FFFF, 0);
            assert!((1.0..2.0).contains(&(amax * u)), "{amax} {u}");
        }
        for edge in [0.0, f32::from_bits(1), f32::MAX, f32::INFINITY, f32::NAN] {
            assert!(unit(edge).is_normal());
        }
        assert!(f32::MAX * unit(f32::MAX) < 4.0);
    }

    #[test]
    fn operands_are_checked() {
        let op = TensorStats { format: DType::E4m3, scale_at: Some(3), slot: 1 };
        let x = Ty::new(DType::Bf16, [4, 5]);
        let (scale, stats) = (Ty::new(DType::F32, [2, 2]), Ty::new(DType::U32, [2, WORDS]));
        assert_eq!(op.infer(&[x.clone(), scale.clone(), stats.clone()]).unwrap(), std::slice::from_ref(&stats));
        let refused = |op: TensorStats, inputs: &[&Ty]| {
            let inputs: Vec<Ty> = inputs.iter().map(|&t| t.clone()).collect();
            op.infer(&inputs).unwrap_err().to_string()
        };
        assert!(refused(op, &[&x, &stats]).contains("3 inputs"));
        assert!(refused(TensorStats { scale_at: Some(4), ..op }, &[&x, &scale, &stats]).contains("more than 4"));
        assert!(refused(TensorStats { slot: 2, ..op }, &[&x, &scale, &stats]).contains("n > 2"));
        assert!(refused(TensorStats { format: DType::E8m0, ..op }, &[&x, &scale, &stats]).contains("floating-point format"));
        assert!(refused(TensorStats { scale_at: None, ..op }, &[&stats, &stats]).contains("floating-point operand"));
    }
}

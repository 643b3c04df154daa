//! Number formats: one enum and one table.
//!
//! Every format constant of the project (448, 57344, biases, epsilons) stands in [`DType::format`] and nowhere else.
//! The codecs in `crate::float` are derived from this table and proven against it.
//! Sources: OCP 8-bit Floating Point Specification (E4M3, E5M2), OCP Microscaling Formats v1.0 (E8M0), IEEE 754-2019.

use serde::{Deserialize, Serialize};

/// Element type of a value: how it lies in memory and, for `Tf32`, how a matmul reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// Compute only: stored as `f32`; a matmul rounds its inputs to 10 mantissa bits.
    Tf32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// OCP E4M3 ("fn"): no infinities, NaN is `S.1111.111`, largest value 448.
    E4m3,
    /// OCP E5M2: IEEE-like, largest value 57344.
    E5m2,
    /// OCP E8M0: an unsigned power of two, the scale of an MX block. No zero, NaN is 0xFF.
    E8m0,
    /// Unsigned 32-bit integer: tokens, seeds, counters.
    U32,
    /// Signed 32-bit integer.
    I32,
}

/// What a conversion does with a magnitude above the largest finite value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// Clamp to the largest finite value, infinities included; NaN stays NaN. The fp8 default.
    Saturate,
    /// Round to infinity, or to NaN where the format has no infinity. The f16 and bf16 default.
    Ieee,
}

/// The facts of one floating-point format. Values are exact in `f64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Format {
    /// Token used in code, logs, files and flags.
    pub name: &'static str,
    /// Width in memory, bits.
    pub storage_bits: u32,
    /// Exponent field width, bits.
    pub exponent_bits: u32,
    /// Explicit mantissa bits.
    pub mantissa_bits: u32,
    /// Exponent bias.
    pub bias: i32,
    /// Largest finite value.
    pub max: f64,
    /// Smallest positive normal value.
    pub min_normal: f64,
    /// Smallest positive value.
    pub min_subnormal: f64,
    /// Has codes for plus and minus infinity.
    pub has_inf: bool,
    /// Has a sign bit.
    pub signed: bool,
    /// Overflow rule of a training cast.
    pub overflow: Overflow,
}

const fn format(
    name: &'static str,
    [storage_bits, exponent_bits, mantissa_bits]: [u32; 3],
    bias: i32,
    [max, min_normal, min_subnormal]: [f64; 3],
    has_inf: bool,
    signed: bool,
    overflow: Overflow,
) -> Format {
    Format { name, storage_bits, exponent_bits, mantissa_bits, bias, max, min_normal, min_subnormal, has_inf, signed, overflow }
}

/// 2^e for a normal f64 exponent.
const fn exp2(e: i32) -> f64 {
    f64::from_bits(((1023 + e) as u64) << 52)
}

use Overflow::{Ieee, Saturate};

#[rustfmt::skip]
mod table {
    use super::*;
    pub(super) const F32:  Format = format("f32",  [32, 8, 23], 127, [f32::MAX as f64, exp2(-126), exp2(-149)], true,  true,  Ieee);
    pub(super) const TF32: Format = format("tf32", [32, 8, 10], 127, [(2.0 - exp2(-10)) * exp2(127), exp2(-126), exp2(-136)], true, true, Ieee);
    pub(super) const F16:  Format = format("f16",  [16, 5, 10],  15, [65504.0, exp2(-14), exp2(-24)],           true,  true,  Ieee);
    pub(super) const BF16: Format = format("bf16", [16, 8, 7],  127, [(2.0 - exp2(-7)) * exp2(127), exp2(-126), exp2(-133)], true, true, Ieee);
    pub(super) const E4M3: Format = format("e4m3", [8, 4, 3],     7, [448.0, exp2(-6), exp2(-9)],               false, true,  Saturate);
    pub(super) const E5M2: Format = format("e5m2", [8, 5, 2],    15, [57344.0, exp2(-14), exp2(-16)],           true,  true,  Saturate);
    pub(super) const E8M0: Format = format("e8m0", [8, 8, 0],   127, [exp2(127), exp2(-127), exp2(-127)],       false, false, Saturate);
}

impl DType {
    /// Every dtype, in table order.
    pub const ALL: [DType; 9] =
        [DType::F32, DType::Tf32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2, DType::E8m0, DType::U32, DType::I32];

    /// The format row; `None` for the integer types.
    pub const fn format(self) -> Option<&'static Format> {
        match self {
            DType::F32 => Some(&table::F32),
            DType::Tf32 => Some(&table::TF32),
            DType::F16 => Some(&table::F16),
            DType::Bf16 => Some(&table::BF16),
            DType::E4m3 => Some(&table::E4M3),
            DType::E5m2 => Some(&table::E5M2),
            DType::E8m0 => Some(&table::E8M0),
            DType::U32 | DType::I32 => None,
        }
    }

    /// Token used everywhere a dtype is printed or parsed.
    pub const fn name(self) -> &'static str {
        match self {
            DType::U32 => "u32",
            DType::I32 => "i32",
            DType::F32 | DType::Tf32 | DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 => {
                match self.format() {
                    Some(row) => row.name,
                    None => "",
                }
            }
        }
    }

    /// Bytes one element takes in memory.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F32 | DType::Tf32 | DType::U32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::E4m3 | DType::E5m2 | DType::E8m0 => 1,
        }
    }

    /// A floating-point format that carries values (not integers, not the E8M0 scale).
    pub const fn is_float(self) -> bool {
        match self {
            DType::F32 | DType::Tf32 | DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 => true,
            DType::E8m0 | DType::U32 | DType::I32 => false,
        }
    }

    /// One of the two 8-bit element formats.
    pub const fn is_fp8(self) -> bool {
        matches!(self, DType::E4m3 | DType::E5m2)
    }

    /// Largest finite value as f32; 0 for integers. Exact for every format but none is above `f32::MAX`.
    pub const fn max_f32(self) -> f32 {
        match self.format() {
            Some(row) => row.max as f32,
            None => 0.0,
        }
    }

    /// The overflow rule of a training cast to this dtype.
    pub const fn overflow(self) -> Overflow {
        match self.format() {
            Some(row) => row.overflow,
            None => Overflow::Ieee,
        }
    }

    /// Unit roundoff `2^-(mantissa_bits + 1)`; 0 for integers.
    pub const fn unit_roundoff(self) -> f64 {
        match self.format() {
            Some(row) => exp2(-(row.mantissa_bits as i32) - 1),
            None => 0.0,
        }
    }

    /// Promotion of two floating dtypes: the one that holds more. f16 with bf16 gives f32, as in PyTorch.
    pub fn promote(self, other: DType) -> DType {
        if self == other {
            return self;
        }
        let wide = |d: DType| d.size_bytes();
        match (self.is_float(), other.is_float()) {
            (true, false) => self,
            (false, true) => other,
            (false, false) => DType::I32,
            (true, true) => {
                if wide(self) == wide(other) {
                    match wide(self) {
                        1 => DType::Bf16,
                        2 | 4 => DType::F32,
                        _ => DType::F32,
                    }
                } else if wide(self) > wide(other) {
                    self
                } else {
                    other
                }
            }
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = crate::Error;
    fn from_str(s: &str) -> Result<DType, crate::Error> {
        let known = DType::ALL.map(DType::name);
        DType::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| crate::near::unknown("dtype", &known, s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_rows_agree_with_their_own_fields() {
        for row in DType::ALL.iter().filter_map(|d| d.format()) {
            if row.signed {
                let min_normal = exp2(1 - row.bias);
                assert_eq!(row.min_normal, min_normal, "{}", row.name);
                assert_eq!(row.min_subnormal, min_normal * exp2(-(row.mantissa_bits as i32)), "{}", row.name);
            }
            assert_eq!(row.max as f32 as f64, row.max, "{}", row.name);
        }
    }

    #[test]
    fn names_parse_back() {
        for d in DType::ALL {
            assert_eq!(d.name().parse::<DType>().expect("own name"), d);
        }
        assert!("fp8".parse::<DType>().is_err());
    }

    #[test]
    fn promotion_is_symmetric_and_widest() {
        for a in DType::ALL {
            for b in DType::ALL {
                assert_eq!(a.promote(b), b.promote(a), "{a} {b}");
            }
        }
        assert_eq!(DType::F16.promote(DType::Bf16), DType::F32);
        assert_eq!(DType::Bf16.promote(DType::F32), DType::F32);
    }
}

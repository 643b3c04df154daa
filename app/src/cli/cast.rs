//! Flags of `cast`.

use super::number::count;
use clap::{Args, ValueEnum};
use mantissa_core::{DType, Result, near};

/// What a cast does with values that the format cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CastMode {
    /// To nearest even; beyond the largest value, the largest value.
    Saturate,
    /// To nearest even; beyond the largest value, infinity (NaN where the format has none).
    Ieee,
    /// Up or down at random, right on average.
    Stochastic,
}

/// How an e8m0 scale is rounded to a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScaleRule {
    /// The power of two not above the value.
    Floor,
    /// The power of two not below the value.
    Ceil,
}

/// Flags of `cast`.
#[derive(Clone, Debug, Args)]
pub struct CastArgs {
    /// Numbers to show in every format; or, with --to or --from, the safetensors file to read and the one to write.
    /// Put `--` before -inf
    #[arg(value_name = "NUMBER|IN OUT", required = true, num_args = 1.., allow_negative_numbers = true)]
    pub what: Vec<String>,
    /// Encode tensors of any float type, without a scale: e4m3, e5m2 and e8m0 become F8_E4M3, F8_E5M2 and F8_E8M0, tf32
    /// lies in F32. Integers and booleans are copied
    #[arg(long, value_name = "DTYPE", value_parser = dtype, conflicts_with = "from")]
    pub to: Option<DType>,
    /// Decode tensors of this format to F32, without a scale; others are copied. Files whose tensors are all U8 hold
    /// codes, as earlier versions wrote them
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    pub from: Option<DType>,
    /// Rounding and overflow [default: saturate for e4m3, e5m2 and e8m0, ieee for f16, bf16 and tf32]
    #[arg(long, conflicts_with = "from")]
    pub mode: Option<CastMode>,
    /// Seed of --mode stochastic [default: 1337]
    #[arg(long, value_name = "N", value_parser = count::<u64>, conflicts_with = "from")]
    pub seed: Option<u64>,
    /// Replace the file to write, if it is there. Never the file that is read
    #[arg(long)]
    pub force: bool,
    /// Rounding of e8m0 [default: to the nearest power of two, ties up]
    #[arg(long, conflicts_with = "from")]
    pub scale_rule: Option<ScaleRule>,
}

/// Formats that tensors are cast to and from.
pub const DTYPES: [DType; 6] = [DType::E4m3, DType::E5m2, DType::E8m0, DType::F16, DType::Bf16, DType::Tf32];

fn dtype(text: &str) -> Result<DType> {
    let known = DTYPES.map(DType::name);
    DTYPES.into_iter().find(|d| d.name() == text).ok_or_else(|| near::unknown("dtype", &known, text))
}

//! Numbers in every format, as one table: code, value, relative error, spacing and what happened on the way.
//!
//! A number is read as f64 and rounded once. The codecs start from f32, so it goes there by rounding to odd, which
//! keeps what a second rounding needs (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved
//! algorithms using rounding to odd", 2008); f32 has more than two bits more than every other format.

use super::encoder::{self, Encoder, round_to_odd};
use crate::cli::cast::{CastMode, ScaleRule};
use crate::cli::table::{CellAlignment, Left, Right, table};
use anyhow::Result;
use mantissa_core::float::{self, tf32};
use mantissa_core::{DType, Overflow};

/// Formats shown, widest first.
const DTYPES: [DType; 7] = [DType::F32, DType::Tf32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2, DType::E8m0];

/// Numbers to the right, words to the left.
const COLUMNS: [(&str, CellAlignment); 7] = [
    ("number", Right),
    ("format", Left),
    ("bits", Left),
    ("value", Right),
    ("rel_error", Right),
    ("spacing", Right),
    ("notes", Left),
];
/// Significant digits that tell any two f32 values apart.
const DIGITS: i32 = 9;

/// The table for `numbers`, which were written as `texts`. A scale rule applies to e8m0.
pub fn render(
    texts: &[String],
    numbers: &[f64],
    mode: Option<CastMode>,
    seed: Option<u64>,
    rule: Option<ScaleRule>,
) -> Result<String> {
    encoder::check(mode, seed, rule)?;
    let mut rows = Vec::new();
    for (i, (text, &x)) in texts.iter().zip(numbers).enumerate() {
        for dtype in DTYPES {
            let rule = rule.filter(|_| dtype == DType::E8m0);
            rows.push(row(text, i as u64, x, &Encoder::new(dtype, mode, seed, rule)?));
        }
    }
    Ok(table(0, COLUMNS, rows))
}

fn row(text: &str, index: u64, x: f64, encoder: &Encoder) -> [String; 7] {
    let dtype = encoder.dtype();
    let (bits, value) = cast(index, x, encoder);
    [
        text.to_string(),
        dtype.name().to_string(),
        // Tf32 lies in memory as f32.
        format!("0x{bits:0width$x}", width = 2 * dtype.size_bytes()),
        general(f64::from(value)),
        relative_error(x, f64::from(value)),
        spacing(dtype, f64::from(value)).map_or("-".into(), general),
        notes(dtype, x, value).join(", "),
    ]
}

/// Bits in memory and value.
fn cast(index: u64, x: f64, encoder: &Encoder) -> (u32, f32) {
    match encoder.dtype() {
        DType::F32 => ((x as f32).to_bits(), x as f32),
        DType::Tf32 => {
            let value = tf32::decode(encoder.code(encoder.key(""), index, round_to_odd(x)));
            (value.to_bits(), value)
        }
        dtype @ (DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 | DType::U32 | DType::I32) => {
            let code = encoder.code(encoder.key(""), index, round_to_odd(x));
            (code, float::decode(dtype, code))
        }
    }
}

/// Distance from `value` to the next larger magnitude; `None` for what is not a number.
fn spacing(dtype: DType, value: f64) -> Option<f64> {
    let format = dtype.format().filter(|_| value.is_finite())?;
    let magnitude = value.abs().max(format.min_normal);
    // A power of two: the magnitude without its mantissa. Every f32, as f64, is normal.
    let binade = f64::from_bits(magnitude.to_bits() & !((1u64 << (f64::MANTISSA_DIGITS - 1)) - 1));
    Some(binade * 0.5f64.powi(format.mantissa_bits as i32))
}

fn relative_error(x: f64, value: f64) -> String {
    if x == value {
        return "0".into();
    }
    if !x.is_finite() || !value.is_finite() {
        return "-".into();
    }
    // From zero every error is infinitely large.
    if x == 0.0 { "inf".into() } else { format!("{:.2e}", ((value - x) / x).abs()) }
}

fn notes(dtype: DType, x: f64, value: f32) -> Vec<&'static str> {
    let Some(format) = dtype.format() else { return Vec::new() };
    let mut notes = Vec::new();
    let magnitude = f64::from(value).abs();
    if x.is_nan() {
        return vec!["nan"];
    }
    let ieee = match dtype {
        DType::F32 => x as f32,
        DType::Tf32 | DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 | DType::U32 | DType::I32 => {
            float::decode(dtype, float::encode(dtype, Overflow::Ieee, round_to_odd(x)))
        }
    };
    if !value.is_finite() && x.is_finite() {
        notes.push("overflow");
    } else if !value.is_finite() && value.is_nan() {
        notes.push("no infinity");
    } else if value.is_finite() && (!ieee.is_finite() || x.is_infinite()) {
        notes.push("saturated");
    }
    if x != 0.0 && magnitude == 0.0 {
        notes.push("underflow");
    } else if format.signed && magnitude > 0.0 && magnitude < format.min_normal {
        notes.push("subnormal");
    }
    if !format.signed {
        if x.is_sign_negative() && x != 0.0 {
            notes.push("sign lost");
        }
        if x == 0.0 {
            notes.push("no zero");
        } else if x.abs() < format.min_subnormal {
            notes.push("below smallest");
        }
    }
    if notes.is_empty() && f64::from(value) == x {
        notes.push("exact");
    }
    notes
}

/// `%.9g`: nine significant digits without trailing zeros, an exponent where the point would be far away.
fn general(x: f64) -> String {
    if !x.is_finite() || x == 0.0 {
        return format!("{x}").to_lowercase();
    }
    let text = format!("{x:.*e}", (DIGITS - 1) as usize);
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let trim =
        |s: &str| if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s.to_string() };
    match exponent.parse::<i32>() {
        Ok(e) if (-5..DIGITS).contains(&e) => trim(&format!("{x:.*}", (DIGITS - 1 - e).max(0) as usize)),
        Ok(_) | Err(_) => format!("{}e{exponent}", trim(mantissa)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(x: &str, dtype: DType) -> [String; 7] {
        row(x, 0, x.parse().unwrap(), &Encoder::new(dtype, None, None, None).unwrap())
    }

    #[test]
    fn known_rows() {
        let show = |x, dtype| cells(x, dtype)[2..].join(" ");
        assert_eq!(show("0.1", DType::F32), "0x3dcccccd 0.100000001 1.49e-8 7.4505806e-9 ");
        assert_eq!(show("0.1", DType::Bf16), "0x3dcd 0.100097656 9.77e-4 0.00048828125 ");
        assert_eq!(show("300", DType::E4m3), "0x79 288 4.00e-2 32 ");
        assert_eq!(show("500", DType::E4m3), "0x7e 448 1.04e-1 32 saturated");
        assert_eq!(show("449", DType::E4m3), "0x7e 448 2.23e-3 32 ", "rounded, not clamped");
        assert_eq!(show("1e-9", DType::E4m3), "0x00 0 1.00e0 0.001953125 underflow");
        assert_eq!(show("-1e5", DType::F16), "0xfc00 -inf - - overflow");
        assert_eq!(show("0.01", DType::E4m3), "0x05 0.009765625 2.34e-2 0.001953125 subnormal");
        assert_eq!(show("-3", DType::E8m0), "0x81 4 2.33e0 4 sign lost");
        assert_eq!(show("0", DType::E8m0), "0x00 5.87747175e-39 inf 5.87747175e-39 no zero");
        assert_eq!(show("1.5", DType::Tf32), "0x3fc00000 1.5 0 0.0009765625 exact");
        assert_eq!(show("nan", DType::E4m3), "0x7f nan - - nan");
        assert_eq!(show("inf", DType::E4m3), "0x7e 448 - 32 saturated");
        assert_eq!(show("inf", DType::F16), "0x7c00 inf 0 - exact");
    }

    #[test]
    fn numbers_are_rounded_once() {
        // Just above the tie between 1 and 1 + 2^-7: through f32 it would become the tie, and then 1.
        let x = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        let bf16 = Encoder::new(DType::Bf16, None, None, None).unwrap();
        assert_eq!(cast(0, x, &bf16).1, 1.0 + 2f32.powi(-7));
        assert_eq!(float::round_to(DType::Bf16, x as f32), 1.0, "what is avoided");
        assert_eq!(cast(0, -x, &bf16).1, -1.0 - 2f32.powi(-7));
        assert_eq!(round_to_odd(1e300), f32::MAX);
        assert_eq!(round_to_odd(1e-300).to_bits(), 1);
        assert_eq!(round_to_odd(-1e-300).to_bits(), 1 << 31 | 1);
        assert_eq!(round_to_odd(0.5), 0.5);
    }

    #[test]
    fn spacing_is_the_distance_to_the_next_code() {
        for dtype in [DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
            for code in 0..0x7a {
                let code = code << (dtype.format().unwrap().storage_bits - 8);
                let (a, b) = (float::decode(dtype, code), float::decode(dtype, code + 1));
                assert_eq!(spacing(dtype, f64::from(a)), Some(f64::from(b) - f64::from(a)), "{dtype} {code:#x}");
            }
        }
    }

    #[test]
    fn the_table_has_a_row_per_number_and_format() {
        let texts = ["0.1".to_string(), "300".into()];
        let table = render(&texts, &[0.1, 300.0], None, None, None).unwrap();
        assert_eq!(table.lines().count(), 1 + 2 * 7);
        assert!(table.lines().all(|l| !l.ends_with(' ')));
        assert!(render(&texts, &[0.1, 300.0], None, Some(1), None).is_err());
    }
}

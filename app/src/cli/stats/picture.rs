//! The exponent histogram of a tensor as text: a line an octave, a bar for its share, and what each format makes of
//! that octave.

use super::{FORMATS, answers};
use crate::show::{percent, scientific, thousands};
use mantissa_core::DType;
use mantissa_core::telemetry::TensorReport;
use std::fmt::Write as _;

/// Columns of the longest bar.
const BAR: f64 = 48.0;

/// Appends the picture of a tensor. One that was not measured has none.
pub(super) fn draw(out: &mut String, t: &TensorReport) {
    let Some(stats) = &t.stats else { return };
    let octaves: Vec<(i32, u32)> = stats.histogram.magnitudes().collect();
    let _ = writeln!(
        out,
        "\n{}  {} elements in {}, mean {}, l2 {}, {} zeros",
        t.name,
        thousands(stats.len as usize),
        stats.stored,
        scientific(stats.mean),
        scientific(stats.l2),
        percent(stats.zero)
    );
    let answers = answers(t);
    let (Some(&(first, _)), Some(&(last, _))) = (octaves.first(), octaves.last()) else { return };
    let most = octaves.iter().map(|&(_, n)| n).max().unwrap_or(1);
    let formats = FORMATS.map(|d| format!("{d:<5}")).join("");
    let _ = writeln!(out, "{:>9} {:>8}  {:<width$} {}", "magnitude", "share", "", formats.trim_end(), width = BAR as usize);
    for k in (first..=last).rev() {
        let n = octaves.iter().find(|(octave, _)| *octave == k).map_or(0, |&(_, n)| n);
        let bar = "#".repeat((BAR * f64::from(n) / f64::from(most)).ceil() as usize);
        let marks: String = answers.iter().map(|a| format!("{:<5}", band(a.dtype, a.scale, k))).collect();
        let share = percent(f64::from(n) / stats.len.max(1) as f64);
        let _ = writeln!(out, "{:>9} {share:>8}  {bar:<width$} {}", format!("2^{k}"), marks.trim_end(), width = BAR as usize);
    }
    let _ = writeln!(
        out,
        "{:>9} {:>10} {:>10} {:>10} {:>10}   = normal, ~ subnormal, 0 becomes zero, ^ saturates",
        "in", "scale", "underflow", "subnormal", "saturated"
    );
    for a in answers {
        let s = a.format_loss;
        let scale = if a.scale == 1.0 { "1".into() } else { scientific(f64::from(a.scale)) };
        let [u, n, v] = [s.underflow, s.subnormal, s.saturated].map(percent);
        let _ = writeln!(out, "{:>9} {scale:>10} {u:>10} {n:>10} {v:>10}", a.dtype);
    }
}

/// What `dtype` makes of magnitudes in `[2^k, 2^(k+1))` times `scale`: by the middle of the octave, but the one that
/// holds the largest value is normal.
fn band(dtype: DType, scale: f32, k: i32) -> char {
    let Some(f) = dtype.format() else { return ' ' };
    let low = f64::from(scale) * f64::from(k).exp2();
    let middle = low * 0.5f64.exp2();
    if low > f.max {
        '^'
    } else if middle >= f.min_normal {
        '='
    } else if middle > 0.5 * f.min_subnormal {
        '~'
    } else {
        '0'
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::telemetry::{Fp8Stats, Histogram, TensorStats};

    #[test]
    fn bands_are_those_of_the_formats() {
        let bands = |dtype, ks: [i32; 5]| ks.map(|k| band(dtype, 1.0, k)).iter().collect::<String>();
        assert_eq!(bands(DType::E4m3, [-11, -10, -7, -6, 9]), "0~~=^");
        assert_eq!(bands(DType::E5m2, [-18, -17, -15, -14, 16]), "0~~=^");
        assert_eq!(bands(DType::F16, [-26, -25, -15, -14, 16]), "0~~=^");
        assert_eq!(bands(DType::Bf16, [-127, -126, 0, 100, 127]), "~====");
        assert_eq!(band(DType::E4m3, 1024.0, -16), '=');
        assert_eq!(band(DType::E4m3, 1.0, 8), '=');
    }

    #[test]
    fn a_picture_has_a_line_for_each_octave_and_format() {
        let fp8 = Fp8Stats { amax: 1.5, scale: 1.0, underflow: 0.0, saturated: 0.0, nonfinite: 0.0 };
        let fp8 = TensorReport::of_fp8("w", DType::E4m3, &fp8);
        let mut out = String::new();
        draw(&mut out, &fp8);
        assert_eq!(out, "");
        let stats = TensorStats {
            stored: DType::Bf16,
            len: 8,
            mean: 0.0,
            l1: 1.0,
            l2: 1.0,
            zero: 0.0,
            subnormal: Some(0.0),
            sqnr_db: Some(30.0),
            // Octaves -10 (twice), -8 (four times), 0 (twice).
            histogram: Histogram { first: 117, zeros: 0, counts: vec![2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2] },
        };
        draw(&mut out, &TensorReport { stats: Some(stats), ..fp8 });
        let lines: Vec<&str> = out.lines().skip(1).collect();
        assert_eq!(lines.len(), 2 + 11 + 1 + 4, "{out}");
        assert!(lines[0].starts_with("w  8 elements in bf16"), "{out}");
        let octave =
            |k: &str| lines.iter().find(|l| l.trim_start().starts_with(k)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(octave("2^0 ")[1..], ["25.00%", &"#".repeat(24), "=", "=", "=", "="]);
        assert_eq!(octave("2^-8 ")[1..], ["50.00%", &"#".repeat(48), "~", "=", "=", "="]);
        assert_eq!(octave("2^-9 ")[1..], ["0", "~", "=", "=", "="]);
        assert!(lines.iter().any(|l| l.trim_start().starts_with("e4m3") && l.contains("75.00%")), "{out}");
    }
}

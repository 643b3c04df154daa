//! Numbers for people: the same in the terminal, the window and the browser.

use crate::train::TrainConfig;

/// `1234567` as `1,234,567`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `0.001` as `1.00e-03`.
pub fn scientific(x: f64) -> String {
    let text = format!("{x:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => match exponent.strip_prefix('-') {
            Some(e) => format!("{mantissa}e-{e:0>2}"),
            None => format!("{mantissa}e+{exponent:0>2}"),
        },
        // inf and NaN have no exponent.
        None => text,
    }
}

/// A share: `0.125` as `12.50%`.
pub fn percent(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0".into(),
        p if p < 0.01 => "<0.01%".into(),
        p => format!("{p:.2}%"),
    }
}

/// A rate with a unit prefix: `85000` as `85.0k`.
pub fn prefixed(x: f64) -> String {
    let (scale, prefix) =
        [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")].into_iter().find(|(s, _)| x >= *s).unwrap_or((1.0, ""));
    format!("{:.1}{prefix}", x / scale)
}

/// A number of operations or a rate of them, spaced for its unit: `1.18e11` as `118.0 G`.
pub fn spaced(x: f64) -> String {
    let text = prefixed(x);
    match text.strip_suffix(['T', 'G', 'M', 'k']) {
        Some(number) => format!("{number} {}", &text[number.len()..]),
        None => format!("{text} "),
    }
}

/// The middle of a list (of two middles the upper one); 0 for none.
pub fn median(list: &mut [f64]) -> f64 {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes as MiB with one digit, or KiB when small.
pub fn mebibytes(bytes: usize) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib >= 102.4 { format!("{:.1} MiB", kib / 1024.0) } else { format!("{kib:.1} KiB") }
}

/// Seconds as `0:42` or `1:02:03`.
pub fn clock(secs: f64) -> String {
    let s = secs.round().max(0.0) as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// A loss scale: whole numbers plainly, small ones in scientific notation.
pub fn loss_scale(x: f32) -> String {
    // As f64: the shortest f32 text of 2^30 would be 1073741800.
    let x = f64::from(x);
    if x >= 1.0 || !x.is_finite() { format!("{x}") } else { scientific(x) }
}

/// The examples of a step as a product: `16 x 128 x 1 = 2,048`.
pub fn items_per_step(config: &TrainConfig) -> String {
    let per_row = config.model.items_per_batch(1);
    let factors = match per_row {
        1 => format!("{} x {}", config.batch, config.grad_accum),
        n => format!("{} x {n} x {}", config.batch, config.grad_accum),
    };
    format!("{factors} = {}", thousands(config.items_per_step()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0]), 4.0);
        assert_eq!(median(&mut []), 0.0);
    }

    #[test]
    fn numbers_read_as_in_the_house_style() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!(scientific(3e-4), "3.00e-04");
        assert_eq!(scientific(0.0), "0.00e+00");
        assert_eq!(scientific(f64::NAN), "NaN");
        assert_eq!((percent(0.125), percent(1e-5), percent(0.0)), ("12.50%".into(), "<0.01%".into(), "0".into()));
        assert_eq!(prefixed(85_000.0), "85.0k");
        assert_eq!(spaced(1.18e11), "118.0 G");
        assert_eq!(spaced(5.0), "5.0 ");
        assert_eq!(clock(42.2), "0:42");
        assert_eq!(clock(3723.0), "1:02:03");
        assert_eq!(loss_scale(65536.0), "65536");
        assert_eq!(loss_scale(1073741824.0), "1073741824");
        assert_eq!(loss_scale(1.0 / 16384.0), "6.10e-05");
        assert_eq!(mebibytes(3 << 20), "3.0 MiB");
    }
}

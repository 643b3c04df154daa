//! Numbers as flags take them. The messages name the range; clap puts the flag and what was found in front.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// Whole numbers in `range`.
pub fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: std::str::FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text: &str| match text.parse::<T>() {
        Ok(n) if range.contains(&n) => Ok(n),
        Ok(_) | Err(_) => Err(format!("expected a whole number from {} to {}", range.start(), range.end())),
    }
}

/// Any count, 0 included.
pub fn count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let value = text.parse::<u64>().ok().and_then(|n| T::try_from(n).ok());
    value.ok_or_else(|| "expected a whole number of at least 0, of at most 64 bits".into())
}

/// A finite number.
pub fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        Ok(_) => Err("expected a finite number".into()),
        Err(_) => Err("expected a number".into()),
    }
}

/// A finite number of at least 0.
pub fn not_negative(text: &str) -> Result<f64, String> {
    within(text, |x| x >= 0.0, "of at least 0")
}

/// A finite number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    within(text, |x| x > 0.0, "above 0")
}

/// A number above 0, at most 1.
pub fn share(text: &str) -> Result<f64, String> {
    within(text, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")
}

/// A number above 0, at most 100.
pub fn percentile(text: &str) -> Result<f64, String> {
    within(text, |x| x > 0.0 && x <= 100.0, "above 0 and at most 100")
}

fn within(text: &str, holds: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    let x = finite(text)?;
    if holds(x) { Ok(x) } else { Err(format!("expected a number {range}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_in_their_range_and_refused_with_it() {
        assert_eq!((whole(1..=8u64)("8"), count::<u32>("0"), finite("-.5"), share("1")), (Ok(8), Ok(0), Ok(-0.5), Ok(1.0)));
        for bad in ["0", "9", "-1", "2.5", "", "99999999999999999999"] {
            assert_eq!(whole(1..=8u64)(bad), Err("expected a whole number from 1 to 8".into()), "{bad}");
        }
        assert!(count::<u32>("4294967296").is_err() && count::<u64>("-1").is_err());
        assert!(not_negative("-0").is_ok() && not_negative("-1e-9").is_err() && positive("0").is_err());
        assert!(finite("nan").unwrap_err().contains("finite") && share("1.1").is_err() && percentile("0").is_err());
    }
}

//! Lesson 1: what a number becomes in each format. Run with `cargo run --release -p mantissa-lessons --bin 01_formats`.
//!
//! A format is a grid of values. Rounding moves a number to the grid; a number beyond the largest value saturates (fp8)
//! or becomes infinite (IEEE). All facts come from one table, `DType::format`.

use mantissa_core::float::{decode, encode, encode_stochastic};
use mantissa_core::rng::Rng;
use mantissa_core::{DType, Overflow};

fn main() {
    table(0.1);
    table(300.0);
    table(1e-6);
    overflow();
    stochastic();
}

fn floats() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|d| d.is_float())
}

/// One value in every format: code, decoded value, relative error, distance to the next value.
fn table(x: f32) {
    println!("{x:e} in every format\n  {:<6}{:>12}{:>16}{:>12}{:>12}", "dtype", "code", "value", "error", "spacing");
    for dtype in floats() {
        let code = encode(dtype, dtype.overflow(), x);
        let value = decode(dtype, code);
        let error = f64::from((value - x).abs()) / f64::from(x);
        let spacing = decode(dtype, code + 1) - value;
        let digits = dtype.format().map_or(0, |f| 1 + f.exponent_bits + f.mantissa_bits).div_ceil(4) as usize;
        println!("  {:<6}{:>12}{value:>16e}{error:>12.1e}{spacing:>12.1e}", dtype.name(), format!("{code:0digits$x}"));

        let Some(format) = dtype.format() else { continue };
        if f64::from(x) >= format.min_normal && f64::from(x) <= format.max {
            assert!(error <= dtype.unit_roundoff(), "{dtype}: a normal number is off by at most half a spacing");
        }
    }
    println!();
}

/// Beyond the largest value: clamp, or infinity (NaN where the format has none).
fn overflow() {
    println!("twice the largest value\n  {:<6}{:>12}{:>16}{:>12}", "dtype", "largest", "saturating", "ieee");
    for dtype in floats().filter(|d| d.size_bytes() < 4) {
        let max = dtype.max_f32();
        let [saturated, ieee] = [Overflow::Saturate, Overflow::Ieee].map(|rule| decode(dtype, encode(dtype, rule, 2.0 * max)));
        println!("  {:<6}{max:>12.4e}{saturated:>16.4e}{ieee:>12}", dtype.name());
        assert_eq!(saturated, max);
        assert!(!ieee.is_finite());
        let nan = decode(dtype, encode(dtype, Overflow::Saturate, f32::NAN));
        assert!(nan.is_nan(), "saturation never hides a NaN");
    }
    println!();
}

/// Rounding to nearest forgets small steps; random rounding keeps them on average.
fn stochastic() {
    let (start, step, n) = (1.0_f32, 0.001_f32, 10_000);
    let bf16 = DType::Bf16;
    let mut rng = Rng::new(1, 0);
    let (mut nearest, mut random) = (start, start);
    for _ in 0..n {
        nearest = decode(bf16, encode(bf16, bf16.overflow(), nearest + step));
        random = decode(bf16, encode_stochastic(bf16, bf16.overflow(), random + step, rng.next_u32()));
    }
    let exact = start + step * n as f32;
    println!("1 + {n} x {step} summed in bf16: exact {exact}, to nearest {nearest}, stochastic {random}");
    assert_eq!(nearest, start, "half a spacing is 2^-8: every step is lost");
    assert!((random - exact).abs() <= 0.1 * exact, "stochastic rounding has no bias: {random}");
}

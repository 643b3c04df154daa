//! Sweeps of `float::math` over the whole range of f32, against f64.

use super::*;

/// Error of `got` in f32 ulps of `want`; infinite where the non-finite class differs.
fn ulps(got: f32, want: f64) -> f64 {
    if want.is_nan() {
        return if got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    let rounded = want as f32;
    if rounded.is_infinite() || got.is_infinite() {
        // One ulp of slack at the overflow threshold.
        let near = want.abs() >= f64::from(f32::MAX) * (1.0 - 1e-6) && got.is_sign_positive() == (want > 0.0);
        return if got == rounded || (near && !got.is_nan()) { 0.0 } else { f64::INFINITY };
    }
    let exponent = (rounded.abs().to_bits() >> 23).max(1) as i32 - 127;
    gap(got, want) / 2f64.powi(exponent - 23)
}

/// |got - want|; infinite instead of NaN, so that comparing finds it.
fn gap(got: f32, want: f64) -> f64 {
    let gap = (f64::from(got) - want).abs();
    if gap.is_nan() { f64::INFINITY } else { gap }
}

/// Largest error over every `stride`-th f32 in `lo..=hi`.
fn worst(lo: f32, hi: f32, stride: u32, f: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    let mut code = 0u32;
    loop {
        let x = f32::from_bits(code);
        if x >= lo && x <= hi {
            let e = ulps(f(x), want(f64::from(x)));
            if e > worst.0 {
                worst = (e, x);
            }
        }
        match code.checked_add(stride) {
            Some(next) => code = next,
            None => return worst,
        }
    }
}

fn check(name: &str, tol: f64, lo: f32, hi: f32, f: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) {
    let (e, x) = worst(lo, hi, 1009, f, want);
    println!("{name}: {e:.3} ulp at {x:e}");
    assert!(e <= tol, "{name}: {e} ulp at {x:e}");
}

/// erf in f64: Taylor series, and the continued fraction of erfc where that converges faster.
fn erf64(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut frac = 0.0;
    for k in (1..120).rev() {
        frac = f64::from(k) / 2.0 / (a + frac);
    }
    let erfc = (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + frac);
    (1.0 - erfc).copysign(x)
}

const INF: f32 = f32::INFINITY;

#[test]
fn exp_is_within_two_ulp() {
    check("exp", 2.0, -INF, INF, exp, f64::exp);
    check("exp dense", 2.0, -105.0, 90.0, exp, f64::exp);
    assert_eq!(exp(88.73), INF);
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f32::NAN).is_nan());
    assert!(exp(-100.0) > 0.0, "gradual underflow");
}

#[test]
fn ln_is_within_two_ulp() {
    check("ln", 2.0, -INF, INF, ln, f64::ln);
    let (e, x) = worst(0.7, 1.5, 3, ln, f64::ln);
    assert!(e <= 2.0, "{e} ulp at {x}");
    assert_eq!(ln(0.0), -INF);
    assert_eq!(ln(-0.0), -INF);
    assert_eq!(ln(INF), INF);
    assert!(ln(-1e-45).is_nan() && ln(-INF).is_nan() && ln(f32::NAN).is_nan());
    assert_eq!(ln(1.0).to_bits(), 0);
}

#[test]
fn tanh_and_erf_are_within_three_ulp() {
    check("tanh", 3.0, -INF, INF, tanh, f64::tanh);
    check("erf", 3.0, -INF, INF, erf, erf64);
    for f in [tanh, erf, sin] {
        assert_eq!(f(-0.0).to_bits(), (-0.0f32).to_bits());
        assert!(f(f32::NAN).is_nan());
    }
    assert_eq!((tanh(INF), tanh(-INF), erf(INF), erf(-INF)), (1.0, -1.0, 1.0, -1.0));
}

#[test]
fn sigmoid_and_softplus_hold_in_both_tails() {
    check("sigmoid", 2.0, -INF, INF, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
    check("softplus", 3.0, -INF, INF, softplus, |x| if x > 40.0 { x } else { x.exp().ln_1p() });
    assert_eq!((sigmoid(INF), sigmoid(-INF), softplus(INF), softplus(-INF)), (1.0, 0.0, INF, 0.0));
    assert!(sigmoid(f32::NAN).is_nan() && softplus(f32::NAN).is_nan());
}

#[test]
fn sin_and_cos_hold_up_to_1e5() {
    for (name, f, want) in [("sin", sin as fn(f32) -> f32, f64::sin as fn(f64) -> f64), ("cos", cos, f64::cos)] {
        let mut worst = (0.0, 0.0);
        for i in 0..4_000_000 {
            let x = (f64::from(i) * 0.05 - 1e5) as f32;
            let near = (f64::from(i) * 5e-6 - 10.0) as f32;
            for x in [x, near] {
                let e = gap(f(x), want(f64::from(x)));
                if e > worst.0 {
                    worst = (e, x);
                }
            }
        }
        println!("{name}: {worst:?}");
        assert!(worst.0 <= 2f64.powi(-23), "{name}: {worst:?}");
        for x in [1e6, 1e20, f32::MAX, -f32::MAX] {
            assert!(f(x).abs() <= 1.0, "{name}({x}) = {}", f(x));
        }
        assert!(f(INF).is_nan() && f(-INF).is_nan() && f(f32::NAN).is_nan());
    }
    check("sin small", 3.0, -1.0, 1.0, sin, f64::sin);
}

#[test]
fn pow_is_within_three_ulp() {
    let mut rng = crate::rng::Rng::new(3, 0);
    let mut worst = (0.0, 0.0, 0.0);
    for i in 0..3_000_000 {
        // Any positive x, subnormals included; y such that the result is mostly in range.
        let x = f32::from_bits(rng.next_u32() % 0x7f80_0000);
        let x = if i % 3 == 0 { 0.5 + 1.5 * rng.uniform() } else { x };
        let reach = if i % 5 == 0 { 400.0 } else { 150.0 };
        let y = (f64::from(2.0 * rng.uniform() - 1.0) * reach / f64::from(x).log2().abs().max(1e-9)) as f32;
        let e = ulps(pow(x, y), f64::from(x).powf(f64::from(y)));
        if e > worst.0 {
            worst = (e, x, y);
        }
    }
    println!("pow: {worst:?}");
    assert!(worst.0 <= 3.0, "{worst:?}");
}

#[test]
fn pow_special_cases_are_those_of_c() {
    let values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        1.5,
        -1.5,
        1e-45,
        -1e-45,
        f32::MIN_POSITIVE,
        f32::MAX,
        -f32::MAX,
        INF,
        -INF,
        f32::NAN,
        8_388_607.0,
        8_388_609.0,
        16_777_215.0,
        16_777_216.0,
        -16_777_215.0,
        8_388_607.5,
        4_194_303.5,
        1.000_000_1,
        0.999_999_94,
        1e10,
        -1e10,
        1e30,
    ];
    for x in values {
        for y in values {
            let want = f64::from(x).powf(f64::from(y));
            let got = pow(x, y);
            assert!(ulps(got, want) <= 3.0, "pow({x}, {y}) = {got}, want {want}");
            if !want.is_nan() {
                assert_eq!(got.is_sign_negative(), want.is_sign_negative(), "sign of pow({x}, {y})");
            }
        }
    }
}

#[test]
fn vectorized_loops_give_the_bits_of_scalar_calls() {
    let x: Vec<f32> = (0..4099u32).map(|i| f32::from_bits(i.wrapping_mul(1_048_583))).collect();
    let mut y = vec![0.0; x.len()];
    for f in [exp, ln, tanh, erf, sigmoid, softplus, sin, cos] {
        crate::par::simd::vectorize(|| {
            for (y, x) in y.iter_mut().zip(&x) {
                *y = f(*x);
            }
        });
        for (y, x) in y.iter().zip(&x) {
            let s = std::hint::black_box(f)(*x);
            assert!(y.to_bits() == s.to_bits() || (y.is_nan() && s.is_nan()), "{x:e}");
        }
    }
}

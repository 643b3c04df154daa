//! The scalar codecs against the f64 oracle, the codes of docs/precision.md 1.3 and the rules of E8M0 (1.2).

use super::oracle::Oracle;
use super::*;
use crate::rng::Rng;
use DType::{Bf16, E4m3, E5m2, E8m0, F16, F32, I32, Tf32, U32};
use Overflow::{Ieee, Saturate};

pub(super) const NARROW: [DType; 5] = [Tf32, F16, Bf16, E4m3, E5m2];
pub(super) const MODES: [Overflow; 2] = [Saturate, Ieee];

/// f32 inputs that matter: each exponent with each pattern of the mantissa around a rounding boundary of any format,
/// the specials, and random bits. Both signs.
pub(super) fn stratified() -> Vec<f32> {
    let mut bits =
        vec![0, 1, 2, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FBF_FFFF, 0x7FC0_0000, 0x7FFF_FFFF];
    for exponent in 0..=255u32 {
        // A value or midpoint of a format has at most the upper 11 mantissa bits set: every pattern of the upper five,
        // the rest all zeros or all ones.
        for kept in 0..=11u32 {
            let upper = kept.min(5);
            for pattern in 0..1u32 << upper {
                for rest in [0, (1 << (kept - upper)) - 1] {
                    let boundary = pattern << (23 - upper) | rest << (23 - kept);
                    for near in [0, 1, 2, 0x7F_FFFF, 0x7F_FFFE] {
                        bits.push(exponent << 23 | ((boundary + near) & 0x7F_FFFF));
                    }
                }
            }
        }
    }
    let mut rng = Rng::new(7, 0);
    bits.extend((0..200_000).map(|_| rng.next_u32() & 0x7FFF_FFFF));
    bits.sort_unstable();
    bits.dedup();
    bits.iter().flat_map(|&b| [f32::from_bits(b), f32::from_bits(b | 1 << 31)]).collect()
}

#[test]
fn golden_codes() {
    // f32, saturating E4M3, E5M2, and under Ieee E4M3, E5M2.
    let rows: [(u32, [u32; 2], [u32; 2]); 26] = [
        (0x0000_0000, [0x00, 0x00], [0x00, 0x00]),
        (0x8000_0000, [0x80, 0x80], [0x80, 0x80]),
        (0x3f80_0000, [0x38, 0x3c], [0x38, 0x3c]),
        (0x3f8c_cccd, [0x39, 0x3c], [0x39, 0x3c]),
        (0x3f88_0000, [0x38, 0x3c], [0x38, 0x3c]),
        (0x3f98_0000, [0x3a, 0x3d], [0x3a, 0x3d]),
        (0x3fa8_0000, [0x3a, 0x3d], [0x3a, 0x3d]),
        (0x3c80_0000, [0x08, 0x24], [0x08, 0x24]),
        (0x3b40_0000, [0x02, 0x1a], [0x02, 0x1a]),
        (0x3b00_0000, [0x01, 0x18], [0x01, 0x18]),
        (0x3a80_0000, [0x00, 0x14], [0x00, 0x14]),
        (0x3a80_0001, [0x01, 0x14], [0x01, 0x14]),
        (0x3780_0000, [0x00, 0x01], [0x00, 0x01]),
        (0x3700_0000, [0x00, 0x00], [0x00, 0x00]),
        (0x3700_0001, [0x00, 0x01], [0x00, 0x01]),
        (0x43e0_0000, [0x7e, 0x5f], [0x7e, 0x5f]),
        (0x43e8_0000, [0x7e, 0x5f], [0x7e, 0x5f]),
        (0x43e8_0001, [0x7e, 0x5f], [0x7f, 0x5f]),
        (0x4400_0000, [0x7e, 0x60], [0x7f, 0x60]),
        (0x4760_0000, [0x7e, 0x7b], [0x7f, 0x7b]),
        (0x476f_ffff, [0x7e, 0x7b], [0x7f, 0x7b]),
        (0x4770_0000, [0x7e, 0x7b], [0x7f, 0x7c]),
        (0x7f80_0000, [0x7e, 0x7b], [0x7f, 0x7c]),
        (0xff80_0000, [0xfe, 0xfb], [0xff, 0xfc]),
        (0x7fc0_0000, [0x7f, 0x7e], [0x7f, 0x7e]),
        (0xffc0_0001, [0xff, 0xfe], [0xff, 0xfe]),
    ];
    for (bits, saturate, ieee) in rows {
        for (mode, want) in [(Saturate, saturate), (Ieee, ieee)] {
            let x = f32::from_bits(bits);
            assert_eq!([E4m3, E5m2].map(|d| encode(d, mode, x)), want, "{bits:08x} {mode:?}");
        }
    }
}

#[test]
fn encode_is_the_oracle_on_the_stratified_sample() {
    let sample = stratified();
    for dtype in NARROW {
        let oracle = Oracle::new(dtype);
        for mode in MODES {
            for &x in &sample {
                let (got, want) = (encode(dtype, mode, x), oracle.encode(mode, x));
                assert_eq!(got, want, "{dtype} {mode:?} {:08x}", x.to_bits());
            }
        }
    }
}

#[test]
fn every_code_decodes_to_its_value_and_encodes_back() {
    for dtype in NARROW {
        let oracle = Oracle::new(dtype);
        for code in oracle.finite_codes() {
            for (code, value) in [(code, oracle.value(code)), (code | oracle.sign(), -oracle.value(code))] {
                let x = decode(dtype, code);
                assert_eq!(f64::from(x).to_bits(), value.to_bits(), "{dtype} {code:x}");
                assert_eq!(MODES.map(|m| encode(dtype, m, x)), [code; 2], "{dtype} {code:x}");
                assert_eq!(round_to(dtype, x).to_bits(), x.to_bits());
                assert_eq!(encode_stochastic(dtype, Saturate, x, 0), code, "{dtype} {code:x}");
            }
        }
        let has_inf = dtype.format().expect("a floating dtype").has_inf;
        for code in oracle.over()..oracle.sign() {
            let x = decode(dtype, code);
            assert_eq!(x == f32::INFINITY, has_inf && code == oracle.over(), "{dtype} {code:x}");
            assert_eq!(x.is_nan(), x != f32::INFINITY, "{dtype} {code:x}");
            let negative = decode(dtype, code | oracle.sign());
            assert_eq!(negative.to_bits(), x.to_bits() | 1 << 31, "{dtype} {code:x}");
            if x.is_nan() {
                let back = encode(dtype, Saturate, x);
                assert!(back > oracle.over() || !has_inf && back == oracle.over(), "{dtype} {code:x}");
            }
        }
    }
    for bits in [0, 1, 0x8000_0000, 0x7F80_0001, 0xFFC0_1234] {
        assert_eq!(encode(F32, Saturate, decode(F32, bits)), bits);
        assert_eq!(decode(U32, bits), bits as f32);
        assert_eq!(encode(I32, Saturate, bits as i32 as f32) as i32, bits as i32 as f32 as i32);
    }
}

#[test]
fn round_to_is_decode_of_encode_and_idempotent() {
    for dtype in DType::ALL {
        for &x in &stratified() {
            let r = round_to(dtype, x);
            if !matches!(dtype, U32 | I32) {
                assert_eq!(r.to_bits(), decode(dtype, encode(dtype, dtype.overflow(), x)).to_bits());
                assert_eq!(r.is_nan(), x.is_nan(), "{dtype}");
            }
            assert_eq!(round_to(dtype, r).to_bits(), r.to_bits(), "{dtype} {:08x}", x.to_bits());
        }
    }
}

#[test]
fn stochastic_rounding_has_the_exact_probability() {
    let two32 = 2f64.powi(32);
    for dtype in NARROW {
        let oracle = Oracle::new(dtype);
        for &x in &stratified() {
            let sign = if x.is_sign_negative() { oracle.sign() } else { 0 };
            let a = f64::from(x.abs());
            let within = a < oracle.value(oracle.over());
            if !within {
                for random in [0, 1 << 31, u32::MAX] {
                    assert_eq!(MODES.map(|m| encode_stochastic(dtype, m, x, random)), MODES.map(|m| encode(dtype, m, x)));
                }
                continue;
            }
            // The neighbour toward zero: RNE, or one less where it rounded away.
            let nearest = oracle.encode(Ieee, x) & !sign;
            let lower = nearest - u32::from(oracle.value(nearest) > a);
            let (lo, hi) = (oracle.value(lower), oracle.value(lower + 1));
            // Up for exactly the `threshold` smallest of the 2^32 random words.
            let exact = (a - lo) / (hi - lo) * two32;
            let threshold = exact.floor();
            assert!(exact - threshold < 1.0 && threshold < two32);
            let check = |random: u32, up: u32| {
                let want = lower + up;
                assert_eq!(encode_stochastic(dtype, Ieee, x, random), want | sign, "{dtype} {:08x} {random:x}", x.to_bits());
                let finite = want.min(oracle.over() - 1);
                assert_eq!(encode_stochastic(dtype, Saturate, x, random), finite | sign, "{dtype} {:08x}", x.to_bits());
            };
            if threshold > 0.0 {
                check(0, 1);
                check((threshold - 1.0) as u32, 1);
            }
            check(threshold as u32, 0);
            check(u32::MAX, 0);
            // Nothing is lost to the 32 bits until the value is below 2^-8 of the smallest subnormal.
            assert!(exact == threshold || a < oracle.value(1) / 256.0, "{dtype} {:08x}", x.to_bits());
        }
    }
}

#[test]
fn stochastic_rounding_of_e8m0_has_the_exact_probability() {
    for x in [1.0f32, 1.25, 1.5, 3.999, 2f32.powi(-126) * 1.125, f32::from_bits(0x0050_0000), f32::from_bits(0x0020_0000), 0.0]
    {
        let lower = e8m0::encode_ceil(x)
            - u8::from(f64::from(e8m0::decode(e8m0::encode_ceil(x))) > f64::from(x) && x > e8m0::decode(0));
        let (lo, hi) = (f64::from(e8m0::decode(lower)), 2.0 * f64::from(e8m0::decode(lower)));
        let threshold = ((f64::from(x) - lo).max(0.0) / (hi - lo) * 2f64.powi(32)) as u32;
        assert_eq!(e8m0::encode_stochastic(Saturate, x, threshold), lower, "{x}");
        if threshold > 0 {
            assert_eq!(e8m0::encode_stochastic(Saturate, x, threshold - 1), lower + 1, "{x}");
        }
    }
    assert_eq!(MODES.map(|m| e8m0::encode_stochastic(m, f32::INFINITY, 0)), [0xFE, 0xFF]);
    assert_eq!(e8m0::encode_stochastic(Saturate, f32::NAN, 0), 0xFF);
    assert_eq!(e8m0::encode_stochastic(Saturate, f32::MAX, 0), 0xFE);
}

#[test]
fn e8m0_decodes_every_code_exactly() {
    for code in 0..=254u8 {
        let value = 2f64.powi(i32::from(code) - 127);
        assert_eq!(f64::from(e8m0::decode(code)), value);
        assert_eq!(f64::from(e8m0::reciprocal(code)), 1.0 / value);
        let x = e8m0::decode(code);
        assert_eq!([encode(E8m0, Saturate, x), encode(E8m0, Ieee, -x)], [u32::from(code); 2]);
        assert_eq!([e8m0::encode_ceil(x), e8m0::encode_floor(x, 0)], [code; 2]);
    }
    assert_eq!(e8m0::decode(0).to_bits(), 0x0040_0000);
    assert_eq!(e8m0::reciprocal(254).to_bits(), 0x0040_0000);
    assert!(e8m0::decode(255).is_nan() && e8m0::reciprocal(255).is_nan());
}

#[test]
fn e8m0_rounds_by_each_rule() {
    for (x, code) in [(0.75, 0x7f), (1.0, 0x7f), (1.4, 0x7f), (1.5, 0x80), (2.0, 0x80), (3.0, 0x81), (6.0, 0x82), (0.0, 0x00)] {
        assert_eq!(MODES.map(|m| e8m0::encode(m, x)), [code; 2], "{x}");
    }
    let at = f32::from_bits;
    // The same bits from ml_dtypes 0.6 (run), for what is above zero.
    for (bits, nearest) in [
        (1, 0x00),
        (0x20_0001, 0x00),
        (0x3f_ffff, 0x00),
        (0x40_0000, 0x00),
        (0x40_0001, 0x01),
        (0x5f_ffff, 0x01),
        (0x7f_ffff, 0x01),
        (0x80_0000, 0x01),
        (0xbf_ffff, 0x01),
        (0xc0_0000, 0x02),
        (0x7f00_0000, 0xfe),
        (0x7f3f_ffff, 0xfe),
        (0x7f40_0000, 0xff),
        (0x7f7f_ffff, 0xff),
        (0x7f80_0000, 0xff),
        (0xff80_0000, 0xff),
        (0x7fc0_0000, 0xff),
    ] {
        assert_eq!(e8m0::encode(Ieee, at(bits)), nearest, "{bits:x}");
        let is_nan = at(bits).is_nan();
        assert_eq!(e8m0::encode(Saturate, at(bits)), if is_nan { 0xff } else { nearest.min(0xfe) }, "{bits:x}");
    }
    // x, round up (Transformer Engine), floor with emax 0 (OCP).
    for (bits, ceil, floor) in [
        (0, 0x00, 0x00),
        (1, 0x00, 0x00),
        (0x40_0000, 0x00, 0x00),
        (0x40_0001, 0x01, 0x00),
        (0x7f_ffff, 0x01, 0x00),
        (0x80_0000, 0x01, 0x01),
        (0x80_0001, 0x02, 0x01),
        (0x3f80_0000, 0x7f, 0x7f),
        (0x3f80_0001, 0x80, 0x7f),
        (0x7f00_0000, 0xfe, 0xfe),
        (0x7f00_0001, 0xfe, 0xfe),
        (0x7f7f_ffff, 0xfe, 0xfe),
        (0x7f80_0000, 0xfe, 0xff),
        (0x7fc0_0000, 0xff, 0xff),
        (0x7f80_0001, 0xff, 0xff),
    ] {
        assert_eq!([e8m0::encode_ceil(at(bits)), e8m0::encode_floor(at(bits), 0)], [ceil, floor], "{bits:x}");
    }
    assert_eq!([E4m3, E5m2].map(e8m0::emax), [8, 15]);
    assert_eq!(e8m0::encode_floor(f32::MAX, -1), 0xff);
    assert_eq!(e8m0::encode_floor(1.0, i32::MIN), 0xff);
}

/// The three rules of E8M0 from powers of two in f64; `None` for what is not finite.
pub(super) fn e8m0_oracle(x: f32) -> Option<[u8; 3]> {
    let a = f64::from(x.abs());
    let value = |code: u8| 2f64.powi(i32::from(code) - 127);
    let exponent = ((a.to_bits() >> 52) as i32 - 1023 + 127).clamp(0, 254) as u8; // floor(log2 a), of f64
    let above = u8::from(a > value(exponent));
    let half_way = exponent > 0 && a < 1.5 * value(exponent);
    let nearest = exponent + if half_way { 0 } else { above };
    x.is_finite().then_some([nearest, (exponent + above).min(254), exponent])
}

#[test]
fn e8m0_is_its_oracle_on_the_stratified_sample() {
    for &x in &stratified() {
        if let Some(want) = e8m0_oracle(x) {
            assert_eq!([e8m0::encode(Ieee, x), e8m0::encode_ceil(x), e8m0::encode_floor(x, 0)], want, "{:08x}", x.to_bits());
        }
    }
}

#[test]
fn golden_g4_block_scales_of_e4m3() {
    let max_inverse = (1.0 / E4m3.format().expect("a floating dtype").max) as f32;
    assert_eq!(max_inverse.to_bits(), 0x3b12_4925);
    let above_448 = f32::from_bits(0x43e0_0003);
    for (amax, up, floor) in [
        (0.0, 0x00, 0x00),
        (1.0, 0x77, 0x77),
        (1.75, 0x77, 0x77),
        (1.750_000_1, 0x78, 0x77),
        (150.0, 0x7e, 0x7e),
        (224.0, 0x7e, 0x7e),
        (256.0, 0x7f, 0x7f),
        (448.0, 0x7f, 0x7f),
        (above_448, 0x80, 0x7f),
        (500.0, 0x80, 0x7f),
        (512.0, 0x80, 0x80),
        (896.0, 0x80, 0x80),
        (3.4e38, 0xf7, 0xf6),
        (f32::INFINITY, 0xfe, 0xff),
        (f32::NAN, 0xff, 0xff),
    ] {
        assert_eq!([e8m0::encode_ceil(amax * max_inverse), e8m0::encode_floor(amax, e8m0::emax(E4m3))], [up, floor], "{amax}");
    }
}

#[test]
fn sqnr_anchors() {
    // N(0, 1), 2^20 samples, scale max / amax: section 7 of the fp8 reference.
    let mut rng = Rng::new(1, 0);
    let x: Vec<f32> = (0..1 << 20).map(|_| rng.normal()).collect();
    let amax = x.iter().fold(0f32, |a, x| a.max(x.abs()));
    for (dtype, anchor) in [(E4m3, 31.54), (E5m2, 25.57)] {
        let scale = dtype.max_f32() / amax;
        let scale_inv = 1.0 / scale;
        let mut codes = vec![0u8; x.len()];
        let mut y = vec![0f32; x.len()];
        slices::encode_scaled(dtype, Saturate, &x, scale, &mut codes);
        slices::decode_scaled(dtype, &codes, scale_inv, &mut y);
        let square = |v: f32| f64::from(v) * f64::from(v);
        let noise: f64 = x.iter().zip(&y).map(|(&x, &y)| square(x - y)).sum();
        let sqnr = 10.0 * (x.iter().map(|&x| square(x)).sum::<f64>() / noise).log10();
        assert!((sqnr - anchor).abs() <= 0.05, "{dtype} {sqnr}");
        let lost = x.iter().zip(&codes).filter(|(x, c)| **x != 0.0 && **c & 0x7F == 0).count();
        assert!(lost <= 32, "{dtype} {lost}"); // 0.00076 % of 2^20 is 8
    }
}

//! Where the `half` and `float8` crates agree with our law, and every class of inputs where they do not.

use super::oracle::Oracle;
use super::tests::stratified;
use super::*;
use DType::{Bf16, E4m3, E5m2, F16};
use Overflow::{Ieee, Saturate};
use float8::{F8E4M3, F8E5M2};

#[test]
fn half_f16_agrees_everywhere() {
    for code in 0..=u16::MAX {
        assert_eq!(f16::decode(code).to_bits(), half::f16::from_bits(code).to_f32().to_bits(), "{code:x}");
    }
    for &x in &stratified() {
        assert_eq!(f16::encode(Ieee, x), half::f16::from_f32(x).to_bits(), "{:08x}", x.to_bits());
    }
}

#[test]
fn half_bf16_differs_only_in_decoding_signaling_nan() {
    for code in 0..=u16::MAX {
        let (ours, theirs) = (bf16::decode(code).to_bits(), half::bf16::from_bits(code).to_f32().to_bits());
        // Ours is a shift; `half` sets the quiet bit.
        let signaling = code & 0x7FC0 == 0x7F80 && code & 0x3F != 0;
        assert_eq!(theirs, if signaling { ours | 0x0040_0000 } else { ours }, "{code:x}");
    }
    for &x in &stratified() {
        assert_eq!(bf16::encode(Ieee, x), half::bf16::from_f32(x).to_bits(), "{:08x}", x.to_bits());
    }
}

#[test]
fn half_never_saturates() {
    // Its only rule is Ieee; ours under Saturate differs for what rounds beyond the largest value, and for infinity.
    for dtype in [F16, Bf16] {
        let oracle = Oracle::new(dtype);
        for &x in &stratified() {
            let over = x.abs() == f32::INFINITY || !x.is_nan() && encode(dtype, Ieee, x) & !oracle.sign() == oracle.over();
            assert_eq!(encode(dtype, Saturate, x) != encode(dtype, Ieee, x), over, "{dtype} {:08x}", x.to_bits());
        }
    }
}

#[test]
fn float8_decodes_as_ours_but_for_nan() {
    for code in 0..=u8::MAX {
        for (ours, theirs) in
            [(e4m3::decode(code), F8E4M3::from_bits(code).to_f32()), (e5m2::decode(code), F8E5M2::from_bits(code).to_f32())]
        {
            if ours.is_nan() {
                // `float8` passes NaN through a canonical f16: 0x7FFF, its sign lost. Ours keeps the sign.
                assert_eq!(theirs.to_bits(), 0x7FFF_E000, "{code:x}");
                assert_eq!(ours.to_bits(), 0x7FC0_0000 | u32::from(code >> 7) << 31, "{code:x}");
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{code:x}");
            }
        }
    }
}

#[test]
fn float8_encodes_as_ours_saturating_but_for_e5m2_nan() {
    for &x in &stratified() {
        assert_eq!(e4m3::encode(Saturate, x), F8E4M3::from_f32(x).to_bits(), "{:08x}", x.to_bits());
        let (ours, theirs) = (e5m2::encode(Saturate, x), F8E5M2::from_f32(x).to_bits());
        if x.is_nan() {
            // `float8`, like cuda_fp8.hpp, ors the upper payload bits into the NaN: 7E or 7F. Ours is always 7E.
            assert_eq!(theirs, ours | ((x.to_bits() >> 21) as u8 & 1), "{:08x}", x.to_bits());
        } else {
            assert_eq!(ours, theirs, "{:08x}", x.to_bits());
        }
    }
}

#[test]
fn float8_has_no_ieee_mode() {
    for dtype in [E4m3, E5m2] {
        let oracle = Oracle::new(dtype);
        for &x in &stratified() {
            let over = !x.is_nan() && encode(dtype, Ieee, x) & !oracle.sign() == oracle.over();
            assert_eq!(encode(dtype, Saturate, x) != encode(dtype, Ieee, x), over, "{dtype} {:08x}", x.to_bits());
        }
    }
}

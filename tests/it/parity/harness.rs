//! The comparison must be able to fail.

use mantissa_core::DType;
use mantissa_core::shape::Ty;
use mantissa_tests::machine::bytes_of;
use mantissa_tests::parity::{Bound, compare};

#[test]
fn one_changed_element_is_seen() {
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::E4m3] {
        let ty = Ty::new(dtype, [5]);
        let want = bytes_of(&ty, &[1.0, -2.0, 0.5, 0.0, 3.0]);
        for bound in [Bound::Exact, Bound::Ulps(4.0), Bound::Absolute(vec![1e-3])] {
            compare(&ty, &want, &want, &bound).expect("equal to itself");
            let off = bytes_of(&ty, &[1.0, -2.0, 1.5, 0.0, 3.0]);
            let e = compare(&ty, &off, &want, &bound).expect_err("a wrong element");
            assert!(e.contains("at 2"), "{e}");
            let nan = bytes_of(&ty, &[1.0, -2.0, f32::NAN, 0.0, 3.0]);
            assert!(compare(&ty, &nan, &want, &bound).is_err(), "{dtype}: a NaN passes");
            assert!(compare(&ty, &want[1..], &want, &bound).is_err(), "{dtype}: a short value passes");
        }
    }
}

#[test]
fn infinities_match_by_sign_and_nan_by_class() {
    let ty = Ty::new(DType::F32, [2]);
    let inf = bytes_of(&ty, &[f32::INFINITY, f32::NAN]);
    compare(&ty, &inf, &inf, &Bound::Ulps(1.0)).expect("the same class");
    for wrong in [[f32::NEG_INFINITY, f32::NAN], [f32::MAX, f32::NAN], [f32::INFINITY, 1.0]] {
        assert!(compare(&ty, &bytes_of(&ty, &wrong), &inf, &Bound::Ulps(1e30)).is_err(), "{wrong:?}");
    }
}

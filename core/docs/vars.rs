//! Shapes and dtypes of recorded values, and an error that names its line.

use mantissa_core::precision::Region;
use mantissa_core::program::Rate;
use mantissa_core::{DType, Result, shape::Ty, trace::Graph};

pub(crate) fn shapes_and_dtypes() -> Result<()> {
    let g = Graph::new("vars", true);
    let a = g.input("a", Ty::new(DType::Bf16, [4, 8, 16]), Rate::MicroStep);
    let b = g.input("b", Ty::new(DType::F32, [16]), Rate::MicroStep);
    assert_eq!((a + b).ty(), Ty::new(DType::F32, [4, 8, 16])); // broadcast; the wider dtype
    assert_eq!(a.matmul_t(a, false, true).ty(), Ty::new(DType::Bf16, [4, 8, 8])); // summed in f32, stored as the operands
    assert_eq!(a.mean(&[0, 2], false).ty(), Ty::new(DType::Bf16, [8]));
    assert_eq!(a.max(&[2], true).ty(), Ty::new(DType::Bf16, [4, 8, 1]));
    g.autocast(Region::low(DType::Bf16), || {
        assert_eq!(b.softmax().dtype(), DType::F32); // class F32
        assert_eq!(a.softmax().dtype(), DType::F32);
        assert_eq!(b.relu().dtype(), DType::F32); // class Keep
        assert_eq!(a.exp().dtype(), DType::F32);
    });
    g.finish()?;

    let g = Graph::new("a mistake", true);
    let a = g.input("a", Ty::new(DType::F32, [2, 3]), Rate::MicroStep);
    let b = g.input("b", Ty::new(DType::F32, [4, 5]), Rate::MicroStep);
    g.output("y", a.matmul(b).relu()); // recording goes on; the first error is kept
    let error = g.finish().expect_err("3 is not 4").to_string();
    assert!(error.contains("matmul") && error.contains("vars.rs"), "{error}");
    Ok(())
}

//! A layer recorded under autocast, and what its Program says of it.

use mantissa_core::precision::Region;
use mantissa_core::program::{Init, Rate};
use mantissa_core::{DType, shape::Ty, trace::Graph};

pub(crate) fn one_layer() -> mantissa_core::Result<()> {
    let g = Graph::new("one layer", true);
    let x = g.input("x", Ty::new(DType::F32, [8, 16]), Rate::MicroStep);
    let w = g.param("w", [4, 16], Init::Normal { std: 0.02 });
    let y = g.autocast(Region::low(DType::Bf16), || x.linear(w, None));
    g.output("y", y);
    let text = g.finish()?.to_string();
    assert!(text.contains("bf16[8, 4] = matmul(nt)"));
    assert!(text.contains("; autocast: matmul is in the low class: bf16"));
    Ok(())
}

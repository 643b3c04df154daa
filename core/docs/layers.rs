//! Layers and what autocast makes of their dtypes.

use mantissa_core::nn::{Activation, CausalAttention, LayerNorm, Linear, Mlp};
use mantissa_core::precision::Region;
use mantissa_core::program::{Init, Rate};
use mantissa_core::{DType, Result, shape::Ty, trace::Graph};

pub(crate) fn one_block() -> Result<()> {
    let g = Graph::new("block", true);
    let x = g.input("x", Ty::new(DType::F32, [2, 16, 32]), Rate::MicroStep);
    let init = Init::Normal { std: 0.02 };
    let attention = CausalAttention { width: 32, heads: 4, kv_heads: 2, bias: true, dropout: 0.0, init_proj: init };
    let mlp = Mlp { width: 32, hidden: 128, activation: Activation::GeluTanh, bias: true, init_down: init };
    let logits = g.autocast(Region::low(DType::Bf16), || {
        let normed = LayerNorm::new("ln_1").forward(x);
        assert_eq!(normed.ty(), Ty::new(DType::F32, [2, 16, 32])); // norms compute and store f32
        let attended = attention.forward(normed);
        assert_eq!(attended.ty(), Ty::new(DType::Bf16, [2, 16, 32])); // matmuls compute and store the low dtype
        let h = x + attended;
        assert_eq!(h.dtype(), DType::F32); // sums of two tensors take the wider dtype
        let h = h + mlp.forward(LayerNorm::new("ln_2").forward(h));
        Linear::new("head", 32, 10).forward(h)
    });
    assert_eq!(logits.ty(), Ty::new(DType::Bf16, [2, 16, 10]));
    g.output("logits", logits);
    g.finish()?;
    Ok(())
}

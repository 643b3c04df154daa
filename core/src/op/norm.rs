//! `Norm`: layer norm or RMS norm over the last axis, statistics in f32. CPU kernel: `cpu/norm.rs`.
//!
//! Inputs `x` [.., C], `weight` `[C]` if `affine`, `bias` `[C]` if `bias`. Outputs `y`, then `mean` `[rows]` (layer
//! norm only), `rstd` `[rows]`. Backward: inputs `dy, x, (weight), (mean), rstd`; outputs `dx` (dtype of x), `dweight`,
//! `dbias` f32.

use super::{EPSILON, Real, arity, epsilon_ok, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps)`.
    Layer,
    /// `x / sqrt(mean(x^2) + eps)`.
    Rms,
}

/// Attributes of `Norm`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Norm {
    /// Which norm.
    pub kind: NormKind,
    /// Added to the variance. As f32 it is a normal number: a constant row is 0 and not 0 / 0.
    pub eps: Real,
    /// Has a weight.
    pub affine: bool,
    /// Has a bias (with `affine` only).
    pub bias: bool,
    /// Storage dtype of `y`.
    pub out: DType,
}

impl Norm {
    /// Name for messages.
    pub fn name(&self) -> &'static str {
        match self.kind {
            NormKind::Layer => "layer_norm",
            NormKind::Rms => "rms_norm",
        }
    }

    fn stats(&self) -> usize {
        match self.kind {
            NormKind::Layer => 2,
            NormKind::Rms => 1,
        }
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity(self.name(), inputs, 1 + usize::from(self.affine) + usize::from(self.bias))?;
        let x = &inputs[0];
        expect(epsilon_ok(self.eps.f32()), self.name(), format!("as eps {EPSILON}"), &self.eps)?;
        expect_float(self.name(), x)?;
        expect(!x.shape.is_empty(), self.name(), "x with at least one axis", x)?;
        for p in &inputs[1..] {
            let ok = p.dtype.is_float() && *p.shape == [x.shape.last()];
            expect(ok, self.name(), format!("weight and bias of shape [{}]", x.shape.last()), p)?;
        }
        let mut out = vec![Ty { dtype: self.out, shape: x.shape.clone() }];
        out.extend((0..self.stats()).map(|_| Ty::new(DType::F32, [x.shape.rows()])));
        Ok(out)
    }

    pub(super) fn infer_backward(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("norm_backward", inputs, 2 + usize::from(self.affine) + self.stats())?;
        let (dy, x) = (&inputs[0], &inputs[1]);
        expect(dy.shape == x.shape, "norm_backward", format!("dy of the shape of x, {}", x.shape), dy)?;
        for s in &inputs[2 + usize::from(self.affine)..] {
            expect(*s == Ty::new(DType::F32, [x.shape.rows()]), "norm_backward", "row statistics f32", s)?;
        }
        let mut out = vec![x.clone()];
        out.extend((0..usize::from(self.affine) + usize::from(self.bias)).map(|_| Ty::new(DType::F32, [x.shape.last()])));
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epsilon_that_f32_does_not_hold_is_refused() {
        let x = [Ty::new(DType::F32, [2, 8])];
        for kind in [NormKind::Layer, NormKind::Rms] {
            let with = |eps: f64| Norm { kind, eps: Real(eps), affine: false, bias: false, out: DType::F32 }.infer(&x);
            assert!(with(1e-5).is_ok() && with(1e-12).is_ok());
            for eps in [0.0, 1e-46, 1e-40, -1.0, 1e39, f64::NAN] {
                let error = with(eps).expect_err("refused").to_string();
                assert!(error.contains("eps") && error.contains("1.1754944e-38"), "{error}");
            }
        }
    }
}

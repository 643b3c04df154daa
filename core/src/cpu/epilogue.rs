//! What becomes of the finished sums of a matmul while they are in a cache: `activation(round(x))`, or
//! `round(x) + addend`.
//!
//! Each step is the loop that `Map` and the codecs run, so the bits are those of instructions of their own.

use super::map::functions;
use crate::dtype::DType;
use crate::float::slices;
use crate::float::view::View;
use crate::op::map::UnaryFn;
use crate::op::matmul::Activation;
use crate::par::simd;
use std::ops::Range;

/// Steps between the sum of an element and its store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// It takes the values of this dtype.
    pub round: Option<DType>,
    /// It goes through this function.
    pub activation: Option<Activation>,
    /// The element at its place here, any float dtype, is added.
    pub addend: Option<View<'a>>,
}

impl Epilogue<'_> {
    /// Elements of an addend that are decoded at a time.
    const PART: usize = 128;

    /// Whether elements are stored as they are.
    pub(super) fn is_none(&self) -> bool {
        self.round.is_none() && self.activation.is_none() && self.addend.is_none()
    }

    /// That of a range of the elements.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        Epilogue { addend: self.addend.map(|addend| addend.part(range)), ..*self }
    }

    /// Takes `x`, the elements from `at` on, through all steps.
    pub(super) fn apply(&self, x: &mut [f32], at: usize) {
        if let Some(dtype) = self.round {
            slices::round(dtype, x);
        }
        match self.activation {
            None => {}
            Some(Activation::Relu) => each(x, |x| functions::unary(UnaryFn::Relu, x)),
            Some(Activation::GeluTanh) => each(x, |x| functions::unary(UnaryFn::GeluTanh, x)),
            Some(Activation::GeluErf) => each(x, |x| functions::unary(UnaryFn::GeluErf, x)),
            Some(Activation::Silu) => each(x, |x| functions::unary(UnaryFn::Silu, x)),
        }
        if let Some(addend) = self.addend {
            let mut scratch = [0.0; Self::PART];
            for (i, x) in x.chunks_mut(Self::PART).enumerate() {
                let at = at + i * Self::PART;
                let addend = addend.part(at..at + x.len()).load(0..x.len(), &mut scratch);
                simd::vectorize(
                    #[inline(always)]
                    move || x.iter_mut().zip(addend).for_each(|(x, addend)| *x += addend),
                );
            }
        }
    }
}

/// `x = f(x)`.
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    simd::vectorize(
        #[inline(always)]
        move || x.iter_mut().for_each(|x| *x = f(*x)),
    );
}

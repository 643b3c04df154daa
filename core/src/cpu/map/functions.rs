//! The scalar meaning of every unary and binary function of `Map`, in f32.
//!
//! The block evaluator runs these in loops, the interpreter one at a time: the same code, hence the same bits. All are
//! branch-free so that the loops become vector code. Activations are written so that no finite input and no infinity
//! whose limit exists gives NaN by the way (`inf - inf`, `inf * 0`).

use crate::float::math;
use crate::op::map::{BinaryFn, UnaryFn};

/// `f(x)`.
#[inline(always)]
pub fn unary(f: UnaryFn, x: f32) -> f32 {
    match f {
        UnaryFn::Neg => neg(x),
        UnaryFn::Abs => abs(x),
        UnaryFn::Recip => recip(x),
        UnaryFn::Square => square(x),
        UnaryFn::Sqrt => sqrt(x),
        UnaryFn::Rsqrt => rsqrt(x),
        UnaryFn::Exp => math::exp(x),
        UnaryFn::Log => math::ln(x),
        UnaryFn::Tanh => math::tanh(x),
        UnaryFn::Erf => math::erf(x),
        UnaryFn::Sigmoid => math::sigmoid(x),
        UnaryFn::Softplus => math::softplus(x),
        UnaryFn::Sin => math::sin(x),
        UnaryFn::Cos => math::cos(x),
        UnaryFn::Floor => floor(x),
        UnaryFn::Sign => sign(x),
        UnaryFn::Relu => relu(x),
        UnaryFn::ReluGrad => relu_grad(x),
        UnaryFn::GeluTanh => gelu_tanh(x),
        UnaryFn::GeluTanhGrad => gelu_tanh_grad(x),
        UnaryFn::GeluErf => gelu_erf(x),
        UnaryFn::GeluErfGrad => gelu_erf_grad(x),
        UnaryFn::Silu => silu(x),
        UnaryFn::SiluGrad => silu_grad(x),
        UnaryFn::IsFinite => is_finite(x),
    }
}

/// `f(a, b)`.
#[inline(always)]
pub fn binary(f: BinaryFn, a: f32, b: f32) -> f32 {
    match f {
        BinaryFn::Add => add(a, b),
        BinaryFn::Sub => sub(a, b),
        BinaryFn::Mul => mul(a, b),
        BinaryFn::Div => div(a, b),
        BinaryFn::Max => max(a, b),
        BinaryFn::Min => min(a, b),
        BinaryFn::Pow => math::pow(a, b),
        BinaryFn::Lt => lt(a, b),
        BinaryFn::Le => le(a, b),
        BinaryFn::Eq => eq(a, b),
    }
}

#[inline(always)]
pub(super) fn neg(x: f32) -> f32 {
    -x
}

#[inline(always)]
pub(super) fn abs(x: f32) -> f32 {
    x.abs()
}

#[inline(always)]
pub(super) fn sqrt(x: f32) -> f32 {
    x.sqrt()
}

#[inline(always)]
pub(super) fn floor(x: f32) -> f32 {
    x.floor()
}

#[inline(always)]
pub(super) fn recip(x: f32) -> f32 {
    1.0 / x
}

#[inline(always)]
pub(super) fn square(x: f32) -> f32 {
    x * x
}

#[inline(always)]
pub(super) fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

#[inline(always)]
pub(super) fn sign(x: f32) -> f32 {
    flag(x > 0.0) - flag(x < 0.0)
}

/// NaN fails the comparison and is passed on; -0 gives +0.
#[inline(always)]
pub(super) fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

#[inline(always)]
pub(super) fn relu_grad(x: f32) -> f32 {
    flag(x > 0.0)
}

/// `sqrt(2 / pi)`, and the cubic coefficient of GELU's tanh form (Hendrycks and Gimpel, arXiv:1606.08415).
const SQRT_2_OVER_PI: f32 = 0.797_884_56;
const CUBIC: f32 = 0.044_715;

/// `0.5 x (1 + tanh u)` as `x / (1 + e^(-2u))`: the same function without the cancellation at negative `x`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let u2 = x * (2.0 * SQRT_2_OVER_PI + (2.0 * SQRT_2_OVER_PI * CUBIC) * (x * x));
    x / (1.0 + math::exp(at_least_minus_80(-u2)))
}

/// `s + x s (1 - s) 2u'` with `s = sigmoid(2u)` and `1 - s = e^(-2u) s`. Within 1e-35 of 0 or 1 from |x| = 10 on, where
/// the argument is held so that the exponential stays finite.
#[inline(always)]
pub fn gelu_tanh_grad(x: f32) -> f32 {
    let x = within(x, 10.0);
    let x2 = x * x;
    let u2 = x * (2.0 * SQRT_2_OVER_PI + (2.0 * SQRT_2_OVER_PI * CUBIC) * x2);
    let du2 = 2.0 * SQRT_2_OVER_PI + (6.0 * SQRT_2_OVER_PI * CUBIC) * x2;
    let e = math::exp(-u2);
    let s = 1.0 / (1.0 + e);
    s + x * (s * (e * s)) * du2
}

/// `0.5 x (1 + erf(x / sqrt 2))`.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `Phi(x) + x phi(x)`; within 1e-35 of 0 or 1 from |x| = 13 on.
#[inline(always)]
pub fn gelu_erf_grad(x: f32) -> f32 {
    const INV_SQRT_2PI: f32 = 0.398_942_28;
    let x = within(x, 13.0);
    let cdf = 0.5 * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2));
    cdf + x * (INV_SQRT_2PI * math::exp(-0.5 * (x * x)))
}

/// `x sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + math::exp(at_least_minus_80(-x)))
}

/// `s (1 + x (1 - s))` with `1 - s = e^(-x) s`. Within 2e-36 of 0 or 1 from |x| = 87 on, as above.
#[inline(always)]
pub fn silu_grad(x: f32) -> f32 {
    let x = within(x, 87.0);
    let e = math::exp(-x);
    let s = 1.0 / (1.0 + e);
    s * (1.0 + x * (e * s))
}

#[inline(always)]
pub(super) fn is_finite(x: f32) -> f32 {
    flag(x.abs() < f32::INFINITY)
}

#[inline(always)]
pub(super) fn add(a: f32, b: f32) -> f32 {
    a + b
}

#[inline(always)]
pub(super) fn sub(a: f32, b: f32) -> f32 {
    a - b
}

#[inline(always)]
pub(super) fn mul(a: f32, b: f32) -> f32 {
    a * b
}

#[inline(always)]
pub(super) fn div(a: f32, b: f32) -> f32 {
    a / b
}

/// IEEE 754-2019 `maximum`: NaN if either is NaN, +0 above -0. Equal operands share all bits but a zero's sign.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    let larger = if (a > b) | a.is_nan() { a } else { b };
    if a == b { equal } else { larger }
}

/// IEEE 754-2019 `minimum`: NaN if either is NaN, -0 below +0.
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let smaller = if (a < b) | a.is_nan() { a } else { b };
    if a == b { equal } else { smaller }
}

#[inline(always)]
pub(super) fn lt(a: f32, b: f32) -> f32 {
    flag(a < b)
}

#[inline(always)]
pub(super) fn le(a: f32, b: f32) -> f32 {
    flag(a <= b)
}

#[inline(always)]
pub(super) fn eq(a: f32, b: f32) -> f32 {
    flag(a == b)
}

/// The chosen value only: a NaN on the other side does not leak. A NaN condition counts as true.
#[inline(always)]
pub(super) fn select(cond: f32, a: f32, b: f32) -> f32 {
    if cond != 0.0 { a } else { b }
}

/// `x scale` where the element is kept; a dropped NaN does not leak.
#[inline(always)]
pub(super) fn dropout(x: f32, word: u32, threshold: u32, scale: f32) -> f32 {
    let kept = x * scale;
    if word >= threshold { kept } else { 0.0 }
}

/// A random word as a value in `[0, 1)` with 24 bits.
#[inline(always)]
pub(super) fn uniform(word: u32) -> f32 {
    // Below 2^24, so the signed conversion (one instruction everywhere) is exact.
    (word >> 8) as i32 as f32 * (1.0 / 16_777_216.0)
}

/// Stored as u32 and read back.
#[inline(always)]
pub(super) fn to_u32(x: f32) -> f32 {
    x as u32 as f32
}

/// Stored as i32 and read back.
#[inline(always)]
pub(super) fn to_i32(x: f32) -> f32 {
    x as i32 as f32
}

#[inline(always)]
fn flag(condition: bool) -> f32 {
    if condition { 1.0 } else { 0.0 }
}

/// An exponent below which `1 + e^x` is 1 anyway: keeps subnormals, which are slow, out of the way.
#[inline(always)]
fn at_least_minus_80(x: f32) -> f32 {
    if x < -80.0 { -80.0 } else { x }
}

/// `x` clamped to `[-limit, limit]`; NaN stays NaN.
#[inline(always)]
fn within(x: f32, limit: f32) -> f32 {
    let x = if x < -limit { -limit } else { x };
    if x > limit { limit } else { x }
}

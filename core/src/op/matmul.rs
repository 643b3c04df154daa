//! `MatMul`: `y = store(epilogue(round(scale_a * scale_b * sum_k op(a) op(b) + bias)))`, f32 accumulation. CPU kernel:
//! `cpu/matmul.rs`.
//!
//! Operands: `a`, `b`, then the dequantization scales of those that have one (`scale_inv` f32[] per tensor, E8M0 blocks
//! of 32 along the contraction axis), then `bias` `[N]`, then what [`Epilogue::Add`] adds: as many elements as the
//! output has, in its order. Epilogues are put in by a pass (`program/passes/epilogue.rs`), never recorded. `a` is [..,
//! M, K] ([.., K, M] if `trans_a`), `b` is [.., K, N] ([.., N, K] if `trans_b`). Ranks are equal with equal leading
//! axes, or `b` is a plain matrix shared by all leading axes of `a`.

use super::map::UnaryFn;
use super::scale::{OperandScale, scale_type};
use super::{Op, arity, expect, expect_float, expect_round};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::{Shape, Ty};

/// A function of one element that a matmul may apply before its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// [`UnaryFn::Relu`]
    Relu,
    /// [`UnaryFn::GeluTanh`]
    GeluTanh,
    /// [`UnaryFn::GeluErf`]
    GeluErf,
    /// [`UnaryFn::Silu`]
    Silu,
}

impl Activation {
    /// Every activation, in order.
    pub const ALL: [Activation; 4] = [Activation::Relu, Activation::GeluTanh, Activation::GeluErf, Activation::Silu];

    /// The function that `Map` knows it by.
    pub const fn function(self) -> UnaryFn {
        match self {
            Activation::Relu => UnaryFn::Relu,
            Activation::GeluTanh => UnaryFn::GeluTanh,
            Activation::GeluErf => UnaryFn::GeluErf,
            Activation::Silu => UnaryFn::Silu,
        }
    }

    /// The activation that is this function, if there is one.
    pub fn of(function: UnaryFn) -> Option<Activation> {
        Activation::ALL.into_iter().find(|a| a.function() == function)
    }
}

/// What becomes of an element of a matmul between its rounding and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// It goes through an activation.
    Activation(Activation),
    /// The element of the last operand at its place, of any float dtype, is added. That operand may be the output
    /// itself: the matmul is then added to what it held.
    Add,
}

/// Attributes of `MatMul`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MatMul {
    /// `a` is stored transposed.
    pub trans_a: bool,
    /// `b` is stored transposed.
    pub trans_b: bool,
    /// `Tf32` rounds f32 operands to 10 mantissa bits; `F32` takes the stored values.
    pub compute: DType,
    /// Storage dtype of the output.
    pub out: DType,
    /// The result, before an epilogue, takes the values of this narrower dtype though `out` may be wider: what storing
    /// it so and widening it would give.
    pub round: Option<DType>,
    /// Scales of `a` and `b`.
    pub scales: [OperandScale; 2],
    /// A bias row is added before the store.
    pub bias: bool,
    /// What happens between rounding and store.
    pub epilogue: Epilogue,
    /// Tensor cores may keep fewer accumulator bits (fp8 forward matmuls); emulation always accumulates in f32.
    pub fast_accum: bool,
}

/// Sizes of one matmul: `batch` matmuls of [M, K] x [K, N].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Number of matmuls.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Contraction length.
    pub k: usize,
    /// `b` is one matrix shared by all matmuls.
    pub b_shared: bool,
}

impl MatMul {
    /// A matmul of plain operands stored as `out`.
    pub fn new(trans_a: bool, trans_b: bool, out: DType) -> MatMul {
        let scales = [OperandScale::None; 2];
        let (compute, round, epilogue) = (DType::F32, None, Epilogue::None);
        MatMul { trans_a, trans_b, compute, out, round, scales, bias: false, epilogue, fast_accum: false }
    }

    /// The instruction.
    pub fn op(self) -> Op {
        Op::MatMul(self)
    }

    /// Index of the input with the scale of operand 0 or 1.
    pub fn scale_input(&self, operand: usize) -> Option<usize> {
        let has = |i: usize| self.scales[i] != OperandScale::None;
        has(operand).then(|| 2 + usize::from(operand == 1 && has(0)))
    }

    /// Index of the bias input.
    pub fn bias_input(&self) -> Option<usize> {
        self.bias.then(|| self.plain_inputs() - 1)
    }

    /// Index of the input that is added to the matmul.
    pub fn addend_input(&self) -> Option<usize> {
        (self.epilogue == Epilogue::Add).then(|| self.plain_inputs())
    }

    /// Number of inputs without an addend.
    fn plain_inputs(&self) -> usize {
        2 + self.scales.iter().filter(|&&s| s != OperandScale::None).count() + usize::from(self.bias)
    }

    /// Sizes for operands of these types. Fails if an operand has fewer than two axes, or contraction or leading axes
    /// differ.
    pub fn dims(&self, a: &Ty, b: &Ty) -> Result<Dims> {
        for (t, want) in [(a, "a with 2 or more axes"), (b, "b with 2 or more axes")] {
            if t.shape.len() < 2 {
                return Err(Error::operand("matmul", want, t.to_string()));
            }
        }
        let split = |t: &Ty, trans: bool| {
            let (r, c) = (t.shape[t.shape.len() - 2], t.shape[t.shape.len() - 1]);
            if trans { (c, r) } else { (r, c) }
        };
        let (m, k) = split(a, self.trans_a);
        let (kb, n) = split(b, self.trans_b);
        // The messages are built only when needed: kernels ask for the sizes in every step, which allocates nothing.
        if k != kb {
            let want = format!("a contraction of length {k} in b (a is {a})");
            return Err(Error::operand("matmul", want, b.to_string()));
        }
        let lead_a = &a.shape[..a.shape.len() - 2];
        let lead_b = &b.shape[..b.shape.len() - 2];
        let shared = lead_b.is_empty();
        if !shared && lead_a != lead_b {
            return Err(Error::operand("matmul", format!("leading axes {lead_a:?} in b"), b.to_string()));
        }
        let batch: usize = lead_a.iter().product();
        if shared && !self.trans_a {
            return Ok(Dims { batch: 1, m: batch * m, n, k, b_shared: true });
        }
        Ok(Dims { batch, m, n, k, b_shared: shared })
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("matmul", inputs, self.plain_inputs() + usize::from(self.epilogue == Epilogue::Add))?;
        let (a, b) = (&inputs[0], &inputs[1]);
        expect_float("matmul", a)?;
        expect_float("matmul", b)?;
        let same = a.dtype == b.dtype || (a.dtype.is_fp8() && b.dtype.is_fp8());
        expect(same, "matmul", format!("operands of one dtype (a is {a}; autocast or cast() brings them together)"), b)?;
        expect(self.out.is_float(), "matmul", "a floating-point output", &self.out)?;
        // What an epilogue makes of a rounded element is rounded by the store.
        expect_round("matmul", self.round, if self.epilogue == Epilogue::None { self.out } else { DType::F32 })?;
        let d = self.dims(a, b)?;
        for operand in 0..2 {
            if let Some(i) = self.scale_input(operand) {
                let t = &inputs[operand];
                let want = scale_type(self.scales[operand], t);
                expect(inputs[i] == want, "matmul", format!("scale {want} for operand {t}"), &inputs[i])?;
            }
        }
        if let Some(i) = self.bias_input() {
            let ok = inputs[i].dtype.is_float() && *inputs[i].shape == [d.n];
            expect(ok, "matmul", format!("a floating-point bias of shape [{}]", d.n), &inputs[i])?;
        }
        let mut shape = a.shape[..a.shape.len() - 2].to_vec();
        let rows = if self.trans_a { a.shape[a.shape.len() - 1] } else { a.shape[a.shape.len() - 2] };
        shape.extend([rows, d.n]);
        let shape = Shape::from(shape);
        if let Some(i) = self.addend_input() {
            let ok = inputs[i].dtype.is_float() && inputs[i].shape.numel() == shape.numel();
            expect(ok, "matmul", format!("a floating-point addend with the elements of {shape}"), &inputs[i])?;
        }
        Ok(vec![Ty { dtype: self.out, shape }])
    }

    pub(super) fn flops(&self, inputs: &[Ty]) -> u64 {
        self.dims(&inputs[0], &inputs[1]).map_or(0, |d| 2 * (d.batch * d.m * d.n * d.k) as u64)
    }
}

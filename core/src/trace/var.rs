//! `Var`: a handle to a recorded value, with methods named as in PyTorch.
//!
//! Handles are `Copy`. A method records an instruction and never fails: the first wrong operand is kept, with scope and
//! source line, and comes out of [`Graph::finish`].
//!
//! The docs name shapes and the dtype of the result. "Promoted" is the widest dtype of the operands. In an autocast
//! region the class of the operation decides first ([`crate::precision::autocast`]). Sums are f32 everywhere, and
//! rounded once as they are stored.
//!
//! ```
#![doc = include_str!("../../docs/vars.rs")]
//! ```

use super::graph::{Graph, Var};
use crate::dtype::DType;
use crate::error::Error;
use crate::op::attention::{Attention, AttentionDropout};
use crate::op::conv::{Conv2d, Pool2d};
use crate::op::expr::{Ex, Map};
use crate::op::layout::Slice;
use crate::op::loss::{CrossEntropy, Softmax};
use crate::op::map::{BinaryFn, UnaryFn};
use crate::op::matmul::MatMul;
use crate::op::norm::{Norm, NormKind};
use crate::op::reduce::{Reduce, ReduceKind};
use crate::op::{Op, Real};
use crate::program::ValueId;
use crate::shape::{Shape, Ty};
use std::ops;

impl Graph {
    /// A tensor with every element `c`, of type `ty`.
    #[track_caller]
    pub fn fill(&self, c: f32, ty: Ty) -> Var<'_> {
        let map = Map { shape: ty.shape, out: vec![ty.dtype], ..constant(c) };
        self.push(map.op(), &[])[0]
    }

    /// An elementwise expression over `inputs`, whose shapes broadcast: computed in f32, rounded once, stored as `out`.
    /// Gradients flow through it.
    #[track_caller]
    pub fn map(&self, ex: Ex, inputs: &[Var<'_>], out: DType) -> Var<'_> {
        let types: Vec<Ty> = inputs.iter().map(|v| v.ty()).collect();
        let ids: Vec<ValueId> = inputs.iter().map(|v| v.id).collect();
        match Map::new(ex, &types, out) {
            Ok(map) => self.push(map.op(), &ids)[0],
            Err(error) => {
                self.fail(error);
                self.fill(0.0, Ty::scalar(out))
            }
        }
    }

    /// Adds `x` to the state `sum` of the same type, in place.
    #[track_caller]
    pub(crate) fn add_into(&self, sum: ValueId, x: Var<'_>) {
        match Map::new(Ex::input(0) + Ex::input(1), &[self.ty(sum), x.ty()], self.ty(sum).dtype) {
            Ok(add) => {
                self.push_into(add.op(), &[sum, x.id], &[Some(sum)]);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Operands joined along `axis`; the other axes must agree. Class `Promote`: in an autocast region all take the
    /// widest dtype among them, without one they must have the same.
    #[track_caller]
    pub fn concat<'g>(&'g self, parts: &[Var<'g>], axis: usize) -> Var<'g> {
        self.apply(Op::Concat(axis), parts)[0]
    }
}

fn constant(c: f32) -> Map {
    Map::new(Ex::constant(c), &[], DType::F32).unwrap_or_else(|_| unreachable!("a constant has no operands to disagree"))
}

impl<'g> Var<'g> {
    /// The recording it belongs to.
    pub fn graph(self) -> &'g Graph {
        self.g
    }

    /// Its id in the Program.
    pub fn id(self) -> ValueId {
        self.id
    }

    /// Its type.
    pub fn ty(self) -> Ty {
        self.g.ty(self.id)
    }

    /// Its element type.
    pub fn dtype(self) -> DType {
        self.ty().dtype
    }

    /// Its shape.
    pub fn shape(self) -> Shape {
        self.ty().shape
    }

    /// Converts to `dtype` (round to nearest even, the dtype's own overflow rule). Its gradient is cast back.
    #[track_caller]
    pub fn cast(self, dtype: DType) -> Var<'g> {
        if self.dtype() == dtype {
            return self;
        }
        self.g.map(Ex::input(0), &[self], dtype)
    }

    /// A copy in memory of its own: same shape, same dtype.
    #[track_caller]
    pub fn copy(self) -> Var<'g> {
        self.g.map(Ex::input(0), &[self], self.dtype())
    }

    /// A function of every element: same shape. Computed in f32, stored in the dtype of `self`, or in f32 where the
    /// function is in autocast's class `F32` (exp, log, pow, ..).
    #[track_caller]
    pub fn unary(self, f: UnaryFn) -> Var<'g> {
        let (out, why) = self.g.elementwise_dtype(f.class(), f.name(), self.dtype());
        let _why = self.g.because(why);
        self.g.map(Ex::input(0).unary(f), &[self], out)
    }

    /// A function of pairs of elements: shapes broadcast as in NumPy. Computed in f32, stored in the promoted dtype, or
    /// in f32 where the function is in autocast's class `F32`.
    #[track_caller]
    pub fn binary(self, f: BinaryFn, other: Var<'g>) -> Var<'g> {
        let promoted = self.dtype().promote(other.dtype());
        let (out, why) = self.g.elementwise_dtype(f.class(), f.name(), promoted);
        let _why = self.g.because(why);
        self.g.map(Ex::input(0).binary(f, Ex::input(1)), &[self, other], out)
    }

    /// A function of every element and a constant: shape and dtype as [`Var::unary`].
    #[track_caller]
    pub fn binary_const(self, f: BinaryFn, c: f32) -> Var<'g> {
        let (out, why) = self.g.elementwise_dtype(f.class(), f.name(), self.dtype());
        let _why = self.g.because(why);
        self.g.map(Ex::input(0).binary(f, Ex::constant(c)), &[self], out)
    }

    /// `if self != 0 { a } else { b }`, element by element: shapes broadcast, stored in the promoted dtype of `a` and
    /// `b`.
    #[track_caller]
    pub fn select(self, a: Var<'g>, b: Var<'g>) -> Var<'g> {
        let out = a.dtype().promote(b.dtype());
        self.g.map(Ex::input(0).select(Ex::input(1), Ex::input(2)), &[self, a, b], out)
    }

    /// GELU, tanh form.
    #[track_caller]
    pub fn gelu(self) -> Var<'g> {
        self.unary(UnaryFn::GeluTanh)
    }

    /// GELU, exact form.
    #[track_caller]
    pub fn gelu_exact(self) -> Var<'g> {
        self.unary(UnaryFn::GeluErf)
    }

    /// `max(x, 0)`.
    #[track_caller]
    pub fn relu(self) -> Var<'g> {
        self.unary(UnaryFn::Relu)
    }

    /// `x sigmoid(x)`.
    #[track_caller]
    pub fn silu(self) -> Var<'g> {
        self.unary(UnaryFn::Silu)
    }

    /// Hyperbolic tangent.
    #[track_caller]
    pub fn tanh(self) -> Var<'g> {
        self.unary(UnaryFn::Tanh)
    }

    /// Logistic function.
    #[track_caller]
    pub fn sigmoid(self) -> Var<'g> {
        self.unary(UnaryFn::Sigmoid)
    }

    /// `log(1 + e^x)`.
    #[track_caller]
    pub fn softplus(self) -> Var<'g> {
        self.unary(UnaryFn::Softplus)
    }

    /// `e^x`.
    #[track_caller]
    pub fn exp(self) -> Var<'g> {
        self.unary(UnaryFn::Exp)
    }

    /// Natural logarithm.
    #[track_caller]
    pub fn log(self) -> Var<'g> {
        self.unary(UnaryFn::Log)
    }

    /// Square of every element.
    #[track_caller]
    pub fn square(self) -> Var<'g> {
        self.unary(UnaryFn::Square)
    }

    /// Magnitude of every element.
    #[track_caller]
    pub fn abs(self) -> Var<'g> {
        self.unary(UnaryFn::Abs)
    }

    /// Square root of every element.
    #[track_caller]
    pub fn sqrt(self) -> Var<'g> {
        self.unary(UnaryFn::Sqrt)
    }

    /// Every element to the power `exponent`.
    #[track_caller]
    pub fn pow(self, exponent: f32) -> Var<'g> {
        self.binary_const(BinaryFn::Pow, exponent)
    }

    /// Every element within `[low, high]`; NaN stays NaN.
    #[track_caller]
    pub fn clamp(self, low: f32, high: f32) -> Var<'g> {
        self.binary_const(BinaryFn::Max, low).binary_const(BinaryFn::Min, high)
    }

    /// Inverted dropout with probability `p`: same shape and dtype. Nothing outside training or for `p == 0`. `p` must
    /// be in [0, 1).
    #[track_caller]
    pub fn dropout(self, p: f32) -> Var<'g> {
        if !self.g.is_training() || p == 0.0 {
            return self;
        }
        if !(0.0..1.0).contains(&p) {
            self.g.fail(Error::operand("dropout", "a probability in [0, 1)", p.to_string()));
            return self;
        }
        let stream = self.g.next_stream();
        self.g.map(Ex::input(0).dropout(p, 1, stream), &[self, self.g.rng()], self.dtype())
    }

    /// Matmul of [.., M, K] and [.., K, N]: [.., M, N]. Leading axes must agree, or `other` is a matrix [K, N] that all
    /// of them share. Class `Low`: operands in the low dtype, sums in f32, stored in the low dtype; without autocast in
    /// the dtype of `self`.
    #[track_caller]
    pub fn matmul(self, other: Var<'g>) -> Var<'g> {
        self.matmul_t(other, false, false)
    }

    /// As [`Var::matmul`], with the last two axes of either operand read as exchanged.
    #[track_caller]
    pub fn matmul_t(self, other: Var<'g>, trans_a: bool, trans_b: bool) -> Var<'g> {
        self.g.apply(MatMul::new(trans_a, trans_b, self.dtype()).op(), &[self, other])[0]
    }

    /// `x W^T + b`: x [.., in], `W` [out, in] and `b` `[out]` give [.., out]. In fp8 under an fp8 region where the
    /// sizes fit, stored in the low dtype; else as [`Var::matmul`]. Sums are f32.
    #[track_caller]
    pub fn linear(self, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
        self.g.linear(self, weight, bias)
    }

    /// Fused attention over a packed projection [B, T, (heads + 2 kv_heads) HS]; output [B, T, heads HS]. Class `Low`;
    /// scores, softmax and sums are f32. Scores are divided by the root of HS.
    #[track_caller]
    pub fn attention(self, heads: usize, kv_heads: usize, causal: bool, dropout: f32) -> Var<'g> {
        let groups = (heads + 2 * kv_heads).max(1);
        let head_size = self.shape().last() / groups;
        let scale = Real(1.0 / (head_size.max(1) as f64).sqrt());
        let on = self.g.is_training() && dropout > 0.0;
        let dropout = on.then(|| AttentionDropout { p: Real(f64::from(dropout)), stream: self.g.next_stream() });
        let op = Op::Attention(Attention { heads, kv_heads, causal, scale, dropout });
        if on { self.g.apply(op, &[self, self.g.rng()])[0] } else { self.g.apply(op, &[self])[0] }
    }

    /// Layer norm over the last axis: same shape, `weight` and `bias` `[C]`. Class `F32`: sums and result are f32 in an
    /// autocast region; without one the result has the dtype of `self`. `eps` must be at least the smallest normal f32.
    #[track_caller]
    pub fn layer_norm(self, weight: Option<Var<'g>>, bias: Option<Var<'g>>, eps: f32) -> Var<'g> {
        self.norm(NormKind::Layer, weight, bias, eps)
    }

    /// RMS norm over the last axis: shape, dtype and `eps` as in [`Var::layer_norm`].
    #[track_caller]
    pub fn rms_norm(self, weight: Option<Var<'g>>, eps: f32) -> Var<'g> {
        self.norm(NormKind::Rms, weight, None, eps)
    }

    #[track_caller]
    fn norm(self, kind: NormKind, weight: Option<Var<'g>>, bias: Option<Var<'g>>, eps: f32) -> Var<'g> {
        let eps = Real(f64::from(eps));
        let op = Norm { kind, eps, affine: weight.is_some(), bias: bias.is_some(), out: self.dtype() };
        let inputs: Vec<Var<'g>> = [Some(self), weight, bias].into_iter().flatten().collect();
        self.g.apply(Op::Norm(op), &inputs)[0]
    }

    /// Softmax over the last axis: same shape. Class `F32`: sums and result are f32 in an autocast region; without one
    /// the result has the dtype of `self`.
    #[track_caller]
    pub fn softmax(self) -> Var<'g> {
        self.g.apply(Op::Softmax(Softmax { log: false, out: self.dtype() }), &[self])[0]
    }

    /// Log-softmax over the last axis: shape and dtype as [`Var::softmax`].
    #[track_caller]
    pub fn log_softmax(self) -> Var<'g> {
        self.g.apply(Op::Softmax(Softmax { log: true, out: self.dtype() }), &[self])[0]
    }

    /// Mean cross-entropy of logits [.., V] against class indices u32 [..]: a scalar, f32, as are all its sums. Rows
    /// whose index is [`crate::op::loss::IGNORE_INDEX`] are left out.
    #[track_caller]
    pub fn cross_entropy(self, targets: Var<'g>, label_smoothing: f32) -> Var<'g> {
        let shape = self.shape();
        let logits = self.reshape([shape.rows(), shape.last()]);
        let targets = targets.reshape([targets.shape().numel()]);
        let op = CrossEntropy { label_smoothing: Real(f64::from(label_smoothing)) };
        self.g.apply(Op::CrossEntropy(op), &[logits, targets])[0]
    }

    /// Rows of this table [V, C] by index u32 [..]: [.., C] in the dtype of the table. Its gradient is summed in f32.
    #[track_caller]
    pub fn embedding(self, ids: Var<'g>) -> Var<'g> {
        self.g.apply(Op::Embedding, &[self, ids])[0]
    }

    /// Elements of the last axis by index: [.., C] and u32 [.., K] give [.., K], in the dtype of `self`.
    #[track_caller]
    pub fn gather(self, ids: Var<'g>) -> Var<'g> {
        self.g.apply(Op::Gather, &[self, ids])[0]
    }

    /// The `k` largest of the last axis, descending: values [.., k] in the dtype of `self`, and u32 indices [.., k]. It
    /// has no gradient.
    #[track_caller]
    pub fn top_k(self, k: usize) -> (Var<'g>, Var<'g>) {
        let out = self.g.apply(Op::TopK(k), &[self]);
        (out[0], out[1])
    }

    /// Sum over `axes`, which are ascending: they are left out of the shape, or kept with length 1. Summed in f32;
    /// class `F32`, so the result is f32 in an autocast region, else in the dtype of `self`.
    #[track_caller]
    pub fn sum(self, axes: &[usize], keep: bool) -> Var<'g> {
        self.reduce(ReduceKind::Sum, axes, keep)
    }

    /// Mean over `axes`: shape as [`Var::sum`]. Summed in f32, stored in the dtype of `self`.
    #[track_caller]
    pub fn mean(self, axes: &[usize], keep: bool) -> Var<'g> {
        self.reduce(ReduceKind::Mean, axes, keep)
    }

    /// Maximum over `axes`: shape as [`Var::sum`], in the dtype of `self`. NaN if any element is.
    #[track_caller]
    pub fn max(self, axes: &[usize], keep: bool) -> Var<'g> {
        self.reduce(ReduceKind::Max, axes, keep)
    }

    /// Mean of all elements: a scalar, else as [`Var::mean`].
    #[track_caller]
    pub fn mean_all(self) -> Var<'g> {
        let axes: Vec<usize> = (0..self.shape().len()).collect();
        self.mean(&axes, false)
    }

    /// Sum of all elements: a scalar, else as [`Var::sum`].
    #[track_caller]
    pub fn sum_all(self) -> Var<'g> {
        let axes: Vec<usize> = (0..self.shape().len()).collect();
        self.sum(&axes, false)
    }

    #[track_caller]
    fn reduce(self, kind: ReduceKind, axes: &[usize], keep: bool) -> Var<'g> {
        self.g.apply(Op::Reduce(Reduce { kind, axes: axes.to_vec(), keep, out: self.dtype(), round: None }), &[self])[0]
    }

    /// The same elements in another shape, which must have as many. No data move.
    #[track_caller]
    pub fn reshape(self, shape: impl Into<Shape>) -> Var<'g> {
        let shape = shape.into();
        if shape == self.shape() {
            return self;
        }
        self.g.apply(Op::Reshape(shape), &[self])[0]
    }

    /// All axes but the last merged: [.., C] to [rows, C].
    #[track_caller]
    pub fn rows(self) -> Var<'g> {
        let s = self.shape();
        self.reshape([s.rows(), s.last()])
    }

    /// Axes in another order: axis `i` of the result is axis `axes[i]` of `self`. Same dtype.
    #[track_caller]
    pub fn permute(self, axes: &[usize]) -> Var<'g> {
        self.g.apply(Op::Permute(axes.to_vec()), &[self])[0]
    }

    /// `start..end` of one axis: that axis becomes `end - start` long. Same dtype.
    #[track_caller]
    pub fn slice(self, axis: usize, start: usize, end: usize) -> Var<'g> {
        let full = self.shape().get(axis).copied().unwrap_or(0);
        if start == 0 && end == full && full > 0 {
            return self;
        }
        self.g.apply(Op::Slice(Slice { axis, start, end, full }), &[self])[0]
    }

    /// 2-D convolution of images [N, H, W, Cin] with weights [KH, KW, Cin, Cout]: [N, OH, OW, Cout], where `OH = (H + 2
    /// padding - dilation (KH - 1) - 1) / stride + 1`. Class `Low`, as [`Var::matmul`]; sums are f32.
    #[track_caller]
    pub fn conv2d(self, weight: Var<'g>, stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2]) -> Var<'g> {
        let (x_shape, w_shape) = (self.shape(), weight.shape());
        let op = Conv2d { stride, padding, dilation, x_shape, w_shape, out: self.dtype() };
        self.g.apply(Op::Conv2d(op), &[self, weight])[0]
    }

    /// 2-D pooling of images [N, H, W, C]: [N, OH, OW, C], in the dtype of `self`. Means are summed in f32.
    #[track_caller]
    pub fn pool2d(self, pool: Pool2d) -> Var<'g> {
        self.g.apply(Op::Pool2d(pool), &[self])[0]
    }
}

impl<'g> ops::Add for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn add(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFn::Add, other)
    }
}
impl<'g> ops::Sub for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn sub(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFn::Sub, other)
    }
}
impl<'g> ops::Mul for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn mul(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFn::Mul, other)
    }
}
impl<'g> ops::Div for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn div(self, other: Var<'g>) -> Var<'g> {
        self.binary(BinaryFn::Div, other)
    }
}
impl<'g> ops::Neg for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn neg(self) -> Var<'g> {
        self.unary(UnaryFn::Neg)
    }
}
impl<'g> ops::Add<f32> for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn add(self, c: f32) -> Var<'g> {
        self.binary_const(BinaryFn::Add, c)
    }
}
impl<'g> ops::Sub<f32> for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn sub(self, c: f32) -> Var<'g> {
        self.binary_const(BinaryFn::Sub, c)
    }
}
impl<'g> ops::Mul<f32> for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn mul(self, c: f32) -> Var<'g> {
        self.binary_const(BinaryFn::Mul, c)
    }
}
impl<'g> ops::Div<f32> for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn div(self, c: f32) -> Var<'g> {
        self.binary_const(BinaryFn::Div, c)
    }
}

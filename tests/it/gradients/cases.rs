//! The cases: small tensors, values away from kinks and ties.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::conv::{Pool2d, PoolKind};
use mantissa_core::op::loss::IGNORE_INDEX;
use mantissa_core::op::map::{BinaryFn, UnaryFn};
use mantissa_core::op::matmul::MatMul;
use mantissa_core::op::reduce::{Reduce, ReduceKind};
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use mantissa_tests::data::spread;
use mantissa_tests::reference64::Tensor;

/// One input of a case.
#[derive(Clone)]
pub(super) enum In {
    /// f32 values.
    F(Vec<usize>, Vec<f32>),
    /// Indices.
    U(Vec<usize>, Vec<u32>),
}

impl In {
    pub(super) fn ty(&self) -> Ty {
        match self {
            In::F(shape, _) => Ty::new(DType::F32, shape.clone()),
            In::U(shape, _) => Ty::new(DType::U32, shape.clone()),
        }
    }

    pub(super) fn tensor(&self) -> Tensor {
        match self {
            In::F(shape, x) => Tensor::new(shape, x.iter().map(|&v| f64::from(v)).collect()),
            In::U(shape, x) => Tensor::new(shape, x.iter().map(|&v| f64::from(v)).collect()),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            In::F(_, x) => bytemuck::cast_slice(x).to_vec(),
            In::U(_, x) => bytemuck::cast_slice(x).to_vec(),
        }
    }
}

type Build = Box<dyn for<'g> Fn(&'g Graph, &[Var<'g>]) -> Var<'g>>;

/// An expression over inputs.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) inputs: Vec<In>,
    pub(super) build: Build,
}

fn case(name: impl Into<String>, inputs: Vec<In>, build: impl for<'g> Fn(&'g Graph, &[Var<'g>]) -> Var<'g> + 'static) -> Case {
    Case { name: name.into(), inputs, build: Box::new(build) }
}

fn f(shape: &[usize], lo: f32, hi: f32) -> In {
    let n = shape.iter().product();
    In::F(shape.to_vec(), spread(n, lo, hi, n as u32 + (lo * 8.0) as u32))
}

fn u(shape: &[usize], x: &[u32]) -> In {
    In::U(shape.to_vec(), x.to_vec())
}

pub(super) fn all() -> Vec<Case> {
    let groups = [elementwise(), reductions(), products(), attention(), layers(), layout(), images()];
    groups.into_iter().flatten().collect()
}

/// Where a function is defined and, as far as possible, has no kink.
fn domain(f: UnaryFn) -> [f32; 2] {
    use UnaryFn as U;
    match f {
        U::Recip | U::Sqrt | U::Rsqrt | U::Log => [0.5, 3.0],
        U::Neg
        | U::Abs
        | U::Square
        | U::Exp
        | U::Tanh
        | U::Erf
        | U::Sigmoid
        | U::Softplus
        | U::Sin
        | U::Cos
        | U::Floor
        | U::Sign
        | U::Relu
        | U::ReluGrad
        | U::GeluTanh
        | U::GeluErf
        | U::Silu
        | U::GeluTanhGrad
        | U::GeluErfGrad
        | U::SiluGrad
        | U::IsFinite => [-3.0, 3.0],
    }
}

/// Has no gradient rule by design: a test of its own sees to it that asking for one is an error.
fn is_derivative(f: UnaryFn) -> bool {
    matches!(f, UnaryFn::GeluTanhGrad | UnaryFn::GeluErfGrad | UnaryFn::SiluGrad)
}

fn elementwise() -> Vec<Case> {
    let mut list = Vec::new();
    for function in UnaryFn::ALL {
        let [lo, hi] = domain(function);
        let x = f(&[3, 8], lo, hi);
        if is_derivative(function) {
            // Forward only: the operand is data.
            let half = u(&[3, 8], &(0..24).collect::<Vec<_>>());
            list.push(case(format!("unary {}", function.name()), vec![half], move |g, x| {
                let x = g.map(mantissa_core::op::expr::Ex::input(0), &[x[0]], DType::F32);
                (x * 0.25 - 3.0).unary(function)
            }));
        } else {
            list.push(case(format!("unary {}", function.name()), vec![x], move |_, x| x[0].unary(function)));
        }
    }
    for function in BinaryFn::ALL {
        let [a, b] = [f(&[3, 4], 0.5, 2.0), f(&[3, 4], 0.75, 3.0)];
        list.push(case(format!("binary {}", function.name()), vec![a, b], move |_, x| x[0].binary(function, x[1])));
        let [a, row, column] = [f(&[2, 3, 4], 0.5, 2.0), f(&[4], 0.75, 3.0), f(&[3, 1], 0.6, 2.5)];
        list.push(case(format!("binary {} under broadcasting", function.name()), vec![a, row, column], move |_, x| {
            x[2].binary(function, x[0]).binary(function, x[1])
        }));
        list.push(case(format!("binary {} with a constant", function.name()), vec![f(&[7], 0.5, 3.0)], move |_, x| {
            x[0].binary_const(function, 1.7)
        }));
    }
    let three = || vec![f(&[2, 6], -1.0, 1.0), f(&[2, 6], -2.0, 2.0), f(&[6], 0.1, 2.0)];
    list.push(case("select", three(), |_, x| x[0].binary_const(BinaryFn::Lt, 0.1).select(x[1], x[2])));
    list.push(case("functions by name", vec![f(&[24], 0.5, 3.0)], |_, x| {
        x[0].sqrt().pow(1.7).clamp(0.81, 2.03) + (x[0] * -0.5 + 1.0).abs()
    }));
    list.push(case("scalar broadcast", vec![f(&[], 0.5, 1.0), f(&[3, 3], -1.0, 1.0)], |_, x| x[1] * x[0] + x[0]));
    list.push(case("one value used three times", vec![f(&[5], 0.5, 2.0)], |_, x| x[0] * x[0] + x[0].exp() / x[0]));
    list.push(case("dropout keeps its mask in the backward pass", vec![f(&[6, 9], 0.5, 2.0)], |_, x| {
        x[0].dropout(0.4) * x[0].dropout(0.25)
    }));
    list
}

fn reductions() -> Vec<Case> {
    let mut list = Vec::new();
    for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::SumSq] {
        for axes in [vec![0], vec![1], vec![2], vec![0, 2], vec![0, 1, 2]] {
            for keep in [false, true] {
                let axes = axes.clone();
                list.push(case(format!("reduce {kind:?} {axes:?} {keep}"), vec![f(&[2, 3, 4], -2.0, 2.0)], move |g, x| {
                    let op = Reduce { kind, axes: axes.clone(), keep, out: DType::F32, round: None };
                    g.apply(Op::Reduce(op), &[x[0]])[0]
                }));
            }
        }
    }
    list
}

fn products() -> Vec<Case> {
    let mut list = Vec::new();
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        let a = |lead: &[usize]| [lead, if ta { &[5, 3] } else { &[3, 5] }].concat();
        let b = |lead: &[usize]| [lead, if tb { &[4, 5] } else { &[5, 4] }].concat();
        let shapes = [
            ("plain", a(&[]), b(&[])),
            ("batched", a(&[2]), b(&[2])),
            ("shared b", a(&[2]), b(&[])),
            ("shared b, two axes", a(&[2, 2]), b(&[])),
        ];
        for (what, a, b) in shapes {
            let name = format!("matmul {ta} {tb} {what}");
            let operands = vec![f(&a, -1.0, 1.0), f(&b, -1.5, 1.0)];
            list.push(case(name.clone(), operands.clone(), move |_, x| x[0].matmul_t(x[1], ta, tb)));
            let with_bias = [operands, vec![f(&[4], -1.0, 2.0)]].concat();
            list.push(case(format!("{name} with bias"), with_bias, move |g, x| {
                let op = MatMul { bias: true, ..MatMul::new(ta, tb, DType::F32) };
                g.apply(op.op(), x)[0]
            }));
        }
    }
    let operands = vec![f(&[2, 3, 6], -1.0, 1.0), f(&[4, 6], -1.0, 1.5), f(&[4], -1.0, 1.0)];
    list.push(case("linear", operands, |_, x| x[0].linear(x[1], Some(x[2]))));
    list
}

fn attention() -> Vec<Case> {
    let mut list = Vec::new();
    for (heads, kv_heads) in [(2, 2), (4, 2), (3, 1)] {
        for causal in [false, true] {
            for p in [0.0, 0.3] {
                let width = (heads + 2 * kv_heads) * 4;
                let name = format!("attention {heads}/{kv_heads} causal {causal} dropout {p}");
                list.push(case(name, vec![f(&[2, 5, width], -1.5, 1.5)], move |_, x| {
                    x[0].attention(heads, kv_heads, causal, p)
                }));
            }
        }
    }
    list
}

fn layers() -> Vec<Case> {
    let x = || f(&[2, 3, 8], -2.0, 2.0);
    let w = || f(&[8], 0.5, 1.5);
    let b = || f(&[8], -1.0, 1.0);
    let targets = || u(&[4], &[2, IGNORE_INDEX, 0, 4]);
    vec![
        case("layer norm", vec![x()], |_, x| x[0].layer_norm(None, None, 1e-5)),
        case("layer norm with weight", vec![x(), w()], |_, x| x[0].layer_norm(Some(x[1]), None, 1e-5)),
        case("layer norm with weight and bias", vec![x(), w(), b()], |_, x| x[0].layer_norm(Some(x[1]), Some(x[2]), 1e-5)),
        case("rms norm", vec![x()], |_, x| x[0].rms_norm(None, 1e-6)),
        case("rms norm with weight", vec![x(), w()], |_, x| x[0].rms_norm(Some(x[1]), 1e-6)),
        case("softmax", vec![x()], |_, x| x[0].softmax()),
        case("log softmax", vec![x()], |_, x| x[0].log_softmax()),
        case("cross entropy", vec![f(&[4, 5], -2.0, 2.0), u(&[4], &[2, 3, 0, 4])], |_, x| x[0].cross_entropy(x[1], 0.0)),
        case("cross entropy with an ignored row", vec![f(&[4, 5], -2.0, 2.0), targets()], |_, x| x[0].cross_entropy(x[1], 0.0)),
        case("cross entropy with smoothing", vec![f(&[4, 5], -2.0, 2.0), targets()], |_, x| x[0].cross_entropy(x[1], 0.1)),
        case("cross entropy of a batch", vec![f(&[2, 2, 5], -2.0, 2.0), u(&[2, 2], &[1, 2, 3, 4])], |_, x| {
            x[0].cross_entropy(x[1], 0.2)
        }),
        case("embedding with repeated rows", vec![f(&[5, 3], -1.0, 1.0), u(&[2, 3], &[4, 0, 4, 2, 4, 0])], |_, x| {
            x[0].embedding(x[1])
        }),
    ]
}

fn layout() -> Vec<Case> {
    let x = || f(&[2, 3, 4], -1.0, 1.0);
    vec![
        case("reshape", vec![x(), f(&[6, 4], 0.5, 1.0)], |_, x| x[0].reshape([6, 4]) * x[1]),
        case("permute", vec![x()], |_, x| x[0].permute(&[2, 0, 1])),
        case("concat", vec![x(), f(&[2, 2, 4], 0.0, 2.0)], |g, x| g.concat(&[x[0], x[1], x[0]], 1)),
        case("concat on the last axis", vec![x(), f(&[2, 3, 1], 0.0, 2.0)], |g, x| g.concat(&[x[1], x[0]], 2)),
        case("slice", vec![x()], |_, x| x[0].slice(1, 1, 3)),
        case("slice of the first and the last axis", vec![x()], |_, x| x[0].slice(0, 1, 2).slice(2, 0, 3)),
        case("gather with repeats", vec![f(&[2, 5], -1.0, 1.0), u(&[2, 3], &[4, 0, 4, 1, 1, 1])], |_, x| x[0].gather(x[1])),
    ]
}

fn images() -> Vec<Case> {
    let mut list = Vec::new();
    for (stride, padding, dilation) in
        [([1, 1], [0, 0], [1, 1]), ([2, 1], [1, 2], [1, 1]), ([1, 2], [2, 1], [2, 1]), ([2, 2], [1, 1], [1, 2])]
    {
        let operands = vec![f(&[2, 6, 7, 2], -1.0, 1.0), f(&[3, 3, 2, 3], -1.0, 1.0)];
        let name = format!("conv2d stride {stride:?} padding {padding:?} dilation {dilation:?}");
        list.push(case(name, operands, move |_, x| x[0].conv2d(x[1], stride, padding, dilation)));
    }
    for kind in [PoolKind::Max, PoolKind::Average] {
        for (window, stride, padding) in [([2, 2], [2, 2], [0, 0]), ([3, 2], [1, 2], [1, 1])] {
            let pool = Pool2d { kind, window, stride, padding };
            let name = format!("pool2d {kind:?} window {window:?} stride {stride:?} padding {padding:?}");
            list.push(case(name, vec![f(&[2, 6, 4, 3], -1.0, 1.0)], move |_, x| x[0].pool2d(pool.clone())));
        }
    }
    list
}

//! The block evaluator against the interpreter, the functions against f64.

use super::*;
use crate::float;
use crate::op::expr::Ex;
use crate::op::map::{BinaryFn, Node, NodeId, UnaryFn};
use crate::rng::Rng;
use proptest::prelude::*;

const SEED_STEP: [u32; 2] = [11, 3];

/// An owned operand.
struct Tensor {
    dtype: DType,
    /// Words, for the alignment.
    words: Vec<u32>,
    len: usize,
    strides: Vec<usize>,
}

impl Tensor {
    fn new(dtype: DType, values: &[f32], strides: Vec<usize>) -> Tensor {
        let mut words = vec![0u32; values.len()];
        let n = values.len() * dtype.size_bytes();
        float::slices::encode(dtype, dtype.overflow(), values, &mut bytemuck::cast_slice_mut(&mut words)[..n]);
        Tensor { dtype, words, len: values.len(), strides }
    }

    fn view(&self) -> View<'_> {
        View::new(self.dtype, &bytemuck::cast_slice(&self.words)[..self.len * self.dtype.size_bytes()])
    }

    fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::new(self.dtype, &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len * self.dtype.size_bytes()])
    }

    fn values(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len];
        self.view().decode_into(&mut out);
        out
    }
}

/// Equal bits, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Ordinary, extreme and non-finite values.
fn sample(rng: &mut Rng) -> f32 {
    const ODD: [f32; 16] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        2.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        448.0,
        500.0,
        65504.0,
        1e5,
    ];
    match rng.below(4) {
        0 => ODD[rng.below(16) as usize],
        1 => f32::from_bits(rng.next_u32()),
        _ => 3.0 * rng.normal(),
    }
}

/// A valid expression of about `n` nodes over `inputs` inputs, the last of which is `[seed, step]`.
fn random_expr(rng: &mut Rng, inputs: u16, n: usize, outputs: usize) -> MapExpr {
    let mut e = MapExpr::default();
    for i in 0..n {
        let mut pick = || rng.below(i as u64) as NodeId;
        let earlier = if i == 0 { [0; 3] } else { [pick(), pick(), pick()] };
        let [a, b, c] = earlier;
        let kind = if i == 0 { 0 } else { rng.below(12) };
        let stream = rng.below(5) as u32;
        e.nodes.push(match kind {
            0 | 1 if inputs > 1 => Node::Input(rng.below(u64::from(inputs) - 1) as u16),
            0..=2 => Node::Const(sample(rng).to_bits()),
            3 => Node::Round(DType::ALL[rng.below(9) as usize], a),
            4..=6 => Node::Unary(UnaryFn::ALL[rng.below(UnaryFn::ALL.len() as u64) as usize], a),
            7 | 8 => Node::Binary(BinaryFn::ALL[rng.below(BinaryFn::ALL.len() as u64) as usize], a, b),
            9 => Node::Select([a, b, c]),
            10 => Node::Dropout { x: a, rng: inputs - 1, stream, threshold: 1 << 31, scale: 2f32.to_bits() },
            _ => Node::Uniform { rng: inputs - 1, stream },
        });
    }
    e.outputs = (0..outputs).map(|_| rng.below(n as u64) as NodeId).collect();
    e.validate(usize::from(inputs)).expect("valid by construction");
    e
}

/// An input of any dtype with any broadcast of `shape`, sometimes transposed.
fn random_input(rng: &mut Rng, shape: &[usize]) -> Tensor {
    let dtype = DType::ALL[rng.below(9) as usize];
    let kind = rng.below(4);
    let mut order: Vec<usize> = (0..shape.len()).rev().collect();
    if kind == 3 {
        order.reverse();
    }
    let (mut strides, mut len) = (vec![0; shape.len()], 1);
    for axis in order {
        if kind != 1 && !(kind == 2 && rng.below(2) == 0) {
            strides[axis] = len;
            len *= shape[axis];
        }
    }
    let values: Vec<f32> = (0..len).map(|_| sample(rng)).collect();
    Tensor::new(dtype, &values, strides)
}

/// Runs one random case both ways.
fn check(seed: u64, shape: &[usize], nodes: usize, n_outputs: usize, n_inputs: usize) {
    let mut rng = Rng::new(seed, 0);
    let len: usize = shape.iter().product();
    let expr = random_expr(&mut rng, n_inputs as u16 + 1, nodes, n_outputs);
    let inputs: Vec<Tensor> = (0..n_inputs).map(|_| random_input(&mut rng, shape)).collect();
    let mut outputs: Vec<Tensor> = (0..n_outputs)
        .map(|_| {
            let old: Vec<f32> = (0..len).map(|_| sample(&mut rng)).collect();
            Tensor::new(DType::ALL[rng.below(9) as usize], &old, Vec::new())
        })
        .collect();
    // Some inputs are the old contents of an output.
    let in_place: Vec<Option<usize>> =
        (0..n_inputs).map(|_| (rng.below(3) == 0).then(|| rng.below(n_outputs as u64) as usize)).collect();
    let old: Vec<Vec<f32>> = outputs.iter().map(Tensor::values).collect();
    let decoded: Vec<Vec<f32>> = inputs.iter().map(Tensor::values).collect();

    let mut want: Vec<Vec<f32>> = vec![Vec::new(); n_outputs];
    for index in 0..len {
        let at: Vec<f32> = (0..n_inputs)
            .map(|k| match in_place[k] {
                Some(i) => old[i][index],
                None => {
                    let (mut rest, mut offset) = (index, 0);
                    for (d, s) in shape.iter().zip(&inputs[k].strides).rev() {
                        offset += rest % d * s;
                        rest /= d;
                    }
                    decoded[k][offset]
                }
            })
            .collect();
        for (want, y) in want.iter_mut().zip(eval_scalar(&expr, &at, index as u32, |_| SEED_STEP)) {
            want.push(y);
        }
    }
    for (want, y) in want.iter_mut().zip(&outputs) {
        *want = Tensor::new(y.dtype, want, Vec::new()).values();
    }

    let mut operands: Vec<MapInput<'_>> = inputs
        .iter()
        .zip(&in_place)
        .map(|(x, place)| match place {
            Some(i) => MapInput::InPlace(*i),
            None => MapInput::View { view: x.view(), strides: &x.strides },
        })
        .collect();
    operands.push(MapInput::View { view: View::new(DType::U32, bytemuck::cast_slice(&SEED_STEP)), strides: &[] });
    let mut work = vec![f32::NAN; map_work_len(&expr, shape)];
    let mut views: Vec<ViewMut<'_>> = outputs.iter_mut().map(Tensor::view_mut).collect();
    map(&expr, &operands, shape, &mut views, &mut work);
    for (i, (want, y)) in want.iter().zip(&outputs).enumerate() {
        for (j, (want, got)) in want.iter().zip(y.values()).enumerate() {
            assert!(same(*want, got), "seed {seed}: output {i} ({}) [{j}] of {expr}: {got}, want {want}", y.dtype);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_equal_the_interpreter(
        seed in any::<u64>(),
        shape in prop::collection::vec(prop::sample::select(vec![1usize, 2, 3, 7, 16, 65]), 0..4),
        nodes in 1usize..40,
        n_outputs in 1usize..5,
        n_inputs in 0usize..5,
    ) {
        check(seed, &shape, nodes, n_outputs, n_inputs);
    }
}

#[test]
fn pieces_and_blocks_join_without_a_seam() {
    for (seed, shape) in
        [&[257usize, 129][..], &[2, 3, 7001], &[33, 1, 1025], &[70_001], &[1, 65], &[5, 0, 3], &[16, 2048]].iter().enumerate()
    {
        for k in 0..4 {
            check(1000 * k + seed as u64, shape, 12, 3, 4);
        }
    }
}

#[test]
fn every_function_alone_equals_the_interpreter() {
    let mut rng = Rng::new(5, 0);
    let x: Vec<f32> = (0..1029).map(|_| sample(&mut rng)).collect();
    let z: Vec<f32> = (0..1029).map(|_| sample(&mut rng)).collect();
    let all = UnaryFn::ALL
        .iter()
        .map(|f| Ex::input(0).unary(*f).finish())
        .chain(BinaryFn::ALL.iter().map(|f| Ex::input(0).binary(*f, Ex::input(1)).finish()));
    for expr in all {
        let mut y = vec![0.0; x.len()];
        let strides = [1];
        let inputs = [&x, &z].map(|x| MapInput::View { view: View::of(x), strides: &strides });
        let mut work = vec![0.0; map_work_len(&expr, &[x.len()])];
        map(&expr, &inputs, &[x.len()], &mut [ViewMut::of(&mut y)], &mut work);
        for i in 0..x.len() {
            let want = eval_scalar(&expr, &[x[i], z[i]], i as u32, |_| SEED_STEP)[0];
            assert!(same(y[i], want), "{expr} at {}, {}: {}, want {want}", x[i], z[i], y[i]);
        }
    }
}

/// `Phi(x)` in f64 by its Taylor series, good for |x| <= 7.
fn normal_cdf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn closed_form(f: UnaryFn, x: f64) -> Option<f64> {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    match f {
        UnaryFn::GeluTanh => Some(0.5 * x * (1.0 + (c * (x + 0.044715 * x * x * x)).tanh())),
        UnaryFn::GeluErf => Some(x * normal_cdf(x)),
        UnaryFn::Silu => Some(x / (1.0 + (-x).exp())),
        UnaryFn::Softplus => Some(x.exp().ln_1p()),
        UnaryFn::Sigmoid => Some(1.0 / (1.0 + (-x).exp())),
        UnaryFn::Rsqrt => Some(1.0 / x.sqrt()),
        UnaryFn::Recip => Some(1.0 / x),
        UnaryFn::Relu => Some(x.max(0.0)),
        UnaryFn::Neg
        | UnaryFn::Abs
        | UnaryFn::Square
        | UnaryFn::Sqrt
        | UnaryFn::Exp
        | UnaryFn::Log
        | UnaryFn::Tanh
        | UnaryFn::Erf => None,
        UnaryFn::Sin | UnaryFn::Cos | UnaryFn::Floor | UnaryFn::Sign | UnaryFn::ReluGrad | UnaryFn::GeluTanhGrad => None,
        UnaryFn::GeluErfGrad | UnaryFn::SiluGrad | UnaryFn::IsFinite => None,
    }
}

#[test]
fn activations_match_their_formulas_and_their_derivatives() {
    let pairs = [
        (UnaryFn::GeluTanh, Some(UnaryFn::GeluTanhGrad)),
        (UnaryFn::GeluErf, Some(UnaryFn::GeluErfGrad)),
        (UnaryFn::Silu, Some(UnaryFn::SiluGrad)),
        (UnaryFn::Relu, Some(UnaryFn::ReluGrad)),
        (UnaryFn::Softplus, Some(UnaryFn::Sigmoid)),
        (UnaryFn::Rsqrt, None),
        (UnaryFn::Recip, None),
    ];
    for (f, grad) in pairs {
        let exact = |x: f64| closed_form(f, x).expect("has a closed form");
        for i in -6500..6500 {
            let x = (f64::from(i) + 0.5) * 1e-3;
            let (x32, x) = (x as f32, f64::from(x as f32));
            let (got, want) = (f64::from(functions::unary(f, x32)), exact(x));
            // 1 + erf(x) cancels below 0: two roundings of a number near 1, times x / 2.
            let cancelled = if f == UnaryFn::GeluErf { x.abs() } else { 0.0 };
            let tol = f64::from(f32::EPSILON) * (4.0 * want.abs().max(0.1)).max(cancelled);
            assert!((got - want).abs() <= tol || (got.is_nan() && want.is_nan()), "{}({x}) = {got}, want {want}", f.name());
            if let Some(grad) = grad {
                let h = 1e-4;
                let slope = (exact(x + h) - exact(x - h)) / (2.0 * h);
                let got = f64::from(functions::unary(grad, x32));
                assert!((got - slope).abs() <= 1e-6, "{}({x}) = {got}, slope {slope}", grad.name());
            }
        }
    }
}

#[test]
fn limits_and_non_finite_values() {
    use UnaryFn as U;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let u = functions::unary;
    for (f, at_minus_inf, at_inf) in [
        (U::Relu, 0.0, inf),
        (U::ReluGrad, 0.0, 1.0),
        (U::GeluTanhGrad, 0.0, 1.0),
        (U::GeluErfGrad, 0.0, 1.0),
        (U::SiluGrad, 0.0, 1.0),
        (U::Sign, -1.0, 1.0),
        (U::IsFinite, 0.0, 0.0),
        (U::Softplus, 0.0, inf),
        (U::Tanh, -1.0, 1.0),
    ] {
        assert!((u(f, -inf) - at_minus_inf).abs() <= 1e-30, "{}(-inf) = {}", f.name(), u(f, -inf));
        assert_eq!(u(f, inf), at_inf, "{}(inf)", f.name());
    }
    for f in UnaryFn::ALL {
        match f {
            U::Sign | U::ReluGrad | U::IsFinite => assert_eq!(u(f, nan), 0.0, "{}(NaN)", f.name()),
            U::Neg
            | U::Abs
            | U::Recip
            | U::Square
            | U::Sqrt
            | U::Rsqrt
            | U::Exp
            | U::Log
            | U::Tanh
            | U::Erf
            | U::Sigmoid
            | U::Softplus => {
                assert!(u(f, nan).is_nan(), "{}", f.name());
            }
            U::Sin
            | U::Cos
            | U::Floor
            | U::Relu
            | U::GeluTanh
            | U::GeluTanhGrad
            | U::GeluErf
            | U::GeluErfGrad
            | U::Silu
            | U::SiluGrad => {
                assert!(u(f, nan).is_nan(), "{}", f.name());
            }
        }
        for x in [1e20, -1e20, f32::MAX, -f32::MAX, 90.0, -90.0, 1e-45] {
            let undefined = (matches!(f, U::Sqrt | U::Rsqrt | U::Log)) && x < 0.0;
            assert_eq!(u(f, x).is_nan(), undefined, "{}({x})", f.name());
        }
    }
    assert_eq!(u(U::Relu, -0.0).to_bits(), 0);
    assert_eq!(u(U::Sign, -0.0).to_bits(), 0);
    let b = functions::binary;
    for f in [BinaryFn::Max, BinaryFn::Min] {
        assert!(b(f, nan, 1.0).is_nan() && b(f, 1.0, nan).is_nan());
    }
    for (a, c) in [(0.0, -0.0), (-0.0, 0.0)] {
        assert_eq!(b(BinaryFn::Max, a, c).to_bits(), 0);
        assert_eq!(b(BinaryFn::Min, a, c).to_bits(), 1 << 31);
    }
    for f in [BinaryFn::Lt, BinaryFn::Le, BinaryFn::Eq] {
        assert_eq!((b(f, nan, nan), b(f, nan, 0.0), b(f, 0.0, nan)), (0.0, 0.0, 0.0));
    }
}

#[test]
fn dropout_keeps_the_right_share_and_scale() {
    let n = 100_000;
    let expr = Ex::input(0).dropout(0.3, 1, 9).finish();
    let x = vec![f32::NAN; n];
    let mut y = vec![1.0; n];
    let seed = MapInput::View { view: View::new(DType::U32, bytemuck::cast_slice(&SEED_STEP)), strides: &[] };
    let mut work = vec![0.0; map_work_len(&expr, &[n])];
    map(&expr, &[MapInput::InPlace(0), seed], &[n], &mut [ViewMut::of(&mut y)], &mut work);
    let kept = y.iter().filter(|y| **y != 0.0).count() as f64 / n as f64;
    assert!((kept - 0.7).abs() <= 5.0 * (0.21 / n as f64).sqrt(), "{kept}");
    assert!(y.iter().all(|y| *y == 0.0 || *y == 1.0 / 0.7f32));
    let strides = [1];
    map(&expr, &[MapInput::View { view: View::of(&x), strides: &strides }, seed], &[n], &mut [ViewMut::of(&mut y)], &mut work);
    let numbers = y.iter().filter(|y| !y.is_nan()).count() as f64 / n as f64;
    assert!((numbers - (1.0 - kept)).abs() <= 1e-12, "a dropped NaN is 0");
}

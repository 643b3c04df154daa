//! Expressions as data: text, limits, fusion.

use super::*;
use crate::op::expr::Ex;

/// `f(i0, i1)`
fn binary(f: BinaryFn) -> MapExpr {
    Ex::input(0).binary(f, Ex::input(1)).finish()
}

/// `i0 * i1 + c`
fn scale_and_shift(c: f32) -> MapExpr {
    let mut e = binary(BinaryFn::Mul);
    let c = e.push(Node::Const(c.to_bits()));
    let y = e.push(Node::Binary(BinaryFn::Add, 2, c));
    e.outputs = vec![y];
    e
}

#[test]
fn text_is_infix_with_the_fewest_parentheses() {
    let mut e = binary(BinaryFn::Add);
    let r = e.push(Node::Round(DType::Bf16, 2));
    let y = e.push(Node::Unary(UnaryFn::GeluTanh, r));
    e.outputs = vec![y];
    assert_eq!(e.to_string(), "gelu_tanh(bf16(i0 + i1))");

    let mut e = binary(BinaryFn::Sub);
    let a = e.push(Node::Binary(BinaryFn::Sub, 0, 2));
    let b = e.push(Node::Binary(BinaryFn::Mul, a, 1));
    let c = e.push(Node::Binary(BinaryFn::Lt, b, 1));
    let d = e.push(Node::Binary(BinaryFn::Div, 0, b));
    e.outputs = vec![c, d];
    assert_eq!(e.to_string(), "t4 = (i0 - (i0 - i1)) * i1; t4 < i1, i0 / t4");
    assert_eq!(Ex::input(0).binary(BinaryFn::Pow, Ex::constant(0.5)).finish().to_string(), "pow(i0, 0.5)");
    assert_eq!(Ex::input(0).select(Ex::input(1), Ex::input(2)).finish().to_string(), "select(i0, i1, i2)");
    assert_eq!(Ex::input(0).dropout(0.1, 1, 7).finish().to_string(), "dropout(i0, p = 0.1000, rng = i1.7)");
    assert_eq!(Ex::node(Node::Uniform { rng: 0, stream: 3 }).finish().to_string(), "uniform(rng = i0.3)");
}

#[test]
fn names_are_distinct() {
    let mut names: Vec<_> = UnaryFn::ALL.iter().map(|f| f.name()).chain(BinaryFn::ALL.iter().map(|f| f.name())).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn flops_add_up() {
    assert_eq!(Ex::input(0).finish().flops(), 0);
    assert_eq!(scale_and_shift(1.0).flops(), 2);
    assert_eq!(Ex::input(0).unary(UnaryFn::Exp).finish().flops(), 8);
}

#[test]
fn validate_names_what_is_wrong() {
    let good = scale_and_shift(0.5);
    assert_eq!(good.validate(2), Ok(()));
    assert!(good.validate(1).is_err(), "an input that is not there");
    assert!(MapExpr::default().validate(0).is_err(), "no outputs");
    let forward = MapExpr { nodes: vec![Node::Unary(UnaryFn::Neg, 0)], outputs: vec![0] };
    assert!(forward.validate(0).is_err(), "a node that reads itself");
    let outside = MapExpr { nodes: vec![Node::Const(0)], outputs: vec![1] };
    assert!(outside.validate(0).is_err(), "an output that is no node");
    let long = MapExpr { nodes: vec![Node::Const(0); MAX_NODES + 1], outputs: vec![0] };
    assert!(long.validate(0).is_err() && good.validate(MAX_INPUTS + 1).is_err());
    assert!(Ex::node(Node::Uniform { rng: 0, stream: 0 }).finish().validate(0).is_err(), "no [seed, step]");
}

#[test]
fn dropout_has_its_threshold_and_scale_as_bits() {
    let Node::Dropout { threshold, scale, .. } = Ex::input(0).dropout(0.25, 1, 0).finish().nodes[1] else {
        panic!("no dropout")
    };
    assert_eq!((threshold, scale), (1 << 30, (1.0f32 / 0.75).to_bits()));
}

#[test]
fn fusion_keeps_the_rounding_of_the_store() {
    let producer = scale_and_shift(0.5);
    let consumer = binary(BinaryFn::Mul);
    let from = |dtype| Source::Producer { producer: &producer, output: 0, dtype, inputs: &[1, 2] };
    let fused = consumer.substitute(&[from(DType::Bf16), Source::Input(1)]).expect("valid");
    assert_eq!(fused.to_string(), "bf16(i1 * i2 + 0.5) * i1");
    let fused = consumer.substitute(&[from(DType::F32), Source::Input(0)]).expect("valid");
    assert_eq!(fused.to_string(), "(i1 * i2 + 0.5) * i0");
    // The same producer twice is computed once.
    let fused = consumer.substitute(&[from(DType::F16), from(DType::F16)]).expect("valid");
    assert_eq!(fused.to_string(), "t5 = f16(i1 * i2 + 0.5); t5 * t5");
}

#[test]
fn fusion_refuses_what_it_cannot_express() {
    let dropout = Ex::input(0).dropout(0.5, 1, 1).finish();
    let copy = Ex::input(0).finish();
    let seed = Source::Producer { producer: &copy, output: 0, dtype: DType::F32, inputs: &[0] };
    assert!(dropout.substitute(&[Source::Input(0), seed]).is_err());
    assert!(dropout.substitute(&[Source::Input(0)]).is_err());
    assert_eq!(
        dropout.substitute(&[seed, Source::Input(4)]).expect("valid").to_string(),
        "dropout(i0, p = 0.5000, rng = i4.1)"
    );
    let missing = Source::Producer { producer: &copy, output: 1, dtype: DType::F32, inputs: &[0] };
    assert!(copy.substitute(&[missing]).is_err());
}

#[test]
fn dedupe_merges_equal_and_drops_dead_nodes() {
    let e = MapExpr {
        nodes: vec![
            Node::Input(0),
            Node::Input(0),
            Node::Unary(UnaryFn::Exp, 0),
            Node::Unary(UnaryFn::Exp, 1),
            Node::Unary(UnaryFn::Sin, 3),
            Node::Binary(BinaryFn::Add, 2, 3),
        ],
        outputs: vec![5, 2],
    };
    let d = e.dedupe();
    assert_eq!(d.nodes, [Node::Input(0), Node::Unary(UnaryFn::Exp, 0), Node::Binary(BinaryFn::Add, 1, 1)]);
    assert_eq!(d.outputs, [2, 1]);
    assert_eq!(d.dedupe(), d);
}

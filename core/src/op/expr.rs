//! Writing elementwise expressions: `Ex` values combine with `+ - * /` and methods, then become a [`Map`] instruction.
//!
//! `(Ex::input(0) * Ex::input(1)).unary(UnaryFn::GeluTanhGrad)` reads like the formula and is evaluated in f32 in one
//! pass.

use super::map::{BinaryFn, MapExpr, Node, NodeId, UnaryFn};
use super::{Op, expect};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{Shape, Ty};
use std::ops;

/// The elementwise instruction: an expression, the shape it fills and the dtype of each output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// What is computed per element.
    pub expr: MapExpr,
    /// Shape of every output; each input broadcasts to it.
    pub shape: Shape,
    /// Storage dtype of each output.
    pub out: Vec<DType>,
}

impl Map {
    /// A one-output map over inputs of these types: shape by broadcasting, stored as `out`. Fails if their shapes do
    /// not broadcast.
    pub fn new(ex: Ex, inputs: &[Ty], out: DType) -> Result<Map> {
        let mut shape = Shape::scalar();
        for (i, t) in inputs.iter().enumerate() {
            if !ex.is_rng(i as u16) {
                shape = shape.broadcast(&t.shape)?;
            }
        }
        Ok(Map { expr: ex.finish(), shape, out: vec![out] })
    }

    /// The instruction.
    pub fn op(self) -> Op {
        Op::Map(self)
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        self.expr.validate(inputs.len())?;
        expect(self.out.len() == self.expr.outputs.len(), "map", "a dtype for each output", &self.out.len())?;
        for (i, t) in inputs.iter().enumerate() {
            let rng = self.expr.nodes.iter().any(|n| rng_input(n) == Some(i as u16));
            if rng {
                expect(*t == Ty::new(DType::U32, [2]), "map", "random state u32[2]", t)?;
            } else {
                let fits = t.shape.broadcast(&self.shape).is_ok_and(|s| s == self.shape);
                expect(fits, "map", format!("an input that broadcasts to {}", self.shape), t)?;
            }
        }
        Ok(self.out.iter().map(|&d| Ty { dtype: d, shape: self.shape.clone() }).collect())
    }

    /// The target dtype, if this map does nothing but convert its one input without broadcasting.
    pub fn as_cast(&self, input: &Ty) -> Option<DType> {
        let plain = self.expr.nodes == [Node::Input(0)] && self.expr.outputs == [0] && self.shape == input.shape;
        plain.then(|| self.out[0])
    }
}

/// The instruction input with random state that a node reads, if it draws random numbers.
pub fn rng_input(node: &Node) -> Option<u16> {
    match node {
        Node::Dropout { rng, .. } | Node::Uniform { rng, .. } => Some(*rng),
        Node::Input(_) | Node::Const(_) | Node::Round(..) | Node::Unary(..) | Node::Binary(..) | Node::Select(_) => None,
    }
}

/// The node with its instruction input renumbered.
pub fn renumber_input(node: Node, new: impl Fn(u16) -> u16) -> Node {
    match node {
        Node::Input(n) => Node::Input(new(n)),
        Node::Dropout { x, rng, stream, threshold, scale } => Node::Dropout { x, rng: new(rng), stream, threshold, scale },
        Node::Uniform { rng, stream } => Node::Uniform { rng: new(rng), stream },
        Node::Const(_) | Node::Round(..) | Node::Unary(..) | Node::Binary(..) | Node::Select(_) => node,
    }
}

/// An expression under construction. The last node is its value.
#[derive(Clone, Debug)]
pub struct Ex(Vec<Node>);

impl Ex {
    /// Input number `n` of the instruction.
    pub fn input(n: u16) -> Ex {
        Ex(vec![Node::Input(n)])
    }

    /// A constant.
    pub fn constant(c: f32) -> Ex {
        Ex(vec![Node::Const(c.to_bits())])
    }

    /// A function of this value.
    pub fn unary(mut self, f: UnaryFn) -> Ex {
        let x = self.last();
        self.0.push(Node::Unary(f, x));
        self
    }

    /// A function of two values.
    pub fn binary(mut self, f: BinaryFn, other: Ex) -> Ex {
        let a = self.last();
        let b = self.append(other);
        self.0.push(Node::Binary(f, a, b));
        self
    }

    /// `if self != 0 { a } else { b }`.
    pub fn select(mut self, a: Ex, b: Ex) -> Ex {
        let c = self.last();
        let a = self.append(a);
        let b = self.append(b);
        self.0.push(Node::Select([c, a, b]));
        self
    }

    /// Inverted dropout with probability `p` in `[0, 1)`; `rng` is the input with `[seed, step]`.
    pub fn dropout(mut self, p: f32, rng: u16, stream: u32) -> Ex {
        let x = self.last();
        let threshold = dropout_threshold(p);
        self.0.push(Node::Dropout { x, rng, stream, threshold, scale: (1.0 / (1.0 - p)).to_bits() });
        self
    }

    /// A single node without operands.
    pub fn node(node: Node) -> Ex {
        Ex(vec![node])
    }

    /// Adds a node that takes this value.
    pub fn push(mut self, node: impl FnOnce(NodeId) -> Node) -> Ex {
        let x = self.last();
        self.0.push(node(x));
        self
    }

    /// Whether it is input `n` itself.
    pub fn is_input(&self, n: u16) -> bool {
        self.0 == [Node::Input(n)]
    }

    /// The same expression with inputs renumbered 0.. without gaps, and the old number of each.
    pub fn compact(self) -> (Ex, Vec<u16>) {
        let mut used: Vec<u16> = self.0.iter().filter_map(|n| n.input()).collect();
        used.sort_unstable();
        used.dedup();
        let new = |old: u16| used.iter().position(|&u| u == old).unwrap_or(0) as u16;
        let nodes = self.0.iter().map(|&n| renumber_input(n, new)).collect();
        (Ex(nodes), used)
    }

    fn last(&self) -> NodeId {
        (self.0.len() - 1) as NodeId
    }

    fn is_rng(&self, input: u16) -> bool {
        self.0.iter().any(|n| rng_input(n) == Some(input))
    }

    fn append(&mut self, other: Ex) -> NodeId {
        let base = self.0.len() as NodeId;
        self.0.extend(other.0.into_iter().map(|n| shift(n, base)));
        self.last()
    }

    /// The finished expression, with this value as its output.
    pub fn finish(self) -> MapExpr {
        let root = self.last();
        MapExpr { nodes: self.0, outputs: vec![root] }
    }
}

/// Random words below this are dropped: `p * 2^32`, rounded.
pub fn dropout_threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0).round().min(4_294_967_295.0) as u32
}

fn shift(node: Node, by: NodeId) -> Node {
    match node {
        Node::Input(_) | Node::Const(_) | Node::Uniform { .. } => node,
        Node::Round(d, x) => Node::Round(d, x + by),
        Node::Unary(f, x) => Node::Unary(f, x + by),
        Node::Binary(f, a, b) => Node::Binary(f, a + by, b + by),
        Node::Select([c, a, b]) => Node::Select([c + by, a + by, b + by]),
        Node::Dropout { x, rng, stream, threshold, scale } => Node::Dropout { x: x + by, rng, stream, threshold, scale },
    }
}

impl ops::Add for Ex {
    type Output = Ex;
    fn add(self, other: Ex) -> Ex {
        self.binary(BinaryFn::Add, other)
    }
}
impl ops::Sub for Ex {
    type Output = Ex;
    fn sub(self, other: Ex) -> Ex {
        self.binary(BinaryFn::Sub, other)
    }
}
impl ops::Mul for Ex {
    type Output = Ex;
    fn mul(self, other: Ex) -> Ex {
        self.binary(BinaryFn::Mul, other)
    }
}
impl ops::Div for Ex {
    type Output = Ex;
    fn div(self, other: Ex) -> Ex {
        self.binary(BinaryFn::Div, other)
    }
}
impl ops::Neg for Ex {
    type Output = Ex;
    fn neg(self) -> Ex {
        self.unary(UnaryFn::Neg)
    }
}

//! `Map`: an elementwise expression over broadcast inputs. One instruction is one pass over memory.
//!
//! Expressions are written with [`Ex`](super::expr::Ex). An expression is a list of nodes in evaluation order; a node
//! refers to earlier nodes by index. All arithmetic is f32. Where the recorded program stored an intermediate in a
//! narrower dtype, a `Round` node stands for that storage, so fusing instructions never changes a bit. CPU twin:
//! `cpu/map.rs`. `display` prints expressions, `rewrite` fuses and simplifies them.

mod display;
mod rewrite;

#[cfg(test)]
mod tests;

pub use rewrite::Source;

use super::cast_class::CastClass;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Index of a node inside its expression.
pub type NodeId = u16;

/// Most nodes of an expression: evaluators keep their tables on the stack.
pub const MAX_NODES: usize = 128;
/// Most inputs of an expression.
pub const MAX_INPUTS: usize = 16;
/// Most operands, inputs and outputs together, of an expression that a pass makes: what every WebGPU device can bind.
pub const MAX_OPERANDS: usize = 8;
/// Most outputs of an expression.
pub const MAX_OUTPUTS: usize = 8;

/// A function of one value. Comparisons and tests give 1.0 or 0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnaryFn {
    /// `-x`
    Neg,
    /// `|x|`
    Abs,
    /// `1 / x`
    Recip,
    /// `x * x`
    Square,
    /// `sqrt(x)`
    Sqrt,
    /// `1 / sqrt(x)`
    Rsqrt,
    /// `e^x`
    Exp,
    /// natural logarithm
    Log,
    /// hyperbolic tangent
    Tanh,
    /// error function
    Erf,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `log(1 + e^x)`, without overflow
    Softplus,
    /// sine
    Sin,
    /// cosine
    Cos,
    /// largest integer not above x
    Floor,
    /// -1, 0 or 1; 0 for NaN
    Sign,
    /// `max(x, 0)`; NaN stays NaN, -0 gives +0
    Relu,
    /// derivative of `Relu`: 1 where `x > 0`, else 0 (NaN too)
    ReluGrad,
    /// GELU, tanh form: `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`
    GeluTanh,
    /// derivative of `GeluTanh`
    GeluTanhGrad,
    /// GELU, exact: `0.5 x (1 + erf(x / sqrt 2))`
    GeluErf,
    /// derivative of `GeluErf`
    GeluErfGrad,
    /// `x * sigmoid(x)`
    Silu,
    /// derivative of `Silu`
    SiluGrad,
    /// 1 where x is finite
    IsFinite,
}

/// A function of two values. Comparisons give 1.0 or 0.0, and 0.0 where either side is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryFn {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// larger; NaN if either is NaN; +0 above -0
    Max,
    /// smaller; NaN if either is NaN; -0 below +0
    Min,
    /// `a^b`
    Pow,
    /// `a < b`
    Lt,
    /// `a <= b`
    Le,
    /// `a == b`
    Eq,
}

/// One node of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// Input number `n` of the instruction, decoded to f32 and broadcast to the output shape.
    Input(u16),
    /// A constant, as its bits.
    Const(u32),
    /// `x` rounded to the grid of a dtype (nearest even, the dtype's own overflow rule).
    Round(DType, NodeId),
    /// A function of one node.
    Unary(UnaryFn, NodeId),
    /// A function of two nodes.
    Binary(BinaryFn, NodeId, NodeId),
    /// `if cond != 0 { a } else { b }` as `[cond, a, b]`; the branch not taken does not leak its NaN, a NaN `cond`
    /// takes `a`.
    Select([NodeId; 3]),
    /// Inverted dropout of node `x`: `x * scale` where the element's random word is at least `threshold`, else 0.
    /// `rng` is the number of the instruction input that holds `[seed, step]` (u32); the word is
    /// `rng::bits(seed, stream, step, linear index in the output)`. `scale` is f32 bits.
    Dropout {
        /// Node that is dropped or kept.
        x: NodeId,
        /// Instruction input with `[seed, step]`.
        rng: u16,
        /// Place in the model.
        stream: u32,
        /// Words below this are dropped: `p * 2^32`.
        threshold: u32,
        /// `1 / (1 - p)`, f32 bits.
        scale: u32,
    },
    /// A uniform random value in `[0, 1)` with 24 bits, addressed as in `Dropout`.
    Uniform {
        /// Instruction input with `[seed, step]`.
        rng: u16,
        /// Place in the model.
        stream: u32,
    },
}

/// An elementwise expression. `outputs[i]` is the node that output `i` of the instruction stores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MapExpr {
    /// Nodes in evaluation order: a node refers to earlier ones only.
    pub nodes: Vec<Node>,
    /// Node of each output.
    pub outputs: Vec<NodeId>,
}

impl UnaryFn {
    /// Every function, in table order.
    pub const ALL: [UnaryFn; 25] = [
        UnaryFn::Neg,
        UnaryFn::Abs,
        UnaryFn::Recip,
        UnaryFn::Square,
        UnaryFn::Sqrt,
        UnaryFn::Rsqrt,
        UnaryFn::Exp,
        UnaryFn::Log,
        UnaryFn::Tanh,
        UnaryFn::Erf,
        UnaryFn::Sigmoid,
        UnaryFn::Softplus,
        UnaryFn::Sin,
        UnaryFn::Cos,
        UnaryFn::Floor,
        UnaryFn::Sign,
        UnaryFn::Relu,
        UnaryFn::ReluGrad,
        UnaryFn::GeluTanh,
        UnaryFn::GeluTanhGrad,
        UnaryFn::GeluErf,
        UnaryFn::GeluErfGrad,
        UnaryFn::Silu,
        UnaryFn::SiluGrad,
        UnaryFn::IsFinite,
    ];

    /// Token used in printed expressions and generated kernels.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Cost in FLOPs: 1 for what one instruction does, 8 for a transcendental function, sums for what is built of them.
    pub const fn flops(self) -> u64 {
        self.row().1
    }

    const fn row(self) -> (&'static str, u64) {
        match self {
            UnaryFn::Neg => ("neg", 1),
            UnaryFn::Abs => ("abs", 1),
            UnaryFn::Recip => ("recip", 1),
            UnaryFn::Square => ("square", 1),
            UnaryFn::Sqrt => ("sqrt", 1),
            UnaryFn::Rsqrt => ("rsqrt", 2),
            UnaryFn::Exp => ("exp", 8),
            UnaryFn::Log => ("log", 8),
            UnaryFn::Tanh => ("tanh", 8),
            UnaryFn::Erf => ("erf", 8),
            UnaryFn::Sigmoid => ("sigmoid", 8),
            UnaryFn::Softplus => ("softplus", 16),
            UnaryFn::Sin => ("sin", 8),
            UnaryFn::Cos => ("cos", 8),
            UnaryFn::Floor => ("floor", 1),
            UnaryFn::Sign => ("sign", 1),
            UnaryFn::Relu => ("relu", 1),
            UnaryFn::ReluGrad => ("relu_grad", 1),
            UnaryFn::GeluTanh => ("gelu_tanh", 14),
            UnaryFn::GeluTanhGrad => ("gelu_tanh_grad", 22),
            UnaryFn::GeluErf => ("gelu_erf", 12),
            UnaryFn::GeluErfGrad => ("gelu_erf_grad", 24),
            UnaryFn::Silu => ("silu", 9),
            UnaryFn::SiluGrad => ("silu_grad", 12),
            UnaryFn::IsFinite => ("is_finite", 1),
        }
    }
}

impl BinaryFn {
    /// Every function, in table order.
    pub const ALL: [BinaryFn; 10] = [
        BinaryFn::Add,
        BinaryFn::Sub,
        BinaryFn::Mul,
        BinaryFn::Div,
        BinaryFn::Max,
        BinaryFn::Min,
        BinaryFn::Pow,
        BinaryFn::Lt,
        BinaryFn::Le,
        BinaryFn::Eq,
    ];

    /// Token used in printed expressions and generated kernels.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Cost in FLOPs: 1 for what one instruction does, 8 for a transcendental function, sums for what is built of them.
    pub const fn flops(self) -> u64 {
        self.row().1
    }

    const fn row(self) -> (&'static str, u64) {
        match self {
            BinaryFn::Add => ("add", 1),
            BinaryFn::Sub => ("sub", 1),
            BinaryFn::Mul => ("mul", 1),
            BinaryFn::Div => ("div", 1),
            BinaryFn::Max => ("max", 1),
            BinaryFn::Min => ("min", 1),
            BinaryFn::Pow => ("pow", 16),
            BinaryFn::Lt => ("lt", 1),
            BinaryFn::Le => ("le", 1),
            BinaryFn::Eq => ("eq", 1),
        }
    }
}

impl Node {
    /// FLOPs of this node for one element. Reading, rounding and selecting count nothing, as in the usual FLOP counts;
    /// a random word counts its 20 rounds of three integer operations, shared by two elements.
    pub const fn flops(self) -> u64 {
        match self {
            Node::Input(_) | Node::Const(_) | Node::Round(..) | Node::Select(_) => 0,
            Node::Unary(f, _) => f.flops(),
            Node::Binary(f, ..) => f.flops(),
            Node::Dropout { .. } | Node::Uniform { .. } => 31,
        }
    }

    /// Calls `f` with every node that this one reads.
    pub fn for_each_operand(self, mut f: impl FnMut(NodeId)) {
        match self {
            Node::Input(_) | Node::Const(_) | Node::Uniform { .. } => {}
            Node::Round(_, x) | Node::Unary(_, x) | Node::Dropout { x, .. } => f(x),
            Node::Binary(_, a, b) => {
                f(a);
                f(b);
            }
            Node::Select(operands) => operands.into_iter().for_each(f),
        }
    }

    /// The instruction input that this node reads: an operand, or the `[seed, step]` of a random one.
    pub const fn input(self) -> Option<u16> {
        match self {
            Node::Input(n) | Node::Dropout { rng: n, .. } | Node::Uniform { rng: n, .. } => Some(n),
            Node::Const(_) | Node::Round(..) | Node::Unary(..) | Node::Binary(..) | Node::Select(_) => None,
        }
    }
}

impl MapExpr {
    /// Adds `node` unless the expression holds the same one already; its index either way. For building expressions by
    /// hand; [`MapExpr::validate`] finds one that has grown beyond [`MAX_NODES`].
    pub fn push(&mut self, node: Node) -> NodeId {
        let found = self.nodes.iter().position(|have| *have == node);
        let id = found.unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        });
        id as NodeId
    }

    /// FLOPs for one element, all nodes together (weights: [`UnaryFn::flops`], [`BinaryFn::flops`], [`Node::flops`]).
    pub fn flops(&self) -> u64 {
        self.nodes.iter().map(|node| node.flops()).sum()
    }

    /// Fails unless the expression is one that an evaluator may be given with `n_inputs` inputs: within the three
    /// limits, reading earlier nodes and existing inputs only, with at least one output.
    pub fn validate(&self, n_inputs: usize) -> Result<()> {
        let limits = [
            ("nodes", self.nodes.len(), MAX_NODES),
            ("inputs", n_inputs, MAX_INPUTS),
            ("outputs", self.outputs.len(), MAX_OUTPUTS),
        ];
        for (what, count, limit) in limits {
            if count > limit {
                return Err(Error::operand("map", format!("at most {limit} {what}"), format!("{count}")));
            }
        }
        if self.outputs.is_empty() {
            return Err(Error::operand("map", "an output", "none"));
        }
        for (i, node) in self.nodes.iter().enumerate() {
            let mut later = None;
            node.for_each_operand(|x| {
                if usize::from(x) >= i {
                    later = Some(x);
                }
            });
            if let Some(x) = later {
                return Err(Error::operand("map", format!("node {i} to read earlier nodes"), format!("node {x}")));
            }
            if let Some(n) = node.input()
                && usize::from(n) >= n_inputs
            {
                return Err(Error::operand("map", format!("{n_inputs} inputs"), format!("input {n} in node {i}")));
            }
        }
        match self.outputs.iter().find(|id| usize::from(**id) >= self.nodes.len()) {
            Some(id) => Err(Error::operand("map", format!("outputs among {} nodes", self.nodes.len()), format!("node {id}"))),
            None => Ok(()),
        }
    }
}

impl UnaryFn {
    /// What autocast does with it.
    pub const fn class(self) -> CastClass {
        use UnaryFn as U;
        match self {
            U::Exp | U::Log | U::Recip | U::Rsqrt | U::Softplus => CastClass::F32,
            U::Neg
            | U::Abs
            | U::Square
            | U::Sqrt
            | U::Tanh
            | U::Erf
            | U::Sigmoid
            | U::Sin
            | U::Cos
            | U::Floor
            | U::Sign
            | U::Relu
            | U::ReluGrad
            | U::GeluTanh
            | U::GeluTanhGrad
            | U::GeluErf
            | U::GeluErfGrad
            | U::Silu
            | U::SiluGrad
            | U::IsFinite => CastClass::Keep,
        }
    }
}

impl BinaryFn {
    /// What autocast does with it.
    pub const fn class(self) -> CastClass {
        use BinaryFn as B;
        match self {
            B::Pow => CastClass::F32,
            B::Add | B::Sub | B::Mul | B::Div | B::Max | B::Min | B::Lt | B::Le | B::Eq => CastClass::Keep,
        }
    }
}

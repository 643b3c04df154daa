//! `Map`: an elementwise expression over broadcast inputs. One instruction is one pass over memory.
//!
//! An expression is a list of nodes in evaluation order; a node refers to earlier nodes by index. All arithmetic is f32.
//! Where the recorded program stored an intermediate in a narrower dtype, a `Round` node stands for that storage, so fusing
//! instructions never changes a bit. CPU twin: `cpu/map.rs`.

use crate::dtype::DType;

/// Index of a node inside its expression.
pub type NodeId = u16;

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
    /// -1, 0 or 1
    Sign,
    /// `max(x, 0)`; NaN stays NaN
    Relu,
    /// derivative of `Relu`: 1 where `x > 0`, else 0
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
    /// larger; NaN if either is NaN
    Max,
    /// smaller; NaN if either is NaN
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
    /// `if cond != 0 { a } else { b }` as `[cond, a, b]`; the branch not taken does not leak its NaN.
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

//! `Map` one element at a time: the specification that the block evaluator is tested against, and constant folding.

use super::functions;
use crate::float;
use crate::op::map::{MapExpr, Node, NodeId};
use crate::rng;

/// Values of the outputs of `expr` at one element, before they are stored.
///
/// `inputs[n]` is input `n` at this element as f32, `index` the element's linear index in the output (modulo 2^32), and
/// `seed_step(n)` gives the two words of a random-number input. `expr` must be valid.
pub fn eval_scalar(expr: &MapExpr, inputs: &[f32], index: u32, seed_step: impl Fn(u16) -> [u32; 2]) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(expr.nodes.len());
    for node in &expr.nodes {
        let at = |id: NodeId| values[usize::from(id)];
        let word = |rng: u16, stream: u32| {
            let [seed, step] = seed_step(rng);
            rng::bits(seed, stream, step, index)
        };
        let value = match *node {
            Node::Input(n) => inputs[usize::from(n)],
            Node::Const(bits) => f32::from_bits(bits),
            Node::Round(dtype, x) => {
                let mut one = [at(x)];
                float::slices::round(dtype, &mut one);
                one[0]
            }
            Node::Unary(f, x) => functions::unary(f, at(x)),
            Node::Binary(f, a, b) => functions::binary(f, at(a), at(b)),
            Node::Select([cond, a, b]) => functions::select(at(cond), at(a), at(b)),
            Node::Dropout { x, rng, stream, threshold, scale } => {
                functions::dropout(at(x), word(rng, stream), threshold, f32::from_bits(scale))
            }
            Node::Uniform { rng, stream } => functions::uniform(word(rng, stream)),
        };
        values.push(value);
    }
    expr.outputs.iter().map(|&id| values[usize::from(id)]).collect()
}

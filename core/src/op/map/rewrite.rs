//! Rewriting `Map` expressions: fusion by substitution, structural dedupe.
//!
//! No rewrite changes a bit of any output: where a producer stored its result in a narrower dtype, a `Round` node
//! stays.

use super::{MapExpr, Node, NodeId};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// What stands behind one input of an expression after [`MapExpr::substitute`].
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// An input of the new instruction, by its number there.
    Input(u16),
    /// Output `output` of `producer`, that was stored as `dtype`.
    Producer {
        /// The expression that computed the input.
        producer: &'a MapExpr,
        /// Which of its outputs.
        output: usize,
        /// Element type it was stored in.
        dtype: DType,
        /// Number in the new instruction of each input of `producer`.
        inputs: &'a [u16],
    },
}

impl MapExpr {
    /// This expression with every input `n` replaced by `sources[n]`: one instruction in place of several.
    ///
    /// A producer that draws random numbers addresses them by the linear index of its output, so it may only be inlined
    /// into an instruction of the same output shape. Fails where a source or an input number is missing, where
    /// `[seed, step]` is not a plain input, and where the result exceeds the limits of [`MapExpr::validate`].
    pub fn substitute(&self, sources: &[Source<'_>]) -> Result<MapExpr> {
        let source = |n: u16| sources.get(usize::from(n)).copied().ok_or_else(|| missing("source", n));
        let plain = |n: u16| match source(n)? {
            Source::Input(to) => Ok(to),
            Source::Producer { .. } => {
                Err(Error::operand("map", "[seed, step] as a plain input", format!("an expression for input {n}")))
            }
        };
        let mut out = MapExpr::default();
        let mut ids: Vec<NodeId> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let id = match *node {
                Node::Input(n) => match source(n)? {
                    Source::Input(to) => out.push(Node::Input(to)),
                    Source::Producer { producer, output, dtype, inputs } => {
                        let all = out.append(producer, |n| {
                            inputs.get(usize::from(n)).copied().ok_or_else(|| missing("number for input", n))
                        })?;
                        let id = producer.outputs.get(output).ok_or_else(|| missing("producer output", output as u16))?;
                        let value = all[usize::from(*id)];
                        match dtype {
                            DType::F32 | DType::Tf32 => value,
                            DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 | DType::U32 | DType::I32 => {
                                out.push(Node::Round(dtype, value))
                            }
                        }
                    }
                },
                other @ (Node::Const(_)
                | Node::Round(..)
                | Node::Unary(..)
                | Node::Binary(..)
                | Node::Select(_)
                | Node::Dropout { .. }
                | Node::Uniform { .. }) => out.push(remap(other, &ids, plain)?),
            };
            ids.push(id);
        }
        out.outputs = self.outputs.iter().map(|id| ids[usize::from(*id)]).collect();
        let out = out.dedupe();
        let n_inputs = out.nodes.iter().filter_map(|node| node.input()).max().map_or(0, |n| usize::from(n) + 1);
        out.validate(n_inputs)?;
        Ok(out)
    }

    /// The outputs of this expression, then those of `other` over the same inputs. Fails if the result exceeds the
    /// limits of [`MapExpr::validate`].
    pub fn beside(&self, other: &MapExpr) -> Result<MapExpr> {
        let mut out = self.clone();
        let ids = out.append(other, Ok)?;
        out.outputs.extend(other.outputs.iter().map(|id| ids[usize::from(*id)]));
        let out = out.dedupe();
        let n_inputs = out.nodes.iter().filter_map(|node| node.input()).max().map_or(0, |n| usize::from(n) + 1);
        out.validate(n_inputs)?;
        Ok(out)
    }

    /// The same expression with equal nodes merged and unread nodes removed. Inputs keep their numbers.
    pub fn dedupe(&self) -> MapExpr {
        let mut live = vec![false; self.nodes.len()];
        for id in &self.outputs {
            live[usize::from(*id)] = true;
        }
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if live[i] {
                node.for_each_operand(|x| live[usize::from(x)] = true);
            }
        }
        let mut out = MapExpr::default();
        let mut ids: Vec<NodeId> = Vec::with_capacity(self.nodes.len());
        for (node, live) in self.nodes.iter().zip(live) {
            // A dead node gets a number that no live node asks for.
            ids.push(if live { out.push(remap_operands(*node, &ids)) } else { NodeId::MAX });
        }
        out.outputs = self.outputs.iter().map(|id| ids[usize::from(*id)]).collect();
        out
    }

    /// Adds the nodes of `other` with its inputs renumbered; their indices here.
    fn append(&mut self, other: &MapExpr, input: impl Fn(u16) -> Result<u16>) -> Result<Vec<NodeId>> {
        let mut ids: Vec<NodeId> = Vec::with_capacity(other.nodes.len());
        for node in &other.nodes {
            let id = self.push(remap(*node, &ids, &input)?);
            ids.push(id);
        }
        Ok(ids)
    }
}

/// `node` with its operands and its input renumbered.
fn remap(node: Node, ids: &[NodeId], input: impl Fn(u16) -> Result<u16>) -> Result<Node> {
    Ok(match remap_operands(node, ids) {
        Node::Input(n) => Node::Input(input(n)?),
        Node::Dropout { x, rng, stream, threshold, scale } => Node::Dropout { x, rng: input(rng)?, stream, threshold, scale },
        Node::Uniform { rng, stream } => Node::Uniform { rng: input(rng)?, stream },
        same @ (Node::Const(_) | Node::Round(..) | Node::Unary(..) | Node::Binary(..) | Node::Select(_)) => same,
    })
}

fn remap_operands(node: Node, ids: &[NodeId]) -> Node {
    let at = |x: NodeId| ids[usize::from(x)];
    match node {
        Node::Round(dtype, x) => Node::Round(dtype, at(x)),
        Node::Unary(f, x) => Node::Unary(f, at(x)),
        Node::Binary(f, a, b) => Node::Binary(f, at(a), at(b)),
        Node::Select(operands) => Node::Select(operands.map(at)),
        Node::Dropout { x, rng, stream, threshold, scale } => Node::Dropout { x: at(x), rng, stream, threshold, scale },
        Node::Input(_) | Node::Const(_) | Node::Uniform { .. } => node,
    }
}

fn missing(what: &str, n: u16) -> Error {
    Error::operand("map", format!("a {what} {n}"), "none")
}

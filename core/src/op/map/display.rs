//! `Map` expressions as infix text: `gelu_tanh(bf16(i0 + i1))`.
//!
//! Inputs are `i0, i1, ...`. A node that is read more than once is named first: `t2 = exp(i0); t2 / (t2 + 1)`. Outputs
//! are separated by commas. Nothing that no output needs is printed.

use super::{BinaryFn, MapExpr, Node, NodeId};
use std::fmt::{Display, Formatter, Result, Write};

/// How tightly a printed node binds; parentheses go around a looser operand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Loose,
    Compare,
    Sum,
    Product,
    Atom,
}

impl Display for MapExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let reads = live_reads(self);
        for (i, node) in self.nodes.iter().enumerate() {
            if reads[i] > 1 && !is_leaf(*node) {
                write!(f, "t{i} = ")?;
                self.write_node(f, &reads, *node, Binding::Loose)?;
                f.write_str("; ")?;
            }
        }
        for (k, id) in self.outputs.iter().enumerate() {
            if k > 0 {
                f.write_str(", ")?;
            }
            self.write(f, &reads, *id, Binding::Loose)?;
        }
        Ok(())
    }
}

impl MapExpr {
    /// A reference to node `id`: its name if it has one, else itself.
    fn write(&self, f: &mut Formatter<'_>, reads: &[usize], id: NodeId, around: Binding) -> Result {
        let i = usize::from(id);
        match self.nodes[i] {
            node if reads[i] > 1 && !is_leaf(node) => write!(f, "t{i}"),
            node => self.write_node(f, reads, node, around),
        }
    }

    fn write_node(&self, f: &mut Formatter<'_>, reads: &[usize], node: Node, around: Binding) -> Result {
        match node {
            Node::Input(n) => write!(f, "i{n}"),
            Node::Const(bits) => write!(f, "{}", f32::from_bits(bits)),
            Node::Round(dtype, x) => self.write_call(f, reads, dtype.name(), &[x]),
            Node::Unary(function, x) => self.write_call(f, reads, function.name(), &[x]),
            Node::Binary(function, a, b) => match infix(function) {
                Some((sign, own)) => {
                    let parentheses = own < around;
                    if parentheses {
                        f.write_char('(')?;
                    }
                    // Left to right: an operand of the same binding needs parentheses on the right only.
                    let right = match own {
                        Binding::Sum => Binding::Product,
                        Binding::Compare => Binding::Sum,
                        Binding::Loose | Binding::Product | Binding::Atom => Binding::Atom,
                    };
                    self.write(f, reads, a, own)?;
                    write!(f, " {sign} ")?;
                    self.write(f, reads, b, right)?;
                    if parentheses {
                        f.write_char(')')?;
                    }
                    Ok(())
                }
                None => self.write_call(f, reads, function.name(), &[a, b]),
            },
            Node::Select(operands) => self.write_call(f, reads, "select", &operands),
            Node::Dropout { x, rng, stream, threshold, scale: _ } => {
                f.write_str("dropout(")?;
                self.write(f, reads, x, Binding::Loose)?;
                write!(f, ", p = {:.4}, rng = i{rng}.{stream})", f64::from(threshold) / (f64::from(u32::MAX) + 1.0))
            }
            Node::Uniform { rng, stream } => write!(f, "uniform(rng = i{rng}.{stream})"),
        }
    }

    fn write_call(&self, f: &mut Formatter<'_>, reads: &[usize], name: &str, operands: &[NodeId]) -> Result {
        write!(f, "{name}(")?;
        for (k, x) in operands.iter().enumerate() {
            if k > 0 {
                f.write_str(", ")?;
            }
            self.write(f, reads, *x, Binding::Loose)?;
        }
        f.write_char(')')
    }
}

fn infix(function: BinaryFn) -> Option<(&'static str, Binding)> {
    match function {
        BinaryFn::Add => Some(("+", Binding::Sum)),
        BinaryFn::Sub => Some(("-", Binding::Sum)),
        BinaryFn::Mul => Some(("*", Binding::Product)),
        BinaryFn::Div => Some(("/", Binding::Product)),
        BinaryFn::Lt => Some(("<", Binding::Compare)),
        BinaryFn::Le => Some(("<=", Binding::Compare)),
        BinaryFn::Eq => Some(("==", Binding::Compare)),
        BinaryFn::Max | BinaryFn::Min | BinaryFn::Pow => None,
    }
}

fn is_leaf(node: Node) -> bool {
    matches!(node, Node::Input(_) | Node::Const(_))
}

/// How often each node is read by a node or output that is itself needed.
fn live_reads(expr: &MapExpr) -> Vec<usize> {
    let mut reads = vec![0; expr.nodes.len()];
    for id in &expr.outputs {
        reads[usize::from(*id)] += 1;
    }
    for (i, node) in expr.nodes.iter().enumerate().rev() {
        if reads[i] > 0 {
            node.for_each_operand(|x| reads[usize::from(x)] += 1);
        }
    }
    reads
}

//! Gradients of `Map` and `Reduce`.
//!
//! A map is differentiated symbolically: for each input one expression in f32 over the output gradient and the inputs,
//! rounded once. Where the input was broadcast, the result is summed back over the repeated axes.

use super::Context;
use crate::error::Error;
use crate::op::Op;
use crate::op::expr::{Ex, Map};
use crate::op::map::{BinaryFn, Node, UnaryFn};
use crate::op::reduce::{Reduce, ReduceKind};
use crate::shape::Shape;
use crate::trace::Var;

pub(super) fn map<'g>(ctx: &Context<'_, 'g>, m: &Map, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let mut operands = vec![dy];
    operands.extend_from_slice(ctx.inputs);
    (0..ctx.inputs.len())
        .map(|k| {
            let x = ctx.inputs[k];
            if !ctx.needs[k] || !x.dtype().is_float() {
                return None;
            }
            let ex = match derivative(m, k as u16) {
                Ok(ex) => ex?,
                Err(f) => {
                    let what = format!("a function with a gradient ({} is itself a derivative)", f.name());
                    ctx.g.fail(Error::operand("grad", what, f.name()));
                    return None;
                }
            };
            let axes = x.shape().broadcast_axes(&m.shape);
            let narrow = if axes.is_empty() { x.dtype() } else { crate::DType::F32 };
            // `d(a + b) = dy` needs no instruction unless the dtype changes.
            let identity = ex.is_input(0);
            let full =
                if identity && (dy.dtype() == narrow || !axes.is_empty()) { dy } else { compact(ctx, ex, &operands, narrow) };
            if axes.is_empty() {
                return Some(full);
            }
            let sum = Reduce { kind: ReduceKind::Sum, axes, keep: false, out: x.dtype(), round: None };
            Some(ctx.g.push(Op::Reduce(sum), &[full.id])[0].reshape(x.shape()))
        })
        .collect()
}

/// Records the expression with only the operands it reads.
#[track_caller]
fn compact<'g>(ctx: &Context<'_, 'g>, ex: Ex, operands: &[Var<'g>], out: crate::DType) -> Var<'g> {
    let (ex, used) = ex.compact();
    let inputs: Vec<Var<'g>> = used.iter().map(|&i| operands[usize::from(i)]).collect();
    ctx.g.map(ex, &inputs, out)
}

/// d(output 0)/d(input k) * dy, over operands `[dy, inputs..]`; `None` if it is zero everywhere. Fails with a function
/// on the way that has a slope but no rule.
fn derivative(m: &Map, k: u16) -> Result<Option<Ex>, UnaryFn> {
    let nodes = &m.expr.nodes;
    let mut adjoint: Vec<Option<Ex>> = vec![None; nodes.len()];
    adjoint[usize::from(m.expr.outputs[0])] = Some(Ex::input(0));
    let mut total: Option<Ex> = None;
    for i in (0..nodes.len()).rev() {
        let Some(d) = adjoint[i].take() else { continue };
        let mut add = |x: u16, term: Ex| {
            let slot = &mut adjoint[usize::from(x)];
            *slot = Some(match slot.take() {
                Some(sum) => sum + term,
                None => term,
            });
        };
        let value = |x: u16| value_of(nodes, x);
        match nodes[i] {
            Node::Input(n) if n == k => {
                total = Some(match total.take() {
                    Some(sum) => sum + d,
                    None => d,
                });
            }
            Node::Input(_) | Node::Const(_) | Node::Uniform { .. } => {}
            Node::Round(_, x) => add(x, d),
            Node::Unary(f @ (UnaryFn::GeluTanhGrad | UnaryFn::GeluErfGrad | UnaryFn::SiluGrad), x) => {
                if reads(nodes, x, k) {
                    return Err(f);
                }
            }
            Node::Unary(f, x) => {
                if let Some(term) = unary(f, value(x), d) {
                    add(x, term);
                }
            }
            Node::Binary(f, a, b) => {
                let (da, db) = binary(f, value(a), value(b), d);
                if let Some(da) = da {
                    add(a, da);
                }
                if let Some(db) = db {
                    add(b, db);
                }
            }
            Node::Select([c, a, b]) => {
                add(a, value(c).select(d.clone(), Ex::constant(0.0)));
                add(b, value(c).select(Ex::constant(0.0), d));
            }
            Node::Dropout { x, rng, stream, threshold, scale } => {
                add(x, d.push(|x| Node::Dropout { x, rng: rng + 1, stream, threshold, scale }));
            }
        }
    }
    // `None`: an output that does not depend on input k through any differentiable path.
    Ok(total)
}

/// Whether node `at` depends on input `k`.
fn reads(nodes: &[Node], at: u16, k: u16) -> bool {
    let node = nodes[usize::from(at)];
    let mut found = node == Node::Input(k);
    node.for_each_operand(|x| found |= reads(nodes, x, k));
    found
}

/// The forward value of a node over operands `[dy, inputs..]`.
fn value_of(nodes: &[Node], at: u16) -> Ex {
    match nodes[usize::from(at)] {
        Node::Input(n) => Ex::input(n + 1),
        Node::Const(c) => Ex::constant(f32::from_bits(c)),
        Node::Round(d, x) => value_of(nodes, x).push(|x| Node::Round(d, x)),
        Node::Unary(f, x) => value_of(nodes, x).unary(f),
        Node::Binary(f, a, b) => value_of(nodes, a).binary(f, value_of(nodes, b)),
        Node::Select([c, a, b]) => value_of(nodes, c).select(value_of(nodes, a), value_of(nodes, b)),
        Node::Dropout { x, rng, stream, threshold, scale } => {
            value_of(nodes, x).push(|x| Node::Dropout { x, rng: rng + 1, stream, threshold, scale })
        }
        Node::Uniform { rng, stream } => Ex::node(Node::Uniform { rng: rng + 1, stream }),
    }
}

/// `f'(x) * d`.
fn unary(f: UnaryFn, x: Ex, d: Ex) -> Option<Ex> {
    use UnaryFn as U;
    let c = Ex::constant;
    Some(match f {
        U::Neg => -d,
        U::Abs => d * x.unary(U::Sign),
        U::Recip => -(d * x.unary(U::Recip).unary(U::Square)),
        U::Square => d * (c(2.0) * x),
        U::Sqrt => d * c(0.5) / x.unary(U::Sqrt),
        U::Rsqrt => d * c(-0.5) * (x.clone().unary(U::Rsqrt) / x),
        U::Exp => d * x.unary(U::Exp),
        U::Log => d / x,
        U::Tanh => d * (c(1.0) - x.unary(U::Tanh).unary(U::Square)),
        U::Erf => d * c(std::f32::consts::FRAC_2_SQRT_PI) * (-x.unary(U::Square)).unary(U::Exp),
        U::Sigmoid => {
            let s = x.unary(U::Sigmoid);
            d * (s.clone() * (c(1.0) - s))
        }
        U::Softplus => d * x.unary(U::Sigmoid),
        U::Sin => d * x.unary(U::Cos),
        U::Cos => -(d * x.unary(U::Sin)),
        U::Relu => x.unary(U::ReluGrad).select(d, c(0.0)),
        U::GeluTanh => d * x.unary(U::GeluTanhGrad),
        U::GeluErf => d * x.unary(U::GeluErfGrad),
        U::Silu => d * x.unary(U::SiluGrad),
        // Piecewise constant, or the derivative of an activation, which `derivative` refuses.
        U::Floor | U::Sign | U::IsFinite | U::ReluGrad | U::GeluTanhGrad | U::GeluErfGrad | U::SiluGrad => return None,
    })
}

/// Both partial derivatives times `d`. Ties of max and min share the gradient evenly, as in PyTorch.
fn binary(f: BinaryFn, a: Ex, b: Ex, d: Ex) -> (Option<Ex>, Option<Ex>) {
    use BinaryFn as B;
    let c = Ex::constant;
    let pick = |wins: Ex, tie: Ex, d: Ex| {
        let half = d.clone() * c(0.5);
        tie.select(half, wins.select(d, c(0.0)))
    };
    match f {
        B::Add => (Some(d.clone()), Some(d)),
        B::Sub => (Some(d.clone()), Some(-d)),
        B::Mul => (Some(d.clone() * b), Some(d * a)),
        B::Div => (Some(d.clone() / b.clone()), Some(-(d * a / b.unary(UnaryFn::Square)))),
        B::Max | B::Min => {
            let tie = a.clone().binary(B::Eq, b.clone());
            let (low, high) = (a.clone().binary(B::Lt, b.clone()), b.binary(B::Lt, a));
            let (wins_a, wins_b) = if f == B::Max { (high, low) } else { (low, high) };
            (Some(pick(wins_a, tie.clone(), d.clone())), Some(pick(wins_b, tie, d)))
        }
        B::Pow => {
            let da = d.clone() * b.clone() * a.clone().binary(B::Pow, b.clone() - c(1.0));
            let db = d * a.clone().binary(B::Pow, b) * a.unary(UnaryFn::Log);
            (Some(da), Some(db))
        }
        B::Lt | B::Le | B::Eq => (None, None),
    }
}

pub(super) fn reduce<'g>(ctx: &Context<'_, 'g>, r: &Reduce, dy: Var<'g>) -> Vec<Option<Var<'g>>> {
    let x = ctx.inputs[0];
    let shape = x.shape();
    let kept: Vec<usize> = (0..shape.len()).map(|i| if r.axes.contains(&i) { 1 } else { shape[i] }).collect();
    let dy = dy.reshape(kept.clone());
    let count: usize = r.axes.iter().map(|&a| shape[a]).product();
    let spread = |ex: Ex, inputs: &[Var<'g>]| fill_shape(ctx, ex, inputs, &shape, x.dtype());
    vec![Some(match r.kind {
        ReduceKind::Sum => spread(Ex::input(0), &[dy]),
        ReduceKind::Mean => spread(Ex::input(0) * Ex::constant(1.0 / count as f32), &[dy]),
        ReduceKind::SumSq => spread(Ex::constant(2.0) * Ex::input(0) * Ex::input(1), &[dy, x]),
        ReduceKind::Max => {
            // Shared evenly among equal maxima, as torch.amax does.
            let y = ctx.outputs[0].reshape(kept.clone());
            let equal = Ex::input(0).binary(BinaryFn::Eq, Ex::input(1));
            let hits = ctx.g.map(equal.clone(), &[x, y], crate::DType::F32);
            let sum = Reduce { kind: ReduceKind::Sum, axes: r.axes.clone(), keep: true, out: crate::DType::F32, round: None };
            let ties = ctx.g.push(Op::Reduce(sum), &[hits.id])[0];
            let share = equal.select(Ex::input(2) / Ex::input(3), Ex::constant(0.0));
            ctx.g.map(share, &[x, y, dy, ties], x.dtype())
        }
    })]
}

/// A map whose inputs all broadcast to `shape`.
fn fill_shape<'g>(ctx: &Context<'_, 'g>, ex: Ex, inputs: &[Var<'g>], shape: &Shape, out: crate::DType) -> Var<'g> {
    let types: Vec<_> = inputs.iter().map(|v| v.ty()).collect();
    let ids: Vec<_> = inputs.iter().map(|v| v.id).collect();
    match Map::new(ex, &types, out) {
        Ok(map) => ctx.g.push(Map { shape: shape.clone(), ..map }.op(), &ids)[0],
        Err(error) => {
            ctx.g.fail(error);
            inputs[0]
        }
    }
}

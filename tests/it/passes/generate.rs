//! Random small Programs through the recording API: mixed dtypes, autocast, views, broadcasting, dropout, state updates
//! read in between, gradients, loss scaling, clipping and an optimizer step.

use mantissa_core::DType;
use mantissa_core::op::expr::{Ex, Map};
use mantissa_core::op::map::{BinaryFn, UnaryFn};
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::clip::{Clip, clip_grads};
use mantissa_core::precision::scaler::ScalerConfig;
use mantissa_core::precision::{GradScaler, Region};
use mantissa_core::program::{Init, Program, Rate, Role};
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use proptest::prelude::*;

/// One recorded instruction: what, over which of the values so far, and a detail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    what: u8,
    a: usize,
    b: usize,
    detail: usize,
}

const KINDS: u8 = 17;

pub(super) fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let choice = (0..KINDS, 0usize..64, 0usize..64, 0usize..64).prop_map(|(what, a, b, detail)| Choice { what, a, b, detail });
    proptest::collection::vec(choice, 1..24)
}

const SMOOTH: [UnaryFn; 8] = [
    UnaryFn::Tanh,
    UnaryFn::GeluTanh,
    UnaryFn::Sigmoid,
    UnaryFn::Sin,
    UnaryFn::Neg,
    UnaryFn::Relu,
    UnaryFn::Silu,
    UnaryFn::Exp,
];
const ACTIVATIONS: [UnaryFn; 4] = [UnaryFn::Relu, UnaryFn::GeluTanh, UnaryFn::GeluErf, UnaryFn::Silu];
const PAIRS: [BinaryFn; 4] = [BinaryFn::Add, BinaryFn::Sub, BinaryFn::Mul, BinaryFn::Max];
const DTYPES: [DType; 5] = [DType::F32, DType::Bf16, DType::F16, DType::E4m3, DType::E5m2];
const LOWS: [DType; 3] = [DType::Bf16, DType::F16, DType::Tf32];

/// Records the choices over values [4, 8], then a loss, its gradients and an update.
pub(super) fn build(choices: &[Choice], grad_accum: usize) -> Program {
    let g = Graph::new("random", true);
    g.set_grad_accum(grad_accum);
    record(&g, choices);
    g.finish_raw().unwrap_or_else(|e| panic!("{e}\n{choices:?}"))
}

fn record(g: &Graph, choices: &[Choice]) {
    let ty = || Ty::new(DType::F32, [4, 8]);
    let w = g.param("w", [8, 8], Init::Normal { std: 0.3 });
    let gain = g.param("gain", [8], Init::Fill(1.0));
    let state = g.state("state", ty(), Role::Telemetry, Init::Fill(0.25));
    let mut pool = vec![g.input("a", ty(), Rate::MicroStep), g.input("b", ty(), Rate::MicroStep), state];
    for c in choices {
        let (a, b) = (pool[c.a % pool.len()], pool[c.b % pool.len()]);
        let y = one(g, c, a, b, w, gain, state);
        pool.push(y);
    }
    let total = pool[3..].iter().fold(pool[0], |sum, v| sum + v.cast(DType::F32).tanh() * gain);
    let loss = total.matmul(w).square().mean_all();
    let mut scaler =
        GradScaler::new(g, Some(ScalerConfig { init_scale: 256.0, growth_interval: 1, ..ScalerConfig::default() }))
            .expect("valid");
    let mut optim = Optim::new("optim", OptimConfig::sgd(0.5), vec![w, gain]).expect("valid");
    optim.backward(scaler.scale(loss));
    if g.grad_accum() == 1 {
        for (i, v) in pool[3..].iter().enumerate().step_by(3) {
            // What the host reads is a temporary of its own or an existing one: both occur.
            let v = if i % 2 == 0 { v.cast(DType::F32).copy() } else { *v };
            if v.dtype() == DType::F32 && v.id() != state.id() {
                g.output(&format!("y{i}"), v);
            }
        }
    }
    g.begin_update();
    scaler.unscale(&mut optim).expect("in order");
    clip_grads(&scaler, &mut optim, Clip::Norm(1.0)).expect("in order");
    scaler.step(&mut optim).expect("in order");
    scaler.update().expect("in order");
}

fn one<'g>(g: &'g Graph, c: &Choice, a: Var<'g>, b: Var<'g>, w: Var<'g>, gain: Var<'g>, state: Var<'g>) -> Var<'g> {
    match c.what {
        0 => a.unary(SMOOTH[c.detail % SMOOTH.len()]),
        1 => a.binary(PAIRS[c.detail % PAIRS.len()], b),
        2 => a.cast(DTYPES[c.detail % DTYPES.len()]),
        // The same cast twice, for cse; the same dtype back, for rounding.
        3 => a.cast(DTYPES[c.detail % DTYPES.len()]).cast(DType::F32),
        4 => g.autocast(Region::low(LOWS[c.detail % LOWS.len()]), || a.cast(DType::F32).matmul(w)).tanh(),
        5 => a.softmax(),
        6 => g.autocast(Region::low(DType::Bf16), || a.layer_norm(Some(gain), None, 1e-5)),
        7 => a.dropout(0.25),
        8 => a.binary_const(PAIRS[c.detail % PAIRS.len()], 0.5),
        9 => {
            // A view of the state would change with it; that is refused (see `malformed`).
            let a = if a.id() == state.id() { a.copy() } else { a };
            a.reshape([8, 4]).reshape([32]).reshape([4, 8])
        }
        10 => a + a.mean(&[1], true),
        11 => {
            let at = 1 + c.detail % 6;
            g.concat(&[a.slice(1, at, 8), a.slice(1, 0, at)], 1)
        }
        12 => a.binary_const(BinaryFn::Lt, 0.1).select(a, b),
        13 => {
            // The state changes in place; values read before it must not see the change.
            let before = state * 2.0;
            let add =
                Map::new(Ex::input(0) + Ex::input(1) * Ex::constant(0.125), &[state.ty(), a.ty()], DType::F32).expect("fits");
            g.push_into(add.op(), &[state.id(), a.id()], &[Some(state.id())]);
            before
        }
        14 => {
            // A layer whose matmul is read by an activation and its gradient, or by a residual connection; as it is or
            // in another shape.
            let product = g.autocast(Region::low(LOWS[c.detail % LOWS.len()]), || a.cast(DType::F32).matmul(w));
            let b = if b.id() == state.id() { b.copy() } else { b };
            let then = |x: Var<'g>, b: Var<'g>| match ACTIVATIONS.get(c.detail % 8) {
                Some(&f) => x.unary(f),
                None => x + b,
            };
            if c.detail < 32 { then(product, b) } else { then(product.reshape([8, 4]), b.reshape([8, 4])).reshape([4, 8]) }
        }
        15 => {
            // A matmul that is added to the state, which others read before and after.
            let product =
                g.autocast(Region::low(LOWS[c.detail % LOWS.len()]), || a.cast(DType::F32).matmul(w)).cast(DType::F32);
            let sum = Map::new(Ex::input(0) + Ex::input(1), &[state.ty(), product.ty()], DType::F32).expect("fits");
            g.push_into(sum.op(), &[state.id(), product.id()], &[Some(state.id())]);
            a * 0.5
        }
        _ => {
            let low = LOWS[c.detail % 2];
            let product = g.autocast(Region::low(low), || a.cast(DType::F32).matmul(w));
            product.cast(DTYPES[c.b % 3]) + product.cast(DTYPES[c.b % 3])
        }
    }
}

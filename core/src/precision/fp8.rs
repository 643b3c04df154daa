//! fp8 linear layers: what is quantized when, for which matmul, in which format.
//!
//! | matmul | operands | scales along |
//! | --- | --- | --- |
//! | fprop `y = x W^T` | x, W forward format | in |
//! | dgrad `dx = dy W` | dy backward format, W forward | out |
//! | wgrad `dW = dy^T x` | dy backward format, x forward | rows |
//!
//! Per-tensor recipes quantize each of x, W, dy once and use it in both matmuls. MX quantizes x, W and dy twice, along
//! each contraction, both times from high precision. x is quantized in the forward pass only: wgrad keeps the fp8 copy,
//! so activations really shrink. The bias gradient is the sum of the unquantized dy. Source: Transformer Engine
//! `module/linear.py`.

use super::settings::{Fp8Config, Fp8Scaling, Region};
use crate::dtype::DType;
use crate::error::Error;
use crate::op::matmul::MatMul;
use crate::op::quantize::{NONFINITE_COLUMN, Quantize, QuantizeMx, STATS, Scaling, UpdateFp8Scales};
use crate::op::scale::{BlockAxis, OperandScale};
use crate::op::{Op, Real};
use crate::program::{Fp8Slot, Role, ValueId};
use crate::shape::Ty;
use crate::trace::rules::bias_gradient;
use crate::trace::{CustomRule, Graph, Owed, Var};
use std::sync::Arc;

/// Name of the state with amax histories [len, n].
pub const HISTORY: &str = "fp8.amax_history";
/// Name of the state with scales `[n]`.
pub const SCALE: &str = "fp8.scale";
/// Name of the state with statistics [n, STATS].
pub const STATISTICS: &str = "fp8.stats";
/// Name of the state that counts non-finite amaxes `[n]`.
pub const NONFINITE: &str = "fp8.nonfinite_amax";

/// Room for tensors while recording; [`finish`] cuts the states to the number used.
const CAPACITY: usize = 1 << 16;

/// A quantized tensor: codes and dequantization scale.
#[derive(Clone, Copy)]
struct Quantized {
    codes: ValueId,
    scale: ValueId,
}

/// `x W^T + b`, in fp8 where the region and the shapes allow it.
pub(super) fn linear<'g>(region: &Region, x: Var<'g>, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
    let g = x.g;
    let Some(config) = region.fp8 else {
        g.leave_out_of_fp8(None);
        return g.plain_linear(x, weight, bias);
    };
    if weight.shape().len() != 2 || x.shape().is_empty() {
        return g.plain_linear(x, weight, bias);
    }
    let low = region.low.unwrap_or(DType::F32);
    match refusal(&config, x.shape().rows(), &weight.shape()) {
        Some(why) => {
            g.leave_out_of_fp8(Some(&why));
            let _why = g.because(Some(Arc::from(format!("fp8: {why}; stays in {low}"))));
            g.plain_linear(x, weight, bias)
        }
        None => quantized(config, low, x, weight, bias),
    }
}

/// Why this layer cannot multiply in fp8; `None` if it can. The limits are those of the hardware matmuls.
fn refusal(config: &Fp8Config, rows: usize, weight: &[usize]) -> Option<String> {
    let (row_step, width_step) = match config.scaling {
        Fp8Scaling::Mx { .. } => (32, 32),
        Fp8Scaling::Delayed { .. } | Fp8Scaling::Current { .. } => (8, 16),
    };
    let [out, width] = [weight[0], weight[1]];
    let bad = |what: &str, n: usize, step: usize| format!("{what} {n} is not a multiple of {step}");
    if !rows.is_multiple_of(row_step) {
        return Some(bad("number of rows", rows, row_step));
    }
    [("in_features", width), ("out_features", out)]
        .into_iter()
        .find(|(_, n)| !n.is_multiple_of(width_step))
        .map(|(what, n)| bad(what, n, width_step))
}

#[track_caller]
fn quantized<'g>(config: Fp8Config, low: DType, x: Var<'g>, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
    let g = x.g;
    let text = format!("fp8: linear layer in {}", config.scaling.name());
    let why: Arc<str> = Arc::from(match g.outer_reason() {
        Some(outer) => format!("{outer}; {text}"),
        None => text,
    });
    let (forward, backward) = (config.format.forward(), config.format.backward());
    let slots = [g.fp8_slot("x", forward), g.fp8_slot("weight", forward), g.fp8_slot("dy", backward)];
    let mut inputs = vec![x, weight];
    inputs.extend(bias);
    let _why = g.because(Some(why.clone()));
    let out_shape: Vec<usize> = x.shape().iter().copied().take(x.shape().len() - 1).chain([weight.shape()[0]]).collect();
    // The forward is recorded untracked; the rule below differentiates it as a whole.
    let off = g.untracked();
    let rows = x.cast(low).rows();
    let bias_dtype = if low == DType::F32 { DType::Bf16 } else { low };
    let mut cast_bias = bias;
    if let Some(b) = &mut cast_bias {
        *b = b.cast(bias_dtype);
    }
    let qx = quantize(g, &config, rows.id, forward, slots[0], BlockAxis::Last, true);
    let qw = quantize(g, &config, weight.id, forward, slots[1], BlockAxis::Last, true);
    let y = product(g, &config, [qx, qw], [false, true], [BlockAxis::Last; 2], low, cast_bias, true);
    let (x_kept, w_kept) = match config.scaling {
        Fp8Scaling::Delayed { .. } | Fp8Scaling::Current { .. } => (qx, qw),
        Fp8Scaling::Mx { .. } => (
            quantize(g, &config, rows.id, forward, slots[0], BlockAxis::SecondLast, false),
            quantize(g, &config, weight.id, forward, slots[1], BlockAxis::SecondLast, false),
        ),
    };
    let y = y.reshape(out_shape);
    drop(off);
    let (x_ty, has_bias) = (x.ty(), bias.is_some());
    let rule = CustomRule(Box::new(move |g, dy, needs| {
        let _why = g.because(Some(why.clone()));
        let rows = dy.rows();
        let down = BlockAxis::SecondLast;
        let mut grads = vec![None; needs.len()];
        let mx = matches!(config.scaling, Fp8Scaling::Mx { .. });
        let dy_row = quantize(g, &config, rows.id, backward, slots[2], BlockAxis::Last, true);
        if needs[0] {
            let dx = product(g, &config, [dy_row, w_kept], [false; 2], [BlockAxis::Last, down], low, None, false);
            grads[0] = Some(dx.reshape(x_ty.shape.clone()).cast(x_ty.dtype));
        }
        if needs[1] {
            let dy_col = if mx { quantize(g, &config, rows.id, backward, slots[2], down, false) } else { dy_row };
            grads[1] = Some(product(g, &config, [dy_col, x_kept], [true, false], [down; 2], DType::F32, None, false));
        }
        if has_bias && needs[2] {
            grads[2] = Some(bias_gradient(rows, DType::F32));
        }
        grads
    }));
    g.custom_rule(&inputs, y, rule);
    y
}

/// Quantizes a matrix. `blocks` matters to MX only; `record` says whether this copy feeds history and statistics.
#[track_caller]
fn quantize(
    g: &Graph,
    config: &Fp8Config,
    x: ValueId,
    dtype: DType,
    slot: usize,
    blocks: BlockAxis,
    record: bool,
) -> Quantized {
    let record = record && g.is_training();
    if record && g.settled(&Owed::Fp8Finish) {
        g.fail(Error::misuse(
            "fp8::finish",
            "this fp8 tensor is recorded after it",
            "call it after the last fp8 layer and its gradients",
        ));
    }
    let stats = record.then(|| g.root_state(STATISTICS, Ty::new(DType::F32, [CAPACITY, STATS]), Role::Telemetry, 0.0));
    let outputs = match config.scaling {
        Fp8Scaling::Mx { scale_rule } => {
            let op = QuantizeMx { dtype, blocks, rule: scale_rule, slot, record };
            push(g, Op::QuantizeMx(op), &[x], &[stats])
        }
        Fp8Scaling::Delayed { amax_history_len, warm_up, .. } => {
            let scale = g.root_state(SCALE, Ty::new(DType::F32, [CAPACITY]), Role::Precision, 1.0);
            let history =
                record.then(|| g.root_state(HISTORY, Ty::new(DType::F32, [amax_history_len, CAPACITY]), Role::Precision, 0.0));
            let op = Quantize { dtype, scaling: Scaling::Delayed { warm_up }, slot, record };
            push(g, Op::Quantize(op), &[x, scale], &[history, stats])
        }
        Fp8Scaling::Current { amax_epsilon, power_of_two } => {
            let scaling = Scaling::Current { amax_epsilon: Real(f64::from(amax_epsilon)), power_of_two };
            let op = Quantize { dtype, scaling, slot, record };
            push(g, Op::Quantize(op), &[x], &[stats])
        }
    };
    Quantized { codes: outputs[0].id, scale: outputs[1].id }
}

/// Records a quantization: codes and scale are new, the given states are read and written.
#[track_caller]
fn push<'g>(g: &'g Graph, op: Op, plain: &[ValueId], states: &[Option<ValueId>]) -> Vec<Var<'g>> {
    let states: Vec<ValueId> = states.iter().copied().flatten().collect();
    let inputs = [plain, &states].concat();
    let outputs: Vec<Option<ValueId>> = [None, None].into_iter().chain(states.into_iter().map(Some)).collect();
    g.push_into(op, &inputs, &outputs)
}

/// A matmul of two quantized operands.
#[track_caller]
fn product<'g>(
    g: &'g Graph,
    config: &Fp8Config,
    [a, b]: [Quantized; 2],
    [trans_a, trans_b]: [bool; 2],
    blocks: [BlockAxis; 2],
    out: DType,
    bias: Option<Var<'g>>,
    fast_accum: bool,
) -> Var<'g> {
    let scales = match config.scaling {
        Fp8Scaling::Mx { .. } => blocks.map(OperandScale::Blocks),
        Fp8Scaling::Delayed { .. } | Fp8Scaling::Current { .. } => [OperandScale::Tensor; 2],
    };
    let op = MatMul { scales, bias: bias.is_some(), fast_accum, ..MatMul::new(trans_a, trans_b, out) };
    let mut inputs = vec![a.codes, b.codes, a.scale, b.scale];
    inputs.extend(bias.map(|b| b.id));
    g.push(op.op(), &inputs)[0]
}

/// Cuts the fp8 states to the tensors used and records the scale update. Call it once, at the end of the micro-step
/// part: after the gradients, which quantize too, and before [`Graph::begin_update`]. It rolls histories once a
/// micro-step, as Transformer Engine does.
#[track_caller]
pub fn finish(g: &Graph, config: &Fp8Config) {
    let slots = g.fp8_slots();
    if slots.is_empty() {
        return;
    }
    if g.settled(&Owed::Fp8Finish) {
        g.fail(Error::misuse("fp8::finish", "it has been called", "call it once, after the last fp8 layer and its gradients"));
        return;
    }
    if g.is_training() && g.in_update() {
        g.fail(Error::misuse("fp8::finish", "the micro-step has ended", "call it before begin_update"));
        return;
    }
    let delayed = g.has(SCALE);
    if delayed != matches!(config.scaling, Fp8Scaling::Delayed { .. }) {
        let problem = format!("it was given {}, the layers have another scaling", config.scaling.name());
        g.fail(Error::misuse("fp8::finish", problem, "give it the config of their region"));
        return;
    }
    g.settle(&Owed::Fp8Finish);
    let n = slots.len();
    g.resize_state(STATISTICS, &[n, STATS]);
    if let Fp8Scaling::Delayed { amax_history_len, amax_algo, margin, nonfinite_amax, .. } = config.scaling {
        g.resize_state(SCALE, &[n]);
        g.resize_state(HISTORY, &[amax_history_len, n]);
        if g.is_training() {
            let history = g.root_state(HISTORY, Ty::new(DType::F32, [amax_history_len, n]), Role::Precision, 0.0);
            let scale = g.root_state(SCALE, Ty::new(DType::F32, [n]), Role::Precision, 1.0);
            let nonfinite = g.root_state(NONFINITE, Ty::new(DType::U32, [n]), Role::Precision, 0.0);
            let formats = slots.iter().map(|s: &Fp8Slot| s.dtype).collect();
            let op = UpdateFp8Scales { formats, margin, algo: amax_algo, nonfinite: nonfinite_amax };
            let states = [history, scale, nonfinite];
            g.push_into(Op::UpdateFp8Scales(op), &states, &states.map(Some));
        }
    }
}

/// The largest number of non-finite elements that a tensor had before this micro-step quantized it, f32[]; `None`
/// without fp8 tensors. The cast to fp8 saturates: infinities leave no other trace in the results. For
/// [`super::GradScaler::guard`]; call it after [`finish`].
#[track_caller]
pub fn nonfinite(g: &Graph) -> Option<Var<'_>> {
    let n = g.fp8_slots().len();
    if n == 0 || !g.is_training() {
        return None;
    }
    let _why = g.because(Some(Arc::from("finite check: an fp8 cast hides an infinity")));
    let stats = g.var(g.root_state(STATISTICS, Ty::new(DType::F32, [n, STATS]), Role::Telemetry, 0.0));
    Some(stats.slice(1, NONFINITE_COLUMN, NONFINITE_COLUMN + 1).max(&[0, 1], false))
}

//! The other operations at the sizes of a GPT: bytes of operands and results a second, on all threads.
//!
//! `cargo bench -p mantissa-tests --bench operations`

use divan::Bencher;
use divan::counter::BytesCount;
use mantissa_core::DType;
use mantissa_core::op::attention::Attention;
use mantissa_core::op::expr::{Ex, Map};
use mantissa_core::op::loss::{CrossEntropy, Softmax};
use mantissa_core::op::map::UnaryFn;
use mantissa_core::op::norm::{Norm, NormKind};
use mantissa_core::op::quantize::{MxRule, Quantize, QuantizeMx, STATS, Scaling};
use mantissa_core::op::scale::BlockAxis;
use mantissa_core::op::tensor_stats::{TensorStats, WORDS};
use mantissa_core::op::update::{GradNorm, NormType, Optimizer, Rule, UnscaleCheck};
use mantissa_core::op::{Op, Real};
use mantissa_core::shape::Ty;
use mantissa_tests::machine::Machine;
use mantissa_tests::operands::alone;

fn main() {
    divan::main();
}

/// Rows of a batch of gpt-tiny, and the width between the layers of its blocks.
const ROWS: usize = 2048;
const HIDDEN: usize = 512;
/// Parameters of the lists: about those of gpt-tiny.
const TENSORS: usize = 16;
const TENSOR: usize = 1 << 16;

const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

fn time(bencher: Bencher<'_, '_>, mut machine: Machine) {
    let cost = machine.program.step_cost();
    let bytes = BytesCount::new(cost.read_bytes + cost.written_bytes);
    bencher.counter(bytes).bench_local(|| machine.step(&[]).expect("it runs"));
}

fn activations(dtype: DType) -> Ty {
    Ty::new(dtype, [ROWS, HIDDEN])
}

/// Batch, context, heads, head size: gpt-tiny and half a batch of gpt-mini.
const ATTENTIONS: [[usize; 4]; 2] = [[16, 128, 4, 32], [4, 256, 6, 64]];

fn attention_types([batch, context, heads, size]: [usize; 4]) -> (Attention, [Ty; 4]) {
    let op = Attention { heads, kv_heads: heads, causal: true, scale: Real(1.0 / (size as f64).sqrt()), dropout: None };
    let bf16 = |width| Ty::new(DType::Bf16, [batch, context, width]);
    let (qkv, y) = (bf16(3 * heads * size), bf16(heads * size));
    (op, [qkv, y.clone(), Ty::new(DType::F32, [batch, heads, context]), y])
}

#[divan::bench(args = ATTENTIONS)]
fn attention_forward(bencher: Bencher<'_, '_>, sizes: [usize; 4]) {
    let (op, [qkv, ..]) = attention_types(sizes);
    time(bencher, alone(Op::Attention(op), &[qkv], 1, 2));
}

#[divan::bench(args = ATTENTIONS)]
fn attention_backward(bencher: Bencher<'_, '_>, sizes: [usize; 4]) {
    let (op, types) = attention_types(sizes);
    time(bencher, alone(Op::AttentionBackward(op), &types, 4, 1));
}

fn norm_op(kind: NormKind) -> Norm {
    Norm { kind, eps: Real(1e-5), affine: true, bias: kind == NormKind::Layer, out: DType::F32 }
}

fn norm_forward(bencher: Bencher<'_, '_>, kind: NormKind, x: DType) {
    let row = Ty::new(DType::F32, [HIDDEN]);
    let types = [activations(x), row.clone(), row];
    let (inputs, outputs) = if kind == NormKind::Layer { (3, 3) } else { (2, 2) };
    time(bencher, alone(Op::Norm(norm_op(kind)), &types[..inputs], inputs, outputs));
}

#[divan::bench(args = FLOATS)]
fn layer_norm(bencher: Bencher<'_, '_>, x: DType) {
    norm_forward(bencher, NormKind::Layer, x);
}

#[divan::bench(args = FLOATS)]
fn rms_norm(bencher: Bencher<'_, '_>, x: DType) {
    norm_forward(bencher, NormKind::Rms, x);
}

#[divan::bench(args = FLOATS)]
fn layer_norm_backward(bencher: Bencher<'_, '_>, x: DType) {
    let (row, column) = (Ty::new(DType::F32, [HIDDEN]), Ty::new(DType::F32, [ROWS]));
    let types = [activations(DType::F32), activations(x), row, column.clone(), column];
    time(bencher, alone(Op::NormBackward(norm_op(NormKind::Layer)), &types, 5, 3));
}

#[divan::bench(args = FLOATS)]
fn softmax(bencher: Bencher<'_, '_>, x: DType) {
    let op = Softmax { log: false, out: DType::F32 };
    time(bencher, alone(Op::Softmax(op), &[activations(x)], 1, 1));
}

#[divan::bench(args = FLOATS)]
fn cross_entropy(bencher: Bencher<'_, '_>, x: DType) {
    let op = CrossEntropy { label_smoothing: Real(0.0) };
    time(bencher, alone(Op::CrossEntropy(op), &[activations(x), Ty::new(DType::U32, [ROWS])], 2, 3));
}

#[divan::bench(args = FLOATS)]
fn gelu(bencher: Bencher<'_, '_>, dtype: DType) {
    let types = [activations(dtype)];
    let op = Map::new(Ex::input(0).unary(UnaryFn::GeluTanh), &types, dtype).expect("a map");
    time(bencher, alone(op.op(), &types, 1, 1));
}

#[divan::bench(args = FLOATS)]
fn gelu_backward(bencher: Bencher<'_, '_>, dtype: DType) {
    let x = activations(dtype);
    let types = [x.clone(), x];
    let op = Map::new(Ex::input(0) * Ex::input(1).unary(UnaryFn::GeluTanhGrad), &types, dtype).expect("a map");
    time(bencher, alone(op.op(), &types, 2, 1));
}

#[divan::bench(args = [DType::E4m3, DType::E5m2])]
fn quantize_delayed(bencher: Bencher<'_, '_>, dtype: DType) {
    let op = Quantize { dtype, scaling: Scaling::Delayed { warm_up: false }, slot: 0, record: true };
    let f32s = |shape: &[usize]| Ty::new(DType::F32, shape);
    let types = [activations(DType::Bf16), f32s(&[1]), f32s(&[1024, 1]), f32s(&[1, STATS])];
    time(bencher, alone(Op::Quantize(op), &types, 2, 2));
}

#[divan::bench(args = [DType::E4m3, DType::E5m2])]
fn quantize_current(bencher: Bencher<'_, '_>, dtype: DType) {
    let scaling = Scaling::Current { amax_epsilon: Real(0.0), power_of_two: false };
    let op = Quantize { dtype, scaling, slot: 0, record: true };
    time(bencher, alone(Op::Quantize(op), &[activations(DType::Bf16), Ty::new(DType::F32, [1, STATS])], 1, 2));
}

#[divan::bench(args = ["rows", "columns"])]
fn quantize_mx(bencher: Bencher<'_, '_>, along: &str) {
    let blocks = if along == "rows" { BlockAxis::Last } else { BlockAxis::SecondLast };
    let op = QuantizeMx { dtype: DType::E4m3, blocks, rule: MxRule::Ceil, slot: 0, record: false };
    time(bencher, alone(Op::QuantizeMx(op), &[activations(DType::Bf16)], 1, 2));
}

#[divan::bench(args = FLOATS)]
fn tensor_stats(bencher: Bencher<'_, '_>, x: DType) {
    let op = TensorStats { format: DType::E4m3, scale_at: None, slot: 0 };
    time(bencher, alone(op.op(), &[activations(x), Ty::new(DType::U32, [1, WORDS])], 1, 0));
}

fn list(n: usize) -> Vec<Ty> {
    vec![Ty::new(DType::F32, [TENSOR]); n * TENSORS]
}

#[divan::bench]
fn unscale_check(bencher: Bencher<'_, '_>) {
    let types = [vec![Ty::scalar(DType::F32)], list(1)].concat();
    time(bencher, alone(Op::UnscaleCheck(UnscaleCheck), &types, 1, 1));
}

#[divan::bench]
fn grad_norm(bencher: Bencher<'_, '_>) {
    let types = list(1);
    time(bencher, alone(Op::GradNorm(GradNorm { norm: NormType::L2 }), &types, types.len(), 1));
}

#[divan::bench(args = ["adamw", "sgd"])]
fn optimizer(bencher: Bencher<'_, '_>, name: &str) {
    let rule = match name {
        "adamw" => Rule::Adam { beta1: Real(0.9), beta2: Real(0.95), eps: Real(1e-8), decoupled: true },
        _ => Rule::Sgd { momentum: Real(0.9), dampening: Real(0.0), nesterov: false },
    };
    let op = Optimizer { rule, weight_decay: vec![Real(0.1); TENSORS], found_inf: false, clip_coef: false };
    time(bencher, mantissa_tests::operands::optimizer(op, &list(1)));
}

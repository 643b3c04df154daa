//! fp8 recipes in recorded steps: delayed-scaling traces of Transformer Engine (docs/precision.md 4.1 and 4.2), what is
//! saved for backward, the high-precision source of MX copies, and that fp8 really saves memory.

use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::model::ModelConfig;
use mantissa_core::op::Op;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::op::quantize::{AmaxAlgo, NonFiniteAmax, STATS};
use mantissa_core::op::scale::{BlockAxis, OperandScale};
use mantissa_core::precision::fp8::{self, HISTORY, NONFINITE, SCALE, STATISTICS};
use mantissa_core::precision::settings::{Fp8Format, Fp8Scaling};
use mantissa_core::precision::{Fp8Config, Recipe, RecipeName, Region};
use mantissa_core::program::memory::{Layout, MemoryPlan, Purpose};
use mantissa_core::program::{Init, Kind, Program, Rate, ValueId};
use mantissa_core::shape::Ty;
use mantissa_core::trace::Graph;
use mantissa_core::train::{Session, TrainConfig, record};
use mantissa_core::{DType, Result};
use mantissa_tests::data::{normal, text, windows};
use mantissa_tests::machine::Machine;
use mantissa_tests::tiny;
use std::sync::Arc;

/// Options of delayed scaling that the traces vary.
#[derive(Clone, Copy)]
struct Delayed {
    len: usize,
    algo: AmaxAlgo,
    margin: i32,
    nonfinite: NonFiniteAmax,
    warm_up: bool,
}

/// As Transformer Engine.
const TE: Delayed = Delayed { len: 4, algo: AmaxAlgo::Max, margin: 0, nonfinite: NonFiniteAmax::Record, warm_up: false };

/// One linear layer 16 -> 16 over 8 rows under delayed scaling: slots 0, 1, 2 are x, weight, dy. Its inputs are not
/// rounded first.
fn layer(d: Delayed) -> Result<Program> {
    let scaling = Fp8Scaling::Delayed {
        amax_history_len: d.len,
        amax_algo: d.algo,
        margin: d.margin,
        nonfinite_amax: d.nonfinite,
        warm_up: d.warm_up,
    };
    let config = Fp8Config { format: Fp8Format::Hybrid, scaling };
    let g = Graph::new("layer", true);
    let x = g.input("x", Ty::new(DType::F32, [8, 16]), Rate::MicroStep);
    let dy = g.input("dy", Ty::new(DType::F32, [8, 16]), Rate::MicroStep);
    let w = g.param("weight", [16, 16], Init::Fill(0.5));
    g.requires_grad(x);
    let y = g.autocast(Region { low: None, fp8: Some(config) }, || x.linear(w, None));
    let grads = g.grad_from(&[(y, dy)], &[x, w]);
    fp8::finish(&g, &config);
    g.output("y", y);
    g.output("dx", grads[0].expect("a gradient"));
    g.output("dw", grads[1].expect("a gradient"));
    g.finish()
}

fn machine(d: Delayed) -> Machine {
    Machine::new(&CpuBackend::new(), layer(d).expect("a valid step")).expect("compiles")
}

/// Runs a step in which x and dy have these largest magnitudes.
fn step(m: &mut Machine, amax_x: f32, amax_dy: f32) {
    let fill = |amax: f32| -> Vec<f32> { (0..128).map(|i| if i == 37 { -amax } else { 0.0 }).collect() };
    let (x, dy) = (fill(amax_x), fill(amax_dy));
    m.step(&[("x", bytemuck::cast_slice(&x)), ("dy", bytemuck::cast_slice(&dy))]).expect("runs");
}

/// Column `slot` of the history.
fn history(m: &Machine, slot: usize) -> Vec<f32> {
    m.f32s(HISTORY).expect("a state").chunks(3).map(|row| row[slot]).collect()
}

fn set_history(m: &Machine, slot: usize, column: &[f32], scale: f32) {
    let mut rows = m.f32s(HISTORY).expect("a state");
    column.iter().enumerate().for_each(|(row, &v)| rows[row * 3 + slot] = v);
    m.memory.write(HISTORY, bytemuck::cast_slice(&rows)).expect("its size");
    let mut scales = m.f32s(SCALE).expect("a state");
    scales[slot] = scale;
    m.memory.write(SCALE, bytemuck::cast_slice(&scales)).expect("its size");
}

fn scale(m: &Machine, slot: usize) -> f32 {
    m.f32s(SCALE).expect("a state")[slot]
}

/// Scale that the last step quantized a tensor with.
fn scale_used(m: &Machine, slot: usize) -> f32 {
    m.f32s(STATISTICS).expect("a state")[slot * STATS + 1]
}

fn same_bits(got: &[f32], want: &[f32]) -> bool {
    let bits = |x: &[f32]| x.iter().map(|v| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }).collect::<Vec<u32>>();
    bits(got) == bits(want)
}

#[test]
fn one_update_of_the_history() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let recent = Delayed { algo: AmaxAlgo::MostRecent, ..TE };
    // (rule, history before with the amax of the step in row 0, scale before, history after, bits of the scale after)
    type Row<'a> = (Delayed, &'a [f32], f32, &'a [f32], u32);
    let rows: [Row<'_>; 11] = [
        (TE, &[2.0, 0.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 2.0], 0x4360_0000),
        (TE, &[1.0, 0.0, 0.0, 2.0], 224.0, &[0.0, 0.0, 2.0, 1.0], 0x4360_0000),
        (TE, &[0.0, 4.0, 1.0, 2.0], 112.0, &[0.0, 4.0, 1.0, 2.0], 112.0f32.to_bits()),
        (TE, &[inf, 4.0, 1.0, 2.0], 112.0, &[0.0, 1.0, 2.0, inf], 112.0f32.to_bits()),
        (TE, &[nan, 4.0, 1.0, 2.0], 112.0, &[0.0, 1.0, 2.0, nan], 112.0f32.to_bits()),
        (TE, &[1.0, 4.0, 1.0, inf], 112.0, &[0.0, 1.0, inf, 1.0], 112.0f32.to_bits()),
        (TE, &[1e-40, 0.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 1e-40], 0x7f7f_ffff),
        (Delayed { margin: 1, ..TE }, &[2.0, 0.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 2.0], 0x42e0_0000),
        (recent, &[2.0, 8.0, 0.0, 0.0], 1.0, &[0.0, 0.0, 0.0, 2.0], 0x4360_0000),
        (recent, &[nan, 8.0, 0.0, 0.0], 56.0, &[0.0, 0.0, 0.0, nan], 56.0f32.to_bits()),
        (Delayed { len: 1, ..TE }, &[3.0], 1.0, &[0.0], 0x4315_5555),
    ];
    for (rule, before, old, after, bits) in rows {
        let mut m = machine(rule);
        // NaN never comes out of an amax; it can stand in the staging row of a loaded history.
        let staged = if before[0].is_nan() { nan } else { 0.0 };
        set_history(&m, 0, &[&[staged], &before[1..]].concat(), old);
        step(&mut m, if before[0].is_nan() { 1.0 } else { before[0] }, 1.0);
        assert!(same_bits(&history(&m, 0), after), "{before:?}: {:?}", history(&m, 0));
        assert_eq!(scale(&m, 0).to_bits(), bits, "{before:?}: {}", scale(&m, 0));
        assert_eq!(scale_used(&m, 0), old);
    }
    // The gradient has the e5m2 range.
    let mut m = machine(TE);
    step(&mut m, 1.0, 1.0);
    assert_eq!(scale(&m, 2).to_bits(), 0x4760_0000);
}

#[test]
fn scales_over_steps_as_transformer_engine() {
    let mut m = machine(TE);
    let mut run = |amax: f32| {
        step(&mut m, amax, 1.0);
        scale_used(&m, 0)
    };
    let used: Vec<f32> = [8.0, 2.0, 1.0, 0.5, 0.0].into_iter().map(&mut run).collect();
    assert_eq!(used, [1.0, 56.0, 56.0, 56.0, 56.0]);
    let used: Vec<f32> = [f32::INFINITY, 1.0, 1.0, 1.0, 1.0, 1.0].into_iter().map(&mut run).collect();
    assert_eq!(used, [56.0, 56.0, 56.0, 56.0, 56.0, 448.0]);
}

#[test]
fn an_infinite_amax_is_ignored_and_counted_by_default() {
    let Some(Fp8Config { scaling: Fp8Scaling::Delayed { nonfinite_amax, .. }, .. }) = Recipe::new(RecipeName::Fp8Delayed).fp8
    else {
        panic!("fp8-delayed is a delayed recipe");
    };
    assert_eq!(nonfinite_amax, NonFiniteAmax::Ignore);
    let mut m = machine(Delayed { nonfinite: nonfinite_amax, ..TE });
    for amax in [8.0, 2.0, 1.0, 0.5, 0.0] {
        step(&mut m, amax, 1.0);
    }
    let before = history(&m, 0);
    step(&mut m, f32::INFINITY, 1.0);
    assert_eq!((history(&m, 0), scale(&m, 0)), (before, 56.0));
    assert_eq!(m.u32s(NONFINITE).expect("a state"), [1, 0, 0]);
    let used: Vec<f32> = (0..3)
        .map(|_| {
            step(&mut m, 1.0, 1.0);
            scale_used(&m, 0)
        })
        .collect();
    assert_eq!(used, [56.0, 224.0, 448.0], "the window moves on at once");
}

#[test]
fn the_first_step_uses_scale_one_unless_warmed_up() {
    let (mut cold, mut warm) = (machine(TE), machine(Delayed { warm_up: true, ..TE }));
    step(&mut cold, 1000.0, 1.0);
    step(&mut warm, 1000.0, 1.0);
    assert_eq!((scale_used(&cold, 0), scale_used(&warm, 0)), (1.0, 0.448));
    // 1000 saturates at 448 under scale 1; the row of y is 0.5 times the row sum of x.
    let y = |m: &Machine| m.f32s("y").expect("an output")[2 * 16];
    assert_eq!(y(&cold), -224.0);
    assert!((y(&warm) + 500.0).abs() <= 0.01, "{}", y(&warm));
    for m in [&mut cold, &mut warm] {
        step(m, 1000.0, 1.0);
        assert_eq!(scale_used(m, 0), 0.448);
    }
}

#[test]
fn gradients_multiply_the_quantized_operands() {
    let mut m = machine(TE);
    let (x, dy) = (normal(128, 1.0, 1), normal(128, 1.0, 2));
    m.step(&[("x", bytemuck::cast_slice(&x)), ("dy", bytemuck::cast_slice(&dy))]).expect("runs");
    // Scale 1 on the first step: the codes are the values rounded to each grid.
    let round = |dtype: DType, v: &[f32]| {
        let mut v = v.to_vec();
        mantissa_core::float::slices::round(dtype, &mut v);
        v
    };
    let (qx, qdy) = (round(DType::E4m3, &x), round(DType::E5m2, &dy));
    let dw: Vec<f64> =
        (0..256).map(|at| (0..8).map(|r| f64::from(qdy[r * 16 + at / 16]) * f64::from(qx[r * 16 + at % 16])).sum()).collect();
    mantissa_tests::tolerance::compare("dw", &m.f32s("dw").expect("an output"), &dw, &[1e-5]).expect("wgrad");
    let dx: Vec<f64> = (0..128).map(|at| (0..16).map(|o| 0.5 * f64::from(qdy[at / 16 * 16 + o])).sum()).collect();
    mantissa_tests::tolerance::compare("dx", &m.f32s("dx").expect("an output"), &dx, &[1e-5]).expect("dgrad");
}

fn fp8_recipes() -> [RecipeName; 3] {
    [RecipeName::Fp8Delayed, RecipeName::Fp8Current, RecipeName::Mxfp8]
}

#[test]
fn evaluation_changes_nothing() {
    let data = text(4000);
    for name in RecipeName::ALL {
        let mut s = Session::new(Arc::new(CpuBackend::new()), tiny::gpt(Recipe::new(name), 10)).expect("a valid run");
        let (x, targets) = windows(&data, 8, 32, &mut mantissa_core::rng::Rng::new(1, 0));
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) };
        s.step(batch).expect("runs");
        s.step(batch).expect("runs");
        let all = |s: &Session| -> Vec<(String, Vec<u8>)> {
            let read = |n: &String| mantissa_core::backend::wait(s.memory().read(n).expect("a value")).expect("bytes");
            s.memory().layout().entries.iter().map(|e| (e.name.clone(), read(&e.name))).collect()
        };
        let before = all(&s);
        let first = s.eval(batch).expect("evaluates");
        assert!(first.is_finite());
        assert_eq!(s.eval(batch).expect("evaluates").to_bits(), first.to_bits());
        s.logits(8, batch.x).expect("scores");
        assert_eq!(all(&s), before, "{name}");
    }
}

/// Index of the first instruction of the backward pass.
fn first_backward(p: &Program) -> usize {
    p.instrs.iter().position(|i| matches!(i.op, Op::CrossEntropyBackward(_))).expect("a loss")
}

/// The wgrad matmuls: fp8 operands, the first transposed.
fn wgrads(p: &Program) -> Vec<(usize, &MatMul)> {
    p.instrs
        .iter()
        .enumerate()
        .filter_map(|(at, i)| {
            let Op::MatMul(m) = &i.op else { return None };
            (m.trans_a && p.ty(i.inputs[0]).dtype.is_fp8()).then_some((at, m))
        })
        .collect()
}

fn writer(p: &Program, id: ValueId) -> usize {
    p.instrs.iter().position(|i| i.outputs.contains(&id)).expect("a temporary")
}

fn config(name: RecipeName) -> TrainConfig {
    TrainConfig { batch: 8, ..tiny::gpt(Recipe::new(name), 10) }
}

#[test]
fn saved_activations_are_the_fp8_copies() {
    for name in fp8_recipes() {
        let p = record::train_step(&config(name)).expect("records");
        let backward = first_backward(&p);
        let products = wgrads(&p);
        // Two blocks of four linear layers; the head stays out of fp8.
        assert_eq!(products.len(), 8, "{name}");
        let readers = p.readers();
        for (at, _) in products {
            let [dy, x] = [p.instrs[at].inputs[0], p.instrs[at].inputs[1]];
            assert_eq!(p.ty(x).dtype, DType::E4m3, "{name}");
            assert_eq!(p.ty(dy).dtype, if name == RecipeName::Mxfp8 { DType::E4m3 } else { DType::E5m2 }, "{name}");
            let quantize = writer(&p, x);
            assert!(quantize < backward, "{name}: x is quantized in the forward pass");
            // The high-precision x dies in the forward pass.
            let source = p.instrs[quantize].inputs[0];
            assert_eq!(p.ty(source).dtype, DType::Bf16);
            assert!(matches!(p.value(source).kind, Kind::Temp));
            let late: Vec<String> =
                readers[source.index()].iter().filter(|&&r| r >= backward).map(|&r| p.instr_text(&p.instrs[r])).collect();
            assert!(late.is_empty(), "{name}: {} is read in the backward pass by {late:?}", p.instr_text(&p.instrs[quantize]));
            assert!(!p.instrs[backward..].iter().any(|i| matches!(i.op, Op::Quantize(_)) && i.inputs[0] == source));
        }
    }
}

#[test]
fn both_mx_copies_come_from_high_precision() {
    let p = record::train_step(&config(RecipeName::Mxfp8)).expect("records");
    let mut by_slot: Vec<Vec<(BlockAxis, ValueId)>> = vec![Vec::new(); p.fp8_slots.len()];
    for i in &p.instrs {
        if let Op::QuantizeMx(q) = &i.op {
            assert!(matches!(p.ty(i.inputs[0]).dtype, DType::Bf16 | DType::F32), "{}", p.instr_text(i));
            by_slot[q.slot].push((q.blocks, i.inputs[0]));
        }
    }
    for (slot, copies) in by_slot.iter().enumerate() {
        let name = &p.fp8_slots[slot].name;
        let [(first, a), (second, b)] = copies[..] else { panic!("{name}: {} copies", copies.len()) };
        let both = [first, second].contains(&BlockAxis::Last) && [first, second].contains(&BlockAxis::SecondLast);
        assert!(both && a == b, "{name}: {copies:?}");
    }
    // Each matmul contracts along the axis its scales run along.
    for i in &p.instrs {
        let Op::MatMul(m) = &i.op else { continue };
        if m.scales[0] == OperandScale::None {
            continue;
        }
        let along = |operand: usize, trans: bool| {
            let last = (operand == 0) != trans;
            OperandScale::Blocks(if last { BlockAxis::Last } else { BlockAxis::SecondLast })
        };
        assert_eq!(m.scales, [along(0, m.trans_a), along(1, m.trans_b)], "{}", p.instr_text(i));
    }
}

#[test]
fn activation_memory_shrinks_with_the_format() {
    let activations = |name: RecipeName| {
        let (model, batch) = ModelConfig::preset("gpt-tiny").expect("a preset");
        let config = TrainConfig { model, batch, ..tiny::gpt(Recipe::new(name), 10) };
        let p = record::train_step(&config).expect("records");
        let plan = MemoryPlan::new(&p, &Arc::new(Layout::new(&p))).expect("a plan");
        plan.bytes_by_purpose().into_iter().find(|(p, _)| *p == Purpose::Activations).map_or(0, |(_, n)| n)
    };
    let [f32, bf16, fp8] = [RecipeName::F32, RecipeName::Bf16, RecipeName::Fp8Delayed].map(activations);
    assert!(f32 > bf16 && bf16 > fp8, "f32 {f32}, bf16 {bf16}, fp8-delayed {fp8}");
    assert!(bf16 as f64 <= 0.65 * f32 as f64, "bf16 {bf16} of f32 {f32}");
}

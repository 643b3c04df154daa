//! fp8 quantization and its scales: the same bits.

use mantissa_core::DType;
use mantissa_core::backend::Backend;
use mantissa_core::dtype::Overflow;
use mantissa_core::float;
use mantissa_core::op::quantize::{AmaxAlgo, MxRule, NonFiniteAmax, Quantize, QuantizeMx, STATS, Scaling, UpdateFp8Scales};
use mantissa_core::op::scale::BlockAxis;
use mantissa_core::op::{Op, Real};
use mantissa_core::program::{Init, Instr, Kind, Program, Role, ScopeId, Value, ValueId};
use mantissa_core::rng::Rng;
use mantissa_core::shape::Ty;
use mantissa_tests::devices;
use mantissa_tests::machine::{Machine, bytes_of};
use mantissa_tests::parity::{Bound, Case};
use std::panic::Location;

const EXACT: &[Bound] = &[Bound::Exact];
/// The same bits, but any NaN for a NaN.
const SAME: &[Bound] = &[Bound::Ulps(0.0)];
const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];
const FP8: [DType; 2] = [DType::E4m3, DType::E5m2];
const INF: f32 = f32::INFINITY;

/// Normal values over many binades with special ones between them.
fn sample(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed, 0);
    let special = [0.0, -0.0, f32::NAN, INF, -INF, 464.0, 465.0, 61440.0, 1e-45, -1e-40, 2f32.powi(-10)];
    let value = |i: usize| match i % 17 {
        5 => special[(i / 17) % special.len()],
        _ => rng.normal() * 2f32.powi(rng.below(40) as i32 - 24),
    };
    (0..n).map(value).collect()
}

fn of(dtype: DType, shape: &[usize], values: &[f32]) -> (Ty, Vec<u8>) {
    let ty = Ty::new(dtype, shape.to_vec());
    let bytes = bytes_of(&ty, values);
    (ty, bytes)
}

fn words(values: &[u32]) -> (Ty, Vec<u8>) {
    (Ty::new(DType::U32, [values.len()]), values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// A tensor in slot 1 of 3, the history of 4 rows.
fn quantize(x: (Ty, Vec<u8>), dtype: DType, scaling: Scaling, record: bool, scale: f32, history: [f32; 4]) -> Case {
    let mut inputs = vec![x];
    let mut name = format!("{} to {dtype}, {scaling:?}, record {record}", inputs[0].0);
    if let Scaling::Delayed { .. } = scaling {
        name += &format!(", scale {scale:e}, history {history:?}");
        inputs.push(of(DType::F32, &[3], &[7.0, scale, 9.0]));
        let rows: Vec<f32> = history.iter().flat_map(|h| [1.0, *h, 2.0]).collect();
        inputs.extend(record.then(|| of(DType::F32, &[4, 3], &rows)));
    }
    inputs.extend(record.then(|| of(DType::F32, &[3, STATS], &[-1.0; 3 * STATS])));
    Case::of_bytes(name, Op::Quantize(Quantize { dtype, scaling, slot: 1, record }), inputs)
}

fn scalings() -> Vec<Scaling> {
    let current = |amax_epsilon, power_of_two| Scaling::Current { amax_epsilon: Real(amax_epsilon), power_of_two };
    vec![
        Scaling::Delayed { warm_up: false },
        Scaling::Delayed { warm_up: true },
        current(0.0, false),
        current(0.0, true),
        current(1e9, false),
    ]
}

#[test]
fn quantize_every_dtype_size_and_scaling() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for from in FLOATS {
        for n in [1, 3, 7, 65, 257, 5003, 70_001] {
            let x = of(from, &[n], &sample(n, n as u64));
            for dtype in FP8 {
                for scaling in scalings() {
                    for record in [false, true] {
                        for history in [[0.0; 4], [0.0, 0.0, 0.0, 3.0]] {
                            quantize(x.clone(), dtype, scaling, record, 37.3, history).check(&*cpu, &*gpu, EXACT);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn quantize_extreme_scales_and_histories() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let x = of(DType::F32, &[300], &sample(300, 4));
    for dtype in FP8 {
        for scale in [f32::MIN_POSITIVE, 1e-20, 2f32.powi(-52), 2f32.powi(-50), 1.0, 0.1, 3e17, 2f32.powi(126), f32::MAX] {
            for history in [[5.0, 0.0, 1.0, 0.0], [INF, 0.0, 0.0, 0.0], [0.0, f32::NAN, 0.0, 0.0], [0.0, 1e-45, 0.0, 0.0]] {
                let scaling = Scaling::Delayed { warm_up: true };
                quantize(x.clone(), dtype, scaling, true, scale, history).check(&*cpu, &*gpu, EXACT);
            }
        }
    }
}

#[test]
fn quantize_tensors_of_one_kind() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let kinds = [vec![0.0; 9], vec![f32::NAN; 9], vec![INF, 1.0], vec![1e-45; 70], vec![3e38, 1e-3], vec![-1e-38, 1e-41]];
    for values in kinds {
        for dtype in FP8 {
            for scaling in scalings() {
                let x = of(DType::F32, &[values.len()], &values);
                quantize(x, dtype, scaling, true, 2.0, [0.0; 4]).check(&*cpu, &*gpu, EXACT);
            }
        }
    }
}

#[test]
fn quantize_a_million_random_words() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(12, 0);
    let n = 1 << 18;
    for dtype in FP8 {
        for scale in [rng.next_u32(), rng.next_u32()].map(|w| f32::from_bits(0x0080_0000 + (w >> 1) % 0x7F00_0000)) {
            let x = (Ty::new(DType::F32, [n]), (0..n).flat_map(|_| rng.next_u32().to_le_bytes()).collect());
            quantize(x, dtype, Scaling::Delayed { warm_up: false }, true, scale, [1.0; 4]).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn current_scale_of_every_exponent() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(13, 0);
    for exponent in 0..255u32 {
        let amax = f32::from_bits(exponent << 23 | rng.next_u32() >> 9);
        let x = of(DType::F32, &[2], &[amax, -0.5 * amax]);
        let scaling = Scaling::Current { amax_epsilon: Real(0.0), power_of_two: false };
        quantize(x, FP8[exponent as usize % 2], scaling, true, 1.0, [0.0; 4]).check(&*cpu, &*gpu, EXACT);
    }
}

/// Two tensors, one of them twice, another behind the update of the scales: each is recorded before the states are used
/// again.
#[test]
fn many_quantizations_share_their_states() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let types =
        [Ty::new(DType::F32, [3]), Ty::new(DType::F32, [4, 3]), Ty::new(DType::F32, [3, STATS]), Ty::new(DType::U32, [3])];
    let mut p = Program { name: "many".into(), scopes: vec![String::new()], grad_accum: 1, ..Program::default() };
    let value = |p: &mut Program, name: &str, ty: Ty, kind: Kind| {
        p.values.push(Value { name: name.into(), ty, kind });
        ValueId(p.values.len() as u32 - 1)
    };
    let state = Kind::State(Role::Precision, Init::Fill(0.0));
    let names = ["scale", "history", "stats", "nonfinite"];
    let states: Vec<ValueId> = names.iter().zip(types).map(|(n, t)| value(&mut p, n, t, state)).collect();
    let [scale, history, stats, nonfinite] = states[..] else { panic!("four states") };
    let xs: Vec<(Ty, Vec<u8>)> = [70, 3000].map(|n| of(DType::F32, &[n], &sample(n, n as u64))).into();
    let x: Vec<ValueId> = xs.iter().enumerate().map(|(i, (t, _))| value(&mut p, &format!("x{i}"), t.clone(), state)).collect();
    let push = |p: &mut Program, op: Op, inputs: Vec<ValueId>, outputs: Vec<ValueId>| {
        p.instrs.push(Instr { op, inputs, outputs, scope: ScopeId(0), why: None, source: Location::caller() });
    };
    for (k, (slot, of)) in [(1, 0), (0, 1), (1, 1), (2, 0)].into_iter().enumerate() {
        if k == 3 {
            let formats = vec![DType::E4m3; 3];
            let op = UpdateFp8Scales { formats, margin: 0, algo: AmaxAlgo::Max, nonfinite: NonFiniteAmax::Record };
            push(&mut p, Op::UpdateFp8Scales(op), vec![history, scale, nonfinite], vec![history, scale, nonfinite]);
        }
        let q = value(&mut p, &format!("q{k}"), Ty { dtype: DType::E4m3, ..xs[of].0.clone() }, Kind::Output);
        let scale_inv = value(&mut p, &format!("scale_inv{k}"), Ty::scalar(DType::F32), Kind::Output);
        let op = Quantize { dtype: DType::E4m3, scaling: Scaling::Delayed { warm_up: true }, slot, record: true };
        push(&mut p, Op::Quantize(op), vec![x[of], scale, history, stats], vec![q, scale_inv, history, stats]);
    }
    p.micro_end = p.instrs.len();
    let names: Vec<String> = p.values.iter().map(|v| v.name.clone()).collect();
    let run = |backend: &dyn Backend| {
        let mut machine = Machine::new(backend, p.clone()).expect("a program");
        machine.memory.write("scale", bytemuck::cast_slice(&[1.0f32; 3])).expect("a state");
        for (i, (_, bytes)) in xs.iter().enumerate() {
            machine.memory.write(&format!("x{i}"), bytes).expect("a state");
        }
        let steps = (0..3).map(|_| {
            machine.step(&[]).expect("a step");
            names.iter().map(|n| machine.bytes(n).expect("a value")).collect::<Vec<_>>()
        });
        steps.collect::<Vec<_>>()
    };
    for (step, (want, got)) in run(&*cpu).iter().zip(run(&*gpu)).enumerate() {
        for ((name, want), got) in names.iter().zip(want).zip(got) {
            assert!(*want == got, "{name} after step {step}");
        }
    }
}

fn update(history: &[f32], scale: &[f32], formats: Vec<DType>, margin: i32, algo: AmaxAlgo, nonfinite: NonFiniteAmax) -> Case {
    let n = scale.len();
    let name = format!("{algo:?} {nonfinite:?} margin {margin} of {n}");
    let op = Op::UpdateFp8Scales(UpdateFp8Scales { formats, margin, algo, nonfinite });
    let counts: Vec<u32> = (0..n as u32).map(|i| if i == 1 { u32::MAX } else { i }).collect();
    let inputs = vec![of(DType::F32, &[history.len() / n, n], history), of(DType::F32, &[n], scale), words(&counts)];
    Case::of_bytes(name, op, inputs)
}

const ALGOS: [AmaxAlgo; 2] = [AmaxAlgo::Max, AmaxAlgo::MostRecent];
const RULES: [NonFiniteAmax; 2] = [NonFiniteAmax::Ignore, NonFiniteAmax::Record];

#[test]
fn fp8_scales_of_amaxes_of_every_exponent() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(14, 0);
    let staged: Vec<f32> = (0..4 * 256u32).map(|i| f32::from_bits((i / 4) << 23 | rng.next_u32() >> 9)).collect();
    let formats: Vec<DType> = (0..staged.len()).map(|i| FP8[i % 2]).collect();
    for margin in [0, 1, -3, 50, -120] {
        for nonfinite in RULES {
            let case = update(&staged, &vec![1.5; staged.len()], formats.clone(), margin, AmaxAlgo::Max, nonfinite);
            case.check(&*cpu, &*gpu, SAME);
        }
    }
}

#[test]
fn fp8_histories_of_many_lengths() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for (rows, n) in [(1, 5), (2, 3), (3, 1), (8, 70), (9, 65), (10, 2), (17, 130), (1024, 7)] {
        let mut history = sample(rows * n, 3);
        history.iter_mut().take(n).enumerate().for_each(|(i, h)| *h = if i % 3 == 1 { 0.0 } else { h.abs() });
        let formats: Vec<DType> = (0..n).map(|i| FP8[i % 2]).collect();
        for algo in ALGOS {
            for nonfinite in RULES {
                update(&history, &vec![0.5; n], formats.clone(), 0, algo, nonfinite).check(&*cpu, &*gpu, SAME);
            }
        }
    }
}

/// The scales that a run with these amaxes uses, on the device.
fn scales(amaxes: &[f32], nonfinite: NonFiniteAmax) -> Option<Vec<f32>> {
    let gpu = devices::wgpu()?;
    let (mut history, mut scale) = (vec![0.0f32; 4], 1.0f32);
    let used = amaxes.iter().map(|&amax| {
        let used = scale;
        history[0] = amax;
        let case = update(&history, &[scale], vec![DType::E4m3], 0, AmaxAlgo::Max, nonfinite);
        let out = case.run(&*gpu).expect("a step");
        history = floats(&out[0].1);
        scale = floats(&out[1].1)[0];
        used
    });
    Some(used.collect())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn fp8_golden_sequences() {
    // docs/precision.md 4.2.
    let Some(used) = scales(&[8.0, 2.0, 1.0, 0.5, 0.0, INF, 1.0, 1.0, 1.0, 1.0, 1.0], NonFiniteAmax::Record) else { return };
    assert_eq!(used, [1.0, 56.0, 56.0, 56.0, 56.0, 56.0, 56.0, 56.0, 56.0, 56.0, 448.0]);
    let used = scales(&[8.0, 2.0, 1.0, 0.5, 0.0, INF, 1.0, 1.0, 1.0], NonFiniteAmax::Ignore);
    assert_eq!(used.as_deref().map(|u| &u[5..]), Some(&[56.0, 56.0, 224.0, 448.0][..]));
}

#[test]
fn quantize_mx() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(11, 0);
    for [rows, columns] in [[1, 1], [3, 7], [33, 65], [65, 33], [7, 300], [130, 96]] {
        // Magnitudes over the whole range of f32, similar within a block.
        let value = |i: usize| {
            let e = ((i % columns) / 32 + i / columns / 32) as i32 * 53 % 277 - 145;
            match rng.below(400) {
                0 => f32::NAN,
                1 if e > 100 => INF,
                2 => -0.0,
                _ => (f64::from(rng.normal()) * 2f64.powi(e)) as f32,
            }
        };
        let x: Vec<f32> = (0..rows * columns).map(value).collect();
        for from in FLOATS {
            for dtype in FP8 {
                for blocks in [BlockAxis::Last, BlockAxis::SecondLast] {
                    for rule in [MxRule::Ceil, MxRule::Floor] {
                        for record in [false, true] {
                            let op = Op::QuantizeMx(QuantizeMx { dtype, blocks, rule, slot: 1, record });
                            let mut inputs = vec![of(from, &[rows, columns], &x)];
                            inputs.extend(record.then(|| of(DType::F32, &[2, STATS], &[3.0; 2 * STATS])));
                            let name = format!("{} to {dtype}, {blocks:?}, {rule:?}, record {record}", inputs[0].0);
                            Case::of_bytes(name, op, inputs).check(&*cpu, &*gpu, EXACT);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn mx_scales_of_amaxes_of_every_exponent() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(15, 0);
    // A block for each: every exponent with random mantissas, and the neighbours of max * 2^k where the rules turn.
    let mut amaxes: Vec<u32> = (0..4 * 255).map(|i| (i / 4) << 23 | rng.next_u32() >> 9).collect();
    for max in FP8.map(DType::max_f32) {
        let edges = (-149..=120).map(|k| (f64::from(max) * 2f64.powi(k)) as f32);
        amaxes.extend(edges.flat_map(|v| [v.to_bits() - 1, v.to_bits(), v.to_bits() + 1, v.to_bits() + 2]));
    }
    let x: Vec<f32> = amaxes.iter().flat_map(|&a| std::iter::once(a).chain([0; 31])).map(f32::from_bits).collect();
    for dtype in FP8 {
        for rule in [MxRule::Ceil, MxRule::Floor] {
            let op = QuantizeMx { dtype, blocks: BlockAxis::Last, rule, slot: 0, record: false };
            let x = of(DType::F32, &[amaxes.len(), 32], &x);
            Case::of_bytes(format!("{dtype} {rule:?}"), Op::QuantizeMx(op), vec![x]).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn every_code_of_a_format_survives_a_scale_of_one() {
    let Some(gpu) = devices::wgpu() else { return };
    for dtype in FP8 {
        let finite = (0..256).filter(|&c| float::decode(dtype, c).is_finite());
        let codes: Vec<u8> = finite.map(|c| c as u8).collect();
        let values: Vec<f32> = codes.iter().map(|&c| float::decode(dtype, u32::from(c))).collect();
        assert!(codes.iter().zip(&values).all(|(&c, &v)| float::encode(dtype, Overflow::Saturate, v) == u32::from(c)));
        let x = of(DType::F32, &[values.len()], &values);
        let out = quantize(x, dtype, Scaling::Delayed { warm_up: false }, false, 1.0, [0.0; 4]).run(&*gpu).expect("a step");
        assert_eq!(out[0].1, codes, "{dtype}");
    }
}

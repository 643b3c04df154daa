//! What happens after the backward pass: the same bits but for sums and the arithmetic of the optimizer.

use mantissa_core::DType;
use mantissa_core::op::update::{ClipCoef, ClipValue, GradNorm, NormType, Optimizer, Record, RecordMode, Rule};
use mantissa_core::op::{Op, Real};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};

const EXACT: &[Bound] = &[Bound::Exact];
/// The same bits, but any NaN for a NaN.
const SAME: &[Bound] = &[Bound::Ulps(0.0)];

fn f32s(values: Vec<f32>) -> (Ty, Vec<f32>) {
    (Ty::new(DType::F32, [values.len()]), values)
}

fn scalar(value: f32) -> (Ty, Vec<f32>) {
    (Ty::scalar(DType::F32), vec![value])
}

fn word(value: u32) -> (Ty, Vec<u8>) {
    (Ty::scalar(DType::U32), value.to_le_bytes().to_vec())
}

fn bytes((ty, values): (Ty, Vec<f32>)) -> (Ty, Vec<u8>) {
    (ty, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

#[test]
fn zero() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for n in [1, 63, 64, 257, 100_000] {
        let list = vec![f32s(normal(n, 1.0, 1)), f32s(normal(3, 1.0, 2))];
        Case::of(format!("zero {n}"), Op::Zero, list).check(&*cpu, &*gpu, EXACT);
    }
}

#[test]
fn record() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for mode in [RecordMode::Set, RecordMode::Add] {
        let op = Op::Record(Record { slot: 2, mode });
        let inputs = vec![scalar(1.25), f32s(normal(5, 1.0, 3))];
        Case::of(format!("record {mode:?}"), op, inputs).check(&*cpu, &*gpu, EXACT);
    }
}

const NORMS: [NormType; 3] = [NormType::L2, NormType::L1, NormType::Inf];

#[test]
fn grad_norm() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    // Sums of positive terms of at most 64 + 32 additions in a row and those over the pieces; half of it after the root.
    let bound = [Bound::Ulps(16.0)];
    for norm in NORMS {
        for (n, std) in [(1, 1.0), (7, 1e-3), (257, 1e18), (16_385, 1e-20), (300_001, 0.01), (70_000, 1e30), (70_000, 1e-40)] {
            let list = vec![f32s(normal(n, std, 5)), f32s(normal(65, std, 6))];
            let bound = if norm == NormType::Inf { EXACT } else { &bound };
            Case::of(format!("{norm:?} of {n} at {std:e}"), Op::GradNorm(GradNorm { norm }), list).check(&*cpu, &*gpu, bound);
        }
    }
}

#[test]
fn grad_norm_of_extremes() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let tiny = f32::from_bits;
    let lists = [
        vec![3.0, 4.0, 12.0],
        vec![0.0, -0.0],
        vec![1.0, f32::NEG_INFINITY, 2.0],
        vec![f32::INFINITY, f32::NAN],
        vec![3e38, 3e38],
        vec![2e38, -2e38],
        vec![2e38, 1.0, 1e-30],
        vec![1e-30, 1e-30],
        vec![tiny(3), tiny(4)],
        vec![1e-13, 1.2e-13, 3e13, 4e13],
        [vec![1e17; 40_000], vec![1e-20; 40_000]].concat(),
    ];
    for norm in NORMS {
        for list in &lists {
            let name = format!("{norm:?} of {:?}", &list[..list.len().min(4)]);
            Case::of(name, Op::GradNorm(GradNorm { norm }), vec![f32s(list.clone())]).check(&*cpu, &*gpu, &[Bound::Ulps(8.0)]);
        }
    }
}

#[test]
fn clip_coef() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut norms = vec![0.0, 0.5, 1.0, 3.0, 1e-45, 1e-6, 3e38, f32::INFINITY, f32::NAN, 0.999_999, 7.123e-3];
    norms.extend(normal(40, 5.0, 9).into_iter().map(f32::abs));
    for max_norm in [1.0, 0.3, 1e-3, 1e30, 0.0] {
        for &norm in &norms {
            let op = Op::ClipCoef(ClipCoef { max_norm: Real(max_norm), percentile: None });
            Case::of(format!("{norm:e} to {max_norm}"), op, vec![scalar(norm)]).check(&*cpu, &*gpu, SAME);
        }
    }
}

#[test]
fn clip_coef_by_percentile() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for (window, percentile) in [(1, 50.0), (5, 10.0), (300, 10.0), (300, 100.0), (64, 0.0)] {
        let mut ring: Vec<f32> = normal(window, 3.0, 11).into_iter().map(f32::abs).collect();
        ring[window / 2] = ring[0];
        for count in [0, window - 1, window, 2 * window - 1] {
            for norm in [0.7, f32::INFINITY, f32::NAN] {
                let op = Op::ClipCoef(ClipCoef { max_norm: Real(1.5), percentile: Some(Real(percentile)) });
                let inputs = vec![bytes(scalar(norm)), bytes(f32s(ring.clone())), word(count as u32)];
                let name = format!("{norm} with {count} of {window} norms, percentile {percentile}");
                Case::of_bytes(name, op, inputs).check(&*cpu, &*gpu, SAME);
            }
        }
    }
}

#[test]
fn clip_value() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let special = vec![0.0, -0.0, 0.5, -0.5, 0.6, -0.6, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-45, -1e-45];
    for limit in [0.5, 0.0, 1e-40, 1e30] {
        let list = vec![f32s(special.clone()), f32s(normal(1001, 1.0, 4)), f32s(normal(3, 1e31, 5))];
        let op = Op::ClipValue(ClipValue { limit: Real(limit) });
        Case::of(format!("values to {limit}"), op, list).check(&*cpu, &*gpu, EXACT);
    }
}

fn rules() -> Vec<Rule> {
    let adam = |beta1, beta2, eps, decoupled| Rule::Adam { beta1: Real(beta1), beta2: Real(beta2), eps: Real(eps), decoupled };
    let sgd = |momentum, dampening, nesterov| Rule::Sgd { momentum: Real(momentum), dampening: Real(dampening), nesterov };
    vec![
        adam(0.9, 0.999, 1e-8, true),
        adam(0.0, 0.95, 1e-10, true),
        adam(0.9, 0.99, 1e-8, false),
        sgd(0.0, 0.0, false),
        sgd(0.9, 0.0, false),
        sgd(0.9, 0.5, false),
        sgd(0.9, 0.0, true),
    ]
}

/// Three members with two weight decays. `started`: weights and moments of a run; otherwise zeros, so that the new weight is the update.
fn step(rule: Rule, counter: u32, started: bool, found_inf: Option<f32>, clip_coef: Option<f32>) -> Case {
    let sizes = [5, 1003, 65];
    let list = |std: f32, seed: u32, f: fn(f32) -> f32| {
        sizes.iter().enumerate().map(move |(i, &n)| f32s(normal(n, std, seed + i as u32).into_iter().map(f).collect()))
    };
    let std = f32::from(u8::from(started));
    let mut inputs = vec![bytes(scalar(1e-2)), word(counter)];
    inputs.extend([found_inf, clip_coef].into_iter().flatten().map(|v| bytes(scalar(v))));
    inputs.extend(list(std, 20, |w| w).map(bytes));
    inputs.extend(list(0.1, 30, |g| g).map(bytes));
    let moments =
        [list(0.1 * std, 40, |m| m).map(bytes).collect::<Vec<_>>(), list(0.1 * std, 50, |v| v * v).map(bytes).collect()];
    inputs.extend(moments.into_iter().take(rule.moments()).flatten());
    let weight_decay = [0.1, 0.0, 0.0].map(Real).to_vec();
    let op = Optimizer { rule, weight_decay, found_inf: found_inf.is_some(), clip_coef: clip_coef.is_some() };
    Case::of_bytes(format!("{rule:?}, {counter} steps taken"), op.op(), inputs)
}

#[test]
fn optimizer() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for rule in rules() {
        for counter in [0, 1, 9, 1000, 123_456, u32::MAX] {
            for started in [false, true] {
                for (found_inf, clip_coef) in [(None, None), (Some(0.0), Some(0.37))] {
                    step(rule, counter, started, found_inf, clip_coef).check(&*cpu, &*gpu, &[Bound::Ulps(8.0)]);
                }
            }
        }
    }
}

#[test]
fn skipped_step() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for rule in rules() {
        for found_inf in [1.0, 2.0, -1.0, f32::NAN, f32::INFINITY, f32::from_bits(1)] {
            step(rule, 7, true, Some(found_inf), None).check(&*cpu, &*gpu, EXACT);
        }
    }
}

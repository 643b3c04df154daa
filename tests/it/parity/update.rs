//! What happens after the backward pass: the same bits but for sums and the arithmetic of the optimizer.

use mantissa_core::DType;
use mantissa_core::op::update::{
    ClipCoef, ClipValue, GradNorm, NormType, Optimizer, Record, RecordMode, Rule, UnscaleCheck, UpdateLossScale,
};
use mantissa_core::op::{Op, Real};
use mantissa_core::rng::Rng;
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
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        // Sums of positive terms of at most 64 + 32 additions in a row and those over the pieces; half of it after the
        // root.
        let bound = [Bound::Ulps(16.0)];
        for norm in NORMS {
            for (n, std) in
                [(1, 1.0), (7, 1e-3), (257, 1e18), (16_385, 1e-20), (300_001, 0.01), (70_000, 1e30), (70_000, 1e-40)]
            {
                let list = vec![f32s(normal(n, std, 5)), f32s(normal(65, std, 6))];
                let bound = if norm == NormType::Inf { EXACT } else { &bound };
                Case::of(format!("{norm:?} of {n} at {std:e}"), Op::GradNorm(GradNorm { norm }), list)
                    .check(&*cpu, &*gpu, bound);
            }
        }
    }
}

#[test]
fn grad_norm_of_extremes() {
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        let tiny = f32::from_bits;
        let lists = [
            vec![3.0, 4.0, 12.0],
            vec![0.0, -0.0],
            vec![1.0, f32::NEG_INFINITY, 2.0],
            vec![f32::INFINITY, f32::NAN],
            vec![3e38, 3e38],
            vec![2e38, -2e38],
            vec![2e38, 1.0, 1e-30],
            vec![3e38, f32::NEG_INFINITY],
            vec![f32::MAX; 40_000],
            vec![1e14, 3e38, 2.0, 1e-30],
            vec![1e-30, 1e-30],
            vec![tiny(3), tiny(4)],
            vec![1e-13, 1.2e-13, 3e13, 4e13],
            [vec![1e17; 40_000], vec![1e-20; 40_000]].concat(),
        ];
        for norm in NORMS {
            for list in &lists {
                let name = format!("{norm:?} of {:?}", &list[..list.len().min(4)]);
                Case::of(name, Op::GradNorm(GradNorm { norm }), vec![f32s(list.clone())]).check(
                    &*cpu,
                    &*gpu,
                    &[Bound::Ulps(8.0)],
                );
            }
        }
    }
}

#[test]
fn clip_coef() {
    /// The norm times 2^-64.
    fn far(norm: f32) -> f32 {
        norm * 2f32.powi(-64)
    }
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut norms =
        vec![0.0, 0.5, 1.0, 3.0, 1e-45, 1e-6, 1.8e19, 1.9e19, 1e30, 3e38, f32::INFINITY, f32::NAN, 0.999_999, 7.123e-3];
    norms.extend(normal(40, 5.0, 9).into_iter().map(f32::abs));
    for max_norm in [1.0, 0.3, 1e-3, 1e30, 0.0] {
        for &norm in &norms {
            let op = Op::ClipCoef(ClipCoef { max_norm: Real(max_norm), percentile: None });
            Case::of(format!("{norm:e} to {max_norm}"), op, vec![scalar(norm), scalar(far(norm))]).check(&*cpu, &*gpu, SAME);
        }
        // Norms beyond f32: the largest f32, and what they are.
        for reduced in [2e19, 1e30, 1e20] {
            let op = Op::ClipCoef(ClipCoef { max_norm: Real(max_norm), percentile: None });
            let inputs = vec![scalar(f32::MAX), scalar(reduced)];
            Case::of(format!("{reduced:e} 2^64 to {max_norm}"), op, inputs).check(&*cpu, &*gpu, SAME);
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
            for norm in [0.7, 3e30, f32::INFINITY, f32::NAN] {
                let op = Op::ClipCoef(ClipCoef { max_norm: Real(1.5), percentile: Some(Real(percentile)) });
                let far = scalar(norm * 2f32.powi(-64));
                let inputs = vec![bytes(scalar(norm)), bytes(far), bytes(f32s(ring.clone())), word(count as u32)];
                let name = format!("{norm} with {count} of {window} norms, percentile {percentile}");
                Case::of_bytes(name, op, inputs).check(&*cpu, &*gpu, SAME);
            }
        }
    }
}

#[test]
fn clip_value() {
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        let special = vec![0.0, -0.0, 0.5, -0.5, 0.6, -0.6, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-45, -1e-45];
        for limit in [0.5, 0.0, 1e-40, 1e30] {
            let list = vec![f32s(special.clone()), f32s(normal(1001, 1.0, 4)), f32s(normal(3, 1e31, 5))];
            let op = Op::ClipValue(ClipValue { limit: Real(limit) });
            Case::of(format!("values to {limit}"), op, list).check(&*cpu, &*gpu, EXACT);
        }
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

/// Three members with two weight decays. `started`: weights and moments of a run; otherwise zeros, so that the new
/// weight is the update.
fn step(rule: Rule, counter: u32, started: bool, found_inf: Option<f32>, clip_coef: Option<[f32; 2]>) -> Case {
    let sizes = [5, 1003, 65];
    let list = |std: f32, seed: u32, f: fn(f32) -> f32| {
        sizes.iter().enumerate().map(move |(i, &n)| f32s(normal(n, std, seed + i as u32).into_iter().map(f).collect()))
    };
    let std = f32::from(u8::from(started));
    let mut inputs = vec![bytes(scalar(1e-2)), word(counter)];
    inputs.extend(found_inf.map(|v| bytes(scalar(v))));
    inputs.extend(clip_coef.map(|v| bytes(f32s(v.to_vec()))));
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
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        for rule in rules() {
            for counter in [0, 1, 9, 1000, 123_456, u32::MAX] {
                for started in [false, true] {
                    for (found_inf, clip_coef) in [(None, None), (Some(0.0), Some([1.0, 0.37])), (None, Some([0.25, 3.0]))] {
                        step(rule, counter, started, found_inf, clip_coef).check(&*cpu, &*gpu, &[Bound::Ulps(8.0)]);
                    }
                }
            }
        }
    }
}

/// Gradients whose squares exceed f32, and those that are not finite.
#[test]
fn optimizer_of_large_gradients() {
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        for rule in rules() {
            for clip_coef in [None, Some([2f32.powi(-64), 0.037]), Some([1.0, 1e-3])] {
                let mut case = step(rule, 3, true, None, clip_coef);
                let (ty, grad) = {
                    let first = 2 + usize::from(clip_coef.is_some()) + 3;
                    (case.inputs[first].0.clone(), &mut case.inputs[first].1)
                };
                assert_eq!(*ty.shape, [5]);
                *grad = bytes(f32s(vec![3e38, -3e38, 1e19, f32::INFINITY, f32::NAN])).1;
                case.check(&*cpu, &*gpu, &[Bound::Ulps(8.0)]);
            }
        }
    }
}

#[test]
fn skipped_step() {
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        for rule in rules() {
            for found_inf in [1.0, 2.0, -1.0, f32::NAN, f32::INFINITY, f32::from_bits(1)] {
                step(rule, 7, true, Some(found_inf), None).check(&*cpu, &*gpu, EXACT);
            }
        }
    }
}

fn unscale(scale: f32, lists: Vec<Vec<f32>>) -> Case {
    let name = format!("unscale by {scale:e}, {:?}", &lists[0][..lists[0].len().min(4)]);
    let inputs = std::iter::once(scalar(scale)).chain(lists.into_iter().map(f32s)).collect();
    Case::of(name, Op::UnscaleCheck(UnscaleCheck), inputs)
}

const SCALES: [f32; 12] = [65536.0, 1.0, 3.0, 0.5, 7.0, 0.0, 1e-40, 1e38, 3e38, 1e-30, f32::INFINITY, 16_777_213.0];

#[test]
fn unscale_check() {
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        let special = [0.0, -0.0, 1e-45, -1e-40, 1.2e-38, 3e38, -3e38, 1.0, 2f32.powi(-110), 1.999_999_9];
        for scale in SCALES {
            unscale(scale, vec![special.to_vec(), normal(1003, 1.0, 60)]).check(&*cpu, &*gpu, SAME);
            for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                for at in [0, 64, 1002] {
                    let mut x = normal(1003, 10.0, 61);
                    x[at] = bad;
                    unscale(scale, vec![normal(65, 1.0, 62), x]).check(&*cpu, &*gpu, SAME);
                }
            }
        }
    }
}

#[test]
fn unscale_random_words_by_random_scales() {
    let cpu = devices::cpu();
    for gpu in devices::wgpu_both_preludes() {
        let mut rng = Rng::new(21, 0);
        for _ in 0..16 {
            let scale = f32::from_bits(rng.next_u32() >> 1);
            let x = (0..1 << 16).map(|_| f32::from_bits(rng.next_u32())).collect();
            unscale(scale, vec![x]).check(&*cpu, &*gpu, SAME);
            // Products near 1, where every bit of the rounding shows.
            let near = (0..1 << 16).map(|_| scale * (1.0 + rng.normal())).collect();
            unscale(scale, vec![near]).check(&*cpu, &*gpu, SAME);
        }
    }
}

#[test]
fn inverse_of_every_exponent() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(22, 0);
    for exponent in 0..255u32 {
        for fraction in [0x7F_FFFF * (exponent % 2), rng.next_u32() >> 9] {
            unscale(f32::from_bits(exponent << 23 | fraction), vec![vec![1.0]]).check(&*cpu, &*gpu, SAME);
        }
    }
}

const TORCH: UpdateLossScale = UpdateLossScale {
    growth_factor: Real(2.0),
    backoff_factor: Real(0.5),
    growth_interval: 2000,
    min_scale: Real(0.0),
    hysteresis: 1,
};

fn loss_scale(rule: UpdateLossScale, scale: f32, tracker: i32, hysteresis: i32, found_inf: &[f32]) -> Case {
    let int = |v: i32| (Ty::scalar(DType::I32), v.to_le_bytes().to_vec());
    let mut inputs = vec![bytes(scalar(scale)), int(tracker), int(hysteresis)];
    inputs.extend(found_inf.iter().map(|&f| bytes(scalar(f))));
    let name = format!("{rule:?}, scale {scale:e}, trackers {tracker} {hysteresis}, found_inf {found_inf:?}");
    Case::of_bytes(name, Op::UpdateLossScale(rule), inputs)
}

#[test]
fn update_loss_scale() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let floor = UpdateLossScale { min_scale: Real(2f64.powi(-14)), hysteresis: 3, growth_interval: 6, ..TORCH };
    let odd = UpdateLossScale { growth_factor: Real(1.7), backoff_factor: Real(0.3), growth_interval: 6, ..TORCH };
    // A flag that is not 1, a NaN, more flags than a launch sees: none set, the first, the last.
    let flags = |i: usize| match i {
        0 => vec![2.0],
        1 => vec![-0.0, f32::NAN],
        2 => vec![0.0; 5],
        3 => [vec![1.0], vec![0.0; 9]].concat(),
        _ => [vec![0.0; 8], vec![f32::INFINITY]].concat(),
    };
    let mut case = 0;
    for rule in [TORCH, floor, odd, UpdateLossScale { growth_interval: 0, ..TORCH }] {
        for scale in [65536.0, 10.0, 1e-5, 1e-45, 1.5e-38, 2f32.powi(127), 0.0] {
            for (tracker, hysteresis) in [(5, 1), (0, 3), (5, 2), (i32::MAX, i32::MIN)] {
                for found_inf in [vec![0.0], flags(case % 5)] {
                    loss_scale(rule, scale, tracker, hysteresis, &found_inf).check(&*cpu, &*gpu, EXACT);
                }
                case += 1;
            }
        }
    }
}

#[test]
fn loss_scale_products_are_rounded_as_in_f64() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let mut rng = Rng::new(42, 0);
    for i in 0..200 {
        let scale = f32::from_bits(if i % 4 == 0 { rng.next_u32() >> 9 } else { rng.next_u32() >> 1 });
        // A product near a tie of f32, or anywhere near 1.
        let tie = f64::from(f32::from_bits(0x3F80_0000 | rng.next_u32() >> 9)) + 2f64.powi(-24);
        let near = 2f64.powf(f64::from(rng.normal()));
        let factor = if i % 2 == 0 { tie / f64::from(1.0 + rng.normal().abs()) } else { near };
        let rule = UpdateLossScale { backoff_factor: Real(factor), ..TORCH };
        if scale.is_finite() {
            loss_scale(rule, scale, 0, 1, &[1.0]).check(&*cpu, &*gpu, EXACT);
        }
    }
}

/// The loss scales of a run on the device.
fn trace(rule: UpdateLossScale, mut scale: f32, found_inf: &[f32]) -> Option<Vec<(f32, i32)>> {
    let gpu = devices::wgpu()?;
    let (mut tracker, mut hysteresis) = (0, rule.hysteresis as i32);
    let seen = found_inf.iter().map(|&flag| {
        let out = loss_scale(rule, scale, tracker, hysteresis, &[flag]).run(&*gpu).expect("a step");
        let word = |i: usize| u32::from_le_bytes([out[i].1[0], out[i].1[1], out[i].1[2], out[i].1[3]]);
        (scale, tracker, hysteresis) = (f32::from_bits(word(0)), word(1) as i32, word(2) as i32);
        (scale, tracker)
    });
    Some(seen.collect())
}

#[test]
fn loss_scale_golden_traces() {
    // docs/precision.md 2.4 and 2.5.
    let rule = UpdateLossScale { growth_interval: 3, ..TORCH };
    let Some(g4) = trace(rule, 1024.0, &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]) else { return };
    assert_eq!(g4, [(1024.0, 1), (1024.0, 2), (2048.0, 0), (2048.0, 1), (1024.0, 0), (1024.0, 1), (1024.0, 2)]);
    let rule = UpdateLossScale { growth_factor: Real(4.0), backoff_factor: Real(0.25), growth_interval: 2, ..TORCH };
    let g5 = trace(rule, 8.0, &[1.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(g5, Some(vec![(2.0, 0), (0.5, 0), (0.125, 0), (0.125, 1), (0.5, 0)]));
    let g14 = trace(TORCH, 1.0, &[1.0; 150]).unwrap_or_default();
    assert!(g14[148].0 > 0.0 && g14[149].0 == 0.0);
}

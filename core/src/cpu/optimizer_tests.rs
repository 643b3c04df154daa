//! Tests of the optimizer steps: against plain f64 loops, across sizes and dtypes, and the skip.

use super::super::unscale::{UnscaleRef, unscale};
use super::*;
use crate::dtype::DType;
use crate::float;
use crate::rng::Rng;

const GOOD: StepScalars = StepScalars { lr: 1e-2, found_inf: 0.0, factors: [1.0; 2] };

/// One tensor with its state.
#[derive(Clone, PartialEq, Debug)]
struct Owned {
    param: Vec<f32>,
    grad: Vec<u8>,
    grad_dtype: DType,
    moment1: Vec<f32>,
    moment2: Vec<f32>,
    low: Option<(DType, Vec<u8>)>,
    weight_decay: f32,
}

impl Owned {
    fn new(n: usize, rule: &OptimizerRule, weight_decay: f32, rng: &mut Rng) -> Owned {
        let moment = |i| if rule.moments() > i { vec![0.0; n] } else { Vec::new() };
        let param = (0..n).map(|_| rng.normal()).collect();
        let mut new = Owned {
            param,
            grad: vec![],
            grad_dtype: DType::F32,
            moment1: moment(0),
            moment2: moment(1),
            low: None,
            weight_decay,
        };
        new.set_grad(DType::F32, &vec![0.0; n]);
        new
    }

    fn set_grad(&mut self, dtype: DType, g: &[f32]) {
        self.grad_dtype = dtype;
        self.grad.resize(g.len() * dtype.size_bytes(), 0);
        float::slices::encode(dtype, dtype.overflow(), g, &mut self.grad);
    }

    fn grad(&self) -> Vec<f32> {
        let mut g = vec![0.0; self.param.len()];
        View::new(self.grad_dtype, &self.grad).decode_into(&mut g);
        g
    }

    fn as_ref(&mut self) -> ParamRef<'_> {
        ParamRef {
            param: &mut self.param,
            grad: View::new(self.grad_dtype, &self.grad),
            moment1: &mut self.moment1,
            moment2: &mut self.moment2,
            low: self.low.as_mut().map(|(d, b)| ViewMut::new(*d, b)),
            weight_decay: self.weight_decay,
        }
    }
}

fn step_all(tensors: &mut [Owned], rule: &OptimizerRule, step: &mut u32, scalars: &StepScalars) {
    let mut refs: Vec<_> = tensors.iter_mut().map(Owned::as_ref).collect();
    optimizer_step(&mut refs, rule, step, scalars);
}

/// The textbook in f64: state is (parameter, first moment, second moment).
fn reference(rule: &OptimizerRule, t: i32, lr: f64, wd: f64, g: f64, (p, m, v): (f64, f64, f64)) -> (f64, f64, f64) {
    let adam = |p: f64, g: f64, [b1, b2]: [f64; 2], eps: f64| {
        let (m, v) = (b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g * g);
        let (mhat, vhat) = (m / (1.0 - b1.powi(t)), v / (1.0 - b2.powi(t)));
        (p - lr * mhat / (vhat.sqrt() + eps), m, v)
    };
    match *rule {
        OptimizerRule::AdamW { betas, eps } => adam(p - lr * wd * p, g, betas, eps),
        OptimizerRule::Adam { betas, eps } => adam(p, g + wd * p, betas, eps),
        OptimizerRule::Sgd { momentum, dampening, nesterov } => {
            let g = g + wd * p;
            let b = if t == 1 { g } else { momentum * m + (1.0 - dampening) * g };
            let d = if momentum == 0.0 {
                g
            } else if nesterov {
                g + momentum * b
            } else {
                b
            };
            (p - lr * d, b, v)
        }
    }
}

fn rules() -> Vec<OptimizerRule> {
    let sgd = |momentum, dampening, nesterov| OptimizerRule::Sgd { momentum, dampening, nesterov };
    vec![
        OptimizerRule::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
        OptimizerRule::AdamW { betas: [0.0, 0.95], eps: 1e-10 },
        OptimizerRule::Adam { betas: [0.9, 0.99], eps: 1e-8 },
        sgd(0.0, 0.0, false),
        sgd(0.9, 0.0, false),
        sgd(0.9, 0.5, false),
        sgd(0.9, 0.0, true),
    ]
}

#[test]
fn hundred_steps_follow_the_f64_reference() {
    for rule in rules() {
        let mut rng = Rng::new(17, 0);
        let mut tensors: Vec<Owned> = [1, 3, 7, 65, 257]
            .iter()
            .enumerate()
            .map(|(i, &n)| Owned::new(n, &rule, if i % 2 == 0 { 0.1 } else { 0.0 }, &mut rng))
            .collect();
        let mut exact: Vec<Vec<(f64, f64, f64)>> =
            tensors.iter().map(|o| o.param.iter().map(|&p| (f64::from(p), 0.0, 0.0)).collect()).collect();
        let mut step = 0;
        for t in 1..=100 {
            let scalars = StepScalars { lr: 1e-2 / (1.0 + t as f32 / 50.0), factors: [0.25, 0.7], ..GOOD };
            for (o, exact) in tensors.iter_mut().zip(&mut exact) {
                let g: Vec<f32> = o.param.iter().map(|&p| 4.0 * (p + 0.3 * rng.normal())).collect();
                o.set_grad([DType::F32, DType::Bf16, DType::F16][t as usize % 3], &g);
                for (state, g) in exact.iter_mut().zip(o.grad()) {
                    let g = f64::from(g) * 0.25 * f64::from(0.7f32);
                    *state = reference(&rule, t, f64::from(scalars.lr), f64::from(o.weight_decay), g, *state);
                }
            }
            step_all(&mut tensors, &rule, &mut step, &scalars);
        }
        assert_eq!(step, 100);
        for (o, exact) in tensors.iter().zip(&exact) {
            for (p, (expect, _, _)) in o.param.iter().zip(exact) {
                // 100 steps, each with a rounding of half an ulp of p (|p| up to 4) and of a step of about lr.
                assert!((f64::from(*p) - expect).abs() <= 100.0 * 4.0 * 2f64.powi(-24), "{rule:?} {p} {expect}");
            }
        }
    }
}

#[test]
fn first_adam_step_has_the_size_of_the_learning_rate() {
    let rule = OptimizerRule::AdamW { betas: [0.9, 0.999], eps: 1e-8 };
    let mut t = Owned::new(4, &rule, 0.0, &mut Rng::new(1, 0));
    t.param.fill(0.0);
    t.set_grad(DType::F32, &[1e-3, -5.0, 1e4, 0.0]);
    let mut step = 0;
    step_all(std::slice::from_mut(&mut t), &rule, &mut step, &GOOD);
    for (p, expect) in t.param.iter().zip([-1e-2f32, 1e-2, -1e-2, 0.0]) {
        assert!((p - expect).abs() <= 2e-7, "{p}");
    }
}

#[test]
fn golden_sgd_steps() {
    // docs/precision.md 2.4: lr 0.1, gradient 1 a step, from 1, one overflow at step 5. 3.3: clipped [3, 4], lr 1, from
    // 0.
    let rule = OptimizerRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false };
    let mut t = Owned::new(1, &rule, 0.0, &mut Rng::new(1, 0));
    (t.param[0], t.grad) = (1.0, 1024f32.to_le_bytes().to_vec());
    let mut step = 0;
    let p: Vec<f32> = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
        .iter()
        .map(|&found_inf| {
            step_all(
                std::slice::from_mut(&mut t),
                &rule,
                &mut step,
                &StepScalars { lr: 0.1, found_inf, factors: [1.0 / 1024.0, 1.0] },
            );
            t.param[0]
        })
        .collect();
    let expect = [0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4];
    assert!(p.iter().zip(expect).all(|(p, e)| (p - e).abs() <= 2e-7), "{p:?}");
    assert_eq!(step, 6);

    let mut t = Owned::new(2, &rule, 0.0, &mut Rng::new(1, 0));
    t.param.fill(0.0);
    t.set_grad(DType::F32, &[48.0, 64.0]);
    let [_, clip_coef] = super::super::clip::clip_coef([5.0, 0.0], 1.0);
    step_all(
        std::slice::from_mut(&mut t),
        &rule,
        &mut step,
        &StepScalars { lr: 1.0, found_inf: 0.0, factors: [1.0 / 16.0, clip_coef] },
    );
    assert_eq!([t.param[0].to_bits(), t.param[1].to_bits()], [0xBF19_9998, 0xBF4C_CCCA]);
}

#[test]
fn skipped_step_touches_nothing() {
    // docs/precision.md 2.7: PyTorch's fused step takes found_inf = 2 for a good one.
    for rule in rules() {
        for found_inf in [1.0, 2.0, f32::NAN, f32::INFINITY, -1.0] {
            let mut rng = Rng::new(2, 0);
            let mut t = Owned::new(65, &rule, 0.1, &mut rng);
            t.low = Some((DType::Bf16, vec![0xAB; 130]));
            t.set_grad(DType::F32, &[f32::INFINITY; 65]);
            let before = t.clone();
            let mut step = 7;
            step_all(std::slice::from_mut(&mut t), &rule, &mut step, &StepScalars { found_inf, ..GOOD });
            assert_eq!((&t, step), (&before, 7));
        }
    }
}

#[test]
fn low_copy_is_the_new_weight_rounded_once() {
    for rule in rules() {
        for low in [DType::F32, DType::F16, DType::Bf16, DType::E4m3] {
            for n in [1, 65, 1025, 3 * crate::cpu::chunks::CHUNK + 9] {
                let mut rng = Rng::new(3, 0);
                let mut t = Owned::new(n, &rule, 0.1, &mut rng);
                let g: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
                t.set_grad(DType::Bf16, &g);
                let mut plain = t.clone();
                t.low = Some((low, vec![0; n * low.size_bytes()]));
                let (mut step, mut step_plain) = (0, 0);
                step_all(std::slice::from_mut(&mut t), &rule, &mut step, &GOOD);
                step_all(std::slice::from_mut(&mut plain), &rule, &mut step_plain, &GOOD);
                assert!(t.param == plain.param, "{rule:?} {low} {n}");
                let mut expect = vec![0; n * low.size_bytes()];
                float::slices::encode(low, low.overflow(), &t.param, &mut expect);
                assert!(t.low == Some((low, expect)), "{rule:?} {low} {n}");
            }
        }
    }
}

#[test]
fn fused_unscale_and_clip_give_the_bits_of_separate_passes() {
    for rule in rules() {
        let mut rng = Rng::new(5, 0);
        let n = 20_003;
        let mut fused = Owned::new(n, &rule, 0.01, &mut rng);
        let g: Vec<f32> = (0..n).map(|_| rng.normal() * 1e3).collect();
        fused.set_grad(DType::F16, &g);
        let mut apart = fused.clone();
        let (mut unscaled, mut found_inf) = (vec![0.0; n], 0.0);
        unscale(
            &mut [UnscaleRef { grad: Some(View::new(DType::F16, &fused.grad)), out: ViewMut::of(&mut unscaled) }],
            1.0 / 3.0,
            &mut found_inf,
            None,
        );
        super::super::clip::clip_apply(&mut [ViewMut::of(&mut unscaled)], [1.0, 0.37]);
        apart.set_grad(DType::F32, &unscaled);
        let (mut a, mut b) = (0, 0);
        step_all(std::slice::from_mut(&mut fused), &rule, &mut a, &StepScalars { factors: [1.0 / 3.0, 0.37], ..GOOD });
        step_all(std::slice::from_mut(&mut apart), &rule, &mut b, &GOOD);
        assert!(fused.param == apart.param && fused.moment1 == apart.moment1 && fused.moment2 == apart.moment2, "{rule:?}");
    }
}

#[test]
fn adam_takes_gradients_whose_square_exceeds_f32() {
    for rule in rules().into_iter().filter(|r| r.moments() == 2) {
        let mut rng = Rng::new(6, 0);
        let mut one = Owned::new(6, &rule, 0.0, &mut rng);
        one.param = vec![0.0; 6];
        let mut step = 0;
        let first = [3e38, -3e38, 2e19, 1.0, f32::INFINITY, f32::NAN];
        one.set_grad(DType::F32, &first);
        step_all(std::slice::from_mut(&mut one), &rule, &mut step, &GOOD);
        // The first step of Adam is as long as the rate, whatever the gradient.
        for (p, g) in one.param.iter().zip(&first[..4]) {
            assert!((p + GOOD.lr * g.signum()).abs() <= 1e-6, "{rule:?}: {g:e} moved {p:e}");
        }
        assert!(one.param[4].is_nan() && one.param[5].is_nan(), "{rule:?}: {:?}", one.param);
        assert!(one.moment2[..4].iter().all(|v| v.is_finite()), "{rule:?}: {:?}", one.moment2);
        // And the weight still moves in the steps that follow.
        let before = one.param[0];
        one.set_grad(DType::F32, &[-3e38; 6]);
        for _ in 0..20 {
            step_all(std::slice::from_mut(&mut one), &rule, &mut step, &GOOD);
        }
        assert!(one.param[0] > before + 5.0 * GOOD.lr, "{rule:?}: {before} to {}", one.param[0]);
    }
}

#[test]
fn bias_correction_is_exact_for_long_runs_and_edge_rates() {
    for (beta, t) in [(0.9f64, 1), (0.999, 1), (0.999, 100), (0.95, 10_000)] {
        let exact = 1.0 - beta.powi(t);
        assert!((bias_correction(beta, t as u32) - exact).abs() <= 1e-13, "{beta} {t}");
    }
    assert_eq!(bias_correction(0.0, 1), 1.0);
    assert_eq!(bias_correction(0.9, u32::MAX), 1.0);
}

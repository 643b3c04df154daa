//! Finite gradients whose norm exceeds f32: they are clipped as any others, with and without a loss scale, on every
//! device.

use super::scaler::update;
use mantissa_core::backend::Backend;
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::clip::Clip;
use mantissa_core::precision::scaler::{GradScaler, LOSS_SCALE, ScalerConfig};
use mantissa_core::program::{Init, Program, Rate};
use mantissa_core::shape::Ty;
use mantissa_core::trace::Graph;
use mantissa_core::{DType, Result};
use mantissa_tests::devices;
use mantissa_tests::machine::Machine;
use std::sync::Arc;

/// SGD on `p` with the gradient `x`, whose norm is an output.
fn program(scaled: bool, clip: Option<Clip>) -> Result<Program> {
    let g = Graph::new("large gradients", true);
    let config = ScalerConfig { init_scale: 1.0, min_scale: 0.0, ..ScalerConfig::default() };
    let mut scaler = GradScaler::new(&g, scaled.then_some(config))?;
    let p = g.param("p", [2], Init::Fill(0.0));
    let x = g.input("x", Ty::new(DType::F32, [2]), Rate::MicroStep);
    let loss = (p * x).sum_all();
    let mut optim = Optim::new("optim", OptimConfig::sgd(0.0), vec![p])?;
    optim.backward(scaler.scale(loss));
    update(&g, &mut scaler, optim, clip)?;
    g.finish()
}

fn devices() -> Vec<Arc<dyn Backend>> {
    std::iter::once(devices::cpu()).chain(devices::wgpu_both_preludes()).collect()
}

fn step(m: &mut Machine, x: [f32; 2]) -> [f32; 2] {
    let before = m.f32s("p").expect("a parameter");
    m.step(&[("x", bytemuck::cast_slice(&x)), ("optim.lr", bytemuck::bytes_of(&1.0f32))]).expect("runs");
    let after = m.f32s("p").expect("a parameter");
    [0, 1].map(|i| before[i] - after[i])
}

#[test]
fn the_update_has_the_length_of_the_limit() {
    let adaptive = Clip::Adaptive { percentile: 90.0, window: 4, max_norm: 1.0 };
    for backend in devices() {
        for scaled in [true, false] {
            for clip in [Clip::Norm(1.0), adaptive] {
                for x in [[3e38f32, 3e38], [-3e38, 1e38], [2e38, 2e38], [1e25, 0.0], [3.0, 4.0]] {
                    let mut m = Machine::new(&*backend, program(scaled, Some(clip)).expect("a step")).expect("compiles");
                    let moved = step(&mut m, x);
                    let exact = f64::from(x[0]).hypot(f64::from(x[1]));
                    for (got, x) in moved.into_iter().zip(x) {
                        let want = f64::from(x) / exact;
                        assert!((f64::from(got) - want).abs() <= 1e-6, "{clip:?} of {x:e}, scaler {scaled}: {got} for {want}");
                    }
                    let norm = m.f32s("norm").expect("an output")[0];
                    assert!((f64::from(norm) / exact.min(f64::from(f32::MAX)) - 1.0).abs() <= 1e-6, "{norm:e} for {exact:e}");
                    if scaled {
                        assert_eq!(m.f32s(LOSS_SCALE).expect("a state"), [1.0], "nothing overflowed");
                    }
                }
            }
        }
    }
}

#[test]
fn infinite_gradients_still_are_not_finite() {
    for backend in devices() {
        for x in [[f32::INFINITY, 1.0], [f32::NAN, 3e38]] {
            let mut m = Machine::new(&*backend, program(false, Some(Clip::Norm(1.0))).expect("a step")).expect("compiles");
            assert!(step(&mut m, x)[0].is_nan());
            assert!(!m.f32s("norm").expect("an output")[0].is_finite());
        }
    }
}

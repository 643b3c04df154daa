//! Bytes moved a second by the precision kernels, in cache (2^18 elements) and out of it (2^24); best and median of 15.
use mantissa_core::DType;
use mantissa_core::cpu::view::{View, ViewMut};
use mantissa_core::cpu::*;
use std::time::Instant;
fn time(name: &str, bytes: f64, mut f: impl FnMut()) {
    f();
    let mut t: Vec<f64> = (0..15).map(|_| { let s = Instant::now(); f(); s.elapsed().as_secs_f64() }).collect();
    t.sort_by(f64::total_cmp);
    println!("{name:34} best {:6.2} GB/s  median {:6.2}", bytes / t[0] / 1e9, bytes / t[7] / 1e9);
}
fn main() {
    for n in [1usize << 18, 1 << 24] {
        println!("n = {n}");
        let x: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 * 0.01 - 5.0).collect();
        let xv = View::of(&x);
        let nf = n as f64;
        let mut q = vec![0u8; n];
        let (mut inv, mut am) = (0.0, 0.0);
        let mut st = quantize::QuantizeStats::default();
        let mut y = vec![0.0f32; n];
        time("copy f32 (memcpy, 1 thread)", 8.0 * nf, || y.copy_from_slice(&x));
        for d in [DType::E4m3, DType::E5m2] {
            time(&format!("quantize {d} amax"), 5.0 * nf, || quantize::quantize(xv, 30.0, ViewMut::new(d, &mut q), &mut inv, Some(&mut am), None));
            time(&format!("quantize {d} amax stats"), 5.0 * nf, || quantize::quantize(xv, 30.0, ViewMut::new(d, &mut q), &mut inv, Some(&mut am), Some(&mut st)));
        }
        let mut b16 = vec![0u8; 2 * n];
        ViewMut::new(DType::Bf16, &mut b16).store(0, &x);
        time("quantize bf16->e4m3 amax", 3.0 * nf, || quantize::quantize(View::new(DType::Bf16, &b16), 30.0, ViewMut::new(DType::E4m3, &mut q), &mut inv, Some(&mut am), None));
        time("amax", 4.0 * nf, || am = quantize::amax(xv));
        let mut sc = vec![0u8; n / 32];
        for (a, nm) in [(quantize_mx::MxAxis::Row, "row"), (quantize_mx::MxAxis::Column, "col")] {
            time(&format!("mx {nm} e4m3"), 5.0 * nf, || quantize_mx::quantize_mx(xv, 1024.min(n), a, quantize_mx::MxRule::Ceil, ViewMut::new(DType::E4m3, &mut q), &mut sc, None));
            time(&format!("mx {nm} e4m3 stats"), 5.0 * nf, || quantize_mx::quantize_mx(xv, 1024.min(n), a, quantize_mx::MxRule::Ceil, ViewMut::new(DType::E4m3, &mut q), &mut sc, Some(&mut st)));
        }
        let mut f = 0.0;
        time("unscale in place", 8.0 * nf, || unscale::unscale(&mut [unscale::UnscaleRef { grad: None, out: ViewMut::of(&mut y) }], 0.999, &mut f, None));
        time("unscale f32->f32", 8.0 * nf, || unscale::unscale(&mut [unscale::UnscaleRef { grad: Some(xv), out: ViewMut::of(&mut y) }], 0.999, &mut f, None));
        time("unscale bf16->f32", 6.0 * nf, || unscale::unscale(&mut [unscale::UnscaleRef { grad: Some(View::new(DType::Bf16, &b16)), out: ViewMut::of(&mut y) }], 0.999, &mut f, None));
        time("check", 4.0 * nf, || unscale::check_finite(&[xv], &mut f));
        let mut w = vec![0.0; grad_norm::grad_norm_work_len([n])];
        for k in [grad_norm::NormKind::L2, grad_norm::NormKind::L1, grad_norm::NormKind::Inf] {
            time(&format!("norm {k:?}"), 4.0 * nf, || am = grad_norm::grad_norm(&[xv], k, &mut [0.0], &mut w));
        }
        time("clip apply", 8.0 * nf, || clip::clip_apply(&mut [ViewMut::of(&mut y)], 0.9999));
        let (mut p, mut m, mut v) = (x.clone(), vec![0.0f32; n], vec![0.0f32; n]);
        let sc1 = optimizer::StepScalars { lr: 1e-3, found_inf: 0.0, inv_scale: 1.0, clip_coef: 1.0 };
        let mut step = 0;
        for (nm, r) in [("adamw", optimizer::OptimizerRule::AdamW { betas: [0.9, 0.999], eps: 1e-8 }), ("adam", optimizer::OptimizerRule::Adam { betas: [0.9, 0.999], eps: 1e-8 })] {
            time(nm, 28.0 * nf, || optimizer::optimizer_step(&mut [optimizer::ParamRef { param: &mut p, grad: xv, moment1: &mut m, moment2: &mut v, low: None, weight_decay: 0.1 }], &r, &mut step, &sc1));
        }
        let r = optimizer::OptimizerRule::AdamW { betas: [0.9, 0.999], eps: 1e-8 };
        time("adamw + bf16 copy", 30.0 * nf, || optimizer::optimizer_step(&mut [optimizer::ParamRef { param: &mut p, grad: xv, moment1: &mut m, moment2: &mut v, low: Some(ViewMut::new(DType::Bf16, &mut b16)), weight_decay: 0.1 }], &r, &mut step, &sc1));
        let r = optimizer::OptimizerRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: false };
        time("sgd momentum", 20.0 * nf, || optimizer::optimizer_step(&mut [optimizer::ParamRef { param: &mut p, grad: xv, moment1: &mut m, moment2: &mut [], low: None, weight_decay: 0.0 }], &r, &mut step, &sc1));
    }
}

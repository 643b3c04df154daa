//! Attention backward against its closed form in f64, which itself is checked by finite differences.

use super::*;
use crate::cpu::attention::tests::{args, assert_close, dropout, exact, run, two_levels, values};
use crate::dtype::DType;
use crate::rng;

/// The gradient in f64 closed form.
fn exact_gradient(a: &AttentionArgs, qkv: &[f64], dy: &[f64]) -> Vec<f64> {
    let (hs, width) = (a.head_size, a.packed_width());
    let mut dqkv = vec![0.0; qkv.len()];
    let (y, lse) = exact(a, qkv);
    for b in 0..a.batch {
        for h in 0..a.heads {
            let kv = h * a.kv_heads / a.heads;
            let at = |i: usize, slot: usize| (b * a.t + i) * width + slot * hs;
            for i in 0..a.t {
                let yi = (b * a.t + i) * a.width() + h * hs;
                let delta: f64 = (0..hs).map(|c| dy[yi + c] * y[yi + c]).sum();
                for j in 0..if a.causal { i + 1 } else { a.t } {
                    let (q, k, v) = (at(i, h), at(j, a.heads + kv), at(j, a.heads + a.kv_heads + kv));
                    let score: f64 = (0..hs).map(|c| qkv[q + c] * qkv[k + c]).sum();
                    let p = (f64::from(a.scale) * score - lse[(b * a.heads + h) * a.t + i]).exp();
                    let keep = a.dropout.map_or(1.0, |d| {
                        let index = (((b * a.heads + h) * a.t + i) * a.t + j) as u32;
                        if rng::bits(d.seed, d.stream, d.step, index) >= d.threshold { f64::from(d.scale) } else { 0.0 }
                    });
                    let dp: f64 = keep * (0..hs).map(|c| dy[yi + c] * qkv[v + c]).sum::<f64>();
                    let ds = f64::from(a.scale) * p * (dp - delta);
                    for c in 0..hs {
                        dqkv[v + c] += keep * p * dy[yi + c];
                        dqkv[q + c] += ds * qkv[k + c];
                        dqkv[k + c] += ds * qkv[q + c];
                    }
                }
            }
        }
    }
    dqkv
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check(args: AttentionArgs, dtype: DType) {
    let r = run(args, dtype, values(args.batch * args.t * args.packed_width(), dtype, 1));
    let want = exact_gradient(&args, &wide(&r.qkv), &wide(&r.dy));
    // `delta` is made from the stored y, which carries one rounding of its dtype; its products sum over head_size.
    let relative = 4e-6 + if dtype == DType::F32 { 0.0 } else { 2.0 * dtype.unit_roundoff() };
    assert_close(&r.dqkv, &want, dtype, relative, &format!("dqkv {args:?} {dtype}"));
}

#[test]
fn agrees_with_the_closed_form_at_awkward_sizes() {
    for t in [1, 3, 7, 64, 65, 130, 257] {
        for hs in [8, 16, 32, 64, 80] {
            for causal in [true, false] {
                check(AttentionArgs { causal, ..args(1, t, 2, 2, hs) }, DType::F32);
            }
        }
    }
}

#[test]
fn every_dtype_and_grouping_and_dropout() {
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
        for (heads, kv_heads) in [(4, 4), (4, 2), (4, 1), (3, 3)] {
            check(args(2, 37, heads, kv_heads, 16), dtype);
        }
        check(AttentionArgs { dropout: dropout(0.3), ..args(2, 70, 2, 1, 24) }, dtype);
    }
    check(args(40, 5, 2, 1, 8), DType::F32);
}

#[test]
fn probabilities_are_exact_however_large_the_scores() {
    // Equal scores: each key has the weight 1 / 200, whatever the scores are, up to those that f32 just holds.
    for score in [-3e38f32, -1e5, 0.0, 1e5, 3e38] {
        let r = two_levels(false, 1.0, score, score);
        let t = r.args.t;
        for c in 0..8 {
            let want = r.dy.chunks(8).map(|dy| f64::from(dy[c])).sum::<f64>() / t as f64;
            for row in r.dqkv.chunks(24) {
                assert!((f64::from(row[16 + c]) - want).abs() <= 1e-6, "scores of {score:e}: dv {} for {want}", row[16 + c]);
            }
        }
        // dk = sum over queries of p (dp - delta), as q is 1.
        let (y, v) = (f64::from(r.y[0]), |j: usize| if j < 64 { 100.0 } else { (j % 4) as f64 });
        let all: f64 = r.dy.iter().map(|&dy| f64::from(dy)).sum();
        for (j, row) in r.dqkv.chunks(24).enumerate() {
            let want = all * (v(j) - y) / t as f64;
            assert!((f64::from(row[8]) - want).abs() <= 2e-4, "scores of {score:e}: dk[{j}] {} for {want}", row[8]);
        }
    }
    // Keys that weigh nothing have no gradient, and leave none behind.
    let r = two_levels(false, 1e20, -1e20, 0.0);
    assert!(r.dqkv.iter().all(|d| d.is_finite()));
    assert!(r.dqkv.chunks(24).take(64).all(|row| row[8..].iter().all(|d| *d == 0.0)));
}

#[test]
fn the_closed_form_agrees_with_finite_differences() {
    let args = AttentionArgs { dropout: dropout(0.25), ..args(1, 6, 4, 2, 3) };
    let qkv = wide(&values(args.t * args.packed_width(), DType::F32, 1));
    let dy = wide(&values(args.t * args.width(), DType::F32, 2));
    let loss = |qkv: &[f64]| exact(&args, qkv).0.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>();
    let gradient = exact_gradient(&args, &qkv, &dy);
    let eps = 1e-5;
    for i in 0..qkv.len() {
        let mut x = qkv.clone();
        x[i] += eps;
        let up = loss(&x);
        x[i] -= 2.0 * eps;
        let difference = (up - loss(&x)) / (2.0 * eps);
        assert!((difference - gradient[i]).abs() <= 1e-8, "[{i}]: {difference} for {}", gradient[i]);
    }
}

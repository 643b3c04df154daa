//! Cross entropy against f64 closed forms and finite differences.

use super::*;
use crate::cpu::testing::{FLOATS, Stored, assert_close, normal, numeric_gradient};
use crate::dtype::DType;

fn exact_loss(x: &[f64], v: usize, targets: &[u32], s: f64) -> (Vec<f64>, Vec<f64>, f64) {
    let (mut loss, mut lse, mut count) = (vec![], vec![], 0.0);
    for (x, &t) in x.chunks(v).zip(targets) {
        let m = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let l = m + x.iter().map(|x| (x - m).exp()).sum::<f64>().ln();
        lse.push(l);
        if t == IGNORE_INDEX {
            loss.push(0.0);
        } else {
            let mean = x.iter().sum::<f64>() / v as f64;
            loss.push((1.0 - s) * (l - x[t as usize]) + s * (l - mean));
            count += 1.0;
        }
    }
    let mean = loss.iter().sum::<f64>() / count;
    (loss, lse, mean)
}

fn targets(n: usize, v: usize) -> Vec<u32> {
    (0..n).map(|i| if i % 4 == 2 { IGNORE_INDEX } else { ((i * 7919) % v) as u32 }).collect()
}

fn words(dtype: DType, x: &[u32]) -> View<'_> {
    View::new(dtype, bytemuck::cast_slice(x))
}

struct Run {
    loss: Vec<f32>,
    stats: Vec<f32>,
    mean: f32,
    count: u32,
}

impl Run {
    /// `ln sum e^x` of each row, from what the forward leaves.
    fn lse(&self) -> Vec<f32> {
        self.stats.chunks(2).map(|s| s[0] - s[1].ln()).collect()
    }
}

fn forward(x: &Stored, t: &[u32], v: usize, s: f32) -> Run {
    let n = t.len();
    let (mut loss, mut stats) = (vec![7.0; n], vec![7.0; 2 * n]);
    let (mean, count) = xent(x.view(), words(DType::I32, t), [n, v], s, &mut loss, &mut stats);
    Run { loss, stats, mean, count }
}

fn backward(x: &Stored, t: &[u32], v: usize, s: f32, run: &Run, dloss: f32, dtype: DType) -> Vec<f32> {
    let mut dx = Stored::dirty(dtype, t.len() * v);
    xent_backward(x.view(), words(DType::U32, t), [t.len(), v], s, &run.stats, View::of(&[dloss]), run.count, dx.view_mut());
    dx.values()
}

#[test]
fn forward_is_the_closed_form_for_every_dtype() {
    for dtype in FLOATS {
        for v in [1, 3, 7, 65, 257, 1024, 2600] {
            for s in [0.0, 0.1] {
                let t = targets(6, v);
                let x = Stored::of(dtype, &normal(6 * v, 1).iter().map(|x| 4.0 * x + 50.0).collect::<Vec<_>>());
                let run = forward(&x, &t, v, s);
                let (loss, lse, mean) = exact_loss(&x.exact(), v, &t, f64::from(s));
                assert_close(DType::F32, &run.loss, &loss, 1e-6, "loss");
                assert_close(DType::F32, &run.lse(), &lse, 1e-6, "lse");
                assert_close(DType::F32, &[run.mean], &[mean], 1e-6, "mean");
                assert_eq!(run.count, 5);
            }
        }
    }
}

#[test]
fn backward_is_the_numeric_gradient() {
    for v in [1, 3, 65] {
        for s in [0.0, 0.1] {
            let t = targets(4, v);
            let x = Stored::of(DType::F32, &normal(4 * v, 2));
            let run = forward(&x, &t, v, s);
            let want = numeric_gradient(&x.exact(), |x| 3.0 * exact_loss(x, v, &t, f64::from(s)).2);
            assert_close(DType::F32, &backward(&x, &t, v, s, &run, 3.0, DType::F32), &want, 1e-6, "dlogits");
        }
    }
}

#[test]
fn backward_of_long_rows_is_the_closed_form_for_every_dtype() {
    let (v, s, loss_scale) = (2600, 0.1f32, 1024.0f32);
    let t = targets(5, v);
    for dtype in FLOATS {
        let x = Stored::of(dtype, &normal(5 * v, 3).iter().map(|x| 3.0 * x).collect::<Vec<_>>());
        let run = forward(&x, &t, v, s);
        let (_, lse, _) = exact_loss(&x.exact(), v, &t, f64::from(s));
        let mut want = vec![];
        for (r, x) in x.exact().chunks(v).enumerate() {
            let q = |i: usize| if i as u32 == t[r] { 1.0 - f64::from(s) } else { 0.0 } + f64::from(s) / v as f64;
            let g = |i: usize| ((x[i] - lse[r]).exp() - q(i)) * 1024.0 / 4.0;
            want.extend((0..v).map(|i| if t[r] == IGNORE_INDEX { 0.0 } else { g(i) }));
        }
        assert_close(dtype, &backward(&x, &t, v, s, &run, loss_scale, dtype), &want, 3e-6, "dlogits");
    }
}

#[test]
fn probabilities_are_exact_however_large_the_logits() {
    let v = 8;
    for logit in [-3e38f32, -1e5, 1e5, 3e38] {
        let x = Stored::of(DType::F32, &vec![logit; v]);
        let run = forward(&x, &[3], v, 0.0);
        assert_close(DType::F32, &run.loss, &[8f64.ln()], 1e-6, "loss");
        let mut want = vec![0.125; v];
        want[3] -= 1.0;
        assert_close(DType::F32, &backward(&x, &[3], v, 0.0, &run, 1.0, DType::F32), &want, 1e-6, "dlogits");
    }
}

#[test]
fn bad_targets_and_values_stay_in_their_row() {
    let v = 5;
    let x = Stored::of(DType::F32, &normal(4 * v, 4));
    let t = [0, v as u32, (-1i32) as u32, IGNORE_INDEX];
    let run = forward(&x, &t, v, 0.0);
    assert!(run.loss[0].is_finite() && run.loss[1].is_nan() && run.loss[2].is_nan() && run.loss[3] == 0.0);
    assert!(run.mean.is_nan() && run.count == 3 && run.stats.iter().all(|s| s.is_finite()));
    let dx = backward(&x, &t, v, 0.0, &run, 1.0, DType::F32);
    assert!(dx[..v].iter().all(|d| d.is_finite()));
    assert!(dx[v..3 * v].iter().all(|d| d.is_nan()));
    assert!(dx[3 * v..].iter().all(|&d| d == 0.0));

    let all_ignored = forward(&x, &[IGNORE_INDEX; 4], v, 0.0);
    assert!(all_ignored.mean.is_nan() && all_ignored.count == 0);
    assert!(backward(&x, &[IGNORE_INDEX; 4], v, 0.0, &all_ignored, 1.0, DType::F32).iter().all(|&d| d == 0.0));
}

#[test]
fn infinite_logits_and_late_maxima() {
    let (v, inf) = (3000, f32::INFINITY);
    let mut x = vec![-inf; 3 * v];
    x[2999] = 5.0; // row 0: everything but the last block is -inf
    x[v + 2000] = f32::NAN; // row 1: one NaN in the second block
    x[v] = 1.0;
    x[2 * v + 1] = inf; // row 2: +inf
    let run = forward(&Stored::of(DType::F32, &x), &[2999, 0, 0], v, 0.0);
    assert_eq!((run.loss[0], &run.stats[..2]), (0.0, &[5.0, 1.0][..]));
    assert!(run.loss[1].is_nan() && run.loss[2].is_nan(), "{:?}", run.loss);
    let all_low = forward(&Stored::of(DType::F32, &vec![-inf; v]), &[0], v, 0.0);
    assert!(all_low.loss[0].is_nan());
    // Ascending blocks: the sum is rescaled at each.
    let x: Vec<f32> = (0..v).map(|i| i as f32 * 0.05).collect();
    let x = Stored::of(DType::F32, &x);
    let run = forward(&x, &[7], v, 0.0);
    assert_close(DType::F32, &run.loss, &exact_loss(&x.exact(), v, &[7], 0.0).0, 1e-6, "loss");
}

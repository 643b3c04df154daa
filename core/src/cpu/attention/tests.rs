//! Attention forward against a plain f64 loop, and the same bits for any number of threads.

use super::*;
use crate::cpu::attention_backward::{attention_backward, attention_backward_work_len};
use crate::dtype::DType;

/// A case with its inputs as f32 that the dtype holds exactly, and what the kernels made of them.
pub(in crate::cpu) struct Run {
    pub(in crate::cpu) args: AttentionArgs,
    pub(in crate::cpu) qkv: Vec<f32>,
    pub(in crate::cpu) dy: Vec<f32>,
    pub(in crate::cpu) y: Vec<f32>,
    pub(in crate::cpu) stats: Vec<f32>,
    pub(in crate::cpu) dqkv: Vec<f32>,
}

pub(in crate::cpu) fn args(batch: usize, t: usize, heads: usize, kv_heads: usize, head_size: usize) -> AttentionArgs {
    let scale = 1.0 / (head_size as f32).sqrt();
    AttentionArgs { batch, t, heads, kv_heads, head_size, causal: true, scale, dropout: None }
}

pub(in crate::cpu) fn dropout(p: f64) -> Option<Dropout> {
    let threshold = (p * 4_294_967_296.0) as u32;
    Some(Dropout { threshold, scale: (1.0 / (1.0 - p)) as f32, seed: 11, stream: 3, step: 5 })
}

impl Run {
    /// `log sum exp` of the scores, from what the forward leaves.
    fn lse(&self) -> Vec<f32> {
        self.stats.chunks(2).map(|s| s[0] - s[1].ln()).collect()
    }
}

/// Random values on the grid of `dtype`.
pub(in crate::cpu) fn values(n: usize, dtype: DType, seed: u64) -> Vec<f32> {
    let mut rng = crate::rng::Rng::new(seed, 0);
    (0..n).map(|_| crate::float::round_to(dtype, rng.normal())).collect()
}

fn encoded(x: &[f32], dtype: DType) -> Vec<u32> {
    let mut words = vec![0u32; x.len()];
    let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..x.len() * dtype.size_bytes()];
    ViewMut::new(dtype, bytes).store(0, x);
    words
}

pub(in crate::cpu) fn run(args: AttentionArgs, dtype: DType, qkv: Vec<f32>) -> Run {
    let n = args.batch * args.t * args.width();
    let size = dtype.size_bytes();
    let dy = values(n, dtype, 2);
    let (qkv_words, dy_words) = (encoded(&qkv, dtype), encoded(&dy, dtype));
    let packed: &[u8] = &bytemuck::cast_slice(&qkv_words)[..qkv.len() * size];
    let dy_bytes: &[u8] = &bytemuck::cast_slice(&dy_words)[..n * size];
    let (mut y_words, mut dqkv_words) = (vec![0u32; n], vec![0u32; qkv.len()]);
    let mut stats = vec![f32::NAN; 2 * args.batch * args.heads * args.t];
    let y_bytes = &mut bytemuck::cast_slice_mut(&mut y_words)[..n * size];
    let mut work = vec![f32::NAN; attention_work_len(&args)];
    attention(View::new(dtype, packed), ViewMut::new(dtype, y_bytes), &mut stats, &args, &mut work);
    let dqkv_bytes = &mut bytemuck::cast_slice_mut(&mut dqkv_words)[..qkv.len() * size];
    let mut work = vec![f32::NAN; attention_backward_work_len(&args)];
    let (packed, y_view, dy_view) = (View::new(dtype, packed), View::new(dtype, y_bytes), View::new(dtype, dy_bytes));
    attention_backward(packed, y_view, &stats, dy_view, ViewMut::new(dtype, dqkv_bytes), &args, &mut work);
    let (mut y, mut dqkv) = (vec![0.0; n], vec![0.0; qkv.len()]);
    View::new(dtype, y_bytes).decode_into(&mut y);
    View::new(dtype, dqkv_bytes).decode_into(&mut dqkv);
    Run { args, qkv, dy, y, stats, dqkv }
}

/// The whole thing in f64: `y` and `log sum exp` of the scores.
pub(in crate::cpu) fn exact(a: &AttentionArgs, qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (hs, width) = (a.head_size, a.packed_width());
    let (mut y, mut lse) = (vec![0.0; a.batch * a.t * a.width()], vec![0.0; a.batch * a.heads * a.t]);
    for b in 0..a.batch {
        for h in 0..a.heads {
            let kv = h * a.kv_heads / a.heads;
            let row = |i: usize, slot: usize| &qkv[(b * a.t + i) * width + slot * hs..][..hs];
            for i in 0..a.t {
                let keys = if a.causal { i + 1 } else { a.t };
                let score = |j| {
                    let dot: f64 = row(i, h).iter().zip(row(j, a.heads + kv)).map(|(q, k)| q * k).sum();
                    dot * f64::from(a.scale)
                };
                let s: Vec<f64> = (0..keys).map(score).collect();
                let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = s.iter().map(|s| (s - max).exp()).sum();
                lse[(b * a.heads + h) * a.t + i] = max + sum.ln();
                for (j, s) in s.iter().enumerate() {
                    let mut p = (s - max).exp() / sum;
                    if let Some(d) = &a.dropout {
                        let index = (((b * a.heads + h) * a.t + i) * a.t + j) as u32;
                        let kept = rng::bits(d.seed, d.stream, d.step, index) >= d.threshold;
                        p *= if kept { f64::from(d.scale) } else { 0.0 };
                    }
                    for c in 0..hs {
                        y[(b * a.t + i) * a.width() + h * hs + c] += p * row(j, a.heads + a.kv_heads + kv)[c];
                    }
                }
            }
        }
    }
    (y, lse)
}

/// `err <= tol` for every element: a few ulps of the f32 work relative to the largest value, one rounding on store.
pub(in crate::cpu) fn assert_close(got: &[f32], want: &[f64], dtype: DType, relative: f64, what: &str) {
    let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    let format = dtype.format().expect("a float");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let tol = relative * largest + dtype.unit_roundoff() * want.abs() * 1.01 + format.min_subnormal / 2.0;
        let err = (f64::from(got) - want).abs();
        assert!(err <= tol, "{what} [{i}]: {got} for {want}, tol {tol:e}");
    }
}

fn check(args: AttentionArgs, dtype: DType) {
    let r = run(args, dtype, values(args.batch * args.t * args.packed_width(), dtype, 1));
    let wide: Vec<f64> = r.qkv.iter().map(|&x| f64::from(x)).collect();
    let (y, lse) = exact(&r.args, &wide);
    assert_close(&r.y, &y, dtype, 2e-6, &format!("y {args:?} {dtype}"));
    assert_close(&r.lse(), &lse, DType::F32, 2e-6, &format!("lse {args:?} {dtype}"));
}

#[test]
fn agrees_with_f64_at_awkward_sizes() {
    for t in [1, 3, 7, 32, 64, 65, 130, 257] {
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
    // More sequences than run side by side.
    check(args(20, 5, 2, 1, 8), DType::F32);
}

#[test]
fn large_scores_do_not_overflow() {
    let args = args(1, 70, 1, 1, 8);
    let qkv: Vec<f32> = values(args.t * args.packed_width(), DType::F32, 1).iter().map(|x| x * 30.0).collect();
    let wide: Vec<f64> = qkv.iter().map(|&x| f64::from(x)).collect();
    let r = run(args, DType::F32, qkv);
    let (y, lse) = exact(&args, &wide);
    // Scores near 2500 carry an f32 error of 1e-4 into the exponent.
    assert_close(&r.y, &y, DType::F32, 1e-3, "y");
    assert_close(&r.lse(), &lse, DType::F32, 1e-6, "lse");
}

/// One head of 8, 200 positions, scale 1: scores are `q low` for the keys of the first tile and `q high` for the
/// others, whose values are 100 and `i % 4`.
pub(in crate::cpu) fn two_levels(causal: bool, q: f32, low: f32, high: f32) -> Run {
    let a = AttentionArgs { causal, scale: 1.0, ..args(1, 200, 1, 1, 8) };
    let mut qkv = vec![0.0; a.t * a.packed_width()];
    for (i, row) in qkv.chunks_mut(a.packed_width()).enumerate() {
        (row[0], row[8]) = (q, if i < TILE { low } else { high });
        row[16..].fill(if i < TILE { 100.0 } else { (i % 4) as f32 });
    }
    run(a, DType::F32, qkv)
}

#[test]
fn a_tile_of_scores_of_minus_infinity_weighs_nothing() {
    let r = two_levels(false, 1e20, -1e20, 0.0);
    assert!(r.y.iter().all(|y| (y - 1.5).abs() <= 1e-5), "{:?}", &r.y[..8]);
    assert!(r.lse().iter().all(|lse| (f64::from(*lse) - 136f64.ln()).abs() <= 1e-6), "{:?}", &r.lse()[..8]);
    let r = two_levels(true, 1e20, -1e20, 0.0);
    for (i, y) in r.y.chunks(8).enumerate() {
        // Rows of the first tile see such scores only: there is nothing to weigh.
        let seen = (TILE..=i).map(|j| (j % 4) as f32).sum::<f32>() / (i + 1).saturating_sub(TILE) as f32;
        assert!(y.iter().all(|y| if i < TILE { y.is_nan() } else { (y - seen).abs() <= 1e-5 }), "row {i}: {y:?} for {seen}");
        assert_eq!(r.stats[2 * i + 1].is_nan(), i < TILE, "row {i}");
    }
    let all = two_levels(false, 1e20, -1e20, -1e20);
    assert!(all.y.iter().chain(&all.dqkv).all(|y| y.is_nan()));
}

#[test]
fn a_nan_reaches_the_rows_that_see_it_only() {
    let args = args(1, 130, 2, 2, 8);
    let mut qkv = values(args.t * args.packed_width(), DType::F32, 1);
    // A key of head 0 at position 70: queries from there on see it; earlier tiles do not.
    qkv[70 * args.packed_width() + 2 * 8 + 3] = f32::NAN;
    let r = run(args, DType::F32, qkv);
    for i in 0..args.t {
        let row = &r.y[i * args.width()..][..args.width()];
        assert_eq!(row[..8].iter().all(|y| y.is_nan()), i >= 70, "row {i}");
        assert!(row[8..].iter().all(|y| y.is_finite()), "the other head, row {i}");
        assert_eq!(r.stats[2 * i + 1].is_nan(), i >= 70, "stats {i}");
    }
}

#[test]
#[cfg(feature = "threads")]
fn bits_do_not_depend_on_the_number_of_threads() {
    let args = AttentionArgs { dropout: dropout(0.1), ..args(3, 70, 4, 2, 16) };
    let qkv = values(args.batch * args.t * args.packed_width(), DType::Bf16, 1);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool");
        let r = pool.install(|| run(args, DType::Bf16, qkv.clone()));
        [r.y, r.stats, r.dqkv].concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(3));
}

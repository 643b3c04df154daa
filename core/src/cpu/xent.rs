//! Softmax cross entropy, fused: logits and targets to per-row loss and its mean, and back to the logits.
//!
//! `loss = lse - x[t]`, with smoothing `s`: `(1 - s) (lse - x[t]) + s (lse - mean x)`, where `lse = ln sum e^x`. One
//! pass over the logits keeps a running maximum and rescales the sum when it grows (Milakov and Gimelshein, arXiv
//! 1805.02867), so no probabilities and no scratch are needed. The backward takes `softmax(x) = e^(x - m) / l` from the
//! maximum `m` and the inverse of `l = sum e^(x - m)`, not from `lse = m + ln l`, which rounds `ln l` away where logits
//! are large. Targets are u32 or i32 words; [`IGNORE_INDEX`] (-100, as in PyTorch) drops a row from loss, mean and
//! gradient. Any other target outside `0..V` makes the row's loss, and so the mean and the row's gradient, NaN.
//! Arithmetic is f32; the mean adds the rows in order in f64 and is rounded once.

use super::{lanes, rows};
use crate::float::math;
use crate::float::view::{View, ViewMut};
use crate::op::loss::IGNORE_INDEX;
use crate::par::{self, simd};

/// Logits that are decoded and reduced at a time; they stay in the first-level cache.
const BLOCK: usize = 1024;

/// Forward. `logits: [n, v]` of any float dtype, `targets: [n]` u32 or i32, `loss: [n]` (0 where ignored),
/// `stats: [n, 2]`, of each row its largest logit `m` and `1 / sum e^(x - m)`.
/// Returns the mean loss over the rows that are not ignored (NaN when there are none, as in PyTorch) and their number.
pub fn xent(
    logits: View<'_>,
    targets: View<'_>,
    [n, v]: [usize; 2],
    smoothing: f32,
    loss: &mut [f32],
    stats: &mut [f32],
) -> (f32, u32) {
    debug_assert!(logits.len() == n * v && loss.len() == n && stats.len() == 2 * n);
    let targets = targets.u32s();
    debug_assert_eq!(targets.len(), n);
    let task = rows::per_task(n, v);
    par::chunks2((&mut *loss, task), (stats, 2 * task), |i, loss, stats| {
        let (stats, _) = stats.as_chunks_mut::<2>();
        let mut block = [0.0f32; BLOCK];
        for r in 0..loss.len() {
            let row = i * task + r;
            let own = row_stats(logits.part(row * v..(row + 1) * v), smoothing != 0.0, &mut block);
            let ln_sum = math::ln(own.sum);
            stats[r] = [own.max, 1.0 / own.sum];
            let t = targets[row];
            loss[r] = if t == IGNORE_INDEX {
                0.0
            } else if t as usize >= v {
                f32::NAN
            } else {
                // ln_sum - (x - max) rather than lse - x: no cancellation against a large max.
                let nll = ln_sum - (element(logits, row * v + t as usize) - own.max);
                if smoothing == 0.0 { nll } else { (1.0 - smoothing) * nll + smoothing * (ln_sum - own.sum_shifted / v as f32) }
            };
        }
    });
    let count = targets.iter().filter(|&&t| t != IGNORE_INDEX).count();
    let sum: f64 = loss.iter().map(|&l| f64::from(l)).sum();
    ((sum / count as f64) as f32, count as u32)
}

/// Backward. `dlogits = (softmax(logits) - q) * dloss / count` with `q = (1 - s) onehot(t) + s / V`; 0 in ignored rows.
/// `logits, dlogits: [n, v]` of any float dtype, `stats: [n, 2]` and `count` from the forward, `dloss: []` f32, the
/// gradient of the mean loss (in mixed precision: the loss scale).
pub fn xent_backward(
    logits: View<'_>,
    targets: View<'_>,
    [n, v]: [usize; 2],
    smoothing: f32,
    stats: &[f32],
    dloss: View<'_>,
    count: u32,
    dlogits: ViewMut<'_>,
) {
    debug_assert!(logits.len() == n * v && dlogits.len() == n * v && stats.len() == 2 * n);
    if n * v == 0 {
        return;
    }
    let (targets, scale, off) = (targets.u32s(), dloss.f32s()[0] / count as f32, smoothing / v as f32);
    let (task, dtype, stats) = (rows::per_task(n, v), dlogits.dtype, stats.as_chunks().0);
    par::chunks(dlogits.bytes, task * v * dtype.size_bytes(), |i, dx| {
        let mut dx = ViewMut::new(dtype, dx);
        let (mut x_block, mut dx_block) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
        for r in 0..dx.len() / v {
            let row = i * task + r;
            let (t, [max, inverse]) = (targets[row], stats[row]);
            let ignored = t == IGNORE_INDEX;
            let scale = if ignored || (t as usize) < v { scale } else { f32::NAN };
            for from in (0..v).step_by(BLOCK) {
                let to = (from + BLOCK).min(v);
                let x = logits.load(row * v + from..row * v + to, &mut x_block);
                rows::write(&mut dx, r * v + from..r * v + to, &mut dx_block, |dx| {
                    if ignored {
                        dx.fill(0.0);
                        return;
                    }
                    simd::vectorize(
                        #[inline(always)]
                        || {
                            for (dx, &x) in dx.iter_mut().zip(x) {
                                *dx = (math::exp(x - max) * inverse - off) * scale;
                            }
                        },
                    );
                    let hit = (t as usize).wrapping_sub(from);
                    if hit < dx.len() {
                        dx[hit] = (math::exp(x[hit] - max) * inverse - ((1.0 - smoothing) + off)) * scale;
                    }
                });
            }
        }
    });
}

/// What one pass over a row of logits finds.
struct RowStats {
    /// Largest logit that is not NaN, but at least the lowest finite value: a logit of -inf weighs nothing.
    max: f32,
    /// `sum e^(x - max)`.
    sum: f32,
    /// `sum (x - max)`; 0 unless asked for.
    sum_shifted: f32,
}

fn row_stats(x: View<'_>, shifted: bool, block: &mut [f32; BLOCK]) -> RowStats {
    let (mut max, mut sum, mut sum_shifted) = (f32::MIN, 0.0f32, 0.0f32);
    let v = x.len();
    for from in (0..v).step_by(BLOCK) {
        let x = x.load(from..(from + BLOCK).min(v), block);
        simd::vectorize(
            #[inline(always)]
            || {
                let found = lanes::max_skip_nan(x);
                let grown = if found > max { found } else { max };
                let part = lanes::sum(
                    x,
                    #[inline(always)]
                    |x| math::exp(x - grown),
                );
                sum = sum * math::exp(max - grown) + part;
                if shifted {
                    let part = lanes::sum(
                        x,
                        #[inline(always)]
                        |x| x - grown,
                    );
                    let moved = if from == 0 { 0.0 } else { (max - grown) * from as f32 };
                    sum_shifted = sum_shifted + moved + part;
                }
                max = grown;
            },
        );
    }
    RowStats { max, sum, sum_shifted }
}

/// One element as f32.
fn element(x: View<'_>, i: usize) -> f32 {
    let mut one = [0.0f32];
    x.load(i..i + 1, &mut one)[0]
}

#[cfg(test)]
mod tests;

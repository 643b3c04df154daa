//! `Attention`, backward: `dqkv` from `qkv`, `y`, `stats` and `dy`, in the tiles of the forward pass.
//!
//! One task owns a key and value head of one sequence and all query heads that read it, so `dk` and `dv` are summed
//! inside the task, in order: same bits every run, no atomics. Probabilities are recomputed from the maximum `m` and
//! the inverse sum of the forward; scores have the bits that they had there, so no probability exceeds 1 however large
//! they are. Arithmetic is f32.
//!
//! Pseudo-code, for each pair of tiles the mask leaves, with `delta_i = sum dy_i y_i`:
//! `p = exp(scale q k^T - m) / l; dp = dropout(dy v^T); ds = scale p (dp - delta)`
//! `dv += dropout(p)^T dy; dk += ds^T q; dq += ds k`
//!
//! Source: Dao, "FlashAttention-2" (arXiv 2307.08691), algorithm 2.

use super::attention::{AttentionArgs, Head, TILE, apply, gather, product, scatter, scores, transpose, visible};
use super::micro::Left;
use crate::float::math;
use crate::float::view::{View, ViewMut};
use crate::par;
use pulp::{Simd, WithSimd};

/// `qkv` and `dqkv: [B, T, (H + 2 KV) HS]`, `y` and `dy: [B, T, H HS]`, any float dtypes; `stats: [B, H, T, 2]`.
/// `work` has [`attention_backward_work_len`] elements.
pub fn attention_backward(
    qkv: View<'_>,
    y: View<'_>,
    stats: &[f32],
    dy: View<'_>,
    dqkv: ViewMut<'_>,
    args: &AttentionArgs,
    work: &mut [f32],
) {
    let AttentionArgs { t, heads, kv_heads, .. } = *args;
    debug_assert_eq!(qkv.len(), args.batch * t * args.packed_width());
    debug_assert_eq!(dqkv.len(), qkv.len());
    debug_assert_eq!((y.len(), dy.len()), (args.batch * t * args.width(), y.len()));
    debug_assert_eq!(stats.len(), 2 * args.batch * heads * t);
    debug_assert!(work.len() >= attention_backward_work_len(args));
    if dqkv.is_empty() {
        return;
    }
    let (part, group) = (part_len(args), args.batches_at_once(kv_heads));
    let (dtype, row_bytes) = (dqkv.dtype, args.packed_width() * dqkv.dtype.size_bytes());
    for (g, dqkv) in dqkv.bytes.chunks_mut(group * t * row_bytes).enumerate() {
        let tasks = dqkv.len() / (t * row_bytes) * kv_heads;
        let work = &mut work[..tasks * part];
        par::chunks(work, part, |i, work| {
            let (b, kv) = (g * group + i / kv_heads, i % kv_heads);
            kv_head(qkv, y, stats, dy, args, (b, kv), work);
        });
        let work = &*work;
        let per_kv = heads / kv_heads;
        scatter(ViewMut::new(dtype, dqkv), args.packed_width(), args, |row, slot| {
            // Gradients of a task: its query heads, then dk, then dv.
            let (kv, i) = if slot < heads {
                (slot / per_kv, slot % per_kv)
            } else {
                ((slot - heads) % kv_heads, per_kv + (slot - heads) / kv_heads)
            };
            &work[(row / t * kv_heads + kv) * part + (i * t + row % t) * args.padded()..]
        });
    }
}

/// f32 elements of scratch that [`attention_backward`] needs.
pub fn attention_backward_work_len(args: &AttentionArgs) -> usize {
    args.batches_at_once(args.kv_heads) * args.kv_heads * part_len(args)
}

/// dq of each query head, dk, dv; k, q, dy; k and v transposed; delta.
fn part_len(args: &AttentionArgs) -> usize {
    (args.heads / args.kv_heads + 5) * args.t * args.padded() + 2 * args.transposed_len() + args.t
}

/// Leaves `dq` of each query head, `dk` and `dv` at the start of `work`, each `[T, padded]`.
fn kv_head(
    qkv: View<'_>,
    y: View<'_>,
    stats: &[f32],
    dy: View<'_>,
    a: &AttentionArgs,
    (b, kv): (usize, usize),
    work: &mut [f32],
) {
    let per_kv = a.heads / a.kv_heads;
    let len = a.t * a.padded();
    let (dq_all, work) = work.split_at_mut(per_kv * len);
    let (dk, work) = work.split_at_mut(len);
    let (dv, work) = work.split_at_mut(len);
    let (k, work) = work.split_at_mut(len);
    let (q, work) = work.split_at_mut(len);
    let (dyh, work) = work.split_at_mut(len);
    let (kt, work) = work.split_at_mut(a.transposed_len());
    let (vt, delta) = work.split_at_mut(a.transposed_len());
    gather(qkv, a.packed_width(), b, a.heads + a.kv_heads + kv, a, k);
    transpose(k, a, vt);
    gather(qkv, a.packed_width(), b, a.heads + kv, a, k);
    transpose(k, a, kt);
    dk.fill(0.0);
    dv.fill(0.0);
    for (i, dq) in dq_all.chunks_exact_mut(len).enumerate() {
        let h = kv * per_kv + i;
        // `dq` lends its place to y until its own sums start.
        gather(y, a.width(), b, h, a, dq);
        gather(dy, a.width(), b, h, a, dyh);
        gather(qkv, a.packed_width(), b, h, a, q);
        let stats = &stats.as_chunks().0[(b * a.heads + h) * a.t..][..a.t];
        let head = Head { args: a, b, h };
        pulp::Arch::new().dispatch(Backward { head, dq, dk, dv, k, q, dy: dyh, kt, vt, delta, stats });
    }
}

struct Backward<'a> {
    head: Head<'a>,
    /// Holds y at first.
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    k: &'a [f32],
    q: &'a [f32],
    dy: &'a [f32],
    kt: &'a [f32],
    vt: &'a [f32],
    delta: &'a mut [f32],
    stats: &'a [[f32; 2]],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Backward { head, dq, dk, dv, k, q, dy, kt, vt, delta, stats } = self;
        let a = head.args;
        let width = a.padded();
        for ((d, y), dy) in delta.iter_mut().zip(dq.chunks_exact(width)).zip(dy.chunks_exact(width)) {
            *d = dot(y, dy);
        }
        dq.fill(0.0);
        let (mut p, mut ds, mut keep) = ([0.0; TILE * TILE], [0.0; TILE * TILE], [0.0; TILE]);
        for j0 in (0..a.t).step_by(TILE) {
            let columns = TILE.min(a.t - j0);
            let first = if a.causal { j0 } else { 0 };
            for i0 in (first..a.t).step_by(TILE) {
                let rows = TILE.min(a.t - i0);
                let at = i0 * width..(i0 + rows) * width;
                scores(simd, &mut p, &q[at.clone()], kt, a, (rows, j0, columns), a.scale);
                scores(simd, &mut ds, &dy[at.clone()], vt, a, (rows, j0, columns), 1.0);
                for r in 0..rows {
                    let (p, ds) = (&mut p[r * TILE..][..TILE], &mut ds[r * TILE..][..TILE]);
                    let ([max, inverse], delta) = (stats[i0 + r], delta[i0 + r]);
                    p.iter_mut().for_each(|p| *p = math::exp(*p - max) * inverse);
                    let seen = visible(a, i0 + r, j0, columns);
                    p[seen..].fill(0.0);
                    if let Some(dropout) = &a.dropout {
                        head.keep(dropout, i0 + r, j0, &mut keep);
                        apply(&keep, ds);
                    }
                    ds.iter_mut().zip(&*p).for_each(|(ds, p)| *ds = a.scale * *p * (*ds - delta));
                    ds[seen..].fill(0.0);
                    if a.dropout.is_some() {
                        apply(&keep, p);
                    }
                }
                let (dk, dv) = (&mut dk[j0 * width..], &mut dv[j0 * width..]);
                let transposed = |x| Left { x, ld: TILE, trans: true };
                product(simd, dv, width, (columns, rows), transposed(&p), &dy[at.clone()]);
                product(simd, dk, width, (columns, rows), transposed(&ds), &q[at.clone()]);
                let ds = Left { x: &ds, ld: TILE, trans: false };
                product(simd, &mut dq[at], width, (rows, columns), ds, &k[j0 * width..]);
            }
        }
    }
}

/// `sum x y`, in 16 lanes whatever the machine. The length is a multiple of 32.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    for (x, y) in x.chunks_exact(16).zip(y.chunks_exact(16)) {
        for ((s, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    lanes.into_iter().sum()
}

#[cfg(test)]
mod tests;

//! `Attention`, forward: `y = dropout(softmax(mask(scale q k^T))) v` over a packed projection, in tiles.
//!
//! For one head, a tile of 64 queries meets the keys 64 at a time: scores, running row maximum and sum, and the
//! weighted values are all that exists at any moment. `stats[b, h, t] = [m, 1 / l]`, maximum and inverse sum, are kept
//! for the backward pass, which recomputes the probabilities. Not their logarithm `m + log l`: at large scores it
//! rounds `l` away. Key tiles that the causal mask hides are never touched. Arithmetic is f32, the result is rounded
//! once. A head is one task and nothing is summed across tasks, so bits do not depend on threads.
//!
//! A score of -inf (its product overflowed) weighs nothing; the maximum starts at the lowest finite value, so it never
//! is -inf itself. Scores of -inf only leave nothing to weigh: `y` is NaN, as is all that a score of NaN or +inf
//! belongs to. `softmax` and PyTorch's do the same.
//!
//! Pseudo-code of one query tile:
//! `for key tile { s = scale q k^T; m' = max(m, rowmax s); p = exp(s - m'); l = l exp(m - m') + rowsum p;`
//! `o = o exp(m - m') + dropout(p) v } y = o / l; stats = [m, 1 / l]`
//!
//! Source: Dao, "FlashAttention-2" (arXiv 2307.08691), algorithm 1; grouped queries after Ainslie et al. (arXiv
//! 2305.13245).

use super::micro::{self, Finish, Left, NR, Right};
use crate::float::math;
use crate::float::view::{View, ViewMut};
use crate::par;
use crate::rng;
use pulp::{Simd, WithSimd};

/// Queries and keys of a tile.
pub(super) const TILE: usize = 64;

/// Sizes and modes of an attention. A packed row is `heads` query heads, then `kv_heads` key heads, then as many value
/// heads, of `head_size` each; query head `h` reads key and value head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionArgs {
    /// Sequences.
    pub batch: usize,
    /// Positions of a sequence.
    pub t: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_size: usize,
    /// Position `i` sees positions `0..=i` only.
    pub causal: bool,
    /// Factor on the scores, usually `1 / sqrt(head_size)`.
    pub scale: f32,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

/// Inverted dropout. The probability of query `i` for key `j` in head `h` of sequence `b` is dropped where
/// `rng::bits(seed, stream, step, ((b * heads + h) * t + i) * t + j)` is below `threshold`; the index wraps at 2^32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Words below this are dropped: `p * 2^32`.
    pub threshold: u32,
    /// `1 / (1 - p)`.
    pub scale: f32,
    /// Seed of the run.
    pub seed: u32,
    /// Place in the model.
    pub stream: u32,
    /// Micro-step.
    pub step: u32,
}

/// `qkv: [B, T, (H + 2 KV) HS]` and `y: [B, T, H HS]`, any float dtypes; `stats: [B, H, T, 2]`.
/// `work` has [`attention_work_len`] elements.
pub fn attention(qkv: View<'_>, y: ViewMut<'_>, stats: &mut [f32], args: &AttentionArgs, work: &mut [f32]) {
    let AttentionArgs { batch, t, heads, .. } = *args;
    debug_assert_eq!(qkv.len(), batch * t * args.packed_width());
    debug_assert_eq!(y.len(), batch * t * args.width());
    debug_assert_eq!(stats.len(), 2 * batch * heads * t);
    debug_assert!(work.len() >= attention_work_len(args));
    if y.is_empty() {
        return;
    }
    let (part, group) = (forward_part_len(args), args.batches_at_once(heads));
    let (dtype, row_bytes) = (y.dtype, args.width() * y.dtype.size_bytes());
    for (g, y) in y.bytes.chunks_mut(group * t * row_bytes).enumerate() {
        let b0 = g * group;
        let tasks = y.len() / (t * row_bytes) * heads;
        let work = &mut work[..tasks * part];
        let stats = &mut stats[2 * b0 * heads * t..][..2 * tasks * t];
        par::chunks2((work, part), (stats, 2 * t), |i, work, stats| {
            let head = Head { args, b: b0 + i / heads, h: i % heads };
            head.forward(qkv, work, stats.as_chunks_mut().0);
        });
        let work = &*work;
        scatter(ViewMut::new(dtype, y), args.width(), args, |row, slot| {
            &work[(row / t * heads + slot) * part + row % t * args.padded()..]
        });
    }
}

/// f32 elements of scratch that [`attention`] needs.
pub fn attention_work_len(args: &AttentionArgs) -> usize {
    args.batches_at_once(args.heads) * args.heads * forward_part_len(args)
}

fn forward_part_len(args: &AttentionArgs) -> usize {
    3 * args.t * args.padded() + args.transposed_len()
}

impl AttentionArgs {
    /// Elements of a row of the packed projection.
    pub(super) fn packed_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_size
    }

    /// Elements of a row of the output.
    pub(super) fn width(&self) -> usize {
        self.heads * self.head_size
    }

    /// Elements of a head in scratch: whole panels.
    pub(super) fn padded(&self) -> usize {
        self.head_size.next_multiple_of(NR)
    }

    /// Elements of a head's transpose in scratch.
    pub(super) fn transposed_len(&self) -> usize {
        self.t.next_multiple_of(NR) * self.head_size
    }

    /// Sequences whose tasks run side by side, so that scratch stays bounded: at least 32 tasks.
    pub(super) fn batches_at_once(&self, tasks_per_sequence: usize) -> usize {
        32usize.div_ceil(tasks_per_sequence.max(1)).min(self.batch)
    }

    /// Keys that the queries before `end` see.
    pub(super) fn keys_before(&self, end: usize) -> usize {
        if self.causal { end.min(self.t) } else { self.t }
    }
}

/// One query head of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) args: &'a AttentionArgs,
    pub(super) b: usize,
    pub(super) h: usize,
}

impl Head<'_> {
    /// Leaves `y` of this head at the start of `work`, `[T, padded]`.
    fn forward(&self, qkv: View<'_>, work: &mut [f32], stats: &mut [[f32; 2]]) {
        let a = self.args;
        let len = a.t * a.padded();
        let (o, work) = work.split_at_mut(len);
        let (q, work) = work.split_at_mut(len);
        let (v, kt) = work.split_at_mut(len);
        let kv = self.h / (a.heads / a.kv_heads);
        gather(qkv, a.packed_width(), self.b, self.h, a, q);
        // `o` is free until the products start: it lends its place to the keys.
        gather(qkv, a.packed_width(), self.b, a.heads + kv, a, o);
        transpose(o, a, kt);
        gather(qkv, a.packed_width(), self.b, a.heads + a.kv_heads + kv, a, v);
        pulp::Arch::new().dispatch(Forward { head: *self, o, q, v, kt, stats });
    }

    /// `keep[j]` is the factor, 0 or the dropout scale, of query `i` and key `j0 + j`.
    #[inline(always)]
    pub(super) fn keep(&self, dropout: &Dropout, i: usize, j0: usize, keep: &mut [f32; TILE]) {
        let Dropout { threshold, scale, seed, stream, step } = *dropout;
        let a = self.args;
        let first = (((self.b * a.heads + self.h) * a.t + i) * a.t + j0) as u32;
        // Two neighbours share a block of the generator; the row may start at the second of a pair.
        let mut words = [[0; 2]; TILE / 2 + 1];
        for (pair, words) in words.iter_mut().enumerate() {
            let index = (first & !1).wrapping_add(2 * pair as u32);
            *words = rng::threefry2x32([seed, stream], [index >> 1, step]);
        }
        let words = &words.as_flattened()[(first & 1) as usize..];
        for (keep, &word) in keep.iter_mut().zip(words) {
            *keep = if word >= threshold { scale } else { 0.0 };
        }
    }
}

/// `x *= keep`, where dropping also drops NaN and infinity.
#[inline(always)]
pub(super) fn apply(keep: &[f32; TILE], x: &mut [f32]) {
    for (x, &keep) in x.iter_mut().zip(keep) {
        *x = if keep == 0.0 { 0.0 } else { *x * keep };
    }
}

struct Forward<'a> {
    head: Head<'a>,
    o: &'a mut [f32],
    q: &'a [f32],
    v: &'a [f32],
    kt: &'a [f32],
    stats: &'a mut [[f32; 2]],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Forward { head, o, q, v, kt, stats } = self;
        let a = head.args;
        let width = a.padded();
        let (mut s, mut keep) = ([0.0; TILE * TILE], [0.0; TILE]);
        for i0 in (0..a.t).step_by(TILE) {
            let rows = TILE.min(a.t - i0);
            let (o, q) = (&mut o[i0 * width..][..rows * width], &q[i0 * width..][..rows * width]);
            o.fill(0.0);
            let (mut max, mut sum) = ([f32::MIN; TILE], [0.0f32; TILE]);
            let keys = a.keys_before(i0 + rows);
            for j0 in (0..keys).step_by(TILE) {
                let columns = TILE.min(keys - j0);
                scores(simd, &mut s, q, kt, a, (rows, j0, columns), a.scale);
                for r in 0..rows {
                    let row = &mut s[r * TILE..][..TILE];
                    // Hidden entries repeat a visible score: they change no maximum and stay off the slow subnormal
                    // path of `exp`; then they are cleared.
                    let seen = visible(a, i0 + r, j0, columns);
                    let shown = row[0];
                    row[seen..].fill(shown);
                    let new_max = max_of(row).max(max[r]);
                    row.iter_mut().for_each(|s| *s = math::exp(*s - new_max));
                    row[seen..].fill(0.0);
                    let shrink = if j0 == 0 { 0.0 } else { math::exp(max[r] - new_max) };
                    sum[r] = sum[r] * shrink + sum_of(row);
                    max[r] = new_max;
                    o[r * width..][..width].iter_mut().for_each(|o| *o *= shrink);
                    if let Some(dropout) = &a.dropout {
                        head.keep(dropout, i0 + r, j0, &mut keep);
                        apply(&keep, row);
                    }
                }
                let p = Left { x: &s, ld: TILE, trans: false };
                product(simd, o, width, (rows, columns), p, &v[j0 * width..]);
            }
            for r in 0..rows {
                let inverse = if sum[r] > 0.0 { 1.0 / sum[r] } else { f32::NAN };
                o[r * width..][..width].iter_mut().for_each(|o| *o *= inverse);
                stats[i0 + r] = [max[r], inverse];
            }
        }
    }
}

/// Keys of the tile at `j0` that query `i` sees, of `columns`.
#[inline(always)]
pub(super) fn visible(a: &AttentionArgs, i: usize, j0: usize, columns: usize) -> usize {
    if a.causal { columns.min((i + 1).saturating_sub(j0)) } else { columns }
}

/// `s[rows, TILE] = alpha x[rows, HS] w[j0.., HS]^T`, with `w` transposed in panels.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    simd: S,
    s: &mut [f32],
    x: &[f32],
    wt: &[f32],
    a: &AttentionArgs,
    (rows, j0, columns): (usize, usize, usize),
    alpha: f32,
) {
    let hs = a.head_size;
    let x = Left { x, ld: a.padded(), trans: false };
    for j in (0..columns).step_by(NR) {
        let b = Right { x: &wt[(j0 + j) * hs..], ld: NR };
        micro::panel(simd, &mut s[j..], TILE, (rows, NR, hs), x, b, Finish { alpha, add_old: false, bias: None });
    }
}

/// `y[m, width] += p[m, k] x[k, width]`.
#[inline(always)]
pub(super) fn product<S: Simd>(simd: S, y: &mut [f32], width: usize, (m, k): (usize, usize), p: Left<'_>, x: &[f32]) {
    for j in (0..width).step_by(NR) {
        let b = Right { x: &x[j..], ld: width };
        micro::panel(simd, &mut y[j..], width, (m, NR, k), p, b, Finish { alpha: 1.0, add_old: true, bias: None });
    }
}

/// Decodes head `slot` of sequence `b` from rows of `row_width` into `x: [T, padded]`; the padding is zero.
pub(super) fn gather(from: View<'_>, row_width: usize, b: usize, slot: usize, a: &AttentionArgs, x: &mut [f32]) {
    for (i, x) in x.chunks_exact_mut(a.padded()).take(a.t).enumerate() {
        let (head, padding) = x.split_at_mut(a.head_size);
        let start = (b * a.t + i) * row_width + slot * a.head_size;
        from.part(start..start + a.head_size).decode_into(head);
        padding.fill(0.0);
    }
}

/// `x: [T, padded]` as panels of 32 positions, each `[HS, 32]`; positions past the end are zero.
pub(super) fn transpose(x: &[f32], a: &AttentionArgs, xt: &mut [f32]) {
    let xt = &mut xt[..a.transposed_len()];
    for (panel, x) in xt.chunks_exact_mut(a.head_size * NR).zip(x.chunks(a.padded() * NR)) {
        if x.len() < a.padded() * NR {
            panel.fill(0.0);
        }
        for (j, x) in x.chunks_exact(a.padded()).enumerate() {
            for (column, &x) in panel.chunks_exact_mut(NR).zip(x) {
                column[j] = x;
            }
        }
    }
}

/// Writes rows of `width` elements, head by head: head `slot` of row `row` is the start of `head(row, slot)`.
pub(super) fn scatter<'a>(
    y: ViewMut<'_>,
    width: usize,
    a: &AttentionArgs,
    head: impl Fn(usize, usize) -> &'a [f32] + Sync + Send,
) {
    const ROWS: usize = 32;
    let (dtype, hs) = (y.dtype, a.head_size);
    par::chunks(y.bytes, ROWS * width * dtype.size_bytes(), |chunk, bytes| {
        let mut y = ViewMut::new(dtype, bytes);
        for i in 0..y.len() / hs {
            let (row, slot) = (i * hs / width, i * hs % width / hs);
            y.store(i * hs, &head(chunk * ROWS + row, slot)[..hs]);
        }
    });
}

/// Lanes of a row reduction: fixed, so that the order of a sum is the same on every machine.
const LANES: usize = 16;

#[inline(always)]
fn max_of(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for x in x.chunks_exact(LANES) {
        for (m, &x) in lanes.iter_mut().zip(x) {
            *m = if x > *m { x } else { *m };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn sum_of(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for x in x.chunks_exact(LANES) {
        for (s, &x) in lanes.iter_mut().zip(x) {
            *s += x;
        }
    }
    lanes.into_iter().sum()
}

#[cfg(test)]
pub(super) mod tests;

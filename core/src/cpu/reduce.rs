//! Sum, mean, maximum and sum of squares over any set of axes.
//!
//! Adjacent axes of one fate merge first, so every case is one of two: the last axis is reduced (each output adds up
//! contiguous runs) or it is kept (each output row adds up rows). Terms are added in f32 in runs of at most `BLOCK`
//! elements or `ROWS` rows, and the runs in f64: the error is that of a blocked sum. A reduction that leaves few
//! outputs is split over the reduced axis into `work` and then reduced again. All splits depend on the shape only.
//! `Max` gives NaN where any element is NaN, and -inf over nothing; `Mean` over nothing is NaN.

use super::lanes;
use crate::float::view::{View, ViewMut};
use crate::op::reduce::ReduceKind;
use crate::par::{self, simd};
use arrayvec::ArrayVec;

/// Most axes that a shape may have.
pub const MAX_RANK: usize = 8;

/// Elements of a run that is added in f32 lanes.
const BLOCK: usize = 1024;

/// Rows that are added in f32 before they join the f64 sums.
const ROWS: usize = 64;

/// Columns that are added up at a time; the sums of a block stay in registers and the first-level cache.
const COLUMNS: usize = 128;

/// Elements of `x` that a task reads, about.
const TASK: usize = 32 * 1024;

/// Scratch that [`reduce`] takes, in f32 elements.
pub fn reduce_work_len(shape: &[usize], axes: u32) -> usize {
    match Plan::new(shape, axes) {
        Plan { split: Some(split), .. } => split.parts * split.columns,
        Plan { split: None, .. } => 0,
    }
}

/// Reduces the axes whose bit is set in `axes` (bit `i` is axis `i`). `x` has `shape`, `y` the shape without those axes
/// (or with 1 in their place); both of any float dtype.
pub fn reduce(kind: ReduceKind, x: View<'_>, shape: &[usize], axes: u32, y: ViewMut<'_>, work: &mut [f32]) {
    debug_assert_eq!(x.len(), shape.iter().product::<usize>());
    match kind {
        ReduceKind::Sum => fold::<Sum>(x, shape, axes, 1, y, work),
        ReduceKind::Mean => {
            let count = (0..shape.len()).filter(|i| axes >> i & 1 == 1).map(|i| shape[i]).product();
            fold::<Sum>(x, shape, axes, count, y, work);
        }
        ReduceKind::Max => fold::<Max>(x, shape, axes, 1, y, work),
        ReduceKind::SumSq => fold::<SumSq>(x, shape, axes, 1, y, work),
    }
}

/// A reduction: how an element enters, and how partial results join.
trait Fold {
    /// How partial results join: a sum of squares joins by `Sum`.
    type Join: Fold;
    const START: f32;
    fn add(acc: f32, x: f32) -> f32;
    fn join(acc: f64, part: f32) -> f64;
    fn run(x: &[f32]) -> f32;
}

struct Sum;
struct SumSq;
struct Max;

impl Fold for Sum {
    type Join = Sum;
    const START: f32 = 0.0;
    #[inline(always)]
    fn add(acc: f32, x: f32) -> f32 {
        acc + x
    }
    #[inline(always)]
    fn join(acc: f64, part: f32) -> f64 {
        acc + f64::from(part)
    }
    #[inline(always)]
    fn run(x: &[f32]) -> f32 {
        lanes::sum(
            x,
            #[inline(always)]
            |x| x,
        )
    }
}

impl Fold for SumSq {
    type Join = Sum;
    const START: f32 = 0.0;
    #[inline(always)]
    fn add(acc: f32, x: f32) -> f32 {
        acc + x * x
    }
    #[inline(always)]
    fn join(acc: f64, part: f32) -> f64 {
        acc + f64::from(part)
    }
    #[inline(always)]
    fn run(x: &[f32]) -> f32 {
        lanes::sum(
            x,
            #[inline(always)]
            |x| x * x,
        )
    }
}

impl Fold for Max {
    type Join = Max;
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn add(acc: f32, x: f32) -> f32 {
        lanes::pick_max(acc, x)
    }
    #[inline(always)]
    fn join(acc: f64, part: f32) -> f64 {
        f64::from(lanes::pick_max(acc as f32, part))
    }
    #[inline(always)]
    fn run(x: &[f32]) -> f32 {
        lanes::max(x)
    }
}

/// Axes with their strides in `x`, outermost first.
type Axes = ArrayVec<(usize, usize), MAX_RANK>;

/// A reduction after merging axes.
struct Plan {
    kept: Axes,
    reduced: Axes,
    /// Length of the last axis, which is in neither list, and whether it is reduced.
    last: (usize, bool),
    /// Set where the outputs are too few to share out.
    split: Option<Split>,
}

/// `x` as `[parts * part_len]`, each part reduced to `columns` values.
struct Split {
    part_len: usize,
    parts: usize,
    columns: usize,
}

impl Plan {
    fn new(shape: &[usize], axes: u32) -> Plan {
        let mut merged: ArrayVec<(usize, bool), MAX_RANK> = ArrayVec::new();
        for (i, &len) in shape.iter().enumerate().filter(|(_, len)| **len != 1) {
            let reduced = axes >> i & 1 == 1;
            match merged.last_mut() {
                Some((last, fate)) if *fate == reduced => *last *= len,
                Some(_) | None => merged.push((len, reduced)),
            }
        }
        let (rows, columns) = match merged[..] {
            [(n, true)] => (n, 1),
            [(rows, true), (columns, false)] => (rows, columns),
            _ => (0, 1),
        };
        let part_rows = (TASK / columns.max(1)).max(ROWS);
        let split =
            (rows >= 2 * part_rows).then(|| Split { part_len: part_rows * columns, parts: rows.div_ceil(part_rows), columns });
        let last = merged.pop().unwrap_or((1, false));
        let (mut kept, mut reduced) = (Axes::new(), Axes::new());
        let mut stride = last.0;
        for &(len, fate) in merged.iter().rev() {
            if fate { &mut reduced } else { &mut kept }.insert(0, (len, stride));
            stride *= len;
        }
        Plan { kept, reduced, last, split }
    }
}

/// Offset in `x` of the `i`-th point of `axes`.
#[inline(always)]
fn offset(axes: &[(usize, usize)], mut i: usize) -> usize {
    let mut at = 0;
    for &(len, stride) in axes.iter().rev() {
        at += i % len * stride;
        i /= len;
    }
    at
}

fn points(axes: &[(usize, usize)]) -> usize {
    axes.iter().map(|(len, _)| len).product()
}

fn fold<F: Fold>(x: View<'_>, shape: &[usize], axes: u32, count: usize, y: ViewMut<'_>, work: &mut [f32]) {
    let plan = Plan::new(shape, axes);
    let Some(Split { part_len, parts, columns }) = plan.split else {
        return fold_plan::<F>(x, &plan, count, y);
    };
    let work = &mut work[..parts * columns];
    par::chunks(&mut *work, columns, |p, part| {
        let x = x.part(p * part_len..((p + 1) * part_len).min(x.len()));
        if plan.last.1 {
            part[0] = fold_run::<F>(x, f64::from(F::START)) as f32;
        } else {
            let reduced = [(x.len() / columns, columns)];
            for (b, part) in part.chunks_mut(COLUMNS).enumerate() {
                fold_columns::<F>(x, &reduced, b * COLUMNS, part);
            }
        }
    });
    let second = Plan { split: None, ..Plan::new(&[parts, columns], 0b01) };
    fold_plan::<F::Join>(View::of(work), &second, count, y);
}

/// Every output on its own; the outputs are shared out over tasks.
fn fold_plan<F: Fold>(x: View<'_>, plan: &Plan, count: usize, y: ViewMut<'_>) {
    let (dtype, (len, last_reduced)) = (y.dtype, plan.last);
    let terms = points(&plan.reduced);
    let row = if last_reduced { 1 } else { len };
    debug_assert_eq!(y.len(), points(&plan.kept) * row);
    let task = (TASK / (terms * len / row.max(1)).max(1)).clamp(if last_reduced { 1 } else { COLUMNS }, TASK);
    par::chunks(y.bytes, task * dtype.size_bytes(), |i, y| {
        let mut y = ViewMut::new(dtype, y);
        let mut done = 0;
        while done < y.len() {
            let mut out = [0.0f32; COLUMNS];
            let at = i * task + done;
            let left = COLUMNS.min(y.len() - done);
            let out = if last_reduced {
                let out = &mut out[..left];
                for (r, out) in out.iter_mut().enumerate() {
                    let base = offset(&plan.kept, at + r);
                    let total = (0..terms).fold(f64::from(F::START), |total, t| {
                        let from = base + offset(&plan.reduced, t);
                        fold_run::<F>(x.part(from..from + len), total)
                    });
                    *out = total as f32;
                }
                out
            } else {
                let out = &mut out[..left.min(len - at % len)];
                fold_columns::<F>(x, &plan.reduced, offset(&plan.kept, at / len) + at % len, out);
                out
            };
            if count != 1 {
                out.iter_mut().for_each(|out| *out /= count as f32);
            }
            y.store(done, out);
            done += out.len();
        }
    });
}

/// Joins a contiguous run of any length to `total`.
fn fold_run<F: Fold>(x: View<'_>, mut total: f64) -> f64 {
    if let Some(x) = x.as_f32() {
        return simd::vectorize(
            #[inline(always)]
            || {
                for x in x.chunks(BLOCK) {
                    total = F::join(total, F::run(x));
                }
                total
            },
        );
    }
    let mut block = [0.0f32; BLOCK];
    for from in (0..x.len()).step_by(BLOCK) {
        let x = x.load(from..(from + BLOCK).min(x.len()), &mut block);
        total = F::join(
            total,
            simd::vectorize(
                #[inline(always)]
                || F::run(x),
            ),
        );
    }
    total
}

/// Reduces `out.len()` neighbouring columns (at most [`COLUMNS`]) that start at `base` over the points of `reduced`.
fn fold_columns<F: Fold>(x: View<'_>, reduced: &[(usize, usize)], base: usize, out: &mut [f32]) {
    let n = out.len();
    let mut totals = [f64::from(F::START); COLUMNS];
    // Short rows that lie end to end are read as longer ones, `width` columns wide, and folded at the end.
    let (width, whole) = match *reduced {
        [(rows, stride)] if stride == n && n <= COLUMNS / 2 => (COLUMNS / n * n, rows * n),
        _ => (n, 0),
    };
    if whole > 0 {
        let x = x.part(base..base + whole);
        add_rows::<F>(x, whole / width, width, 0, &mut totals[..width]);
        let tail = whole / width * width;
        add_rows::<F>(x, 1, 0, tail, &mut totals[..whole - tail]);
    } else {
        let (outer, (rows, stride)) = match reduced {
            [outer @ .., inner] => (outer, *inner),
            [] => (reduced, (1, 0)),
        };
        for i in 0..points(outer) {
            add_rows::<F>(x, rows, stride, base + offset(outer, i), &mut totals[..n]);
        }
    }
    for (j, out) in out.iter_mut().enumerate() {
        let total = (j + n..width).step_by(n).fold(totals[j], |total, k| F::Join::join(total, totals[k] as f32));
        *out = total as f32;
    }
}

/// Joins `rows` rows, `stride` apart and the first at `base`, to the sums of their columns.
fn add_rows<F: Fold>(x: View<'_>, rows: usize, stride: usize, base: usize, totals: &mut [f64]) {
    let n = totals.len();
    let mut block = [0.0f32; COLUMNS];
    for from in (0..rows).step_by(ROWS) {
        let run = from..(from + ROWS).min(rows);
        let mut acc = [F::START; COLUMNS];
        let acc = &mut acc[..n];
        if let Some(x) = x.as_f32() {
            simd::vectorize(
                #[inline(always)]
                || {
                    for r in run {
                        add_row::<F>(acc, &x[base + r * stride..][..n]);
                    }
                },
            );
        } else {
            for r in run {
                let x = x.load(base + r * stride..base + r * stride + n, &mut block);
                simd::vectorize(
                    #[inline(always)]
                    || add_row::<F>(acc, x),
                );
            }
        }
        for (total, &acc) in totals.iter_mut().zip(&*acc) {
            *total = F::join(*total, acc);
        }
    }
}

#[inline(always)]
fn add_row<F: Fold>(acc: &mut [f32], x: &[f32]) {
    for (acc, &x) in acc.iter_mut().zip(x) {
        *acc = F::add(*acc, x);
    }
}

#[cfg(test)]
mod tests;

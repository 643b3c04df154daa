//! The matmul of the CPU backend: `C[m, n] = alpha op(A) op(B) (+ C)`, f32 arithmetic and accumulation.
//!
//! B is packed into panels of `NR` columns once, by all threads; then each task owns some rows of C and streams the
//! panels past its rows of A (the register tile is in `micro.rs`, decoding and packing in `pack.rs`). A matmul with few
//! outputs and a long `k` (weight gradients) is cut along `k` instead: each part packs its own slice of B, and the
//! partial results are added in order.
//!
//! Invariants: how a matmul is cut depends on its dims, output dtype and [`Parallelism`] only, so the bits do not
//! depend on the number of threads; nothing is allocated; old values of C are not read unless accumulating.
//!
//! Why not a crate: on two Zen 5 cores, at the shapes of a small GPT, this runs at 0.8 to 1.4 of faer 0.24 (median
//! 0.97, up to 500 GFLOP/s). Low-precision operands are decoded while packing, where a crate would need a pass of its
//! own, and faer costs 80 s of build. Source of the scheme: Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008).

use super::epilogue::Epilogue;
use super::micro::{self, Finish, Left, NR};
use super::pack::{self, GROUP, KC, MC, Source};
use crate::dtype::DType;
use crate::float::view::ViewMut;
use crate::par::{self, simd};
use pulp::{Simd, WithSimd};

/// Sizes of a matmul, and which operands are stored transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dims {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// A is stored `[k, m]` instead of `[m, k]`.
    pub trans_a: bool,
    /// B is stored `[n, k]` instead of `[k, n]`.
    pub trans_b: bool,
}

/// Where the work of one matmul runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parallelism {
    /// On the calling thread: for use inside a parallel loop.
    Seq,
    /// On all threads.
    Par,
}

/// `C[m, n] = alpha op(A) op(B)`, plus the old C when `accumulate`. All row-major and dense.
/// `work` has [`gemm_work_len`] elements.
pub fn gemm(
    c: &mut [f32],
    a: &[f32],
    b: &[f32],
    d: Dims,
    alpha: f32,
    accumulate: bool,
    parallelism: Parallelism,
    work: &mut [f32],
) {
    let Dims { m, n, k, trans_a, trans_b } = d;
    let a = Source::of(a, if trans_a { m } else { k }, trans_a);
    let b = Source::of(b, if trans_b { k } else { n }, trans_b);
    let epilogue = Epilogue::default();
    product(&Product { a, b, m, n, k, alpha, bias: None, epilogue, accumulate }, ViewMut::of(c), parallelism, work);
}

/// f32 elements of scratch that [`gemm`] needs.
pub fn gemm_work_len(d: Dims, accumulate: bool, parallelism: Parallelism) -> usize {
    product_work_len((d.m, d.n, d.k), !accumulate, parallelism)
}

/// A matmul whose operands may be stored in any float dtype: `y = epilogue(alpha A B (+ bias)) (+ old y)`.
pub(super) struct Product<'a> {
    pub(super) a: Source<'a>,
    pub(super) b: Source<'a>,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) alpha: f32,
    /// One value a column.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) accumulate: bool,
}

impl Product<'_> {
    /// Partial sums may lie in `y`: it stores them as they are, and nobody asks for what it held.
    fn sums_in(&self, y: &ViewMut<'_>) -> bool {
        sums_in(y.dtype, self.accumulate)
    }
}

/// Whether a result of this dtype can hold partial sums.
pub(super) fn sums_in(y: DType, accumulate: bool) -> bool {
    matches!(y, DType::F32 | DType::Tf32) && !accumulate
}

/// Runs a matmul into `y` (`[m, n]`, any float dtype, rounded once). `work` has [`product_work_len`] elements.
pub(super) fn product(p: &Product<'_>, y: ViewMut<'_>, parallelism: Parallelism, work: &mut [f32]) {
    let sums_in_y = p.sums_in(&y);
    debug_assert_eq!(y.len(), p.m * p.n);
    debug_assert!(work.len() >= product_work_len((p.m, p.n, p.k), sums_in_y, parallelism));
    if p.m * p.n == 0 {
        return;
    }
    let plan = Plan::new((p.m, p.n, p.k), sums_in_y, parallelism);
    if plan.parts > 1 { product_split(p, y, &plan, work) } else { product_rows(p, y, &plan, parallelism, work) }
}

/// f32 elements of scratch that [`product`] needs; `sums_in_y` as [`sums_in`] gives it.
pub(super) fn product_work_len((m, n, k): (usize, usize, usize), sums_in_y: bool, parallelism: Parallelism) -> usize {
    let plan = Plan::new((m, n, k), sums_in_y, parallelism);
    let packed = pack::packed_len(plan.kb.min(k), plan.nb.min(n), plan.kc);
    if plan.parts > 1 { plan.parts * (packed + m * n) } else { packed + plan.c_len }
}

/// How a matmul is cut.
struct Plan {
    /// Step of `k`.
    kc: usize,
    /// `k` covered by one packing of B.
    kb: usize,
    /// Columns covered by one packing of B; a multiple of `GROUP`.
    nb: usize,
    /// Parts along `k`, summed at the end; 1 for no split.
    parts: usize,
    /// Rows of a task.
    rows: usize,
    /// f32 sums kept outside `y`.
    c_len: usize,
}

impl Plan {
    /// Packed elements of B beyond which it is packed piecewise: 16 MiB.
    const PACKED: usize = 1 << 22;
    /// Length of the sums from which they are split, and outputs up to which.
    const SPLIT_K: usize = 1024;
    const SPLIT_OUTPUTS: usize = 1 << 18;
    const MAX_PARTS: usize = 8;
    /// Steps of `k` that one packing covers.
    const STEPS: usize = 32;
    /// Rows of a task; fewer for a short C, so that there are tasks to share.
    const MAX_ROWS: usize = 128;

    fn new((m, n, k): (usize, usize, usize), sums_in_y: bool, parallelism: Parallelism) -> Plan {
        let even = |k: usize| k.div_ceil(pack::steps(k, KC)).next_multiple_of(8).max(8);
        let rows = if m >= 16 * Self::MAX_ROWS { Self::MAX_ROWS } else { m.div_ceil(8).next_multiple_of(8).min(MC) };
        let few_outputs = m <= 4 * Self::MAX_ROWS && m * n <= Self::SPLIT_OUTPUTS;
        if parallelism == Parallelism::Par && k >= Self::SPLIT_K && few_outputs {
            let kb = k.div_ceil(Self::MAX_PARTS).next_multiple_of(8);
            let nb = n.next_multiple_of(GROUP);
            return Plan { kc: even(kb), kb, nb, parts: k.div_ceil(kb), rows, c_len: 0 };
        }
        let (steps, kc) = (pack::steps(k, KC), even(k));
        let outside = !sums_in_y && steps > 1;
        let kb = if sums_in_y { steps.min(Self::STEPS) * kc } else { steps * kc };
        let nb = if outside { Piece::COLUMNS } else { (Self::PACKED / kb).max(GROUP) / GROUP * GROUP };
        let nb = nb.min(n.next_multiple_of(GROUP));
        let c_len = if outside { m * nb.min(n) } else { 0 };
        Plan { kc, kb, nb, parts: 1, rows, c_len }
    }
}

/// Tasks own rows of `y`.
fn product_rows(p: &Product<'_>, y: ViewMut<'_>, plan: &Plan, parallelism: Parallelism, work: &mut [f32]) {
    let (dtype, row_bytes, sums_in_y) = (y.dtype, p.n * y.dtype.size_bytes(), p.sums_in(&y));
    let (sums, work) = work.split_at_mut(plan.c_len);
    for j0 in (0..p.n).step_by(plan.nb) {
        let n = plan.nb.min(p.n - j0);
        for k0 in (0..p.k.max(1)).step_by(plan.kb) {
            let k = plan.kb.min(p.k - k0);
            let packed = &mut work[..pack::packed_len(k, n, plan.kc)];
            each(parallelism, packed, plan.kc * GROUP, |i, x| pack::pack(&p.b, (k0, k), (j0, n), plan.kc, i, x));
            let piece = Piece { p, j0, n, k0, k, kc: plan.kc, packed };
            if plan.c_len > 0 {
                let sums = (&mut sums[..p.m * n], plan.rows * n);
                each2(parallelism, (y.bytes, plan.rows * row_bytes), sums, |i, bytes, c| {
                    piece.run(i * plan.rows, c.len() / n, c, n, piece.finish(false));
                    let mut y = ViewMut::new(dtype, bytes);
                    for (r, c) in c.chunks_mut(n).enumerate() {
                        store(p, &mut y, i * plan.rows * p.n, r * p.n + j0, c);
                    }
                });
            } else {
                each(parallelism, y.bytes, plan.rows * row_bytes, |i, bytes| {
                    let (i0, m) = (i * plan.rows, bytes.len() / row_bytes);
                    if sums_in_y {
                        let c: &mut [f32] = bytemuck::cast_slice_mut(bytes);
                        piece.run(i0, m, &mut c[j0..], p.n, piece.finish(k0 > 0));
                        if piece.is_last() && !p.epilogue.is_none() {
                            for (r, row) in c.chunks_mut(p.n).enumerate() {
                                p.epilogue.apply(&mut row[j0..j0 + n], (i0 + r) * p.n + j0);
                            }
                        }
                    } else {
                        piece.run_rounded(i0, m, ViewMut::new(dtype, bytes));
                    }
                });
            }
        }
    }
}

/// Tasks own a part of `k`; their partial results are then added in order.
fn product_split(p: &Product<'_>, y: ViewMut<'_>, plan: &Plan, work: &mut [f32]) {
    let packed_len = pack::packed_len(plan.kb, p.n, plan.kc);
    let len = packed_len + p.m * p.n;
    let work = &mut work[..plan.parts * len];
    par::chunks(work, len, |part, x| {
        let (packed, c) = x.split_at_mut(packed_len);
        let k0 = part * plan.kb;
        let k = plan.kb.min(p.k - k0);
        let packed = &mut packed[..pack::packed_len(k, p.n, plan.kc)];
        for (i, x) in packed.chunks_mut(plan.kc * GROUP).enumerate() {
            pack::pack(&p.b, (k0, k), (0, p.n), plan.kc, i, x);
        }
        let piece = Piece { p, j0: 0, n: p.n, k0, k, kc: plan.kc, packed };
        piece.run(0, p.m, c, p.n, Finish { alpha: 1.0, add_old: false, bias: None });
    });
    let dtype = y.dtype;
    let work = &*work;
    let rows = (GROUP * 32 / p.n).max(1);
    par::chunks(y.bytes, rows * p.n * dtype.size_bytes(), |i, bytes| {
        let mut y = ViewMut::new(dtype, bytes);
        let mut line = [0.0; GROUP];
        for start in (0..y.len()).step_by(p.n) {
            for j0 in (0..p.n).step_by(GROUP) {
                let line = &mut line[..GROUP.min(p.n - j0)];
                let c = packed_len + i * rows * p.n + start + j0;
                simd::vectorize(
                    #[inline(always)]
                    || add_parts(p, work, len, c, j0, line),
                );
                store(p, &mut y, i * rows * p.n, start + j0, line);
            }
        }
    });
}

/// `line = alpha * sum over parts (+ bias)`; part `q` has its values at `q * len + at`.
#[inline(always)]
fn add_parts(p: &Product<'_>, work: &[f32], len: usize, at: usize, j0: usize, line: &mut [f32]) {
    line.fill(0.0);
    for part in work.chunks(len) {
        for (y, x) in line.iter_mut().zip(&part[at..]) {
            *y += x;
        }
    }
    line.iter_mut().for_each(|y| *y *= p.alpha);
    if let Some(bias) = p.bias {
        line.iter_mut().zip(&bias[j0..]).for_each(|(y, b)| *y += b);
    }
}

/// Finishes the sums `x` and writes them from element `start` of `y` on, which is the result from its element `first`
/// on.
fn store(p: &Product<'_>, y: &mut ViewMut<'_>, first: usize, start: usize, x: &mut [f32]) {
    p.epilogue.apply(x, first + start);
    if p.accumulate {
        let mut old = [0.0; GROUP];
        for (i, x) in x.chunks_mut(GROUP).enumerate() {
            let at = start + i * GROUP;
            let old = y.as_view().part(at..at + x.len()).load(0..x.len(), &mut old);
            x.iter_mut().zip(old).for_each(|(x, old)| *x += old);
        }
    }
    y.store(start, x);
}

/// The part of a matmul that one packing of B serves: columns `j0..j0 + n`, terms `k0..k0 + k`.
struct Piece<'a> {
    p: &'a Product<'a>,
    j0: usize,
    n: usize,
    k0: usize,
    k: usize,
    kc: usize,
    packed: &'a [f32],
}

impl Piece<'_> {
    /// Columns of C that stay in the L2 cache from one step of `k` to the next.
    const COLUMNS: usize = 8 * GROUP;

    /// Whether its sums end with the last term.
    fn is_last(&self) -> bool {
        self.k0 + self.k == self.p.k
    }

    /// What happens to the sums of this piece: the bias joins the last one.
    fn finish(&self, add_old: bool) -> Finish<'_> {
        let bias = self.p.bias.filter(|_| self.is_last()).map(|bias| &bias[self.j0..]);
        Finish { alpha: self.p.alpha, add_old, bias }
    }

    /// Rows `i0..i0 + m` into f32: `c` starts at their first element, with rows of `ldc`.
    fn run(&self, i0: usize, m: usize, c: &mut [f32], ldc: usize, finish: Finish<'_>) {
        if self.p.a.in_place(i0, self.k0).is_some() {
            self.run_with(i0, m, c, ldc, finish, &mut []);
        } else {
            self.run_with(i0, m, c, ldc, finish, &mut [0.0; MC * KC]);
        }
    }

    fn run_with(&self, i0: usize, m: usize, c: &mut [f32], ldc: usize, finish: Finish<'_>, block: &mut [f32]) {
        for i in (0..m).step_by(MC) {
            let m = MC.min(m - i);
            for j in (0..self.n).step_by(Self::COLUMNS) {
                let n = Self::COLUMNS.min(self.n - j);
                for step in 0..pack::steps(self.k, self.kc) {
                    let k = self.kc.min(self.k - step * self.kc);
                    let a = self.left((i0 + i, m), (step, k), block);
                    let last = (step + 1) * self.kc >= self.k;
                    let finish = Finish { add_old: finish.add_old || step > 0, bias: finish.bias.filter(|_| last), ..finish };
                    self.panels(&mut c[i * ldc + j..], ldc, (m, k), a, step, (j, n), finish);
                }
            }
        }
    }

    /// Rows `i0..i0 + m` into `y`, which holds those rows in full. For one step of `k`: the sums of four panels at a
    /// time wait in the L1 cache for their rounding.
    fn run_rounded(&self, i0: usize, m: usize, y: ViewMut<'_>) {
        // Two sizes, because clearing the block shows in the time of a short sum.
        if self.kc <= KC / 3 {
            self.run_rounded_with(i0, m, y, &mut [0.0; MC * KC / 3]);
        } else {
            self.run_rounded_with(i0, m, y, &mut [0.0; MC * KC]);
        }
    }

    fn run_rounded_with(&self, i0: usize, m: usize, mut y: ViewMut<'_>, block: &mut [f32]) {
        let mut tile = [0.0; MC * GROUP];
        for i in (0..m).step_by(MC) {
            let m = MC.min(m - i);
            let a = self.left((i0 + i, m), (0, self.k), block);
            for j in (0..self.n).step_by(GROUP) {
                let n = GROUP.min(self.n - j);
                self.panels(&mut tile, GROUP, (m, self.k), a, 0, (j, n), self.finish(false));
                for r in 0..m {
                    let start = (i + r) * self.p.n + self.j0 + j;
                    store(self.p, &mut y, i0 * self.p.n, start, &mut tile[r * GROUP..][..n]);
                }
            }
        }
    }

    fn left<'b>(&'b self, (i, m): (usize, usize), (step, k): (usize, usize), block: &'b mut [f32]) -> Left<'b> {
        let kk = self.k0 + step * self.kc;
        match self.p.a.in_place(i, kk) {
            Some(a) => a,
            None => self.p.a.left((i, m), (kk, k), block),
        }
    }

    /// Columns `j..j + n` of this piece (`j` a multiple of `NR`) in one step of `k`; `c` starts at column `j`.
    fn panels(
        &self,
        c: &mut [f32],
        ldc: usize,
        (m, k): (usize, usize),
        a: Left<'_>,
        step: usize,
        (j, n): (usize, usize),
        finish: Finish<'_>,
    ) {
        pulp::Arch::new().dispatch(Panels { piece: self, c, ldc, m, k, a, step, j, n, finish });
    }
}

struct Panels<'a> {
    piece: &'a Piece<'a>,
    c: &'a mut [f32],
    ldc: usize,
    m: usize,
    k: usize,
    a: Left<'a>,
    step: usize,
    j: usize,
    n: usize,
    finish: Finish<'a>,
}

impl WithSimd for Panels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panels { piece, c, ldc, m, k, a, step, j, n, finish } = self;
        for x in (0..n).step_by(NR) {
            let b = pack::packed_panel(piece.packed, piece.k, piece.kc, step, (j + x) / NR);
            let finish = Finish { bias: finish.bias.map(|bias| &bias[j + x..]), ..finish };
            micro::panel(simd, &mut c[x..], ldc, (m, NR.min(n - x), k), a, b, finish);
        }
    }
}

/// `f(i, piece_i)` for each `chunk`-long piece of `x`.
fn each<X: Send>(parallelism: Parallelism, x: &mut [X], chunk: usize, f: impl Fn(usize, &mut [X]) + Sync + Send) {
    match parallelism {
        Parallelism::Seq => x.chunks_mut(chunk).enumerate().for_each(|(i, x)| f(i, x)),
        Parallelism::Par => par::chunks(x, chunk, f),
    }
}

/// As [`each`], over two slices cut in step.
fn each2<X: Send, Y: Send>(
    parallelism: Parallelism,
    (x, cx): (&mut [X], usize),
    (y, cy): (&mut [Y], usize),
    f: impl Fn(usize, &mut [X], &mut [Y]) + Sync + Send,
) {
    match parallelism {
        Parallelism::Seq => x.chunks_mut(cx).zip(y.chunks_mut(cy)).enumerate().for_each(|(i, (x, y))| f(i, x, y)),
        Parallelism::Par => par::chunks2((x, cx), (y, cy), f),
    }
}

#[cfg(test)]
mod tests;

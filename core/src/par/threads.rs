//! Data-parallel loops over rayon. Twin without threads: `one_thread.rs` (same functions).
//!
//! The split never depends on the number of threads, only on the arguments, so results are the same bits on any machine
//! size. Nothing here allocates once the pool is warm.

use crate::error::{Error, Result};
use rayon::prelude::*;

/// Calls `f(i, chunk_i)` for each `chunk`-long piece of `a` (the last may be shorter).
pub fn chunks<A: Send>(a: &mut [A], chunk: usize, f: impl Fn(usize, &mut [A]) + Sync + Send) {
    if a.len() <= chunk {
        if !a.is_empty() {
            f(0, a);
        }
        return;
    }
    a.par_chunks_mut(chunk).enumerate().for_each(|(i, a)| f(i, a));
}

/// As [`chunks`], over two slices cut in step.
pub fn chunks2<A: Send, B: Send>(
    (a, ca): (&mut [A], usize),
    (b, cb): (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) {
    a.par_chunks_mut(ca).zip(b.par_chunks_mut(cb)).enumerate().for_each(|(i, (a, b))| f(i, a, b));
}

/// As [`chunks`], over three slices cut in step.
pub fn chunks3<A: Send, B: Send, C: Send>(
    (a, ca): (&mut [A], usize),
    (b, cb): (&mut [B], usize),
    (c, cc): (&mut [C], usize),
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync + Send,
) {
    a.par_chunks_mut(ca)
        .zip(b.par_chunks_mut(cb))
        .zip(c.par_chunks_mut(cc))
        .enumerate()
        .for_each(|(i, ((a, b), c))| f(i, a, b, c));
}

/// As [`chunks`], over four slices cut in step.
pub fn chunks4<A: Send, B: Send, C: Send, D: Send>(
    (a, ca): (&mut [A], usize),
    (b, cb): (&mut [B], usize),
    (c, cc): (&mut [C], usize),
    (d, cd): (&mut [D], usize),
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C], &mut [D]) + Sync + Send,
) {
    a.par_chunks_mut(ca)
        .zip(b.par_chunks_mut(cb))
        .zip(c.par_chunks_mut(cc))
        .zip(d.par_chunks_mut(cd))
        .enumerate()
        .for_each(|(i, (((a, b), c), d))| f(i, a, b, c, d));
}

/// Runs `f` inside the pool, so that the loops above need no hand-over from outside it.
pub fn install<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Sets the number of worker threads of this process. There is one pool: a host calls this once, before the first
/// computation.
///
/// # Errors
/// After the first computation, and where the system gives no threads.
pub fn use_threads(count: usize) -> Result<()> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
    built.map_err(|e| {
        Error::config("threads", "a number of threads that can be started, before anything is computed", e.to_string())
    })
}

/// Number of worker threads: for sizing only, never for splitting sums.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

//! Data-parallel loops without threads (wasm32, or the `threads` feature off). Twin with threads: `threads.rs`.

use crate::error::{Error, Result};

/// Calls `f(i, chunk_i)` for each `chunk`-long piece of `a` (the last may be shorter).
pub fn chunks<A: Send>(a: &mut [A], chunk: usize, f: impl Fn(usize, &mut [A]) + Sync + Send) {
    a.chunks_mut(chunk).enumerate().for_each(|(i, a)| f(i, a));
}

/// As [`chunks`], over two slices cut in step.
pub fn chunks2<A: Send, B: Send>(
    (a, ca): (&mut [A], usize),
    (b, cb): (&mut [B], usize),
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) {
    a.chunks_mut(ca).zip(b.chunks_mut(cb)).enumerate().for_each(|(i, (a, b))| f(i, a, b));
}

/// As [`chunks`], over three slices cut in step.
pub fn chunks3<A: Send, B: Send, C: Send>(
    (a, ca): (&mut [A], usize),
    (b, cb): (&mut [B], usize),
    (c, cc): (&mut [C], usize),
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync + Send,
) {
    a.chunks_mut(ca).zip(b.chunks_mut(cb)).zip(c.chunks_mut(cc)).enumerate().for_each(|(i, ((a, b), c))| f(i, a, b, c));
}

/// As [`chunks`], over four slices cut in step.
pub fn chunks4<A: Send, B: Send, C: Send, D: Send>(
    (a, ca): (&mut [A], usize),
    (b, cb): (&mut [B], usize),
    (c, cc): (&mut [C], usize),
    (d, cd): (&mut [D], usize),
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C], &mut [D]) + Sync + Send,
) {
    a.chunks_mut(ca)
        .zip(b.chunks_mut(cb))
        .zip(c.chunks_mut(cc))
        .zip(d.chunks_mut(cd))
        .enumerate()
        .for_each(|(i, (((a, b), c), d))| f(i, a, b, c, d));
}

/// Runs `f`.
pub fn install<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    f()
}

/// There is one thread.
///
/// # Errors
/// For any other number.
pub fn use_threads(count: usize) -> Result<()> {
    match count {
        1 => Ok(()),
        more => Err(Error::config("threads", "1, in a build without threads", more.to_string())),
    }
}

/// Number of worker threads: one.
pub fn threads() -> usize {
    1
}

//! Long operands split into fixed chunks, for kernels that walk lists of tensors.
//!
//! Invariant: splits fall on multiples of [`CHUNK`] elements and depend on lengths only, so neither rounding nor the
//! order of any sum depends on the number of threads. Nothing allocates: the two halves of a split live on the stack.

use crate::float::view::{View, ViewMut};
use crate::par;
use std::sync::atomic::{AtomicU32, Ordering};

/// Elements of one parallel task: 64 KiB of f32, so that a second pass over a chunk finds it in the L2 cache.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Elements decoded at a time into a scratch row on the stack; divides [`CHUNK`].
pub(crate) const BLOCK: usize = 1024;

/// Operands that can be split in two at an element index.
pub(crate) trait Splittable: Send + Sized {
    /// Number of elements.
    fn elements(&self) -> usize;
    /// Elements `..at` and `at..`; `at` is below `elements()`.
    fn split(self, at: usize) -> (Self, Self);
}

/// Calls `f` once for each chunk of at most [`CHUNK`] elements, in parallel; never for an empty operand.
pub(crate) fn for_each_chunk<T: Splittable>(operand: T, f: &(impl Fn(T) + Sync + Send)) {
    let n = operand.elements();
    if n == 0 {
        return;
    }
    if n <= CHUNK {
        return f(operand);
    }
    let (left, right) = operand.split(n.div_ceil(CHUNK).div_ceil(2) * CHUNK);
    par::chunks(&mut [Some(left), Some(right)], 1, |_, half| {
        if let Some(half) = half[0].take() {
            for_each_chunk(half, f);
        }
    });
}

/// As [`for_each_chunk`], over a list of read-only tensors.
pub(crate) fn for_each_chunk_of(list: &[View<'_>], f: &(impl Fn(View<'_>) + Sync + Send)) {
    match list {
        [] => {}
        [one] => for_each_chunk(*one, &|x| f(x)),
        _ => {
            let (left, right) = list.split_at(list.len() / 2);
            par::chunks(&mut [left, right], 1, |_, half| for_each_chunk_of(half[0], f));
        }
    }
}

/// The element ranges of at most [`BLOCK`] that make up `0..n`.
pub(crate) fn blocks(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..n).step_by(BLOCK).map(move |start| start..n.min(start + BLOCK))
}

impl Splittable for View<'_> {
    fn elements(&self) -> usize {
        self.len()
    }
    fn split(self, at: usize) -> (Self, Self) {
        (self.part(0..at), self.part(at..self.len()))
    }
}

impl Splittable for ViewMut<'_> {
    fn elements(&self) -> usize {
        self.len()
    }
    fn split(self, at: usize) -> (Self, Self) {
        let (left, right) = self.bytes.split_at_mut(at * self.dtype.size_bytes());
        (ViewMut::new(self.dtype, left), ViewMut::new(self.dtype, right))
    }
}

/// A running count that parallel chunks add to. Integer sums do not depend on the order, so the total is deterministic.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU32);

impl Count {
    /// Adds `n`.
    pub(crate) fn add(&self, n: u32) {
        if n != 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }
    /// The total so far.
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_element_once_on_multiples_of_the_chunk() {
        for n in [0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 3, 64 * CHUNK + 1] {
            let mut x = vec![0.0f32; n];
            let calls = Count::default();
            for_each_chunk(ViewMut::of(&mut x), &|mut chunk: ViewMut<'_>| {
                calls.add(1);
                assert!(chunk.len() <= CHUNK);
                chunk.f32s().iter_mut().for_each(|v| *v += 1.0);
            });
            assert_eq!(calls.get() as usize, n.div_ceil(CHUNK));
            assert!(x.iter().all(|&v| v == 1.0));
        }
    }
}

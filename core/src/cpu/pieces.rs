//! Long operands cut into fixed pieces, for kernels that walk lists of tensors.
//!
//! Invariant: cuts fall on multiples of [`CHUNK`] elements and depend on lengths only, so neither rounding nor the order of
//! any sum depends on the number of threads. Nothing allocates: the two halves of a cut live on the stack.

use super::par;
use super::view::{View, ViewMut};
use crate::dtype::DType;
use std::sync::atomic::{AtomicU32, Ordering};

/// Elements of one parallel task: 64 KiB of f32, so that a second look at a piece finds it in the L2 cache.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Elements decoded at a time into a scratch row on the stack; divides [`CHUNK`].
pub(crate) const BLOCK: usize = 1024;

/// Operands that can be cut in two at an element index.
pub(crate) trait Cut: Send + Sized {
    /// Number of elements.
    fn elements(&self) -> usize;
    /// Elements `..at` and `at..`; `at` is below `elements()`.
    fn cut(self, at: usize) -> (Self, Self);
}

/// Calls `f` once for each piece of at most [`CHUNK`] elements, in parallel; never for an empty operand.
pub(crate) fn for_each_piece<T: Cut>(operand: T, f: &(impl Fn(T) + Sync + Send)) {
    let n = operand.elements();
    if n == 0 {
        return;
    }
    if n <= CHUNK {
        return f(operand);
    }
    let (left, right) = operand.cut(n.div_ceil(CHUNK).div_ceil(2) * CHUNK);
    par::chunks(&mut [Some(left), Some(right)], 1, |_, half| {
        if let Some(half) = half[0].take() {
            for_each_piece(half, f);
        }
    });
}

/// As [`for_each_piece`], over a list of read-only tensors.
pub(crate) fn for_each_piece_of(list: &[View<'_>], f: &(impl Fn(View<'_>) + Sync + Send)) {
    match list {
        [] => {}
        [one] => for_each_piece(*one, &|x| f(x)),
        _ => {
            let (left, right) = list.split_at(list.len() / 2);
            par::chunks(&mut [left, right], 1, |_, half| for_each_piece_of(half[0], f));
        }
    }
}

/// The element ranges of at most [`BLOCK`] that make up `0..n`.
pub(crate) fn blocks(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..n).step_by(BLOCK).map(move |start| start..n.min(start + BLOCK))
}

impl Cut for View<'_> {
    fn elements(&self) -> usize {
        self.len()
    }
    fn cut(self, at: usize) -> (Self, Self) {
        (self.part(0..at), self.part(at..self.len()))
    }
}

impl Cut for ViewMut<'_> {
    fn elements(&self) -> usize {
        self.len()
    }
    fn cut(self, at: usize) -> (Self, Self) {
        let (left, right) = self.bytes.split_at_mut(at * self.dtype.size_bytes());
        (ViewMut::new(self.dtype, left), ViewMut::new(self.dtype, right))
    }
}

/// A running count that parallel pieces add to. Integer sums do not depend on the order, so the total is deterministic.
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

/// Bits of `f32::INFINITY`: with the sign bit cleared, a larger word is a NaN, an equal one an infinity.
pub(crate) const INF_BITS: u32 = f32::INFINITY.to_bits();

/// Everything but the sign.
pub(crate) const ABS_MASK: u32 = 0x7FFF_FFFF;

/// A flag kept as f32 (`found_inf`) is set: anything but +0 and -0, so NaN and 2.0 count.
#[inline(always)]
pub(crate) fn is_set(flag: f32) -> bool {
    flag.to_bits() & ABS_MASK != 0
}

/// Bits of the largest f32 that a store to `dtype` turns into zero: half the smallest subnormal (the tie goes to even).
pub(crate) fn underflow_bits(dtype: DType) -> u32 {
    dtype.format().map_or(0.0, |f| (0.5 * f.min_subnormal) as f32).to_bits()
}

/// Bits of the smallest f32 that a store to `dtype` turns into a normal value: half an ulp below the smallest one (the tie goes to even, up).
pub(crate) fn subnormal_end_bits(dtype: DType) -> u32 {
    dtype.format().map_or(0.0, |f| (f.min_normal - 0.5 * f.min_subnormal) as f32).to_bits()
}

/// Bits of the smallest positive f32 that a store to `dtype` turns into infinity: half an ulp above the largest finite
/// value, which is odd, so the tie goes up. For f32 itself, and for the saturating formats, infinity.
pub(crate) fn overflow_bits(dtype: DType) -> u32 {
    let own = 23 - dtype.format().map_or(23, |f| if f.has_inf { f.mantissa_bits } else { 23 });
    match (dtype.overflow(), own) {
        (crate::dtype::Overflow::Saturate, _) | (_, 0) => INF_BITS,
        (crate::dtype::Overflow::Ieee, drop) => dtype.max_f32().to_bits() + (1 << (drop - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_element_once_on_multiples_of_the_chunk() {
        for n in [0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 3, 64 * CHUNK + 1] {
            let mut x = vec![0.0f32; n];
            let calls = Count::default();
            for_each_piece(ViewMut::of(&mut x), &|mut piece: ViewMut<'_>| {
                calls.add(1);
                assert!(piece.len() <= CHUNK);
                piece.f32s().iter_mut().for_each(|v| *v += 1.0);
            });
            assert_eq!(calls.get() as usize, n.div_ceil(CHUNK));
            assert!(x.iter().all(|&v| v == 1.0));
        }
    }

    #[test]
    fn overflow_thresholds_are_those_of_the_codecs() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
            let at = overflow_bits(dtype);
            let finite = |bits| {
                let code = crate::float::encode(dtype, dtype.overflow(), f32::from_bits(bits));
                crate::float::decode(dtype, code).is_finite()
            };
            assert!(finite(at - 1), "{dtype}");
            assert_eq!(finite(at), dtype.is_fp8(), "{dtype}");
            let zero = |bits| crate::float::encode(dtype, dtype.overflow(), f32::from_bits(bits)) == 0;
            assert!(zero(underflow_bits(dtype)) && !zero(underflow_bits(dtype) + 1), "{dtype}");
        }
    }
}

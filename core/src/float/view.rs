//! Typed views of raw bytes: how a kernel reads and writes values of any dtype while computing in f32.
//!
//! A [`View`] is a dtype and its bytes. Kernels take rows with [`View::load`]: f32 rows are borrowed as they lie, any
//! other float dtype is decoded into the scratch row that the caller passes. [`ViewMut::store`] is the way back,
//! rounding once.

use super::element::Element;
use super::slices;
use crate::dtype::DType;
use std::ops::Range;

/// A read-only operand.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Element type.
    pub dtype: DType,
    /// Elements as they lie in memory; aligned for the dtype.
    pub bytes: &'a [u8],
}

/// A writable operand.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// Element type.
    pub dtype: DType,
    /// Elements as they lie in memory; aligned for the dtype.
    pub bytes: &'a mut [u8],
}

impl<'a> View<'a> {
    /// A view of `bytes` as elements of `dtype`.
    pub fn new(dtype: DType, bytes: &'a [u8]) -> View<'a> {
        View { dtype, bytes }
    }

    /// A view of typed elements.
    pub fn of<T: Element>(x: &'a [T]) -> View<'a> {
        View { dtype: T::DTYPE, bytes: bytemuck::cast_slice(x) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size_bytes()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements `range` as a view.
    pub fn part(&self, range: Range<usize>) -> View<'a> {
        let n = self.dtype.size_bytes();
        View { dtype: self.dtype, bytes: &self.bytes[range.start * n..range.end * n] }
    }

    /// The values, if they are stored as f32.
    pub fn as_f32(&self) -> Option<&'a [f32]> {
        matches!(self.dtype, DType::F32 | DType::Tf32).then(|| bytemuck::cast_slice(self.bytes))
    }

    /// The values of an f32 view. A view of another dtype is a bug in the caller.
    pub fn f32s(&self) -> &'a [f32] {
        self.as_f32().expect("the op's dtype rule demands f32 here")
    }

    /// The words of a u32 or i32 view.
    pub fn u32s(&self) -> &'a [u32] {
        debug_assert_eq!(self.dtype.size_bytes(), 4);
        bytemuck::cast_slice(self.bytes)
    }

    /// The elements `range` as f32: borrowed when stored so, else decoded into `scratch` (at least `range.len()` long).
    /// Single-threaded and vectorized: call it from inside a parallel loop.
    pub fn load<'s>(&self, range: Range<usize>, scratch: &'s mut [f32]) -> &'s [f32]
    where
        'a: 's,
    {
        let part = self.part(range);
        match part.as_f32() {
            Some(x) => x,
            None => {
                let scratch = &mut scratch[..part.len()];
                slices::decode(part.dtype, part.bytes, scratch);
                scratch
            }
        }
    }

    /// Decodes the whole view into `out`, whatever its dtype.
    pub fn decode_into(&self, out: &mut [f32]) {
        slices::decode(self.dtype, self.bytes, out);
    }
}

impl<'a> ViewMut<'a> {
    /// A view of `bytes` as elements of `dtype`.
    pub fn new(dtype: DType, bytes: &'a mut [u8]) -> ViewMut<'a> {
        ViewMut { dtype, bytes }
    }

    /// A view of typed elements.
    pub fn of<T: Element>(x: &'a mut [T]) -> ViewMut<'a> {
        ViewMut { dtype: T::DTYPE, bytes: bytemuck::cast_slice_mut(x) }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size_bytes()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements `range` as a view.
    pub fn part(&mut self, range: Range<usize>) -> ViewMut<'_> {
        let n = self.dtype.size_bytes();
        ViewMut { dtype: self.dtype, bytes: &mut self.bytes[range.start * n..range.end * n] }
    }

    /// The same elements, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { dtype: self.dtype, bytes: self.bytes }
    }

    /// The same elements, read-only.
    pub fn as_view(&self) -> View<'_> {
        View { dtype: self.dtype, bytes: self.bytes }
    }

    /// The values of an f32 view; `None` for another dtype.
    pub fn as_f32(&mut self) -> Option<&mut [f32]> {
        matches!(self.dtype, DType::F32 | DType::Tf32).then(|| bytemuck::cast_slice_mut(self.bytes))
    }

    /// The values of an f32 view. A view of another dtype is a bug in the caller.
    pub fn f32s(&mut self) -> &mut [f32] {
        self.as_f32().expect("the op's dtype rule demands f32 here")
    }

    /// The words of a u32 or i32 view.
    pub fn u32s(&mut self) -> &mut [u32] {
        debug_assert_eq!(self.dtype.size_bytes(), 4);
        bytemuck::cast_slice_mut(self.bytes)
    }

    /// Writes `x` to the elements from `start` on, rounding to nearest even under the dtype's own overflow rule.
    pub fn store(&mut self, start: usize, x: &[f32]) {
        let n = self.dtype.size_bytes();
        let bytes = &mut self.bytes[start * n..(start + x.len()) * n];
        slices::encode(self.dtype, self.dtype.overflow(), x, bytes);
    }
}

//! What kernels that move elements as bits move at a time: words, where rows are whole words.

use super::builder::Builder;
use mantissa_core::DType;

/// What a kernel moves at a time.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    /// A dtype of its width.
    pub(super) dtype: DType,
    /// Elements in it.
    pub(super) size: usize,
}

impl Unit {
    /// The unit for rows of these lengths in elements of `dtype`: a word if every row is whole words.
    pub(super) fn of(dtype: DType, mut lens: impl Iterator<Item = usize>) -> Unit {
        let pack = size_of::<u32>() / dtype.size_bytes();
        if lens.all(|len| len % pack == 0) {
            return Unit { dtype: DType::F32, size: pack };
        }
        Unit { dtype: if pack == 2 { DType::F16 } else { DType::E4m3 }, size: 1 }
    }

    /// Units in a word.
    fn pack(self) -> usize {
        size_of::<u32>() / self.dtype.size_bytes()
    }

    /// One invocation for each word that `n` units fill.
    pub(super) fn items(self, builder: Builder, n: usize, group: usize) -> Builder {
        builder.dtype("X", self.dtype).uniform("n", n).groups(n.div_ceil(self.pack()).div_ceil(group))
    }
}

//! Rust types of stored elements: `half` and `float8` supply the 16- and 8-bit ones.
//!
//! The types carry bits in and out of the library; conversions are those of our codecs, which are the law where the
//! crates differ (see `interop_tests.rs` for every class of inputs where they do).

use crate::dtype::DType;
use bytemuck::Pod;

/// A type that lies in memory as elements of one dtype.
pub trait Element: Pod {
    /// That dtype.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for half::bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for float8::F8E4M3 {
    const DTYPE: DType = DType::E4m3;
}
impl Element for float8::F8E5M2 {
    const DTYPE: DType = DType::E5m2;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::view::{View, ViewMut};

    #[test]
    fn typed_slices_read_and_write_through_views() {
        let x = [half::bf16::from_f32(1.5), half::bf16::from_f32(-2.0)];
        let mut y = [0.0; 2];
        View::of(&x).decode_into(&mut y);
        assert_eq!(y, [1.5, -2.0]);
        let mut q = [float8::F8E4M3::from_bits(0); 2];
        ViewMut::of(&mut q).store(0, &[448.0, 1e9]);
        assert_eq!(q.map(|v| v.to_bits()), [0x7E, 0x7E]);
        assert_eq!(View::of(&[7u32]).dtype, DType::U32);
    }
}

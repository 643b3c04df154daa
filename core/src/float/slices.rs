//! Slice codecs: the scalar codecs of this module in loops that become vector code.
//!
//! Every function is equal, element for element, to the scalar codec of the same name. `src` and `dst` hold the same
//! number of elements; byte slices are aligned for their dtype. Tf32 lies in memory as f32, so encoding and decoding
//! copy it; only [`round`] takes it to its grid. Integer types convert (see [`super::encode`]).
//!
//! The `_par` forms split into pieces of [`CHUNK`] elements; the others stay on the calling thread.

use super::{bf16, e4m3, e5m2, e8m0, f16, tf32};
use crate::dtype::{DType, Overflow};
use crate::par::{self, simd};

/// Elements one task of a parallel codec handles, and so the length up to which one thread does it all. Measured: a
/// piece takes 15 us, about what waking a sleeping thread costs; at `1 << 16` a slice of `1 << 18` ran at half the
/// speed.
pub const CHUNK: usize = 1 << 18;

/// Decodes stored elements into f32 values.
pub fn decode(dtype: DType, src: &[u8], dst: &mut [f32]) {
    // No elements, as those of an empty `Vec<u8>`, lie nowhere in particular; the casts below ask for an alignment.
    if src.is_empty() && dst.is_empty() {
        return;
    }
    match dtype {
        DType::F32 | DType::Tf32 => dst.copy_from_slice(bytemuck::cast_slice(src)),
        DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 | DType::U32 | DType::I32 => {
            decode_with(dtype, src, dst, Same);
        }
    }
}

/// Decodes stored elements and multiplies each by `scale_inv`, in f32.
pub fn decode_scaled(dtype: DType, src: &[u8], scale_inv: f32, dst: &mut [f32]) {
    decode_with(dtype, src, dst, Times(scale_inv));
}

/// Encodes f32 values, rounding to nearest even.
pub fn encode(dtype: DType, overflow: Overflow, src: &[f32], dst: &mut [u8]) {
    match dtype {
        DType::F32 | DType::Tf32 => dst.copy_from_slice(bytemuck::cast_slice(src)),
        DType::F16 | DType::Bf16 | DType::E4m3 | DType::E5m2 | DType::E8m0 | DType::U32 | DType::I32 => {
            encode_with(dtype, overflow, src, dst, Same);
        }
    }
}

/// Encodes `x * scale`, the product rounded to f32 and then to `dtype`.
///
/// A NaN product has the sign that a number would have, so that its 8-bit code is the same on every machine (the sign
/// of `0 * inf` differs between processors).
pub fn encode_scaled(dtype: DType, overflow: Overflow, src: &[f32], scale: f32, dst: &mut [u8]) {
    encode_with(dtype, overflow, src, dst, Times(scale));
}

/// Rounds each value to the grid of `dtype` in place, under the dtype's own overflow rule.
pub fn round(dtype: DType, x: &mut [f32]) {
    match dtype {
        DType::F32 => {}
        DType::Tf32 => update(x, tf32::round),
        DType::F16 => update(x, f16::round),
        DType::Bf16 => update(x, bf16::round),
        DType::E4m3 => update(x, e4m3::round),
        DType::E5m2 => update(x, e5m2::round),
        DType::E8m0 => update(x, e8m0::round),
        DType::U32 => update(x, |x| x as u32 as f32),
        DType::I32 => update(x, |x| x as i32 as f32),
    }
}

/// [`decode`] on all threads.
pub fn decode_par(dtype: DType, src: &[u8], dst: &mut [f32]) {
    let size = dtype.size_bytes();
    par::chunks(dst, CHUNK, |i, dst| decode(dtype, &src[i * CHUNK * size..][..dst.len() * size], dst));
}

/// [`encode`] on all threads.
pub fn encode_par(dtype: DType, overflow: Overflow, src: &[f32], dst: &mut [u8]) {
    let size = dtype.size_bytes();
    par::chunks(dst, CHUNK * size, |i, dst| encode(dtype, overflow, &src[i * CHUNK..][..dst.len() / size], dst));
}

/// What happens to a value on its f32 side. A type, not a closure, so that it is inlined for certain.
trait Step: Copy {
    fn apply(self, x: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Same;

#[derive(Clone, Copy)]
struct Times(f32);

impl Step for Same {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        x
    }
}

impl Step for Times {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        let sign = (x.to_bits() ^ self.0.to_bits()) & 1 << 31;
        f32::from_bits((x * self.0).abs().to_bits() | sign)
    }
}

fn decode_with(dtype: DType, src: &[u8], dst: &mut [f32], step: impl Step) {
    match dtype {
        DType::F32 | DType::Tf32 => map(bytemuck::cast_slice(src), dst, move |x| step.apply(x)),
        DType::F16 => map(bytemuck::cast_slice(src), dst, move |c| step.apply(f16::decode(c))),
        DType::Bf16 => map(bytemuck::cast_slice(src), dst, move |c| step.apply(bf16::decode(c))),
        DType::E4m3 => map(src, dst, move |c| step.apply(e4m3::decode(c))),
        DType::E5m2 => map(src, dst, move |c| step.apply(e5m2::decode(c))),
        DType::E8m0 => map(src, dst, move |c| step.apply(e8m0::decode(c))),
        DType::U32 => map(bytemuck::cast_slice(src), dst, move |c: u32| step.apply(c as f32)),
        DType::I32 => map(bytemuck::cast_slice(src), dst, move |c: i32| step.apply(c as f32)),
    }
}

fn encode_with(dtype: DType, overflow: Overflow, src: &[f32], dst: &mut [u8], step: impl Step) {
    match dtype {
        DType::F32 | DType::Tf32 => map(src, bytemuck::cast_slice_mut(dst), move |x| step.apply(x)),
        DType::F16 => map(src, bytemuck::cast_slice_mut(dst), move |x| f16::encode(overflow, step.apply(x))),
        DType::Bf16 => map(src, bytemuck::cast_slice_mut(dst), move |x| bf16::encode(overflow, step.apply(x))),
        DType::E4m3 => map(src, dst, move |x| e4m3::encode(overflow, step.apply(x))),
        DType::E5m2 => map(src, dst, move |x| e5m2::encode(overflow, step.apply(x))),
        DType::E8m0 => map(src, dst, move |x| e8m0::encode(overflow, step.apply(x))),
        DType::U32 => map(src, bytemuck::cast_slice_mut(dst), move |x| step.apply(x) as u32),
        DType::I32 => map(src, bytemuck::cast_slice_mut(dst), move |x| step.apply(x) as i32),
    }
}

/// `dst[i] = f(src[i])`.
#[inline(always)]
fn map<S: Copy, D>(src: &[S], dst: &mut [D], f: impl Fn(S) -> D) {
    debug_assert_eq!(src.len(), dst.len());
    simd::vectorize(
        #[inline(always)]
        move || {
            for (d, &s) in dst.iter_mut().zip(src) {
                *d = f(s);
            }
        },
    );
}

/// `x[i] = f(x[i])`.
#[inline(always)]
fn update(x: &mut [f32], f: impl Fn(f32) -> f32) {
    simd::vectorize(
        #[inline(always)]
        move || {
            for x in x.iter_mut() {
                *x = f(*x);
            }
        },
    );
}

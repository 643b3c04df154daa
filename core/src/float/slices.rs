//! Slice codecs.

use super::{DType, Overflow};

/// Decodes stored elements into f32 values (u32 and i32 convert).
pub fn decode(dtype: DType, src: &[u8], dst: &mut [f32]) {
    match dtype {
        DType::F32 | DType::Tf32 => dst.copy_from_slice(bytemuck::cast_slice(src)),
        DType::F16 | DType::Bf16 => {
            for (d, &s) in dst.iter_mut().zip(bytemuck::cast_slice::<u8, u16>(src)) {
                *d = super::decode(dtype, s as u32);
            }
        }
        DType::E4m3 | DType::E5m2 | DType::E8m0 => {
            for (d, &s) in dst.iter_mut().zip(src) {
                *d = super::decode(dtype, s as u32);
            }
        }
        DType::U32 => dst.iter_mut().zip(bytemuck::cast_slice::<u8, u32>(src)).for_each(|(d, &s)| *d = s as f32),
        DType::I32 => dst.iter_mut().zip(bytemuck::cast_slice::<u8, i32>(src)).for_each(|(d, &s)| *d = s as f32),
    }
}

/// Encodes f32 values, round to nearest even.
pub fn encode(dtype: DType, overflow: Overflow, src: &[f32], dst: &mut [u8]) {
    match dtype {
        DType::F32 | DType::Tf32 => dst.copy_from_slice(bytemuck::cast_slice(src)),
        DType::F16 | DType::Bf16 => {
            for (&s, d) in src.iter().zip(bytemuck::cast_slice_mut::<u8, u16>(dst)) {
                *d = super::encode(dtype, overflow, s) as u16;
            }
        }
        DType::E4m3 | DType::E5m2 | DType::E8m0 => {
            for (&s, d) in src.iter().zip(dst) {
                *d = super::encode(dtype, overflow, s) as u8;
            }
        }
        DType::U32 => src.iter().zip(bytemuck::cast_slice_mut::<u8, u32>(dst)).for_each(|(&s, d)| *d = s as u32),
        DType::I32 => src.iter().zip(bytemuck::cast_slice_mut::<u8, i32>(dst)).for_each(|(&s, d)| *d = s as i32),
    }
}

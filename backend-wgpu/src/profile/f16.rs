//! Whether a device's own conversion decodes every f16 code, and every E4M3 code by way of it, as the CPU does. WGSL
//! allows it to lose subnormals and to make any NaN of a NaN.

use crate::context::Context;
use crate::launch::kernel;
use mantissa_core::error::Result;
use mantissa_core::float::{e4m3, f16};

/// Vectors that the probe writes: two codes of f16 in each.
const VECTORS: usize = 1 << 15;

/// Decodes every code by the functions that kernels of `context` have in front. Errs if the device fails.
pub(super) async fn decodes(context: &Context) -> Result<bool> {
    let every_code = kernel("f16_probe", "every_code").items(VECTORS);
    Ok(exact(&super::written(context, every_code, VECTORS * size_of::<[u32; 4]>()).await?))
}

/// Whether f16 came out to the bit, and E4M3 but for what a NaN carries.
fn exact(words: &[u32]) -> bool {
    let same = |bits: u32, want: f32| bits == want.to_bits() || (want.is_nan() && f32::from_bits(bits).is_nan());
    let vector = |(i, v): (u16, &[u32])| {
        let of_f16 = |code: u16| f16::decode(code).to_bits();
        let eight = i as u8;
        v[..2] == [of_f16(2 * i), of_f16(2 * i + 1)] && same(v[2], e4m3::decode(eight)) && same(v[3], e4m3::decode(!eight))
    };
    words.len() == 4 * VECTORS && (0u16..).zip(words.chunks_exact(4)).all(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_code_is_seen() {
        let f16_bits = |i: usize| f16::decode(i as u16).to_bits();
        let e4m3_bits = |i: usize| e4m3::decode(i as u8).to_bits();
        let vector = |i: usize| [f16_bits(2 * i), f16_bits(2 * i + 1), e4m3_bits(i), e4m3_bits(!i)];
        let right: Vec<u32> = (0..VECTORS).flat_map(vector).collect();
        assert!(exact(&right));
        assert!(!exact(&right[4..]));
        // A subnormal that was flushed, a NaN with another payload, a negative zero without its sign, a NaN of E4M3 as
        // 480.
        let changed = [(1, 0), (4 * (0x7c01 / 2) + 1, 0x7fc0_0000), (4 * (0x8000 / 2), 0), (4 * 0x7f + 2, 480f32.to_bits())];
        for (at, bits) in changed {
            let mut wrong = right.clone();
            assert_ne!(wrong[at], bits, "{at}");
            wrong[at] = bits;
            assert!(!exact(&wrong), "{at}");
        }
    }
}

//! MX quantization: blocks of 32 elements along a row or a column share one power-of-two scale (E8M0).
//!
//! Per block: amax (NaN left out) -> scale byte `b` by [`MxRule`] -> elements times the exact reciprocal `2^(127-b)` ->
//! satRNE. A value is `code * 2^(b-127)`. An all-zero block gets byte 0 (`2^-127`) and zero codes. An infinity gives
//! byte 0xFE under `Ceil` (it saturates) and 0xFF under `Floor` (the whole block is NaN). A NaN element stays NaN and
//! does not touch the scale. Last blocks may be ragged: they cover what is there.
//!
//! Exactness: the product with `2^(127-b)` is exact whenever it can reach a non-zero code, so the only rounding is the
//! encoder's. Byte 0xFE has the subnormal reciprocal `2^-127`, and byte 0 meets subnormal elements; hardware that
//! flushes subnormals gets the same codes with two normal factors (`2^-64 * 2^-63`) and by converting a subnormal's
//! mantissa as an integer. [`scale_byte`] itself never depends on a subnormal product.
//!
//! Sources: OCP Microscaling Formats 1.0, 5.2; Transformer Engine `common/cast/mxfp8`; arXiv 2506.08027;
//! docs/precision.md 1.2 and 5.

use super::bits::ordered_bits;
use super::chunks::{BLOCK, CHUNK};
use super::quantize::{QuantizeStats, Seen, amax_bits, count, encode_e4m3, encode_e5m2};
use crate::dtype::DType;
use crate::float::e8m0;
use crate::float::view::{View, ViewMut};
use crate::op::quantize::MxRule;
use crate::op::scale::{BlockAxis, MX_BLOCK};
use crate::par::{self, simd};

/// Quantizes `x: [R, C]` (any float dtype, `C = cols`) into codes `q: [R, C]` (E4M3 or E5M2) and E8M0 bytes `scales`
/// ([`BlockAxis::scales_shape`]). `stats`, where given, is overwritten.
pub fn quantize_mx(
    x: View<'_>,
    cols: usize,
    axis: BlockAxis,
    rule: MxRule,
    q: ViewMut<'_>,
    scales: &mut [u8],
    stats: Option<&mut QuantizeStats>,
) {
    debug_assert!(q.dtype.is_fp8() && x.len() == q.len());
    if x.is_empty() {
        stats.into_iter().for_each(|s| *s = QuantizeStats::default());
        return;
    }
    debug_assert!(x.len().is_multiple_of(cols));
    debug_assert_eq!(scales.len(), axis.scales_shape(x.len() / cols, cols).iter().product::<usize>());
    let seen = Seen::default();
    let scaler = Scaler::new(q.dtype, rule);
    match (q.dtype == DType::E4m3, stats.is_some()) {
        (true, false) => matrix::<false>(x, cols, axis, scaler, q.bytes, scales, &seen, encode_e4m3),
        (true, true) => matrix::<true>(x, cols, axis, scaler, q.bytes, scales, &seen, encode_e4m3),
        (false, false) => matrix::<false>(x, cols, axis, scaler, q.bytes, scales, &seen, encode_e5m2),
        (false, true) => matrix::<true>(x, cols, axis, scaler, q.bytes, scales, &seen, encode_e5m2),
    }
    if let Some(stats) = stats {
        *stats = seen.stats();
    }
}

/// E8M0 byte of a block whose largest magnitude is `amax`, for elements of `dtype`.
pub fn scale_byte(amax: f32, dtype: DType, rule: MxRule) -> u8 {
    Scaler::new(dtype, rule).byte(amax.to_bits())
}

/// [`MxRule`] for one element format, with its constants worked out.
///
/// `Ceil`: below `max * 2^-126` the product would be subnormal; there the byte is 0 or 1, decided by comparing `amax`
/// with the largest value whose product rounds to `2^-127`.
#[derive(Clone, Copy, Debug)]
pub struct Scaler {
    rule: MxRule,
    /// Exponent of the largest value.
    pub emax: i32,
    /// `f32(1 / max)`
    pub inv_max: f32,
    /// Bits of `max * 2^-126`.
    pub normal_from: u32,
    /// Bits of the largest amax with byte 0.
    pub zero_up_to: u32,
    /// Bits of max.
    pub max: u32,
}

impl Scaler {
    /// The constants of `rule` for elements of `dtype`.
    pub fn new(dtype: DType, rule: MxRule) -> Scaler {
        let max = dtype.max_f32();
        let normal_from = max * f32::MIN_POSITIVE;
        // The product's last place at 2^-127 is 2^-149, 2^-22 of it. An ulp of amax there, whose significand starts
        // with 1.75 as that of max does, is 2^-23 / 1.75 of it: one ulp up is less than half a place and still rounds
        // down.
        let zero_up_to = (0.5 * normal_from).to_bits() + 1;
        Scaler {
            rule,
            emax: e8m0::emax(dtype),
            inv_max: 1.0 / max,
            normal_from: normal_from.to_bits(),
            zero_up_to,
            max: max.to_bits(),
        }
    }

    /// The byte for the magnitude with these bits.
    #[inline(always)]
    fn byte(&self, amax: u32) -> u8 {
        match self.rule {
            MxRule::Floor => e8m0::encode_floor(f32::from_bits(amax), self.emax),
            MxRule::Ceil if amax < self.normal_from => u8::from(amax > self.zero_up_to),
            MxRule::Ceil => e8m0::encode_ceil(f32::from_bits(amax) * self.inv_max),
        }
    }
}

/// Splits the matrix into whole blocks: rows by the piece, columns by 32 rows.
fn matrix<const COUNT: bool>(
    x: View<'_>,
    cols: usize,
    axis: BlockAxis,
    scaler: Scaler,
    q: &mut [u8],
    scales: &mut [u8],
    seen: &Seen,
    encode: impl Fn(f32) -> u8 + Copy + Sync + Send,
) {
    let rows = match axis {
        BlockAxis::Last => (CHUNK / cols).max(1),
        BlockAxis::SecondLast => MX_BLOCK,
    };
    let [scale_rows, scale_cols] = axis.scales_shape(rows, cols);
    par::chunks2((q, rows * cols), (scales, scale_rows * scale_cols), |i, q, scales| {
        let start = i * rows * cols;
        let x = x.part(start..start + q.len());
        let mut stats = QuantizeStats::default();
        match axis {
            BlockAxis::Last => {
                for (r, (q, scales)) in q.chunks_mut(cols).zip(scales.chunks_mut(scale_cols)).enumerate() {
                    row::<COUNT>(x.part(r * cols..(r + 1) * cols), q, scales, scaler, &mut stats, encode);
                }
            }
            BlockAxis::SecondLast => columns::<COUNT>(x, cols, q, scales, scaler, &mut stats, encode),
        }
        if COUNT {
            seen.add(stats);
        }
    });
}

/// One row `x: [C]`, blocks along it.
fn row<const COUNT: bool>(
    x: View<'_>,
    q: &mut [u8],
    scales: &mut [u8],
    scaler: Scaler,
    stats: &mut QuantizeStats,
    encode: impl Fn(f32) -> u8 + Copy,
) {
    let mut scratch = [0.0; BLOCK];
    for (i, (q, scales)) in q.chunks_mut(BLOCK).zip(scales.chunks_mut(BLOCK / MX_BLOCK)).enumerate() {
        let x = x.load(i * BLOCK..i * BLOCK + q.len(), &mut scratch);
        simd::vectorize(
            #[inline(always)]
            || {
                let whole = x.len() / MX_BLOCK * MX_BLOCK;
                let (x, x_tail) = x.split_at(whole);
                let (q, q_tail) = q.split_at_mut(whole);
                // Blocks of a length known to the compiler: straight vector code without loop tails.
                for ((x, q), b) in x.chunks_exact(MX_BLOCK).zip(q.chunks_exact_mut(MX_BLOCK)).zip(scales.iter_mut()) {
                    *b = scaler.byte(amax_bits(x));
                    scaled::<COUNT>(x, q, e8m0::reciprocal(*b), scaler.max, stats, encode);
                }
                if let (false, Some(b)) = (x_tail.is_empty(), scales.last_mut()) {
                    *b = scaler.byte(amax_bits(x_tail));
                    scaled::<COUNT>(x_tail, q_tail, e8m0::reciprocal(*b), scaler.max, stats, encode);
                }
            },
        );
    }
}

/// Up to 32 rows `x: [r, C]`, one block a column. Rows are read twice, in stretches long enough for the prefetcher; the
/// second time from the L2 cache. (Tiles of 64 columns held in L1 ran at a third of the speed on large matrices.)
fn columns<const COUNT: bool>(
    x: View<'_>,
    cols: usize,
    q: &mut [u8],
    scales: &mut [u8],
    scaler: Scaler,
    stats: &mut QuantizeStats,
    encode: impl Fn(f32) -> u8 + Copy,
) {
    let rows = q.len() / cols;
    let mut scratch = [0.0; BLOCK];
    for (i, scales) in scales.chunks_mut(BLOCK).enumerate() {
        let (start, n) = (i * BLOCK, scales.len());
        let mut top = [0u32; BLOCK];
        for r in 0..rows {
            let x = x.load(r * cols + start..r * cols + start + n, &mut scratch);
            simd::vectorize(
                #[inline(always)]
                || {
                    for (top, &x) in top.iter_mut().zip(x) {
                        *top = ordered_bits(x).max(*top);
                    }
                },
            );
        }
        let mut factor = [0.0f32; BLOCK];
        for ((b, factor), &top) in scales.iter_mut().zip(&mut factor).zip(&top) {
            *b = scaler.byte(top);
            *factor = e8m0::reciprocal(*b);
        }
        for r in 0..rows {
            let range = r * cols + start..r * cols + start + n;
            let (x, q) = (x.load(range.clone(), &mut scratch), &mut q[range]);
            let s = simd::vectorize(
                #[inline(always)]
                || {
                    let mut s = QuantizeStats::default();
                    for ((q, &x), &factor) in q.iter_mut().zip(x).zip(&factor) {
                        let y = x * factor;
                        *q = encode(y);
                        if COUNT {
                            count(&mut s, x, y, *q, scaler.max);
                        }
                    }
                    s
                },
            );
            stats.merge(s);
        }
    }
}

/// One block along a row: multiply, encode, count.
#[inline(always)]
fn scaled<const COUNT: bool>(
    x: &[f32],
    q: &mut [u8],
    factor: f32,
    max: u32,
    stats: &mut QuantizeStats,
    encode: impl Fn(f32) -> u8 + Copy,
) {
    let mut s = QuantizeStats::default();
    for (q, &x) in q.iter_mut().zip(x) {
        let y = x * factor;
        *q = encode(y);
        if COUNT {
            count(&mut s, x, y, *q, max);
        }
    }
    stats.merge(s);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Overflow;
    use crate::float;
    use crate::rng::Rng;

    const FP8: [DType; 2] = [DType::E4m3, DType::E5m2];

    #[test]
    fn golden_scale_bytes() {
        // docs/precision.md 5.1: amax, round-up, floor.
        let rows = [
            (0.0, 0x00, 0x00),
            (1.0, 0x77, 0x77),
            (1.75, 0x77, 0x77),
            (f32::from_bits(1.75f32.to_bits() + 1), 0x78, 0x77),
            (150.0, 0x7E, 0x7E),
            (224.0, 0x7E, 0x7E),
            (256.0, 0x7F, 0x7F),
            (448.0, 0x7F, 0x7F),
            (f32::from_bits(0x43E0_0003), 0x80, 0x7F),
            (500.0, 0x80, 0x7F),
            (512.0, 0x80, 0x80),
            (896.0, 0x80, 0x80),
            (3.4e38, 0xF7, 0xF6),
            (f32::INFINITY, 0xFE, 0xFF),
            (f32::NAN, 0xFF, 0xFF),
        ];
        for (amax, ceil, floor) in rows {
            assert_eq!(scale_byte(amax, DType::E4m3, MxRule::Ceil), ceil, "{amax}");
            assert_eq!(scale_byte(amax, DType::E4m3, MxRule::Floor), floor, "{amax}");
        }
    }

    #[test]
    fn golden_reciprocals_of_the_largest_values() {
        // docs/precision.md 5.2.
        assert_eq!((1.0 / DType::E4m3.max_f32()).to_bits(), 0x3B12_4925);
        assert_eq!((1.0 / DType::E5m2.max_f32()).to_bits(), 0x3792_4925);
        for k in -120..=117 {
            let power = 2f32.powi(k);
            assert_eq!(448.0 * power * (1.0 / DType::E4m3.max_f32()), power);
            assert_eq!(scale_byte(448.0 * power, DType::E4m3, MxRule::Ceil), (127 + k) as u8);
        }
    }

    #[test]
    fn golden_block() {
        // docs/precision.md 5.3.
        let mut x = [0.0f32; 32];
        x[..6].copy_from_slice(&[500.0, 1.0, 0.5, -3.0, 0.01, 0.001]);
        for axis in [BlockAxis::Last, BlockAxis::SecondLast] {
            let cols = if axis == BlockAxis::Last { 32 } else { 1 };
            let (mut q, mut b, mut stats) = ([0u8; 32], [0u8], QuantizeStats::default());
            quantize_mx(View::of(&x), cols, axis, MxRule::Ceil, ViewMut::new(DType::E4m3, &mut q), &mut b, Some(&mut stats));
            assert_eq!((b[0], &q[..6], &q[6..]), (0x80, &[0x78, 0x30, 0x28, 0xBC, 0x03, 0x00][..], &[0; 26][..]));
            assert_eq!(stats, QuantizeStats { underflow: 1, saturated: 0, nonfinite: 0 });
            quantize_mx(View::of(&x), cols, axis, MxRule::Floor, ViewMut::new(DType::E4m3, &mut q), &mut b, Some(&mut stats));
            assert_eq!((b[0], &q[..6]), (0x7F, &[0x7E, 0x38, 0x30, 0xC4, 0x05, 0x01][..]));
            assert_eq!(stats, QuantizeStats { underflow: 0, saturated: 1, nonfinite: 0 });
        }
    }

    #[test]
    fn scale_byte_equals_the_product_rule_where_the_product_is_subnormal() {
        for dtype in FP8 {
            let max = dtype.max_f32();
            let product_rule = |bits: u32| e8m0::encode_ceil(f32::from_bits(bits) * (1.0 / max));
            for centre in
                [0.5 * max * f32::MIN_POSITIVE, max * f32::MIN_POSITIVE, f32::MIN_POSITIVE, 2.0 * max * f32::MIN_POSITIVE]
            {
                for bits in centre.to_bits() - 5000..centre.to_bits() + 5000 {
                    assert_eq!(scale_byte(f32::from_bits(bits), dtype, MxRule::Ceil), product_rule(bits), "{dtype} {bits:08x}");
                }
            }
            for bits in (0..0x0800_0000).step_by(997) {
                assert_eq!(scale_byte(f32::from_bits(bits), dtype, MxRule::Ceil), product_rule(bits), "{dtype} {bits:08x}");
            }
        }
    }

    #[test]
    fn round_up_never_saturates_a_finite_value() {
        let mut rng = Rng::new(5, 0);
        for dtype in FP8 {
            for _ in 0..200_000 {
                let amax = f32::from_bits(rng.next_u32() & 0x7FFF_FFFF);
                if amax.is_finite() {
                    let factor = f64::from(e8m0::reciprocal(scale_byte(amax, dtype, MxRule::Ceil)));
                    // The f32 reciprocal of max is a little large for both formats, so a slip of one ulp cannot pass
                    // 464.
                    assert!(f64::from(amax) * factor <= f64::from(dtype.max_f32()) * (1.0 + 1e-6), "{dtype} {amax:e}");
                }
            }
        }
    }

    /// Element by element in f64: the specification.
    fn oracle(x: &[f32], cols: usize, axis: BlockAxis, rule: MxRule, dtype: DType) -> (Vec<u8>, Vec<u8>) {
        let rows = x.len() / cols;
        let [_, scale_cols] = axis.scales_shape(rows, cols);
        let block = |i: usize| {
            let (r, c) = (i / cols, i % cols);
            if axis == BlockAxis::Last { r * scale_cols + c / MX_BLOCK } else { r / MX_BLOCK * scale_cols + c }
        };
        let mut amax = vec![0.0f32; axis.scales_shape(rows, cols).iter().product()];
        x.iter().enumerate().for_each(|(i, v)| amax[block(i)] = amax[block(i)].max(v.abs()));
        let bytes: Vec<u8> = amax.iter().map(|&a| scale_byte(a, dtype, rule)).collect();
        let q = x.iter().enumerate().map(|(i, &v)| {
            let b = bytes[block(i)];
            let y = if b == 0xFF { f64::NAN } else { f64::from(v) * 2f64.powi(127 - i32::from(b)) };
            // To f32 by truncation with a sticky bit, so that the encoder's rounding is the only one.
            let cut = f64::from_bits(y.to_bits() & !0x1FFF_FFFF) as f32;
            let y = if y.is_finite() && f64::from(cut) != y { f32::from_bits(cut.to_bits() | 1) } else { y as f32 };
            float::encode(dtype, Overflow::Saturate, y) as u8
        });
        (q.collect(), bytes)
    }

    #[test]
    fn equals_the_oracle_on_ragged_matrices_of_every_dtype() {
        let mut rng = Rng::new(11, 0);
        for (rows, cols) in [(1, 1), (3, 7), (33, 65), (65, 33), (7, 1100), (257, 96)] {
            // Magnitudes over the whole range of f32, subnormals and the largest included, similar within a block of
            // 32.
            let x: Vec<f32> = (0..rows * cols)
                .map(|i| {
                    let e = ((i % cols) / 32 + i / cols / 32) as i32 * 53 % 277 - 145;
                    let v = (f64::from(rng.normal()) * 2f64.powi(e)) as f32;
                    match rng.below(400) {
                        0 => f32::NAN,
                        1 if e > 100 => f32::INFINITY,
                        2 => -0.0,
                        _ => v,
                    }
                })
                .collect();
            for store in [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2] {
                let mut bytes = vec![0u8; x.len() * store.size_bytes()];
                float::slices::encode(store, store.overflow(), &x, &mut bytes);
                let view = View::new(store, &bytes);
                let mut wide = vec![0.0; x.len()];
                view.decode_into(&mut wide);
                for dtype in FP8 {
                    for (axis, rule) in [
                        (BlockAxis::Last, MxRule::Ceil),
                        (BlockAxis::Last, MxRule::Floor),
                        (BlockAxis::SecondLast, MxRule::Ceil),
                        (BlockAxis::SecondLast, MxRule::Floor),
                    ] {
                        let (expect_q, expect_b) = oracle(&wide, cols, axis, rule, dtype);
                        let (mut q, mut b) = (vec![0xAA; x.len()], vec![0xAA; expect_b.len()]);
                        let mut stats = QuantizeStats::default();
                        quantize_mx(view, cols, axis, rule, ViewMut::new(dtype, &mut q), &mut b, Some(&mut stats));
                        assert!(b == expect_b, "{store} {dtype} {axis:?} {rule:?} {rows}x{cols}");
                        assert!(q == expect_q, "{store} {dtype} {axis:?} {rule:?} {rows}x{cols}");
                        let lost = wide.iter().zip(&q).filter(|(x, q)| **x != 0.0 && *q & 0x7F == 0).count();
                        assert_eq!(stats.underflow as usize, lost);
                        assert_eq!(stats.nonfinite as usize, wide.iter().filter(|x| !x.is_finite()).count());
                    }
                }
            }
        }
    }

    #[test]
    fn infinities_and_empty_blocks() {
        let mut x = [1.0f32; 64];
        x[3] = f32::NEG_INFINITY;
        x[32..].fill(0.0);
        x[40] = f32::NAN;
        let (mut q, mut b) = ([0u8; 64], [9u8; 2]);
        quantize_mx(View::of(&x), 64, BlockAxis::Last, MxRule::Ceil, ViewMut::new(DType::E4m3, &mut q), &mut b, None);
        assert_eq!((b, q[0], q[3], q[32], q[40]), ([0xFE, 0x00], 0, 0xFE, 0, 0x7F));
        quantize_mx(View::of(&x), 64, BlockAxis::Last, MxRule::Floor, ViewMut::new(DType::E4m3, &mut q), &mut b, None);
        assert_eq!((b, q[0] & 0x7F, q[32], q[40]), ([0xFF, 0x00], 0x7F, 0, 0x7F));
        quantize_mx(View::of::<f32>(&[]), 0, BlockAxis::Last, MxRule::Ceil, ViewMut::new(DType::E4m3, &mut []), &mut [], None);
    }
}

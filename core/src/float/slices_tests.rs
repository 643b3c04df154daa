//! The slice codecs against the scalar ones and the f64 oracle, on a sample always and on every f32 when asked:
//! `cargo test -p mantissa-core --lib float::slices_tests -- --ignored` (about two minutes on two cores).

use super::oracle::Oracle;
use super::slices::*;
use super::tests::{MODES, NARROW, e8m0_oracle, stratified};
use crate::dtype::DType::{self, Bf16, E4m3, E5m2, E8m0, F16, F32, Tf32};
use crate::dtype::Overflow::{self, Ieee, Saturate};
use crate::float::{self, e8m0};
use crate::par;

/// Element `i` of encoded bytes as a code.
fn code(dtype: DType, bytes: &[u8], i: usize) -> u32 {
    match dtype.size_bytes() {
        1 => u32::from(bytes[i]),
        2 => u32::from(bytemuck::cast_slice::<u8, u16>(bytes)[i]),
        _ => bytemuck::cast_slice::<u8, u32>(bytes)[i],
    }
}

/// Room for `n` elements of up to four bytes, aligned for any dtype.
fn room(n: usize) -> Vec<u32> {
    vec![0xAAAA_AAAA; n]
}

fn bytes_of(dtype: DType, room: &mut [u32], n: usize) -> &mut [u8] {
    &mut bytemuck::cast_slice_mut(room)[..n * dtype.size_bytes()]
}

/// The scalar codec, but Tf32 as memory holds it.
fn scalar_encode(dtype: DType, overflow: Overflow, x: f32) -> u32 {
    if matches!(dtype, Tf32) { x.to_bits() } else { float::encode(dtype, overflow, x) }
}

fn scalar_decode(dtype: DType, code: u32) -> f32 {
    if matches!(dtype, Tf32) { f32::from_bits(code) } else { float::decode(dtype, code) }
}

#[test]
fn slices_equal_scalars_at_awkward_lengths() {
    let sample = stratified();
    let mut room = room(sample.len());
    for dtype in DType::ALL {
        for overflow in MODES {
            for n in [0, 1, 3, 7, 15, 16, 17, 65, 257, 1000, sample.len()] {
                let x = &sample[sample.len() - n..];
                let bytes = bytes_of(dtype, &mut room, n);
                encode(dtype, overflow, x, bytes);
                let mut y = vec![0f32; n];
                decode(dtype, bytes, &mut y);
                for i in 0..n {
                    let want = scalar_encode(dtype, overflow, x[i]);
                    assert_eq!(code(dtype, bytes, i), want, "{dtype} {overflow:?} {:08x}", x[i].to_bits());
                    assert_eq!(y[i].to_bits(), scalar_decode(dtype, want).to_bits(), "{dtype} {want:x}");
                }
            }
        }
        let mut y = sample.clone();
        round(dtype, &mut y);
        for (x, y) in sample.iter().zip(&y) {
            assert_eq!(y.to_bits(), float::round_to(dtype, *x).to_bits(), "{dtype} {:08x}", x.to_bits());
        }
    }
}

#[test]
fn every_code_decodes_as_the_scalar_does() {
    for dtype in [F16, Bf16, E4m3, E5m2, E8m0] {
        let n = 1usize << (8 * dtype.size_bytes());
        let mut room = room(n);
        let bytes = bytes_of(dtype, &mut room, n);
        match dtype.size_bytes() {
            1 => bytes.iter_mut().zip(0u8..=u8::MAX).for_each(|(b, c)| *b = c),
            _ => bytemuck::cast_slice_mut::<u8, u16>(bytes).iter_mut().zip(0u16..=u16::MAX).for_each(|(b, c)| *b = c),
        }
        let mut y = vec![0f32; n];
        decode(dtype, bytes, &mut y);
        for (c, y) in y.iter().enumerate() {
            assert_eq!(y.to_bits(), float::decode(dtype, c as u32).to_bits(), "{dtype} {c:x}");
        }
    }
}

#[test]
fn scaled_forms_round_the_product() {
    let sample = stratified();
    let n = sample.len();
    let mut room = room(n);
    for dtype in DType::ALL {
        for scale in [1.0, 3.5, 0.1, -2.0, 1e38, 1e-38, 0.0, f32::INFINITY, f32::NAN] {
            let bytes = bytes_of(dtype, &mut room, n);
            encode_scaled(dtype, dtype.overflow(), &sample, scale, bytes);
            let mut y = vec![0f32; n];
            decode_scaled(dtype, bytes, scale, &mut y);
            for i in 0..n {
                let product = sample[i] * scale;
                let got = code(dtype, bytes, i);
                if product.is_nan() && dtype.is_float() {
                    let negative = sample[i].is_sign_negative() != scale.is_sign_negative();
                    let back = scalar_decode(dtype, got);
                    assert!(back.is_nan() && back.is_sign_negative() == negative, "{dtype} {scale} {}", sample[i]);
                } else {
                    let want = scalar_encode(dtype, dtype.overflow(), product);
                    assert_eq!(got, want, "{dtype} {scale} {:08x}", sample[i].to_bits());
                }
                let want = scalar_decode(dtype, got) * scale;
                assert!(y[i].to_bits() == want.to_bits() || y[i].is_nan() && want.is_nan(), "{dtype} {scale} {got:x}");
            }
        }
    }
}

#[test]
fn parallel_forms_equal_single_threaded_ones() {
    for n in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 257] {
        let x: Vec<f32> = (0..n as u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9))).collect();
        for dtype in [F32, F16, Bf16, E4m3, E5m2] {
            let (mut one, mut many) = (room(n), room(n));
            encode(dtype, dtype.overflow(), &x, bytes_of(dtype, &mut one, n));
            encode_par(dtype, dtype.overflow(), &x, bytes_of(dtype, &mut many, n));
            assert_eq!(one, many, "{dtype} {n}");
            let (mut y, mut z) = (vec![0f32; n], vec![0f32; n]);
            decode(dtype, bytes_of(dtype, &mut one, n), &mut y);
            decode_par(dtype, bytes_of(dtype, &mut many, n), &mut z);
            assert!(y.iter().zip(&z).all(|(y, z)| y.to_bits() == z.to_bits()), "{dtype} {n}");
        }
    }
}

/// All 2^32 inputs through the slice codec, the scalar codec and `round`, against the oracle.
fn exhaustive(dtype: DType) {
    const RUN: usize = 1 << 16;
    let oracle = Oracle::new(dtype);
    let mut failures = vec![None; (1usize << 32) / RUN];
    par::chunks(&mut failures, 64, |piece, failures| {
        let (mut x, mut y) = (vec![0f32; RUN], vec![0f32; RUN]);
        let (mut want, mut room) = (vec![0u32; RUN], room(RUN));
        for (i, failure) in failures.iter_mut().enumerate() {
            let first = ((piece * 64 + i) * RUN) as u32;
            x.iter_mut().zip(first..=u32::MAX).for_each(|(x, bits)| *x = f32::from_bits(bits));
            for overflow in [Saturate, Ieee] {
                // A run has one sign and one class: 2^16 divides the bits of infinity, whose successors are NaN.
                if x[1].is_nan() {
                    x.iter().zip(&mut want).for_each(|(&x, want)| *want = oracle.encode(overflow, x));
                } else {
                    oracle.encode_run(overflow, x[0], &mut want);
                }
                let mut wrong = (0..RUN).find(|&i| float::encode(dtype, overflow, x[i]) != want[i]);
                if !matches!(dtype, Tf32) {
                    let bytes = bytes_of(dtype, &mut room, RUN);
                    encode(dtype, overflow, &x, bytes);
                    wrong = wrong.or_else(|| match dtype.size_bytes() {
                        1 => (0..RUN).find(|&i| u32::from(bytes[i]) != want[i]),
                        _ => {
                            let codes = bytemuck::cast_slice::<u8, u16>(bytes);
                            (0..RUN).find(|&i| u32::from(codes[i]) != want[i])
                        }
                    });
                }
                if overflow == dtype.overflow() {
                    y.copy_from_slice(&x);
                    round(dtype, &mut y);
                    wrong = wrong.or_else(|| (0..RUN).find(|&i| y[i].to_bits() != float::decode(dtype, want[i]).to_bits()));
                }
                if let Some(i) = wrong {
                    *failure = Some((overflow, x[i].to_bits()));
                }
            }
        }
    });
    if let Some((overflow, bits)) = failures.into_iter().flatten().next() {
        panic!("{dtype} {overflow:?} {bits:08x}");
    }
}

#[test]
#[ignore = "2^32 inputs: 20 s on two cores"]
fn exhaustive_tf32() {
    exhaustive(Tf32);
}

#[test]
#[ignore = "2^32 inputs: 20 s on two cores"]
fn exhaustive_f16() {
    exhaustive(F16);
}

#[test]
#[ignore = "2^32 inputs: 20 s on two cores"]
fn exhaustive_bf16() {
    exhaustive(Bf16);
}

#[test]
#[ignore = "2^32 inputs: 20 s on two cores"]
fn exhaustive_e4m3() {
    exhaustive(E4m3);
}

#[test]
#[ignore = "2^32 inputs: 20 s on two cores"]
fn exhaustive_e5m2() {
    exhaustive(E5m2);
}

#[test]
#[ignore = "2^32 inputs: 20 s on two cores"]
fn exhaustive_e8m0() {
    const RUN: usize = 1 << 16;
    let mut failures = vec![None; (1usize << 32) / RUN];
    par::chunks(&mut failures, 64, |piece, failures| {
        let (mut x, mut codes) = (vec![0f32; RUN], vec![0u8; RUN]);
        for (i, failure) in failures.iter_mut().enumerate() {
            let first = ((piece * 64 + i) * RUN) as u32;
            x.iter_mut().zip(first..=u32::MAX).for_each(|(x, bits)| *x = f32::from_bits(bits));
            encode(E8m0, Ieee, &x, &mut codes);
            let wrong = (0..RUN).find(|&i| {
                let got = [codes[i], e8m0::encode_ceil(x[i]), e8m0::encode_floor(x[i], 0)];
                let beyond = if x[i].is_nan() { [0xFF; 3] } else { [0xFF, 0xFE, 0xFF] };
                got != e8m0_oracle(x[i]).unwrap_or(beyond)
            });
            *failure = wrong.map(|i| x[i].to_bits());
        }
    });
    assert_eq!(failures.into_iter().flatten().next(), None);
}

#[test]
fn exhaustive_runs_cover_what_the_oracle_covers_one_by_one() {
    for dtype in NARROW {
        let oracle = Oracle::new(dtype);
        for first in [0u32, 0x3A80_0000 - 500, 0x43E8_0000 - 500, 0x4770_0000 - 500, 0x7F80_0000 - 500, 0x8000_0000] {
            for overflow in MODES {
                let mut run = vec![0u32; 501];
                oracle.encode_run(overflow, f32::from_bits(first), &mut run);
                for (i, &code) in run.iter().enumerate() {
                    assert_eq!(code, oracle.encode(overflow, f32::from_bits(first + i as u32)), "{dtype} {first:x} + {i}");
                }
            }
        }
    }
}

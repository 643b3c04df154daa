//! Casts of safetensors files: every tensor is read, converted and written piece by piece, under its own name and shape.

use super::encoder::{Encoder, round_to_odd};
use crate::tensor_file::{self, Entry, Header, TensorFile};
use anyhow::{Result, bail};
use mantissa_core::DType;
use mantissa_core::float::slices;
use safetensors::Dtype;
use std::path::Path;

/// Elements converted at a time: a few tasks for each thread, and a few MiB.
const PIECE: usize = 4 * slices::CHUNK;

/// How the elements of a tensor lie in a file.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// Codes of a format of ours.
    Codes(DType),
    F64,
}

impl Source {
    fn size_bytes(self) -> usize {
        match self {
            Source::Codes(dtype) => dtype.size_bytes(),
            Source::F64 => size_of::<f64>(),
        }
    }

    /// As f32. What is cast on from there is as if it had been rounded once.
    fn decode(self, raw: &[u8], x: &mut [f32]) {
        match self {
            Source::Codes(dtype) => slices::decode_par(dtype, raw, x),
            Source::F64 => x.iter_mut().zip(bytemuck::cast_slice::<u8, f64>(raw)).for_each(|(x, v)| *x = round_to_odd(*v)),
        }
    }
}

/// Encodes every tensor of `input`; returns how many there are.
pub fn encode(input: &Path, output: &Path, encoder: &Encoder) -> Result<usize> {
    let sources = [
        (Dtype::F64, Source::F64),
        (Dtype::F32, Source::Codes(DType::F32)),
        (Dtype::F16, Source::Codes(DType::F16)),
        (Dtype::BF16, Source::Codes(DType::Bf16)),
        (Dtype::F8_E4M3, Source::Codes(DType::E4m3)),
        (Dtype::F8_E5M2, Source::Codes(DType::E5m2)),
        (Dtype::F8_E8M0, Source::Codes(DType::E8m0)),
    ];
    let source = |e: &Entry| sources.iter().find(|(stored, _)| *stored == e.dtype).map(|(_, source)| *source);
    convert(input, output, "a float type", stored_as(encoder.dtype()), source, |name, first, x, out| {
        encoder.encode(encoder.key(name), first, x, out);
    })
}

/// Decodes every tensor of `input`, which holds codes of `dtype`; returns how many there are.
pub fn decode(input: &Path, output: &Path, dtype: DType) -> Result<usize> {
    let (stored, native) = (stored_as(dtype), native(dtype));
    let expected = match native {
        Some(native) => format!("{stored:?} or {native:?}"),
        None => format!("{stored:?}"),
    };
    let source = |e: &Entry| (e.dtype == stored || Some(e.dtype) == native).then_some(Source::Codes(dtype));
    convert(input, output, &format!("{expected} ({dtype} codes)"), Dtype::F32, source, |_, _, x, out| {
        out.copy_from_slice(bytemuck::cast_slice(x));
    })
}

/// How codes of a format lie in a file.
fn stored_as(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 | DType::Tf32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::E4m3 | DType::E5m2 | DType::E8m0 => Dtype::U8,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
    }
}

/// The name that safetensors itself has for an 8-bit format.
fn native(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::E4m3 => Some(Dtype::F8_E4M3),
        DType::E5m2 => Some(Dtype::F8_E5M2),
        DType::E8m0 => Some(Dtype::F8_E8M0),
        DType::F32 | DType::Tf32 | DType::F16 | DType::Bf16 | DType::U32 | DType::I32 => None,
    }
}

/// Converts every tensor. `source` gives the way to read it, `put` writes f32 values (of tensor, from element, values) as `to`.
fn convert(
    input: &Path,
    output: &Path,
    expected: &str,
    to: Dtype,
    source: impl Fn(&Entry) -> Option<Source>,
    put: impl Fn(&str, u64, &[f32], &mut [u8]),
) -> Result<usize> {
    let mut file = TensorFile::open(input)?;
    let mut formats = Vec::new();
    for e in &file.header().entries {
        match source(e) {
            Some(source) => formats.push(source),
            None => bail!("cast: tensor `{}`: expected {expected}, found {:?}: {}", e.name, e.dtype, input.display()),
        }
    }
    let to_bytes = to.bitsize() / 8;
    let entries: Vec<Entry> = file.header().entries.clone();
    let new = |e: &Entry| Entry { dtype: to, size_bytes: e.numel * to_bytes, ..e.clone() };
    let header = Header { entries: entries.iter().map(new).collect(), metadata: file.header().metadata.clone() };

    // Buffers of words: aligned for every format.
    let piece = PIECE.min(entries.iter().map(|e| e.numel).max().unwrap_or(0));
    let (mut raw, mut x, mut codes) = (vec![0u64; piece], vec![0f32; piece], vec![0u32; piece]);
    tensor_file::write(output, &header, |out| {
        for (entry, source) in entries.iter().zip(formats) {
            let mut first = 0;
            while first < entry.numel {
                let n = piece.min(entry.numel - first);
                let raw = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut raw)[..n * source.size_bytes()];
                file.read_next(raw)?;
                little_endian(raw, source.size_bytes());
                source.decode(raw, &mut x[..n]);
                let codes = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut codes)[..n * to_bytes];
                put(&entry.name, first as u64, &x[..n], codes);
                little_endian(codes, to_bytes);
                out.write_all(codes)?;
                first += n;
            }
        }
        Ok(())
    })?;
    Ok(entries.len())
}

/// Between the byte order of files and that of this machine.
fn little_endian(bytes: &mut [u8], size: usize) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::cast::{CastMode, DTYPES};
    use mantissa_core::float;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;

    /// Values of every size and kind, more than one piece of them.
    fn values() -> Vec<f32> {
        let mut x =
            vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, 448.0, 464.0, 464.1, 57344.0, 1e30, -3.3e38];
        x.extend((0..PIECE + 1000).map(|i| f32::from_bits((i as u32).wrapping_mul(2_654_435_761))));
        x
    }

    fn save(path: &Path, tensors: &[(&str, Dtype, &[u8], &[usize])]) {
        let views = tensors.iter().map(|(n, d, b, s)| (*n, TensorView::new(*d, s.to_vec(), b).unwrap()));
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        std::fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    }

    #[test]
    fn files_hold_what_the_codecs_say_and_decode_back() {
        let dir = tempfile::tempdir().unwrap();
        let [input, coded, back] = ["in", "coded", "back"].map(|n| dir.path().join(n));
        let x = values();
        let half: Vec<u16> = (0..500).map(|i| i * 131).collect();
        let f32_bytes: &[u8] = bytemuck::cast_slice(&x);
        let half_bytes: &[u8] = bytemuck::cast_slice(&half);
        // Beyond f32 in range and in precision: 1 + 2^-8 is a tie of bf16 that the last part breaks.
        let doubles = [1.0, -1e300, 1e-300, f64::NAN, 1.0 + 2f64.powi(-8) + 2f64.powi(-40), -0.0, f64::INFINITY, 3.0];
        let f64_bytes: &[u8] = bytemuck::cast_slice(&doubles);
        save(
            &input,
            &[
                ("w", Dtype::F32, f32_bytes, &[x.len()]),
                ("h", Dtype::F16, half_bytes, &[50, 10]),
                ("b", Dtype::BF16, half_bytes, &[500]),
                ("d", Dtype::F64, f64_bytes, &[doubles.len()]),
                ("e", Dtype::F8_E5M2, &half_bytes[..256], &[256]),
                ("none", Dtype::F32, &[], &[0, 4]),
            ],
        );
        for (dtype, mode) in DTYPES.into_iter().flat_map(|d| [None, Some(CastMode::Stochastic)].map(|m| (d, m))) {
            let encoder = Encoder::new(dtype, mode, None, None).unwrap();
            assert_eq!(encode(&input, &coded, &encoder).unwrap(), 6);
            assert_eq!(decode(&coded, &back, dtype).unwrap(), 6);
            let bytes = std::fs::read(&back).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let decoded = |name: &str| -> Vec<u32> {
                let view = tensors.tensor(name).unwrap();
                assert_eq!(view.dtype(), Dtype::F32);
                view.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
            };
            let want =
                |name: &str, x: f32, i: usize| float::decode(dtype, encoder.code(encoder.key(name), i as u64, x)).to_bits();
            let w = decoded("w");
            assert_eq!(w.len(), x.len());
            for (i, &v) in x.iter().enumerate() {
                assert_eq!(w[i], want("w", v, i), "{dtype} {mode:?} {v:e}");
            }
            for (name, from) in [("h", DType::F16), ("b", DType::Bf16)] {
                for (i, bits) in decoded(name).into_iter().enumerate() {
                    assert_eq!(bits, want(name, float::decode(from, u32::from(half[i])), i), "{dtype} from {from}");
                }
            }
            for (i, &v) in doubles.iter().enumerate() {
                assert_eq!(decoded("d")[i], want("d", round_to_odd(v), i), "{dtype} {mode:?} {v:e}");
            }
            if dtype == DType::Bf16 && mode.is_none() {
                assert_eq!(f32::from_bits(decoded("d")[4]), 1.0078125, "rounded up, since it is above the tie");
            }
            for (i, bits) in decoded("e").into_iter().enumerate() {
                assert_eq!(bits, want("e", float::decode(DType::E5m2, u32::from(half_bytes[i])), i), "{dtype} from e5m2");
            }
            assert_eq!(tensors.tensor("h").unwrap().shape(), [50, 10]);
            assert_eq!(tensors.tensor("none").unwrap().shape(), [0, 4]);
        }
    }

    #[test]
    fn other_tensors_are_refused_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let [input, output] = ["in", "out"].map(|n| dir.path().join(n));
        save(&input, &[("a", Dtype::F32, &[0; 4], &[1]), ("ids", Dtype::I64, &[0; 8], &[1])]);
        let encoder = Encoder::new(DType::F16, None, None, None).unwrap();
        let message = encode(&input, &output, &encoder).unwrap_err().to_string();
        assert!(message.contains("tensor `ids`: expected a float type, found I64"), "{message}");
        let message = decode(&input, &output, DType::E4m3).unwrap_err().to_string();
        assert!(message.contains("expected U8 or F8_E4M3 (e4m3 codes), found"), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

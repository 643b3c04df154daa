//! Casts of safetensors files: every tensor is read, converted and written piece by piece, under its own name and
//! shape.
//!
//! Integers and booleans are no measurements to be rounded: they are copied. Values are written without a scale: the
//! value of a code is the value itself, rounded once, and for e8m0 `2^(code - 127)`. 8-bit formats have the types
//! F8_E4M3, F8_E5M2 and F8_E8M0 that PyTorch reads; files with their codes in U8, which earlier versions wrote, are
//! read too.

use super::encoder::{Encoder, round_to_odd};
use crate::files::write_through;
use crate::progress::Progress;
use crate::show::printable;
use crate::tensor_file::{self, Entry, Floats, Header, TensorFile, file_dtype, swap_if_big_endian};
use anyhow::{Result, bail};
use mantissa_core::DType;
use mantissa_core::float::slices;
use safetensors::Dtype;
use std::collections::BTreeSet;
use std::path::Path;

/// Elements converted at a time: a few tasks for each thread, and a few MiB.
const PIECE: usize = 4 * slices::CHUNK;

/// Types that are copied as they are.
const WHOLE: [Dtype; 9] =
    [Dtype::BOOL, Dtype::U8, Dtype::I8, Dtype::U16, Dtype::I16, Dtype::U32, Dtype::I32, Dtype::U64, Dtype::I64];

/// What was done with the tensors of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How many were converted.
    pub converted: usize,
    /// How many were copied.
    pub copied: usize,
    /// Types of those that were copied, by name.
    pub copied_types: BTreeSet<String>,
}

/// Encodes the tensors of any float type in `input`.
pub fn encode(input: &Path, output: &Path, encoder: &Encoder) -> Result<Done> {
    let file = TensorFile::open(input)?;
    let mut plan = Vec::new();
    for e in &file.header().entries {
        match Floats::of(e.dtype) {
            None if !WHOLE.contains(&e.dtype) => bail!(
                "cast: tensor `{}`: expected a float type of 8 bits or more, an integer or a boolean, found {}: {}",
                printable(&e.name),
                e.dtype,
                input.display()
            ),
            floats => plan.push(floats),
        }
    }
    convert(&file, &plan, "a float type", output, file_dtype(encoder.dtype()), |name, first, x, out| {
        encoder.encode(encoder.key(name), first, x, out);
    })
}

/// Decodes the tensors in `input` that hold codes of `dtype`.
pub fn decode(input: &Path, output: &Path, dtype: DType) -> Result<Done> {
    let file = TensorFile::open(input)?;
    let (entries, native) = (&file.header().entries, file_dtype(dtype));
    // Earlier versions wrote 8-bit codes as U8, and then nothing but U8.
    let earlier = matches!(dtype, DType::E4m3 | DType::E5m2 | DType::E8m0) && entries.iter().all(|e| e.dtype == Dtype::U8);
    let codes = if earlier { Dtype::U8 } else { native };
    let plan: Vec<Option<Floats>> = entries.iter().map(|e| (e.dtype == codes).then_some(Floats::Codes(dtype))).collect();
    convert(&file, &plan, &format!("{native} ({dtype} codes)"), output, Dtype::F32, |_, _, x, out| {
        out.copy_from_slice(bytemuck::cast_slice(x));
    })
}

/// Converts the tensors that `plan` says how to read, and copies the others. `put` writes f32 values (of tensor, from
/// element, values) as `to`.
fn convert(
    file: &TensorFile,
    plan: &[Option<Floats>],
    expected: &str,
    output: &Path,
    to: Dtype,
    put: impl Fn(&str, u64, &[f32], &mut [u8]),
) -> Result<Done> {
    let entries = &file.header().entries;
    let copied: Vec<&Entry> = entries.iter().zip(plan).filter(|(_, how)| how.is_none()).map(|(e, _)| e).collect();
    let copied_types: BTreeSet<String> = copied.iter().map(|e| e.dtype.to_string()).collect();
    let done = Done { converted: entries.len() - copied.len(), copied: copied.len(), copied_types };
    if done.converted == 0 && done.copied > 0 {
        let found = done.copied_types.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        bail!("cast: expected a tensor of {expected}, found {found} only: {}", file.path().display());
    }
    let to_bytes = to.bitsize() / 8;
    let new = |(e, how): (&Entry, &Option<Floats>)| match how {
        Some(_) => Entry { dtype: to, size_bytes: e.numel * to_bytes, ..e.clone() },
        None => e.clone(),
    };
    let header = Header { entries: entries.iter().zip(plan).map(new).collect(), metadata: file.header().metadata.clone() };

    // Buffers of words: aligned for every format.
    let words = |e: &Entry| e.size_bytes.div_ceil(size_of::<u64>()).max(e.numel);
    let piece = PIECE.min(entries.iter().map(words).max().unwrap_or(0));
    let (mut raw, mut x, mut codes) = (vec![0u64; piece], vec![0f32; piece], vec![0u32; piece]);
    let total: usize = entries.iter().map(|e| e.size_bytes).sum();
    let mut progress = Progress::new("cast", "bytes", total as u64, false);
    write_through(output, |to_file| {
        tensor_file::write(to_file, &header, |out| {
            for (index, (entry, how)) in entries.iter().zip(plan).enumerate() {
                let Some(floats) = how else {
                    let raw = bytemuck::cast_slice_mut::<u64, u8>(&mut raw);
                    let mut at = 0;
                    while at < entry.size_bytes {
                        let n = raw.len().min(entry.size_bytes - at);
                        file.read_at(index, at, &mut raw[..n])?;
                        out.write_all(&raw[..n])?;
                        at += n;
                        progress.advance(n as u64);
                    }
                    continue;
                };
                let mut first = 0;
                while first < entry.numel {
                    let n = piece.min(entry.numel - first);
                    let raw = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut raw)[..n * floats.size_bytes()];
                    file.read_at(index, first * floats.size_bytes(), raw)?;
                    swap_if_big_endian(floats.size_bytes(), raw);
                    decode_piece(*floats, raw, &mut x[..n]);
                    let codes = &mut bytemuck::cast_slice_mut::<u32, u8>(&mut codes)[..n * to_bytes];
                    put(&entry.name, first as u64, &x[..n], codes);
                    swap_if_big_endian(to_bytes, codes);
                    out.write_all(codes)?;
                    first += n;
                    progress.advance((n * floats.size_bytes()) as u64);
                }
            }
            Ok(())
        })
    })?;
    Ok(done)
}

/// Values as f32, from bytes in the order of this machine. What is cast on from there is as if it had been rounded
/// once.
fn decode_piece(floats: Floats, raw: &[u8], x: &mut [f32]) {
    match floats {
        Floats::Codes(dtype) => slices::decode_par(dtype, raw, x),
        Floats::F64 => x.iter_mut().zip(bytemuck::cast_slice::<u8, f64>(raw)).for_each(|(x, v)| *x = round_to_odd(*v)),
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
                ("ids", Dtype::I64, f64_bytes, &[2, 4]),
                ("mask", Dtype::BOOL, &[1, 0, 1], &[3]),
            ],
        );
        for (dtype, mode) in DTYPES.into_iter().flat_map(|d| [None, Some(CastMode::Stochastic)].map(|m| (d, m))) {
            let encoder = Encoder::new(dtype, mode, None, None).unwrap();
            let both = Done { converted: 6, copied: 2, copied_types: ["BOOL", "I64"].map(String::from).into() };
            assert_eq!(encode(&input, &coded, &encoder).unwrap(), both);
            assert_eq!(decode(&coded, &back, dtype).unwrap(), both);
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
            assert_eq!(tensors.tensor("ids").unwrap().data(), f64_bytes);
            assert_eq!(tensors.tensor("mask").unwrap().data(), [1, 0, 1]);
        }
    }

    #[test]
    fn eight_bit_codes_have_types_of_their_own_and_the_earlier_form_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let [input, coded, earlier, back] = ["in", "coded", "earlier", "back"].map(|n| dir.path().join(n));
        let x = [1.0f32, -448.0, 0.5, 3.0];
        save(&input, &[("w", Dtype::F32, bytemuck::cast_slice(&x), &[4])]);
        for (dtype, stored) in [(DType::E4m3, Dtype::F8_E4M3), (DType::E5m2, Dtype::F8_E5M2), (DType::E8m0, Dtype::F8_E8M0)] {
            encode(&input, &coded, &Encoder::new(dtype, None, None, None).unwrap()).unwrap();
            let bytes = std::fs::read(&coded).unwrap();
            let codes = SafeTensors::deserialize(&bytes).unwrap().tensor("w").unwrap().data().to_vec();
            assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("w").unwrap().dtype(), stored);
            decode(&coded, &back, dtype).unwrap();
            let want = std::fs::read(&back).unwrap();
            save(&earlier, &[("w", Dtype::U8, &codes, &[4])]);
            decode(&earlier, &back, dtype).unwrap();
            assert_eq!(std::fs::read(&back).unwrap(), want, "{dtype}");
            // Beside codes of their own type, U8 are numbers.
            save(&earlier, &[("w", stored, &codes, &[4]), ("n", Dtype::U8, &[7], &[1])]);
            assert_eq!(decode(&earlier, &back, dtype).unwrap().copied, 1);
        }
    }

    #[test]
    fn files_without_anything_to_cast_and_narrow_types_are_refused_and_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let [input, output] = ["in", "out"].map(|n| dir.path().join(n));
        let encoder = Encoder::new(DType::F16, None, None, None).unwrap();
        save(&input, &[("ids", Dtype::I64, &[0; 8], &[1])]);
        let message = encode(&input, &output, &encoder).unwrap_err().to_string();
        assert!(message.contains("expected a tensor of a float type, found I64 only"), "{message}");
        let message = decode(&input, &output, DType::E4m3).unwrap_err().to_string();
        assert!(message.contains("expected a tensor of F8_E4M3 (e4m3 codes), found I64 only"), "{message}");
        save(&input, &[("a", Dtype::F32, &[0; 4], &[1]), ("q\u{1b}[2J", Dtype::F4, &[0; 4], &[8])]);
        let message = encode(&input, &output, &encoder).unwrap_err().to_string();
        assert!(message.contains("tensor `q\\u{1b}[2J`: expected a float type of 8 bits or more"), "{message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

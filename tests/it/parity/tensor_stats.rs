//! Statistics of tensors: the same counts, sums within the bound of the op.

use mantissa_core::DType;
use mantissa_core::op::tensor_stats::{TensorStats, WORDS, Word};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::machine::bytes_of;
use mantissa_tests::parity::Case;

const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

/// Values from the f32 subnormals to the largest, with zeros, infinities and NaN.
fn wide(n: usize) -> Vec<f32> {
    let mut x = normal(n, 1.0, 3);
    for (i, v) in x.iter_mut().enumerate() {
        *v *= ((i * 37 % 276) as f32 - 148.0).exp2();
    }
    for (at, v) in [(2, 0.0), (4, -0.0), (5, f32::INFINITY), (6, f32::NAN), (40, f32::NEG_INFINITY)] {
        x.iter_mut().skip(at).take(1).for_each(|x| *x = v);
    }
    x
}

fn check(dtype: DType, values: &[f32], format: DType, scale: Option<f32>) {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let of = |ty: Ty, values: &[f32]| (ty.clone(), bytes_of(&ty, values));
    let mut inputs = vec![of(Ty::new(dtype, [values.len()]), values)];
    inputs.extend(scale.map(|s| of(Ty::new(DType::F32, [3]), &[5.0, s, 7.0])));
    inputs.push((Ty::new(DType::U32, [2, WORDS]), vec![0xAB; 2 * WORDS * 4]));
    let op = TensorStats { format, scale_at: scale.map(|_| 1), slot: 1 };
    let name = format!("{dtype} [{}], {format}, scale {scale:?}", values.len());
    let case = Case::of_bytes(&name, op.op(), inputs);
    let row = |backend| -> Vec<u32> {
        let out = case.run(backend).unwrap_or_else(|e| panic!("{name}: {e}"));
        out[0].1.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let (want, got) = (row(&*cpu), row(&*gpu));
    let exact = WORDS + Word::Sum as usize;
    assert_eq!(want[..exact], got[..exact], "{name}");
    // Each of the two may be off by the op's bound. Terms are positive but for those of the first sum.
    let sum = |row: &[u32], w: Word| f64::from(f32::from_bits(row[WORDS + w as usize]));
    let bound = 2.0 * (80.0 + (values.len() as f64).log2()) * DType::F32.unit_roundoff();
    for (w, terms) in [
        (Word::Sum, Word::L1),
        (Word::L1, Word::L1),
        (Word::Squares, Word::Squares),
        (Word::Signal, Word::Signal),
        (Word::Noise, Word::Noise),
    ] {
        let (want, got) = (sum(&want, w), sum(&got, w));
        let allowed = bound * sum(&row(&*cpu), terms) + 1e-30;
        assert!((want - got).abs() <= allowed, "{name}, {w:?}: expected {want:e} within {allowed:e}, found {got:e}");
    }
}

#[test]
fn every_dtype_format_scale_and_size() {
    for n in [1, 3, 7, 65, 257, 32_767, 70_001] {
        for dtype in FLOATS {
            for format in FLOATS.into_iter().chain([DType::Tf32]) {
                for scale in [None, Some(0.37), Some(1024.0)] {
                    check(dtype, &wide(n), format, scale);
                }
            }
        }
    }
}

#[test]
fn tensors_of_one_kind() {
    let kinds = [
        vec![0.0; 9],
        vec![f32::NAN; 9],
        vec![f32::INFINITY, 1.0],
        vec![1e-45; 70],
        vec![3e38; 300],
        vec![1e-38; 300],
        vec![-1.0; 5],
    ];
    for values in kinds {
        for format in FLOATS {
            check(DType::F32, &values, format, None);
            check(DType::F32, &values, format, Some(2f32.powi(100)));
        }
    }
}

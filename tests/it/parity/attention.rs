//! Attention.

use mantissa_core::DType;
use mantissa_core::op::attention::{Attention, AttentionDropout};
use mantissa_core::op::{Op, Real};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::machine::bytes_of;
use mantissa_tests::parity::{Bound, Case};
use mantissa_tests::tolerance::ulps;

const DTYPES: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

/// B, T, H, KV, HS.
type Sizes = [usize; 5];

fn of([_, _, heads, kv_heads, hs]: Sizes, causal: bool, p: Option<f64>) -> Attention {
    let dropout = p.map(|p| AttentionDropout { p: Real(p), stream: 9 });
    Attention { heads, kv_heads, causal, scale: Real(1.0 / (hs as f64).sqrt()), dropout }
}

fn random_state() -> (Ty, Vec<u8>) {
    (Ty::new(DType::U32, [2]), [77u32, 5].iter().flat_map(|w| w.to_ne_bytes()).collect())
}

fn operand(dtype: DType, shape: [usize; 3], stream: u32) -> (Ty, Vec<u8>) {
    let ty = Ty::new(dtype, shape);
    let bytes = bytes_of(&ty, &normal(shape.iter().product(), 1.0, stream));
    (ty, bytes)
}

fn forward(dtype: DType, sizes: Sizes, o: Attention) -> Case {
    let [b, t, heads, kv_heads, hs] = sizes;
    let mut inputs = vec![operand(dtype, [b, t, (heads + 2 * kv_heads) * hs], 1)];
    inputs.extend(o.dropout.map(|_| random_state()));
    Case::of_bytes(format!("{o:?} {dtype} {sizes:?}"), Op::Attention(o), inputs)
}

/// The backward of a forward, whose outputs `y` and `stats` it takes.
fn backward(forward: &Case, made: Vec<(Ty, Vec<u8>)>, dy: DType) -> Case {
    let Op::Attention(o) = &forward.op else { panic!("{}: not attention", forward.name) };
    let shape = [made[0].0.shape[0], made[0].0.shape[1], made[0].0.shape[2]];
    let mut inputs = vec![forward.inputs[0].clone()];
    inputs.extend(made);
    inputs.push(operand(dy, shape, 2));
    inputs.extend(forward.inputs.get(1).cloned());
    Case::of_bytes(format!("{} backward", forward.name), Op::AttentionBackward(o.clone()), inputs)
}

fn check(dtype: DType, sizes: Sizes, causal: bool, p: Option<f64>) {
    let cpu = devices::cpu();
    let forward = forward(dtype, sizes, of(sizes, causal, p));
    let made = forward.run(&*cpu).expect("the specification runs");
    let backward = backward(&forward, made, dtype);
    for gpu in devices::wgpu_with_every_attention() {
        for case in [&forward, &backward] {
            case.check(&*cpu, &*gpu, &[Bound::Ulps(ulps(&case.op))]);
        }
    }
}

#[test]
fn every_dtype_and_head_size() {
    for dtype in DTYPES {
        check(dtype, [2, 37, 2, 1, 3], false, None);
        check(dtype, [2, 37, 2, 2, 16], true, None);
    }
    for (i, hs) in [1, 4, 7, 32, 65, 128].into_iter().enumerate() {
        check(DType::F32, [1, 21, 2, 1 + i % 2, hs], true, None);
    }
}

/// Scores of -inf, of f32's ends, and large ones: scores are `q low` for the first 64 keys and `q high` for the others.
#[test]
fn scores_at_the_ends_of_f32() {
    let (cpu, [t, hs]) = (devices::cpu(), [200, 8]);
    let levels =
        [(1e20, -1e20, 0.0), (1e20, -1e20, -1e20), (1e20, 1e20, 0.0), (1.0, -3e38, -3e38), (1.0, 1e5, 1e5), (1.0, -1e5, 0.0)];
    for gpu in devices::wgpu_with_every_attention() {
        for (q, low, high) in levels {
            for causal in [true, false] {
                let mut qkv = vec![0.0f32; t * 3 * hs];
                for (i, row) in qkv.chunks_mut(3 * hs).enumerate() {
                    (row[0], row[hs]) = (q, if i < 64 { low } else { high });
                    row[2 * hs..].fill(if i < 64 { 100.0 } else { (i % 4) as f32 });
                }
                let ty = Ty::new(DType::F32, [1, t, 3 * hs]);
                let o = Attention { heads: 1, kv_heads: 1, causal, scale: Real(1.0), dropout: None };
                let forward = Case::of_bytes(
                    format!("scores of {q:e} by {low:e} and {high:e}, causal {causal}"),
                    Op::Attention(o),
                    vec![(ty.clone(), bytes_of(&ty, &qkv))],
                );
                forward.check(&*cpu, &*gpu, &[Bound::Ulps(64.0)]);
                // dq and dk are differences that cancel, times q and keys of 1e20 and 3e38: those of values are
                // compared.
                let of_values = |backend: &dyn mantissa_core::backend::Backend| -> Vec<f32> {
                    let made = forward.run(backend).expect("a forward");
                    let out = backward(&forward, made, DType::F32).run(backend).expect("a backward");
                    let mut all = vec![0.0; t * 3 * hs];
                    mantissa_core::float::slices::decode(DType::F32, &out[0].1, &mut all);
                    all.chunks(3 * hs).flat_map(|row| row[2 * hs..].to_vec()).collect()
                };
                for (i, (want, got)) in of_values(&*cpu).into_iter().zip(of_values(&*gpu)).enumerate() {
                    let same = (want.is_nan() && got.is_nan()) || (want - got).abs() <= 1e-4;
                    assert!(same, "{}: dv[{i}] {got} for {want}", forward.name);
                }
            }
        }
    }
}

#[test]
fn lengths_around_the_tiles() {
    for t in [1, 3, 31, 32, 33, 65, 130, 257] {
        for causal in [true, false] {
            check(DType::F32, [1, t, 2, 2, 8], causal, None);
        }
    }
}

#[test]
fn grouped_queries_and_dropout() {
    for (heads, kv_heads) in [(6, 2), (4, 1), (3, 3)] {
        for (t, dtype) in [(40, DType::F32), (45, DType::Bf16)] {
            check(dtype, [2, t, heads, kv_heads, 8], true, Some(0.25));
        }
    }
}

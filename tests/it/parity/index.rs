//! Lookups by index, their scatter-adds in the order of the CPU, and the k largest: the same bits.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::embedding::EmbeddingBackward;
use mantissa_core::op::index::GatherBackward;
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::machine::bytes_of;
use mantissa_tests::parity::{Bound, Case};

const EXACT: &[Bound] = &[Bound::Exact];
const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

fn values(dtype: DType, shape: &[usize], seed: u32) -> (Ty, Vec<u8>) {
    let ty = Ty::new(dtype, shape.to_vec());
    let bytes = bytes_of(&ty, &normal(ty.shape.numel(), 1.0, seed));
    (ty, bytes)
}

/// Indices below `v`, a few of them outside.
fn ids(shape: &[usize], v: usize) -> (Ty, Vec<u8>) {
    let ty = Ty::new(DType::U32, shape.to_vec());
    let id = |i: usize| if i % 9 == 5 { [v as u32, u32::MAX][i % 2] } else { (i * i * 31 % v) as u32 };
    let bytes = (0..ty.shape.numel()).flat_map(|i| id(i).to_le_bytes()).collect();
    (ty, bytes)
}

#[test]
fn embedding_and_its_gradient() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for dtype in FLOATS {
        for (n, v, c) in [(1, 1, 1), (7, 3, 3), (40, 11, 7), (65, 257, 8), (300, 65, 65), (2048, 65, 128)] {
            let name = format!("{dtype} {n} of [{v}, {c}]");
            let lookup = vec![values(dtype, &[v, c], 1), ids(&[n], v)];
            Case::of_bytes(&name, Op::Embedding, lookup).check(&*cpu, &*gpu, EXACT);
            let dy = vec![ids(&[n], v), values(dtype, &[n, c], 2)];
            let op = Op::EmbeddingBackward(EmbeddingBackward { rows: v });
            Case::of_bytes(format!("gradient of {name}"), op, dy).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn gather_and_its_gradient() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for dtype in FLOATS {
        for (n, c, k) in [(1, 1, 1), (9, 3, 5), (7, 65, 1), (5, 257, 7), (33, 8, 4)] {
            let name = format!("{dtype} {k} of [{n}, {c}]");
            let x = vec![values(dtype, &[n, c], 1), ids(&[n, k], c)];
            Case::of_bytes(&name, Op::Gather, x).check(&*cpu, &*gpu, EXACT);
            let dy = vec![ids(&[n, k], c), values(dtype, &[n, k], 2)];
            let op = Op::GatherBackward(GatherBackward { last: c });
            Case::of_bytes(format!("gradient of {name}"), op, dy).check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn top_k_orders_ties_zeros_and_nan_as_the_cpu() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for dtype in FLOATS {
        for c in [1, 3, 65, 257, 1025] {
            let n = 7;
            let mut x = normal(n * c, 3.0, 3);
            for (i, x) in x.iter_mut().enumerate() {
                match i * 7 % 23 {
                    0 => *x = f32::NAN,
                    1 => *x = f32::NEG_INFINITY,
                    2 => *x = 0.0,
                    3 => *x = -0.0,
                    4 => *x = f32::INFINITY,
                    _ => {}
                }
            }
            x[..c].fill(f32::NAN);
            x[c..2 * c].fill(f32::NEG_INFINITY);
            let ty = Ty::new(dtype, [n, c]);
            for k in [1, 2, 5, 50].into_iter().filter(|&k| k <= c) {
                let inputs = vec![(ty.clone(), bytes_of(&ty, &x))];
                Case::of_bytes(format!("{dtype} {k} of {c}"), Op::TopK(k), inputs).check(&*cpu, &*gpu, EXACT);
            }
        }
    }
}

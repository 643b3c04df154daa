//! Pooling.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::conv::{Pool2d, PoolKind};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};
use mantissa_tests::tolerance::ulps;

const DTYPES: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

/// An image with window, stride and padding.
const SHAPES: [([usize; 4], [[usize; 2]; 3]); 6] = [
    ([1, 1, 1, 1], [[1, 1], [1, 1], [0, 0]]),
    ([2, 8, 8, 16], [[2, 2], [2, 2], [0, 0]]),
    ([2, 7, 9, 3], [[3, 3], [2, 2], [1, 1]]),
    ([1, 5, 6, 5], [[3, 2], [1, 3], [1, 1]]),
    ([1, 9, 4, 1], [[2, 4], [3, 1], [0, 2]]),
    ([3, 7, 7, 65], [[7, 7], [1, 1], [0, 0]]),
];

fn check(op: Pool2d, dtype: DType, shape: [usize; 4], x: &[f32]) {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let ty = Ty::new(dtype, shape);
    let forward = Op::Pool2d(op.clone());
    let y = forward.infer(std::slice::from_ref(&ty)).expect("a window that fits").remove(0);
    let bound = |op: &Op| if op_is_max(op) { Bound::Ulps(0.0) } else { Bound::Ulps(ulps(op)) };
    let name = format!("{op:?} {dtype} {shape:?}");
    Case::of(&name, forward.clone(), vec![(ty.clone(), x.to_vec())]).check(&*cpu, &*gpu, &[bound(&forward)]);
    let dy = normal(y.shape.numel(), 1.0, 2);
    let backward = Op::Pool2dBackward(op);
    let inputs = vec![(ty, x.to_vec()), (y, dy)];
    let bound = [Bound::Ulps(ulps(&backward))];
    Case::of(format!("{name} backward"), backward, inputs).check(&*cpu, &*gpu, &bound);
}

fn op_is_max(op: &Op) -> bool {
    matches!(op, Op::Pool2d(p) if p.kind == PoolKind::Max)
}

#[test]
fn every_dtype_window_and_kind() {
    for dtype in DTYPES {
        for (shape, [window, stride, padding]) in SHAPES {
            for kind in [PoolKind::Max, PoolKind::Average] {
                // Few distinct values: ties must go to the first.
                let x: Vec<f32> = normal(shape.iter().product(), 1.0, 1).iter().map(|v| (2.0 * v).round() / 2.0).collect();
                check(Pool2d { kind, window, stride, padding }, dtype, shape, &x);
            }
        }
    }
}

#[test]
fn nan_infinity_and_zeros_of_both_signs() {
    let mut x = normal(2 * 6 * 6 * 2, 1.0, 3);
    x[5] = f32::NAN;
    x[9] = f32::NAN;
    x[40] = f32::INFINITY;
    x[72..].fill(-0.0);
    x[90] = 0.0;
    x[100..].fill(f32::NEG_INFINITY);
    check(Pool2d { kind: PoolKind::Max, window: [3, 3], stride: [1, 2], padding: [1, 1] }, DType::F32, [2, 6, 6, 2], &x);
}

//! Operations that only move elements: the same bits, NaN payloads included, for rows that are whole words and rows
//! that are not.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::layout::Slice;
use mantissa_core::shape::Ty;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};

const EXACT: &[Bound] = &[Bound::Exact];
const DTYPES: [DType; 6] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2, DType::U32];

/// A value of distinct codes, NaN among them.
fn coded(dtype: DType, shape: &[usize], seed: u32) -> (Ty, Vec<u8>) {
    let ty = Ty::new(dtype, shape.to_vec());
    let words = (0..ty.size_bytes() as u32).map(|i| (i + seed).wrapping_mul(0x9E37_79B9) >> 13);
    (ty.clone(), words.map(|w| w as u8).collect())
}

#[test]
fn permute() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let cases: [(&[usize], &[usize]); 11] = [
        (&[1], &[0]),
        (&[3, 7], &[1, 0]),
        (&[65, 257], &[1, 0]),
        (&[2, 3, 5, 8], &[0, 2, 1, 3]),
        (&[2, 3, 5, 7], &[0, 2, 1, 3]),
        (&[2, 3, 4, 8], &[3, 1, 0, 2]),
        (&[7, 1, 3], &[2, 1, 0]),
        (&[4, 4, 4], &[0, 1, 2]),
        (&[], &[]),
        (&[2, 3, 2, 3, 2], &[4, 3, 2, 1, 0]),
        (&[2, 3, 2, 2, 3, 2, 2, 3], &[7, 5, 3, 1, 6, 4, 2, 0]),
    ];
    for dtype in DTYPES {
        for (shape, order) in cases {
            let case = Case::of_bytes(
                format!("{dtype} {shape:?} {order:?}"),
                Op::Permute(order.to_vec()),
                vec![coded(dtype, shape, 1)],
            );
            case.check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn concat() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    // Lengths of the parts, and the sizes before and behind the axis. More than seven parts take several launches.
    let cases: [(&[usize], usize, usize); 7] = [
        (&[1], 1, 1),
        (&[3, 1], 3, 1),
        (&[4, 8], 5, 4),
        (&[1, 2, 3], 7, 3),
        (&[65, 257], 3, 1),
        (&[1, 1, 2, 3, 1, 1, 5, 1, 2], 5, 1),
        (&[4, 4, 4, 8, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4], 3, 2),
    ];
    for dtype in DTYPES {
        for (lens, outer, inner) in cases {
            let parts = lens.iter().zip(1..).map(|(&len, seed)| coded(dtype, &[outer, len, inner], seed)).collect();
            Case::of_bytes(format!("{dtype} {lens:?} in [{outer}, .., {inner}]"), Op::Concat(1), parts)
                .check(&*cpu, &*gpu, EXACT);
        }
    }
}

#[test]
fn slice_and_its_gradient() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    // Start, end and length of the axis, and the sizes before and behind it.
    for (start, end, full, outer, inner) in
        [(0, 1, 1, 1, 1), (1, 4, 7, 3, 1), (4, 8, 16, 5, 4), (0, 65, 257, 3, 1), (64, 257, 257, 2, 3), (6, 7, 7, 65, 1)]
    {
        let s = Slice { axis: 1, start, end, full };
        for dtype in DTYPES {
            let name = format!("{dtype} {start}..{end} of {full} in [{outer}, .., {inner}]");
            let x = vec![coded(dtype, &[outer, full, inner], 1)];
            Case::of_bytes(&name, Op::Slice(s), x).check(&*cpu, &*gpu, EXACT);
            let dy = vec![coded(dtype, &[outer, end - start, inner], 2)];
            Case::of_bytes(format!("gradient of {name}"), Op::SliceBackward(s), dy).check(&*cpu, &*gpu, EXACT);
        }
    }
}

//! Reductions against f64 sums over every set of axes.

use super::*;
use crate::cpu::testing::{FLOATS, Stored, assert_close, normal};
use crate::dtype::DType;

const KINDS: [ReduceKind; 4] = [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::SumSq];

fn exact(kind: ReduceKind, x: &[f64], shape: &[usize], axes: u32) -> Vec<f64> {
    let kept: Vec<usize> = (0..shape.len()).filter(|i| axes >> i & 1 == 0).collect();
    let outputs: usize = kept.iter().map(|&i| shape[i]).product();
    let mut y = vec![if kind == ReduceKind::Max { f64::NEG_INFINITY } else { 0.0 }; outputs];
    for (i, &x) in x.iter().enumerate() {
        let (mut rest, mut index) = (i, vec![0; shape.len()]);
        for a in (0..shape.len()).rev() {
            index[a] = rest % shape[a];
            rest /= shape[a];
        }
        let y = &mut y[kept.iter().fold(0, |at, &a| at * shape[a] + index[a])];
        *y = match kind {
            ReduceKind::Sum | ReduceKind::Mean => *y + x,
            ReduceKind::Max => y.max(x),
            ReduceKind::SumSq => *y + x * x,
        };
    }
    if kind == ReduceKind::Mean {
        let count = shape.iter().product::<usize>() / outputs.max(1);
        y.iter_mut().for_each(|y| *y /= count as f64);
    }
    y
}

fn run(kind: ReduceKind, x: &Stored, shape: &[usize], axes: u32, dtype: DType, outputs: usize) -> Vec<f32> {
    let mut y = Stored::dirty(dtype, outputs);
    let mut work = vec![f32::NAN; reduce_work_len(shape, axes)];
    reduce(kind, x.view(), shape, axes, y.view_mut(), &mut work);
    y.values()
}

#[test]
fn every_set_of_axes_is_the_exact_sum() {
    for shape in [&[][..], &[1], &[257], &[3, 65], &[65, 1, 7], &[3, 7, 5, 9], &[2, 3, 1, 4, 5, 3]] {
        let x = Stored::of(DType::F32, &normal(shape.iter().product(), 1));
        for axes in 0..1u32 << shape.len() {
            for kind in KINDS {
                let want = exact(kind, &x.exact(), shape, axes);
                assert_close(
                    DType::F32,
                    &run(kind, &x, shape, axes, DType::F32, want.len()),
                    &want,
                    2e-6,
                    &format!("{kind:?} {shape:?} {axes:b}"),
                );
            }
        }
    }
}

#[test]
fn large_reductions_are_split_and_exact() {
    let shapes: [(&[usize], u32); 8] = [
        (&[300_001], 0b1),
        (&[3000, 65], 0b01),
        (&[50_000, 3], 0b01),
        (&[70_001, 1], 0b01),
        (&[2500, 384], 0b01),
        (&[100, 1000], 0b10),
        (&[16, 40, 300], 0b101),
        (&[30, 20, 257], 0b010),
    ];
    for (shape, axes) in shapes {
        let x = Stored::of(DType::F32, &normal(shape.iter().product(), 2).iter().map(|x| x + 1.0).collect::<Vec<_>>());
        for kind in KINDS {
            let want = exact(kind, &x.exact(), shape, axes);
            let got = run(kind, &x, shape, axes, DType::F32, want.len());
            assert_close(DType::F32, &got, &want, 1.5e-6, &format!("{kind:?} {shape:?} {axes:b}"));
        }
    }
    assert!(reduce_work_len(&[300_001], 1) > 0 && reduce_work_len(&[2500, 384], 1) > 0);
}

#[test]
fn every_dtype_in_and_out() {
    for from in FLOATS {
        for to in FLOATS {
            for (shape, axes) in [([70, 33], 0b01), ([70, 33], 0b10), ([1100, 65], 0b01), ([1100, 65], 0b11)] {
                let x = Stored::of(from, &normal(shape[0] * shape[1], 3));
                let want = exact(ReduceKind::Mean, &x.exact(), &shape, axes);
                assert_close(to, &run(ReduceKind::Mean, &x, &shape, axes, to, want.len()), &want, 2e-6, "mean");
            }
        }
    }
}

#[test]
fn non_finite_values_and_nothing() {
    for n in [5, 65, 100_000] {
        let mut x = vec![1.0; n];
        x[n / 2] = f32::NEG_INFINITY;
        assert_eq!(run(ReduceKind::Max, &Stored::of(DType::F32, &x), &[n], 1, DType::F32, 1), [1.0]);
        assert_eq!(run(ReduceKind::Sum, &Stored::of(DType::F32, &x), &[n], 1, DType::F32, 1), [f32::NEG_INFINITY]);
        x[n / 3] = f32::NAN;
        for kind in KINDS {
            assert!(run(kind, &Stored::of(DType::F32, &x), &[n], 1, DType::F32, 1)[0].is_nan(), "{kind:?} {n}");
            assert!(run(kind, &Stored::of(DType::F32, &x), &[n, 1], 1, DType::F32, 1)[0].is_nan(), "{kind:?} {n}");
        }
    }
    let nothing = Stored::of(DType::F32, &[]);
    for (axes, shape, outputs) in [(0b01, [0, 3], 3), (0b10, [3, 0], 3), (0b11, [0, 3], 1)] {
        let of = |kind| run(kind, &nothing, &shape, axes, DType::F32, outputs);
        assert_eq!(of(ReduceKind::Sum), vec![0.0; outputs]);
        assert_eq!(of(ReduceKind::Max), vec![f32::NEG_INFINITY; outputs]);
        assert!(of(ReduceKind::Mean).iter().all(|y| y.is_nan()));
    }
    assert!(run(ReduceKind::Sum, &nothing, &[0, 3], 0b10, DType::F32, 0).is_empty());
}

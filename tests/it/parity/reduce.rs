//! Reductions over any axes.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::reduce::{Reduce, ReduceKind};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};

const KINDS: [ReduceKind; 4] = [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::SumSq];

/// Terms that enter one after another into a blocked sum.
const TERMS: f64 = 64.0;

fn case(kind: ReduceKind, x: &[f32], shape: &[usize], axes: &[usize], [from, to]: [DType; 2]) -> (Case, Vec<Bound>) {
    let op = Op::Reduce(Reduce { kind, axes: axes.to_vec(), keep: false, out: to, round: None });
    let name = format!("{kind:?} of {shape:?} over {axes:?}, {from} to {to}");
    let bound = Bound::Absolute(bounds(kind, x, shape, axes));
    (Case::of(name, op, vec![(Ty::new(from, shape), x.to_vec())]), vec![bound])
}

/// `TERMS u sum |term|` of each output; a maximum is exact.
fn bounds(kind: ReduceKind, x: &[f32], shape: &[usize], axes: &[usize]) -> Vec<f64> {
    let kept = |i: &usize| !axes.contains(i);
    let outputs: usize = (0..shape.len()).filter(kept).map(|i| shape[i]).product();
    let points = x.len().checked_div(outputs).unwrap_or(0);
    let mut sums = vec![0.0; outputs.max(1)];
    for (i, &v) in x.iter().enumerate() {
        let (mut rest, mut out, mut stride) = (i, 0, 1);
        for (axis, &len) in shape.iter().enumerate().rev() {
            if kept(&axis) {
                out += rest % len * stride;
                stride *= len;
            }
            rest /= len;
        }
        let v = f64::from(v.abs());
        sums[out] += TERMS
            * DType::F32.unit_roundoff()
            * match kind {
                ReduceKind::Sum => v,
                ReduceKind::Mean => v / points as f64,
                ReduceKind::Max => 0.0,
                ReduceKind::SumSq => v * v,
            };
    }
    sums
}

#[test]
fn any_axes_of_any_shape() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let shapes: [(&[usize], &[&[usize]]); 10] = [
        (&[1], &[&[0]]),
        (&[7], &[&[0], &[]]),
        (&[3, 65], &[&[0], &[1], &[0, 1]]),
        (&[257, 3], &[&[0], &[1], &[0, 1]]),
        (&[2048, 65], &[&[0], &[1], &[0, 1]]),
        (&[5, 7, 9], &[&[1], &[0, 2], &[0], &[2]]),
        (&[3, 4, 5, 6, 2], &[&[1, 3], &[0, 2, 4], &[0, 3]]),
        (&[40_000, 3], &[&[0], &[0, 1]]),
        (&[300, 40], &[&[0], &[1]]),
        (&[20_000, 8], &[&[0]]),
    ];
    for (shape, all) in shapes {
        let x: Vec<f32> = normal(shape.iter().product(), 1.0, 1).iter().map(|v| v + 0.5).collect();
        for axes in all {
            for kind in KINDS {
                let (case, bound) = case(kind, &x, shape, axes, [DType::F32; 2]);
                case.check(&*cpu, &*gpu, &bound);
            }
        }
    }
}

#[test]
fn every_dtype_in_and_out() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let floats = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];
    for from in floats {
        for to in floats {
            for (shape, axes) in [([70, 33], &[0][..]), ([70, 33], &[1]), ([9, 300], &[0, 1]), ([150, 24], &[0])] {
                for kind in [ReduceKind::Mean, ReduceKind::Max] {
                    let (case, bound) = case(kind, &normal(shape[0] * shape[1], 1.0, 2), &shape, axes, [from, to]);
                    case.check(&*cpu, &*gpu, &bound);
                }
            }
        }
    }
}

#[test]
fn non_finite_values_and_subnormals() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for n in [5, 65, 100_000] {
        let mut x = vec![-1.0; n];
        x[n / 2] = f32::NEG_INFINITY;
        let mut with_nan = x.clone();
        with_nan[n / 3] = f32::NAN;
        let mut tiny = vec![-1e-40; n];
        tiny[n / 2] = -2e-40;
        let lowest = vec![f32::NEG_INFINITY; n];
        for (shape, axes) in [([n, 1], 0), ([1, n], 1)] {
            for x in [&x, &with_nan, &tiny, &lowest] {
                for kind in KINDS {
                    let (case, _) = case(kind, x, &shape, &[axes], [DType::F32; 2]);
                    // Subnormal sums may flush to zero, a maximum may not.
                    let bound = if kind == ReduceKind::Max { Bound::Exact } else { Bound::Absolute(vec![1e-35]) };
                    case.check(&*cpu, &*gpu, &[bound]);
                }
            }
        }
    }
}

#[test]
fn sums_that_round_before_an_f32_store() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    // Few terms with few bits: the sums are exact, so the roundings must agree to the bit.
    let x: Vec<f32> = (0..65 * 3).map(|i| ((i * 37) % 101) as f32 / 8.0 - 6.0).collect();
    for round in [DType::F16, DType::Bf16, DType::E4m3] {
        for (shape, axes) in [([65, 3], vec![0]), ([3, 65], vec![1])] {
            let op = Reduce { kind: ReduceKind::Sum, axes, keep: false, out: DType::F32, round: Some(round) };
            let inputs = vec![(Ty::new(DType::F32, shape), x.clone())];
            Case::of(format!("sum rounded to {round}"), Op::Reduce(op), inputs).check(&*cpu, &*gpu, &[Bound::Exact]);
        }
    }
}

//! Layer norm and RMS norm.

use mantissa_core::DType;
use mantissa_core::op::norm::{Norm, NormKind};
use mantissa_core::op::{Op, Real};
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};
use mantissa_tests::tolerance::ulps;

const DTYPES: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];
const SHAPES: [[usize; 2]; 8] = [[1, 1], [3, 7], [9, 65], [7, 257], [5, 64], [64, 48], [2, 1024], [3, 4100]];
const EPS: f32 = 1e-5;

fn of(kind: NormKind, affine: bool, bias: bool, out: DType) -> Norm {
    Norm { kind, eps: Real(f64::from(EPS)), affine, bias, out }
}

/// Weight near 1 and a small bias, `[c]`.
fn parameters(o: &Norm, dtype: DType, c: usize) -> Vec<(Ty, Vec<f32>)> {
    let weight = normal(c, 0.2, 5).into_iter().map(|w| 1.0 + w).collect();
    let all = [(o.affine, weight), (o.bias, normal(c, 0.3, 6))];
    all.into_iter().filter(|(has, _)| *has).map(|(_, v)| (Ty::new(dtype, [c]), v)).collect()
}

fn forward(x: &[f32], [n, c]: [usize; 2], dtype: DType, o: Norm) -> Case {
    let name = format!("{o:?} {dtype} [{n}, {c}]");
    let mut inputs = vec![(Ty::new(dtype, [n, c]), x.to_vec())];
    inputs.extend(parameters(&o, DType::F32, c));
    Case::of(name, Op::Norm(o), inputs)
}

fn backward([n, c]: [usize; 2], dtype: DType, o: Norm) -> Case {
    let name = format!("{o:?} backward {dtype} [{n}, {c}]");
    let x = normal(n * c, 1.0, 1);
    let (mut mean, mut rstd) = (vec![0.0; n], vec![0.0; n]);
    for (r, row) in x.chunks(c).enumerate() {
        if o.kind == NormKind::Layer {
            mean[r] = row.iter().sum::<f32>() / c as f32;
        }
        let var = row.iter().map(|v| (v - mean[r]).powi(2)).sum::<f32>() / c as f32;
        rstd[r] = 1.0 / (var + 0.1).sqrt();
    }
    let mut inputs = vec![(Ty::new(dtype, [n, c]), normal(n * c, 1.0, 2)), (Ty::new(dtype, [n, c]), x)];
    inputs.extend(parameters(&Norm { bias: false, ..o.clone() }, DType::F32, c));
    if o.kind == NormKind::Layer {
        inputs.push((Ty::new(DType::F32, [n]), mean));
    }
    inputs.push((Ty::new(DType::F32, [n]), rstd));
    Case::of(name, Op::NormBackward(o), inputs)
}

/// Bounds of the outputs of a forward over values of magnitude 1. A mean may cancel: its error is that of its terms.
fn bounds(o: &Norm) -> Vec<Bound> {
    let factor = ulps(&Op::Norm(o.clone()));
    let mean = (o.kind == NormKind::Layer).then(|| Bound::Absolute(vec![factor * DType::F32.unit_roundoff()]));
    std::iter::once(Bound::Ulps(factor)).chain(mean).chain([Bound::Ulps(factor)]).collect()
}

#[test]
fn norms_of_every_dtype_and_shape() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for kind in [NormKind::Layer, NormKind::Rms] {
        for dtype in DTYPES {
            for [n, c] in SHAPES {
                let o = of(kind, true, c % 2 == 1, dtype);
                forward(&normal(n * c, 1.0, 1), [n, c], dtype, o.clone()).check(&*cpu, &*gpu, &bounds(&o));
                backward([n, c], dtype, o.clone()).check(&*cpu, &*gpu, &[Bound::Ulps(ulps(&Op::NormBackward(o)))]);
            }
        }
    }
}

#[test]
fn parameters_are_optional_and_narrow_rows_may_be_stored_wider() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for kind in [NormKind::Layer, NormKind::Rms] {
        for (affine, bias) in [(false, false), (true, false), (true, true)] {
            for (x, y) in [(DType::Bf16, DType::F32), (DType::F32, DType::Bf16), (DType::E4m3, DType::F16)] {
                let o = of(kind, affine, bias, y);
                forward(&normal(6 * 33, 1.0, 1), [6, 33], x, o.clone()).check(&*cpu, &*gpu, &bounds(&o));
                for shape in [[2100, 10], [8300, 16]] {
                    backward(shape, x, o.clone()).check(&*cpu, &*gpu, &[Bound::Ulps(ulps(&Op::NormBackward(o.clone())))]);
                }
            }
        }
    }
}

/// Rows whose sums or squares leave f32, forward and backward from what the specification found.
#[test]
fn large_rows_and_rows_beyond_f32() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for c in [40, 65, 768] {
        let alternating = |x: f32| (0..c).map(move |i| if i % 2 == 0 { x } else { -x }).collect::<Vec<_>>();
        let mut outlier = normal(c, 1.0, 3);
        outlier[5] = -3e38;
        let mut infinite = normal(c, 1.0, 4);
        infinite[7] = f32::INFINITY;
        let rows = [
            alternating(1e19),
            alternating(1e30),
            alternating(3e38),
            normal(c, 1e25, 5),
            outlier,
            vec![1e30; c],
            vec![3e38; c],
            infinite,
            normal(c, 1.0, 6),
        ];
        let n = rows.len();
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (row, x) in rows.iter().enumerate() {
                // Alone, so that a bound by the largest element is that of the row.
                let o = of(kind, true, true, DType::F32);
                let case = forward(x, [1, c], DType::F32, o.clone());
                // A mean may cancel: its error is that of its terms.
                let terms = x.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
                let mean = Bound::Absolute(vec![64.0 * DType::F32.unit_roundoff() * terms]);
                let mean = (kind == NormKind::Layer).then_some(mean);
                let bounds: Vec<Bound> = [Bound::Ulps(64.0)].into_iter().chain(mean).chain([Bound::Ulps(64.0)]).collect();
                case.check(&*cpu, &*gpu, &bounds);
                let made = case.run(&*cpu).expect("the specification runs");
                let dy = (
                    Ty::new(DType::F32, [1, c]),
                    mantissa_tests::machine::bytes_of(&Ty::new(DType::F32, [1, c]), &normal(c, 1.0, 7)),
                );
                let mut inputs = vec![dy, case.inputs[0].clone(), case.inputs[1].clone()];
                inputs.extend(made.into_iter().skip(1));
                let backward = Case::of_bytes(format!("row {row} of {c}, {kind:?} backward"), Op::NormBackward(o), inputs);
                // Gradients of rows near the end of f32 are subnormal, which a device may flush.
                let made = backward.run(&*cpu).expect("the specification runs");
                let mut dx = vec![0.0f32; c];
                mantissa_core::float::slices::decode(DType::F32, &made[0].1, &mut dx);
                let largest = dx.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
                let of_dx = 512.0 * DType::F32.unit_roundoff() * largest + f64::from(f32::MIN_POSITIVE);
                backward.check(&*cpu, &*gpu, &[Bound::Absolute(vec![of_dx]), Bound::Ulps(64.0), Bound::Ulps(64.0)]);
            }
            // Beside each other, in rows that share a workgroup.
            let o = of(kind, true, false, DType::F32);
            forward(&rows.concat(), [n, c], DType::F32, o).check(&*cpu, &*gpu, &[Bound::Ulps(64.0)]);
        }
    }
}

#[test]
fn rows_with_an_offset_constant_rows_and_non_finite_rows() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let c = 40;
    let mut x = normal(6 * c, 1.0, 3);
    x[..c].iter_mut().for_each(|v| *v += 1000.0);
    x[c..2 * c].fill(0.1);
    x[2 * c] = f32::NAN;
    x[3 * c + 7] = f32::INFINITY;
    x[4 * c..5 * c].iter_mut().for_each(|v| *v *= 1e-20);
    for kind in [NormKind::Layer, NormKind::Rms] {
        // The offset of 1000 costs ten places of y; statistics keep theirs.
        let bounds = [Bound::Ulps(1e4), Bound::Ulps(32.0), Bound::Ulps(32.0)];
        forward(&x, [6, c], DType::F32, of(kind, true, true, DType::F32)).check(&*cpu, &*gpu, &bounds);
    }
}

//! Softmax and log-softmax.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::loss::Softmax;
use mantissa_core::shape::Ty;
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};
use mantissa_tests::tolerance::ulps;

const DTYPES: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];
const SHAPES: [[usize; 2]; 6] = [[1, 1], [3, 7], [9, 65], [7, 257], [64, 48], [3, 4100]];

fn forward(x: &[f32], [n, c]: [usize; 2], dtype: DType, log: bool, out: DType) -> Case {
    let inputs = vec![(Ty::new(dtype, [n, c]), x.to_vec())];
    Case::of(format!("softmax log {log} {dtype} to {out} [{n}, {c}]"), Op::Softmax(Softmax { log, out }), inputs)
}

fn backward([n, c]: [usize; 2], dtype: DType, log: bool, out: DType) -> Case {
    let x = normal(n * c, 2.0, 1);
    let y = x.chunks(c).flat_map(|row| {
        let ln_sum = row.iter().map(|v| v.exp()).sum::<f32>().ln();
        row.iter().map(move |v| if log { v - ln_sum } else { (v - ln_sum).exp() })
    });
    let inputs = vec![(Ty::new(dtype, [n, c]), y.collect()), (Ty::new(out, [n, c]), normal(n * c, 1.0, 2))];
    let name = format!("softmax backward log {log} {dtype} to {out} [{n}, {c}]");
    Case::of(name, Op::SoftmaxBackward(Softmax { log, out }), inputs)
}

#[test]
fn every_dtype_and_shape() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    for log in [false, true] {
        for dtype in DTYPES {
            for [n, c] in SHAPES {
                for out in [dtype, DType::F32] {
                    let case = forward(&normal(n * c, 2.0, 1), [n, c], dtype, log, out);
                    case.check(&*cpu, &*gpu, &[Bound::Ulps(ulps(&case.op))]);
                    // A sum over a row may cancel: its error is that of its terms.
                    let case = backward([n, c], dtype, log, out);
                    let bound = ulps(&case.op) * DType::F32.unit_roundoff() * 4.0 * (c as f64).sqrt();
                    case.check(&*cpu, &*gpu, &[Bound::Absolute(vec![bound])]);
                }
            }
        }
    }
}

#[test]
fn extreme_rows() {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let inf = f32::INFINITY;
    let x = [[1.0, f32::NAN, 2.0], [inf, 0.0, 1.0], [-inf, -inf, -inf], [-inf, 3.0e38, -3.0e38], [0.0, -inf, 0.0]].concat();
    for log in [false, true] {
        forward(&x, [5, 3], DType::F32, log, DType::F32).check(&*cpu, &*gpu, &[Bound::Absolute(vec![1e-6])]);
    }
}

//! Convolutions and their gradients: strides, padding, dilation, channels that fill no word.

use mantissa_core::DType;
use mantissa_core::op::Op;
use mantissa_core::op::conv::Conv2d;
use mantissa_core::shape::{Shape, Ty};
use mantissa_tests::data::normal;
use mantissa_tests::devices;
use mantissa_tests::parity::{Bound, Case};

const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2];

/// x [N, H, W, Cin], w [KH, KW, Cin, Cout], stride, padding, dilation.
type Geometry = ([usize; 4], [usize; 4], [usize; 2], [usize; 2], [usize; 2]);

const GEOMETRIES: [Geometry; 9] = [
    ([1, 1, 1, 1], [1, 1, 1, 1], [1, 1], [0, 0], [1, 1]),
    ([2, 7, 9, 3], [3, 3, 3, 5], [1, 1], [1, 1], [1, 1]),
    ([3, 8, 7, 1], [3, 2, 1, 17], [2, 2], [1, 0], [1, 1]),
    ([2, 9, 11, 7], [2, 3, 7, 3], [1, 2], [0, 2], [2, 2]),
    ([1, 5, 6, 33], [1, 1, 33, 16], [2, 3], [0, 0], [1, 1]),
    ([1, 4, 3, 2], [5, 5, 2, 33], [1, 1], [3, 4], [1, 1]),
    ([2, 6, 6, 4], [3, 3, 4, 4], [3, 2], [1, 1], [1, 3]),
    ([5, 20, 20, 8], [3, 3, 8, 24], [1, 1], [1, 1], [1, 1]),
    ([2, 2, 5, 3], [3, 3, 3, 4], [1, 1], [1, 1], [1, 1]),
];

/// The three operations on normal values, each compared to the CPU.
fn check((x, w, stride, padding, dilation): Geometry, from: DType, to: DType) {
    let (cpu, Some(gpu)) = (devices::cpu(), devices::wgpu()) else { return };
    let conv = Conv2d { stride, padding, dilation, x_shape: Shape::from(x), w_shape: Shape::from(w), out: to };
    let y = conv.y_shape().expect("the kernel fits");
    let [x, w, dy] = [conv.x_shape.clone(), conv.w_shape.clone(), y].map(|s| Ty { dtype: from, shape: s });
    let values = |t: &Ty, stream| (t.clone(), normal(t.shape.numel(), 1.0, stream));
    let taps = w.shape[0] * w.shape[1];
    let runs = [
        ("conv2d", Op::Conv2d(conv.clone()), [values(&x, 1), values(&w, 2)], taps * x.shape[3]),
        ("dgrad", Op::Conv2dDgrad(conv.clone()), [values(&dy, 3), values(&w, 2)], taps * w.shape[3]),
        ("wgrad", Op::Conv2dWgrad(conv), [values(&dy, 3), values(&x, 1)], dy.shape[..3].iter().product()),
    ];
    for (name, op, inputs, terms) in runs {
        // `K u sum |a||b|` on either side. The mean product of two standard normals is 2 / pi; 16 covers a lone large
        // one.
        let k = terms as f64;
        let bound = 1.5 * k * DType::F32.unit_roundoff() * (k + 16.0);
        let name = format!("{name} {from} to {to} x {} w {} {stride:?} {padding:?} {dilation:?}", x.shape, w.shape);
        Case::of(name, op, inputs.to_vec()).check(&*cpu, &*gpu, &[Bound::Absolute(vec![bound])]);
    }
}

#[test]
fn every_geometry() {
    for g in GEOMETRIES {
        check(g, DType::F32, DType::F32);
    }
}

#[test]
fn every_dtype() {
    for from in FLOATS {
        for g in [GEOMETRIES[1], GEOMETRIES[3], GEOMETRIES[6]] {
            check(g, from, from);
        }
        check(GEOMETRIES[7], from, DType::F32);
        check(GEOMETRIES[2], DType::Bf16, from);
    }
}

//! Convolutions against the seven-fold loop in f64; the gradients are its adjoints.

use super::*;
use crate::cpu::testing::{FLOATS, Stored, assert_close, normal};
use crate::dtype::DType;

fn shapes() -> Vec<ConvShape> {
    let shape = |n, input, cin, cout, kernel, stride, pad, dilation| ConvShape {
        n,
        input,
        cin,
        cout,
        window: Window { kernel, stride, pad, dilation },
    };
    vec![
        shape(1, [1, 1], 1, 1, [1, 1], [1, 1], [0, 0], [1, 1]),
        shape(2, [7, 9], 3, 5, [3, 3], [1, 1], [1, 1], [1, 1]),
        shape(3, [8, 7], 1, 17, [3, 2], [2, 2], [1, 0], [1, 1]),
        shape(2, [9, 11], 7, 3, [2, 3], [1, 2], [0, 2], [2, 2]),
        shape(1, [5, 6], 33, 16, [1, 1], [2, 3], [0, 0], [1, 1]),
        shape(1, [4, 3], 2, 33, [5, 5], [1, 1], [3, 4], [1, 1]),
        shape(2, [6, 6], 4, 4, [3, 3], [3, 2], [1, 1], [1, 3]),
        shape(9, [20, 20], 5, 24, [3, 3], [1, 1], [1, 1], [1, 1]),
        shape(2, [2, 5], 3, 4, [3, 3], [1, 1], [0, 0], [1, 1]),
    ]
}

/// Calls `f(x index, w index, y index)` for every product of the convolution.
fn products(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = s.output();
    let [h, w] = s.input;
    for p in 0..s.n * oh * ow {
        let (image, at) = (p / (oh * ow), [p / ow % oh, p % ow]);
        s.window.each_tap([h, w], at, |tap, pixel| {
            for ci in 0..s.cin {
                for co in 0..s.cout {
                    f((image * h * w + pixel) * s.cin + ci, (tap * s.cin + ci) * s.cout + co, p * s.cout + co);
                }
            }
        });
    }
}

#[test]
fn forward_and_gradients_are_the_sums_of_products_for_every_dtype() {
    for s in shapes() {
        let ([h, w], [oh, ow]) = (s.input, s.output());
        let (x_len, y_len, w_len) = (s.n * h * w * s.cin, s.n * oh * ow * s.cout, s.weight_len());
        for dtype in FLOATS {
            let (x, w, dy) = (
                Stored::of(dtype, &normal(x_len, 1)),
                Stored::of(dtype, &normal(w_len, 2)),
                Stored::of(dtype, &normal(y_len, 3)),
            );
            let (mut y, mut dx, mut dw) =
                (Stored::dirty(dtype, y_len), Stored::dirty(dtype, x_len), Stored::dirty(DType::F32, w_len));
            let nan = |len: usize| vec![f32::NAN; len];
            conv2d(x.view(), w.view(), &s, y.view_mut(), &mut nan(conv2d_work_len(&s)));
            conv2d_dgrad(dy.view(), w.view(), &s, dx.view_mut(), &mut nan(conv2d_dgrad_work_len(&s)));
            conv2d_wgrad(x.view(), dy.view(), &s, dw.view_mut(), &mut nan(conv2d_wgrad_work_len(&s)));
            let (x, w, dy) = (x.exact(), w.exact(), dy.exact());
            let (mut want_y, mut want_dx, mut want_dw) = (vec![0.0; y_len], vec![0.0; x_len], vec![0.0; w_len]);
            let (mut abs_y, mut abs_dx, mut abs_dw) = (want_y.clone(), want_dx.clone(), want_dw.clone());
            products(&s, |i, k, o| {
                want_y[o] += x[i] * w[k];
                want_dx[i] += dy[o] * w[k];
                want_dw[k] += x[i] * dy[o];
                abs_y[o] += (x[i] * w[k]).abs();
                abs_dx[i] += (dy[o] * w[k]).abs();
                abs_dw[k] += (x[i] * dy[o]).abs();
            });
            // Error of a sum of products: 2 u sum |a| |b| (the largest of the tensor), far below K u sum |a| |b|.
            let tol = |abs: &[f64]| 2.0 * DType::F32.unit_roundoff() * abs.iter().copied().fold(1.0, f64::max);
            assert_close(dtype, &y.values(), &want_y, tol(&abs_y), &format!("y {s:?}"));
            assert_close(dtype, &dx.values(), &want_dx, tol(&abs_dx), &format!("dx {s:?}"));
            assert_close(DType::F32, &dw.values(), &want_dw, tol(&abs_dw), &format!("dw {s:?}"));
        }
    }
}

#[test]
fn a_nan_reaches_exactly_the_outputs_that_read_it() {
    let s = ConvShape { n: 2, input: [6, 7], cin: 2, cout: 3, window: Window::square(3, 1, 1) };
    let mut x = normal(2 * 6 * 7 * 2, 4);
    let at = (3 * 7 + 2) * 2;
    x[at] = f32::NAN;
    let (x, w) = (Stored::of(DType::F32, &x), Stored::of(DType::F32, &normal(s.weight_len(), 5)));
    let mut y = Stored::dirty(DType::F32, 2 * 6 * 7 * 3);
    conv2d(x.view(), w.view(), &s, y.view_mut(), &mut vec![0.0; conv2d_work_len(&s)]);
    let mut reads = vec![false; y.values().len()];
    products(&s, |i, _, o| reads[o] |= i == at);
    assert!(y.values().iter().zip(&reads).all(|(y, &reads)| y.is_nan() == reads));
}

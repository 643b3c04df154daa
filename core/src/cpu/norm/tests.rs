//! Norms against f64 closed forms and finite differences.

use super::*;
use crate::cpu::testing::{FLOATS, SIZES, Stored, assert_close, normal, numeric_gradient};
use crate::dtype::DType;

const EPS: f64 = 1e-5;
const KINDS: [NormKind; 2] = [NormKind::Layer, NormKind::Rms];

/// Mean (0 for rms) and rstd of a row.
fn stats(kind: NormKind, x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = match kind {
        NormKind::Layer => x.iter().sum::<f64>() / n,
        NormKind::Rms => 0.0,
    };
    let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (var + EPS).sqrt())
}

fn closed_form(kind: NormKind, x: &[f64], c: usize, w: &[f64], b: &[f64]) -> Vec<f64> {
    let row = |x: &[f64]| {
        let (mean, rstd) = stats(kind, x);
        (0..c).map(|i| (x[i] - mean) * rstd * w[i] + b[i]).collect::<Vec<_>>()
    };
    x.chunks(c).flat_map(row).collect()
}

struct Forward {
    y: Stored,
    mean: Vec<f32>,
    rstd: Vec<f32>,
}

fn forward(kind: NormKind, x: &Stored, [n, c]: [usize; 2], w: Option<&Stored>, b: Option<&Stored>, y: DType) -> Forward {
    let mut out = Forward {
        y: Stored::dirty(y, n * c),
        mean: vec![7.0; if kind == NormKind::Layer { n } else { 0 }],
        rstd: vec![7.0; n],
    };
    let mut work = vec![f32::NAN; norm_work_len(n, c)];
    let (w, b) = (w.map(Stored::view), b.map(Stored::view));
    norm(kind, x.view(), [n, c], w, b, EPS as f32, out.y.view_mut(), &mut out.mean, &mut out.rstd, &mut work);
    out
}

#[test]
fn forward_is_the_closed_form_for_every_dtype() {
    for kind in KINDS {
        for dtype in FLOATS {
            for c in SIZES {
                let n = 5;
                let x = Stored::of(dtype, &normal(n * c, 1));
                let (w, b) = (Stored::of(DType::F32, &normal(c, 2)), Stored::of(DType::Bf16, &normal(c, 3)));
                let got = forward(kind, &x, [n, c], Some(&w), Some(&b), dtype);
                // With C = 1 the centred row is 0 exactly, in both.
                let want = closed_form(kind, &x.exact(), c, &w.exact(), &b.exact());
                assert_close(dtype, &got.y.values(), &want, 2e-6, "y");
                for (r, x) in x.exact().chunks(c).enumerate() {
                    let (mean, rstd) = stats(kind, x);
                    assert_close(DType::F32, &[got.rstd[r]], &[rstd], 2e-6, "rstd");
                    if kind == NormKind::Layer {
                        assert_close(DType::F32, &[got.mean[r]], &[mean], 1e-6, "mean");
                    }
                }
                let bare = forward(kind, &x, [n, c], None, None, DType::F32);
                let want = closed_form(kind, &x.exact(), c, &vec![1.0; c], &vec![0.0; c]);
                assert_close(DType::F32, &bare.y.values(), &want, 2e-6, "bare y");
            }
        }
    }
}

#[test]
fn a_large_mean_keeps_its_accuracy() {
    let (n, c) = (3, 1000);
    for offset in [1e3f32, 1e5, -1e6] {
        let x: Vec<f32> = normal(n * c, 4).iter().map(|x| x + offset).collect();
        let x = Stored::of(DType::F32, &x);
        let got = forward(NormKind::Layer, &x, [n, c], None, None, DType::F32);
        for (r, x) in x.exact().chunks(c).enumerate() {
            let (mean, rstd) = stats(NormKind::Layer, x);
            assert!((f64::from(got.rstd[r]) / rstd - 1.0).abs() <= 1e-6, "offset {offset}: rstd {} for {rstd}", got.rstd[r]);
            assert!((f64::from(got.mean[r]) / mean - 1.0).abs() <= 1.2e-7, "offset {offset}: mean {} for {mean}", got.mean[r]);
        }
    }
}

#[test]
fn backward_is_the_numeric_gradient() {
    for kind in KINDS {
        for [n, c] in [[1, 1], [3, 7], [5, 33], [2, 65]] {
            let (x, w, dy) = (normal(n * c, 5), normal(c, 6), normal(n * c, 7));
            let exact = |v: &[f32]| v.iter().copied().map(f64::from).collect::<Vec<_>>();
            let (xs, ws) = (Stored::of(DType::F32, &x), Stored::of(DType::F32, &w));
            let (dxs, dws, dbs) = backward(kind, &xs, &ws, &Stored::of(DType::F32, &dy), [n, c], DType::F32);
            let dy64 = exact(&dy);
            let loss = |x: &[f64], w: &[f64], b: &[f64]| -> f64 {
                closed_form(kind, x, c, w, b).iter().zip(&dy64).map(|(y, dy)| y * dy).sum()
            };
            let zero = vec![0.0; c];
            // With C = 1 the curvature of 1 / sqrt(x^2 + eps) spoils the central difference, not the kernel.
            let tol = if c == 1 { 2e-3 } else { 2e-5 };
            assert_close(DType::F32, &dxs.values(), &numeric_gradient(&exact(&x), |x| loss(x, &exact(&w), &zero)), tol, "dx");
            assert_close(
                DType::F32,
                &dws.values(),
                &numeric_gradient(&exact(&w), |w| loss(&exact(&x), w, &zero)),
                2e-5,
                "dweight",
            );
            assert_close(
                DType::F32,
                &dbs.values(),
                &numeric_gradient(&zero, |b| loss(&exact(&x), &exact(&w), b)),
                2e-5,
                "dbias",
            );
        }
    }
}

fn backward(kind: NormKind, x: &Stored, w: &Stored, dy: &Stored, [n, c]: [usize; 2], dtype: DType) -> (Stored, Stored, Stored) {
    let fwd = forward(kind, x, [n, c], Some(w), None, DType::F32);
    let (mut dx, mut dw, mut db) = (Stored::dirty(dtype, n * c), Stored::dirty(DType::F32, c), Stored::dirty(DType::F32, c));
    let mut work = vec![f32::NAN; norm_backward_work_len(n, c)];
    let (dw_out, db_out) = (Some(dw.view_mut()), Some(db.view_mut()));
    let (x, w, dy) = (x.view(), Some(w.view()), dy.view());
    norm_backward(kind, dy, x, [n, c], w, &fwd.mean, &fwd.rstd, dx.view_mut(), dw_out, db_out, &mut work);
    (dx, dw, db)
}

#[test]
fn backward_over_many_tasks_and_dtypes_is_the_closed_form() {
    let [n, c] = [1031, 257];
    assert!(rows::tasks(n, c) > 3);
    for kind in KINDS {
        for dtype in FLOATS {
            let (x, dy) = (Stored::of(dtype, &normal(n * c, 8)), Stored::of(dtype, &normal(n * c, 9)));
            let w = Stored::of(DType::F32, &normal(c, 10));
            let (dx, dw, db) = backward(kind, &x, &w, &dy, [n, c], dtype);
            let (x, dy, w) = (x.exact(), dy.exact(), w.exact());
            let (mut want_dx, mut want_dw, mut want_db) = (vec![], vec![0.0; c], vec![0.0; c]);
            for (x, dy) in x.chunks(c).zip(dy.chunks(c)) {
                let (mean, rstd) = stats(kind, x);
                let xhat: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
                let g: Vec<f64> = dy.iter().zip(&w).map(|(dy, w)| dy * w).collect();
                let mean_g = if kind == NormKind::Layer { g.iter().sum::<f64>() / c as f64 } else { 0.0 };
                let mean_gx = g.iter().zip(&xhat).map(|(g, x)| g * x).sum::<f64>() / c as f64;
                for i in 0..c {
                    want_dx.push(rstd * (g[i] - mean_g - xhat[i] * mean_gx));
                    want_dw[i] += dy[i] * xhat[i];
                    want_db[i] += dy[i];
                }
            }
            assert_close(dtype, &dx.values(), &want_dx, 3e-6, "dx");
            assert_close(DType::F32, &dw.values(), &want_dw, 2e-5, "dweight");
            assert_close(DType::F32, &db.values(), &want_db, 2e-5, "dbias");
        }
    }
}

/// Rows whose sums or squares leave f32, `[c]`.
fn large_rows(c: usize) -> Vec<(&'static str, Vec<f32>)> {
    let alternating = |x: f32| (0..c).map(|i| if i % 2 == 0 { x } else { -x }).collect::<Vec<_>>();
    vec![
        ("1e19", alternating(1e19)),
        ("1e30", alternating(1e30)),
        ("3e38", alternating(3e38)),
        ("the largest", alternating(f32::MAX)),
        ("one sided", (0..c).map(|i| 1e35 * i as f32).collect()),
        ("an outlier", (0..c).map(|i| if i == 5 { -3e38 } else { (i as f32).sin() }).collect()),
        ("opposite ends", (0..c).map(|i| if i == 5 { -3e38 } else { 3e38 }).collect()),
        ("normal", normal(c, 12).iter().map(|x| x * 1e25).collect()),
    ]
}

#[test]
fn large_rows_have_their_norm() {
    for kind in KINDS {
        for c in [7, 64, 65, 768] {
            for (name, x) in large_rows(c) {
                // bf16 reaches as far as f32.
                for dtype in [DType::F32, DType::Bf16] {
                    let x = x.iter().map(|&x| if dtype == DType::Bf16 { x * 0.99 } else { x }).collect::<Vec<_>>();
                    let (x, dy, w) = (Stored::of(dtype, &x), normal(c, 13), Stored::of(DType::F32, &normal(c, 14)));
                    let what = format!("{kind:?} of {name}, {c}, {dtype}");
                    let got = forward(kind, &x, [1, c], Some(&w), None, DType::F32);
                    let want = closed_form(kind, &x.exact(), c, &w.exact(), &vec![0.0; c]);
                    assert_close(DType::F32, &got.y.values(), &want, 4e-6, &what);
                    let (mean, rstd) = stats(kind, &x.exact());
                    // Beyond 8.5e37 an rstd is subnormal and has fewer places.
                    let near = |got: f32, want: f64, tol: f64| (f64::from(got) - want).abs() <= tol * want.abs() + 1.4e-45;
                    assert!(near(got.rstd[0], rstd, 1e-6), "{what}: rstd {:e} for {rstd:e}", got.rstd[0]);
                    if kind == NormKind::Layer {
                        let largest = x.exact().iter().fold(0.0f64, |m, x| m.max(x.abs()));
                        assert!((f64::from(got.mean[0]) - mean).abs() <= 1e-6 * largest, "{what}: mean {:e}", got.mean[0]);
                    }
                    let (dx, dw, _) = backward(kind, &x, &w, &Stored::of(DType::F32, &dy), [1, c], DType::F32);
                    let xhat: Vec<f64> = x.exact().iter().map(|x| (x - mean) * rstd).collect();
                    let g: Vec<f64> = dy.iter().zip(w.exact()).map(|(dy, w)| f64::from(*dy) * w).collect();
                    let mean_g = if kind == NormKind::Layer { g.iter().sum::<f64>() / c as f64 } else { 0.0 };
                    let mean_gx = g.iter().zip(&xhat).map(|(g, x)| g * x).sum::<f64>() / c as f64;
                    let largest = g.iter().fold(1.0f64, |m, g| m.max(g.abs())) * rstd * (c as f64).sqrt();
                    for (i, dx) in dx.values().into_iter().enumerate() {
                        let want = rstd * (g[i] - mean_g - xhat[i] * mean_gx);
                        assert!(
                            (f64::from(dx) - want).abs() <= 1e-5 * largest + 1.4e-45,
                            "{what}: dx[{i}] {dx:e} for {want:e}"
                        );
                    }
                    let want: Vec<f64> = dy.iter().zip(&xhat).map(|(dy, x)| f64::from(*dy) * x).collect();
                    assert_close(DType::F32, &dw.values(), &want, 1e-5, &format!("dweight of {what}"));
                }
            }
        }
    }
}

#[test]
fn a_large_row_of_equal_elements_is_zero_and_one_beyond_f32_is_nan() {
    for c in [7, 64, 768] {
        for x in [1e19f32, -1e30, 3e38, f32::MAX] {
            let row = Stored::of(DType::F32, &vec![x; c]);
            let got = forward(NormKind::Layer, &row, [1, c], None, None, DType::F32);
            assert!(got.y.values().iter().all(|y| *y == 0.0), "{x:e} of {c}: {:?}", got.y.values());
            assert_eq!(got.mean, [x], "{c}");
            let got = forward(NormKind::Rms, &row, [1, c], None, None, DType::F32);
            assert!(got.y.values().iter().all(|y| (y - x.signum()).abs() <= 2e-6), "{x:e} of {c}: {:?}", got.y.values());
        }
        for kind in KINDS {
            for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                let mut x = normal(c, 15);
                x[3] = bad;
                let got = forward(kind, &Stored::of(DType::F32, &x), [1, c], None, None, DType::F32);
                assert!(got.y.values().iter().all(|y| y.is_nan()) && got.rstd[0].is_nan(), "{kind:?} with {bad}");
            }
        }
    }
}

#[test]
fn non_finite_rows_stay_alone_and_empty_input_is_fine() {
    for kind in KINDS {
        let c = 65;
        let mut x = normal(3 * c, 11);
        x[c + 4] = f32::NAN;
        let x = Stored::of(DType::F32, &x);
        let y = forward(kind, &x, [3, c], None, None, DType::F32).y.values();
        assert!(y[..c].iter().chain(&y[2 * c..]).all(|y| y.is_finite()));
        assert!(y[c..2 * c].iter().all(|y| y.is_nan()));
        let empty = Stored::of(DType::F32, &[]);
        forward(kind, &empty, [0, c], None, None, DType::F32);
        let w = Stored::of(DType::F32, &vec![1.0; c]);
        let (_, dw, db) = backward(kind, &empty, &w, &empty, [0, c], DType::F32);
        assert!(dw.values().iter().chain(&db.values()).all(|&g| g == 0.0));
    }
}

//! The f32 matmul against f64 at awkward sizes and cuts, with non-finite operands, and for any number of threads.

use super::*;

/// Deterministic values in `[-1, 1]`.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = crate::rng::Rng::new(seed, 0);
    (0..n).map(|_| rng.uniform() * 2.0 - 1.0).collect()
}

/// `sum a*b` and `sum |a*b|` in f64.
fn exact(a: &[f32], b: &[f32], d: Dims) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for i in 0..d.m {
        for j in 0..d.n {
            let (mut sum, mut size) = (0.0, 0.0);
            for kk in 0..d.k {
                let a = f64::from(a[if d.trans_a { kk * d.m + i } else { i * d.k + kk }]);
                let b = f64::from(b[if d.trans_b { j * d.k + kk } else { kk * d.n + j }]);
                sum += a * b;
                size += (a * b).abs();
            }
            out.push((sum, size));
        }
    }
    out
}

fn check(d: Dims, alpha: f32, accumulate: bool, parallelism: Parallelism) {
    let (a, b) = (values(d.m * d.k, 1), values(d.k * d.n, 2));
    let old = if accumulate { values(d.m * d.n, 3) } else { vec![f32::NAN; d.m * d.n] };
    let mut c = old.clone();
    // Garbage in the scratch must not reach the result.
    let mut work = vec![f32::NAN; gemm_work_len(d, accumulate, parallelism)];
    gemm(&mut c, &a, &b, d, alpha, accumulate, parallelism, &mut work);
    for (i, (sum, size)) in exact(&a, &b, d).into_iter().enumerate() {
        let old = if accumulate { f64::from(old[i]) } else { 0.0 };
        let want = f64::from(alpha) * sum + old;
        let tol = (d.k as f64 + 4.0) * f64::from(f32::EPSILON) / 2.0 * (size * f64::from(alpha.abs()) + old.abs());
        let err = (f64::from(c[i]) - want).abs();
        assert!(err <= tol, "{d:?} {parallelism:?} element {i}: {} for {want}, tol {tol:e}", c[i]);
    }
}

#[test]
fn agrees_with_f64_at_awkward_sizes() {
    let sizes = [1, 3, 7, 33, 65];
    for m in sizes {
        for n in sizes {
            for k in [1, 7, 65, 257] {
                for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
                    let d = Dims { m, n, k, trans_a, trans_b };
                    check(d, 1.0, false, Parallelism::Par);
                    check(d, -0.75, true, Parallelism::Seq);
                }
            }
        }
    }
}

#[test]
fn agrees_with_f64_at_every_cut() {
    // Several row tasks, several groups, a split along k, and pieces of k and n.
    for (m, n, k) in [(300, 257, 500), (65, 140, 1100), (17, 20, 12700), (520, 9, 12400), (9, 700, 6500)] {
        for (trans_a, trans_b) in [(false, false), (false, true), (true, false)] {
            for parallelism in [Parallelism::Seq, Parallelism::Par] {
                check(Dims { m, n, k, trans_a, trans_b }, 0.5, true, parallelism);
            }
        }
    }
}

#[test]
fn an_empty_sum_is_zero_and_no_rows_are_fine() {
    let d = Dims { m: 2, n: 3, k: 0, trans_a: false, trans_b: false };
    let mut c = [f32::NAN; 6];
    gemm(&mut c, &[], &[], d, 1.0, false, Parallelism::Par, &mut vec![0.0; gemm_work_len(d, false, Parallelism::Par)]);
    assert_eq!(c, [0.0; 6]);
    gemm(&mut [], &[], &[0.0; 12], Dims { m: 0, n: 3, k: 4, ..d }, 1.0, false, Parallelism::Seq, &mut [0.0; 4096]);
}

#[test]
fn nan_and_infinity_stay_in_their_row_and_column() {
    let d = Dims { m: 9, n: 35, k: 11, trans_a: false, trans_b: false };
    let (mut a, b) = (values(d.m * d.k, 4), values(d.k * d.n, 5));
    a[2 * d.k + 3] = f32::NAN;
    a[5 * d.k] = f32::INFINITY;
    let mut c = vec![0.0; d.m * d.n];
    gemm(&mut c, &a, &b, d, 1.0, false, Parallelism::Par, &mut vec![0.0; gemm_work_len(d, false, Parallelism::Par)]);
    for i in 0..d.m {
        for j in 0..d.n {
            let x = c[i * d.n + j];
            match i {
                2 => assert!(x.is_nan()),
                5 => assert!(x.is_infinite() && (x > 0.0) == (b[j] > 0.0)),
                _ => assert!(x.is_finite()),
            }
        }
    }
}

#[test]
#[cfg(feature = "threads")]
fn bits_do_not_depend_on_the_number_of_threads() {
    for (m, n, k) in [(130, 140, 1100), (300, 257, 300)] {
        let d = Dims { m, n, k, trans_a: true, trans_b: false };
        let (a, b) = (values(m * k, 6), values(k * n, 7));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool");
            let mut c = vec![0.0f32; m * n];
            let mut work = vec![0.0; gemm_work_len(d, false, Parallelism::Par)];
            pool.install(|| gemm(&mut c, &a, &b, d, 1.0, false, Parallelism::Par, &mut work));
            c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(3));
    }
}

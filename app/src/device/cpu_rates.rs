//! What the CPU does at most, measured: products and copies.

use mantissa_core::cpu::gemm::{Dims, Parallelism, gemm, gemm_work_len};
use mantissa_core::par;
use std::time::{Duration, Instant};

/// Side of the square product that measures the peak.
const SIDE: usize = 512;
/// What [`flops`] measures, in words.
pub(super) const HOW: &str = "f32 product of 512^3";
/// How long the product is measured. On two busy cores, 50 ms found half the rate in every other try, and 150 ms in one
/// of ten: a round needs all cores for some milliseconds.
const TIME: Duration = Duration::from_millis(200);
/// f32 elements of the copy: 64 MiB, far beyond any cache it should not measure.
const COPY_LEN: usize = 1 << 24;
const COPY_ROUNDS: usize = 5;
const COPY_CHUNK: usize = 1 << 16;

/// Best rate of an f32 product over [`TIME`].
pub(super) fn flops() -> f64 {
    let n = SIDE;
    let d = Dims { m: n, n, k: n, trans_a: false, trans_b: false };
    let (a, b) = (vec![0.5; n * n], vec![0.25; n * n]);
    let mut c = vec![0.0; n * n];
    let mut work = vec![0.0; gemm_work_len(d, false, Parallelism::Par)];
    let start = Instant::now();
    let mut best = f64::INFINITY;
    // The first round warms threads and caches; the best of the others counts.
    for round in 0.. {
        let begin = Instant::now();
        gemm(&mut c, &a, &b, d, 1.0, false, Parallelism::Par, &mut work);
        std::hint::black_box(&c);
        if round > 0 {
            best = best.min(begin.elapsed().as_secs_f64());
            if start.elapsed() >= TIME {
                break;
            }
        }
    }
    2.0 * (n as f64).powi(3) / best
}

/// Best rate of a copy between two buffers, bytes read and written a second.
pub(super) fn copy() -> f64 {
    let (from, mut to) = (vec![1.0f32; COPY_LEN], vec![0.0f32; COPY_LEN]);
    let mut best = f64::INFINITY;
    for _ in 0..COPY_ROUNDS {
        let start = Instant::now();
        par::chunks(&mut to, COPY_CHUNK, |i, to| to.copy_from_slice(&from[i * COPY_CHUNK..][..to.len()]));
        std::hint::black_box(&to);
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * size_of_val(&from[..]) as f64 / best
}

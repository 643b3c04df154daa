//! Maximum and average pooling of images `[N, H, W, C]`, forward and backward.
//!
//! A window sees the taps inside the image only. The maximum of a window with a NaN is NaN, and the first maximum (in
//! tap order; the first NaN, if any) takes the whole gradient; it is found again from `x`, so the forward stores no
//! indices. A window without any tap inside gives -inf (max) or NaN (average, padding not counted). Arithmetic is f32,
//! rounded once.

use super::window::Window;
use super::{lanes, rows};
use crate::float::view::{View, ViewMut};
use crate::par::{self, simd};

/// Channels that are pooled at a time; their state stays on the stack.
const CHANNELS: usize = 128;

/// Tasks that a backward pass splits its images into.
const IMAGE_TASKS: usize = 16;

/// `y = max over taps`. `x: [n, h, w, c]`, `y: [n, oh, ow, c]`.
pub fn max_pool(x: View<'_>, shape: [usize; 4], window: &Window, y: ViewMut<'_>) {
    each_output(shape, window, y, |base, at, c0, block, y| {
        y.fill(f32::NEG_INFINITY);
        simd::vectorize(
            #[inline(always)]
            || {
                window.each_tap(
                    [shape[1], shape[2]],
                    at,
                    #[inline(always)]
                    |_, pixel| {
                        let from = (base + pixel) * shape[3] + c0;
                        let x = x.load(from..from + y.len(), block);
                        for (y, &x) in y.iter_mut().zip(x) {
                            *y = lanes::pick_max(*y, x);
                        }
                    },
                );
            },
        );
    });
}

/// `y = sum over taps / count`; `count` is the number of taps in the image or, with `count_pad`, of all taps.
pub fn avg_pool(x: View<'_>, shape: [usize; 4], window: &Window, count_pad: bool, y: ViewMut<'_>) {
    each_output(shape, window, y, |base, at, c0, block, y| {
        y.fill(0.0);
        simd::vectorize(
            #[inline(always)]
            || {
                window.each_tap(
                    [shape[1], shape[2]],
                    at,
                    #[inline(always)]
                    |_, pixel| {
                        let from = (base + pixel) * shape[3] + c0;
                        let x = x.load(from..from + y.len(), block);
                        for (y, &x) in y.iter_mut().zip(x) {
                            *y += x;
                        }
                    },
                );
            },
        );
        let count = divisor(window, shape, at, count_pad);
        y.iter_mut().for_each(|y| *y /= count);
    });
}

/// Scratch of the backward passes, in f32 elements: sums of an image per task where `dx` is narrower than f32.
pub fn pool_backward_work_len(dx: crate::DType, [n, h, w, c]: [usize; 4]) -> usize {
    if dx.size_bytes() == 4 { 0 } else { n.min(IMAGE_TASKS) * h * w * c }
}

/// `dx[first maximum] += dy`. `dy: [n, oh, ow, c]`, `x, dx: [n, h, w, c]`.
pub fn max_pool_backward(dy: View<'_>, x: View<'_>, shape: [usize; 4], window: &Window, dx: ViewMut<'_>, work: &mut [f32]) {
    let [_, h, w, c] = shape;
    each_gradient(dy, shape, window, dx, work, |base, at, c0, Scratch { block, best, first }, dy, dx| {
        let n = dy.len();
        let (best, first) = (&mut best[..n], &mut first[..n]);
        best.fill(f32::NEG_INFINITY);
        first.fill(u32::MAX);
        simd::vectorize(
            #[inline(always)]
            || {
                window.each_tap(
                    [h, w],
                    at,
                    #[inline(always)]
                    |tap, pixel| {
                        let from = (base + pixel) * c + c0;
                        let x = x.load(from..from + n, block);
                        challenge(x, tap as u32, best, first);
                    },
                );
                window.each_tap(
                    [h, w],
                    at,
                    #[inline(always)]
                    |tap, pixel| {
                        award(dy, first, tap as u32, &mut dx[pixel * c + c0..][..n]);
                    },
                );
            },
        );
    });
}

/// `dx[every tap] += dy / count`. `dy: [n, oh, ow, c]`, `dx: [n, h, w, c]`.
pub fn avg_pool_backward(dy: View<'_>, shape: [usize; 4], window: &Window, count_pad: bool, dx: ViewMut<'_>, work: &mut [f32]) {
    let [_, h, w, c] = shape;
    each_gradient(dy, shape, window, dx, work, |_, at, c0, _, dy, dx| {
        let count = divisor(window, shape, at, count_pad);
        simd::vectorize(
            #[inline(always)]
            || {
                window.each_tap(
                    [h, w],
                    at,
                    #[inline(always)]
                    |_, pixel| {
                        for (dx, &dy) in dx[pixel * c + c0..].iter_mut().zip(dy) {
                            *dx += dy / count;
                        }
                    },
                );
            },
        );
    });
}

/// Lets tap `tap` with values `x` take the lead where it is larger.
#[inline(always)]
fn challenge(x: &[f32], tap: u32, best: &mut [f32], first: &mut [u32]) {
    let n = x.len();
    let (best, first) = (&mut best[..n], &mut first[..n]);
    for j in 0..n {
        // A tap of -inf wins over nothing; a NaN wins over anything but an earlier NaN.
        let wins = (x[j] > best[j]) | (x[j].is_nan() & !best[j].is_nan()) | (first[j] == u32::MAX);
        best[j] = if wins { x[j] } else { best[j] };
        first[j] = if wins { tap } else { first[j] };
    }
}

/// Adds `dy` to the pixel of tap `tap` where that tap was the first maximum.
#[inline(always)]
fn award(dy: &[f32], first: &[u32], tap: u32, dx: &mut [f32]) {
    let n = dx.len();
    let (dy, first) = (&dy[..n], &first[..n]);
    for j in 0..n {
        dx[j] += if first[j] == tap { dy[j] } else { 0.0 };
    }
}

fn divisor(window: &Window, [_, h, w, _]: [usize; 4], at: [usize; 2], count_pad: bool) -> f32 {
    let mut inside = 0;
    window.each_tap([h, w], at, |_, _| inside += 1);
    if count_pad { window.taps() as f32 } else { inside as f32 }
}

/// Calls `f(first pixel of the image in x, [oh, ow], first channel, scratch, y)` for each block of channels of each
/// output pixel.
fn each_output(
    [n, h, w, c]: [usize; 4],
    window: &Window,
    y: ViewMut<'_>,
    f: impl Fn(usize, [usize; 2], usize, &mut [f32; CHANNELS], &mut [f32]) + Sync + Send,
) {
    let [oh, ow] = window.output([h, w]);
    debug_assert_eq!(y.len(), n * oh * ow * c);
    if y.is_empty() {
        return;
    }
    let (dtype, task) = (y.dtype, rows::per_task(n * oh * ow, c));
    par::chunks(y.bytes, task * c * dtype.size_bytes(), |i, y| {
        let mut y = ViewMut::new(dtype, y);
        let (mut block, mut out) = ([0.0f32; CHANNELS], [0.0f32; CHANNELS]);
        for p in 0..y.len() / c {
            let pixel = i * task + p;
            let (image, at) = (pixel / (oh * ow), [pixel / ow % oh, pixel % ow]);
            for c0 in (0..c).step_by(CHANNELS) {
                let range = p * c + c0..p * c + (c0 + CHANNELS).min(c);
                rows::write(&mut y, range, &mut out, |y| f(image * h * w, at, c0, &mut block, y));
            }
        }
    });
}

/// What a backward pass keeps for a block of channels.
struct Scratch {
    block: [f32; CHANNELS],
    best: [f32; CHANNELS],
    first: [u32; CHANNELS],
}

/// Zeroes each image of `dx` and calls `f(first pixel of the image in x, [oh, ow], first channel, scratch, dy, dx of
/// the image)` for each block of channels of each output pixel, in order.
fn each_gradient(
    dy: View<'_>,
    [n, h, w, c]: [usize; 4],
    window: &Window,
    mut dx: ViewMut<'_>,
    work: &mut [f32],
    f: impl Fn(usize, [usize; 2], usize, &mut Scratch, &[f32], &mut [f32]) + Sync + Send,
) {
    let [oh, ow] = window.output([h, w]);
    let image = h * w * c;
    debug_assert!(dy.len() == n * oh * ow * c && dx.len() == n * image);
    if dx.is_empty() {
        return;
    }
    let one = |i: usize, dx: &mut [f32]| {
        dx.fill(0.0);
        let mut dy_block = [0.0f32; CHANNELS];
        let mut scratch = Scratch { block: [0.0; CHANNELS], best: [0.0; CHANNELS], first: [0; CHANNELS] };
        for p in 0..oh * ow {
            for c0 in (0..c).step_by(CHANNELS) {
                let from = (i * oh * ow + p) * c;
                let dy = dy.load(from + c0..from + (c0 + CHANNELS).min(c), &mut dy_block);
                f(i * h * w, [p / ow, p % ow], c0, &mut scratch, dy, dx);
            }
        }
    };
    let (dtype, per_task) = (dx.dtype, n.div_ceil(IMAGE_TASKS));
    match dx.as_f32() {
        Some(dx) => par::chunks(dx, image, one),
        None => {
            let work = (&mut work[..n.min(IMAGE_TASKS) * image], image);
            par::chunks2((dx.bytes, per_task * image * dtype.size_bytes()), work, |t, dx, sums| {
                let mut dx = ViewMut::new(dtype, dx);
                for i in 0..dx.len() / image {
                    one(t * per_task + i, sums);
                    dx.store(i * image, sums);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{FLOATS, Stored, assert_close, normal, numeric_gradient};
    use crate::dtype::DType;

    const CASES: [([usize; 4], Window); 4] = [
        ([1, 1, 1, 1], Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0], dilation: [1, 1] }),
        ([20, 6, 4, 3], Window { kernel: [2, 2], stride: [2, 2], pad: [0, 0], dilation: [1, 1] }),
        ([2, 7, 5, 7], Window { kernel: [3, 2], stride: [2, 1], pad: [1, 1], dilation: [1, 2] }),
        ([1, 5, 4, 257], Window { kernel: [3, 3], stride: [1, 2], pad: [1, 1], dilation: [1, 1] }),
    ];

    fn exact(kind: &str, x: &[f64], [n, h, w, c]: [usize; 4], win: &Window) -> Vec<f64> {
        let [oh, ow] = win.output([h, w]);
        let mut y = vec![];
        for i in 0..n * oh * ow * c {
            let (image, at, ch) = (i / c / (oh * ow), [i / c / ow % oh, i / c % ow], i % c);
            let mut taps = vec![];
            win.each_tap([h, w], at, |_, pixel| taps.push(x[(image * h * w + pixel) * c + ch]));
            let sum = taps.iter().sum::<f64>();
            y.push(match kind {
                "max" => taps.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                "avg" => sum / taps.len() as f64,
                _ => sum / (win.kernel[0] * win.kernel[1]) as f64,
            });
        }
        y
    }

    fn forward(kind: &str, x: &Stored, shape: [usize; 4], win: &Window, y: &mut Stored) {
        match kind {
            "max" => max_pool(x.view(), shape, win, y.view_mut()),
            "avg" => avg_pool(x.view(), shape, win, false, y.view_mut()),
            _ => avg_pool(x.view(), shape, win, true, y.view_mut()),
        }
    }

    fn backward(kind: &str, dy: &Stored, x: &Stored, shape: [usize; 4], win: &Window, dtype: DType) -> Vec<f32> {
        let mut dx = Stored::dirty(dtype, shape.iter().product());
        let mut work = vec![f32::NAN; pool_backward_work_len(dtype, shape)];
        match kind {
            "max" => max_pool_backward(dy.view(), x.view(), shape, win, dx.view_mut(), &mut work),
            "avg" => avg_pool_backward(dy.view(), shape, win, false, dx.view_mut(), &mut work),
            _ => avg_pool_backward(dy.view(), shape, win, true, dx.view_mut(), &mut work),
        }
        dx.values()
    }

    #[test]
    fn forward_and_gradient_for_every_dtype() {
        for (shape, win) in CASES {
            for kind in ["max", "avg", "avg with padding"] {
                let x = Stored::of(DType::F32, &normal(shape.iter().product(), 1));
                let outputs = exact(kind, &x.exact(), shape, &win).len();
                let dy = Stored::of(DType::Bf16, &normal(outputs, 2));
                let loss = |x: &[f64]| exact(kind, x, shape, &win).iter().zip(dy.exact()).map(|(y, dy)| y * dy).sum::<f64>();
                let want_dx = numeric_gradient(&x.exact(), loss);
                for dtype in FLOATS {
                    let narrow = Stored::of(dtype, &x.values());
                    let mut y = Stored::dirty(dtype, outputs);
                    forward(kind, &narrow, shape, &win, &mut y);
                    assert_close(dtype, &y.values(), &exact(kind, &narrow.exact(), shape, &win), 1e-6, kind);
                    assert_close(dtype, &backward(kind, &dy, &x, shape, &win, dtype), &want_dx, 1e-6, kind);
                }
            }
        }
    }

    #[test]
    fn the_first_maximum_and_the_first_nan_take_the_gradient() {
        let (nan, low) = (f32::NAN, f32::NEG_INFINITY);
        let x = Stored::of(DType::F32, &[1.0, 1.0, 0.5, nan, nan, 9.0, low, low, low]);
        let (shape, win) = ([1, 1, 9, 1], Window { kernel: [1, 3], stride: [1, 3], pad: [0, 0], dilation: [1, 1] });
        let mut y = Stored::dirty(DType::F32, 3);
        forward("max", &x, shape, &win, &mut y);
        let y = y.values();
        assert!(y[0] == 1.0 && y[1].is_nan() && y[2] == low, "{y:?}");
        let dx = backward("max", &Stored::of(DType::F32, &[1.0, 2.0, 3.0]), &x, shape, &win, DType::F32);
        assert_eq!(dx, [1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0]);
    }
}

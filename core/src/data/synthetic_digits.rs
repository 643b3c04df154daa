//! Digits drawn by program: a labelled data set that is always there. Each is a polyline, sheared, turned, scaled,
//! shifted, drawn with a pen of random width and brightness, with noise on top.
//!
//! Only correctly rounded arithmetic is used (no library `sin`), so every machine draws the same bits.

use super::images::Images;
use crate::rng::Rng;

/// Rows and columns of a drawn image.
pub const SIDE: usize = 28;

/// Images that [`crate::data`] users get when they name no file.
pub const DEFAULT_COUNT: usize = 10_000;

/// One stroke per digit, in a unit square with y down.
const STROKES: [&[[f32; 2]]; 10] = [
    &[
        [0.5, 0.05],
        [0.75, 0.15],
        [0.88, 0.4],
        [0.88, 0.6],
        [0.75, 0.85],
        [0.5, 0.95],
        [0.25, 0.85],
        [0.12, 0.6],
        [0.12, 0.4],
        [0.25, 0.15],
        [0.5, 0.05],
    ],
    &[[0.3, 0.25], [0.55, 0.05], [0.55, 0.95]],
    &[[0.15, 0.25], [0.3, 0.08], [0.6, 0.05], [0.82, 0.2], [0.8, 0.4], [0.55, 0.62], [0.15, 0.95], [0.88, 0.95]],
    &[
        [0.15, 0.12],
        [0.45, 0.05],
        [0.78, 0.15],
        [0.78, 0.35],
        [0.45, 0.48],
        [0.82, 0.62],
        [0.82, 0.82],
        [0.5, 0.95],
        [0.15, 0.88],
    ],
    &[[0.65, 0.95], [0.65, 0.05], [0.1, 0.68], [0.9, 0.68]],
    &[[0.82, 0.05], [0.25, 0.05], [0.2, 0.45], [0.55, 0.4], [0.83, 0.55], [0.83, 0.78], [0.55, 0.95], [0.15, 0.88]],
    &[
        [0.75, 0.08],
        [0.45, 0.15],
        [0.2, 0.45],
        [0.15, 0.72],
        [0.35, 0.93],
        [0.65, 0.93],
        [0.83, 0.74],
        [0.7, 0.53],
        [0.4, 0.5],
        [0.18, 0.65],
    ],
    &[[0.12, 0.05], [0.88, 0.05], [0.42, 0.95]],
    &[
        [0.5, 0.48],
        [0.22, 0.35],
        [0.22, 0.15],
        [0.5, 0.05],
        [0.78, 0.15],
        [0.78, 0.35],
        [0.5, 0.48],
        [0.82, 0.65],
        [0.82, 0.85],
        [0.5, 0.95],
        [0.18, 0.85],
        [0.18, 0.65],
        [0.5, 0.48],
    ],
    &[
        [0.25, 0.92],
        [0.55, 0.85],
        [0.8, 0.55],
        [0.85, 0.28],
        [0.65, 0.07],
        [0.35, 0.07],
        [0.17, 0.26],
        [0.3, 0.47],
        [0.6, 0.5],
        [0.82, 0.35],
    ],
];

/// `count` digits (at least 10) for `seed`; digit `i % 10` is at place `i`.
pub fn digits(count: usize, seed: u64) -> Images {
    let count = count.max(STROKES.len());
    let mut rng = Rng::named(seed, "glyphs");
    let mut pixels = Vec::with_capacity(count * SIDE * SIDE);
    let labels: Vec<u8> = (0..count).map(|i| (i % STROKES.len()) as u8).collect();
    for &label in &labels {
        draw(STROKES[usize::from(label)], &mut rng, &mut pixels);
    }
    Images::new(pixels, labels, [SIDE, SIDE]).expect("sizes agree and there are at least 10 images")
}

/// Draws one digit.
fn draw(stroke: &[[f32; 2]], rng: &mut Rng, pixels: &mut Vec<u8>) {
    let mut between = |low: f32, high: f32| low + (high - low) * rng.uniform();
    // A turn as two terms of the series of sine and cosine: exact enough below a quarter radian.
    let turn = between(-0.25, 0.25);
    let (sin, cos) = (turn - turn * turn * turn / 6.0, 1.0 - turn * turn / 2.0);
    let shear = between(-0.3, 0.3);
    let (width, height) = (between(11.0, 17.0), between(16.0, 21.0));
    let (shift_x, shift_y) = (between(-3.0, 3.0), between(-2.5, 2.5));
    let (pen, ink, noise) = (between(0.9, 1.8), between(0.65, 1.0), between(0.0, 0.25));
    let centre = SIDE as f32 / 2.0;
    let points: Vec<[f32; 2]> = stroke
        .iter()
        .map(|p| {
            let (x, y) = (p[0] - 0.5 + between(-0.03, 0.03), p[1] - 0.5 + between(-0.03, 0.03));
            let (x, y) = ((x - shear * y) * width, y * height);
            [x * cos - y * sin + centre + shift_x, x * sin + y * cos + centre + shift_y]
        })
        .collect();
    for row in 0..SIDE {
        for col in 0..SIDE {
            let at = [col as f32 + 0.5, row as f32 + 0.5];
            let nearest = points.windows(2).map(|s| distance_squared(at, s[0], s[1])).fold(f32::INFINITY, f32::min);
            let ink = ink * (pen + 0.5 - nearest.sqrt()).clamp(0.0, 1.0);
            let value = (ink + noise * (rng.uniform() - 0.5)).clamp(0.0, 1.0);
            pixels.push((value * 255.0) as u8);
        }
    }
}

/// Squared distance of `p` from the segment `a b`.
fn distance_squared(p: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let t = (((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / (dx * dx + dy * dy).max(1e-12)).clamp(0.0, 1.0);
    let (x, y) = (a[0] + t * dx - p[0], a[1] + t * dy - p[1]);
    x * x + y * y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_digits_and_another_seed_others() {
        let (a, b, c) = (digits(50, 1), digits(50, 1), digits(50, 2));
        assert!((0..50).all(|i| a.image(i) == b.image(i) && a.label(i) == (i % 10) as u8));
        assert!((0..50).all(|i| a.image(i) != c.image(i)));
    }

    #[test]
    fn every_digit_leaves_ink_inside_its_frame() {
        let images = digits(200, 3);
        for i in 0..200 {
            let dark = images.image(i).iter().filter(|&&p| p > 128).count();
            assert!((25..350).contains(&dark), "digit {} has {dark} dark pixels", images.label(i));
        }
    }
}

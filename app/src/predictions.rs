//! What a classifier answers to the images of an evaluation: how many are right, and a few of them to look at.

use mantissa_core::telemetry::event::{Prediction, Predictions};
use std::fmt::Write;

/// Images that are shown.
const SHOWN: usize = 12;
/// Pixels of all of them together. Each is two digits of a line of the log, whose length is bounded.
const MAX_PIXELS: usize = 1 << 22;

/// Scores of a batch, `[batch, classes]`, with its right answers.
#[derive(Debug)]
pub struct Answers<'a> {
    /// Number of classes.
    pub classes: usize,
    /// Scores, row by row.
    pub scores: &'a [f32],
    /// Right classes, u32 each.
    pub targets: &'a [u8],
}

impl Answers<'_> {
    fn rows(&self) -> impl Iterator<Item = (&[f32], u32)> {
        let labels = self.targets.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        self.scores.chunks_exact(self.classes).zip(labels)
    }

    /// Rows whose highest score is that of their label.
    pub fn right(&self) -> usize {
        self.rows().filter(|(row, label)| best(row) == *label).count()
    }

    /// The hardest images of the batch: those with wrong answers, then those with the least certain ones. Their pixels
    /// are `x`: f32, `[batch, rows * cols]`, as the model sees them.
    pub fn shown(&self, size: [usize; 2], x: &[u8]) -> Predictions {
        let answered = |(row, label): (&[f32], u32)| {
            let answer = best(row);
            let top = row[answer as usize];
            let confidence = 1.0 / row.iter().map(|s| (s - top).exp()).sum::<f32>();
            (answer == label, confidence, answer, label)
        };
        let mut answers: Vec<_> = self.rows().map(answered).zip(x.chunks_exact(4 * size[0] * size[1])).collect();
        answers.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        // Little data comes round more than once in a batch; the same image has the same answer, so it lies beside
        // itself.
        answers.dedup_by(|(_, a), (_, b)| a == b);
        answers.truncate(SHOWN.min(MAX_PIXELS / (size[0] * size[1]).max(1)));
        let shown = answers.into_iter().map(|((_, confidence, answer, label), image)| Prediction {
            label,
            answer,
            confidence,
            pixels: grey(image),
        });
        Predictions { size, images: shown.collect() }
    }
}

/// The class with the highest score; a NaN counts as the highest, so that damage is not hidden.
fn best(row: &[f32]) -> u32 {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i as u32)
}

/// Pixels from the darkest to the brightest of the image, two hexadecimal digits each.
fn grey(image: &[u8]) -> String {
    let pixels = || image.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let (low, high) = pixels().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), p| (l.min(p), h.max(p)));
    let mut out = String::with_capacity(image.len() / 2);
    for p in pixels() {
        // Writing to a string does not fail.
        let _ = write!(out, "{:02x}", (255.0 * (p - low) / (high - low).max(f32::MIN_POSITIVE)) as u8);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_and_shown() {
        let scores = [0.0, 2.0, 1.0, 0.0, 9.0, 0.0, 5.0, 0.0, 0.0, 5.0, 0.0, 0.0];
        let targets: Vec<u8> = [1u32, 1, 2, 2].iter().flat_map(|t| t.to_ne_bytes()).collect();
        let answers = Answers { classes: 3, scores: &scores, targets: &targets };
        assert_eq!(answers.right(), 2);
        let x: Vec<u8> = [-1.0f32, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0].iter().flat_map(|p| p.to_ne_bytes()).collect();
        let shown = answers.shown([1, 2], &x);
        let list: Vec<(u32, u32, &str)> = shown.images.iter().map(|i| (i.label, i.answer, i.pixels.as_str())).collect();
        assert_eq!(list, [(2, 0, "00ff"), (1, 1, "00ff"), (1, 1, "ff00")], "the wrong one, once, then the least certain");
        assert!((shown.images[1].confidence - 0.665).abs() < 1e-3, "{}", shown.images[1].confidence);
    }
}

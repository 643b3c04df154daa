//! Which examples a step sees.
//!
//! Example number `((step - 1) grad_accum + micro) batch + row` of a run decides what a row holds; steps count from 1.

use super::batch::BatchBytes;
use super::images::Images;
use super::permute::Permutation;
use super::tokens::{Split, Tokens};
use crate::error::{Error, Result};
use crate::rng::Rng;
use std::sync::Arc;

/// What a run learns from.
#[derive(Clone, Debug)]
pub enum Dataset {
    /// A text as tokens.
    Tokens(Tokens),
    /// Labelled images.
    Images(Images),
}

impl Dataset {
    /// What its examples are called: the unit of throughput.
    pub fn unit(&self) -> &'static str {
        match self {
            Dataset::Tokens(_) => "tok",
            Dataset::Images(_) => "img",
        }
    }
}

/// The examples that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examples {
    /// Windows of `context + 1` tokens below `vocab`, for a `gpt`.
    Tokens {
        /// Tokens that the model sees at once.
        context: usize,
        /// Token values of the model.
        vocab: usize,
    },
    /// Images with a label, for an `mlp`.
    Images {
        /// Pixels of an image.
        pixels: usize,
        /// Number of labels.
        classes: usize,
    },
}

/// Everything that decides which examples a step sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// Seed of the order.
    pub seed: u64,
    /// Examples of a micro-step.
    pub batch: usize,
    /// Micro-steps of a step.
    pub grad_accum: usize,
    /// What an example is.
    pub examples: Examples,
}

/// Batches of a data set, for the sizes of a run.
#[derive(Clone, Debug)]
pub struct Loader {
    data: Arc<Dataset>,
    rng: Rng,
    seed: u64,
    /// Tokens of a window; 1 for images.
    context: usize,
    /// Token values of the model; classes for images.
    vocab: usize,
    batch: usize,
    grad_accum: usize,
}

impl Loader {
    /// Batches of `data` by `plan`.
    ///
    /// # Errors
    /// When the data is not what the model takes: another kind, a text shorter than a window, tokens, pixels or labels
    /// that the model lacks.
    pub fn new(data: Arc<Dataset>, plan: BatchPlan) -> Result<Loader> {
        let BatchPlan { seed, batch, grad_accum, examples } = plan;
        let (context, vocab) = match (&*data, examples) {
            (Dataset::Tokens(tokens), Examples::Tokens { context, vocab }) => {
                tokens.check_context(context)?;
                tokens.check_vocab(vocab)?;
                (context, vocab)
            }
            (Dataset::Images(images), Examples::Images { pixels, classes }) => {
                images.check(pixels, classes)?;
                (1, classes)
            }
            (Dataset::Tokens(_), Examples::Images { .. }) => {
                return Err(Error::config("data", "labelled images for an mlp", "a text"));
            }
            (Dataset::Images(_), Examples::Tokens { .. }) => {
                return Err(Error::config("data", "a text for a gpt", "labelled images"));
            }
        };
        Ok(Loader { data, rng: Rng::named(seed, "data"), seed, context, vocab, batch, grad_accum })
    }

    /// The data.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The batch of step `step`, counted from 1. Fails if its tokens cannot be read, or if the model lacks one of them.
    pub fn train(&mut self, step: u64, out: &mut BatchBytes) -> Result<()> {
        out.clear();
        let rows = (self.batch * self.grad_accum) as u64;
        let first = (step - 1).wrapping_mul(rows);
        let data = self.data.clone();
        match &*data {
            Dataset::Tokens(tokens) => {
                for example in first..first.wrapping_add(rows) {
                    let window = tokens.train_window(&mut self.rng, example, self.context);
                    tokens.push(Split::Train, window, self.vocab, out)?;
                }
            }
            Dataset::Images(images) => {
                let n = images.train_len() as u64;
                let mut epoch = None;
                for example in first..first.wrapping_add(rows) {
                    let (e, at) = (example / n, example % n);
                    let order = match epoch {
                        Some((known, order)) if known == e => order,
                        Some(_) | None => Permutation::new(self.seed, e, n),
                    };
                    epoch = Some((e, order));
                    images.push(order.at(at) as usize, out);
                }
            }
        }
        Ok(())
    }

    /// Evaluation batch `index` of `count`: one micro-step of fixed, evenly spaced held-out examples. Fails as
    /// [`Loader::train`] does.
    pub fn val(&self, index: usize, count: usize, out: &mut BatchBytes) -> Result<()> {
        out.clear();
        let all = count * self.batch;
        for row in index * self.batch..(index + 1) * self.batch {
            match &*self.data {
                Dataset::Tokens(tokens) => {
                    tokens.push(Split::Val, tokens.val_window(row, all, self.context), self.vocab, out)?;
                }
                Dataset::Images(images) => images.push(images.train_len() + row * images.val_len() / all, out),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic_digits;

    const GPT: Examples = Examples::Tokens { context: 128, vocab: 256 };
    const MLP: Examples = Examples::Images { pixels: 784, classes: 10 };

    fn plan(examples: Examples, batch: usize, grad_accum: usize) -> BatchPlan {
        BatchPlan { seed: 5, batch, grad_accum, examples }
    }

    fn text() -> Arc<Dataset> {
        Arc::new(Dataset::Tokens(Tokens::from_bytes((0..4000u32).map(|i| (i * 7 % 251) as u8).collect())))
    }

    #[test]
    fn targets_are_the_next_tokens_and_sizes_fit_the_session() {
        let mut loader = Loader::new(text(), plan(GPT, 3, 2)).unwrap();
        let mut out = BatchBytes::default();
        loader.train(1, &mut out).unwrap();
        assert_eq!((out.x.len(), out.targets.len()), (2 * 3 * 128 * 4, 2 * 3 * 128 * 4));
        let (x, t): (&[u32], &[u32]) = (bytemuck::cast_slice(&out.x), bytemuck::cast_slice(&out.targets));
        for row in 0..6 {
            assert_eq!(x[row * 128 + 1..(row + 1) * 128], t[row * 128..(row + 1) * 128 - 1]);
        }
    }

    #[test]
    fn accumulation_sees_the_examples_of_the_larger_batch() {
        let (mut a, mut b) = (BatchBytes::default(), BatchBytes::default());
        for data in [(text(), GPT), (Arc::new(Dataset::Images(synthetic_digits::digits(64, 1))), MLP)] {
            let mut small = Loader::new(data.0.clone(), plan(data.1, 4, 2)).unwrap();
            let mut large = Loader::new(data.0, plan(data.1, 8, 1)).unwrap();
            small.train(3, &mut a).unwrap();
            large.train(3, &mut b).unwrap();
            assert!(a.x == b.x && a.targets == b.targets);
            small.train(4, &mut b).unwrap();
            assert!(a.x != b.x, "steps differ");
        }
    }

    #[test]
    fn an_epoch_of_images_shows_each_once() {
        let images = Images::new(vec![0; 20], (0..20).map(|i| i % 10).collect(), [1, 1]).unwrap();
        let examples = Examples::Images { pixels: 1, classes: 10 };
        let mut loader = Loader::new(Arc::new(Dataset::Images(images)), plan(examples, 6, 1)).unwrap();
        let mut out = BatchBytes::default();
        let mut labels: Vec<u32> = Vec::new();
        for step in 1..=3 {
            loader.train(step, &mut out).unwrap();
            labels.extend_from_slice(bytemuck::cast_slice(&out.targets));
        }
        labels.sort_unstable();
        let mut expected: Vec<u32> = (0..18).map(|i| i % 10).collect();
        expected.sort_unstable();
        assert_eq!(labels, expected);
    }

    #[test]
    fn evaluation_is_the_same_every_time() {
        let loader = Loader::new(text(), plan(GPT, 2, 4)).unwrap();
        let (mut a, mut b) = (BatchBytes::default(), BatchBytes::default());
        loader.val(1, 3, &mut a).unwrap();
        loader.val(1, 3, &mut b).unwrap();
        assert_eq!(a.x, b.x);
        assert_eq!(a.x.len(), 2 * 128 * 4, "one micro-step");
        loader.val(2, 3, &mut b).unwrap();
        assert_ne!(a.x, b.x);
    }

    #[test]
    fn mismatches_name_what_is_missing() {
        let images = Arc::new(Dataset::Images(synthetic_digits::digits(40, 1)));
        assert!(Loader::new(images, plan(GPT, 1, 1)).unwrap_err().to_string().contains("a text for a gpt"));
        assert!(Loader::new(text(), plan(MLP, 1, 1)).unwrap_err().to_string().contains("labelled images"));
        let gpt = |context| plan(Examples::Tokens { context, vocab: 256 }, 1, 1);
        assert!(Loader::new(text(), gpt(256)).is_ok());
        assert!(Loader::new(text(), gpt(1024)).unwrap_err().to_string().contains("validation part"));
    }
}

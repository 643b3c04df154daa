//! Batches as the bytes a session takes: inputs and targets of all micro-steps, one after the other.
//!
//! Example number `((step - 1) grad_accum + micro) batch + row` of a run decides what a row holds; steps count from 1.

use super::Dataset;
use super::permute::Permutation;
use super::tokens::Split;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::rng::Rng;
use crate::train::TrainConfig;
use crate::train::session::Batch;
use std::sync::Arc;

/// A batch; reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct BatchBytes {
    /// What the model sees: u32 tokens [B, T], or f32 pixels [B, rows * cols].
    pub x: Vec<u8>,
    /// u32 targets: the next tokens [B, T], or labels `[B]`.
    pub targets: Vec<u8>,
    /// Where tokens are read to.
    pub(super) window: Vec<u32>,
}

impl BatchBytes {
    /// For [`crate::train::Session`].
    pub fn batch(&self) -> Batch<'_> {
        Batch { x: &self.x, targets: &self.targets }
    }

    fn clear(&mut self) {
        self.x.clear();
        self.targets.clear();
    }
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
    /// Checks that the data fits the model. Fails if it is of another kind, too short for the context, or has tokens or
    /// labels that the model lacks.
    pub fn new(data: Arc<Dataset>, config: &TrainConfig) -> Result<Loader> {
        let (context, vocab) = match (&*data, &config.model) {
            (Dataset::Tokens(tokens), ModelConfig::Gpt(gpt)) => {
                tokens.check_context(gpt.context)?;
                tokens.check_vocab(gpt.vocab)?;
                (gpt.context, gpt.vocab)
            }
            (Dataset::Images(images), ModelConfig::Mlp(mlp)) => {
                images.check(mlp.inputs, mlp.classes)?;
                (1, mlp.classes)
            }
            (Dataset::Tokens(_), ModelConfig::Mlp(_)) => {
                return Err(Error::config("data", "labelled images for an mlp", "a text"));
            }
            (Dataset::Images(_), ModelConfig::Gpt(_)) => {
                return Err(Error::config("data", "a text for a gpt", "labelled images"));
            }
        };
        let (seed, batch, grad_accum) = (config.seed, config.batch, config.grad_accum);
        Ok(Loader { data, rng: Rng::named(seed, "data"), seed, context, vocab, batch, grad_accum })
    }

    /// The data.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The batch of step `step`, counted from 1. Errs if its tokens cannot be read, or if the model lacks one of them.
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

    /// Evaluation batch `index` of `count`: one micro-step of fixed, evenly spaced held-out examples. Errs as [`Loader::train`] does.
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
    use crate::data::{Images, Tokens, glyphs};
    use crate::optim::OptimConfig;
    use crate::optim::schedule::{Decay, Schedule};
    use crate::precision::recipe::RecipeName;
    use crate::precision::{OnNonFinite, Recipe};

    fn config(model: &str, batch: usize, grad_accum: usize) -> TrainConfig {
        TrainConfig {
            model: ModelConfig::preset(model).unwrap().0,
            recipe: Recipe::new(RecipeName::F32),
            optim: OptimConfig::adamw(),
            schedule: Schedule { lr: 1e-3, min_lr: 0.0, warmup: 0, steps: 10, decay: Decay::Constant },
            clip: None,
            error_if_nonfinite: false,
            on_nonfinite: OnNonFinite::Skip,
            batch,
            grad_accum,
            seed: 5,
        }
    }

    fn text() -> Arc<Dataset> {
        Arc::new(Dataset::Tokens(Tokens::from_bytes((0..4000u32).map(|i| (i * 7 % 251) as u8).collect())))
    }

    #[test]
    fn targets_are_the_next_tokens_and_sizes_fit_the_session() {
        let mut loader = Loader::new(text(), &config("gpt-tiny", 3, 2)).unwrap();
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
        for data in [(text(), "gpt-tiny"), (Arc::new(Dataset::Images(glyphs::digits(64, 1))), "mlp")] {
            let mut small = Loader::new(data.0.clone(), &config(data.1, 4, 2)).unwrap();
            let mut large = Loader::new(data.0, &config(data.1, 8, 1)).unwrap();
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
        let model = ModelConfig::Mlp(crate::model::mlp::MlpConfig { inputs: 1, hidden: vec![], classes: 10 });
        let mut loader = Loader::new(Arc::new(Dataset::Images(images)), &TrainConfig { model, ..config("mlp", 6, 1) }).unwrap();
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
        let loader = Loader::new(text(), &config("gpt-tiny", 2, 4)).unwrap();
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
        let images = Arc::new(Dataset::Images(glyphs::digits(40, 1)));
        assert!(Loader::new(images, &config("gpt-tiny", 1, 1)).unwrap_err().to_string().contains("a text for a gpt"));
        assert!(Loader::new(text(), &config("mlp", 1, 1)).unwrap_err().to_string().contains("labelled images"));
        assert!(Loader::new(text(), &config("gpt-mini", 1, 1)).is_ok());
        assert!(Loader::new(text(), &config("gpt2-124m", 1, 1)).unwrap_err().to_string().contains("validation part"));
    }
}

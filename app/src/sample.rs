//! Text from weights: one token at a time, each from a forward pass over the last `context` tokens.

use crate::checkpoint::{read, resume};
use crate::cli::SampleArgs;
use crate::config::DeviceChoice;
use crate::vocabulary::{TextStream, Vocabulary};
use crate::{Outcome, device, weights};
use anyhow::{Context, Result, bail};
use mantissa_core::model::ModelConfig;
use mantissa_core::rng::Rng;
use mantissa_core::train::Session;
use std::io::Write;

/// How tokens are drawn.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Divides the scores; 0 takes the likeliest.
    pub temperature: f32,
    /// Draw among this many; 0 among all.
    pub top_k: usize,
    /// Source of the draws.
    pub rng: Rng,
}

impl Sampler {
    /// Draws one index; `None` if no score is a number. Equal scores go to the lower index.
    pub fn draw(&mut self, scores: &[f32]) -> Option<usize> {
        let mut order: Vec<usize> = (0..scores.len()).filter(|&i| !scores[i].is_nan()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let best = *order.first()?;
        if self.temperature <= 0.0 || !scores[best].is_finite() {
            return scores[best].is_finite().then_some(best);
        }
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let weight = |i: &usize| f64::from((scores[*i] - scores[best]) / self.temperature).exp();
        let total: f64 = order.iter().map(weight).sum();
        let mut at = f64::from(self.rng.uniform()) * total;
        for i in &order {
            at -= weight(i);
            if at < 0.0 {
                return Some(*i);
            }
        }
        order.last().copied()
    }
}

/// Goes on from `prompt` (at least one token) for `count` tokens below `values`, calling `each` with every new one until it returns `false`.
pub fn generate(
    session: &mut Session,
    prompt: &[u32],
    values: usize,
    count: usize,
    sampler: &mut Sampler,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<()> {
    let ModelConfig::Gpt(gpt) = &session.config().model else { bail!("sample: expected a gpt model, found an mlp") };
    let (context, vocab) = (gpt.context, gpt.vocab);
    let mut text: Vec<u32> = prompt.to_vec();
    let mut x = vec![0u32; context];
    for _ in 0..count {
        let window = &text[text.len().saturating_sub(context)..];
        // Later places are not seen by the last token: attention is causal.
        x.fill(0);
        x.iter_mut().zip(window).for_each(|(x, &t)| *x = t);
        let last = window.len() - 1;
        let scores = session.logits(1, bytemuck::cast_slice(&x))?;
        let row = &scores[last * vocab..(last + 1) * vocab];
        let Some(token) = sampler.draw(&row[..values.min(vocab)]) else {
            bail!("the scores of the model are not numbers; its weights are damaged");
        };
        text.push(token as u32);
        if !each(token as u32)? {
            break;
        }
    }
    Ok(())
}

/// `mantissa sample`.
pub fn command(args: &SampleArgs) -> Result<Outcome> {
    let run = match &args.run {
        Some(run) => run.clone(),
        None => resume::newest_run(true)?,
    };
    let (checkpoint, state) = weights::checkpoint_of(&run)?;
    let mut train = state.config;
    if !matches!(train.model, ModelConfig::Gpt(_)) {
        bail!("sample: expected the run of a gpt, found an mlp: {}", run.display());
    }
    // One sequence is too few rows for fp8 layers, and nothing is scaled: text comes from the dtype that the rest of the recipe runs in.
    train.recipe.fp8 = None;
    train.recipe.scaler = None;
    (train.batch, train.grad_accum, train.clip) = (1, 1, None);
    let (backend, _) = device::open(DeviceChoice::Auto);
    device::check_memory(&train)?;
    let session = &mut Session::new(backend, train)?;
    read::weights(&checkpoint, session)?;
    let vocabulary = match &args.tokenizer {
        Some(path) => Vocabulary::from_tokenizer(path)?,
        // The run that the checkpoint belongs to.
        None => Vocabulary::of_run(checkpoint.ancestors().nth(2).unwrap_or(&run))?,
    };
    let prompt = vocabulary.prompt(&args.prompt).context("cannot use the prompt")?;
    let mut text = TextStream::new(&vocabulary, &prompt)?;
    let mut sampler = Sampler { temperature: args.temperature as f32, top_k: args.top_k, rng: Rng::named(args.seed, "sample") };
    let mut out = std::io::stdout().lock();
    // Bytes as they come: a reader that closes its end stops the writing.
    let mut open = out.write_all(args.prompt.as_bytes()).is_ok();
    if open {
        generate(session, &prompt, vocabulary.size(), args.tokens, &mut sampler, |token| {
            open = out.write_all(&text.push(token)?).and_then(|()| out.flush()).is_ok();
            Ok(open)
        })?;
    }
    if open {
        let rest = text.finish()?;
        let _ = out.write_all(&rest).and_then(|()| writeln!(out));
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_k: usize) -> Sampler {
        Sampler { temperature, top_k, rng: Rng::new(1, 1) }
    }

    #[test]
    fn zero_temperature_takes_the_likeliest() {
        assert_eq!(sampler(0.0, 0).draw(&[0.0, 3.0, 3.0, 1.0]), Some(1));
        assert_eq!(sampler(0.0, 0).draw(&[f32::NAN, -1.0]), Some(1));
        assert_eq!(sampler(0.0, 0).draw(&[f32::NAN]), None);
        assert_eq!(sampler(1.0, 0).draw(&[f32::NAN; 3]), None);
    }

    #[test]
    fn draws_follow_the_probabilities_and_top_k_cuts() {
        let scores = [0.0f32, (3.0f32).ln(), -1e9];
        let mut s = sampler(1.0, 0);
        let ones = (0..8000).filter(|_| s.draw(&scores) == Some(1)).count();
        assert!((5800..6200).contains(&ones), "{ones} of 8000, expected 6000");
        let mut s = sampler(5.0, 1);
        assert!((0..100).all(|_| s.draw(&scores) == Some(1)));
    }
}

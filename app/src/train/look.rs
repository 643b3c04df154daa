//! What a run looks at between steps: the loss on held-out data, answers of a classifier, sample texts.

use super::Run;
use crate::event_log::Looks;
use crate::predictions::Answers;
use crate::sample::{Sampler, generate};
use crate::transcript;
use anyhow::{Context, Result};
use mantissa_core::data::Dataset;
use mantissa_core::model::ModelConfig;
use mantissa_core::precision::fp8_layers::compute_dtype;
use mantissa_core::rng::Rng;
use mantissa_core::telemetry::event::{EvalEvent, Event, PredictionsEvent, SampleEvent};

/// Temperature of sample texts.
const SAMPLE_TEMPERATURE: f32 = 0.8;
/// What sample texts go on from.
const SAMPLE_PROMPT: &str = "\n";

/// Loss on held-out data, and the share of right answers of a classifier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eval {
    loss: f32,
    accuracy: Option<f32>,
}

impl Eval {
    pub(super) fn show(&self) -> String {
        transcript::evaluation(self.loss, self.accuracy)
    }
}

impl Run<'_> {
    /// Takes a look, or both.
    pub(super) fn look(&mut self, looks: Looks) -> Result<()> {
        if looks.eval {
            self.evaluate()?;
        }
        if looks.sample {
            self.sample()?;
        }
        Ok(())
    }

    /// The loss on held-out data; `None` if the run was asked to stop meanwhile, which is looked at before every batch.
    pub(super) fn evaluate(&mut self) -> Result<Option<Eval>> {
        if self.ceiling.is_doubted() {
            let peak = self.device.peak(compute_dtype(&self.config.train.recipe, self.session.program()))?;
            self.ceiling.raise(peak.flops_per_s);
        }
        let (count, step) = (self.config.run.eval_batches, self.session.steps());
        let (mut loss, mut right) = (0.0f64, 0usize);
        for i in 0..count {
            if self.stop.asked().is_some() {
                return Ok(None);
            }
            self.loader.val(i, count, &mut self.batch).context("cannot read the data")?;
            loss += f64::from(self.session.eval(self.batch.batch())?);
            right += self.right_answers(i == 0)?;
        }
        let accuracy = self.images.then(|| right as f32 / (count * self.config.train.batch) as f32);
        let eval = Eval { loss: (loss / count as f64) as f32, accuracy };
        self.tell_memory()?;
        self.tell_tuned()?;
        self.event(Event::Eval(EvalEvent::new(step, eval.loss, eval.accuracy)))?;
        self.logs.eval(step, eval.loss, eval.accuracy, self.watcher);
        Ok(Some(eval))
    }

    /// Images of the present evaluation batch whose highest score is that of their label; a few of them are told, if
    /// asked.
    fn right_answers(&mut self, tell: bool) -> Result<usize> {
        let ModelConfig::Mlp(mlp) = &self.config.train.model else { return Ok(0) };
        let scores = self.session.logits(self.config.train.batch, &self.batch.x)?;
        let answers = Answers { classes: mlp.classes, scores: &scores, targets: &self.batch.targets };
        let right = answers.right();
        if let (true, Dataset::Images(images)) = (tell, self.loader.data()) {
            let predictions = answers.shown(images.size(), &self.batch.x);
            self.event(Event::Predictions(PredictionsEvent { step: self.session.steps(), predictions }))?;
        }
        Ok(right)
    }

    /// A sample text; none if the run was asked to stop meanwhile, which is looked at before every token.
    pub(super) fn sample(&mut self) -> Result<()> {
        if self.stop.asked().is_some() {
            return Ok(());
        }
        let step = self.session.steps();
        let mut sampler = Sampler {
            temperature: SAMPLE_TEMPERATURE,
            top_k: 0,
            top_p: 1.0,
            rng: Rng::named(self.config.train.seed.wrapping_add(step), "sample"),
        };
        let mut tokens = Vec::new();
        let (values, count) = (self.vocabulary.size(), self.config.run.sample_tokens);
        // A vocabulary or a model without a line break starts from its first token.
        let known = |tokens: &Vec<u32>| self.config.vocab().is_none_or(|n| self.vocabulary.check_known(tokens, n).is_ok());
        let prompt = self.vocabulary.prompt(SAMPLE_PROMPT).ok().filter(known).unwrap_or_else(|| vec![0]);
        let stop = &self.stop;
        let done = generate(&mut self.session, &prompt, values, count, &mut sampler, |token| {
            tokens.push(token);
            Ok(stop.asked().is_none())
        });
        if self.stop.asked().is_some() {
            return Ok(());
        }
        let text = done.and_then(|()| self.vocabulary.decode(&tokens));
        let text = match text {
            Ok(text) => text,
            Err(e) => {
                // A failed sample is no reason to lose a run.
                self.watcher.warn(&format!("no sample at step {step}: {e:#}"));
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&text);
        self.logs.sample(step, &text, self.watcher);
        self.event(Event::Sample(SampleEvent::new(step, &text)))
    }
}

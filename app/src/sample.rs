//! Text from weights: one token at a time, each from a forward pass over the last `context` tokens.

use crate::checkpoint::resume;
use crate::checkpoint::run_source::config_of;
use crate::cli::{SampleArgs, TrainArgs, resolve};
use crate::encoding;
use crate::run_folder::RUNS;
use crate::vocabulary::{TextStream, Vocabulary};
use crate::{Outcome, device, init_from, out, plain_file};
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::rng::Rng;
use mantissa_core::train::Session;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Stands after each of several texts, as in nanoGPT.
const SEPARATOR: &str = "---------------\n";

/// How tokens are drawn.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Divides the scores; 0 takes the likeliest.
    pub temperature: f32,
    /// Draw among this many; 0 among all.
    pub top_k: usize,
    /// Draw among the fewest likeliest that together have this probability; 1 among all.
    pub top_p: f32,
    /// Source of the draws.
    pub rng: Rng,
}

impl Sampler {
    /// Draws one index; `None` if no score is a number. Equal scores go to the lower index.
    pub fn draw(&mut self, scores: &[f32]) -> Option<usize> {
        let by_rank = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        let mut order: Vec<usize> = (0..scores.len()).filter(|&i| !scores[i].is_nan()).collect();
        let best = order.iter().copied().min_by(by_rank)?;
        if self.temperature <= 0.0 || !scores[best].is_finite() {
            return scores[best].is_finite().then_some(best);
        }
        if (1..order.len()).contains(&self.top_k) {
            order.select_nth_unstable_by(self.top_k - 1, by_rank);
            order.truncate(self.top_k);
        }
        if self.top_k > 0 || self.top_p < 1.0 {
            order.sort_unstable_by(by_rank);
        }
        let mut weights: Vec<f64> =
            order.iter().map(|&i| f64::from((scores[i] - scores[best]) / self.temperature).exp()).collect();
        if self.top_p < 1.0 {
            let (mut sum, enough) = (0.0, f64::from(self.top_p) * weights.iter().sum::<f64>());
            let reached = weights.iter().position(|w| {
                sum += w;
                sum >= enough
            });
            weights.truncate(reached.map_or(weights.len(), |last| last + 1));
        }
        let mut at = f64::from(self.rng.uniform()) * weights.iter().sum::<f64>();
        for (i, weight) in order.iter().zip(&weights) {
            at -= weight;
            if at < 0.0 {
                return Some(*i);
            }
        }
        // Sums that were rounded up: the last one of any weight.
        order.iter().zip(&weights).rfind(|(_, w)| **w > 0.0).map(|(i, _)| *i)
    }
}

/// Goes on from `prompt` (at least one token) for `count` tokens below `values`, calling `each` with every new one
/// until it returns `false`.
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

/// The newest run that writes text, and says which.
fn newest_writer(quiet: bool) -> Result<PathBuf> {
    let writes = |run: &Path| config_of(run).is_ok_and(|c| matches!(c.train.model, ModelConfig::Gpt(_)));
    let Some(run) = resume::newest_run(true, writes) else {
        bail!("no run of a gpt with weights, which can write text; train one first or name one with --run DIR: {RUNS}");
    };
    if !quiet {
        out::note(&format!("text from {}", run.display()));
    }
    Ok(run)
}

/// Longest prompt that is read, bytes.
const MAX_PROMPT_BYTES: u64 = 1 << 24;

fn prompt_file(path: &Path) -> Result<String> {
    let bytes = plain_file::read(path, MAX_PROMPT_BYTES)?;
    encoding::decode(bytes).map(|decoded| decoded.text).map_err(|found| anyhow!("expected UTF-8 text, found {found}"))
}

/// `mantissa sample`.
pub fn command(args: &SampleArgs) -> Result<Outcome> {
    let run = match &args.run {
        Some(run) => run.clone(),
        None => newest_writer(args.quiet)?,
    };
    let source = init_from::open(&run, "--run").context("--run")?;
    let ModelConfig::Gpt(GptConfig { vocab, .. }) = source.model else {
        bail!("sample: expected the run of a gpt, found an mlp: {}", run.display());
    };
    let mut train = match &source.train {
        Some(train) => train.clone(),
        None => {
            resolve::resolve(&TrainArgs { init_from: Some(run.display().to_string()), ..TrainArgs::default() })?.config.train
        }
    };
    // One sequence is too few rows for fp8 layers, and nothing is scaled: text comes from the dtype that the rest of
    // the recipe runs in.
    train.recipe = train.recipe.for_inference();
    (train.batch, train.grad_accum, train.clip) = (1, 1, None);
    let backend = args.device.open()?.backend;
    device::check_memory(&train, &*backend)?;
    let session = &mut Session::new(backend, train)?;
    for note in source.load(session)? {
        if !args.quiet {
            out::note(&note);
        }
    }
    let vocabulary = match &args.tokenizer {
        Some(path) => Vocabulary::from_tokenizer(path)?,
        None => source.vocabulary()?,
    };
    let text = match &args.prompt_file {
        Some(path) => prompt_file(path).with_context(|| format!("cannot read the prompt: {}", path.display()))?,
        None => args.prompt.clone(),
    };
    let prompt = vocabulary.prompt(&text).context("cannot use the prompt")?;
    vocabulary.check_known(&prompt, vocab).context("cannot use the prompt")?;
    let mut out = out::contents();
    let mut put = |bytes: &[u8]| out.write_all(bytes).and_then(|()| out.flush());
    for n in 0..args.samples {
        let mut sampler = Sampler {
            temperature: args.temperature as f32,
            top_k: args.top_k,
            top_p: args.top_p as f32,
            rng: Rng::named(args.seed.wrapping_add(n), "sample"),
        };
        let mut stream = TextStream::new(&vocabulary, &prompt)?.in_whole_characters();
        // Bytes as they come.
        let mut written = put(text.as_bytes());
        if written.is_ok() {
            generate(session, &prompt, vocabulary.size(), args.tokens, &mut sampler, |token| {
                written = put(&stream.push(token)?);
                Ok(written.is_ok())
            })?;
        }
        let end = if args.samples > 1 { SEPARATOR } else { "" };
        let rest = stream.finish()?;
        match written.and_then(|()| put(&[&rest, "\n".as_bytes(), end.as_bytes()].concat())) {
            Ok(()) => {}
            // A reader that closes its end has seen enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
            Err(e) => return Err(e).context("cannot write the text to stdout"),
        }
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_k: usize) -> Sampler {
        Sampler { temperature, top_k, top_p: 1.0, rng: Rng::new(1, 1) }
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

    #[test]
    fn top_k_and_top_p_keep_the_likeliest() {
        // Probabilities 0.1, 0.4, 0.2, 0.3.
        let scores = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        let drawn = |top_k: usize, top_p: f32| {
            let mut s = Sampler { top_p, ..sampler(1.0, top_k) };
            let mut seen: Vec<usize> = (0..400).filter_map(|_| s.draw(&scores)).collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(drawn(0, 1.0), [0, 1, 2, 3]);
        assert_eq!(drawn(2, 1.0), [1, 3]);
        assert_eq!(drawn(9, 1.0), [0, 1, 2, 3]);
        assert_eq!(drawn(0, 0.65), [1, 3]);
        assert_eq!(drawn(0, 0.75), [1, 2, 3]);
        assert_eq!(drawn(2, 0.5), [1], "of the two, 4 in 7");
        assert_eq!(drawn(0, 1e-9), [1], "one is always left");
    }
}

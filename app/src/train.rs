//! `mantissa train`: everything is checked, then the run folder is made, then steps, evaluations and samples until the end or Ctrl-C.

use crate::banner::{self, Facts};
use crate::checkpoint::state::{self, Surroundings};
use crate::checkpoint::{self, resume};
use crate::cli::{TrainArgs, resolve};
use crate::config::RunConfig;
use crate::console::Console;
use crate::device::Peak;
use crate::events::{self, Timing};
use crate::prefetch::Prefetch;
use crate::run_folder::{self, RunFolder};
use crate::sample::{Sampler, generate};
use crate::sinks::Sinks;
use crate::vocabulary::Vocabulary;
use crate::{Outcome, data, device, findings, init_from, show};
use anyhow::{Context, Result};
use mantissa_core::data::{BatchBytes, Dataset, Loader};
use mantissa_core::model::ModelConfig;
use mantissa_core::probe::doctor::Doctor;
use mantissa_core::probe::health::Health;
use mantissa_core::rng::Rng;
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Where progress is printed line by line, a run has about this many lines.
const PRINTED_LINES: u64 = 20;
/// Temperature of sample texts.
const SAMPLE_TEMPERATURE: f32 = 0.8;
/// What sample texts go on from.
const SAMPLE_PROMPT: &str = "\n";

/// `mantissa train`.
pub fn command(args: &TrainArgs) -> Result<Outcome> {
    let resume = match &args.resume {
        Some(path) => Some(resume::open(path.as_deref(), args)?),
        None => None,
    };
    let (mut config, recipe_why, vocab_given) = match &resume {
        Some(resume) => (resume.config.clone(), "as in the run", true),
        None => {
            let resolved = resolve::resolve(args)?;
            (resolved.config, resolved.recipe_why, resolved.vocab_given)
        }
    };
    if args.print_config {
        print!("{}", config.to_toml()?);
        return Ok(Outcome::Done);
    }
    let console = Console::new(args.json, args.quiet);
    let stop = stop_on_signal()?;
    if let Some(out) = &args.out {
        run_folder::refuse_used(out)?;
    }
    let loaded = data::load(&config)?;
    for note in loaded.notes.iter().chain(&data::settle_vocab(&mut config, vocab_given, &loaded)?) {
        console.note(note);
    }
    if config.run.sample_tokens > 0 && !loaded.vocabulary.has_text() {
        console.note("no samples: the tokens of the data have no text; give a --tokenizer, or `itos` in meta.json");
        config.run.sample_tokens = 0;
    }
    let (backend, device_why) = device::open(config.run.device);
    let around = Surroundings { device: backend.capabilities().device.clone(), data: state::data_digest(&loaded.dataset) };
    let loader = Loader::new(Arc::new(loaded.dataset), &config.train)?;
    device::check_memory(&config.train)?;
    let mut session = match config.run.stats_every {
        0 => Session::new(backend.clone(), config.train.clone())?,
        _ => Session::measuring(backend.clone(), config.train.clone(), &config.run.stats)?,
    };
    // A run that got as far as its first checkpoint has weights of its own.
    if resume.as_ref().is_none_or(|r| r.checkpoint.is_none()) {
        init_from::fill(&session, &config)?;
    }
    let (folder, resumed) = match resume {
        None => (RunFolder::create(args.out.as_deref(), &config)?, None),
        Some(resume) => {
            for warning in resume.restore(&mut session, &around)? {
                console.warn(&warning);
            }
            for note in &resume.notes {
                console.note(note);
            }
            let step = resume.step();
            if step == config.train.schedule.steps {
                let path = resume.folder.path().display();
                console.result(&format!("done already: {step} steps; to go on, give a higher --steps | {path}"));
                return Ok(Outcome::Done);
            }
            (resume.rewind()?, Some(step))
        }
    };
    let peak = device::peak(backend.capabilities(), config.train.recipe.compute_dtype());
    loaded.vocabulary.save(folder.path())?;
    let images = matches!(loader.data(), Dataset::Images(_));
    let sinks = Sinks::open(folder.path(), &config.run.log, images, resumed)?;
    let facts = Facts {
        config: &config,
        device: &around.device,
        device_why,
        recipe_why,
        data: &loaded.about,
        peak: &peak,
        folder: folder.path(),
    };
    for line in banner::lines(&session, &facts)? {
        console.line(&line);
    }
    if let Some(step) = resumed {
        console.line(&format!("{:<12} after step {step}", "resumed"));
    }
    console.line("");
    let logs = Logs { folder, sinks };
    let mut run = Run::new(&config, &console, session, loader, loaded.vocabulary, logs, around, &peak)?;
    run.train(&stop)
}

/// A flag that Ctrl-C sets. A second Ctrl-C ends the process at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(crate::EXIT_INTERRUPTED));
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

/// Loss on held-out data, and the share of right answers of a classifier.
#[derive(Clone, Copy, Debug)]
struct Eval {
    loss: f32,
    accuracy: Option<f32>,
}

impl Eval {
    fn show(&self) -> String {
        match self.accuracy {
            Some(a) => format!("val_loss {:.4} | val_accuracy {:.2}%", self.loss, 100.0 * a),
            None => format!("val_loss {:.4}", self.loss),
        }
    }
}

/// Where the numbers of a run are kept.
struct Logs {
    folder: RunFolder,
    sinks: Sinks,
}

/// A run under way.
struct Run<'a> {
    config: &'a RunConfig,
    console: &'a Console,
    session: Session,
    /// For evaluation.
    loader: Loader,
    /// For training.
    prefetch: Prefetch,
    vocabulary: Vocabulary,
    logs: Logs,
    around: Surroundings,
    /// Step of the last checkpoint of this process.
    saved: Option<u64>,
    batch: BatchBytes,
    images: bool,
    /// Model FLOPs of a step over peak FLOPs a millisecond: divided by milliseconds it is the MFU.
    ideal_ms: f64,
    start: Instant,
    step_ms: Vec<f32>,
    skipped_in_a_row: u64,
    health: Health,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a RunConfig,
        console: &'a Console,
        session: Session,
        loader: Loader,
        vocabulary: Vocabulary,
        logs: Logs,
        around: Surroundings,
        peak: &Peak,
    ) -> Result<Run<'a>> {
        let prefetch = Prefetch::new(loader.clone(), session.steps() + 1, config.train.schedule.steps)?;
        let ideal_ms = session.program().step_cost().flops as f64 / peak.flops_per_s * 1e3;
        let images = matches!(loader.data(), Dataset::Images(_));
        let health = Health::new(&config.train.recipe, session.program());
        Ok(Run {
            config,
            console,
            session,
            loader,
            prefetch,
            vocabulary,
            logs,
            around,
            saved: None,
            batch: BatchBytes::default(),
            images,
            ideal_ms,
            start: Instant::now(),
            step_ms: Vec::new(),
            skipped_in_a_row: 0,
            health,
        })
    }

    fn train(&mut self, stop: &AtomicBool) -> Result<Outcome> {
        let run = &self.config.run;
        let steps = self.config.train.schedule.steps;
        let due = |step: u64, every: u64| every > 0 && step.is_multiple_of(every) && step < steps;
        let mut outcome = Outcome::Done;
        while self.session.steps() < steps {
            // Between steps only: everything that belongs to a step has been done when a checkpoint says that it was taken.
            if stop.load(Ordering::SeqCst) || self.console.is_closed() {
                outcome = Outcome::Interrupted;
                break;
            }
            let report = self.step()?;
            let step = report.step;
            if self.config.train.ends_at(&report) {
                outcome = Outcome::NonFinite;
                break;
            }
            if due(step, run.eval_every) {
                self.evaluate()?;
            }
            if due(step, run.sample_every) && run.sample_tokens > 0 {
                self.sample()?;
            }
            if due(step, run.checkpoint_every) {
                self.save()?;
            }
        }
        self.finish(outcome)
    }

    /// One step with its event and progress.
    fn step(&mut self) -> Result<StepReport> {
        let begin = Instant::now();
        let batch = self.prefetch.next(self.session.steps() + 1)?;
        let every = self.config.run.stats_every;
        let measure = every > 0 && (self.session.steps() + 1).is_multiple_of(every);
        let report = if measure { self.session.step_measured(batch.batch()) } else { self.session.step(batch.batch()) }?;
        self.prefetch.give_back(batch);
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        self.step_ms.push(ms as f32);
        let items_per_s = self.config.train.items_per_step() as f64 / (ms / 1e3);
        let timing = Timing { ms, items_per_s, mfu: self.ideal_ms / ms };
        self.event(&events::step(&report, timing, self.images)?)?;
        self.logs.sinks.step(&report, timing)?;
        if measure {
            self.tensors(report.step)?;
        }
        self.notices(&report)?;
        let steps = self.config.train.schedule.steps;
        let every = steps.div_ceil(PRINTED_LINES);
        let print = self.step_ms.len() == 1 || report.step.is_multiple_of(every) || report.step == steps;
        self.console.progress(&self.progress(&report, timing), print);
        Ok(report)
    }

    /// Keeps an event, and prints it with `--json`.
    fn event(&mut self, line: &str) -> Result<()> {
        self.console.json(line);
        self.logs.folder.event(line)
    }

    /// The tensors that the step has measured.
    fn tensors(&mut self, step: u64) -> Result<()> {
        for report in self.session.tensor_reports()? {
            self.event(&events::tensor(step, &report)?)?;
            self.logs.sinks.tensor(step, &report)?;
        }
        Ok(())
    }

    fn progress(&self, r: &StepReport, timing: Timing) -> String {
        let steps = self.config.train.schedule.steps;
        let width = steps.to_string().len();
        let mut parts = vec![
            format!("step {:>width$}/{steps}", r.step),
            format!("loss {:.4}", r.loss),
            format!("lr {}", show::scientific(r.lr)),
            format!("grad_norm {:.3}", r.grad_norm),
        ];
        if let Some(scale) = r.loss_scale {
            parts.push(format!("loss_scale {}", show::loss_scale(scale)));
        }
        if r.loss_scale.is_some() || r.skipped_total > 0 {
            parts.push(format!("skipped {}", r.skipped_total));
        }
        if let Some(fp8) = &r.fp8 {
            parts.push(format!("underflow {:.1}%", 100.0 * fp8.underflow.0));
            parts.push(format!("saturated {:.1}%", 100.0 * fp8.saturated.0));
        }
        parts.push(format!("{:.1} ms", timing.ms));
        parts.push(format!("{} {}/s", show::prefixed(timing.items_per_s), self.loader.data().unit()));
        parts.push(format!("mfu {:.1}%", 100.0 * timing.mfu));
        let taken = self.step_ms.len().max(1) as f64;
        let left = (steps - r.step) as f64 * self.start.elapsed().as_secs_f64() / taken;
        parts.push(format!("eta {}", show::clock(left)));
        parts.join(" | ")
    }

    /// What people should know about a step beside its numbers.
    fn notices(&mut self, r: &StepReport) -> Result<()> {
        if r.skipped {
            self.skipped_in_a_row += 1;
            // Without a loss scale the warning below says it, once.
            if let (Some(before), Some(after)) = (r.loss_scale, self.session.scaler_state()?.map(|s| s.scale)) {
                let (before, after) = (show::loss_scale(before), show::loss_scale(after));
                let what = "gradients overflowed, step skipped, loss_scale";
                self.console.line(&format!("step {}: {what} {before} -> {after}", r.step));
            }
        } else if self.skipped_in_a_row > 0 {
            let at = r.loss_scale.map_or_else(String::new, |s| format!(" at loss_scale {}", show::loss_scale(s)));
            let skipped = match self.skipped_in_a_row {
                1 => "one skipped step".to_string(),
                n => format!("{n} skipped steps"),
            };
            self.console.line(&format!("step {}: recovered{at} after {skipped}", r.step));
            self.skipped_in_a_row = 0;
        }
        for warning in self.health.observe(r, &self.session.fp8_stats()?) {
            self.console.warn(&warning.to_string());
        }
        Ok(())
    }

    /// Says where the last step, which was skipped, went wrong.
    fn explain(&mut self) -> Result<()> {
        let mut batch = BatchBytes::default();
        self.loader.train(self.session.steps(), &mut batch);
        let mut doctor = Doctor::new(&self.session);
        match doctor.repeat(&mut self.session, batch.batch()) {
            Ok(_) => doctor.findings().iter().flat_map(findings::lines).for_each(|line| self.console.result(&line)),
            // The checkpoint is what matters; `doctor` can look again.
            Err(e) => self.console.warn(&format!("cannot look into the step: {e}")),
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<Eval> {
        let count = self.config.run.eval_batches;
        let (mut loss, mut right) = (0.0f64, 0usize);
        for i in 0..count {
            self.loader.val(i, count, &mut self.batch);
            loss += f64::from(self.session.eval(self.batch.batch())?);
            right += self.right_answers()?;
        }
        let accuracy = self.images.then(|| right as f32 / (count * self.config.train.batch) as f32);
        let eval = Eval { loss: (loss / count as f64) as f32, accuracy };
        let step = self.session.steps();
        self.event(&events::eval(step, eval.loss, eval.accuracy)?)?;
        self.logs.sinks.eval(step, eval.loss, eval.accuracy)?;
        self.console.line(&format!("eval  step {step} | {}", eval.show()));
        Ok(eval)
    }

    /// Images of the present evaluation batch whose highest score is that of their label.
    fn right_answers(&mut self) -> Result<usize> {
        let ModelConfig::Mlp(mlp) = &self.config.train.model else { return Ok(0) };
        let scores = self.session.logits(self.config.train.batch, &self.batch.x)?;
        let labels = self.batch.targets.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        let best = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i as u32);
        Ok(scores.chunks_exact(mlp.classes).zip(labels).filter(|(row, label)| best(row) == Some(*label)).count())
    }

    /// Writes a checkpoint, unless the last one is of this step.
    fn save(&mut self) -> Result<()> {
        let step = self.session.steps();
        if self.saved != Some(step) {
            self.logs.folder.sync()?;
            self.logs.sinks.sync()?;
            checkpoint::write::save(self.logs.folder.path(), &self.session, &self.around, self.config.run.keep)?;
            self.saved = Some(step);
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        let step = self.session.steps();
        let mut sampler = Sampler {
            temperature: SAMPLE_TEMPERATURE,
            top_k: 0,
            top_p: 1.0,
            rng: Rng::named(self.config.train.seed.wrapping_add(step), "sample"),
        };
        let mut tokens = Vec::new();
        let (values, count) = (self.vocabulary.size(), self.config.run.sample_tokens);
        // A vocabulary without a line break starts from its first token.
        let prompt = self.vocabulary.prompt(SAMPLE_PROMPT).unwrap_or_else(|_| vec![0]);
        let done = generate(&mut self.session, &prompt, values, count, &mut sampler, |token| {
            tokens.push(token);
            Ok(true)
        });
        let text = done.and_then(|()| self.vocabulary.decode(&tokens));
        let text = match text {
            Ok(text) => text,
            Err(e) => {
                // A failed sample is no reason to lose a run.
                self.console.warn(&format!("no sample at step {step}: {e:#}"));
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&text);
        self.logs.folder.sample(step, &text)?;
        self.console.line(&format!("sample at step {step}:\n{}\n", text.trim_end()));
        Ok(())
    }

    fn finish(&mut self, outcome: Outcome) -> Result<Outcome> {
        self.console.end_progress();
        let took = show::clock(self.start.elapsed().as_secs_f64());
        let path = self.logs.folder.path().display().to_string();
        if outcome == Outcome::Interrupted {
            self.save()?;
            let step = self.session.steps();
            self.console.result(&format!("interrupted after step {step} ({took}); go on with --resume: {path}"));
            return Ok(outcome);
        }
        if outcome == Outcome::NonFinite {
            // Saved first: looking into the step moves scales and histories once more.
            self.save()?;
            let step = self.session.steps();
            self.explain()?;
            self.console.result(&format!(
                "stopped at step {step} ({took}), which is not finite; the weights before it are saved: {path}"
            ));
            return Ok(outcome);
        }
        let eval = self.evaluate()?;
        if self.config.run.sample_tokens > 0 {
            self.sample()?;
        }
        self.save()?;
        let took = show::clock(self.start.elapsed().as_secs_f64());
        let ms = median(&mut self.step_ms);
        let rate = self.config.train.items_per_step() as f64 / (ms / 1e3);
        self.console.result(&format!(
            "done: {} steps in {took} | {} | median {ms:.1} ms, {} {}/s | {path}",
            self.session.steps(),
            eval.show(),
            show::prefixed(rate),
            self.loader.data().unit()
        ));
        Ok(outcome)
    }
}

/// The middle value; the list is not empty after a step.
fn median(values: &mut [f32]) -> f64 {
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().map_or(f64::NAN, f64::from)
}

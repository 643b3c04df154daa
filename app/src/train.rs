//! `mantissa train`: everything is checked, then the run folder is made, then steps, evaluations and samples until the end or Ctrl-C.

use crate::banner::{self, Facts};
use crate::checkpoint::resume::{self, Resume};
use crate::checkpoint::state::{self, Surroundings};
use crate::checkpoint::write;
use crate::cli::TrainArgs;
use crate::cli::resolve::{self, RecipeWhy};
use crate::config::RunConfig;
use crate::console::Console;
use crate::predictions::Answers;
use crate::prefetch::Prefetch;
use crate::profile::{Profile, Timer};
use crate::run_folder::{self, RunFolder};
use crate::sample::{Sampler, generate};
use crate::sinks::Sinks;
use crate::vocabulary::Vocabulary;
use crate::watcher::{Begin, Watcher};
use crate::{Outcome, data, device, findings, init_from, show};
use anyhow::{Context, Result, bail};
use mantissa_core::data::{BatchBytes, Dataset, Loader};
use mantissa_core::model::ModelConfig;
use mantissa_core::probe::doctor::Doctor;
use mantissa_core::probe::health::Health;
use mantissa_core::rng::Rng;
use mantissa_core::telemetry::StepReport;
use mantissa_core::telemetry::event::{
    EvalEvent, Event, MemoryEvent, MemoryRow, PredictionsEvent, ProfileEvent, SampleEvent, StepEvent, TensorEvent, Timing,
    WarningEvent,
};
use mantissa_core::train::Session;
use std::path::PathBuf;
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
    let asked = Asked::new(args)?;
    if args.print_config {
        print!("{}", asked.config.to_toml()?);
        return Ok(Outcome::Done);
    }
    let console = Console::new(args.json, args.quiet);
    let stop = stop_on_signal()?;
    let Some(mut run) = Run::prepare(asked, &console)? else { return Ok(Outcome::Done) };
    while !run.is_over() {
        // Between steps only: everything that belongs to a step has been done when a checkpoint says that it was taken.
        if stop.load(Ordering::SeqCst) || console.is_closed() {
            run.interrupt()?;
            return Ok(Outcome::Interrupted);
        }
        run.advance(Observe::Nothing)?;
    }
    run.finish()
}

/// What flags ask for, checked as far as it can be without data.
#[derive(Debug)]
pub struct Asked {
    /// Every setting.
    pub config: RunConfig,
    resume: Option<Resume>,
    recipe_why: RecipeWhy,
    vocab_given: bool,
    out: Option<PathBuf>,
}

impl Asked {
    /// Reads flags, config file and, with `--resume`, the run to go on with.
    pub fn new(args: &TrainArgs) -> Result<Asked> {
        let resume = match &args.resume {
            Some(path) => Some(resume::open(path.as_deref(), args)?),
            None => None,
        };
        let (config, recipe_why, vocab_given) = match &resume {
            Some(resume) => (resume.config.clone(), RecipeWhy::InRun, true),
            None => {
                let resolved = resolve::resolve(args)?;
                (resolved.config, resolved.recipe_why, resolved.vocab_given)
            }
        };
        Ok(Asked { config, resume, recipe_why, vocab_given, out: args.out.clone() })
    }
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

/// What to look at while a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observe {
    /// The step runs as fast as it can.
    Nothing,
    /// The time of every instruction, told as an event. Statistics that are due with this step are left out.
    Times,
}

/// A run under way.
pub struct Run<'a> {
    config: RunConfig,
    watcher: &'a dyn Watcher,
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
    /// A step has ended the run before the last.
    ended: bool,
    batch: BatchBytes,
    images: bool,
    /// Model FLOPs of a step over peak FLOPs a millisecond: divided by milliseconds it is the MFU.
    ideal_ms: f64,
    start: Instant,
    step_ms: Vec<f64>,
    skipped_in_a_row: u64,
    health: Health,
    /// The memory last told.
    memory: Vec<(&'static str, usize)>,
}

impl<'a> Run<'a> {
    /// Loads data, makes or restores the session and opens the run folder: everything before the first step. `None` if the run to go on with
    /// has taken all its steps.
    pub fn prepare(asked: Asked, watcher: &'a dyn Watcher) -> Result<Option<Run<'a>>> {
        let Asked { mut config, resume, recipe_why, vocab_given, out } = asked;
        if let Some(out) = &out {
            run_folder::refuse_used(out)?;
        }
        let loaded = data::load(&config)?;
        for note in loaded.notes.iter().chain(&data::settle_vocab(&mut config, vocab_given, &loaded)?) {
            watcher.note(note);
        }
        if config.run.sample_tokens > 0 && !loaded.vocabulary.has_text() {
            watcher.note("no samples: the tokens of the data have no text; give a --tokenizer, or `itos` in meta.json");
            config.run.sample_tokens = 0;
        }
        let device = device::open(config.run.device, config.run.adapter.as_deref())?;
        let backend = &device.backend;
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
            None => (RunFolder::create(out.as_deref(), &config)?, None),
            Some(resume) => {
                for warning in resume.restore(&mut session, &around)? {
                    watcher.warn(&warning);
                }
                for note in &resume.notes {
                    watcher.note(note);
                }
                let step = resume.step();
                if step == config.train.schedule.steps {
                    let path = resume.folder.path().display();
                    watcher.result(&format!("done already: {step} steps; to go on, give a higher --steps | {path}"));
                    return Ok(None);
                }
                let seen = resume.health();
                (resume.rewind()?, Some((step, seen)))
            }
        };
        let peak = device.peak(config.train.recipe.compute_dtype())?;
        loaded.vocabulary.save(folder.path())?;
        let images = matches!(loader.data(), Dataset::Images(_));
        let sinks = Sinks::open(folder.path(), &config.run.log, images, resumed.as_ref().map(|r| r.0))?;
        let facts = Facts {
            config: &config,
            device: &around.device,
            device_why: &device.why,
            recipe_why: &recipe_why.words(backend.capabilities().kind),
            data: &loaded.about,
            peak: &peak,
            folder: folder.path(),
        };
        for line in banner::lines(&session, &facts)? {
            watcher.line(&line);
        }
        if let Some((step, _)) = &resumed {
            watcher.line(&format!("{:<12} after step {step}", "resumed"));
        }
        watcher.line("");
        watcher.begin(&Begin { config: &config, folder: folder.path(), steps: session.steps() });
        let prefetch = Prefetch::new(loader.clone(), session.steps() + 1, config.train.schedule.steps)?;
        let ideal_ms = session.program().step_cost().flops as f64 / peak.flops_per_s * 1e3;
        let mut health = Health::new(&config.train.recipe, session.program());
        if let Some((_, seen)) = resumed {
            health.restore(seen);
        }
        Ok(Some(Run {
            config,
            watcher,
            session,
            loader,
            prefetch,
            vocabulary: loaded.vocabulary,
            logs: Logs { folder, sinks },
            around,
            saved: None,
            ended: false,
            batch: BatchBytes::default(),
            images,
            ideal_ms,
            start: Instant::now(),
            step_ms: Vec::new(),
            skipped_in_a_row: 0,
            health,
            memory: Vec::new(),
        }))
    }

    /// Whether all steps have been taken, or one of them ended the run.
    pub fn is_over(&self) -> bool {
        self.ended || self.session.steps() >= self.config.train.schedule.steps
    }

    /// One step, and the evaluation, sample and checkpoint that are due after it.
    pub fn advance(&mut self, observe: Observe) -> Result<()> {
        let (run, steps) = (self.config.run.clone(), self.config.train.schedule.steps);
        let report = self.step(observe)?;
        if self.config.train.ends_at(&report) {
            self.ended = true;
            return Ok(());
        }
        let step = report.step;
        let due = |every: u64| every > 0 && step.is_multiple_of(every) && step < steps;
        if due(run.eval_every) {
            self.evaluate()?;
        }
        if due(run.sample_every) && run.sample_tokens > 0 {
            self.sample()?;
        }
        if due(run.checkpoint_every) {
            self.save()?;
        }
        Ok(())
    }

    /// Whether its recipe has a loss scale.
    pub fn has_loss_scale(&self) -> bool {
        self.config.train.recipe.scaler.is_some()
    }

    /// Multiplies the loss scale, so that an overflow and what follows can be watched. An error without a loss scaler.
    pub fn scale_loss_scale(&mut self, factor: f32) -> Result<()> {
        let Some(mut state) = self.session.scaler_state()? else {
            bail!("expected a recipe with a loss scaler (f16), got {}", self.config.train.recipe.name);
        };
        state.scale = (state.scale * factor).min(f32::MAX);
        self.watcher.line(&format!("loss_scale set to {} by hand", show::loss_scale(state.scale)));
        Ok(self.session.load_scaler_state(&state)?)
    }

    /// One step with its event and progress.
    fn step(&mut self, observe: Observe) -> Result<StepReport> {
        let begin = Instant::now();
        let batch = self.prefetch.next(self.session.steps() + 1)?;
        let every = self.config.run.stats_every;
        let measure = observe == Observe::Nothing && every > 0 && (self.session.steps() + 1).is_multiple_of(every);
        let mut timer = (observe == Observe::Times).then(Timer::new);
        let report = match &mut timer {
            Some(timer) => self.session.step_observed(batch.batch(), timer),
            None if measure => self.session.step_measured(batch.batch()),
            None => self.session.step(batch.batch()),
        }?;
        self.prefetch.give_back(batch);
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        self.step_ms.push(ms);
        let items_per_s = self.config.train.items_per_step() as f64 / (ms / 1e3);
        let timing = Timing { ms, items_per_s, mfu: self.ideal_ms / ms };
        self.event(Event::Step(StepEvent::new(&report, timing, self.images)))?;
        self.logs.sinks.step(&report, timing)?;
        if let Some(timer) = timer {
            let profile = Profile::new(self.session.program(), vec![timer]).rows(self.session.program());
            self.event(Event::Profile(ProfileEvent { step: report.step, profile }))?;
        }
        if measure {
            self.tensors(report.step)?;
        }
        self.notices(&report)?;
        self.tell_memory()?;
        let steps = self.config.train.schedule.steps;
        let every = steps.div_ceil(PRINTED_LINES);
        let print = self.step_ms.len() == 1 || report.step.is_multiple_of(every) || report.step == steps;
        self.watcher.progress(&self.progress(&report, timing), print);
        Ok(report)
    }

    /// Keeps an event and tells it.
    fn event(&mut self, event: Event) -> Result<()> {
        let line = event.to_line().context("cannot write an event as JSON")?;
        self.watcher.event(&event, &line);
        self.logs.folder.event(&line)
    }

    /// The tensors that the step has measured.
    fn tensors(&mut self, step: u64) -> Result<()> {
        for report in self.session.tensor_reports()? {
            self.logs.sinks.tensor(step, &report)?;
            self.event(Event::Tensor(TensorEvent { step, tensor: report }))?;
        }
        Ok(())
    }

    /// Tells what memory is taken, if it is not what was told last.
    fn tell_memory(&mut self) -> Result<()> {
        let taken = self.session.taken_bytes();
        if taken == self.memory {
            return Ok(());
        }
        let row = |(purpose, bytes): &(&str, usize)| MemoryRow { purpose: purpose.to_string(), bytes: *bytes as u64 };
        let memory = taken.iter().map(row).collect();
        self.memory = taken;
        self.event(Event::Memory(MemoryEvent { step: self.session.steps(), memory }))
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
                self.watcher.line(&format!("step {}: {what} {before} -> {after}", r.step));
            }
        } else if self.skipped_in_a_row > 0 {
            let at = r.loss_scale.map_or_else(String::new, |s| format!(" at loss_scale {}", show::loss_scale(s)));
            let skipped = match self.skipped_in_a_row {
                1 => "one skipped step".to_string(),
                n => format!("{n} skipped steps"),
            };
            self.watcher.line(&format!("step {}: recovered{at} after {skipped}", r.step));
            self.skipped_in_a_row = 0;
        }
        for warning in self.health.observe(r, &self.session.fp8_stats()?) {
            self.watcher.warn(&warning.to_string());
            self.event(Event::Warning(WarningEvent { step: r.step, warning }))?;
        }
        Ok(())
    }

    /// Says where the last step, which was skipped, went wrong.
    fn explain(&mut self) -> Result<()> {
        let mut batch = BatchBytes::default();
        self.loader.train(self.session.steps(), &mut batch);
        let mut doctor = Doctor::new(&self.session);
        match doctor.repeat(&mut self.session, batch.batch()) {
            Ok(_) => doctor.findings().iter().flat_map(findings::lines).for_each(|line| self.watcher.result(&line)),
            // The checkpoint is what matters; `doctor` can look again.
            Err(e) => self.watcher.warn(&format!("cannot look into the step: {e}")),
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<Eval> {
        let (count, step) = (self.config.run.eval_batches, self.session.steps());
        let (mut loss, mut right) = (0.0f64, 0usize);
        for i in 0..count {
            self.loader.val(i, count, &mut self.batch);
            loss += f64::from(self.session.eval(self.batch.batch())?);
            right += self.right_answers(i == 0)?;
        }
        let accuracy = self.images.then(|| right as f32 / (count * self.config.train.batch) as f32);
        let eval = Eval { loss: (loss / count as f64) as f32, accuracy };
        self.event(Event::Eval(EvalEvent::new(step, eval.loss, eval.accuracy)))?;
        self.logs.sinks.eval(step, eval.loss, eval.accuracy)?;
        self.watcher.line(&format!("eval  step {step} | {}", eval.show()));
        self.tell_memory()?;
        Ok(eval)
    }

    /// Images of the present evaluation batch whose highest score is that of their label; a few of them are told, if asked.
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

    /// Writes a checkpoint, unless the last one is of this step.
    pub fn save(&mut self) -> Result<()> {
        let step = self.session.steps();
        if self.saved != Some(step) {
            self.logs.folder.sync()?;
            self.logs.sinks.sync()?;
            write::save(self.logs.folder.path(), &self.session, self.health.state(), &self.around, self.config.run.keep)?;
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
                self.watcher.warn(&format!("no sample at step {step}: {e:#}"));
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&text);
        self.logs.folder.sample(step, &text)?;
        self.event(Event::Sample(SampleEvent { step, sample: text.to_string() }))?;
        self.watcher.line(&format!("sample at step {step}:\n{}\n", text.trim_end()));
        Ok(())
    }

    /// Ends a run before all its steps: a checkpoint, and how to go on.
    pub fn interrupt(&mut self) -> Result<()> {
        self.watcher.end_progress();
        self.save()?;
        let (step, took, path) = (self.session.steps(), self.took(), self.logs.folder.path().display());
        self.watcher.result(&format!("interrupted after step {step} ({took}); go on with --resume: {path}"));
        Ok(())
    }

    /// Ends a run at a step that was not finite: a checkpoint, and where the step went wrong.
    fn give_up(&mut self) -> Result<()> {
        // Saved first: looking into the step moves scales and histories once more.
        self.save()?;
        let step = self.session.steps();
        self.explain()?;
        let (took, path) = (self.took(), self.logs.folder.path().display());
        self.watcher
            .result(&format!("stopped at step {step} ({took}), which is not finite; the weights before it are saved: {path}"));
        Ok(())
    }

    /// Ends a run that is over: last evaluation, sample, checkpoint, result.
    pub fn finish(&mut self) -> Result<Outcome> {
        self.watcher.end_progress();
        if self.ended {
            self.give_up()?;
            return Ok(Outcome::NonFinite);
        }
        let eval = self.evaluate()?;
        if self.config.run.sample_tokens > 0 {
            self.sample()?;
        }
        self.save()?;
        let ms = show::median(&mut self.step_ms);
        let rate = self.config.train.items_per_step() as f64 / (ms / 1e3);
        self.watcher.result(&format!(
            "done: {} steps in {} | {} | median {ms:.1} ms, {} {}/s | {}",
            self.session.steps(),
            self.took(),
            eval.show(),
            show::prefixed(rate),
            self.loader.data().unit(),
            self.logs.folder.path().display()
        ));
        Ok(Outcome::Done)
    }

    fn took(&self) -> String {
        show::clock(self.start.elapsed().as_secs_f64())
    }
}

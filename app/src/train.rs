//! `mantissa train`: everything is checked, then the run folder is made, then steps, evaluations and samples until the end or Ctrl-C.

mod ceiling;
mod look;
mod tell;

use crate::banner::{self, Facts};
use crate::checkpoint::moved;
use crate::checkpoint::resume::{self, Resume};
use crate::checkpoint::state::Surroundings;
use crate::checkpoint::write;
use crate::cli::TrainArgs;
use crate::cli::resolve;
use crate::config::RunConfig;
use crate::console::Console;
use crate::device::Device;
use crate::prefetch::Prefetch;
use crate::profile::{Clock, Profile, timed_step};
use crate::run_folder::{self, RunFolder};
use crate::sinks::Sinks;
use crate::vocabulary::Vocabulary;
use crate::watcher::{Begin, Watcher};
use crate::{Outcome, data, device, findings, init_from, show};
use anyhow::{Context, Result, bail};
use mantissa_core::data::{BatchBytes, Dataset, Loader};
use mantissa_core::probe::doctor::Doctor;
use mantissa_core::probe::health::Health;
use mantissa_core::telemetry::event::{Event, ProfileEvent};
use mantissa_core::train::{LEAD, Session};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ceiling::Ceiling;

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
    recipe_why: &'static str,
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
            Some(resume) => (resume.config.clone(), "as in the run", true),
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
    device: Device,
    /// What a step is compared with for its MFU.
    ceiling: Ceiling,
    start: Instant,
    /// When the steps under way began, oldest first, and when the last one landed.
    begun: VecDeque<Instant>,
    last_landed: Instant,
    step_ms: Vec<f64>,
    skipped_in_a_row: u64,
    health: Health,
    /// The memory last told.
    memory: Vec<(&'static str, usize)>,
    /// The choices last told.
    tuned: Vec<(String, String)>,
}

impl<'a> Run<'a> {
    /// Loads data, makes or restores the session and opens the run folder: everything before the first step. `None` if the run to go on with
    /// has taken all its steps.
    pub fn prepare(asked: Asked, watcher: &'a dyn Watcher) -> Result<Option<Run<'a>>> {
        let Asked { mut config, resume, recipe_why, vocab_given, out } = asked;
        if let Some(out) = &out {
            run_folder::refuse_used(out)?;
        }
        let (loaded, digest) = moved::load(&config, resume.as_ref())?;
        for note in loaded.notes.iter().chain(&data::settle_vocab(&mut config, vocab_given, &loaded)?) {
            watcher.note(note);
        }
        if config.run.sample_tokens > 0 && !loaded.vocabulary.has_text() {
            watcher.note("no samples: the tokens of the data have no text; give a --tokenizer, or `itos` in meta.json");
            config.run.sample_tokens = 0;
        }
        let device = device::open(config.run.device, config.run.adapter.as_deref(), config.run.tune)?;
        let backend = &device.backend;
        let around = Surroundings { device: backend.capabilities().device.clone(), data: digest };
        let loader = Loader::new(Arc::new(loaded.dataset), &config.train)?;
        device::check_memory(&config.train)?;
        let mut session = match config.run.stats_every {
            0 => Session::new(backend.clone(), config.train.clone())?,
            _ => Session::measuring(backend.clone(), config.train.clone(), &config.run.stats)?,
        };
        // A run that got as far as its first checkpoint has weights of its own.
        if resume.as_ref().is_none_or(|r| r.checkpoint.is_none()) {
            for note in init_from::fill(&session, &config)? {
                watcher.note(&note);
            }
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
                (resume.go_on(watcher)?, Some((step, seen)))
            }
        };
        let peak = device.peak(config.train.recipe.compute_dtype())?;
        loaded.vocabulary.save(folder.path())?;
        let images = matches!(loader.data(), Dataset::Images(_));
        let (sinks, warnings) = Sinks::open(folder.path(), &config.run.log, images, resumed.as_ref().map(|r| r.0))?;
        warnings.iter().for_each(|warning| watcher.warn(warning));
        let facts = Facts {
            config: &config,
            device: &around.device,
            device_why: &device.why,
            recipe_why,
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
        let ceiling = Ceiling::new(session.program().step_cost().flops, peak.flops_per_s);
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
            device,
            ceiling,
            start: Instant::now(),
            begun: VecDeque::new(),
            last_landed: Instant::now(),
            step_ms: Vec::new(),
            skipped_in_a_row: 0,
            health,
            memory: Vec::new(),
            tuned: Vec::new(),
        }))
    }

    /// Whether all steps have been taken, or one of them ended the run.
    pub fn is_over(&self) -> bool {
        self.ended || self.session.steps() >= self.config.train.schedule.steps
    }

    /// One more step, and the evaluation, sample and checkpoint that are due after it. What it tells may be heard some calls later.
    pub fn advance(&mut self, observe: Observe) -> Result<()> {
        let steps = self.config.train.schedule.steps;
        match observe {
            Observe::Nothing => self.submit()?,
            Observe::Times => self.step_timed()?,
        }
        let step = self.session.steps();
        let run = &self.config.run;
        let due = |every: u64| every > 0 && step.is_multiple_of(every) && step < steps;
        let (eval, sample, save) =
            (due(run.eval_every), due(run.sample_every) && run.sample_tokens > 0, due(run.checkpoint_every));
        let waits = eval || sample || save || step == steps || self.config.train.may_end_early();
        self.land(if waits { 0 } else { LEAD })?;
        if self.ended {
            return Ok(());
        }
        if eval {
            self.evaluate()?;
        }
        if sample {
            self.sample()?;
        }
        if save {
            self.save()?;
        }
        Ok(())
    }

    /// Waits for the steps under way, and tells what they tell.
    pub fn settle(&mut self) -> Result<()> {
        self.land(0)
    }

    /// Whether its recipe has a loss scale.
    pub fn has_loss_scale(&self) -> bool {
        self.config.train.recipe.scaler.is_some()
    }

    /// Multiplies the loss scale, so that an overflow and what follows can be watched. An error without a loss scaler.
    pub fn scale_loss_scale(&mut self, factor: f32) -> Result<()> {
        self.settle()?;
        let Some(mut state) = self.session.scaler_state()? else {
            bail!("expected a recipe with a loss scaler (f16), got {}", self.config.train.recipe.name);
        };
        state.scale = (state.scale * factor).min(f32::MAX);
        self.watcher.line(&format!("loss_scale set to {} by hand", show::loss_scale(state.scale)));
        Ok(self.session.load_scaler_state(&state)?)
    }

    /// Starts a step.
    fn submit(&mut self) -> Result<()> {
        let step = self.session.steps() + 1;
        self.begun.push_back(Instant::now());
        let batch = self.prefetch.next(step)?;
        match self.config.run.stats_every {
            every if every > 0 && step.is_multiple_of(every) => self.session.submit_measured(batch.batch()),
            _ => self.session.submit(batch.batch()),
        }?;
        self.prefetch.give_back(batch);
        Ok(())
    }

    /// One step with the time of every instruction.
    fn step_timed(&mut self) -> Result<()> {
        self.settle()?;
        self.begun.push_back(Instant::now());
        let batch = self.prefetch.next(self.session.steps() + 1)?;
        let (landed, spans) = timed_step(&mut self.session, batch.batch())?;
        self.prefetch.give_back(batch);
        let (step, program) = (landed.report.step, self.session.program());
        let times = Profile::new(program, vec![spans]);
        self.ceiling.raise(times.flops_per_s(program));
        let profile = times.rows(program);
        let clock = Clock::of(&self.session).name().into();
        self.tell(landed)?;
        self.event(Event::Profile(ProfileEvent { step, profile, clock }))
    }

    /// Tells what steps have told, waiting until at most `lead` steps are under way.
    fn land(&mut self, lead: usize) -> Result<()> {
        while let Some(landed) = self.session.landed(self.session.under_way() > lead)? {
            self.tell(landed)?;
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

    /// Writes a checkpoint, unless the last one is of this step.
    pub fn save(&mut self) -> Result<()> {
        self.settle()?;
        let step = self.session.steps();
        if self.saved != Some(step) {
            self.logs.folder.sync()?;
            self.logs.sinks.sync()?;
            let (folder, keep) = (self.logs.folder.path(), self.config.run.keep);
            let saved = write::save(folder, &self.session, self.health.state(), &self.around, keep)?;
            saved.warnings.iter().for_each(|warning| self.watcher.warn(warning));
            self.saved = Some(step);
        }
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

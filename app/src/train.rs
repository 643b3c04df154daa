//! `mantissa train`: everything is checked, then the run folder is made, then steps, evaluations and samples until the
//! end or a signal.

mod ceiling;
mod end;
mod logs;
mod look;
mod skipped;
mod step_times;
mod tell;

use crate::banner::{self, Facts};
use crate::checkpoint::moved;
use crate::checkpoint::resume::{self, Resume};
use crate::checkpoint::state::RunFingerprint;
use crate::cli::TrainArgs;
use crate::cli::{resolve, text};
use crate::config::RunConfig;
use crate::console::Console;
use crate::data::Reading;
use crate::device::Device;
use crate::event_log::Looks;
use crate::prefetch::Prefetch;
use crate::profile::{Clock, Profile, timed_step};
use crate::run_folder::{self, RunFolder};
use crate::sinks::Sinks;
use crate::stop::Stop;
use crate::vocabulary::Vocabulary;
use crate::watcher::{Begin, Watcher};
use crate::{Outcome, data, device, init_from, show};
use anyhow::{Result, bail};
use mantissa_core::data::{BatchBytes, Dataset, Loader};
use mantissa_core::diagnose::health::Health;
use mantissa_core::precision::fp8_layers::compute_dtype;
use mantissa_core::precision::scaler::LEAST_SCALE;
use mantissa_core::telemetry::event::{Event, ProfileEvent};
use mantissa_core::train::{MAX_IN_FLIGHT, Session, StepResult};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ceiling::Ceiling;
use end::Unsaved;
use logs::Logs;
use step_times::StepTimes;

/// `mantissa train`.
pub fn command(args: &TrainArgs) -> Result<Outcome> {
    let asked = Asked::new(args)?;
    if args.print_config {
        return text::print_contents(&asked.config.to_toml()?);
    }
    let console = Console::new(args.json, args.quiet);
    let outcome = drive(asked, &console, &Stop::on_signals(args.quiet)?);
    match (outcome, console.finish()) {
        (Ok(Outcome::Done), Err(unprinted)) => Err(unprinted),
        (outcome, printed) => {
            // How the run itself ended says more.
            if let Err(unprinted) = printed {
                console.warn(&format!("{unprinted:#}"));
            }
            outcome
        }
    }
}

fn drive(asked: Asked, console: &Console, stop: &Stop) -> Result<Outcome> {
    let Some(mut run) = Run::prepare(asked, console, stop)? else { return Ok(Outcome::Done) };
    while !run.is_over() {
        if let Some(signal) = stop.asked() {
            run.interrupt()?;
            return Ok(Outcome::Interrupted(signal));
        }
        run.advance(Observe::Nothing)?;
    }
    run.finish()
}

/// Whether something that is done `every` so many steps is due after `step`.
fn is_due(every: u64, step: u64) -> bool {
    every > 0 && step > 0 && step.is_multiple_of(every)
}

/// What is due after `step`: after the last one, an evaluation and a sample whatever else is said.
fn due(config: &RunConfig, step: u64) -> Looks {
    let run = &config.run;
    let last = step == config.train.schedule.steps;
    Looks {
        eval: last || is_due(run.eval_every, step),
        sample: run.sample_tokens > 0 && (last || is_due(run.sample_every, step)),
    }
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
    silent: bool,
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
        Ok(Asked { config, resume, recipe_why, vocab_given, out: args.out.clone(), silent: args.json || args.quiet })
    }
}

/// What to look at while a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observe {
    /// The step runs as fast as it can.
    Nothing,
    /// The time of every instruction, told as an event. Statistics that are due with this step are left out.
    Times,
}

/// A run in progress.
pub struct Run<'a> {
    config: RunConfig,
    watcher: &'a dyn Watcher,
    stop: Stop,
    session: Session,
    /// For evaluation.
    loader: Loader,
    /// For training.
    prefetch: Prefetch,
    vocabulary: Vocabulary,
    logs: Logs,
    around: RunFingerprint,
    /// Step of the last checkpoint.
    saved: Option<u64>,
    /// The last attempt at a checkpoint, if it failed.
    unsaved: Option<Unsaved>,
    /// What an earlier process was to do after its last step, and has not.
    owed: Looks,
    /// A step has ended the run before the last.
    ended: bool,
    batch: BatchBytes,
    images: bool,
    device: Device,
    /// What a step is compared with for its MFU.
    ceiling: Ceiling,
    start: Instant,
    times: StepTimes,
    /// Steps that have arrived and are reported with the next that does.
    unreported: Vec<StepResult>,
    health: Health,
    /// The memory last told.
    memory: Vec<(&'static str, usize)>,
    /// The choices last told.
    tuned: Vec<(String, String)>,
    /// How many warnings of the device have been told.
    warnings_told: usize,
}

impl<'a> Run<'a> {
    /// Loads data, makes or restores the session and opens the run folder: everything before the first step. `None` if
    /// the run to go on with has taken all its steps. A request to `stop` is looked at later, by [`Run::advance`] and
    /// [`Run::finish`]: what takes long in them ends early, and whoever steps the run calls [`Run::interrupt`].
    pub fn prepare(asked: Asked, watcher: &'a dyn Watcher, stop: &Stop) -> Result<Option<Run<'a>>> {
        let Asked { mut config, resume, recipe_why, vocab_given, out, silent } = asked;
        if let Some(out) = &out {
            run_folder::refuse_used(out)?;
        }
        let how = Reading { vocab: config.vocab().filter(|_| vocab_given), silent };
        let (loaded, digest) = moved::load(&config, resume.as_ref(), how)?;
        for note in loaded.notes.iter().chain(&data::settle_vocab(&mut config, vocab_given, &loaded)?) {
            watcher.note(note);
        }
        if config.run.sample_tokens > 0 && !loaded.vocabulary.has_text() {
            watcher.note("no samples: the tokens of the data have no text; give a --tokenizer, or `itos` in meta.json");
            config.run.sample_tokens = 0;
        }
        let device = device::open(config.run.device, config.run.adapter.as_deref(), config.run.tune)?;
        let backend = &device.backend;
        let around = RunFingerprint { device: backend.capabilities().device.clone(), data: digest };
        let loader = Loader::new(Arc::new(loaded.dataset), config.train.batch_plan())?;
        device::check_memory(&config.train, &**backend)?;
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
        let mut owed = Looks::default();
        let (folder, resumed) = match resume {
            None => (RunFolder::create(out.as_deref(), &init_from::model_name(&config), &config)?, None),
            Some(resume) => {
                owed = due(&config, resume.step()).without(resume.looks()?);
                for warning in resume.restore(&mut session, &around)? {
                    watcher.warn(&warning);
                }
                for note in &resume.notes {
                    watcher.note(note);
                }
                let step = resume.step();
                if step == config.train.schedule.steps && !owed.any() {
                    let path = resume.folder.path().display();
                    let steps = show::plural(step as usize, "step");
                    watcher.result(&format!("done already: {step} {steps}; to go on, give a higher --steps | {path}"));
                    return Ok(None);
                }
                let seen = resume.health();
                (resume.go_on(watcher)?, Some((step, seen)))
            }
        };
        let peak = device.peak(compute_dtype(&config.train.recipe, session.program()))?;
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
            watcher.line(&show::printable(&line));
        }
        if let Some((step, _)) = &resumed {
            watcher.line(&format!("{:<12} after step {step}", "resumed"));
        }
        watcher.line("");
        watcher.begin(&Begin { config: &config, folder: folder.path(), steps: session.steps() });
        let prefetch = Prefetch::new(loader.clone(), session.steps() + 1, config.train.schedule.steps)?;
        let ceiling = Ceiling::new(session.program().step_cost().flops, peak.flops_per_s);
        let stop = stop.for_run();
        let saved = resumed.as_ref().map(|(step, _)| *step).filter(|step| *step > 0);
        if let Some(step) = saved {
            stop.saved(step);
        }
        let mut health = Health::new(&config.train.recipe, session.program());
        if let Some((_, seen)) = resumed {
            health.restore(seen);
        }
        let mut run = Run {
            config,
            watcher,
            stop,
            session,
            loader,
            prefetch,
            vocabulary: loaded.vocabulary,
            logs: Logs::new(folder, sinks),
            around,
            saved,
            unsaved: None,
            owed,
            ended: false,
            batch: BatchBytes::default(),
            images,
            device,
            ceiling,
            start: Instant::now(),
            times: StepTimes::new(),
            unreported: Vec::new(),
            health,
            memory: Vec::new(),
            tuned: Vec::new(),
            warnings_told: 0,
        };
        run.begin_log()?;
        Ok(Some(run))
    }

    /// Whether all steps have been taken, or one of them ended the run.
    pub fn is_over(&self) -> bool {
        self.ended || self.session.steps() >= self.config.train.schedule.steps
    }

    /// One more step, and the evaluation, sample and checkpoint that are due after it. What it tells may be heard some
    /// calls later.
    pub fn advance(&mut self, observe: Observe) -> Result<()> {
        let steps = self.config.train.schedule.steps;
        if self.is_over() {
            return Ok(());
        }
        if self.owed.any() {
            let owed = std::mem::take(&mut self.owed);
            self.look(owed)?;
            if self.stop.asked().is_some() {
                return Ok(());
            }
        }
        match observe {
            Observe::Nothing => self.submit()?,
            Observe::Times => self.step_timed()?,
        }
        let step = self.session.steps();
        self.stop.taken(step);
        // After the last step comes the end of the run.
        let looks = if step < steps { due(&self.config, step) } else { Looks::default() };
        let save = step < steps && is_due(self.config.run.checkpoint_every, step);
        // What could not be saved is tried again as soon as the run stands still anyway.
        let save = save || (self.unsaved.is_some() && looks.any());
        let waits = looks.any() || save || step == steps || self.config.train.may_end_early();
        self.take_results(if waits { 0 } else { MAX_IN_FLIGHT })?;
        self.refuse_moved()?;
        if self.ended {
            return Ok(());
        }
        // Saved first: what follows may take long, and may be what a crash or a signal meets.
        if save {
            self.save()?;
        }
        self.look(looks)
    }

    /// Waits for the steps in flight, and reports them.
    pub fn settle(&mut self) -> Result<()> {
        self.take_results(0)
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
        state.scale = (state.scale * factor).clamp(LEAST_SCALE, f32::MAX);
        self.watcher.line(&format!("loss_scale set to {} by hand", show::loss_scale(state.scale)));
        Ok(self.session.load_scaler_state(&state)?)
    }

    /// The batch of step `step`. Data that cannot be read end the run, with what it has learned saved.
    fn next_batch(&mut self, step: u64) -> Result<BatchBytes> {
        match self.prefetch.next(step) {
            Err(e) if step > 1 && self.save()? => Err(e.context(format!("the run ends; step {} is saved", step - 1))),
            batch => batch,
        }
    }

    /// Starts a step.
    fn submit(&mut self) -> Result<()> {
        let step = self.session.steps() + 1;
        self.times.begin(Instant::now());
        let batch = self.next_batch(step)?;
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
        self.times.begin(Instant::now());
        let batch = self.next_batch(self.session.steps() + 1)?;
        let (result, spans) = timed_step(&mut self.session, batch.batch())?;
        self.prefetch.give_back(batch);
        let (step, program) = (result.report.step, self.session.program());
        let times = Profile::new(program, vec![spans]);
        self.ceiling.raise(times.flops_per_s(program));
        let profile = times.rows(program);
        let clock = Clock::of(&self.session).name().into();
        let ms = self.times.arrive(1, Instant::now());
        self.tell(result, ms)?;
        self.event(Event::Profile(ProfileEvent { step, profile, clock }))
    }

    /// Reports the steps that have arrived, waiting until at most `lead` steps are in flight.
    fn take_results(&mut self, lead: usize) -> Result<()> {
        let mut waited = false;
        loop {
            let next = match self.session.next_result(false)? {
                None if self.session.in_flight() > lead => {
                    waited = true;
                    self.session.next_result(true)?
                }
                there => there,
            };
            let Some(result) = next else { break };
            self.unreported.push(result);
        }
        if step_times::ends_a_group(self.unreported.len(), self.session.in_flight(), waited) {
            let together = std::mem::take(&mut self.unreported);
            let ms = self.times.arrive(together.len(), Instant::now());
            together.into_iter().try_for_each(|result| self.tell(result, ms))?;
        }
        Ok(())
    }
}

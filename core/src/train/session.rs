//! A run in memory: compiled Programs over one set of weights and states, stepped by the host.
//!
//! The session knows no files and no clock; hosts feed it batches and read its reports.

use super::config::TrainConfig;
use super::in_flight::{Bytes, InFlight, StepResult};
use super::measured::{self, TENSOR_STATS, Tensor};
use super::record::{self, LOGITS, LOSS, OPTIM};
use crate::backend::{Backend, Executable, Memory, wait};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::precision::fp8;
use crate::precision::scaler::{GROWTH_TRACKER, HYSTERESIS, LOSS_SCALE, ScalerConfig, ScalerState};
use crate::program::memory::{Entry, Layout, MemoryPlan, Purpose};
use crate::program::observe::{Observer, Span};
use crate::program::{Init, Program, ValueId};
use crate::rng::Rng;
use crate::shape::Ty;
use crate::telemetry::{Fp8Stats, StepReport, TELEMETRY};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A compiled Program with the ids of its inputs.
#[derive(Debug)]
struct Compiled {
    program: Arc<Program>,
    executable: Box<dyn Executable>,
}

impl Compiled {
    fn new(backend: &dyn Backend, memory: &Arc<dyn Memory>, program: Program) -> Result<Compiled> {
        let program = Arc::new(program);
        Ok(Compiled { executable: backend.compile(program.clone(), memory)?, program })
    }

    fn submit(&mut self, inputs: &[(&str, &[u8])]) -> Result<()> {
        let ids = self.ids(inputs);
        self.executable.submit(&ids)
    }

    /// Inputs by id. The Program may have no use for some.
    fn ids<'b>(&self, inputs: &[(&str, &'b [u8])]) -> Vec<(ValueId, &'b [u8])> {
        inputs.iter().filter_map(|(name, bytes)| self.program.find(name).map(|id| (id, *bytes))).collect()
    }

    fn output(&self, name: &str) -> Result<Vec<u8>> {
        let id = self.program.find(name).ok_or_else(|| Error::operand("read", "the name of an output", format!("`{name}`")))?;
        wait(self.executable.read(id)?)
    }
}

/// The variant of the training step that measures tensors.
#[derive(Debug)]
struct Measured {
    tensors: Vec<Tensor>,
    program: Arc<Program>,
    /// Compiled when it is first needed.
    compiled: Option<Compiled>,
    /// Whether it then took memory of its own, beside that of the plain step.
    apart: bool,
}

/// A run in memory.
#[derive(Debug)]
pub struct Session {
    config: TrainConfig,
    backend: Arc<dyn Backend>,
    memory: Arc<dyn Memory>,
    train: Compiled,
    measured: Option<Measured>,
    eval: Option<Compiled>,
    logits: Option<(usize, Compiled)>,
    /// Submitted, not arrived; oldest first.
    in_flight: VecDeque<InFlight>,
    step: u64,
    skipped: u64,
}

impl Session {
    /// Records, compiles and initialises a run. Fails if `config` is invalid, or the device lacks memory or an ability.
    pub fn new(backend: Arc<dyn Backend>, config: TrainConfig) -> Result<Session> {
        let program = record::train_step(&config)?;
        Session::from_program(backend, config, program, None)
    }

    /// As [`Session::new`], with the same bits, but every matmul result is materialised for the observer of
    /// [`Session::step_observed`]. Fails as that does.
    pub fn observable(backend: Arc<dyn Backend>, config: TrainConfig) -> Result<Session> {
        let program = record::observable_step(&config)?;
        Session::from_program(backend, config, program, None)
    }

    /// As [`Session::new`], with room for [`Session::step_measured`]: statistics of the tensors that match any of
    /// `globs`, see [`measured::step`]. Fails as that does, and if a glob matches nothing.
    pub fn measuring(backend: Arc<dyn Backend>, config: TrainConfig, globs: &[String]) -> Result<Session> {
        let (program, tensors) = measured::step(&config, globs)?;
        let measured =
            Measured { program: Arc::new(measured::measured(&program, &tensors)?), tensors, compiled: None, apart: false };
        Session::from_program(backend, config, program, Some(measured))
    }

    /// A run whose steps keep logits and gradients for [`Session::captured`], on inputs of the given types (their first
    /// axis is the batch). Fails as [`Session::new`] does, with several micro-steps, and if the inputs do not fit.
    pub fn capturing(backend: Arc<dyn Backend>, config: TrainConfig, inputs: [Ty; 2]) -> Result<Session> {
        let program = record::captured_step(&config, inputs)?;
        Session::from_program(backend, config, program, None)
    }

    fn from_program(
        backend: Arc<dyn Backend>,
        config: TrainConfig,
        program: Program,
        measured: Option<Measured>,
    ) -> Result<Session> {
        let layout = Layout::new(measured.as_ref().map_or(&program, |m| &*m.program));
        let memory = backend.alloc(Arc::new(layout))?;
        let train = Compiled::new(&*backend, &memory, program)?;
        let in_flight = VecDeque::new();
        let session =
            Session { config, backend, memory, train, measured, eval: None, logits: None, in_flight, step: 0, skipped: 0 };
        init_memory(&*session.memory, session.config.seed)?;
        Ok(session)
    }

    /// The config it was made from.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The recorded training step.
    pub fn program(&self) -> &Program {
        &self.train.program
    }

    /// Where everything of the training step lies.
    pub fn plan(&self) -> &MemoryPlan {
        self.train.executable.plan()
    }

    /// Bytes that the device takes for the training step on top of the plan.
    pub fn scratch_bytes(&self) -> usize {
        self.train.executable.scratch_bytes()
    }

    /// Bytes that evaluation takes beside the step, planned if it has not been compiled: its buffers, and its scratch.
    /// Fails if evaluation cannot be planned.
    pub fn evaluation_bytes(&self) -> Result<[usize; 2]> {
        if let Some(eval) = &self.eval {
            return Ok([eval.executable.temp_bytes(), eval.executable.scratch_bytes()]);
        }
        let program = record::eval_step(&self.config)?;
        let plan = MemoryPlan::new(&program, self.memory.layout())?;
        Ok([plan.temp_bytes(), self.backend.scratch_bytes(&program, &plan)?])
    }

    /// Bytes taken so far, by purpose: those of the plan in its order; then what statistics, evaluation and scores take
    /// beside the step, and scratch of all of them.
    pub fn taken_bytes(&self) -> Vec<(&'static str, usize)> {
        let plan = self.plan();
        let temps = |c: Option<&Compiled>| c.map_or(0, |c| c.executable.temp_bytes());
        let measured = self.measured.as_ref().and_then(|m| m.compiled.as_ref().filter(|_| m.apart));
        let scores = self.logits.as_ref().map(|(_, c)| c);
        let planned = plan.buffers.iter().map(|b| b.size).sum::<usize>();
        let grown = self.train.executable.temp_bytes().saturating_sub(planned);
        let apart = [Some(&self.train), measured, self.eval.as_ref(), scores];
        let beside = [
            ("statistics", grown + temps(measured)),
            ("evaluation", temps(self.eval.as_ref())),
            ("scores", temps(scores)),
            ("scratch", apart.iter().flatten().map(|c| c.executable.scratch_bytes()).sum()),
        ];
        plan.bytes_by_purpose().into_iter().map(|(p, bytes)| (p.name(), bytes)).chain(beside).filter(|r| r.1 > 0).collect()
    }

    /// Weights and states.
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// What its Programs got because it was measured to be the fastest on the device, see [`Backend::tuned`].
    pub fn tuned(&self) -> Vec<(String, String)> {
        self.backend.tuned()
    }

    /// Failures of the device that ended nothing, see [`Backend::warnings`].
    pub fn warnings(&self) -> Vec<String> {
        self.backend.warnings()
    }

    /// Steps submitted, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Steps submitted whose results have not arrived.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Steps that have arrived and were skipped because something was not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The persistent values that decide how the run goes on: weights, optimizer and precision states. Gradient sums
    /// are zero between steps and telemetry is overwritten by each.
    pub fn saved(&self) -> impl Iterator<Item = &Entry> {
        self.memory.layout().entries.iter().filter(|e| match e.purpose {
            Purpose::Weights | Purpose::Optimizer | Purpose::Precision => true,
            Purpose::Telemetry | Purpose::Gradients | Purpose::Activations | Purpose::Inputs => false,
        })
    }

    /// The bytes of a persistent value, as they lie in memory. Fails for an unknown name, and if the device does.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        wait(self.memory.read(name)?)
    }

    /// Puts the run where another of the same config was after `step` steps. `values` must be those of
    /// [`Session::saved`], all of them and nothing else; nothing is written before that is checked. The next steps give
    /// the same bits as those of the other run. Fails if a value is missing, doubled, unknown or of another size, or
    /// with a step in flight.
    pub fn restore(&mut self, step: u64, skipped: u64, values: &[(&str, &[u8])]) -> Result<()> {
        let mut by_name = BTreeMap::new();
        for (name, bytes) in values {
            if by_name.insert(*name, *bytes).is_some() {
                return Err(Error::data(format!("value `{name}`"), "one", "several"));
            }
        }
        for entry in self.saved() {
            let Some(bytes) = by_name.get(entry.name.as_str()) else {
                return Err(Error::data(format!("value `{}`", entry.name), entry.ty.to_string(), "nothing"));
            };
            sized(entry, bytes)?;
        }
        if let Some(name) = by_name.keys().find(|name| !self.saved().any(|e| e.name == **name)) {
            return Err(Error::data("saved values", "those of the config only", format!("`{name}` too")));
        }
        self.restore_with(step, skipped, |entry| Ok(by_name.get(entry.name.as_str()).copied().unwrap_or_default()))
    }

    /// [`Session::restore`] from values that are given one by one, when it is their turn, so that they are never in
    /// memory all at once. After an error of `value` some are written and some not: the session is of no use then.
    pub fn restore_with<B: AsRef<[u8]>, E: From<Error>>(
        &mut self,
        step: u64,
        skipped: u64,
        mut value: impl FnMut(&Entry) -> Result<B, E>,
    ) -> Result<(), E> {
        self.refuse_in_flight("restore")?;
        if skipped > step {
            return Err(Error::data("skipped steps", format!("at most {step}, the steps taken"), skipped.to_string()).into());
        }
        for entry in self.saved() {
            let bytes = value(entry)?;
            sized(entry, bytes.as_ref())?;
            self.memory.write(&entry.name, bytes.as_ref())?;
        }
        (self.step, self.skipped) = (step, skipped);
        Ok(())
    }

    /// An output of the last step of a [`Session::capturing`] run: [`LOGITS`], or `grad.` and the name of a parameter.
    /// Fails for another name.
    pub fn captured(&self, name: &str) -> Result<Vec<f32>> {
        Ok(f32s(&self.train.output(name)?))
    }

    /// Starts a step on `batch`. Its result comes from [`Session::next_result`]; until then the host may submit more.
    /// Fails if `batch` has the wrong size or an index out of range; nothing has run then. Fails if the device does.
    pub fn submit(&mut self, batch: Batch<'_>) -> Result<()> {
        self.start(batch, Variant::Plain)
    }

    /// As [`Session::submit`], to the bit, with statistics of tensors. Only after [`Session::measuring`]. Fails as that
    /// does, and in other sessions.
    pub fn submit_measured(&mut self, batch: Batch<'_>) -> Result<()> {
        self.start(batch, Variant::Measured)
    }

    /// The result of the oldest step in flight, once it is here; `wait` says to sleep until then. `None` if none is
    /// in flight or, without `wait`, not here yet. Fails if the device does.
    pub fn next_result(&mut self, wait: bool) -> Result<Option<StepResult>> {
        let Some(oldest) = self.in_flight.front_mut() else { return Ok(None) };
        if !oldest.arrive(wait)? {
            return Ok(None);
        }
        let measured = self.measured.as_ref().map_or(&[][..], |m| &m.tensors);
        let slots = &self.train.program.fp8_slots;
        let judged = [self.config.on_nonfinite.guards(), record::tells_found_inf(&self.config, slots)];
        let result = self.in_flight.pop_front().map(|flight| flight.into_result(slots, measured, self.skipped, judged));
        if let Some(StepResult { report, .. }) = &result {
            self.skipped = report.skipped_total;
        }
        Ok(result)
    }

    /// Runs one step on `batch` and waits for its report. Only with no other step in flight, as all that follow. Fails
    /// at a norm that is not finite, if the config asks for it; hosts that take reports from [`Session::next_result`]
    /// ask [`TrainConfig::ends_at`], and can still save.
    pub fn step(&mut self, batch: Batch<'_>) -> Result<StepReport> {
        let report = self.run_step(batch, Variant::Plain)?.report;
        if self.config.error_if_nonfinite && !report.grad_norm.is_finite() {
            return Err(Error::NonFinite { what: "grad_norm".into(), value: report.grad_norm.to_string(), step: report.step });
        }
        Ok(report)
    }

    /// As [`Session::step`], with `observer` called around every instruction. Fails as [`Session::submit`] does, and if
    /// the backend cannot observe.
    pub fn step_observed(&mut self, batch: Batch<'_>, observer: &mut dyn Observer) -> Result<StepResult> {
        self.run_step(batch, Variant::Observed(observer))
    }

    /// Whether the device has a clock of its own, for [`Session::step_timed`].
    pub fn has_clock(&self) -> bool {
        self.train.executable.has_clock()
    }

    /// As [`Session::step`], with the time of every instruction by the clock of the device. Fails where it has none.
    pub fn step_timed(&mut self, batch: Batch<'_>) -> Result<(StepResult, Vec<Span>)> {
        let mut spans = Vec::new();
        let result = self.run_step(batch, Variant::Timed(&mut spans))?;
        Ok((result, spans))
    }

    /// As [`Session::submit_measured`], and waits for its result. Fails as that does.
    pub fn step_measured(&mut self, batch: Batch<'_>) -> Result<StepResult> {
        self.run_step(batch, Variant::Measured)
    }

    /// Runs the last step, which must have been skipped, once more under an observer: weights and inputs are those it
    /// had. Scales and histories move again. Fails if no step was skipped, with a step in flight, and as
    /// [`Session::step_observed`] does.
    pub fn repeat_observed(&mut self, batch: Batch<'_>, observer: &mut dyn Observer) -> Result<StepResult> {
        self.refuse_in_flight("repeat_observed")?;
        if self.step == 0 || self.skipped == 0 {
            return Err(Error::misuse("repeat_observed", "no step was skipped", "repeat a skipped step"));
        }
        (self.step, self.skipped) = (self.step - 1, self.skipped - 1);
        self.run_step(batch, Variant::Observed(observer))
    }

    /// The measuring variant, compiled.
    fn measured_step(&mut self) -> Result<&mut Compiled> {
        let measured = self.measured.as_mut().ok_or_else(not_measuring)?;
        if measured.compiled.is_none() {
            let program = measured.program.clone();
            let variant = self.train.executable.compile_variant(program.clone())?;
            measured.apart = variant.is_none();
            let executable = match variant {
                Some(variant) => variant,
                None => self.backend.compile(program.clone(), &self.memory)?,
            };
            measured.compiled = Some(Compiled { program, executable });
        }
        Ok(measured.compiled.as_mut().expect("compiled above"))
    }

    fn run_step(&mut self, batch: Batch<'_>, variant: Variant<'_>) -> Result<StepResult> {
        self.refuse_in_flight("step")?;
        self.start(batch, variant)?;
        Ok(self.next_result(true)?.expect("one step is in flight"))
    }

    fn start(&mut self, batch: Batch<'_>, variant: Variant<'_>) -> Result<()> {
        let measured = matches!(variant, Variant::Measured);
        let step = self.step + 1;
        let lr = self.config.schedule.lr(step);
        let lr_f32 = lr as f32;
        let rng = self.rng_words(step);
        let lr_name = format!("{OPTIM}.lr");
        let inputs: [(&str, &[u8]); 4] = [
            ("x", batch.x),
            ("targets", batch.targets),
            ("rng", bytemuck::cast_slice(&rng)),
            (&lr_name, bytemuck::bytes_of(&lr_f32)),
        ];
        match variant {
            Variant::Plain => self.train.submit(&inputs)?,
            Variant::Observed(observer) => self.train.executable.submit_observed(&self.train.ids(&inputs), observer)?,
            Variant::Timed(spans) => *spans = self.train.executable.submit_timed(&self.train.ids(&inputs))?,
            Variant::Measured => self.measured_step()?.submit(&inputs)?,
        }
        self.step = step;
        let copy = |name: &str| Ok(Bytes::Coming(self.memory.read(name)?));
        let has = |name: &str| self.memory.layout().find(name).is_some();
        let scaler = self.config.recipe.scaler;
        let flight = InFlight {
            step,
            lr,
            telemetry: copy(TELEMETRY)?,
            loss_scale: scaler.map(|_| copy(LOSS_SCALE)).transpose()?,
            hysteresis: scaler.filter(|s| s.hysteresis > 1).map(|_| copy(HYSTERESIS)).transpose()?,
            fp8: has(fp8::STATISTICS).then(|| copy(fp8::STATISTICS)).transpose()?,
            tensors: measured.then(|| copy(TENSOR_STATS)).transpose()?,
            history: (measured && has(fp8::HISTORY)).then(|| copy(fp8::HISTORY)).transpose()?,
        };
        self.in_flight.push_back(flight);
        Ok(())
    }

    fn refuse_in_flight(&self, call: &'static str) -> Result<()> {
        match self.in_flight.len() {
            0 => Ok(()),
            n => {
                let problem = format!("{n} steps are in flight");
                Err(Error::misuse(call, problem, "take their results from Session::next_result first"))
            }
        }
    }

    /// `[seed, step]` for every micro-step: dropout draws new words each time and the same words after a resume.
    fn rng_words(&self, step: u64) -> Vec<u32> {
        let n = self.config.grad_accum as u64;
        (0..n).flat_map(|m| [self.config.seed as u32 ^ (self.config.seed >> 32) as u32, ((step - 1) * n + m) as u32]).collect()
    }

    /// Statistics of every fp8 tensor, in the order of `program().fp8_slots`. Fails if the device does.
    pub fn fp8_stats(&self) -> Result<Vec<Fp8Stats>> {
        match self.memory.layout().find(fp8::STATISTICS) {
            None => Ok(Vec::new()),
            Some(_) => Ok(Fp8Stats::rows(&self.read_f32(fp8::STATISTICS)?)),
        }
    }

    /// Mean loss on one batch, without changing anything. Fails as [`Session::submit`] does.
    pub fn eval(&mut self, batch: Batch<'_>) -> Result<f32> {
        if self.eval.is_none() {
            self.eval = Some(Compiled::new(&*self.backend, &self.memory, record::eval_step(&self.config)?)?);
        }
        let eval = self.eval.as_mut().expect("compiled above");
        eval.submit(&[("x", batch.x), ("targets", batch.targets)])?;
        Ok(f32s(&eval.output(LOSS)?)[0])
    }

    /// Scores for a batch of `batch` inputs: `[batch, .., classes]`, f32. Fails if `x` has the wrong size or a token
    /// out of range, and if the device fails.
    pub fn logits(&mut self, batch: usize, x: &[u8]) -> Result<Vec<f32>> {
        if self.logits.as_ref().is_none_or(|(b, _)| *b != batch) {
            let program = record::logits(&self.config, batch)?;
            self.logits = Some((batch, Compiled::new(&*self.backend, &self.memory, program)?));
        }
        let (_, logits) = self.logits.as_mut().expect("compiled above");
        logits.submit(&[("x", x)])?;
        Ok(f32s(&logits.output(LOGITS)?))
    }

    /// A persistent f32 value. Fails for an unknown name, and if the device does.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(f32s(&wait(self.memory.read(name)?)?))
    }

    /// State dict of the loss scaler; `None` without one. Fails if the device does.
    pub fn scaler_state(&self) -> Result<Option<ScalerState>> {
        let Some(config) = self.config.recipe.scaler else { return Ok(None) };
        let count = |name: &str| Ok::<i32, Error>(bytemuck::pod_read_unaligned(&wait(self.memory.read(name)?)?));
        Ok(Some(ScalerState {
            scale: self.read_f32(LOSS_SCALE)?[0],
            growth_factor: config.growth_factor,
            backoff_factor: config.backoff_factor,
            growth_interval: config.growth_interval,
            growth_tracker: count(GROWTH_TRACKER)?,
            hysteresis_tracker: (config.hysteresis > 1).then(|| count(HYSTERESIS)).transpose()?,
        }))
    }

    /// Goes on from a state dict: scale, trackers, and, as `torch.amp.GradScaler.load_state_dict`, its factors and
    /// interval, which become those of the config. The trackers of a dict without hysteresis, or above the config's,
    /// are full. Fails if an entry is out of range, the recipe has no scaler, or with a step in flight. Nothing has
    /// changed then.
    pub fn load_scaler_state(&mut self, state: &ScalerState) -> Result<()> {
        self.refuse_in_flight("load_scaler_state")?;
        state.validate()?;
        let config = self.config.recipe.scaler;
        let config = config.ok_or_else(|| Error::config("scaler state", "a recipe with a loss scaler", "none"))?;
        let adopted = state.adopted_by(config);
        if adopted != config {
            self.set_scaler(adopted)?;
        }
        let full = config.hysteresis as i32;
        let left = state.hysteresis_tracker.map_or(full, |left| left.min(full));
        self.memory.write(LOSS_SCALE, bytemuck::bytes_of(&state.scale))?;
        self.memory.write(GROWTH_TRACKER, bytemuck::bytes_of(&state.growth_tracker))?;
        self.memory.write(HYSTERESIS, bytemuck::bytes_of(&left))
    }

    /// Other settings of the loss scaler from the next step on. They are attributes of one instruction, so the step is
    /// compiled again, over the same weights, states and temporaries.
    fn set_scaler(&mut self, config: ScalerConfig) -> Result<()> {
        let program = Arc::new(config.applied_to(&self.train.program));
        let executable = match self.train.executable.compile_variant(program.clone())? {
            Some(variant) => variant,
            None => self.backend.compile(program.clone(), &self.memory)?,
        };
        self.train = Compiled { program, executable };
        if let Some(measured) = &mut self.measured {
            measured.program = Arc::new(config.applied_to(&measured.program));
            measured.compiled = None;
        }
        self.config.recipe.scaler = Some(config);
        Ok(())
    }
}

/// How to run a step.
enum Variant<'a> {
    Plain,
    Observed(&'a mut dyn Observer),
    Timed(&'a mut Vec<Span>),
    Measured,
}

/// Refuses bytes that are not those of a value.
fn sized(entry: &Entry, bytes: &[u8]) -> Result<()> {
    if bytes.len() == entry.place.size {
        return Ok(());
    }
    let expected = format!("{} bytes", entry.place.size);
    Err(Error::data(format!("value `{}`", entry.name), expected, bytes.len().to_string()))
}

fn not_measuring() -> Error {
    Error::misuse("step_measured", "the session has no room for statistics", "make it with Session::measuring")
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Writes the first contents of every persistent value. Each name has a stream of its own, so that all recipes start
/// from the same weights. Fails if the device does.
pub fn init_memory(memory: &dyn Memory, seed: u64) -> Result<()> {
    for entry in &memory.layout().entries {
        let bytes = init_bytes(&entry.ty, entry.init, &mut Rng::named(seed, &entry.name));
        memory.write(&entry.name, &bytes)?;
    }
    Ok(())
}

/// First contents of a value.
fn init_bytes(ty: &Ty, init: Init, rng: &mut Rng) -> Vec<u8> {
    let n = ty.shape.numel();
    let values: Vec<f32> = match init {
        Init::Fill(c) => vec![c as f32; n],
        Init::Normal { std } => (0..n).map(|_| rng.normal() * std).collect(),
        Init::Uniform { bound } => (0..n).map(|_| (2.0 * rng.uniform() - 1.0) * bound).collect(),
    };
    let mut bytes = vec![0; ty.size_bytes()];
    crate::float::slices::encode(ty.dtype, ty.dtype.overflow(), &values, &mut bytes);
    bytes
}

//! A run in memory: compiled Programs over one set of weights and states, stepped by the host.
//!
//! The session knows no files and no clock; hosts feed it batches and read its reports.

use super::config::TrainConfig;
use super::measured::{self, TENSOR_STATS, Tensor};
use super::record::{self, LOGITS, LOSS, OPTIM};
use crate::backend::{Backend, Executable, Memory, wait};
use crate::error::{Error, Result};
use crate::op::tensor_stats::WORDS;
use crate::precision::fp8;
use crate::precision::scaler::{GROWTH_TRACKER, LOSS_SCALE, ScalerState};
use crate::probe::Observer;
use crate::program::memory::{Entry, Layout, MemoryPlan, Purpose};
use crate::program::{Fp8Slot, Init, Program, ValueId};
use crate::rng::Rng;
use crate::shape::Ty;
use crate::telemetry::{AmaxRing, Fp8Report, Fp8Stats, Slot, StepReport, TELEMETRY, TensorReport};
use std::sync::Arc;

/// One batch as bytes: inputs and targets of all micro-steps, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What the model sees.
    pub x: &'a [u8],
    /// What it should answer.
    pub targets: &'a [u8],
}

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

    fn submit(&mut self, inputs: &[(&str, &[u8])], observer: Option<&mut dyn Observer>) -> Result<()> {
        let ids: Vec<(ValueId, &[u8])> =
            inputs.iter().filter_map(|(name, bytes)| self.program.find(name).map(|id| (id, *bytes))).collect();
        match observer {
            None => self.executable.submit(&ids),
            Some(observer) => self.executable.submit_observed(&ids, observer),
        }
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
    step: u64,
    skipped: u64,
}

impl Session {
    /// Records, compiles and initialises a run.
    pub fn new(backend: Arc<dyn Backend>, config: TrainConfig) -> Result<Session> {
        let program = record::train_step(&config)?;
        Session::from_program(backend, config, program, None)
    }

    /// As [`Session::new`], with room for [`Session::step_measured`]: statistics of the tensors that match any of `globs`, see [`measured::select`].
    pub fn measuring(backend: Arc<dyn Backend>, config: TrainConfig, globs: &[String]) -> Result<Session> {
        let program = record::train_step(&config)?;
        let tensors = measured::select(&program, globs)?;
        let measured =
            Measured { program: Arc::new(measured::measured(&program, &tensors)?), tensors, compiled: None, apart: false };
        Session::from_program(backend, config, program, Some(measured))
    }

    /// A run whose steps keep logits and gradients for [`Session::captured`], on inputs of the given types (their first axis is the batch).
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
        let session = Session { config, backend, memory, train, measured, eval: None, logits: None, step: 0, skipped: 0 };
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

    /// Bytes taken so far, by purpose: those of the plan in its order; then what statistics, evaluation and scores take beside the step, and
    /// scratch of all of them.
    pub fn taken_bytes(&self) -> Vec<(&'static str, usize)> {
        let plan = self.plan();
        let own = |c: Option<&Compiled>| c.map_or(0, |c| c.executable.own_bytes());
        let measured = self.measured.as_ref().and_then(|m| m.compiled.as_ref().filter(|_| m.apart));
        let scores = self.logits.as_ref().map(|(_, c)| c);
        let planned = plan.buffers.iter().map(|b| b.size).sum::<usize>();
        let grown = self.train.executable.own_bytes().saturating_sub(planned);
        let apart = [Some(&self.train), measured, self.eval.as_ref(), scores];
        let beside = [
            ("statistics", grown + own(measured)),
            ("evaluation", own(self.eval.as_ref())),
            ("scores", own(scores)),
            ("scratch", apart.iter().flatten().map(|c| c.executable.scratch_bytes()).sum()),
        ];
        plan.bytes_by_purpose().into_iter().map(|(p, bytes)| (p.name(), bytes)).chain(beside).filter(|r| r.1 > 0).collect()
    }

    /// Weights and states.
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }

    /// Steps taken, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Steps skipped because something was not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The persistent values that decide how the run goes on: weights, optimizer and precision states. Gradient sums are zero between steps and
    /// telemetry is written anew by each.
    pub fn saved(&self) -> impl Iterator<Item = &Entry> {
        self.memory.layout().entries.iter().filter(|e| match e.purpose {
            Purpose::Weights | Purpose::Optimizer | Purpose::Precision => true,
            Purpose::Telemetry | Purpose::Gradients | Purpose::Activations | Purpose::Inputs => false,
        })
    }

    /// The bytes of a persistent value, as they lie in memory.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        wait(self.memory.read(name)?)
    }

    /// Puts the run where another of the same config was after `step` steps. `values` must be those of [`Session::saved`], all of them and nothing
    /// else; nothing is written before that is checked. The next steps give the same bits as those of the other run.
    pub fn restore(&mut self, step: u64, skipped: u64, values: &[(&str, &[u8])]) -> Result<()> {
        if skipped > step {
            return Err(Error::data("skipped steps", format!("at most {step}, the steps taken"), skipped.to_string()));
        }
        for entry in self.saved() {
            let what = || format!("value `{}`", entry.name);
            let mut found = values.iter().filter(|(name, _)| *name == entry.name);
            match (found.next(), found.next()) {
                (Some((_, bytes)), None) if bytes.len() == entry.place.size => {}
                (Some((_, bytes)), None) => {
                    return Err(Error::data(what(), format!("{} bytes", entry.place.size), bytes.len().to_string()));
                }
                (None, _) => return Err(Error::data(what(), entry.ty.to_string(), "nothing")),
                (Some(_), Some(_)) => return Err(Error::data(what(), "one", "several")),
            }
        }
        if let Some((name, _)) = values.iter().find(|(name, _)| !self.saved().any(|e| e.name == *name)) {
            return Err(Error::data("saved values", "those of the config only", format!("`{name}` too")));
        }
        for (name, bytes) in values {
            self.memory.write(name, bytes)?;
        }
        (self.step, self.skipped) = (step, skipped);
        Ok(())
    }

    /// An output of the last step of a [`Session::capturing`] run: [`LOGITS`], or `grad.` and the name of a parameter.
    pub fn captured(&self, name: &str) -> Result<Vec<f32>> {
        Ok(f32s(&self.train.output(name)?))
    }

    /// Runs one step on `batch` and reports it.
    pub fn step(&mut self, batch: Batch<'_>) -> Result<StepReport> {
        self.run_step(batch, Variant::Plain)
    }

    /// As [`Session::step`], with `observer` called around every instruction.
    pub fn step_observed(&mut self, batch: Batch<'_>, observer: &mut dyn Observer) -> Result<StepReport> {
        self.run_step(batch, Variant::Observed(observer))
    }

    /// Runs the last step, which must have been skipped, once more under an observer: weights and inputs are those it had. Scales and histories
    /// move again.
    pub fn repeat_observed(&mut self, batch: Batch<'_>, observer: &mut dyn Observer) -> Result<StepReport> {
        if self.step == 0 || self.skipped == 0 {
            return Err(Error::Misuse {
                call: "repeat",
                problem: "no step was skipped".into(),
                remedy: "repeat a skipped step",
            });
        }
        (self.step, self.skipped) = (self.step - 1, self.skipped - 1);
        self.run_step(batch, Variant::Observed(observer))
    }

    /// As [`Session::step`], to the bit, with statistics for [`Session::tensor_reports`]. Only after [`Session::measuring`].
    pub fn step_measured(&mut self, batch: Batch<'_>) -> Result<StepReport> {
        self.measured_step()?;
        self.run_step(batch, Variant::Measured)
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

    /// The fp8 tensors of the last step and the tensors measured by it, which must have been [`Session::step_measured`]; in the order of the model.
    pub fn tensor_reports(&self) -> Result<Vec<TensorReport>> {
        let Measured { tensors, .. } = self.measured.as_ref().ok_or_else(not_measuring)?;
        let bytes = self.read(TENSOR_STATS)?;
        let words: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        let fp8: Vec<TensorReport> = self.fp8_reports()?;
        let mut left: Vec<bool> = vec![true; fp8.len()];
        let mut reports: Vec<TensorReport> = tensors
            .iter()
            .zip(words.chunks_exact(WORDS))
            .map(|(t, row)| {
                let measured = TensorReport::of_row(&t.name, t.format, t.stored, row);
                match t.fp8_slot {
                    None => measured,
                    Some(slot) => {
                        left[slot] = false;
                        fp8[slot].clone().with_stats(measured, t.judged)
                    }
                }
            })
            .collect();
        reports.extend(fp8.into_iter().zip(left).filter(|(_, left)| *left).map(|(report, _)| report));
        Ok(reports)
    }

    fn fp8_reports(&self) -> Result<Vec<TensorReport>> {
        let slots = &self.train.program.fp8_slots;
        let history = match self.memory.layout().find(fp8::HISTORY) {
            None => Vec::new(),
            Some(_) => self.read_f32(fp8::HISTORY)?,
        };
        let report = |(slot, (s, stats)): (usize, (&Fp8Slot, Fp8Stats))| TensorReport {
            ring: (!history.is_empty()).then(|| AmaxRing::of_history(&history, slots.len(), slot)),
            ..TensorReport::of_fp8(&s.name, s.dtype, &stats)
        };
        Ok(slots.iter().zip(self.fp8_stats()?).enumerate().map(report).collect())
    }

    fn run_step(&mut self, batch: Batch<'_>, variant: Variant<'_>) -> Result<StepReport> {
        self.step += 1;
        let lr = self.config.schedule.lr(self.step);
        let lr_f32 = lr as f32;
        let rng = self.rng_words();
        let lr_name = format!("{OPTIM}.lr");
        let inputs: [(&str, &[u8]); 4] = [
            ("x", batch.x),
            ("targets", batch.targets),
            ("rng", bytemuck::cast_slice(&rng)),
            (&lr_name, bytemuck::bytes_of(&lr_f32)),
        ];
        match variant {
            Variant::Plain => self.train.submit(&inputs, None)?,
            Variant::Observed(observer) => self.train.submit(&inputs, Some(observer))?,
            Variant::Measured => self.measured_step()?.submit(&inputs, None)?,
        }
        self.report(lr)
    }

    /// `[seed, step]` for every micro-step: dropout draws new words each time and the same words after a resume.
    fn rng_words(&self) -> Vec<u32> {
        let n = self.config.grad_accum as u64;
        (0..n)
            .flat_map(|m| [self.config.seed as u32 ^ (self.config.seed >> 32) as u32, ((self.step - 1) * n + m) as u32])
            .collect()
    }

    fn report(&mut self, lr: f64) -> Result<StepReport> {
        let t = self.read_f32(TELEMETRY)?;
        let scaled = self.config.recipe.scaler.is_some();
        let (loss, grad_norm) = (t[Slot::Loss as usize], t[Slot::GradNorm as usize]);
        let found = match scaled {
            true => t[Slot::FoundInf as usize] != 0.0,
            false => !(loss.is_finite() && grad_norm.is_finite()),
        };
        let skipped = found && (scaled || self.config.on_nonfinite.guards());
        self.skipped += u64::from(skipped);
        if self.config.error_if_nonfinite && !grad_norm.is_finite() {
            return Err(Error::NonFinite { what: "grad_norm".into(), value: grad_norm.to_string(), step: self.step });
        }
        Ok(StepReport {
            step: self.step,
            loss,
            lr,
            grad_norm,
            loss_scale: scaled.then(|| t[Slot::LossScale as usize]),
            found_inf: found || !grad_norm.is_finite(),
            skipped,
            skipped_total: self.skipped,
            growth_tracker: scaled.then(|| t[Slot::GrowthTracker as usize] as i32),
            fp8: self.fp8_report()?,
        })
    }

    fn fp8_report(&self) -> Result<Option<Fp8Report>> {
        let stats = self.fp8_stats()?;
        let slots = &self.train.program.fp8_slots;
        let worst = |of: fn(&Fp8Stats) -> f32| {
            let best = stats.iter().map(of).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            best.map_or((0.0, String::new()), |(i, v)| (v, slots[i].name.clone()))
        };
        Ok((!stats.is_empty()).then(|| Fp8Report {
            underflow: worst(|s| s.underflow),
            saturated: worst(|s| s.saturated),
            nonfinite: stats.iter().map(|s| s.nonfinite).sum(),
        }))
    }

    /// Statistics of every fp8 tensor, in the order of `program().fp8_slots`.
    pub fn fp8_stats(&self) -> Result<Vec<Fp8Stats>> {
        match self.memory.layout().find(fp8::STATISTICS) {
            None => Ok(Vec::new()),
            Some(_) => Ok(Fp8Stats::rows(&self.read_f32(fp8::STATISTICS)?)),
        }
    }

    /// Mean loss on one batch, without changing anything.
    pub fn eval(&mut self, batch: Batch<'_>) -> Result<f32> {
        if self.eval.is_none() {
            self.eval = Some(Compiled::new(&*self.backend, &self.memory, record::eval_step(&self.config)?)?);
        }
        let eval = self.eval.as_mut().expect("compiled above");
        eval.submit(&[("x", batch.x), ("targets", batch.targets)], None)?;
        Ok(f32s(&eval.output(LOSS)?)[0])
    }

    /// Scores for a batch of `batch` inputs: `[batch, .., classes]`, f32.
    pub fn logits(&mut self, batch: usize, x: &[u8]) -> Result<Vec<f32>> {
        if self.logits.as_ref().is_none_or(|(b, _)| *b != batch) {
            let program = record::logits(&self.config, batch)?;
            self.logits = Some((batch, Compiled::new(&*self.backend, &self.memory, program)?));
        }
        let (_, logits) = self.logits.as_mut().expect("compiled above");
        logits.submit(&[("x", x)], None)?;
        Ok(f32s(&logits.output(LOGITS)?))
    }

    /// A persistent f32 value.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        Ok(f32s(&wait(self.memory.read(name)?)?))
    }

    /// State dict of the loss scaler; `None` without one.
    pub fn scaler_state(&self) -> Result<Option<ScalerState>> {
        let Some(config) = self.config.recipe.scaler else { return Ok(None) };
        let tracker = wait(self.memory.read(GROWTH_TRACKER)?)?;
        Ok(Some(ScalerState {
            scale: self.read_f32(LOSS_SCALE)?[0],
            growth_factor: config.growth_factor,
            backoff_factor: config.backoff_factor,
            growth_interval: config.growth_interval,
            growth_tracker: bytemuck::pod_read_unaligned(&tracker),
        }))
    }

    /// Takes loss scale and growth tracker from a state dict. The factors must be those of the config: they are part of the Program.
    pub fn load_scaler_state(&self, state: &ScalerState) -> Result<()> {
        state.validate()?;
        let own = self.scaler_state()?.ok_or_else(|| Error::config("scaler state", "a recipe with a loss scaler", "none"))?;
        let same = ScalerState { scale: own.scale, growth_tracker: own.growth_tracker, ..*state } == own;
        if !same {
            return Err(Error::config(
                "scaler state",
                format!("the factors and interval of the config, {own:?}"),
                format!("{state:?}"),
            ));
        }
        self.memory.write(LOSS_SCALE, bytemuck::bytes_of(&state.scale))?;
        self.memory.write(GROWTH_TRACKER, bytemuck::bytes_of(&state.growth_tracker))
    }
}

/// How to run a step.
enum Variant<'a> {
    Plain,
    Observed(&'a mut dyn Observer),
    Measured,
}

fn not_measuring() -> Error {
    Error::Misuse {
        call: "step_measured",
        problem: "the session has no room for statistics".into(),
        remedy: "make it with Session::measuring",
    }
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Writes the first contents of every persistent value. Each name has a stream of its own, so that all recipes start from the same
/// weights.
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

//! Everything known about one run: its config and what follows from it, and its events in columns.

use super::table::Table;
use super::tensor::Tensor;
use mantissa_core::model::ModelConfig;
use mantissa_core::plan::explain::{Explanation, explain};
use mantissa_core::telemetry::event::{Event, MemoryRow, Predictions, ProfileEvent, StepEvent, TensorEvent, TunedRow};
use mantissa_core::telemetry::schema::StepScalar;
use mantissa_core::telemetry::warning::Warning;
use mantissa_core::train::TrainConfig;
use std::collections::{HashMap, VecDeque};

/// Rows of a run's steps at full detail; longer runs get coarser.
const STEP_ROWS: usize = 1 << 18;
/// Rows of evaluations.
const EVAL_ROWS: usize = 1 << 14;
/// Tensors that are followed.
const MAX_TENSORS: usize = 4096;
/// Marks, warnings and texts that are kept, the newest.
const MAX_MARKS: usize = 4096;
const MAX_WARNINGS: usize = 256;
const MAX_SAMPLES: usize = 64;
/// Weight of the past in the smoothed loss.
const SMOOTHING: f64 = 0.9;

/// Columns of the steps: every [`StepScalar`] by its index, then the loss smoothed.
pub const COLUMNS: usize = StepScalar::COUNT + 1;
/// The column of the smoothed training loss.
pub const SMOOTH: usize = StepScalar::COUNT;

/// What happened to the loss scale at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// A gradient was not finite: the step was skipped.
    Overflow,
    /// The same with the loss scale at its floor.
    Floor,
    /// The loss scale grew.
    Growth,
    /// The loss scale was set by hand.
    ByHand,
}

/// A moment in the life of the loss scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Step.
    pub step: u64,
    /// What happened.
    pub kind: MarkKind,
    /// Loss scale of that step.
    pub scale: f32,
}

/// A sample text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Steps taken before it.
    pub step: u64,
    /// The text.
    pub text: String,
}

/// Where a run comes from, for what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Trained by this program.
    Live,
    /// Read from a folder.
    Saved,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    /// Short name: the last part of its folder.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Preset of its model.
    pub model: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What it trains.
    pub config: TrainConfig,
    /// Its recorded step; an error in words if it cannot be recorded.
    pub step: Result<Explanation, String>,
    /// Steps.
    pub steps: Table<COLUMNS>,
    /// Evaluations: loss, share of right answers.
    pub evals: Table<2>,
    /// Moments of the loss scale.
    pub marks: VecDeque<Mark>,
    /// fp8 tensors and others with statistics, in the order of their first event.
    pub tensors: Vec<Tensor>,
    /// Warnings of the trainer.
    pub warnings: VecDeque<Warning>,
    /// Sample texts.
    pub samples: VecDeque<Sample>,
    /// The last predictions and their step.
    pub predictions: Option<(u64, Predictions)>,
    /// The memory last told.
    pub memory: Vec<MemoryRow>,
    /// The last observed step.
    pub profile: Option<ProfileEvent>,
    /// The choices of kernels last told.
    pub tuned: Vec<TunedRow>,
    /// Steps skipped so far.
    pub skipped: u64,
    /// Events that came with a step that was passed already, or of too many tensors.
    pub refused: u64,
    /// Lines of its log that were damaged or out of order.
    pub corrupt: u64,
    /// Events that were dropped on the way rather than slow a step.
    pub dropped: u64,
    by_name: HashMap<String, usize>,
    smooth: f64,
    smooth_weight: f64,
    secs: f64,
}

impl Run {
    /// A run without events. `folder` names it.
    pub fn new(folder: &str, model: &str, origin: Origin, config: TrainConfig) -> Run {
        let name = folder.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(folder);
        Run {
            name: name.to_string(),
            folder: folder.to_string(),
            model: model.to_string(),
            origin,
            step: explain(&config, None).map_err(|e| e.to_string()),
            config,
            steps: Table::new(STEP_ROWS),
            evals: Table::new(EVAL_ROWS),
            marks: VecDeque::new(),
            tensors: Vec::new(),
            warnings: VecDeque::new(),
            samples: VecDeque::new(),
            predictions: None,
            memory: Vec::new(),
            profile: None,
            tuned: Vec::new(),
            skipped: 0,
            refused: 0,
            corrupt: 0,
            dropped: 0,
            by_name: HashMap::new(),
            smooth: 0.0,
            smooth_weight: 0.0,
            secs: 0.0,
        }
    }

    /// Forgets all events: the log is read from its start again.
    pub fn clear(&mut self) {
        *self = Run::new(&self.folder, &self.model, self.origin, self.config.clone());
    }

    /// Takes an event.
    pub fn push(&mut self, event: Event) {
        let taken = match event {
            Event::Log(_) => true,
            Event::Step(e) => self.step_taken(&e),
            Event::Tensor(e) => self.tensor(e),
            Event::Eval(e) => {
                let secs = self.secs;
                self.evals.push(e.step, secs, [number(e.val_loss), number(e.val_accuracy)])
            }
            Event::Warning(e) => keep(&mut self.warnings, MAX_WARNINGS, e.warning),
            Event::Sample(e) => keep(&mut self.samples, MAX_SAMPLES, Sample { step: e.step, text: e.sample }),
            Event::Profile(e) => {
                self.profile = Some(e);
                true
            }
            Event::Memory(e) => {
                self.memory = e.memory;
                true
            }
            Event::Tuned(e) => {
                self.tuned = e.tuned;
                true
            }
            Event::Predictions(e) => {
                self.predictions = Some((e.step, e.predictions));
                true
            }
        };
        self.refused += u64::from(!taken);
    }

    fn step_taken(&mut self, e: &StepEvent) -> bool {
        let before = self.steps.last();
        self.secs += e.get(StepScalar::Ms).unwrap_or(0.0) / 1e3;
        let loss = e.value(StepScalar::Loss);
        if loss.is_finite() {
            self.smooth = SMOOTHING * self.smooth + (1.0 - SMOOTHING) * f64::from(loss);
            self.smooth_weight = SMOOTHING * self.smooth_weight + (1.0 - SMOOTHING);
        }
        let smooth = if self.smooth_weight > 0.0 { (self.smooth / self.smooth_weight) as f32 } else { f32::NAN };
        let scale = e.value(StepScalar::LossScale);
        let mut values = [smooth; COLUMNS];
        values[..StepScalar::COUNT].copy_from_slice(&e.values());
        if !self.steps.push(e.step, self.secs, values) {
            return false;
        }
        let last_scale = before.map_or(scale, |(_, v)| v[StepScalar::LossScale as usize]);
        self.mark(e, last_scale, scale);
        self.skipped = e.skipped_total();
        true
    }

    /// Marks what happened to the loss scale; `before` is that of the step before.
    fn mark(&mut self, e: &StepEvent, before: f32, scale: f32) {
        let Some(scaler) = self.config.recipe.scaler else { return };
        let mut put = |kind| keep(&mut self.marks, MAX_MARKS, Mark { step: e.step, kind, scale });
        // A scale may grow by its factor and fall by its factor only; the rounding of f32 aside, anything beyond was
        // done from outside.
        let growth = f64::from(scale / before);
        if growth > scaler.growth_factor * 1.001 {
            put(MarkKind::ByHand);
        } else if growth > 1.0 {
            put(MarkKind::Growth);
        }
        if e.was_skipped(Some(self.skipped)) {
            let floor = f64::from(scale) <= scaler.min_scale;
            put(if floor { MarkKind::Floor } else { MarkKind::Overflow });
        }
    }

    fn tensor(&mut self, e: TensorEvent) -> bool {
        let at = match self.by_name.get(&e.tensor.name) {
            Some(at) => *at,
            None if self.tensors.len() == MAX_TENSORS => return false,
            None => {
                self.by_name.insert(e.tensor.name.clone(), self.tensors.len());
                self.tensors.push(Tensor::new(&e.tensor.name, e.tensor.dtype));
                self.tensors.len() - 1
            }
        };
        self.tensors[at].push(e.step, self.secs, e.tensor)
    }

    /// Items (tokens or images) of a step.
    pub fn items_per_step(&self) -> usize {
        self.config.items_per_step()
    }

    /// The unit of throughput.
    pub fn unit(&self) -> &'static str {
        match self.config.model {
            ModelConfig::Gpt(_) => "tok",
            ModelConfig::Mlp(_) => "img",
        }
    }

    /// The last number of a column; `None` if there is none.
    pub fn last(&self, column: usize) -> Option<f32> {
        self.steps.last().map(|(_, v)| v[column]).filter(|v| !v.is_nan())
    }

    /// The loss of the last step in words; `None` before the first.
    pub fn loss_text(&self) -> Option<String> {
        let (_, values) = self.steps.last()?;
        let loss = values[StepScalar::Loss as usize];
        Some(if loss.is_finite() { format!("loss {loss:.4}") } else { "loss not finite".into() })
    }

    /// Steps taken.
    pub fn taken(&self) -> u64 {
        self.steps.last().map_or(0, |(step, _)| step)
    }

    /// Last held-out loss.
    pub fn val_loss(&self) -> Option<f32> {
        self.evals.last().map(|(_, v)| v[0]).filter(|v| !v.is_nan())
    }

    /// Seconds of training so far, the sum of its steps.
    pub fn secs(&self) -> f64 {
        self.secs
    }

    /// Bytes taken for it, if it has told, or planned for its step; `None` without either.
    pub fn memory_bytes(&self) -> Option<usize> {
        let taken = self.memory.iter().map(|r| r.bytes as usize).fold(0, usize::saturating_add);
        if taken > 0 { Some(taken) } else { self.step.as_ref().ok().map(|s| s.memory_bytes) }
    }

    /// Bytes held in columns.
    pub fn size_bytes(&self) -> usize {
        let tensors: usize = self.tensors.iter().map(Tensor::size_bytes).sum();
        self.steps.size_bytes() + self.evals.size_bytes() + tensors
    }
}

/// Appends to a list of bounded length.
fn keep<T>(list: &mut VecDeque<T>, most: usize, item: T) -> bool {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(item);
    true
}

fn number(x: Option<f32>) -> f32 {
    x.unwrap_or(f32::NAN)
}

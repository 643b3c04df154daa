//! Everything known about one run: its config and what follows from it, and its events in columns.

use super::facts::Facts;
use super::table::Table;
use super::tensor::Tensor;
use mantissa_core::probe::health::Warning;
use mantissa_core::telemetry::event::{Event, Predictions, ProfileEvent, StepEvent};
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
const SMOOTHING: f64 = 0.95;

/// Columns of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Column {
    /// Training loss.
    Loss,
    /// Training loss, smoothed.
    Smooth,
    /// Gradient norm.
    GradNorm,
    /// Learning rate.
    Lr,
    /// Loss scale.
    LossScale,
    /// Growth tracker.
    GrowthTracker,
    /// Milliseconds.
    Ms,
    /// Tokens or images a second.
    Rate,
    /// Share of the peak rate.
    Mfu,
    /// Largest underflowing share of an fp8 tensor.
    Underflow,
    /// Largest saturating share of an fp8 tensor.
    Saturated,
}

/// Number of [`Column`]s.
pub const COLUMNS: usize = Column::Saturated as usize + 1;

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
    /// What follows from the config; an error in words if it cannot be recorded.
    pub facts: Result<Facts, String>,
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
    /// The last observed step.
    pub profile: Option<ProfileEvent>,
    /// Steps skipped so far.
    pub skipped: u64,
    /// Events that came with a step that was passed already, or of too many tensors.
    pub refused: u64,
    /// Lines of its log that were no events.
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
            facts: Facts::new(&config).map_err(|e| e.to_string()),
            config,
            steps: Table::new(STEP_ROWS),
            evals: Table::new(EVAL_ROWS),
            marks: VecDeque::new(),
            tensors: Vec::new(),
            warnings: VecDeque::new(),
            samples: VecDeque::new(),
            predictions: None,
            profile: None,
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
        let facts = std::mem::replace(&mut self.facts, Err(String::new()));
        let fresh = Run::with_facts(self, facts);
        *self = fresh;
    }

    fn with_facts(old: &Run, facts: Result<Facts, String>) -> Run {
        let mut run = Run {
            facts,
            ..Run::bare(&old.folder, &old.model, old.origin, old.config.clone())
        };
        run.name.clone_from(&old.name);
        run
    }

    /// Takes an event.
    pub fn push(&mut self, event: Event) {
        let taken = match event {
            Event::Step(e) => self.step(&e),
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
            Event::Predictions(e) => {
                self.predictions = Some((e.step, e.predictions));
                true
            }
        };
        self.refused += u64::from(!taken);
    }
}

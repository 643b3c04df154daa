//! What a user asks for: the settings of the next run, and the things that can be done to runs.

use mantissa_core::model::{ModelConfig, PRESETS};
use mantissa_core::precision::recipe::RecipeName;
use serde::{Deserialize, Serialize};

/// Recipes in one race.
pub const RACE: std::ops::RangeInclusive<usize> = 2..=6;

/// Settings of the next run. Plain data: a host turns it into whatever starts a run there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Form {
    /// Model preset.
    pub model: String,
    /// Path, or `builtin`.
    pub data: String,
    /// Precision.
    pub recipe: RecipeName,
    /// Device, one of those that the host offers.
    pub device: String,
    /// Steps.
    pub steps: u64,
    /// Sequences or images per micro-step.
    pub batch: usize,
    /// Tokens per sequence; of no use for images.
    pub seq_len: usize,
    /// Micro-steps per step.
    pub grad_accum: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Largest gradient norm; 0 for none.
    pub clip: f64,
    /// Seed.
    pub seed: u64,
    /// First loss scale as a power of two (f16).
    pub init_scale_log2: i32,
    /// Good steps until the loss scale grows (f16).
    pub growth_interval: u32,
    /// Micro-steps of amax remembered (fp8-delayed).
    pub amax_history: usize,
    /// Steps between statistics of tensors.
    pub stats_every: u64,
    /// Recipes of a race.
    pub race: Vec<RecipeName>,
}

impl Default for Form {
    fn default() -> Form {
        let mut form = Form {
            model: PRESETS[0].to_string(),
            data: "builtin".into(),
            recipe: RecipeName::Bf16,
            device: "auto".into(),
            steps: 1000,
            batch: 0,
            seq_len: 0,
            grad_accum: 1,
            lr: 1e-3,
            clip: 1.0,
            seed: 1337,
            init_scale_log2: 16,
            growth_interval: 2000,
            amax_history: 1024,
            stats_every: 5,
            race: vec![RecipeName::F32, RecipeName::Bf16, RecipeName::Fp8Delayed],
        };
        form.take_preset();
        form
    }
}

impl Form {
    /// Takes the sizes of the chosen preset.
    pub fn take_preset(&mut self) {
        let Ok((model, batch)) = ModelConfig::preset(&self.model) else { return };
        self.batch = batch;
        match model {
            ModelConfig::Gpt(gpt) => self.seq_len = gpt.context,
            ModelConfig::Mlp(_) => self.seq_len = 0,
        }
    }

    /// Whether the model reads text.
    pub fn is_text(&self) -> bool {
        matches!(ModelConfig::preset(&self.model), Ok((ModelConfig::Gpt(_), _)))
    }

    /// Names of the settings in which a run of `self` differs from one of `other` so that its step must be recorded
    /// again.
    pub fn changes_program(&self, other: &Form) -> Vec<&'static str> {
        let pairs = [
            ("model", self.model != other.model),
            ("recipe", self.recipe != other.recipe),
            ("device", self.device != other.device),
            ("batch", self.batch != other.batch),
            ("sequence", self.seq_len != other.seq_len),
            ("accumulation", self.grad_accum != other.grad_accum),
            ("clip", self.clip != other.clip),
            ("growth interval", self.growth_interval != other.growth_interval),
            ("amax history", self.amax_history != other.amax_history),
        ];
        pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// A panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Panel {
    /// Loss curves.
    Loss,
    /// Loss scale.
    LossScale,
    /// Amax history.
    Amax,
    /// Histogram of exponents.
    Histogram,
    /// Throughput and memory.
    Throughput,
    /// The recorded step.
    Program,
    /// Precision race.
    Race,
    /// Warnings.
    Health,
    /// Texts or images.
    Samples,
}

impl Panel {
    /// Every panel.
    pub const ALL: [Panel; 9] = [
        Panel::Loss,
        Panel::LossScale,
        Panel::Amax,
        Panel::Histogram,
        Panel::Throughput,
        Panel::Program,
        Panel::Race,
        Panel::Health,
        Panel::Samples,
    ];

    /// Title of its tab.
    pub const fn name(self) -> &'static str {
        match self {
            Panel::Loss => "Loss",
            Panel::LossScale => "Loss scale",
            Panel::Amax => "Amax history",
            Panel::Histogram => "Histogram",
            Panel::Throughput => "Throughput",
            Panel::Program => "Program",
            Panel::Race => "Race",
            Panel::Health => "Health",
            Panel::Samples => "Samples",
        }
    }
}

/// What a user wants done; a host does it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Train a run.
    Start(Form),
    /// Train a run for each of the recipes of the form, in turn, step by step.
    Race(Form),
    /// Go on with a run from its last checkpoint.
    Resume(String),
    /// Wait between steps.
    Pause,
    /// Go on after a pause.
    Continue,
    /// Take one step and wait.
    StepOnce,
    /// Save and end.
    Stop,
    /// Save and go on.
    Save,
    /// Multiply the loss scale by this.
    ScaleLossScale(f32),
    /// Choose a file or folder as data.
    PickData,
    /// Choose the folder of a run and open it.
    PickRun,
    /// Open the run in a folder, and follow it if it is still written.
    Open(String),
    /// Close a run that is shown.
    Close(usize),
    /// Save a picture of a panel.
    SavePicture(Panel),
    /// Save the numbers of a panel, as CSV.
    SaveNumbers(Panel, String),
}

/// What the trainer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing.
    #[default]
    Idle,
    /// Loading data, recording and compiling.
    Starting,
    /// Training.
    Running,
    /// Waiting between steps.
    Paused,
    /// Saving, before it ends.
    Stopping,
}

impl Phase {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Starting => "starting",
            Phase::Running => "training",
            Phase::Paused => "paused",
            Phase::Stopping => "stopping",
        }
    }

    /// Whether a run is in progress.
    pub const fn is_live(self) -> bool {
        match self {
            Phase::Idle => false,
            Phase::Starting | Phase::Running | Phase::Paused | Phase::Stopping => true,
        }
    }
}

/// A message for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It went well.
    Good(String),
    /// It did not: what, and what helps.
    Bad(String, &'static str),
}

/// What a host reports about the trainer.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// The settings of the run in progress.
    pub form: Option<Form>,
    /// The run in progress, of a race the first.
    pub run: Option<usize>,
    /// The last message.
    pub notice: Option<Notice>,
    /// Devices that can be chosen.
    pub devices: Vec<String>,
    /// Whether the host can open files.
    pub has_files: bool,
}

/// What helps against an error of the trainer, by its words.
pub fn remedy(error: &str) -> &'static str {
    const KNOWN: [(&str, &str); 7] = [
        ("folder of a run", "Give one of the folders under runs/, or the one that --out named."),
        ("memory:", "Choose a smaller batch or sequence, or a smaller model."),
        ("read the data", "Check the path, or train on `builtin`."),
        ("data:", "A gpt model reads UTF-8 text, a folder of texts or a token file; mlp reads IDX images."),
        ("--batch-size", "Choose a smaller batch."),
        ("in use", "Another program writes this run: follow it with Open instead."),
        ("run folder", "Check that this folder can be written to."),
    ];
    KNOWN.iter().find(|(word, _)| error.contains(word)).map_or("Change the setting it names and start again.", |(_, help)| help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_brings_its_sizes_and_changes_are_named() {
        let a = Form::default();
        assert!(a.batch > 0 && a.seq_len > 0 && a.is_text());
        let mut b = Form { model: "mlp".into(), ..a.clone() };
        b.take_preset();
        assert!(!b.is_text() && b.seq_len == 0);
        assert_eq!(b.changes_program(&b), Vec::<&str>::new());
        assert!(b.changes_program(&a).contains(&"model"));
        let c = Form { lr: 1.0, steps: 1, ..a.clone() };
        assert!(c.changes_program(&a).is_empty(), "lr and steps are inputs of the recorded step");
    }

    #[test]
    fn errors_have_a_remedy() {
        assert!(remedy("memory: expected a run of at most 1 GiB").contains("batch"));
        assert!(remedy("something else").contains("start again"));
    }
}

//! The resolved description of a run: what core trains ([`TrainConfig`]) and what the host does around it ([`RunOptions`]).
//!
//! It is printed by `--print-config`, stored as `config.toml` in the run folder and accepted back by `--config`.

use crate::cli::resolve::check_sizes;
use crate::sinks::{self, LogKind};
use anyhow::{Context, Result};
use mantissa_core::train::TrainConfig;
use serde::{Deserialize, Serialize};

/// Stands for data that is always there: this repository's sources, or drawn digits for an mlp.
pub const BUILTIN: &str = "builtin";

/// Stands for a model whose sizes are those of the weights it starts from.
pub const PRETRAINED: &str = "pretrained";

/// Which device to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The best device present.
    Auto,
    /// This machine's processor.
    Cpu,
}

/// What the host does around training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOptions {
    /// Preset the model came from, or [`PRETRAINED`].
    pub model: String,
    /// Text file, folder, IDX file, or `builtin`.
    pub data: String,
    /// Hugging Face `tokenizer.json` that turns the text into tokens; bytes without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Folder that the first weights come from; random without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// Device.
    pub device: DeviceChoice,
    /// Steps between evaluations; 0 evaluates at the end only.
    pub eval_every: u64,
    /// Batches of an evaluation.
    pub eval_batches: usize,
    /// Steps between samples; 0 samples at the end only.
    pub sample_every: u64,
    /// Tokens of a sample; 0 takes none.
    pub sample_tokens: usize,
    /// Where the numbers of a run go.
    #[serde(default = "sinks::default_logs")]
    pub log: Vec<LogKind>,
    /// Steps between statistics of every fp8 tensor; 0 writes none.
    #[serde(default)]
    pub stats_every: u64,
    /// Steps between checkpoints; 0 keeps one at the end only.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// Checkpoints kept; 0 keeps all.
    #[serde(default = "default_keep")]
    pub keep: usize,
}

/// Steps between checkpoints when nothing is said.
pub const DEFAULT_CHECKPOINT_EVERY: u64 = 200;
/// Checkpoints kept when nothing is said: one to go on from, and the one before it.
pub const DEFAULT_KEEP: usize = 2;

fn default_checkpoint_every() -> u64 {
    DEFAULT_CHECKPOINT_EVERY
}

fn default_keep() -> usize {
    DEFAULT_KEEP
}

/// A run, resolved and validated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The host's part.
    pub run: RunOptions,
    /// Core's part.
    pub train: TrainConfig,
}

impl RunConfig {
    /// As TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context("cannot write the config as TOML")
    }

    /// From a complete TOML document.
    pub fn from_toml(text: &str) -> Result<RunConfig> {
        let config: RunConfig = toml::from_str(text)?;
        check_sizes(&config.train)?;
        Ok(config)
    }
}

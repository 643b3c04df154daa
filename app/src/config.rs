//! The resolved description of a run: what core trains ([`TrainConfig`]) and what the host does around it
//! ([`RunOptions`]).
//!
//! It is printed by `--print-config`, stored as `config.toml` in the run folder and accepted back by `--config`.

use crate::cli::config_errors;
use crate::plain_file;
use anyhow::{Context, Result, bail};
use mantissa_core::data::token_layout::TokenDtype;
use mantissa_core::model::ModelConfig;
use mantissa_core::program::validate::MAX_ELEMENTS;
use mantissa_core::train::TrainConfig;
use mantissa_core::{Error, Result as CoreResult};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use toml::Table;

/// Largest config file that is read, bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Characters of a text that a message about it shows.
const SHOWN_CHARS: usize = 60;

/// Stands for data that is always there: this repository's sources, or drawn digits for an mlp.
pub const BUILTIN: &str = "builtin";

/// Stands for a model whose sizes are those of the weights it starts from.
pub const PRETRAINED: &str = "pretrained";

/// Bounds that keep every size of a run far from the limits of 64-bit arithmetic; memory decides long before them.
pub(crate) const MAX_SEQ_LEN: usize = 1 << 20;
/// Largest evaluation, batches.
pub(crate) const MAX_EVAL_BATCHES: usize = 1_000_000;
const MAX_LAYERS: usize = 4096;
/// The same for all micro-steps of a step together.
const MAX_STEP_ELEMENTS: u128 = 1 << 42;

/// Which device to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The best device present.
    Auto,
    /// This machine's processor.
    Cpu,
    /// A GPU, through Vulkan, Metal, DX12 or GL.
    Wgpu,
}

/// When the matmul kernels of a GPU are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TuneChoice {
    /// Never: the usual one.
    Off,
    /// On GPUs.
    Auto,
    /// On software adapters too.
    Always,
}

/// How tokens lie in a token file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TokenDtypeChoice {
    /// As the header of the file says; without one, 16 bits each.
    #[default]
    Auto,
    /// 16 bits.
    U16,
    /// 32 bits.
    U32,
    /// 64 bits.
    U64,
    /// 32 bits with a sign.
    I32,
    /// 64 bits with a sign.
    I64,
}

impl TokenDtypeChoice {
    /// What was asked for; `None` leaves it to the file.
    pub fn dtype(self) -> Option<TokenDtype> {
        match self {
            TokenDtypeChoice::Auto => None,
            TokenDtypeChoice::U16 => Some(TokenDtype::U16),
            TokenDtypeChoice::U32 => Some(TokenDtype::U32),
            TokenDtypeChoice::U64 => Some(TokenDtype::U64),
            TokenDtypeChoice::I32 => Some(TokenDtype::I32),
            TokenDtypeChoice::I64 => Some(TokenDtype::I64),
        }
    }

    fn is_auto(&self) -> bool {
        *self == TokenDtypeChoice::Auto
    }
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
    /// How tokens lie in a token file.
    #[serde(default, skip_serializing_if = "TokenDtypeChoice::is_auto")]
    pub token_dtype: TokenDtypeChoice,
    /// Folder that the first weights come from; random without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// Folder in which the run was started, which relative paths of files are about; written by `train` itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_in: Option<String>,
    /// Device.
    pub device: DeviceChoice,
    /// Adapter of the device, by number or by a part of its name; the best one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// When matmul kernels are measured on it; without, as the environment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune: Option<TuneChoice>,
    /// Steps between evaluations; 0 evaluates at the end only.
    pub eval_every: u64,
    /// Batches of an evaluation.
    pub eval_batches: usize,
    /// Steps between samples; 0 samples at the end only.
    pub sample_every: u64,
    /// Tokens of a sample; 0 takes none.
    pub sample_tokens: usize,
    /// Steps between lines of progress; 0 prints the first and the last.
    #[serde(default = "default_log_every")]
    pub log_every: u64,
    /// Where the numbers of a run go.
    #[serde(default = "default_logs")]
    pub log: Vec<LogKind>,
    /// Steps between statistics of tensors; 0 writes none.
    #[serde(default)]
    pub stats_every: u64,
    /// Globs over the tensors measured; none stands for those of every linear layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stats: Vec<String>,
    /// Steps between checkpoints; 0 keeps one at the end only.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// Checkpoints kept; 0 keeps all.
    #[serde(default = "default_keep")]
    pub keep: usize,
}

/// Steps between lines of progress when nothing is said.
pub const DEFAULT_LOG_EVERY: u64 = 10;
/// Steps between checkpoints when nothing is said.
pub const DEFAULT_CHECKPOINT_EVERY: u64 = 200;
/// Checkpoints kept when nothing is said: one to go on from, and the one before it.
pub const DEFAULT_KEEP: usize = 2;

fn default_log_every() -> u64 {
    DEFAULT_LOG_EVERY
}

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

    /// Token values of a model of text.
    pub fn vocab(&self) -> Option<usize> {
        match &self.train.model {
            ModelConfig::Gpt(gpt) => Some(gpt.vocab),
            ModelConfig::Mlp(_) => None,
        }
    }

    /// From a complete TOML document.
    pub fn from_toml(text: &str) -> Result<RunConfig> {
        if text.trim().is_empty() {
            bail!("expected every entry of a run, found an empty file");
        }
        let table: Table = text.parse().map_err(|e| anyhow::anyhow!(toml_problem(text, &e)))?;
        let config: RunConfig = serde_path_to_error::deserialize(table).map_err(|e| {
            config_errors::shape(&e.path().to_string(), e.inner().message(), &[], "it must be as the run wrote it")
        })?;
        check_sizes(&config.train)?;
        Ok(config)
    }
}

/// Reads a complete config file.
pub fn read(path: &Path) -> Result<RunConfig> {
    let text = read_text(path)?;
    RunConfig::from_toml(&text).with_context(|| format!("cannot use the config: {}", path.display()))
}

/// The text of a config file, of a bounded size.
pub fn read_text(path: &Path) -> Result<String> {
    let context = || format!("cannot read the config: {}", path.display());
    let mut text = Vec::new();
    let (file, _) = plain_file::open(path).with_context(context)?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).with_context(context)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        bail!("config: expected at most {MAX_CONFIG_BYTES} bytes, found more: {}", path.display());
    }
    String::from_utf8(text).context("expected UTF-8 text").with_context(context)
}

/// What is wrong with a TOML text, and where: of a long line only what stands there.
pub fn toml_problem(text: &str, problem: &toml::de::Error) -> String {
    let at = text.floor_char_boundary(problem.span().map_or(0, |span| span.start).min(text.len()));
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let number = text[..start].matches('\n').count() + 1;
    let column = text[start..at].chars().count() + 1;
    let line = text[start..].lines().next().unwrap_or_default();
    let shown: String = line.chars().skip(column.saturating_sub(1 + SHOWN_CHARS / 2)).take(SHOWN_CHARS).collect();
    let what = problem.message().trim();
    let what = &what[..what.floor_char_boundary(4 * SHOWN_CHARS)];
    format!("line {number}, column {column}: {}: `{}`", what.escape_debug(), shown.escape_debug())
}

/// Refuses sizes whose tensors are larger than a Program may have, whose products leave 64-bit arithmetic, or that only
/// a damaged file can mean.
pub fn check_sizes(train: &TrainConfig) -> CoreResult<()> {
    // Elements of the largest activation row and of the largest weight.
    let (widest, weight) = match &train.model {
        ModelConfig::Gpt(gpt) => {
            if !(1..=MAX_SEQ_LEN).contains(&gpt.context) {
                return Err(Error::config("train.model.context", format!("1 to {MAX_SEQ_LEN}"), gpt.context.to_string()));
            }
            if gpt.layers > MAX_LAYERS {
                return Err(Error::config("train.model.layers", format!("1 to {MAX_LAYERS}"), gpt.layers.to_string()));
            }
            let width = (gpt.width as u128 * gpt.mlp_ratio.max(3) as u128).max(gpt.vocab as u128);
            (gpt.context as u128 * width, gpt.width as u128 * width)
        }
        ModelConfig::Mlp(mlp) => {
            let widest = mlp.hidden.iter().chain([&mlp.inputs, &mlp.classes]).map(|&n| n as u128).max().unwrap_or(1);
            (widest, widest * widest)
        }
    };
    train.validate()?;
    let most = u128::from(MAX_ELEMENTS);
    if weight > most {
        return Err(Error::config("train.model", format!("weights of at most {MAX_ELEMENTS} elements"), weight.to_string()));
    }
    if widest * train.batch as u128 > most {
        let (rows, helps) = match &train.model {
            ModelConfig::Gpt(gpt) => {
                (format!("sequences of {} tokens", gpt.context), "; try a smaller --batch-size or --seq-len")
            }
            ModelConfig::Mlp(_) => ("images".into(), "; try a smaller --batch-size"),
        };
        let largest = widest * train.batch as u128;
        let found = format!("{} {rows}, which take one of {largest}{helps}", train.batch);
        return Err(Error::config("train.batch", format!("tensors of at most {MAX_ELEMENTS} elements"), found));
    }
    if widest * train.batch as u128 * train.grad_accum as u128 > MAX_STEP_ELEMENTS {
        let found = format!("{} of {} rows each", train.grad_accum, train.batch);
        let expected = format!("micro-steps that together have tensors of at most {MAX_STEP_ELEMENTS} elements");
        return Err(Error::config("train.grad_accum", expected, found));
    }
    Ok(())
}

/// A kind of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// events.jsonl, always written.
    Jsonl,
    /// steps.csv, evals.csv and tensors.csv.
    Csv,
    /// A TensorBoard event file.
    Tensorboard,
}

/// The logs written when none are named.
pub fn default_logs() -> Vec<LogKind> {
    vec![LogKind::Jsonl]
}

/// The logs of a run for what a user asked: each once, and always JSON lines.
pub fn all_logs(asked: &[LogKind]) -> Vec<LogKind> {
    let mut logs: Vec<LogKind> = asked.iter().copied().chain(default_logs()).collect();
    logs.sort();
    logs.dedup();
    logs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_a_long_line_is_shown_in_a_few_words() {
        let problem = |text: &str| toml_problem(text, &text.parse::<toml::Table>().unwrap_err());
        let long = format!("a = 1\nb = \"{}\u{1b}[2J{}\" c\n", "x".repeat(100_000), "\u{e4}".repeat(100_000));
        let message = problem(&long);
        assert!(message.len() < 600 && message.starts_with("line 2, column "), "{message}");
        assert!(!message.contains('\u{1b}') && !message.contains('\n'), "{message:?}");
        let short = problem("a = 1\nb = = 2\n");
        assert!(short.starts_with("line 2, column 5: ") && short.ends_with("`b = = 2`"), "{short}");
        assert!(problem("x").starts_with("line 1, column 2"), "{}", problem("x"));
    }

    #[test]
    fn json_lines_are_always_written_and_nothing_twice() {
        use LogKind::{Csv, Jsonl, Tensorboard};
        assert_eq!(all_logs(&[]), [Jsonl]);
        assert_eq!(all_logs(&[Tensorboard, Csv, Csv]), [Jsonl, Csv, Tensorboard]);
    }
}

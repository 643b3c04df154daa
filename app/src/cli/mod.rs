//! Flags. They parse into raw arguments ([`TrainArgs`], [`SampleArgs`]); [`resolve`] turns those of `train` into a validated
//! [`crate::config::RunConfig`], and only that reaches the trainer.

pub mod bench;
pub mod cast;
pub mod compare;
pub mod doctor;
pub mod dump;
pub mod explain;
pub mod gui;
pub mod overlay;
pub mod plan;
pub mod recommend;
pub mod resolve;
pub mod several;
pub mod stats;
pub mod text;
pub mod train_args;

pub use train_args::TrainArgs;

use clap::{Args, Parser, Subcommand};
use mantissa_core::precision::Override;
use mantissa_core::precision::recipe::RecipeName;
use std::path::PathBuf;

/// Mixed-precision training you can see through.
#[derive(Debug, Parser)]
#[command(name = "mantissa", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model. Without flags: a small GPT on the built-in corpus, one or two minutes on two cores.
    Train(Box<TrainArgs>),
    /// Write text with the weights of a run.
    Sample(SampleArgs),
    /// Show what number formats do to numbers, or convert the tensors of a safetensors file.
    Cast(cast::CastArgs),
    /// Write the logits, gradients and weights of a few training steps, to compare with another framework.
    Dump(dump::DumpArgs),
    /// List devices, and how each multiplies every number format.
    Devices,
    /// Print every instruction of a training step: types, precision, the reason for it, price.
    Explain(explain::ExplainArgs),
    /// Model time and memory of a training step on a GPU, which need not be present.
    Plan(plan::PlanArgs),
    /// Say which precision suits a GPU and a kind of model, part by part.
    Recommend(recommend::RecommendArgs),
    /// Run two recipes on the same batches and show where the second loses precision, worst first.
    Compare(Box<compare::CompareArgs>),
    /// Look for what is wrong with a run (the first NaN, scale spirals, dead fp8 tensors) and say what helps.
    Doctor(Box<doctor::DoctorArgs>),
    /// Show the tensors of a run or a model: exponent histogram, SQNR, and what every format would make of them, worst first.
    Stats(Box<stats::StatsArgs>),
    /// Open the window: train and watch, look at saved runs, follow running ones.
    Gui(gui::GuiArgs),
    /// Time recipes in turn: ms a step, throughput, memory, time by operation.
    Bench(Box<bench::BenchArgs>),
}

/// Flags that name a training step: those of `train` that decide what is recorded.
#[derive(Clone, Debug, Default, Args)]
pub struct ModelArgs {
    /// Preset: gpt-tiny, gpt-mini, gpt2-124m or mlp [default: gpt-tiny]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Precision: f32, tf32, bf16, f16, fp8-delayed, fp8-current or mxfp8 [default: bf16]
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<RecipeName>,
    /// Sequences or images per micro-step [default: the preset's, 16 for gpt-tiny]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Tokens per sequence; sets the model's context [default: the preset's, 128 for gpt-tiny]
    #[arg(long, value_name = "N")]
    pub seq_len: Option<usize>,
    /// Micro-steps per step [default: 1]
    #[arg(long, value_name = "N")]
    pub grad_accum: Option<usize>,
    /// Precision of the scopes that match a glob: f32, tf32, bf16, f16 or fp8; the last match wins. May be repeated
    #[arg(long = "override", value_name = "SCOPE=DTYPE")]
    pub overrides: Vec<Override>,
    /// Read settings from a TOML file, such as the config.toml of a run; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one entry of the config, such as train.model.layers=12. May be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ModelArgs {
    /// As flags of `train`.
    pub fn as_train(&self) -> TrainArgs {
        TrainArgs {
            model: self.model.clone(),
            recipe: self.recipe,
            batch_size: self.batch_size,
            seq_len: self.seq_len,
            grad_accum: self.grad_accum,
            overrides: self.overrides.clone(),
            config: self.config.clone(),
            set: self.set.clone(),
            ..TrainArgs::default()
        }
    }
}

/// Flags of `sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Run folder, or one of its checkpoints [default: the run under runs/ that saved weights last]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Hugging Face tokenizer.json [default: what the run was trained with]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Text to go on from [default: a line break]
    #[arg(long, value_name = "TEXT", default_value = "\n", hide_default_value = true)]
    pub prompt: String,
    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub tokens: usize,
    /// Divides the scores before drawing; 0 always takes the likeliest
    #[arg(long, value_name = "X", default_value_t = 0.8, value_parser = not_negative)]
    pub temperature: f64,
    /// Draw among this many likeliest tokens; 0 draws among all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub top_k: usize,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 1337)]
    pub seed: u64,
}

/// A finite number.
pub(crate) fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        Ok(x) => Err(format!("expected a finite number, got {x}")),
        Err(_) => Err("expected a number".into()),
    }
}

/// A finite number of at least 0.
pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    match finite(text)? {
        x if x >= 0.0 => Ok(x),
        x => Err(format!("expected a number of at least 0, got {x}")),
    }
}

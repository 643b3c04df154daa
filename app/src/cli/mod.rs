//! Flags. They parse into raw arguments ([`TrainArgs`], [`SampleArgs`]); [`resolve`] turns those of `train` into a
//! validated [`crate::config::RunConfig`], and only that reaches the trainer.

pub mod bench;
pub mod cast;
pub mod compare;
pub mod config_errors;
pub mod device_args;
pub mod doctor;
pub mod dump;
pub mod explain;
pub mod gui;
pub mod keys;
pub mod number;
pub mod overlay;
pub mod parse;
pub mod plan;
pub mod recommend;
pub mod resolve;
pub mod several;
pub mod stats;
pub mod table;
pub mod text;
pub mod train_args;

pub use device_args::DeviceArgs;
pub use train_args::{StepArgs, TrainArgs};

use clap::{Args, Parser, Subcommand};
use number::{count, not_negative, share, whole};
use std::path::PathBuf;

/// Most threads that may be asked for; no machine has so many processors.
const MAX_THREADS: usize = 4096;

/// Mixed-precision training you can see through.
#[derive(Debug, Parser)]
#[command(name = "mantissa", version, about, propagate_version = true)]
pub struct Cli {
    /// Threads that compute on this machine's processor; results are the same bits for any number [default: all that it
    /// has]
    #[arg(long, value_name = "N", global = true, value_parser = whole::<usize>(1..=MAX_THREADS))]
    pub threads: Option<usize>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model. Without flags: a small GPT on the built-in corpus, one or two minutes on two cores.
    #[command(after_help = TRAIN_EXIT_CODES)]
    Train(Box<TrainArgs>),
    /// Write text with the weights of a run.
    Sample(SampleArgs),
    /// Show what number formats do to numbers, or convert the tensors of a safetensors file.
    Cast(cast::CastArgs),
    /// Write the logits, gradients and weights of a few training steps, to compare with another framework.
    Dump(dump::DumpArgs),
    /// List devices, and how each multiplies every number format.
    Devices(DevicesArgs),
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
    /// Show the tensors of a run or a model: exponent histogram, SQNR, and what every format would make of them, worst
    /// first.
    Stats(Box<stats::StatsArgs>),
    /// Open the window: train and watch, look at saved runs, follow running ones.
    Gui(gui::GuiArgs),
    /// Time recipes in turn: ms a step, throughput, memory, time by operation.
    Bench(Box<bench::BenchArgs>),
}

/// How `train` ends, for scripts.
const TRAIN_EXIT_CODES: &str = "\
Exit codes: 0 done; 2 refused, or something could not be written; 3 too little memory (of the machine, the device, a container or ulimit), or a device was lost; 4 stopped at a step that is not finite; \
130, 143, 129 stopped by Ctrl-C, SIGTERM, SIGHUP. After 4 and signals the last finished step is saved; a second signal ends the run at once and says \
what is not saved.";

/// Flags of `devices`.
#[derive(Clone, Copy, Debug, Args)]
pub struct DevicesArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Flags of `sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Run folder, one of its checkpoints, or a Hugging Face GPT-2 folder [default: the run of a gpt under runs/ that
    /// saved weights last]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Hugging Face tokenizer.json [default: what the run was trained with, or the one in the folder]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Where it computes.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Text to go on from [default: a line break]
    #[arg(long, value_name = "TEXT", default_value = "\n", hide_default_value = true)]
    pub prompt: String,
    /// Go on from the text of a file
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// Texts to write, each from a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u64>(1..=1_000_000))]
    pub samples: u64,
    /// Tokens to write
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = count::<usize>)]
    pub tokens: usize,
    /// Divides the scores before drawing; 0 always takes the likeliest
    #[arg(long, value_name = "X", default_value_t = 0.8, value_parser = not_negative)]
    pub temperature: f64,
    /// Draw among this many likeliest tokens; 0 draws among all
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = count::<usize>)]
    pub top_k: usize,
    /// Draw among the fewest likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share)]
    pub top_p: f64,
    /// Say nothing beside the text: no notes
    #[arg(short, long)]
    pub quiet: bool,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 1337, value_parser = count::<u64>)]
    pub seed: u64,
}

//! The raw flags of `train`. Absent flags are `None`: config files and the defaults of the chosen model and recipe fill
//! them in `resolve`.

use super::DeviceArgs;
use super::number::{count, finite, not_negative, percentile, positive, whole};
use crate::config::LogKind;
use crate::config::{MAX_EVAL_BATCHES, MAX_SEQ_LEN, TokenDtypeChoice};
use clap::{Args, ValueEnum};
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::precision::{OnNonFinite, Override};
use std::path::PathBuf;

/// Shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScheduleArg {
    /// Half a cosine down to --min-lr.
    Cosine,
    /// --lr to the end.
    Constant,
}

/// Optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptimArg {
    /// Decoupled weight decay on tensors of rank 2 and more.
    Adamw,
    /// Weight decay added to the gradient.
    Adam,
    /// Gradient descent with momentum.
    Sgd,
}

/// Which amax of the history sets an fp8 scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AmaxArg {
    /// The largest.
    Max,
    /// The last.
    MostRecent,
}

/// Formats of fp8 tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// e4m3 forward, e5m2 for gradients.
    Hybrid,
    /// e4m3 everywhere.
    E4m3,
}

/// Rounding of mxfp8 block scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MxArg {
    /// Up: nothing saturates.
    Ceil,
    /// Down, as in OCP v1.0.
    Floor,
}

/// Flags that name a training step: those that decide what is recorded.
#[derive(Clone, Debug, Default, Args)]
pub struct StepArgs {
    /// Preset: gpt-tiny, gpt-mini, gpt2-124m or mlp [default: gpt-tiny]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Precision: f32, tf32, bf16, f16, fp8-delayed, fp8-current or mxfp8 [default: bf16]
    #[arg(long, value_name = "NAME")]
    pub recipe: Option<RecipeName>,
    /// Precision of the scopes that match a glob, such as gpt.head=f32: f32, tf32, bf16, f16 or fp8; the last match
    /// wins. May be repeated
    #[arg(long = "override", value_name = "SCOPE=DTYPE")]
    pub overrides: Vec<Override>,
    /// Sequences or images per micro-step [default: the preset's, 16 for gpt-tiny]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1 << 20))]
    pub batch_size: Option<usize>,
    /// Tokens per sequence; sets the model's context [default: the preset's, 128 for gpt-tiny]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MAX_SEQ_LEN))]
    pub seq_len: Option<usize>,
    /// Micro-steps per step [default: 1]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1 << 16))]
    pub grad_accum: Option<usize>,
    /// Read settings from a TOML file, such as the config.toml of a run; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one entry of the config, such as train.schedule.lr=3e-4; `key=` removes it. May be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl StepArgs {
    /// As flags of `train`.
    pub fn as_train(&self) -> TrainArgs {
        TrainArgs { step: self.clone(), ..TrainArgs::default() }
    }
}

/// Flags of `train`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Run")]
pub struct TrainArgs {
    /// What is trained.
    #[command(flatten)]
    pub step: StepArgs,
    /// UTF-8 text file, plain or in gzip or zstd, or a folder of them; a token file (.bin of nanoGPT or llm.c, .npy),
    /// or a folder with train.bin and val.bin; for mlp an IDX image file with its label file beside it, gzipped or not;
    /// `builtin` for this repository's own sources (mlp: drawn digits) [default: builtin]
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// Hugging Face tokenizer.json that turns the text into tokens (gpt) [default: a token is a byte]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<String>,
    /// How tokens lie in a token file [default: auto, as its header says, else u16]
    #[arg(long, value_name = "DTYPE")]
    pub token_dtype: Option<TokenDtypeChoice>,
    /// Token values of the model (gpt) [default: the preset's, 256 for gpt-tiny; more if the data needs more]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1 << 24))]
    pub vocab: Option<usize>,
    /// Start from the weights of a Hugging Face GPT-2 folder, a run or a checkpoint. The model is theirs unless --model
    /// is given; a shorter --seq-len is cut from their positions; text is read with their tokenizer.json, if they have
    /// one
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub init_from: Option<String>,
    /// Where it computes.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Optimizer steps [default: 1000]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=1_000_000_000))]
    pub steps: Option<u64>,
    /// Seed of weights, batches, dropout and samples [default: 1337]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Dropout probability of a gpt [default: 0]
    #[arg(long, value_name = "P", value_parser = not_negative)]
    pub dropout: Option<f64>,
    /// Steps between evaluations; 0 only at the end [default: 200]
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub eval_every: Option<u64>,
    /// Batches of an evaluation [default: 20]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=MAX_EVAL_BATCHES))]
    pub eval_batches: Option<usize>,
    /// Steps between sample texts; 0 only at the end [default: 0]
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub sample_every: Option<u64>,
    /// Tokens of a sample text; 0 takes none [default: 200 on the built-in corpus or with --sample-every, else 0]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub sample_tokens: Option<usize>,
    /// Run folder, new or empty [default: runs/MODEL-RECIPE-N]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Steps between printed lines of progress, beside one every ten seconds; 0 prints the first and the last step
    /// [default: 10]
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub log_every: Option<u64>,
    /// Logs in the run folder, by commas: jsonl (always), csv, tensorboard [default: jsonl]
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    pub log: Option<Vec<LogKind>>,
    /// Steps between statistics of tensors in the logs: amax, norms, SQNR, underflow, histogram; 0 writes none
    /// [default: 0]
    #[arg(long, value_name = "K", value_parser = count::<u64>)]
    pub stats_every: Option<u64>,
    /// Tensors that --stats-every measures, by glob: "gpt.h0.mlp.up" (all of a layer), "**.weight.grad". May be
    /// repeated [default: input, weight, output gradient and weight gradient of every linear layer]
    #[arg(long, value_name = "GLOB")]
    pub stats: Vec<String>,
    /// Go on with a run, bit for bit: its folder, or one of its checkpoints; without PATH the newest run. Its config
    /// holds; other numbers are refused. Where there are newer checkpoints, or with --out, it goes on in a new folder
    #[arg(long, value_name = "PATH", num_args = 0..=1, conflicts_with = "config")]
    pub resume: Option<Option<PathBuf>>,
    /// With --resume CHECKPOINT: go on in the folder of the run, and drop its newer checkpoints and what its logs say
    /// of later steps
    #[arg(long, requires = "resume", conflicts_with = "out")]
    pub discard_newer: bool,
    /// Steps between checkpoints, from which a run can be resumed; 0 only at the end [default: 200]
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub checkpoint_every: Option<u64>,
    /// Checkpoints kept, the newest; 0 keeps all [default: 2]
    #[arg(long, value_name = "N", value_parser = count::<usize>)]
    pub keep: Option<usize>,
    /// Print every event (step, evaluation, sample, ..) as a JSON object on stdout, everything else on stderr
    #[arg(long)]
    pub json: bool,
    /// Print errors and the final result only
    #[arg(long)]
    pub quiet: bool,
    /// Print the resolved config as TOML and stop
    #[arg(long)]
    pub print_config: bool,

    /// Optimizer [default: adamw]
    #[arg(long, help_heading = "Optimizer")]
    pub optim: Option<OptimArg>,
    /// Peak learning rate [default: 1e-3; gpt2-124m 6e-4; --init-from 3e-5; sgd 0.05]
    #[arg(long, value_name = "X", value_parser = not_negative, help_heading = "Optimizer")]
    pub lr: Option<f64>,
    /// Learning rate at the last step [default: a tenth of --lr]
    #[arg(long, value_name = "X", value_parser = not_negative, help_heading = "Optimizer")]
    pub min_lr: Option<f64>,
    /// Learning rate after warm-up [default: cosine]
    #[arg(long, help_heading = "Optimizer")]
    pub schedule: Option<ScheduleArg>,
    /// Steps of linear rise at the start [default: 20, or --steps if fewer]
    #[arg(long, value_name = "N", value_parser = count::<u64>, help_heading = "Optimizer")]
    pub warmup: Option<u64>,
    /// Weight decay [default: 0.1 for adamw, else 0]
    #[arg(long, value_name = "X", value_parser = not_negative, help_heading = "Optimizer")]
    pub weight_decay: Option<f64>,
    /// Decay of the first moment; for sgd the momentum [default: 0.9]
    #[arg(long, value_name = "X", value_parser = not_negative, help_heading = "Optimizer")]
    pub beta1: Option<f64>,
    /// Decay of the second moment [default: 0.95 for adamw, 0.999 for adam]
    #[arg(long, value_name = "X", value_parser = not_negative, help_heading = "Optimizer")]
    pub beta2: Option<f64>,
    /// Largest global norm of the gradients; 0 turns clipping off [default: 1.0]
    #[arg(long, value_name = "NORM", value_parser = not_negative, help_heading = "Optimizer")]
    pub grad_clip: Option<f64>,
    /// Clip every gradient element to [-V, V] instead of the norm
    #[arg(long, value_name = "V", value_parser = positive, conflicts_with_all = ["grad_clip", "adaptive_clip"], help_heading = "Optimizer")]
    pub clip_value: Option<f64>,
    /// Clip the norm to this percentile of the last 100 norms, to --grad-clip until there are 100
    #[arg(long, value_name = "PCT", value_parser = percentile, help_heading = "Optimizer")]
    pub adaptive_clip: Option<f64>,
    /// Stop when the norm of the gradients is not finite, saved (exit code 4)
    #[arg(long, help_heading = "Optimizer")]
    pub error_if_nonfinite: bool,
    /// A step whose loss, gradients or fp8 operands are not finite: skip it; stop there, saved and explained (exit code
    /// 4); or ignore it and apply it, as PyTorch does without a scaler (infinite fp8 operands then count as the largest
    /// value of their format). A loss scaler always skips while a lower scale may help [default: skip]
    #[arg(long, value_name = "POLICY", help_heading = "Optimizer")]
    pub on_nonfinite: Option<OnNonFinite>,

    /// First loss scale [default: 65536] (f16)
    #[arg(long, value_name = "X", value_parser = finite, help_heading = "Loss scaling, f16 only")]
    pub init_scale: Option<f64>,
    /// Good steps until the loss scale grows; 0 never [default: 2000] (f16)
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=i32::MAX as u32), help_heading = "Loss scaling, f16 only")]
    pub growth_interval: Option<u32>,
    /// Factor of growth, above 1 [default: 2] (f16)
    #[arg(long, value_name = "X", value_parser = finite, help_heading = "Loss scaling, f16 only")]
    pub growth_factor: Option<f64>,
    /// Factor after an overflow, between 0 and 1 [default: 0.5] (f16)
    #[arg(long, value_name = "X", value_parser = finite, help_heading = "Loss scaling, f16 only")]
    pub backoff_factor: Option<f64>,
    /// The loss scale never falls below this; 0 lets it fall to 2^-126 [default: 2^-14] (f16)
    #[arg(long, value_name = "X", value_parser = finite, help_heading = "Loss scaling, f16 only")]
    pub min_scale: Option<f64>,
    /// Overflows in a row until the loss scale backs off [default: 1] (f16)
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..=1 << 20), help_heading = "Loss scaling, f16 only")]
    pub hysteresis: Option<u32>,

    /// Micro-steps of amax remembered [default: 1024] (fp8-delayed)
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=1 << 16), help_heading = "fp8")]
    pub amax_history: Option<usize>,
    /// Headroom of scales, in powers of two [default: 0] (fp8-delayed)
    #[arg(long, value_name = "N", value_parser = whole::<i32>(-32..=32), help_heading = "fp8")]
    pub margin: Option<i32>,
    /// Which amax sets the scale [default: max] (fp8-delayed)
    #[arg(long, help_heading = "fp8")]
    pub amax_algo: Option<AmaxArg>,
    /// Start from the amax of the first step instead of scale 1 (fp8-delayed)
    #[arg(long, help_heading = "fp8")]
    pub warm_up_scales: bool,
    /// Formats [default: hybrid; mxfp8 e4m3] (all fp8 recipes)
    #[arg(long, help_heading = "fp8")]
    pub fp8_format: Option<FormatArg>,
    /// Rounding of block scales [default: ceil] (mxfp8)
    #[arg(long, help_heading = "fp8")]
    pub mx_scale_rule: Option<MxArg>,
}

//! From raw flags to a validated [`RunConfig`]: defaults of the model, recipe and optimizer, then the config file,
//! `--set`, flags.
//!
//! A config that holds every key of `train` (such as the `config.toml` of a run) is taken as it stands, so that an
//! absent entry means "none"; a partial one is laid over the defaults.

use super::train_args::{AmaxArg, FormatArg, MxArg, OptimArg, ScheduleArg, TrainArgs};
use super::{DeviceArgs, config_errors, overlay};
use crate::config::{
    BUILTIN, DEFAULT_CHECKPOINT_EVERY, DEFAULT_KEEP, DEFAULT_LOG_EVERY, DeviceChoice, MAX_EVAL_BATCHES, PRETRAINED, RunConfig,
    RunOptions, TokenDtypeChoice, all_logs, check_sizes, default_logs,
};
use crate::data::token_files;
use crate::init_from::{self, Source};
use anyhow::{Context, Result, bail};
use mantissa_core::model::ModelConfig;
use mantissa_core::op::quantize::{AmaxAlgo, MxRule};
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::OnNonFinite;
use mantissa_core::precision::Recipe;
use mantissa_core::precision::clip::Clip;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::precision::settings::{Fp8Format, Fp8Scaling};
use mantissa_core::train::TrainConfig;
use mantissa_core::{Error, Result as CoreResult, near};
use std::path::Path;
use toml::{Table, Value};

/// Recipe when none is named.
pub const DEFAULT_RECIPE: RecipeName = RecipeName::Bf16;
const DEFAULT_MODEL: &str = "gpt-tiny";
/// Sequences per micro-step of a model from other weights.
const PRETRAINED_BATCH: usize = 4;
const DEFAULT_STEPS: u64 = 1000;
const DEFAULT_WARMUP: u64 = 20;
const DEFAULT_SEED: u64 = 1337;
const DEFAULT_GRAD_CLIP: f32 = 1.0;
const DEFAULT_EVAL_EVERY: u64 = 200;
const DEFAULT_EVAL_BATCHES: usize = 20;
const DEFAULT_SAMPLE_TOKENS: usize = 200;
/// `min_lr` over `lr`.
const MIN_LR_SHARE: f64 = 0.1;
/// Norms that adaptive clipping remembers.
const ADAPTIVE_WINDOW: usize = 100;
const SGD_MOMENTUM: f64 = 0.9;

/// Every key that `train` must hold to count as complete.
const TRAIN_KEYS: [&str; 7] = ["model", "recipe", "optim", "schedule", "batch", "grad_accum", "seed"];

/// Why [`DEFAULT_RECIPE`] is what it is.
const DEFAULT_RECIPE_WHY: &str = "default: the range of f32, so no loss scaling, and smaller activations";

/// A config and what was left to its defaults.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The config.
    pub config: RunConfig,
    /// Why it has this recipe.
    pub recipe_why: &'static str,
    /// Whether the number of token values was given, by flag or file: then data that has more is refused.
    pub vocab_given: bool,
}

impl Resolved {
    /// The number of token values, if it was given.
    pub fn given_vocab(&self) -> Option<usize> {
        self.config.vocab().filter(|_| self.vocab_given)
    }
}

/// The config that the flags of `train` ask for.
pub fn resolve(args: &TrainArgs) -> Result<Resolved> {
    let mut over = overlay::read(args.step.config.as_deref(), &args.step.set)?;
    let complete = TRAIN_KEYS.iter().all(|k| overlay::get(&over, &format!("train.{k}")).is_some());

    let from = args.init_from.as_deref().or(overlay::get_str(&over, "run.init_from"));
    // A complete config has the sizes; its weights may be gone by now.
    let from =
        from.filter(|_| !complete).map(|path| init_from::open(Path::new(path), init_from::FLAG).context(init_from::FLAG));
    let source = from.transpose()?;
    let model = if source.is_some() { PRETRAINED } else { DEFAULT_MODEL };
    let preset = pick(args.step.model.as_deref(), &mut over, "run.model", &["train.model", "train.batch"], model);
    let asked = args.step.recipe.is_some() || overlay::get(&over, "train.recipe.name").is_some();
    let recipe_why = if asked { "as asked" } else { DEFAULT_RECIPE_WHY };
    let recipe =
        pick(args.step.recipe.map(RecipeName::name), &mut over, "train.recipe.name", &["train.recipe"], DEFAULT_RECIPE.name());
    let optim = pick(args.optim.map(optim_name), &mut over, "train.optim.kind", &["train.optim"], "adamw");

    if preset == PRETRAINED && source.is_none() && !complete {
        bail!("--model {PRETRAINED}: expected --init-from DIR, which has the sizes of the model");
    }
    lift_overrides(&mut over)?;
    let recipe = recipe.parse::<RecipeName>().map_err(|e| e.of_setting("train.recipe.name"))?;
    let base = defaults(&preset, source.as_ref(), recipe, &optim)?;
    let mut table = Table::try_from(&base).context("defaults as TOML")?;
    config_errors::foreign(&over, &table, recipe, &optim)?;
    if complete || overlay::get(&over, "train.clip").is_some() {
        overlay::remove(&mut table, "train.clip");
    }
    if preset == PRETRAINED && source.is_none() {
        overlay::remove(&mut table, "train.model");
    }
    overlay::merge(&mut table, &over);
    let what = args.step.config.as_ref().map_or("--set".to_string(), |p| p.display().to_string());
    let mut config: RunConfig = serde_path_to_error::deserialize(table).map_err(|e| {
        let removed: Vec<String> =
            args.step.set.iter().filter_map(|s| s.trim().strip_suffix('=')).map(str::to_string).collect();
        config_errors::shape(&e.path().to_string(), e.inner().message(), &removed, &what)
    })?;

    put_from(&mut config.run, args, source.as_ref())?;
    let given = |path: &str| overlay::get(&over, path).is_some();
    apply_run(args, &mut config, given("run.sample_tokens"));
    apply_model(args, &mut config)?;
    apply_train(args, &mut config, given("train.schedule.min_lr"), given("train.schedule.warmup"))?;
    apply_scaler(args, &mut config.train.recipe)?;
    apply_fp8(args, &mut config.train.recipe)?;
    config.train.recipe.overrides.extend(args.step.overrides.iter().cloned());
    check(args, &config)?;
    let vocab_given = args.vocab.is_some() || given("train.model.vocab") || config.run.init_from.is_some();
    Ok(Resolved { config, recipe_why, vocab_given })
}

/// The choice named by a flag, else by the overlay, else the default. A flag that differs from the overlay drops what
/// the overlay says in `dependent`, which was written for another choice.
fn pick(flag: Option<&str>, over: &mut Table, path: &str, dependent: &[&str], default: &str) -> String {
    let written = overlay::get_str(over, path).map(str::to_string);
    if let (Some(flag), Some(written)) = (flag, &written)
        && flag != written
    {
        for key in dependent {
            overlay::remove(over, key);
        }
        overlay::remove(over, path);
    }
    flag.map(str::to_string).or(written).unwrap_or_else(|| default.to_string())
}

/// `[[precision.override]]` is the short way to write `[[train.recipe.override]]`.
fn lift_overrides(over: &mut Table) -> Result<()> {
    let Some(section) = over.remove("precision") else { return Ok(()) };
    let Value::Table(mut section) = section else {
        bail!("config: `precision`: expected a table, found {}", section.type_str());
    };
    let list = section.remove("override");
    if let Some(key) = section.keys().next() {
        bail!("config: `precision.{key}`: expected `precision.override` only");
    }
    let Some(list) = list else { return Ok(()) };
    if overlay::get(over, "train.recipe.override").is_some() {
        bail!("config: expected overrides in one place, found `precision.override` and `train.recipe.override`");
    }
    let nested = ["override", "recipe", "train"]
        .into_iter()
        .fold(list, |value, key| Value::Table(Table::from_iter([(key.to_string(), value)])));
    if let Value::Table(nested) = nested {
        overlay::merge(over, &nested);
    }
    Ok(())
}

fn optim_name(arg: OptimArg) -> &'static str {
    match arg {
        OptimArg::Adamw => "adamw",
        OptimArg::Adam => "adam",
        OptimArg::Sgd => "sgd",
    }
}

fn defaults(preset: &str, source: Option<&Source>, recipe: RecipeName, optim: &str) -> Result<RunConfig> {
    let (model, batch) = match source.filter(|_| preset == PRETRAINED) {
        Some(source) => (source.model.clone(), PRETRAINED_BATCH),
        // Its config holds every size.
        None if preset == PRETRAINED => (ModelConfig::preset(DEFAULT_MODEL)?.0, PRETRAINED_BATCH),
        None => ModelConfig::preset(preset).map_err(|e| e.of_setting("run.model"))?,
    };
    let optim = match optim {
        "adamw" => OptimConfig::adamw(),
        "adam" => OptimConfig::adam(),
        "sgd" => OptimConfig::sgd(SGD_MOMENTUM),
        other => return Err(near::unknown("train.optim.kind", &["adamw", "adam", "sgd"], other).into()),
    };
    let lr = match optim {
        OptimConfig::Sgd { .. } => 0.05,
        OptimConfig::AdamW { .. } | OptimConfig::Adam { .. } if preset == "gpt2-124m" => 6e-4,
        OptimConfig::AdamW { .. } | OptimConfig::Adam { .. } if preset == PRETRAINED => 3e-5,
        OptimConfig::AdamW { .. } | OptimConfig::Adam { .. } => 1e-3,
    };
    let schedule =
        Schedule { lr, min_lr: MIN_LR_SHARE * lr, warmup: DEFAULT_WARMUP, steps: DEFAULT_STEPS, decay: Decay::Cosine };
    Ok(RunConfig {
        run: RunOptions {
            model: preset.to_string(),
            data: BUILTIN.into(),
            tokenizer: None,
            token_dtype: TokenDtypeChoice::Auto,
            init_from: None,
            started_in: None,
            device: DeviceChoice::Auto,
            adapter: None,
            tune: None,
            eval_every: DEFAULT_EVAL_EVERY,
            eval_batches: DEFAULT_EVAL_BATCHES,
            sample_every: 0,
            sample_tokens: 0,
            log: default_logs(),
            stats_every: 0,
            stats: Vec::new(),
            log_every: DEFAULT_LOG_EVERY,
            checkpoint_every: DEFAULT_CHECKPOINT_EVERY,
            keep: DEFAULT_KEEP,
        },
        train: TrainConfig {
            model,
            recipe: Recipe::new(recipe),
            optim,
            schedule,
            clip: Some(Clip::Norm(DEFAULT_GRAD_CLIP)),
            error_if_nonfinite: false,
            on_nonfinite: OnNonFinite::Skip,
            batch,
            grad_accum: 1,
            seed: DEFAULT_SEED,
        },
    })
}

/// Replaces `place` by what the flag says, if it was given.
fn put<T: Clone>(place: &mut T, flag: &Option<T>) {
    if let Some(value) = flag {
        *place = value.clone();
    }
}

/// Where weights come from, and the tokenizer that they bring along for texts.
fn put_from(run: &mut RunOptions, args: &TrainArgs, source: Option<&Source>) -> Result<()> {
    if args.init_from.is_some() {
        run.init_from = args.init_from.clone();
    }
    let data = args.data.as_ref().unwrap_or(&run.data);
    let is_text = data == BUILTIN || token_files::find(Path::new(data)).is_none();
    if let Some(source) = source.filter(|_| run.tokenizer.is_none() && args.tokenizer.is_none() && is_text) {
        source.refuse_other_tokenizers().context("--init-from")?;
        run.tokenizer = source.tokenizer().map(|file| file.display().to_string());
    }
    Ok(())
}

fn apply_run(args: &TrainArgs, config: &mut RunConfig, sample_tokens_given: bool) {
    let run = &mut config.run;
    put(&mut run.data, &args.data);
    if args.tokenizer.is_some() {
        run.tokenizer = args.tokenizer.clone();
    }
    put(&mut run.token_dtype, &args.token_dtype);
    let DeviceArgs { device, adapter, tune } = &args.device;
    if device.is_some_and(|d| d != run.device) {
        // What was said of another device says nothing.
        (run.adapter, run.tune) = (None, None);
    }
    put(&mut run.device, device);
    if adapter.is_some() {
        run.adapter = adapter.clone();
    }
    run.tune = tune.or(run.tune);
    put(&mut run.eval_every, &args.eval_every);
    put(&mut run.eval_batches, &args.eval_batches);
    put(&mut run.sample_every, &args.sample_every);
    put(&mut run.log, &args.log);
    run.log = all_logs(&run.log);
    put(&mut run.stats_every, &args.stats_every);
    if !args.stats.is_empty() {
        run.stats = args.stats.clone();
    }
    put(&mut run.log_every, &args.log_every);
    put(&mut run.checkpoint_every, &args.checkpoint_every);
    put(&mut run.keep, &args.keep);
    if let Some(n) = args.sample_tokens {
        run.sample_tokens = n;
    } else if !sample_tokens_given && matches!(config.train.model, ModelConfig::Gpt(_)) {
        // A token of the large model takes seconds on a CPU: only on request.
        let quick = run.model != "gpt2-124m" && run.model != PRETRAINED;
        if run.sample_every > 0 || (run.data == BUILTIN && quick) {
            run.sample_tokens = DEFAULT_SAMPLE_TOKENS;
        }
    }
}

fn apply_model(args: &TrainArgs, config: &mut RunConfig) -> CoreResult<()> {
    match &mut config.train.model {
        ModelConfig::Gpt(gpt) => {
            put(&mut gpt.context, &args.step.seq_len);
            put(&mut gpt.vocab, &args.vocab);
            put(&mut gpt.dropout, &args.dropout.map(|p| p as f32));
        }
        ModelConfig::Mlp(_) => {
            let gpt_only = [
                ("--seq-len", args.step.seq_len.is_some()),
                ("--dropout", args.dropout.is_some()),
                ("--vocab", args.vocab.is_some()),
                ("--tokenizer", config.run.tokenizer.is_some()),
                ("--token-dtype", config.run.token_dtype.dtype().is_some()),
            ];
            if let Some((flag, _)) = gpt_only.iter().find(|(_, given)| *given) {
                return Err(Error::config(*flag, "a gpt model", format!("`{}`", config.run.model)));
            }
            if config.run.sample_tokens > 0 || config.run.sample_every > 0 {
                return Err(Error::config(
                    "--sample-every",
                    "a gpt model, which can write text",
                    format!("`{}`", config.run.model),
                ));
            }
        }
    }
    Ok(())
}

fn apply_train(args: &TrainArgs, config: &mut RunConfig, min_lr_given: bool, warmup_given: bool) -> CoreResult<()> {
    let train = &mut config.train;
    put(&mut train.batch, &args.step.batch_size);
    put(&mut train.grad_accum, &args.step.grad_accum);
    put(&mut train.seed, &args.seed);
    let schedule = &mut train.schedule;
    put(&mut schedule.steps, &args.steps);
    put(&mut schedule.lr, &args.lr);
    match args.min_lr {
        Some(x) => schedule.min_lr = x,
        None if !min_lr_given || args.lr.is_some() => schedule.min_lr = MIN_LR_SHARE * schedule.lr,
        None => {}
    }
    match args.warmup {
        Some(n) => schedule.warmup = n,
        None if !warmup_given => schedule.warmup = DEFAULT_WARMUP.min(schedule.steps),
        None => {}
    }
    schedule.decay = match args.schedule {
        Some(ScheduleArg::Cosine) => Decay::Cosine,
        Some(ScheduleArg::Constant) => Decay::Constant,
        None => schedule.decay,
    };
    match &mut train.optim {
        OptimConfig::AdamW { beta1, beta2, weight_decay, .. } | OptimConfig::Adam { beta1, beta2, weight_decay, .. } => {
            put(beta1, &args.beta1);
            put(beta2, &args.beta2);
            put(weight_decay, &args.weight_decay);
        }
        OptimConfig::Sgd { momentum, weight_decay, .. } => {
            if args.beta2.is_some() {
                return Err(Error::config("--beta2", "adamw or adam", "sgd"));
            }
            put(momentum, &args.beta1);
            put(weight_decay, &args.weight_decay);
        }
    }
    let norm = args.grad_clip.map(|x| x as f32);
    train.clip = match (args.clip_value, args.adaptive_clip, norm) {
        (Some(v), _, _) => Some(Clip::Value(v as f32)),
        (None, Some(percentile), norm) => Some(Clip::Adaptive {
            percentile: percentile as f32,
            window: ADAPTIVE_WINDOW,
            max_norm: norm.unwrap_or(DEFAULT_GRAD_CLIP),
        }),
        (None, None, Some(0.0)) => None,
        (None, None, Some(norm)) => Some(Clip::Norm(norm)),
        (None, None, None) => train.clip,
    };
    train.error_if_nonfinite |= args.error_if_nonfinite;
    put(&mut train.on_nonfinite, &args.on_nonfinite);
    Ok(())
}

fn apply_scaler(args: &TrainArgs, recipe: &mut Recipe) -> CoreResult<()> {
    let flags = [
        ("--init-scale", args.init_scale.is_some()),
        ("--growth-interval", args.growth_interval.is_some()),
        ("--growth-factor", args.growth_factor.is_some()),
        ("--backoff-factor", args.backoff_factor.is_some()),
        ("--min-scale", args.min_scale.is_some()),
        ("--hysteresis", args.hysteresis.is_some()),
    ];
    let Some(scaler) = &mut recipe.scaler else {
        return match flags.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Error::config(*flag, "a recipe with a loss scaler (f16)", recipe.name.name())),
            None => Ok(()),
        };
    };
    put(&mut scaler.init_scale, &args.init_scale);
    put(&mut scaler.growth_interval, &args.growth_interval);
    put(&mut scaler.growth_factor, &args.growth_factor);
    put(&mut scaler.backoff_factor, &args.backoff_factor);
    put(&mut scaler.min_scale, &args.min_scale);
    put(&mut scaler.hysteresis, &args.hysteresis);
    Ok(())
}

fn apply_fp8(args: &TrainArgs, recipe: &mut Recipe) -> CoreResult<()> {
    let name = recipe.name.name();
    let delayed_flags = [
        ("--amax-history", args.amax_history.is_some()),
        ("--margin", args.margin.is_some()),
        ("--amax-algo", args.amax_algo.is_some()),
        ("--warm-up-scales", args.warm_up_scales),
    ];
    let refuse = |flags: &[(&str, bool)], wants: &str| match flags.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Error::config(*flag, wants, name)),
        None => Ok(()),
    };
    let mx_flags = [("--mx-scale-rule", args.mx_scale_rule.is_some())];
    let (want_delayed, want_mx) = ("the recipe fp8-delayed", "the recipe mxfp8");
    let Some(fp8) = &mut recipe.fp8 else {
        refuse(&delayed_flags, want_delayed)?;
        refuse(&mx_flags, want_mx)?;
        return refuse(&[("--fp8-format", args.fp8_format.is_some())], "an fp8 recipe (fp8-delayed, fp8-current, mxfp8)");
    };
    match args.fp8_format {
        Some(FormatArg::Hybrid) => fp8.format = Fp8Format::Hybrid,
        Some(FormatArg::E4m3) => fp8.format = Fp8Format::E4m3,
        None => {}
    }
    match &mut fp8.scaling {
        Fp8Scaling::Delayed { amax_history_len, amax_algo, margin, warm_up, .. } => {
            refuse(&mx_flags, want_mx)?;
            put(amax_history_len, &args.amax_history);
            put(margin, &args.margin);
            *warm_up |= args.warm_up_scales;
            *amax_algo = match args.amax_algo {
                Some(AmaxArg::Max) => AmaxAlgo::Max,
                Some(AmaxArg::MostRecent) => AmaxAlgo::MostRecent,
                None => *amax_algo,
            };
            Ok(())
        }
        Fp8Scaling::Current { .. } => {
            refuse(&delayed_flags, want_delayed)?;
            refuse(&mx_flags, want_mx)
        }
        Fp8Scaling::Mx { scale_rule } => {
            refuse(&delayed_flags, want_delayed)?;
            *scale_rule = match args.mx_scale_rule {
                Some(MxArg::Ceil) => MxRule::Ceil,
                Some(MxArg::Floor) => MxRule::Floor,
                None => *scale_rule,
            };
            Ok(())
        }
    }
}

fn check(args: &TrainArgs, config: &RunConfig) -> CoreResult<()> {
    if !(1..=MAX_EVAL_BATCHES).contains(&config.run.eval_batches) {
        return Err(Error::config("run.eval_batches", format!("1 to {MAX_EVAL_BATCHES}"), config.run.eval_batches.to_string()));
    }
    if !config.run.stats.is_empty() && config.run.stats_every == 0 {
        return Err(Error::config("--stats", "--stats-every K too, which says when", "no statistics at all"));
    }
    let train = &config.train;
    if train.schedule.steps == 0 {
        return Err(Error::config("train.schedule.steps", "at least 1", "0"));
    }
    if i64::try_from(train.seed).is_err() {
        return Err(Error::config("train.seed", format!("at most {}", i64::MAX), train.seed.to_string()));
    }
    if args.grad_clip == Some(0.0) && args.adaptive_clip.is_some() {
        return Err(Error::config("--adaptive-clip", "a positive --grad-clip as its first limit", "--grad-clip 0"));
    }
    check_sizes(train)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut TrainArgs)) -> Result<RunConfig> {
        let mut args = TrainArgs::default();
        change(&mut args);
        resolve(&args).map(|r| r.config)
    }

    #[test]
    fn the_documented_defaults_hold() {
        let c = with(|_| {}).unwrap();
        let s = c.train.schedule;
        assert_eq!((c.run.model.as_str(), c.run.data.as_str(), c.train.recipe.name), ("gpt-tiny", "builtin", RecipeName::Bf16));
        assert_eq!((s.steps, s.warmup, s.lr, s.decay), (1000, 20, 1e-3, Decay::Cosine));
        assert!((s.min_lr - 1e-4).abs() <= 1e-12);
        assert_eq!((c.train.batch, c.train.grad_accum, c.train.seed), (16, 1, 1337));
        assert_eq!((c.run.eval_every, c.run.eval_batches, c.run.sample_tokens), (200, 20, 200));
        assert_eq!(c.train.clip, Some(Clip::Norm(1.0)));
    }

    #[test]
    fn a_resolved_config_resolves_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for recipe in RecipeName::ALL {
            let first = with(|a| {
                a.step.recipe = Some(recipe);
                a.grad_clip = Some(0.0);
                a.steps = Some(7);
                a.step.seq_len = Some(32);
            })
            .unwrap();
            std::fs::write(&path, first.to_toml().unwrap()).unwrap();
            assert_eq!(with(|a| a.step.config = Some(path.clone())).unwrap(), first, "{recipe}");
        }
    }

    #[test]
    fn flags_win_over_set_over_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "[train]\nbatch = 2\ngrad_accum = 3\n[train.schedule]\nsteps = 50\nlr = 1e-2\n").unwrap();
        let c = with(|a| {
            a.step.config = Some(path);
            a.step.set = vec!["train.grad_accum=4".into(), "train.schedule.steps=60".into()];
            a.steps = Some(70);
        })
        .unwrap();
        assert_eq!((c.train.batch, c.train.grad_accum, c.train.schedule.steps), (2, 4, 70));
        assert!((c.train.schedule.min_lr - 1e-3).abs() <= 1e-12, "a tenth of the lr of the file");
    }

    #[test]
    fn another_recipe_or_model_drops_what_was_written_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let first = with(|a| {
            a.step.recipe = Some(RecipeName::Fp8Delayed);
            a.amax_history = Some(16);
        });
        std::fs::write(&path, first.unwrap().to_toml().unwrap()).unwrap();
        let c = with(|a| {
            a.step.config = Some(path);
            a.step.recipe = Some(RecipeName::F16);
            a.step.model = Some("gpt-mini".into());
            a.init_scale = Some(1024.0);
        })
        .unwrap();
        assert_eq!(c.train.recipe, Recipe::new(RecipeName::F16).init_scale(1024.0));
        assert_eq!((c.run.model.as_str(), c.train.batch), ("gpt-mini", 4));
    }

    #[test]
    fn options_of_another_recipe_are_refused() {
        let message = |change: fn(&mut TrainArgs)| format!("{:#}", with(change).unwrap_err());
        assert!(
            message(|a| a.init_scale = Some(8.0))
                .contains("--init-scale: expected a recipe with a loss scaler (f16), got bf16")
        );
        assert!(message(|a| a.margin = Some(1)).contains("--margin: expected the recipe fp8-delayed"));
        assert!(message(|a| a.mx_scale_rule = Some(MxArg::Floor)).contains("mxfp8"));
        assert!(message(|a| a.fp8_format = Some(FormatArg::E4m3)).contains("an fp8 recipe"));
        assert!(message(|a| a.step.set = vec!["train.bacth=3".into()]).contains("bacth"));
        assert!(message(|a| a.step.batch_size = Some(0)).contains("batch"));
        assert!(message(|a| a.step.model = Some("gpt-huge".into())).contains("gpt-tiny"));
        assert!(message(|a| a.step.set = vec!["train.model.width=16777216".into()]).contains("elements"));
    }
}

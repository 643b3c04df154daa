//! One vocabulary for settings: a message names an entry as it stands in a config file, and the flag that sets it.

use mantissa_core::Error;

/// Entries of a config with the flags that set them.
const FLAGS: [(&str, &str); 55] = [
    ("run.model", "--model"),
    ("run.data", "--data"),
    ("run.tokenizer", "--tokenizer"),
    ("run.init_from", "--init-from"),
    ("run.device", "--device"),
    ("run.adapter", "--adapter"),
    ("run.tune", "--tune"),
    ("run.eval_every", "--eval-every"),
    ("run.eval_batches", "--eval-batches"),
    ("run.sample_every", "--sample-every"),
    ("run.sample_tokens", "--sample-tokens"),
    ("run.log", "--log"),
    ("run.log_every", "--log-every"),
    ("run.stats_every", "--stats-every"),
    ("run.stats", "--stats"),
    ("run.checkpoint_every", "--checkpoint-every"),
    ("run.keep", "--keep"),
    ("train.batch", "--batch-size"),
    ("train.grad_accum", "--grad-accum"),
    ("train.seed", "--seed"),
    ("train.on_nonfinite", "--on-nonfinite"),
    ("train.error_if_nonfinite", "--error-if-nonfinite"),
    ("train.model.context", "--seq-len"),
    ("train.model.vocab", "--vocab"),
    ("train.model.dropout", "--dropout"),
    ("train.schedule.lr", "--lr"),
    ("train.schedule.min_lr", "--min-lr"),
    ("train.schedule.warmup", "--warmup"),
    ("train.schedule.steps", "--steps"),
    ("train.schedule.decay", "--schedule"),
    ("train.optim.kind", "--optim"),
    ("train.optim.beta1", "--beta1"),
    ("train.optim.beta2", "--beta2"),
    ("train.optim.momentum", "--beta1"),
    ("train.optim.weight_decay", "--weight-decay"),
    ("train.clip.norm", "--grad-clip"),
    ("train.clip.value", "--clip-value"),
    ("train.clip.adaptive.percentile", "--adaptive-clip"),
    ("train.clip.adaptive.max_norm", "--grad-clip"),
    ("train.recipe.name", "--recipe"),
    ("train.recipe.override", "--override"),
    ("train.recipe.scaler.init_scale", "--init-scale"),
    ("train.recipe.scaler.growth_interval", "--growth-interval"),
    ("train.recipe.scaler.growth_factor", "--growth-factor"),
    ("train.recipe.scaler.backoff_factor", "--backoff-factor"),
    ("train.recipe.scaler.min_scale", "--min-scale"),
    ("train.recipe.scaler.hysteresis", "--hysteresis"),
    ("train.recipe.fp8.amax_history_len", "--amax-history"),
    ("train.recipe.fp8.margin", "--margin"),
    ("train.recipe.fp8.amax_algo", "--amax-algo"),
    ("train.recipe.fp8.warm_up", "--warm-up-scales"),
    ("train.recipe.fp8.format", "--fp8-format"),
    ("train.recipe.fp8.scale_rule", "--mx-scale-rule"),
    ("train.recipe.fp8.scaling", "--recipe"),
    ("train.recipe.low", "--recipe"),
];

/// Tables of `train` in a config: core names its settings from there.
const TABLES: [&str; 5] = ["model.", "recipe.", "optim.", "schedule.", "clip."];

/// An entry as messages name it: `train.batch (--batch-size)`.
pub fn named(key: &str) -> String {
    match FLAGS.iter().find(|(k, _)| *k == key) {
        Some((_, flag)) => format!("{key} ({flag})"),
        None => key.to_string(),
    }
}

/// The entry, [`named`], that is called `name` in another table, or whose flag is.
pub fn elsewhere(name: &str) -> Option<String> {
    let flag = format!("--{}", name.replace('_', "-"));
    let last = |key: &str| key.rsplit('.').next() == Some(name);
    FLAGS.iter().find(|(key, f)| last(key) || *f == flag).map(|(key, _)| named(key))
}

/// What one error says, a setting by its [`named`] entry.
pub fn said(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<Error>() {
        Some(Error::Config { name, expected, got }) => Error::config(of_core(name), expected, got).to_string(),
        Some(_) | None => error.to_string(),
    }
}

/// The entry behind a setting that core refuses; other names stay.
fn of_core(name: &str) -> String {
    let key = format!("train.{name}");
    let ours = TABLES.iter().any(|t| name.starts_with(t)) || FLAGS.iter().any(|(k, _)| *k == key);
    if ours { named(&key) } else { named(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, resolve, train_args::TrainArgs};
    use clap::CommandFactory;
    use mantissa_core::optim::OptimConfig;
    use mantissa_core::precision::clip::Clip;
    use mantissa_core::precision::recipe::{Recipe, RecipeName};
    use toml::Table;

    #[test]
    fn settings_are_named_as_in_files_with_their_flag() {
        let text = |name: &str| said(&Error::config(name, "1", "2"));
        assert_eq!(text("batch"), "train.batch (--batch-size): expected 1, got 2");
        assert_eq!(text("recipe.scaler.init_scale"), "train.recipe.scaler.init_scale (--init-scale): expected 1, got 2");
        assert_eq!(text("model.heads"), "train.model.heads: expected 1, got 2");
        assert_eq!(text("--tune"), "--tune: expected 1, got 2");
        let inside = anyhow::Error::from(Error::config("clip.value", "a", "b")).context("outer");
        assert_eq!(crate::in_words(&inside), "outer: train.clip.value (--clip-value): expected a, got b");
    }

    /// Keys and flags of the table are those of config files and of the command line.
    #[test]
    fn every_key_and_flag_of_the_table_exists() {
        let mut keys = std::collections::BTreeSet::new();
        fn walk(prefix: &str, table: &Table, keys: &mut std::collections::BTreeSet<String>) {
            for (key, value) in table {
                keys.insert(format!("{prefix}{key}"));
                if let Some(inner) = value.as_table() {
                    walk(&format!("{prefix}{key}."), inner, keys);
                }
            }
        }
        let base = resolve::resolve(&TrainArgs::default()).unwrap().config;
        let optims = [OptimConfig::adamw(), OptimConfig::adam(), OptimConfig::sgd(0.9)];
        let clips = [Clip::Norm(1.0), Clip::Value(1.0), Clip::Adaptive { percentile: 90.0, window: 10, max_norm: 1.0 }];
        for recipe in RecipeName::ALL {
            for (optim, clip) in optims.iter().zip(clips) {
                let mut config = base.clone();
                config.train.recipe = Recipe { overrides: vec!["gpt.head=f32".parse().unwrap()], ..Recipe::new(recipe) };
                (config.train.optim, config.train.clip) = (*optim, Some(clip));
                (config.run.tokenizer, config.run.init_from) = (Some("t".into()), Some("d".into()));
                (config.run.adapter, config.run.tune) = (Some("a".into()), Some(crate::config::TuneChoice::Off));
                config.run.stats = vec!["g".into()];
                walk("", &Table::try_from(&config).unwrap(), &mut keys);
            }
        }
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        for (key, flag) in FLAGS {
            assert!(keys.contains(key), "no config has the entry {key}");
            assert!(train.get_arguments().any(|a| a.get_long() == Some(&flag[2..])), "train has no {flag}");
        }
    }
}

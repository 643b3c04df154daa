//! What the commands that look into steps share: the flags of `train` as the description of a run, for one recipe or
//! for several at once.

use super::TrainArgs;
use super::resolve::{self, Resolved};
use crate::config::RunConfig;
use crate::data::Reading;
use crate::{data, device, init_from, out};
use anyhow::{Context, Result, bail};
use mantissa_core::backend::Backend;
use mantissa_core::data::{BatchBytes, Dataset, Loader};
use mantissa_core::precision::Recipe;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::precision::settings::Fp8Scaling;
use mantissa_core::train::{Session, TrainConfig};
use std::sync::Arc;

/// Steps to take, and the flags that describe the run. `--steps` counts the steps of the command; the schedule stays
/// that of the run.
pub fn take_steps(args: &TrainArgs, default: u64) -> (u64, TrainArgs) {
    let steps = args.steps.unwrap_or(default);
    (steps, TrainArgs { steps: None, ..args.clone() })
}

/// Refuses flags of `train` that mean nothing to a command which writes no run folder.
pub fn refuse_unused(command: &str, args: &TrainArgs) -> Result<()> {
    let unused = [
        ("--out", args.out.is_some()),
        ("--eval-every", args.eval_every.is_some()),
        ("--eval-batches", args.eval_batches.is_some()),
        ("--sample-every", args.sample_every.is_some()),
        ("--sample-tokens", args.sample_tokens.is_some()),
        ("--resume", args.resume.is_some()),
        ("--discard-newer", args.discard_newer),
        ("--checkpoint-every", args.checkpoint_every.is_some()),
        ("--log-every", args.log_every.is_some()),
        ("--keep", args.keep.is_some()),
        ("--log", args.log.is_some()),
        ("--stats-every", args.stats_every.is_some()),
        ("--stats", !args.stats.is_empty()),
        ("--print-config", args.print_config),
    ];
    match unused.iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("{flag}: `{command}` evaluates, samples and saves nothing; the flag is of `train`"),
        None => Ok(()),
    }
}

/// The config of a run in recipe `name`, one of `all`. A flag that only some recipes take reaches those; one that none
/// takes is refused.
pub fn resolve_for(args: &TrainArgs, name: RecipeName, all: &[RecipeName]) -> Result<Resolved> {
    let mut own = args.clone();
    own.step.recipe = Some(name);
    let left_to_others =
        |takes: fn(&Recipe) -> bool| !takes(&Recipe::new(name)) && all.iter().any(|other| takes(&Recipe::new(*other)));
    if left_to_others(|r| r.scaler.is_some()) {
        (own.init_scale, own.growth_interval, own.growth_factor) = (None, None, None);
        (own.backoff_factor, own.min_scale, own.hysteresis) = (None, None, None);
    }
    if left_to_others(|r| matches!(r.fp8.map(|f| f.scaling), Some(Fp8Scaling::Delayed { .. }))) {
        (own.amax_history, own.margin, own.amax_algo, own.warm_up_scales) = (None, None, None, false);
    }
    if left_to_others(|r| matches!(r.fp8.map(|f| f.scaling), Some(Fp8Scaling::Mx { .. }))) {
        own.mx_scale_rule = None;
    }
    if left_to_others(|r| r.fp8.is_some()) {
        own.fp8_format = None;
    }
    resolve::resolve(&own)
}

/// The data of a run, shared by its recipes and devices.
#[derive(Debug)]
pub struct Bench {
    data: Arc<Dataset>,
}

impl Bench {
    /// Loads what the first of `runs` names; the others may differ in recipe and device only. Models too small for the
    /// data are enlarged, as by `train`.
    pub fn new(runs: &mut [Resolved]) -> Result<Bench> {
        let first = runs.first().context("expected a run")?;
        let loaded = data::load(&first.config, Reading { vocab: first.given_vocab(), silent: false })?;
        let mut notes = loaded.notes.clone();
        for run in runs.iter_mut() {
            notes.extend(data::settle_vocab(&mut run.config, run.vocab_given, &loaded)?);
        }
        notes.dedup();
        notes.iter().for_each(|note| out::note(note));
        Ok(Bench { data: Arc::new(loaded.dataset) })
    }

    /// A run over the data, from its start.
    pub fn run(&self, backend: Arc<dyn Backend>, config: &RunConfig) -> Result<Run> {
        self.run_with(&backend.clone(), config, |train| Session::new(backend, train))
    }

    /// A run over the data that is looked at instruction by instruction.
    pub fn observable(&self, backend: Arc<dyn Backend>, config: &RunConfig) -> Result<Run> {
        self.run_with(&backend.clone(), config, |train| Session::observable(backend, train))
    }

    /// A run over the data that can measure the tensors that `globs` match.
    pub fn measuring(&self, backend: Arc<dyn Backend>, config: &RunConfig, globs: &[String]) -> Result<Run> {
        self.run_with(&backend.clone(), config, |train| Session::measuring(backend, train, globs))
    }

    fn run_with(
        &self,
        backend: &Arc<dyn Backend>,
        config: &RunConfig,
        session: impl FnOnce(TrainConfig) -> mantissa_core::Result<Session>,
    ) -> Result<Run> {
        device::check_memory(&config.train, &**backend)?;
        let session = session(config.train.clone())?;
        init_from::fill(&session, config)?.iter().for_each(|note| out::note(note));
        self.attach(session)
    }

    /// A session that goes on over the data.
    pub fn attach(&self, session: Session) -> Result<Run> {
        let loader = Loader::new(self.data.clone(), session.config().batch_plan())?;
        Ok(Run { session, loader, bytes: BatchBytes::default() })
    }
}

/// A session with its batches.
#[derive(Debug)]
pub struct Run {
    /// The session.
    pub session: Session,
    loader: Loader,
    bytes: BatchBytes,
}

impl Run {
    /// The batch of the next step, and the session to run it.
    pub fn next_batch(&mut self) -> Result<(&mut Session, &BatchBytes)> {
        self.loader.train(self.session.steps() + 1, &mut self.bytes)?;
        Ok((&mut self.session, &self.bytes))
    }

    /// What is counted per second.
    pub fn unit(&self) -> &'static str {
        self.loader.data().unit()
    }
}

/// A finite number for JSON, else `null`.
pub fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_reach_the_recipes_that_take_them() {
        let args = TrainArgs { init_scale: Some(1024.0), margin: Some(2), ..TrainArgs::default() };
        let all = [RecipeName::F32, RecipeName::F16, RecipeName::Fp8Delayed];
        assert!(resolve_for(&args, RecipeName::F32, &all).unwrap().config.train.recipe.scaler.is_none());
        let f16 = resolve_for(&args, RecipeName::F16, &all).unwrap().config.train.recipe;
        assert_eq!(f16.scaler.map(|s| s.init_scale), Some(1024.0));
        let fp8 = resolve_for(&args, RecipeName::Fp8Delayed, &all).unwrap().config.train.recipe;
        assert!(matches!(fp8.fp8.map(|f| f.scaling), Some(Fp8Scaling::Delayed { margin: 2, .. })));
        let error = resolve_for(&args, RecipeName::F32, &[RecipeName::F32]).unwrap_err().to_string();
        assert!(error.contains("--init-scale"), "{error}");
    }

    #[test]
    fn flags_without_a_meaning_are_refused_by_name() {
        let args = TrainArgs { sample_every: Some(3), ..TrainArgs::default() };
        assert!(refuse_unused("bench", &args).unwrap_err().to_string().starts_with("--sample-every: `bench`"));
        assert!(refuse_unused("bench", &TrainArgs::default()).is_ok());
    }
}

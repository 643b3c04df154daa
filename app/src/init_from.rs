//! Weights from elsewhere: what `--init-from` starts a run with, and `sample` writes with. In a run the optimizer, the precision states and the data
//! start afresh, unlike with `--resume`.
//!
//! A source is a folder of Hugging Face `transformers` (in one file or in parts), a run (its newest checkpoint), or a checkpoint. A context shorter
//! than that of the weights takes the first rows of the position table, as nanoGPT does; any other size that differs is refused by its tensor.

use crate::checkpoint::parts::Parts;
use crate::checkpoint::{CHECKPOINTS, DONE, model};
use crate::config::RunConfig;
use crate::run_folder::CONFIG;
use crate::vocabulary::{TOKENIZER, Vocabulary};
use crate::weights::checkpoint_of;
use anyhow::{Context, Result, bail};
use mantissa_core::model::ModelConfig;
use mantissa_core::train::{Session, TrainConfig};
use std::path::{Path, PathBuf};

/// Weights to start from.
#[derive(Debug)]
pub struct Source {
    /// Sizes of their model. Dropout is that of a run of ours, 0 for others.
    pub model: ModelConfig,
    /// How a run of ours trained them.
    pub train: Option<TrainConfig>,
    dir: PathBuf,
}

/// Finds out what `path` holds.
pub fn open(path: &Path) -> Result<Source> {
    if !path.is_dir() {
        bail!("expected a folder with a model, found none: {}", path.display());
    }
    if path.join(CONFIG).is_file() || path.join(CHECKPOINTS).is_dir() || path.join(DONE).is_file() {
        let (dir, state) = checkpoint_of(path)?;
        return Ok(Source { model: state.config.model.clone(), train: Some(state.config), dir });
    }
    if !path.join(model::CONFIG).is_file() {
        bail!("expected a run, a checkpoint or a GPT-2 of `transformers`, found neither: {}", path.display());
    }
    let config = model::read_hf_config(path)?.without_dropout().to_gpt();
    let gpt = config.with_context(|| format!("cannot use the model: {}", path.join(model::CONFIG).display()))?;
    Ok(Source { model: ModelConfig::Gpt(gpt), train: None, dir: path.to_path_buf() })
}

impl Source {
    /// The `tokenizer.json` that came with the weights.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        Some(self.home().join(TOKENIZER)).filter(|file| file.is_file())
    }

    /// What the tokens of the weights mean.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        match (&self.model, &self.train) {
            // Without a tokenizer nothing is known of them.
            (ModelConfig::Gpt(gpt), None) if self.tokenizer().is_none() => Ok(Vocabulary::Unnamed(gpt.vocab)),
            (ModelConfig::Gpt(_) | ModelConfig::Mlp(_), _) => Vocabulary::of_run(self.home()),
        }
    }

    /// Puts the weights into a new session. Nothing is written before all is checked.
    pub fn load(&self, session: &Session) -> Result<()> {
        let weights = Parts::open(&self.dir)?.cropping_positions();
        model::load(session, &weights).with_context(|| format!("the weights do not fit the model: {}", self.dir.display()))
    }

    /// The folder that files about the weights lie in: theirs, or the run that the checkpoint belongs to.
    fn home(&self) -> &Path {
        let ours = self.train.is_some();
        self.dir.ancestors().nth(if ours { 2 } else { 0 }).unwrap_or(&self.dir)
    }
}

/// Puts the weights that a run starts from, if its config names some, into its new session.
pub fn fill(session: &Session, config: &RunConfig) -> Result<()> {
    match &config.run.init_from {
        Some(path) => open(Path::new(path)).and_then(|source| source.load(session)).context("--init-from"),
        None => Ok(()),
    }
}

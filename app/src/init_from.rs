//! `--init-from`: where a run takes its first weights from. The optimizer, the precision states and the data start afresh, unlike with `--resume`.
//!
//! A source is a folder of Hugging Face `transformers` (in one file or in parts), a run (its newest checkpoint), or a checkpoint. A context shorter
//! than that of the weights takes the first rows of the position table, as nanoGPT does; any other size that differs is refused by its tensor.

use crate::checkpoint::parts::Parts;
use crate::checkpoint::{CHECKPOINTS, DONE, model};
use crate::config::RunConfig;
use crate::device::check_memory;
use crate::run_folder::CONFIG;
use crate::vocabulary::TOKENIZER;
use crate::weights::checkpoint_of;
use anyhow::{Context, Result, bail};
use mantissa_core::backend::Backend;
use mantissa_core::model::ModelConfig;
use mantissa_core::train::Session;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Weights to start from.
#[derive(Debug)]
pub struct Source {
    /// Sizes of their model. Dropout is that of a run of ours, 0 for others.
    pub model: ModelConfig,
    /// The `tokenizer.json` that came with them.
    pub tokenizer: Option<PathBuf>,
    dir: PathBuf,
}

/// Finds out what `path` holds.
pub fn open(path: &Path) -> Result<Source> {
    if !path.is_dir() {
        bail!("--init-from: expected a folder with a model, found none: {}", path.display());
    }
    let ours = path.join(CONFIG).is_file() || path.join(CHECKPOINTS).is_dir() || path.join(DONE).is_file();
    let (model, dir) = match ours {
        true => {
            let (dir, state) = checkpoint_of(path)?;
            (state.config.model, dir)
        }
        false => {
            let config = model::read_hf_config(path)?.without_dropout().to_gpt();
            let gpt = config.with_context(|| format!("cannot use the model: {}", path.join(model::CONFIG).display()))?;
            (ModelConfig::Gpt(gpt), path.to_path_buf())
        }
    };
    // Beside the weights, or in the run that the checkpoint belongs to.
    let beside = dir.ancestors().take(if ours { 3 } else { 1 }).map(|d| d.join(TOKENIZER));
    let tokenizer = beside.into_iter().find(|file| file.is_file());
    Ok(Source { model, tokenizer, dir })
}

/// A new session of a run, with its first weights.
pub fn session(backend: Arc<dyn Backend>, config: &RunConfig) -> Result<Session> {
    check_memory(&config.train)?;
    let session = Session::new(backend, config.train.clone())?;
    if let Some(path) = &config.run.init_from {
        load(Path::new(path), &session)?;
    }
    Ok(session)
}

/// Puts the weights at `path` into a new session. Nothing is written before all is checked.
fn load(path: &Path, session: &Session) -> Result<()> {
    let source = open(path)?;
    let weights = Parts::open(&source.dir)?.cropping_positions();
    model::load(session, &weights).with_context(|| format!("--init-from: the weights do not fit the model: {}", path.display()))
}

//! Weights for use without training: those of the newest checkpoint of a run, or of a named checkpoint.

use super::state::State;
use super::{CHECKPOINTS, DONE, newest, read};
use crate::config::{self, RunConfig};
use crate::run_folder::CONFIG;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The checkpoint that `path`, a run or a checkpoint, means, and what it knows.
pub fn checkpoint_of(path: &Path) -> Result<(PathBuf, State)> {
    if !path.is_dir() {
        bail!("--run: expected the folder of a run, found none: {}", path.display());
    }
    let dir = match path.join(CONFIG).is_file() || path.join(CHECKPOINTS).is_dir() {
        true => {
            newest(path)?.with_context(|| format!("expected a run with a checkpoint, found none yet: {}", path.display()))?
        }
        false if path.join(DONE).exists() => path.to_path_buf(),
        false => bail!("--run: expected the folder of a run or a checkpoint, found neither: {}", path.display()),
    };
    let state = read::state(&dir)?;
    Ok((dir, state))
}

/// The config of a run.
pub fn config_of(run: &Path) -> Result<RunConfig> {
    config::read(&run.join(CONFIG)).context("cannot go on with the run")
}

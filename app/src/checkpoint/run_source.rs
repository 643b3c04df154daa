//! Weights for use without training: those of the newest checkpoint of a run, or of a named checkpoint.

use super::state::State;
use super::{CHECKPOINTS, instead_of, newest, read, step_of};
use crate::config::{self, RunConfig};
use crate::run_folder::CONFIG;
use anyhow::{Context, Result, anyhow};
use std::path::{Path, PathBuf};

/// The checkpoint that the folder `path`, a run or a checkpoint, means, and what it knows. Where it is damaged, the
/// error says how another one of the run is named with `flag`.
pub fn checkpoint_of(path: &Path, flag: &str) -> Result<(PathBuf, State)> {
    let is_run = path.join(CONFIG).is_file() || path.join(CHECKPOINTS).is_dir();
    let dir = match is_run {
        true => {
            newest(path)?.with_context(|| format!("expected a run with a checkpoint, found none yet: {}", path.display()))?
        }
        false => path.to_path_buf(),
    };
    let run = if is_run { Some(path) } else { dir.ancestors().nth(2).filter(|_| step_of(&dir).is_some()) };
    let state = read::state(&dir).map_err(|e| match run {
        Some(run) => anyhow!("{e:#}; {}", instead_of(run, &dir, flag)),
        None => e,
    })?;
    Ok((dir, state))
}

/// The config of a run.
pub fn config_of(run: &Path) -> Result<RunConfig> {
    config::read(&run.join(CONFIG)).context("cannot go on with the run")
}

//! Reads a checkpoint. Checksums are followed from `DONE` down, so that a file that is missing, cut short, exchanged or
//! damaged is named before any tensor is looked at; a session is written to only when all of it has been found as it
//! should be.

use super::model::{Positions, Weights};
use super::parts::Parts;
use super::state::State;
use super::{DONE, MODEL, OPTIM, STATE, model, read_small, step_of};
use crate::digest::Digest;
use crate::show::printable;
use crate::tensor_file::TensorFile;
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::program::memory::Purpose;
use mantissa_core::train::Session;
use std::path::Path;

/// Largest `DONE` that is read, bytes.
const MAX_DONE_BYTES: u64 = 4096;
/// Largest `state.json` that is read, bytes.
const MAX_STATE_BYTES: u64 = 1 << 24;

fn context(dir: &Path) -> String {
    format!("cannot use the checkpoint {}", dir.display())
}

/// The state of a complete checkpoint, and the promise that its other files are those that were written.
pub fn state(dir: &Path) -> Result<State> {
    checked_state(dir).with_context(|| context(dir))
}

fn checked_state(dir: &Path) -> Result<State> {
    let done = dir.join(DONE);
    if !done.is_file() {
        bail!("expected the file {DONE}, found none; the checkpoint is incomplete");
    }
    let digest: Digest = serde_json::from_slice(&read_small(&done, MAX_DONE_BYTES)?)
        .map_err(|e| anyhow!("not a checksum: {e}: {}", done.display()))?;
    let path = dir.join(STATE);
    let text = read_small(&path, MAX_STATE_BYTES)?;
    let found = Digest::of(&text);
    if found != digest {
        bail!("expected {digest}, found {found}: {}", path.display());
    }
    let state = State::from_json(&text).with_context(|| path.display().to_string())?;
    if step_of(dir).is_some_and(|step| step != state.step) {
        bail!("expected the checkpoint of the step in its name, found step {}", state.step);
    }
    for name in [MODEL, model::CONFIG, OPTIM] {
        let digest =
            state.files.get(name).ok_or_else(|| anyhow!("expected a checksum of {name}, found none: {}", path.display()))?;
        digest.check(&dir.join(name))?;
    }
    Ok(state)
}

/// Puts `session`, made from the same config, where the checkpoint was.
pub fn restore(dir: &Path, state: &State, session: &mut Session) -> Result<()> {
    checked_restore(dir, state, session).with_context(|| context(dir))
}

fn checked_restore(dir: &Path, state: &State, session: &mut Session) -> Result<()> {
    let parts = Parts::one(&dir.join(MODEL))?;
    let weights = Weights::find(&parts, &session.config().model, model::stored(session), Positions::Exact)?;
    weights.check()?;
    let states = TensorFile::open(&dir.join(OPTIM))?;
    for entry in session.saved().filter(|e| e.purpose != Purpose::Weights) {
        states.expect_exact(&entry.name, entry.ty.dtype, &entry.ty.shape)?;
    }
    let known = |name: &str| session.saved().any(|e| e.purpose != Purpose::Weights && e.name == name);
    if let Some(extra) = states.names().find(|n| !known(n)) {
        let (extra, path) = (printable(extra), states.path().display());
        bail!("expected the states of the recipe and optimizer only, found `{extra}` too: {path}");
    }
    session.restore_with(state.step, state.skipped, |entry| match entry.purpose {
        Purpose::Weights => weights.value(&entry.name),
        Purpose::Optimizer
        | Purpose::Precision
        | Purpose::Telemetry
        | Purpose::Gradients
        | Purpose::Activations
        | Purpose::Inputs => states.read_exact(&entry.name, entry.ty.dtype, &entry.ty.shape),
    })?;
    let found = session.scaler_state()?;
    let agree = match (&found, &state.scaler) {
        (Some(found), Some(saved)) => found.agrees_with(saved),
        (found, saved) => found == saved,
    };
    if !agree {
        bail!("expected the scaler of {STATE}, {:?}, found {found:?} in {OPTIM}", state.scaler);
    }
    Ok(())
}

/// Puts only the weights of a checkpoint into `session`.
pub fn weights(dir: &Path, session: &Session) -> Result<()> {
    let load = |parts| model::load(session, &parts, Positions::Exact);
    Parts::one(&dir.join(MODEL)).and_then(load).map(|_| ()).with_context(|| context(dir))
}

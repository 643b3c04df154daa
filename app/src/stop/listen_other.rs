//! Hears Ctrl-C where there are no Unix signals. Twin of `listen.rs`.

use super::{Signal, Stop};
use anyhow::{Context, Result};

/// Passes every Ctrl-C on to `stop`.
pub(super) fn listen(stop: Stop, quiet: bool) -> Result<()> {
    let heard = move || stop.hear(Signal::Interrupt, quiet, std::process::exit);
    ctrlc::set_handler(heard).context("cannot listen for Ctrl-C")
}

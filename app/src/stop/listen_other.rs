//! Hears Ctrl-C where there are no Unix signals. Twin of `listen.rs`.

use super::Signal;
use anyhow::{Context, Result};

/// Passes every Ctrl-C on to `hear`.
pub(super) fn listen(mut hear: impl FnMut(Signal) + Send + 'static) -> Result<()> {
    ctrlc::set_handler(move || hear(Signal::Interrupt)).context("cannot listen for Ctrl-C")
}

/// Ends the process at once.
pub(super) fn end_process(code: i32) -> ! {
    std::process::exit(code)
}

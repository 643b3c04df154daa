//! Launches of what happens after the backward pass.

use super::{Frame, kernel};
use mantissa_core::error::Result;
use mantissa_core::op::update::{Record, RecordMode};

const WORD: usize = size_of::<u32>();

/// A list set to zero; it lies in one piece.
pub(super) fn zero(f: &mut Frame<'_>) -> Result<()> {
    let words = f.x_place(0).size / WORD;
    f.push(kernel("zero", "zero").uniform("words", words).bind("y", f.y(0)).items(words).done()?);
    Ok(())
}

/// A scalar into its telemetry slot.
pub(super) fn record(r: &Record, f: &mut Frame<'_>) -> Result<()> {
    let add = u32::from(r.mode == RecordMode::Add);
    let launch = kernel("record", "record").set("ADD", add).uniform("slot", r.slot).bind("x", f.x(0)).bind("y", f.y(0));
    f.push(launch.done()?);
    Ok(())
}

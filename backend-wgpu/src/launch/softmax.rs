//! Launches of softmax and log-softmax.

use super::builder::{Frame, kernel};
use super::rows::{matrix, over_rows};
use mantissa_core::error::Result;
use mantissa_core::op::loss::Softmax;

/// One launch.
pub(super) fn forward(o: &Softmax, f: &mut Frame<'_>) -> Result<()> {
    launch(o, "softmax", f)
}

/// One launch.
pub(super) fn backward(o: &Softmax, f: &mut Frame<'_>) -> Result<()> {
    launch(o, "softmax_backward", f)
}

fn launch(o: &Softmax, entry: &'static str, f: &mut Frame<'_>) -> Result<()> {
    let x = &f.tx()[0];
    let launch = kernel("softmax", entry).dtype("X", x.dtype).dtype("OUT", o.out).set("LOG", u32::from(o.log));
    let mut launch = launch.bind("x", f.x(0)).bind("y", f.y(0));
    if let Some(dy) = f.tx().get(1) {
        launch = launch.dtype("DY", dy.dtype).bind("dy", f.x(1));
    }
    f.push(over_rows(launch, matrix(&x.shape), o.out).done()?);
    Ok(())
}

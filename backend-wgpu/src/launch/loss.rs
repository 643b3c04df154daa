//! Launches of cross entropy.

use super::builder::{Builder, Frame, kernel};
use super::rows::{WG_SIZE, matrix, over_rows};
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::op::loss::CrossEntropy;

/// One launch over the rows, one for their mean.
pub(super) fn cross_entropy(o: &CrossEntropy, f: &mut Frame<'_>) -> Result<()> {
    let shape = matrix(&f.tx()[0].shape);
    let row_loss = f.scratch(shape[0] * size_of::<f32>());
    let rows = common(o, "xent", f).bind("logits", f.x(0)).bind("row_loss", row_loss).bind("stats", f.y(1));
    f.push(over_rows(rows, shape, DType::F32).done()?);
    let mean = common(o, "xent_mean", f).uniform("n", shape[0]).uniform("c", shape[1]);
    f.push(mean.bind("row_loss", row_loss).bind("loss", f.y(0)).bind("count", f.y(2)).done()?);
    Ok(())
}

/// One launch.
pub(super) fn cross_entropy_backward(o: &CrossEntropy, f: &mut Frame<'_>) -> Result<()> {
    let logits = &f.tx()[0];
    let [n, v] = matrix(&logits.shape);
    let words = logits.size_bytes().div_ceil(size_of::<u32>());
    let launch = common(o, "xent_backward", f).uniform("n", n).uniform("c", v).bind("logits", f.x(0));
    let launch = launch.bind("saved_stats", f.x(2)).bind("saved_count", f.x(3)).bind("dloss", f.x(4)).bind("dlogits", f.y(0));
    f.push(launch.groups(words.div_ceil(WG_SIZE)).done()?);
    Ok(())
}

fn common(o: &CrossEntropy, entry: &'static str, f: &Frame<'_>) -> Builder {
    let smoothing = o.label_smoothing.f32();
    let launch = kernel("xent", entry).dtype("X", f.tx()[0].dtype).set("SMOOTH", u32::from(smoothing != 0.0));
    launch.uniform_f32("smoothing", smoothing).bind("targets", f.x(1))
}

//! Launches of pooling.

use super::builder::{Builder, Frame, kernel};
use mantissa_core::error::Result;
use mantissa_core::op::conv::{Pool2d, PoolKind};
use mantissa_core::shape::Ty;

/// One launch.
pub(super) fn forward(o: &Pool2d, f: &mut Frame<'_>) -> Result<()> {
    let (x, y) = (&f.tx()[0], &f.ty()[0]);
    let launch = common(o, "pool", x, y, y).bind("x", f.x(0)).bind("y", f.y(0));
    f.push(launch.done()?);
    Ok(())
}

/// One launch.
pub(super) fn backward(o: &Pool2d, f: &mut Frame<'_>) -> Result<()> {
    let (x, dy) = (&f.tx()[0], &f.tx()[1]);
    let launch = common(o, "pool_backward", x, dy, x).dtype("DY", dy.dtype);
    f.push(launch.bind("x", f.x(0)).bind("dy", f.x(1)).bind("dx", f.y(0)).done()?);
    Ok(())
}

/// A launch with an invocation for each word of `made`.
fn common(o: &Pool2d, entry: &'static str, x: &Ty, y: &Ty, made: &Ty) -> Builder {
    let average = u32::from(o.kind == PoolKind::Average);
    let mut launch = kernel("pool", entry).dtype("X", x.dtype).set("AVERAGE", average);
    for (name, value) in [("h", x.shape[1]), ("w", x.shape[2]), ("c", x.shape[3]), ("oh", y.shape[1]), ("ow", y.shape[2])] {
        launch = launch.uniform(name, value);
    }
    for (name, pair) in [("kernel", o.window), ("stride", o.stride), ("padding", o.padding)] {
        for (axis, value) in pair.into_iter().enumerate() {
            launch = launch.uniform(format!("{name}[{axis}]"), value);
        }
    }
    launch.uniform("elements", made.shape.numel()).items(made.size_bytes().div_ceil(size_of::<u32>()))
}

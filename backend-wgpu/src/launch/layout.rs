//! Launches that move elements as bits: permutation, joining and cutting. Where the rows of a move are whole words,
//! words are moved.

use super::axes;
use super::builder::{Arg, Frame, kernel};
use super::unit::Unit;
use mantissa_core::error::Result;
use mantissa_core::op::layout::Slice;
use mantissa_core::shape::Ty;

/// Axes that the permutation kernel walks.
const MAX_RANK: usize = 8;
/// Parts that one launch of the joining kernel takes, and the bindings they have.
const PARTS: [&str; 7] = ["x0", "x1", "x2", "x3", "x4", "x5", "x6"];
const ENDS: [&str; 7] = ["end_lo[0]", "end_lo[1]", "end_lo[2]", "end_lo[3]", "end_hi[0]", "end_hi[1]", "end_hi[2]"];

/// Invocations of a workgroup of these kernels.
const GROUP: usize = 256;

/// Axes in another order.
pub(super) fn permute(order: &[usize], f: &mut Frame<'_>) -> Result<()> {
    let x = &f.tx()[0];
    let strides = x.shape.strides();
    let strides: Vec<usize> = order.iter().map(|&a| strides[a]).collect();
    let mut axes = axes::collapse(&f.ty()[0].shape, &strides);
    let last = axes.len() - 1;
    // A run of whole words that starts at words can be moved as words.
    let run = if axes[last][1] == 1 { axes[last][0] } else { 1 };
    let unit = Unit::of(x.dtype, axes[..last].iter().map(|a| a[1]).chain([run]));
    axes[..last].iter_mut().for_each(|a| a[1] /= unit.size);
    if axes[last][1] == 1 {
        axes[last][0] /= unit.size;
    }
    let n = x.shape.numel() / unit.size;
    if n == 0 {
        return Ok(());
    }
    let mut launch = kernel("permute", "permute").set("RANK", axes.len() as u32).bind("x", f.x(0)).bind("y", f.y(0));
    for (a, part) in (0..MAX_RANK).map(|a| (a, if a < MAX_RANK / 2 { "lo" } else { "hi" })) {
        let [len, stride] = axes.get(a).copied().unwrap_or([1, 0]);
        let at = a % (MAX_RANK / 2);
        launch = launch.uniform(format!("len_{part}[{at}]"), len).uniform(format!("stride_{part}[{at}]"), stride);
    }
    f.push(unit.items(launch, n, GROUP).done()?);
    Ok(())
}

/// Elements of a row: an axis with those behind it.
fn row(t: &Ty, axis: usize) -> usize {
    t.shape[axis..].iter().product()
}

/// Operands joined along an axis, seven a launch.
pub(super) fn concat(axis: usize, f: &mut Frame<'_>) -> Result<()> {
    let y = &f.ty()[0];
    let rows: Vec<usize> = f.tx().iter().map(|t| row(t, axis)).collect();
    let unit = Unit::of(y.dtype, rows.iter().copied());
    let (n, width) = (y.shape.numel() / unit.size, row(y, axis) / unit.size);
    if n == 0 {
        return Ok(());
    }
    let mut end = 0;
    for (k, group) in rows.chunks(PARTS.len()).enumerate() {
        let mut launch = kernel("concat", "concat").uniform("width", width).uniform("x_width", 0).uniform("shift", 0);
        launch = launch.uniform("start", end).uniform("merge", usize::from(k > 0)).uniform("end_hi[3]", 0).bind("y", f.y(0));
        for (i, (part, field)) in PARTS.into_iter().zip(ENDS).enumerate() {
            end += group.get(i).map_or(0, |row| row / unit.size);
            let arg = if i < group.len() { f.x(k * PARTS.len() + i) } else { Arg::Absent };
            launch = launch.uniform(field, end).bind(part, arg);
        }
        f.push(unit.items(launch, n, GROUP).done()?);
    }
    Ok(())
}

/// A range of one axis, or with `backward` the gradient of that: zeros around the range.
pub(super) fn slice(s: &Slice, backward: bool, f: &mut Frame<'_>) -> Result<()> {
    let (x, y) = (&f.tx()[0], &f.ty()[0]);
    let shift = s.start * x.shape[s.axis + 1..].iter().product::<usize>();
    let unit = Unit::of(x.dtype, [row(x, s.axis), row(y, s.axis), shift].into_iter());
    let (n, width, x_width) = (y.shape.numel() / unit.size, row(y, s.axis) / unit.size, row(x, s.axis) / unit.size);
    if n == 0 {
        return Ok(());
    }
    let shift = (shift / unit.size) as u32;
    let shift = if backward { shift.wrapping_neg() } else { shift };
    let mut launch = kernel("concat", "window").uniform("width", width).uniform("x_width", x_width);
    launch = launch.uniform("shift", shift as usize).uniform("start", 0).uniform("merge", 0).uniform("end_hi[3]", 0);
    launch = ENDS.into_iter().fold(launch, |launch, field| launch.uniform(field, 0));
    f.push(unit.items(launch.bind("x0", f.x(0)).bind("y", f.y(0)), n, GROUP).done()?);
    Ok(())
}

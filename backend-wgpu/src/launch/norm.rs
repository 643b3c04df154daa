//! Launches of layer norm and RMS norm.

use super::builder::{Arg, Builder, Frame, kernel};
use super::rows::{matrix, over_columns, over_rows};
use mantissa_core::error::Result;
use mantissa_core::op::norm::{Norm, NormKind};

/// Columns of a workgroup of `norm_parameters_vec8`.
const VEC8_COLUMNS: usize = 16;

/// Rows are whole vec8s.
fn whole_vec8s([_, c]: [usize; 2]) -> bool {
    c.is_multiple_of(8)
}

/// One launch: statistics and `y`.
pub(super) fn forward(o: &Norm, f: &mut Frame<'_>) -> Result<()> {
    let (x, shape) = (&f.tx()[0], matrix(&f.tx()[0].shape));
    let layer = o.kind == NormKind::Layer;
    let mut launch = kernel("norm", "norm").dtype("X", x.dtype).dtype("Y", o.out).uniform_f32("eps", o.eps.f32());
    launch = parameters(launch, o);
    for (name, constant, present, input) in [("weight", "W", o.affine, 1), ("bias", "B", o.bias, 1 + usize::from(o.affine))] {
        launch = if present {
            launch.dtype(constant, f.tx()[input].dtype).bind(name, f.x(input))
        } else {
            launch.bind(name, Arg::Absent)
        };
    }
    let mean = if layer { f.y(1) } else { Arg::Absent };
    launch = launch.bind("x", f.x(0)).bind("y", f.y(0)).bind("mean", mean).bind("rstd", f.y(1 + usize::from(layer)));
    f.push(over_rows(launch, shape, o.out).set("VEC8", u32::from(whole_vec8s(shape))).done()?);
    Ok(())
}

/// One launch for `dx`, one for the gradients of the parameters.
pub(super) fn backward(o: &Norm, f: &mut Frame<'_>) -> Result<()> {
    let (dy, x) = (&f.tx()[0], &f.tx()[1]);
    let shape = matrix(&x.shape);
    let stats = 2 + usize::from(o.affine);
    let layer = o.kind == NormKind::Layer;
    let mean = if layer { f.x(stats) } else { Arg::Absent };
    let rstd = f.x(stats + usize::from(layer));
    let common = |entry, f: &Frame<'_>| {
        let launch = kernel("norm", entry).dtype("X", x.dtype).dtype("DY", dy.dtype).uniform_f32("eps", o.eps.f32());
        let launch = parameters(launch, o).bind("x", f.x(1)).bind("dy", f.x(0));
        launch.bind("saved_mean", mean).bind("saved_rstd", rstd)
    };
    let mut launch = common("norm_backward", f).bind("dx", f.y(0));
    launch =
        if o.affine { launch.dtype("W", f.tx()[2].dtype).bind("weight", f.x(2)) } else { launch.bind("weight", Arg::Absent) };
    f.push(over_rows(launch, shape, x.dtype).set("VEC8", u32::from(whole_vec8s(shape))).done()?);
    if o.affine {
        let dbias = if o.bias { f.y(2) } else { Arg::Absent };
        let by_vec8 = whole_vec8s(shape);
        let launch = common(if by_vec8 { "norm_parameters_vec8" } else { "norm_parameters" }, f);
        let launch = launch.bind("dweight", f.y(1)).bind("dbias", dbias);
        let [n, c] = shape;
        let launch = if by_vec8 {
            launch.uniform("n", n).uniform("c", c).groups(c.div_ceil(VEC8_COLUMNS))
        } else {
            over_columns(launch, shape)
        };
        f.push(launch.done()?);
    }
    Ok(())
}

fn parameters(launch: Builder, o: &Norm) -> Builder {
    let layer = o.kind == NormKind::Layer;
    launch.set("LAYER", u32::from(layer)).set("WEIGHT", u32::from(o.affine)).set("BIAS", u32::from(o.bias))
}

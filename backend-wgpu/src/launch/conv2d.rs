//! Launches of convolutions and their gradients.

use super::builder::{Arg, Builder, Frame, kernel};
use super::operand::per_word;
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::op::conv::Conv2d;

/// Positions and channels that an invocation owns.
const TILE: [usize; 2] = [4, 8];

/// Positions that an invocation of the weight gradient adds up.
const PART: usize = 1024;

/// The output of a convolution.
pub(super) fn forward(o: &Conv2d, f: &mut Frame<'_>) -> Result<()> {
    let y = o.y_shape()?;
    rows(o, false, [&y, &o.x_shape], f)
}

/// The gradient of its input.
pub(super) fn dgrad(o: &Conv2d, f: &mut Frame<'_>) -> Result<()> {
    let y = o.y_shape()?;
    rows(o, true, [&o.x_shape, &y], f)
}

/// Every position of an image shaped `result` from the taps in one shaped `source`.
fn rows(o: &Conv2d, dgrad: bool, [result, source]: [&[usize]; 2], f: &mut Frame<'_>) -> Result<()> {
    let positions = result[..3].iter().product::<usize>();
    let packed = Packed { rows: positions, columns: result[3], parts: 1 };
    let launch = common(o, f, "rows", [result, source])
        .set("DGRAD", u32::from(dgrad))
        .uniform("c", source[3])
        .uniform("o", result[3])
        .uniform("part", positions)
        .uniform("parts", 1)
        .set("VEC4_C", whole_vec4s(source[3]))
        .set("VEC4_O", whole_vec4s(result[3]))
        .bind("x", f.x(0))
        .bind("w", f.x(1))
        .items(positions.div_ceil(TILE[0]) * result[3].div_ceil(TILE[1]));
    packed.push(launch, f)
}

/// The gradient of its weights.
pub(super) fn wgrad(o: &Conv2d, f: &mut Frame<'_>) -> Result<()> {
    let (y, x, w) = (o.y_shape()?, &o.x_shape, &o.w_shape);
    let positions = y[..3].iter().product::<usize>();
    let parts = positions.div_ceil(PART).max(1);
    let packed = Packed { rows: w[..3].iter().product(), columns: w[3], parts };
    let launch = common(o, f, "wgrad", [&y, x])
        .uniform("c", x[3])
        .uniform("o", w[3])
        .uniform("part", PART)
        .uniform("parts", parts)
        .set("VEC4_C", whole_vec4s(x[3]))
        .set("VEC4_O", whole_vec4s(w[3]))
        .bind("x", f.x(1))
        .bind("w", f.x(0))
        .items(w[0] * w[1] * w[2].div_ceil(TILE[0]) * w[3].div_ceil(TILE[1]) * parts);
    packed.push(launch, f)
}

fn whole_vec4s(channels: usize) -> u32 {
    u32::from(channels.is_multiple_of(4))
}

fn common(o: &Conv2d, f: &Frame<'_>, entry: &'static str, [at, source]: [&[usize]; 2]) -> Builder {
    let mut launch = kernel("conv2d", entry)
        .dtype("X", f.tx()[0].dtype)
        .dtype("Y", o.out)
        .uniform("positions", at[..3].iter().product())
        .uniform("height", at[1])
        .uniform("width", at[2])
        .uniform("source_height", source[1])
        .uniform("source_width", source[2]);
    for i in 0..2 {
        launch = launch
            .uniform(format!("kernel[{i}]"), o.w_shape[i])
            .uniform(format!("stride[{i}]"), o.stride[i])
            .uniform(format!("padding[{i}]"), o.padding[i])
            .uniform(format!("dilation[{i}]"), o.dilation[i]);
    }
    launch
}

/// A result of `rows` x `columns` as the sum of parts.
struct Packed {
    rows: usize,
    columns: usize,
    parts: usize,
}

impl Packed {
    /// Adds `launch`, and the pass that adds its parts or packs rows that share words.
    fn push(&self, launch: Builder, f: &mut Frame<'_>) -> Result<()> {
        let out = f.ty()[0].dtype;
        let elements = self.rows * self.columns;
        if self.parts == 1 && self.columns.is_multiple_of(per_word(out)) {
            f.push(launch.bind("y", f.y(0)).done()?);
            return Ok(());
        }
        let sums = f.scratch(self.parts * elements * size_of::<f32>());
        f.push(launch.set("PARTIAL", 1).bind("y", sums).done()?);
        let zeros = ["k", "tiles_m", "tiles_n", "split_k", "a_stride", "b_stride", "scale_a_stride", "scale_b_stride"];
        let finish = zeros
            .into_iter()
            .fold(kernel("matmul", "finish"), |launch, name| launch.uniform(name, 0))
            .dtype("Y", out)
            .dtype("ROUND", DType::F32)
            .uniform("m", self.rows)
            .uniform("n", self.columns)
            .uniform("batch", 1)
            .uniform("splits", self.parts)
            .bind("scale_a", Arg::Absent)
            .bind("scale_b", Arg::Absent)
            .bind("bias", Arg::Absent)
            .bind("addend", Arg::Absent)
            .bind("sums", sums)
            .bind("y", f.y(0))
            .items(elements.div_ceil(per_word(out)));
        f.push(finish.done()?);
        Ok(())
    }
}

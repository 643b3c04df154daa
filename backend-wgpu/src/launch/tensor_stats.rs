//! Launches of the statistics of a tensor.

use super::builder::{Arg, Frame, kernel};
use mantissa_core::cpu::tensor_stats::Edges;
use mantissa_core::error::Result;
use mantissa_core::op::tensor_stats::{TensorStats, WORDS, Word};

/// Elements that a workgroup of the kernel sees.
const PIECE: usize = 4 * 32 * 256;

/// An empty row, the counts, sums by pieces, their sum.
pub(super) fn tensor_stats(s: &TensorStats, f: &mut Frame<'_>) -> Result<()> {
    let x = &f.tx()[0];
    let (len, dtype) = (x.shape.numel(), x.dtype);
    let pieces = len.div_ceil(PIECE);
    let partials = f.scratch(pieces.max(1) * (Word::Count as usize - Word::Sum as usize) * size_of::<f32>());
    let scale = if s.scale_at.is_some() { f.x(1) } else { Arg::Absent };
    let edges = Edges::new(s.format);
    let launch = |entry| {
        kernel("tensor_stats", entry)
            .dtype("X", dtype)
            .dtype("FORMAT", s.format)
            .set("SCALED", u32::from(s.scale_at.is_some()))
            .uniform("len", len)
            .uniform("pieces", pieces)
            .uniform("row", s.slot * WORDS)
            .uniform("scale_at", s.scale_at.unwrap_or(0))
            .uniform("zero", edges.zero as usize)
            .uniform("normal", edges.normal as usize)
            .uniform("max", edges.max as usize)
            .bind("stats", f.y(0))
    };
    let seeing = |entry| launch(entry).bind("x", f.x(0)).bind("scale", scale).groups(pieces);
    let launches = [
        launch("clear").done()?,
        seeing("counts").done()?,
        seeing("sums").bind("partials", partials).done()?,
        launch("total").bind("scale", scale).bind("partials", partials).done()?,
    ];
    launches.into_iter().for_each(|l| f.push(l));
    Ok(())
}

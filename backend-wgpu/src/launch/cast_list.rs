//! The casts of a group (see `MemoryPlan::cast_groups`) as one launch.

use super::builder::{Arg, Launch, kernel};
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::program::memory::{MemoryPlan, Place};
use mantissa_core::program::operands::Operands;
use mantissa_core::program::{Program, ValueId};

const WORD: usize = size_of::<u32>();
/// Elements of a block: four for each invocation of the stem.
const BLOCK: usize = 4 * 256;

/// The launch, and the two pieces of memory it works on: from the first original to the last, and all copies.
pub(super) fn cast_list(program: &Program, plan: &MemoryPlan, group: &[usize]) -> Result<(Operands, Launch)> {
    let place = |id: ValueId| plan.places[id.index()];
    let pairs: Vec<(Place, Place, usize, DType)> = group
        .iter()
        .filter_map(|&at| {
            let instr = &program.instrs[at];
            let to = program.ty(instr.outputs[0]);
            Some((place(instr.inputs[0])?, place(instr.outputs[0])?, to.shape.numel(), to.dtype))
        })
        .collect();
    let dtype = pairs[0].3;
    let (from, to) = (span(pairs.iter().map(|p| p.0)), span(pairs.iter().map(|p| p.1)));
    let mut blocks = Vec::new();
    for (x, y, n, _) in &pairs {
        for first in (0..*n).step_by(BLOCK) {
            let at = [(x.offset - from.offset) / WORD + first, (y.offset - to.offset + first * dtype.size_bytes()) / WORD];
            blocks.extend([at[0] as u32, at[1] as u32, (n - first).min(BLOCK) as u32]);
        }
    }
    let groups = blocks.len() / 3;
    let launch = kernel("cast_list", "cast_list").dtype("Y", dtype).uniform("blocks", groups);
    let launch = launch.bind("x", Arg::Piece(0)).table("blocks", blocks).bind("y", Arg::Piece(1)).groups(groups).done()?;
    Ok((Operands::at(vec![from, to]), launch))
}

/// The piece from the first byte of all to the last.
fn span(places: impl Iterator<Item = Place> + Clone) -> Place {
    let start = places.clone().map(|p| p.offset).min().unwrap_or(0);
    let end = places.clone().map(|p| p.offset + p.size).max().unwrap_or(0);
    let buffer = places.map(|p| p.buffer).next().unwrap_or(0);
    Place { buffer, offset: start, size: end - start }
}

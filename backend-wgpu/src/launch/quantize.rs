//! Launches of fp8 quantization and its scales.

use super::builder::{Arg, Frame, kernel};
use super::recorder::{Recorder, Work};
use mantissa_core::DType;
use mantissa_core::cpu::fp8_scale::range;
use mantissa_core::cpu::quantize_mx::Scaler;
use mantissa_core::error::Result;
use mantissa_core::op::quantize::{AmaxAlgo, MxRule, NonFiniteAmax, Quantize, QuantizeMx, Scaling, UpdateFp8Scales};
use mantissa_core::op::scale::{BlockAxis, MX_BLOCK};
use mantissa_core::program::Program;
use mantissa_core::program::memory::{MemoryPlan, Place};
use mantissa_core::program::operands::Operands;

const WORD: usize = size_of::<u32>();
/// Codes in a word.
const PACK: usize = 4;
/// Bytes of a row that a quantization stages its statistics in.
pub(super) const STATS_ROW_BYTES: usize = 8 * WORD;

/// The amax where the scale may come from it, then the cast.
pub(super) fn quantize(q: &Quantize, f: &mut Frame<'_>) -> Result<()> {
    // Invocations of a workgroup times the words each writes.
    const CONVERT: usize = 256 * 8;
    const MAX_BLOCKS: usize = 64;
    let x = &f.tx()[0];
    let (len, dtype) = (x.shape.numel(), x.dtype);
    let words = len.div_ceil(PACK);
    let (scaling, epsilon, power_of_two) = match q.scaling {
        Scaling::Delayed { warm_up } => (usize::from(warm_up && q.record), 0.0, false),
        Scaling::Current { amax_epsilon, power_of_two } => (2, amax_epsilon.f32(), power_of_two),
    };
    let delayed = q.plain_inputs() == 2;
    let history = delayed && q.record;
    let [rows, tensors] = if history { [f.tx()[2].shape[0], f.tx()[2].shape[1]] } else { [0; 2] };
    let blocks = if scaling == 0 { 1 } else { words.div_ceil(CONVERT).clamp(1, MAX_BLOCKS).next_multiple_of(4) };
    let block_amax = f.scratch(blocks * WORD);
    let scales = if delayed { f.x(1) } else { Arg::Absent };
    let history = if history { f.y(2) } else { Arg::Absent };
    let row = f.stats_row;
    let launch = |entry| {
        kernel("quantize", entry)
            .dtype("X", dtype)
            .dtype("Q", q.dtype)
            .set("SCALING", scaling as u32)
            .set("RECORD", u32::from(q.record))
            .uniform("len", len)
            .uniform("words", words)
            .uniform("blocks", blocks)
            .uniform("slot", q.slot)
            .uniform("row", row)
            .uniform("rows", rows)
            .uniform("tensors", tensors)
            .uniform_f32("max", q.dtype.max_f32())
            .uniform_f32("epsilon", epsilon)
            .uniform("power_of_two", usize::from(power_of_two))
            .uniform_f32("count", len.max(1) as f32)
            .bind("history", history)
    };
    if scaling != 0 {
        f.push(launch("amax").bind("x", f.x(0)).bind("block_amax", block_amax).groups(blocks).done()?);
    }
    let convert = launch("convert").bind("x", f.x(0)).bind("scales", scales).bind("block_amax_vec4", block_amax);
    let convert = convert.bind("q", f.y(0)).bind("scale_inv", f.y(1)).bind("staged_stats", staged_stats(q.record));
    f.push(convert.groups(words.div_ceil(CONVERT)).done()?);
    Ok(())
}

fn staged_stats(record: bool) -> Arg {
    if record { Arg::StagedStats } else { Arg::Absent }
}

/// One launch where the blocks share no word with others, else the scales of all blocks, then the cast.
pub(super) fn quantize_mx(q: &QuantizeMx, f: &mut Frame<'_>) -> Result<()> {
    // Invocations of a workgroup times the words each writes.
    const ROWS: usize = 64 * 8;
    let x = &f.tx()[0];
    let (len, columns, dtype) = (x.shape.numel(), x.shape.last(), x.dtype);
    let scales = &f.ty()[1].shape;
    let scaler = Scaler::new(q.dtype, q.rule);
    let by_columns = q.blocks == BlockAxis::SecondLast;
    let launch = |entry| {
        kernel("quantize_mx", entry)
            .dtype("X", dtype)
            .dtype("Q", q.dtype)
            .set("COLUMNS", u32::from(by_columns))
            .set("CEIL", u32::from(q.rule == MxRule::Ceil))
            .set("RECORD", u32::from(q.record))
            .uniform("len", len)
            .uniform("columns", columns)
            .uniform("scale_rows", scales[0])
            .uniform("scale_columns", scales[1])
            .uniform("row", f.stats_row)
            .uniform("max", scaler.max as usize)
            .uniform_f32("inv_max", scaler.inv_max)
            .uniform("emax", scaler.emax as usize)
            .uniform("normal_from", scaler.normal_from as usize)
            .uniform("zero_up_to", scaler.zero_up_to as usize)
            .uniform_f32("count", len.max(1) as f32)
            .bind("x", f.x(0))
            .bind("scale", f.y(1))
    };
    let cast = |entry| launch(entry).bind("q", f.y(0)).bind("staged_stats", staged_stats(q.record));
    let launches = if by_columns && columns.is_multiple_of(PACK) {
        vec![cast("columns").items(scales.numel() / PACK)]
    } else if !by_columns && columns.is_multiple_of(MX_BLOCK) {
        vec![cast("rows").groups(len.div_ceil(PACK).div_ceil(ROWS))]
    } else {
        vec![launch("scales").items(scales.numel().div_ceil(PACK)), cast("convert").items(len.div_ceil(PACK))]
    };
    for launch in launches {
        f.push(launch.done()?);
    }
    Ok(())
}

/// Copies staged amax and counts into the states of one recorder; a no-op for tensors that staged none.
pub(super) fn flush_stats(program: &Program, plan: &MemoryPlan, recorder: &Recorder) -> Result<Work> {
    let (stats, history) = recorder.states;
    let places: Vec<Place> = [Some(stats), history].into_iter().flatten().filter_map(|id| plan.places[id.index()]).collect();
    let tensors = program.ty(stats).shape[0];
    let launch = kernel("fp8_scale", "flush_stats")
        .set("DELAYED", u32::from(history.is_some()))
        .uniform("tensors", tensors)
        .uniform("rows", 0)
        .uniform("first", recorder.first_row)
        .bind("stats", Arg::Piece(0))
        .bind("history", history.map_or(Arg::Absent, |_| Arg::Piece(1)))
        .bind("staged_stats", Arg::StagedStats);
    let launch = launch.items(tensors).done()?;
    Ok((Operands::at(places), vec![launch]))
}

/// The next scales of a recipe.
pub(super) fn update_fp8_scales(u: &UpdateFp8Scales, f: &mut Frame<'_>) -> Result<()> {
    let tensors = u.formats.len();
    if tensors == 0 {
        return Ok(());
    }
    let range = |format: &DType| range(format.max_f32(), u.margin).to_bits();
    let launch = kernel("fp8_scale", "update_fp8_scales")
        .set("MOST_RECENT", u32::from(u.algo == AmaxAlgo::MostRecent))
        .set("IGNORE", u32::from(u.nonfinite == NonFiniteAmax::Ignore))
        .uniform("tensors", tensors)
        .uniform("rows", f.tx()[0].shape[0])
        .uniform("first", 0)
        .table("ranges", u.formats.iter().map(range).collect())
        .bind("history", f.y(0))
        .bind("scale", f.y(1))
        .bind("nonfinite", f.y(2));
    f.push(launch.items(tensors).done()?);
    Ok(())
}

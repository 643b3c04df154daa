//! Launches of fp8 quantization and its scales.

use super::{Arg, Frame, kernel};
use mantissa_core::DType;
use mantissa_core::cpu::fp8_scale::range;
use mantissa_core::cpu::quantize_mx::Scaler;
use mantissa_core::error::Result;
use mantissa_core::op::matmul::OperandScale;
use mantissa_core::op::quantize::{AmaxAlgo, MxRule, NonFiniteAmax, Quantize, QuantizeMx, Scaling, UpdateFp8Scales};

const WORD: usize = size_of::<u32>();
/// Codes in a word.
const PACK: usize = 4;
/// Words of the counts and the amax that a cast collects.
const SEEN: usize = 4;

/// The amax where the scale may come from it, the cast, the statistics.
pub(super) fn quantize(q: &Quantize, f: &mut Frame<'_>) -> Result<()> {
    // Invocations of a workgroup times the words each writes.
    const CONVERT: usize = 256 * 8;
    const MAX_TOPS: usize = 64;
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
    let tops = if scaling == 0 { 1 } else { words.div_ceil(CONVERT).clamp(1, MAX_TOPS).next_multiple_of(4) };
    let (top_memory, seen) = (f.scratch(tops * WORD), f.scratch(SEEN * WORD));
    let scales = if delayed { f.x(1) } else { Arg::Absent };
    let history = if history { f.y(2) } else { Arg::Absent };
    let launch = |entry| {
        kernel("quantize", entry)
            .dtype("X", dtype)
            .dtype("Q", q.dtype)
            .set("SCALING", scaling as u32)
            .set("RECORD", u32::from(q.record))
            .uniform("len", len)
            .uniform("words", words)
            .uniform("tops", tops)
            .uniform("slot", q.slot)
            .uniform("rows", rows)
            .uniform("tensors", tensors)
            .uniform_f32("max", q.dtype.max_f32())
            .uniform_f32("epsilon", epsilon)
            .uniform("power_of_two", usize::from(power_of_two))
            .uniform_f32("count", len.max(1) as f32)
            .bind("history", history)
            .bind("seen", seen)
    };
    if scaling != 0 || q.record {
        f.push(launch("amax").bind("x", f.x(0)).bind("tops", top_memory).groups(tops).done()?);
    }
    let convert = launch("convert").bind("x", f.x(0)).bind("scales", scales).bind("tops_seen", top_memory);
    let convert = convert.bind("q", f.y(0)).bind("scale_inv", f.y(1));
    f.push(convert.groups(words.div_ceil(CONVERT)).done()?);
    if q.record {
        let stats = f.y(if delayed { 3 } else { 2 });
        f.push(launch("finish").bind("scales", scales).bind("tops_seen", top_memory).bind("stats", stats).done()?);
    }
    Ok(())
}

/// The scales of all blocks, the cast, the statistics.
pub(super) fn quantize_mx(q: &QuantizeMx, f: &mut Frame<'_>) -> Result<()> {
    let x = &f.tx()[0];
    let (len, columns, dtype) = (x.shape.numel(), x.shape.last(), x.dtype);
    let scales = &f.ty()[1].shape;
    let scaler = Scaler::new(q.dtype, q.rule);
    let seen = f.scratch(SEEN * WORD);
    let launch = |entry| {
        kernel("quantize_mx", entry)
            .dtype("X", dtype)
            .dtype("Q", q.dtype)
            .set("COLUMNS", u32::from(q.blocks == OperandScale::Block32First))
            .set("CEIL", u32::from(q.rule == MxRule::Ceil))
            .set("RECORD", u32::from(q.record))
            .uniform("len", len)
            .uniform("columns", columns)
            .uniform("scale_rows", scales[0])
            .uniform("scale_columns", scales[1])
            .uniform("slot", q.slot)
            .uniform("max", scaler.max as usize)
            .uniform_f32("inv_max", scaler.inv_max)
            .uniform("emax", scaler.emax as usize)
            .uniform("normal_from", scaler.normal_from as usize)
            .uniform("zero_up_to", scaler.zero_up_to as usize)
            .uniform_f32("count", len.max(1) as f32)
            .bind("seen", seen)
    };
    f.push(launch("scales").bind("x", f.x(0)).bind("scale", f.y(1)).items(scales.numel().div_ceil(PACK)).done()?);
    f.push(launch("convert").bind("x", f.x(0)).bind("scale", f.y(1)).bind("q", f.y(0)).items(len.div_ceil(PACK)).done()?);
    if q.record {
        f.push(launch("finish").bind("stats", f.y(2)).done()?);
    }
    Ok(())
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
        .table("ranges", u.formats.iter().map(range).collect())
        .bind("history", f.y(0))
        .bind("scale", f.y(1))
        .bind("nonfinite", f.y(2));
    f.push(launch.items(tensors).done()?);
    Ok(())
}

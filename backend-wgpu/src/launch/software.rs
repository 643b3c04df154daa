//! Kernels that serve software adapters only (`wgsl/software/`): matmul over packed panels, and attention by subgroups
//! of eight lanes. Both are laid out for the vector units of a CPU, on which llvmpipe runs.
//!
//! Two more answers to that driver stand where they act: access to memory by words of 64 bits in the prelude of every
//! kernel (`mantissa_shaders::Vec8Access`), and the warm-up of new pipelines (`dispatch.rs`).

use super::builder::{Arg, Frame, kernel};
use super::operand::{scale_code, scale_stride, tf32, whole_vectors};
use mantissa_core::error::Result;
use mantissa_core::op::matmul::{Dims, MatMul};
use mantissa_core::op::scale::OperandScale;
use mantissa_core::program::operands::Operands;

/// Lanes of the subgroups that take panels.
pub(crate) const PANEL_LANES: u32 = 8;

/// Rows of a and columns of b in a panel.
pub(super) const PANEL: [usize; 2] = [32, 64];

/// Elements of a row of y that an invocation of `panel_tile` stores at once.
pub(super) const PANEL_STORE: usize = 8;

/// Stem of attention by subgroups, and the queries or keys that a workgroup of it owns.
pub(super) const ATTENTION: (&str, usize) = ("attention_subgroup", 8);

/// Most lanes of a subgroup on a software adapter: those of the widest CPU vector.
const MOST_LANES: u32 = 16;

/// Rows and columns of y from which on panels are worth packing: of f32, and of dtypes that are read faster in place.
const PANELS_FROM: usize = 128;
const NARROW_PANELS_FROM: usize = 768;

/// Lines and steps of k that an invocation of `pack` lays out.
const PACKED: [usize; 2] = [8, 4];

/// Whether subgroups of so many lanes are those of a CPU.
pub(super) fn is_cpu_width(lanes: u32) -> bool {
    lanes <= MOST_LANES
}

/// Whether a matmul is worth panels, none of more than `max_bytes`. Errs if its operands do not fit each other.
pub(crate) fn suits_panels(m: &MatMul, operands: &Operands, max_bytes: u64) -> Result<bool> {
    let [a, b] = [0, 1].map(|i| &operands.input_types[i]);
    let Dims { m: rows, n, .. } = m.dims(a, b)?;
    let from = if a.dtype.size_bytes() == size_of::<f32>() { PANELS_FROM } else { NARROW_PANELS_FROM };
    Ok(rows.min(n) >= from && panels_fit(m, operands, max_bytes)?)
}

/// Whether no panel of a matmul has more than `max_bytes`. Errs if its operands do not fit each other.
pub(crate) fn panels_fit(m: &MatMul, operands: &Operands, max_bytes: u64) -> Result<bool> {
    let Dims { batch, m: rows, n, k, .. } = m.dims(&operands.input_types[0], &operands.input_types[1])?;
    let steps = k.next_multiple_of(PACKED[1]);
    let bytes = |lines: usize, panel: usize| (batch * lines.next_multiple_of(panel) * steps * size_of::<f32>()) as u64;
    Ok(bytes(rows, PANEL[0]).max(bytes(n, PANEL[1])) <= max_bytes)
}

/// Packs operand `i` of a matmul into panels: where, and the elements of each of its matrices.
pub(super) fn pack(m: &MatMul, f: &mut Frame<'_>, i: usize) -> Result<(Arg, usize)> {
    let types = f.tx();
    let t = &types[i];
    let Dims { batch, m: rows, n, k, b_shared } = m.dims(&types[0], &types[1])?;
    let (lines, by_k) = if i == 0 { (rows, m.trans_a) } else { (n, !m.trans_b) };
    let batch = if i == 1 && b_shared { 1 } else { batch };
    let (padded, fours) = (lines.next_multiple_of(PANEL[i]), k.div_ceil(PACKED[1]));
    let blocks = padded / PACKED[0];
    let elements = padded * fours * PACKED[1];
    let to = f.scratch(batch * elements * size_of::<f32>());
    // A scale of the whole operand is for the finished sums.
    let scale = match m.scales[i] {
        OperandScale::None | OperandScale::Tensor => OperandScale::None,
        block @ OperandScale::Blocks(_) => block,
    };
    let of_scale = if scale == OperandScale::None { Arg::Absent } else { m.scale_input(i).map_or(Arg::Absent, |i| f.x(i)) };
    let launch = kernel("matmul_pack", "pack")
        .dtype("X", t.dtype)
        .set("BY_K", u32::from(by_k))
        .set("SCALE", scale_code(scale))
        .set("TF32_INPUTS", tf32(m, t))
        .set("WHOLE", u32::from(whole_vectors(t)))
        .set("LINES", PANEL[i] as u32)
        .uniform("lines", lines)
        .uniform("k", k)
        .uniform("blocks", blocks)
        .uniform("fours", fours)
        .uniform("batch", batch)
        .uniform("x_stride", lines * k)
        .uniform("scale_stride", scale_stride(m, i, t, batch))
        .bind("x", f.x(i))
        .bind("scale", of_scale)
        .bind("y", to)
        .items(batch * blocks * fours);
    f.push(launch.done()?);
    Ok((to, elements))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::DType;
    use mantissa_core::shape::Ty;

    #[test]
    fn panels_are_for_large_matmuls_whose_panels_fit() {
        let suits = |dtype: DType, [m, n, k]: [usize; 3], max_bytes: u64| {
            let input_types = vec![Ty::new(dtype, [m, k]), Ty::new(dtype, [k, n])];
            let operands = Operands { input_types, ..Operands::at(Vec::new()) };
            suits_panels(&MatMul::new(false, false, DType::F32), &operands, max_bytes).expect("the sizes agree")
        };
        let least = PANELS_FROM;
        assert!(suits(DType::F32, [least, least, 30], u64::MAX));
        assert!(!suits(DType::F32, [least - 1, least, 30], u64::MAX) && !suits(DType::F32, [least, least - 1, 30], u64::MAX));
        assert!(!suits(DType::Bf16, [least, least, 30], u64::MAX));
        // Steps of k are padded to a multiple of four, whatever the dtype in f32.
        let least = NARROW_PANELS_FROM;
        let bytes = (least * 32 * size_of::<f32>()) as u64;
        assert!(suits(DType::E4m3, [least, least, 30], bytes) && !suits(DType::E4m3, [least, least, 30], bytes - 1));
    }
}

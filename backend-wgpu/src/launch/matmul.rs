//! Launches of matrix products.

use super::{Arg, Frame, kernel};
use crate::adapter::Products;
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::op::matmul::{Activation, Dims, Epilogue, MatMul};
use mantissa_core::op::scale::{OperandScale, scale_type};
use mantissa_core::program::operands::Operands;
use mantissa_core::shape::Ty;

/// Bytes of the vectors that kernels load.
const VECTOR: usize = 16;

/// Rows and columns of y that an invocation of `tile` and of `edge` owns, and invocations of a workgroup along each.
const TILE: [usize; 2] = [8, 16];
const EDGE: [usize; 2] = [4, 4];
const LANES: [usize; 2] = [2, 8];

/// Rows and columns of y that a workgroup of `shared_tile` owns.
const SHARED_TILE: [usize; 2] = [64, 64];

/// Rows of y that a subgroup owns.
const SUBGROUP_ROWS: usize = 32;

/// Rows of a and columns of b in a panel, and lanes of the subgroups that take panels.
const PANEL: [usize; 2] = [32, 64];
pub(crate) const PANEL_LANES: u32 = 8;

/// Elements of a row of y that an invocation of `panel_tile` stores at once.
const PANEL_EIGHT: usize = 8;

/// Rows and columns of y from which on panels are worth laying out: of f32, and of what is read faster as it lies.
const PANELS_FROM: usize = 128;
const NARROW_PANELS_FROM: usize = 768;

/// Lines and steps of k that an invocation of `pack` lays out.
const PACKED: [usize; 2] = [8, 4];

/// Most lanes of a subgroup on a software adapter: those of the widest CPU vector.
const SOFTWARE_LANES: u32 = 16;

/// Workgroups of `shared_tile` that keep a GPU busy, and the least part of a contraction worth a second dispatch.
const BUSY: usize = 128;
const LEAST_PART: usize = 4096;

/// Terms that one pass adds up; lavapipe ends a loop after 65535 rounds.
const LONGEST: usize = 1 << 15;

/// The kernels of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Tiles in registers; stored rows are whole vectors.
    Tile,
    /// As `Tile`, for rows that are not.
    Edge,
    /// Tiles in workgroup memory.
    Shared,
    /// Tiles of subgroups of so many lanes, each of which owns so many quads of columns.
    Subgroup { lanes: u32, quads: u32 },
    /// Tiles of subgroups, of operands that are laid out in panels first.
    Panels,
}

impl Form {
    fn of(products: Products, m: &MatMul, operands: [&Ty; 2], columns: usize) -> Form {
        // An invocation that takes panels stores eights of a row.
        let panels = columns.is_multiple_of(PANEL_EIGHT);
        let products = if products == Products::Panels && !panels { Products::Subgroups(PANEL_LANES) } else { products };
        match (products, operands.into_iter().all(whole_vectors)) {
            (Products::WorkgroupMemory, _) => Form::Shared,
            (Products::Registers, false) => Form::Edge,
            (Products::Registers, true) => Form::Tile,
            (Products::Panels, _) => Form::Panels,
            // Columns stored along k are read one by one; more of them meet in the same sets of a cache. Elsewhere lanes are few on software
            // adapters only, where registers that do not suffice are cheap.
            (Products::Subgroups(lanes), _) => {
                Form::Subgroup { lanes, quads: if m.trans_b || lanes > SOFTWARE_LANES { 1 } else { 2 } }
            }
        }
    }

    /// Stem and entry point.
    fn kernel(self) -> (&'static str, &'static str) {
        match self {
            Form::Tile => ("matmul", "tile"),
            Form::Edge => ("matmul", "edge"),
            Form::Shared => ("matmul_shared", "shared_tile"),
            Form::Subgroup { .. } => ("matmul_subgroup", "subgroup_tile"),
            Form::Panels => ("matmul_panels", "panel_tile"),
        }
    }

    /// Rows and columns of y that a workgroup owns.
    fn owned(self) -> [usize; 2] {
        match self {
            Form::Tile => [TILE[0] * LANES[0], TILE[1] * LANES[1]],
            Form::Edge => [EDGE[0] * LANES[0], EDGE[1] * LANES[1]],
            Form::Shared => SHARED_TILE,
            Form::Subgroup { lanes, quads } => [SUBGROUP_ROWS, (lanes * subgroups_of(lanes) * quads * 4) as usize],
            Form::Panels => PANEL,
        }
    }
}

/// Subgroups of a workgroup: nothing is shared among them, but a GPU wants workgroups of some size.
fn subgroups_of(lanes: u32) -> u32 {
    if lanes > SOFTWARE_LANES { 4 } else { 1 }
}

/// Whether a product is worth panels, none of more than `max_bytes`.
pub(crate) fn suits_panels(m: &MatMul, operands: &Operands, max_bytes: u64) -> Result<bool> {
    let [a, b] = [0, 1].map(|i| &operands.input_types[i]);
    let Dims { m: rows, n, .. } = m.dims(a, b)?;
    let from = if a.dtype.size_bytes() == size_of::<f32>() { PANELS_FROM } else { NARROW_PANELS_FROM };
    Ok(rows.min(n) >= from && panels_fit(m, operands, max_bytes)?)
}

/// Whether no panel of a product has more than `max_bytes`.
pub(crate) fn panels_fit(m: &MatMul, operands: &Operands, max_bytes: u64) -> Result<bool> {
    let Dims { batch, m: rows, n, k, .. } = m.dims(&operands.input_types[0], &operands.input_types[1])?;
    let steps = k.next_multiple_of(PACKED[1]);
    let bytes = |lines: usize, panel: usize| (batch * lines.next_multiple_of(panel) * steps * size_of::<f32>()) as u64;
    Ok(bytes(rows, PANEL[0]).max(bytes(n, PANEL[1])) <= max_bytes)
}

/// `y = a b`, whatever the layouts and dtypes.
pub(super) fn matmul(m: &MatMul, f: &mut Frame<'_>) -> Result<()> {
    let (types, out) = (f.tx(), f.ty()[0].dtype);
    let (a, b) = (&types[0], &types[1]);
    let Dims { batch, m: rows, n, k, b_shared } = m.dims(a, b)?;
    let form = Form::of(f.facts.products, m, [a, b], n);
    let owned = form.owned();
    let tiles = [rows.div_ceil(owned[0]), n.div_ceil(owned[1])];
    // Few tiles with long contractions, as those of weight gradients, leave a GPU idle; a software adapter has few threads to fill.
    let idle = BUSY / (tiles[0] * tiles[1] * batch).max(1);
    let for_speed = if form == Form::Shared { idle.min(k / LEAST_PART) } else { 1 };
    let splits = k.div_ceil(LONGEST).max(for_speed).max(1);
    // A word of y must not hold elements of two rows, which are those of two invocations.
    let partial = splits > 1 || !n.is_multiple_of(per_word(out));
    let optional = |i: Option<usize>| i.map_or(Arg::Absent, |i| f.x(i));
    let (scale_a, scale_b, bias) = (optional(m.scale_input(0)), optional(m.scale_input(1)), optional(m.bias_input()));
    let [x, w, y] = [f.x(0), f.x(1), f.y(0)];
    let activation = match m.epilogue {
        Epilogue::None | Epilogue::Add => 0,
        Epilogue::Activation(Activation::Relu) => 1,
        Epilogue::Activation(Activation::GeluTanh) => 2,
        Epilogue::Activation(Activation::GeluErf) => 3,
        Epilogue::Activation(Activation::Silu) => 4,
    };
    // Nothing, an operand of its own, or what the output holds.
    let (add, addend) = match m.addend_input().map(|i| f.x(i)) {
        None => (0, Arg::Absent),
        Some(own) if own == y => (2, Arg::Absent),
        Some(other) => (1, other),
    };
    let panels = match form {
        Form::Panels => Some([pack(m, f, 0)?, pack(m, f, 1)?]),
        Form::Tile | Form::Edge | Form::Shared | Form::Subgroup { .. } => None,
    };
    let stored = panels.map_or([rows * k, k * n], |p| p.map(|(_, elements)| elements));
    let common = |(stem, entry)| {
        kernel(stem, entry)
            .dtype("Y", out)
            .dtype("BIAS", m.bias_input().map_or(DType::F32, |i| types[i].dtype))
            .dtype("ROUND", m.round.unwrap_or(DType::F32))
            .set("SCALE_A", scale_code(m.scales[0]))
            .set("SCALE_B", scale_code(m.scales[1]))
            .set("HAS_BIAS", u32::from(m.bias))
            .set("ACTIVATION", activation)
            .set("ADD", add)
            .dtype("ADDEND", m.addend_input().map_or(DType::F32, |i| types[i].dtype))
            .uniform("m", rows)
            .uniform("n", n)
            .uniform("k", k)
            .uniform("tiles_m", tiles[0])
            .uniform("tiles_n", tiles[1])
            .uniform("batch", batch)
            .uniform("splits", splits)
            .uniform("split_k", k.div_ceil(splits).next_multiple_of(VECTOR))
            .uniform("a_stride", stored[0])
            .uniform("b_stride", if b_shared { 0 } else { stored[1] })
            .uniform("scale_a_stride", scale_stride(m, 0, a, batch))
            .uniform("scale_b_stride", if b_shared { 0 } else { scale_stride(m, 1, b, batch) })
            .bind("scale_a", scale_a)
            .bind("scale_b", scale_b)
            .bind("bias", bias)
    };
    let sums = if partial { f.scratch(splits * batch * rows * n * size_of::<f32>()) } else { Arg::Absent };
    let product = common(form.kernel()).set("PARTIAL", u32::from(partial)).groups(tiles[0] * tiles[1] * batch * splits);
    let to = if partial { sums } else { y };
    let product = match panels {
        Some([(a, _), (b, _)]) => {
            product.bind("panels_a", a).bind("panels_b", b).bind("words_y", to).bind("words_addend", addend)
        }
        None => product
            .dtype("A", a.dtype)
            .dtype("B", b.dtype)
            .set("TRANS_A", u32::from(m.trans_a))
            .set("TRANS_B", u32::from(m.trans_b))
            .set("TF32_INPUTS", tf32(m, a))
            .bind("a", x)
            .bind("b", w)
            .bind("y", to)
            .bind("addend", addend),
    };
    let tail = u32::from(!k.is_multiple_of(4));
    let product = match form {
        Form::Panels => product,
        Form::Shared => product.set("QUAD_A", whole_fours(a)).set("QUAD_B", whole_fours(b)),
        Form::Tile | Form::Edge => product.set("TAIL", tail).set("LANES_M", LANES[0] as u32).set("LANES_N", LANES[1] as u32),
        Form::Subgroup { lanes, quads } => product
            .set("TAIL", tail)
            .set("SUBGROUP", lanes)
            .set("SUBGROUPS", subgroups_of(lanes))
            .set("QUADS_N", quads)
            .set("WHOLE_A", u32::from(whole_vectors(a)))
            .set("WHOLE_B", u32::from(whole_vectors(b))),
    };
    f.push(product.done()?);
    if partial {
        let words = (batch * rows * n).div_ceil(per_word(out));
        f.push(common(("matmul", "finish")).bind("sums", sums).bind("y", y).bind("addend", addend).items(words).done()?);
    }
    Ok(())
}

/// Lays operand `i` of a product out in panels: where, and the elements of each of its matrices.
fn pack(m: &MatMul, f: &mut Frame<'_>, i: usize) -> Result<(Arg, usize)> {
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
        block @ (OperandScale::Block32Last | OperandScale::Block32First) => block,
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

/// Scales of one of `batch` matrices of operand `i`, if it has them by blocks.
fn scale_stride(m: &MatMul, i: usize, t: &Ty, batch: usize) -> usize {
    match m.scales[i] {
        OperandScale::None | OperandScale::Tensor => 0,
        OperandScale::Block32Last | OperandScale::Block32First => scale_type(m.scales[i], t).shape.numel() / batch.max(1),
    }
}

/// Whether the kernel rounds elements of this operand to tf32.
fn tf32(m: &MatMul, t: &Ty) -> u32 {
    u32::from(m.compute == DType::Tf32 && t.dtype == DType::F32)
}

/// Elements of a packed word.
pub(super) fn per_word(dtype: DType) -> usize {
    size_of::<u32>() / dtype.size_bytes()
}

/// Every row of the stored matrices starts at a vector.
fn whole_vectors(t: &Ty) -> bool {
    (t.shape.last() * t.dtype.size_bytes()).is_multiple_of(VECTOR)
}

/// Every row of the stored matrices is fours of elements.
fn whole_fours(t: &Ty) -> u32 {
    u32::from(t.shape.last().is_multiple_of(4))
}

fn scale_code(s: OperandScale) -> u32 {
    match s {
        OperandScale::None => 0,
        OperandScale::Tensor => 1,
        OperandScale::Block32Last => 2,
        OperandScale::Block32First => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_for_products_large_enough_whose_panels_fit() {
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

//! Launches of matrix products.

use super::{Arg, Frame, kernel};
use crate::adapter::Products;
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::op::matmul::{Activation, Dims, Epilogue, MatMul, OperandScale, scale_type};
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
}

impl Form {
    fn of(products: Products, m: &MatMul, operands: [&Ty; 2]) -> Form {
        match (products, operands.into_iter().all(whole_vectors)) {
            (Products::WorkgroupMemory, _) => Form::Shared,
            (Products::Registers, false) => Form::Edge,
            (Products::Registers, true) => Form::Tile,
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
        }
    }

    /// Rows and columns of y that a workgroup owns.
    fn owned(self) -> [usize; 2] {
        match self {
            Form::Tile => [TILE[0] * LANES[0], TILE[1] * LANES[1]],
            Form::Edge => [EDGE[0] * LANES[0], EDGE[1] * LANES[1]],
            Form::Shared => SHARED_TILE,
            Form::Subgroup { lanes, quads } => [SUBGROUP_ROWS, (lanes * subgroups_of(lanes) * quads * 4) as usize],
        }
    }
}

/// Subgroups of a workgroup: nothing is shared among them, but a GPU wants workgroups of some size.
fn subgroups_of(lanes: u32) -> u32 {
    if lanes > SOFTWARE_LANES { 4 } else { 1 }
}

/// `y = a b`, whatever the layouts and dtypes.
pub(super) fn matmul(m: &MatMul, f: &mut Frame<'_>) -> Result<()> {
    let (types, out) = (f.tx(), f.ty()[0].dtype);
    let (a, b) = (&types[0], &types[1]);
    let Dims { batch, m: rows, n, k, b_shared } = m.dims(a, b)?;
    let form = Form::of(f.facts.products, m, [a, b]);
    let owned = form.owned();
    let tiles = [rows.div_ceil(owned[0]), n.div_ceil(owned[1])];
    // Few tiles with long contractions, as those of weight gradients, leave a GPU idle; a software adapter has few threads to fill.
    let idle = BUSY / (tiles[0] * tiles[1] * batch).max(1);
    let for_speed = if form == Form::Shared { idle.min(k / LEAST_PART) } else { 1 };
    let splits = k.div_ceil(LONGEST).max(for_speed).max(1);
    // A word of y must not hold elements of two rows, which are those of two invocations.
    let partial = splits > 1 || !n.is_multiple_of(per_word(out));
    let scale_stride = |i: usize, t: &Ty, shared: bool| match m.scales[i] {
        OperandScale::None | OperandScale::Tensor => 0,
        OperandScale::Block32Last | OperandScale::Block32First if shared => 0,
        OperandScale::Block32Last | OperandScale::Block32First => scale_type(m.scales[i], t).shape.numel() / batch.max(1),
    };
    let optional = |i: Option<usize>| i.map_or(Arg::Absent, |i| f.x(i));
    let (scale_a, scale_b, bias) = (optional(m.scale_input(0)), optional(m.scale_input(1)), optional(m.bias_input()));
    let [x, w, y] = [f.x(0), f.x(1), f.y(0)];
    let activation = match m.epilogue {
        Epilogue::Activation(a) => 1 + Activation::ALL.iter().position(|&b| a == b).unwrap_or(0) as u32,
        Epilogue::None | Epilogue::Add => 0,
    };
    // Nothing, an operand of its own, or what the output holds.
    let (add, addend) = match m.addend_input().map(|i| f.x(i)) {
        None => (0, Arg::Absent),
        Some(own) if own == y => (2, Arg::Absent),
        Some(other) => (1, other),
    };
    let common = |(stem, entry)| {
        kernel(stem, entry)
            .dtype("A", a.dtype)
            .dtype("B", b.dtype)
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
            .uniform("a_stride", rows * k)
            .uniform("b_stride", if b_shared { 0 } else { k * n })
            .uniform("scale_a_stride", scale_stride(0, a, false))
            .uniform("scale_b_stride", scale_stride(1, b, b_shared))
            .bind("scale_a", scale_a)
            .bind("scale_b", scale_b)
            .bind("bias", bias)
            .bind("addend", addend)
    };
    let sums = if partial { f.scratch(splits * batch * rows * n * size_of::<f32>()) } else { Arg::Absent };
    let product = common(form.kernel())
        .set("TRANS_A", u32::from(m.trans_a))
        .set("TRANS_B", u32::from(m.trans_b))
        .set("TF32_INPUTS", u32::from(m.compute == DType::Tf32 && a.dtype == DType::F32))
        .set("PARTIAL", u32::from(partial))
        .bind("a", x)
        .bind("b", w)
        .bind("y", if partial { sums } else { y })
        .groups(tiles[0] * tiles[1] * batch * splits);
    let tail = u32::from(!k.is_multiple_of(4));
    let product = match form {
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
        f.push(common(("matmul", "finish")).bind("sums", sums).bind("y", y).items(words).done()?);
    }
    Ok(())
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

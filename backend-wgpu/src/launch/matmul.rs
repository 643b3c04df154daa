//! Launches of a matmul.

use super::builder::{Arg, Frame, kernel};
use super::kernel_choice::MatmulKernel;
use super::operand::{VECTOR, per_word, scale_code, scale_stride, tf32, whole_vec4s, whole_vectors};
use super::software;
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::op::matmul::{Activation, Dims, Epilogue, MatMul};
use mantissa_core::shape::Ty;

/// Rows and columns of y that an invocation of `tile` and of `edge` owns, and invocations of a workgroup along each.
const TILE: [usize; 2] = [8, 16];
const EDGE: [usize; 2] = [4, 4];
const LANES: [usize; 2] = [2, 8];

/// Rows and columns of y that a workgroup of `shared_tile` owns.
const SHARED_TILE: [usize; 2] = [64, 64];

/// Rows of y that a subgroup owns.
const SUBGROUP_ROWS: usize = 32;

/// Workgroups of `shared_tile` that keep a GPU busy, and the least part of a contraction worth a second dispatch.
const BUSY: usize = 128;
const LEAST_PART: usize = 4096;

/// Terms that one pass adds up; lavapipe ends a loop after 65535 rounds.
const LONGEST: usize = 1 << 15;

/// The entry point that computes a matmul.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Tiles in registers; stored rows are whole vectors.
    Tile,
    /// As `Tile`, for rows that are not.
    Edge,
    /// Tiles in workgroup memory.
    Shared,
    /// Tiles of subgroups of so many lanes, each of which owns so many vec4s of columns.
    Subgroup { lanes: u32, vec4s: u32 },
    /// Tiles of subgroups, of operands that are packed into panels first.
    Panels,
}

impl Form {
    fn of(kernel: MatmulKernel, m: &MatMul, operands: [&Ty; 2], columns: usize) -> Form {
        match (kernel, operands.into_iter().all(whole_vectors)) {
            (MatmulKernel::WorkgroupMemory, _) => Form::Shared,
            (MatmulKernel::Registers, false) => Form::Edge,
            (MatmulKernel::Registers, true) => Form::Tile,
            (MatmulKernel::Panels, _) if columns.is_multiple_of(software::PANEL_STORE) => Form::Panels,
            (MatmulKernel::Panels, _) => Form::subgroup(software::PANEL_LANES, m),
            (MatmulKernel::Subgroups(lanes), _) => Form::subgroup(lanes, m),
        }
    }

    /// Columns stored along k are read one by one, and more of them meet in the same sets of a cache. So a lane owns
    /// two vec4s only where they are stored otherwise, on a CPU, where registers that do not suffice are cheap.
    fn subgroup(lanes: u32, m: &MatMul) -> Form {
        Form::Subgroup { lanes, vec4s: if m.trans_b || !software::is_cpu_width(lanes) { 1 } else { 2 } }
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
            Form::Subgroup { lanes, vec4s } => [SUBGROUP_ROWS, (lanes * subgroups_of(lanes) * vec4s * 4) as usize],
            Form::Panels => software::PANEL,
        }
    }
}

/// Subgroups of a workgroup: they share nothing, but a GPU wants workgroups of some size.
fn subgroups_of(lanes: u32) -> u32 {
    if software::is_cpu_width(lanes) { 1 } else { 4 }
}

/// `y = a b` in any layouts and dtypes.
pub(super) fn matmul(m: &MatMul, f: &mut Frame<'_>) -> Result<()> {
    let (types, out) = (f.tx(), f.ty()[0].dtype);
    let (a, b) = (&types[0], &types[1]);
    let Dims { batch, m: rows, n, k, b_shared } = m.dims(a, b)?;
    let form = Form::of(f.limits.matmul, m, [a, b], n);
    let owned = form.owned();
    let tiles = [rows.div_ceil(owned[0]), n.div_ceil(owned[1])];
    // Few tiles with long contractions, as those of weight gradients, leave a GPU idle. A software adapter has few
    // threads to fill.
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
    // Nothing, a separate operand, or the contents of the output.
    let (add, addend) = match m.addend_input().map(|i| f.x(i)) {
        None => (0, Arg::Absent),
        Some(addend) if addend == y => (2, Arg::Absent),
        Some(addend) => (1, addend),
    };
    let panels = match form {
        Form::Panels => Some([software::pack(m, f, 0)?, software::pack(m, f, 1)?]),
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
    let launch = common(form.kernel()).set("PARTIAL", u32::from(partial)).groups(tiles[0] * tiles[1] * batch * splits);
    let to = if partial { sums } else { y };
    let launch = match panels {
        Some([(a, _), (b, _)]) => {
            launch.bind("panels_a", a).bind("panels_b", b).bind("words_y", to).bind("words_addend", addend)
        }
        None => launch
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
    let launch = match form {
        Form::Panels => launch,
        Form::Shared => launch.set("VEC4_A", whole_vec4s(a)).set("VEC4_B", whole_vec4s(b)),
        Form::Tile | Form::Edge => launch.set("TAIL", tail).set("LANES_M", LANES[0] as u32).set("LANES_N", LANES[1] as u32),
        Form::Subgroup { lanes, vec4s } => launch
            .set("TAIL", tail)
            .set("SUBGROUP", lanes)
            .set("SUBGROUPS", subgroups_of(lanes))
            .set("VEC4S_N", vec4s)
            .set("WHOLE_A", u32::from(whole_vectors(a)))
            .set("WHOLE_B", u32::from(whole_vectors(b))),
    };
    f.push(launch.done()?);
    if partial {
        let words = (batch * rows * n).div_ceil(per_word(out));
        f.push(common(("matmul", "finish")).bind("sums", sums).bind("y", y).bind("addend", addend).items(words).done()?);
    }
    Ok(())
}

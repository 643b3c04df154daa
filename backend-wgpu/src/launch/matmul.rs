//! Launches of matrix products.

use super::{Arg, Builder, Frame, kernel};
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::op::matmul::{Dims, MatMul, OperandScale, scale_type};
use mantissa_core::shape::Ty;

/// Bytes of the vectors that kernels load.
const VECTOR: usize = 16;

/// What one invocation and one workgroup own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    /// Rows and columns of an invocation.
    pub(crate) own: [u32; 2],
    /// Invocations of a workgroup along rows and columns.
    pub(crate) lanes: [u32; 2],
}

/// `y = a b`, whatever the layouts and dtypes.
pub(super) fn matmul(m: &MatMul, f: &mut Frame<'_>) -> Result<()> {
    let types = f.tx();
    let [a, b] = [&types[0], &types[1]];
    let Dims { batch, m: rows, n, k, b_shared } = m.dims(a, b)?;
    let tile = Tile { own: [8, 16], lanes: [8, 8] };
    let splits = 1;
    let out = f.ty()[0].dtype;
    // A word of y must not hold elements of two rows: those of two invocations.
    let whole_words = n.is_multiple_of(per_word(out));
    let partial = splits > 1 || !whole_words;
    let split_k = k.div_ceil(splits).next_multiple_of(4);
    let tiles = [rows.div_ceil((tile.own[0] * tile.lanes[0]) as usize), n.div_ceil((tile.own[1] * tile.lanes[1]) as usize)];
    let scale_stride = |i: usize, t: &Ty, shared: bool| match m.scales[i] {
        OperandScale::Block32Last | OperandScale::Block32First if !shared => {
            scale_type(m.scales[i], t).shape.numel() / batch.max(1)
        }
        _ => 0,
    };
    let common = |b_: Builder| -> Builder {
        b_.dtype("A", a.dtype)
            .dtype("B", b.dtype)
            .dtype("Y", out)
            .set("SCALE_A", scale_code(m.scales[0]))
            .set("SCALE_B", scale_code(m.scales[1]))
            .dtype("ROUND", m.round.unwrap_or(DType::F32))
            .set("HAS_BIAS", u32::from(m.bias))
            .uniform("m", rows)
            .uniform("n", n)
            .uniform("k", k)
            .uniform("tiles_m", tiles[0])
            .uniform("tiles_n", tiles[1])
            .uniform("batch", batch)
            .uniform("splits", splits)
            .uniform("split_k", split_k)
            .uniform("a_stride", rows * k)
            .uniform("b_stride", if b_shared { 0 } else { k * n })
            .uniform("scale_a_stride", scale_stride(0, a, false))
            .uniform("scale_b_stride", scale_stride(1, b, b_shared))
    };
    let bias = m.bias_input();
    let with_bias = |b_: Builder| match bias {
        Some(i) => b_.dtype("BIAS", types[i].dtype),
        None => b_,
    };
    let operand = |i: Option<usize>, f: &Frame<'_>| i.map_or(Arg::Absent, |i| f.x(i));
    let (scale_a, scale_b, bias_arg) = (operand(m.scale_input(0), f), operand(m.scale_input(1), f), operand(bias, f));
    let sums = if partial { f.scratch(splits * batch * rows * n * size_of::<f32>()) } else { Arg::Absent };
    let flag = |name, on: bool| move |b_: Builder| b_.set(name, u32::from(on));
    let mut launch = with_bias(common(kernel("matmul", "tile")))
        .set("TM", tile.own[0])
        .set("TN", tile.own[1])
        .set("LANES_M", tile.lanes[0])
        .set("LANES_N", tile.lanes[1])
        .bind("a", f.x(0))
        .bind("b", f.x(1))
        .bind("scale_a", scale_a)
        .bind("scale_b", scale_b)
        .bind("bias", bias_arg)
        .bind("y", if partial { sums } else { f.y(0) })
        .groups(tiles[0] * tiles[1] * batch * splits);
    launch = flag("TRANS_A", m.trans_a)(launch);
    launch = flag("TRANS_B", m.trans_b)(launch);
    launch = flag("TF32_INPUTS", m.compute == DType::Tf32 && a.dtype == DType::F32)(launch);
    launch = flag("QUAD_A", whole_vectors(a))(launch);
    launch = flag("QUAD_B", whole_vectors(b))(launch);
    launch = flag("TAIL", !k.is_multiple_of(4))(launch);
    launch = flag("PARTIAL", partial)(launch);
    f.push(launch.done()?);
    if partial {
        let words = (batch * rows * n).div_ceil(per_word(out));
        let finish = with_bias(common(kernel("matmul", "finish")))
            .bind("scale_a", scale_a)
            .bind("scale_b", scale_b)
            .bind("bias", bias_arg)
            .bind("sums", sums)
            .bind("y", f.y(0))
            .items(words);
        f.push(finish.done()?);
    }
    Ok(())
}

/// Elements of a packed word.
fn per_word(dtype: DType) -> usize {
    size_of::<u32>() / dtype.size_bytes()
}

/// Every row of the stored matrices starts at a vector.
fn whole_vectors(t: &Ty) -> bool {
    (t.shape.last() * t.dtype.size_bytes()).is_multiple_of(VECTOR)
}

fn scale_code(s: OperandScale) -> u32 {
    match s {
        OperandScale::None => 0,
        OperandScale::Tensor => 1,
        OperandScale::Block32Last => 2,
        OperandScale::Block32First => 3,
    }
}

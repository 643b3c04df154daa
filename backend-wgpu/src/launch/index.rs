//! Launches that look elements up by index, and scatter their gradients back.

use super::builder::{Arg, Builder, Frame, kernel};
use super::unit::Unit;
use mantissa_core::DType;
use mantissa_core::error::Result;
use mantissa_core::float::slices;
use mantissa_core::shape::Ty;

const WORD: usize = size_of::<u32>();
/// Invocations of a workgroup of these kernels.
const GROUP: usize = 64;

/// Rows of a table by id.
pub(super) fn embedding(f: &mut Frame<'_>) -> Result<()> {
    let table = &f.tx()[0];
    let unit = Unit::of(table.dtype, [table.shape.last()].into_iter());
    let (c, n) = (table.shape.last() / unit.size, f.ty()[0].shape.numel() / unit.size);
    if n == 0 {
        return Ok(());
    }
    let launch = kernel("embedding", "embedding").uniform("v", table.shape.rows()).uniform("c", c);
    let launch = launch.uniform("nan", nan(table.dtype, unit.size)).bind("table", f.x(0)).bind("ids", f.x(1));
    f.push(unit.items(launch.bind("y", f.y(0)), n, GROUP).done()?);
    Ok(())
}

/// Code of NaN, `count` times in a word.
fn nan(dtype: DType, count: usize) -> usize {
    let mut word = [0; WORD];
    let size = dtype.size_bytes();
    slices::encode(dtype, dtype.overflow(), &vec![f32::NAN; count], &mut word[..count * size]);
    u32::from_le_bytes(word) as usize
}

/// Rows of gradient added up by id: positions of equal ids are chained, then each element of the table walks its chain.
pub(super) fn embedding_backward(f: &mut Frame<'_>) -> Result<()> {
    let (ids, dy) = (f.tx()[0].shape.numel(), &f.tx()[1]);
    let (v, c) = (f.ty()[0].shape.rows(), f.ty()[0].shape.last());
    if v * c == 0 {
        return Ok(());
    }
    let chain = f.scratch((v + ids) * WORD);
    let sizes = |stem: Builder, n: usize| stem.uniform("n", n).uniform("v", v).uniform("c", c).uniform("nan", 0);
    let link = sizes(kernel("embedding", "link"), ids).bind("ids", f.x(0)).bind("links", chain);
    f.push(link.groups((v + ids).div_ceil(GROUP)).done()?);
    let sum = sizes(kernel("embedding", "embedding_backward").dtype("X", dy.dtype), v * c);
    let sum = sum.bind("dy", f.x(1)).bind("chain", chain).bind("dtable", f.y(0));
    f.push(sum.groups((v * c).div_ceil(GROUP)).done()?);
    Ok(())
}

/// Elements of the last axis by index.
pub(super) fn gather(f: &mut Frame<'_>) -> Result<()> {
    gather_from(f, f.x(1), f.tx()[0].shape.last(), f.tx()[1].clone())
}

/// `y = x[.., ids]` over rows of `c`, where `ids` has this type.
fn gather_from(f: &mut Frame<'_>, ids: Arg, c: usize, ty: Ty) -> Result<()> {
    let x = &f.tx()[0];
    let launch = kernel("gather", "gather").bind("x", f.x(0)).bind("ids", ids).bind("y", f.y(0));
    words(f, launch, x.dtype, ty.shape.numel(), c, ty.shape.last())
}

/// The gradient of [`gather`].
pub(super) fn gather_backward(f: &mut Frame<'_>) -> Result<()> {
    let (dy, dx) = (&f.tx()[1], &f.ty()[0]);
    let launch = kernel("gather", "gather_backward").bind("ids", f.x(0)).bind("dy", f.x(1)).bind("dx", f.y(0));
    words(f, launch, dy.dtype, dx.shape.numel(), dx.shape.last(), dy.shape.last())
}

/// Adds a launch with one invocation for each word of `n` elements.
fn words(f: &mut Frame<'_>, launch: Builder, dtype: DType, n: usize, c: usize, k: usize) -> Result<()> {
    if n > 0 {
        let words = (n * dtype.size_bytes()).div_ceil(WORD);
        let launch = launch.dtype("X", dtype).uniform("n", n).uniform("c", c).uniform("k", k);
        f.push(launch.groups(words.div_ceil(GROUP)).done()?);
    }
    Ok(())
}

/// The `k` largest of each row: their indices, then the values by these.
pub(super) fn top_k(k: usize, f: &mut Frame<'_>) -> Result<()> {
    let x = &f.tx()[0];
    let (rows, c) = (x.shape.rows(), x.shape.last());
    if rows == 0 {
        return Ok(());
    }
    let launch = kernel("gather", "top_k").dtype("X", x.dtype).uniform("n", rows).uniform("c", c).uniform("k", k);
    f.push(launch.bind("x", f.x(0)).bind("indices", f.y(1)).groups(rows).done()?);
    gather_from(f, f.y(1), c, f.ty()[1].clone())
}

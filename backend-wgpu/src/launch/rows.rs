//! How kernels over the rows of a matrix share them out; twin of `wgsl/shared/rows.wgsl` and `columns.wgsl`.

use super::builder::Builder;
use mantissa_core::DType;
use mantissa_core::shape::Shape;

/// Invocations of a workgroup.
pub(super) const WG_SIZE: usize = 64;

/// Rows from this length on have a workgroup each.
const LONG: usize = 1024;

/// Columns of a workgroup of sums over rows.
const COLUMNS: usize = 8;

/// `[n, c]` of a tensor of rows.
pub(super) fn matrix(shape: &Shape) -> [usize; 2] {
    [shape.rows(), shape.last()]
}

/// The grid of a kernel over the rows of `[n, c]` whose result is stored as `stored`.
pub(super) fn over_rows(kernel: Builder, [n, c]: [usize; 2], stored: DType) -> Builder {
    // Elements of a word.
    let whole = (c * stored.size_bytes()).is_multiple_of(size_of::<u32>());
    let lanes = if whole && c >= LONG { WG_SIZE } else { 8 };
    let kernel = kernel.set("LANES", lanes as u32).set("WHOLE", u32::from(whole));
    kernel.uniform("n", n).uniform("c", c).groups(n.div_ceil(WG_SIZE / lanes))
}

/// The grid of a kernel that adds up the rows of `[n, c]`.
pub(super) fn over_columns(kernel: Builder, [n, c]: [usize; 2]) -> Builder {
    kernel.uniform("n", n).uniform("c", c).groups(c.div_ceil(COLUMNS))
}

// Sums over the rows of a matrix on workgroups of 256: COLUMNS neighbouring columns (of f32, a sector of memory),
// COLUMN_LANES invocations a column, each of which takes every COLUMN_LANES-th row.

const COLUMNS: u32 = 8u;
const COLUMN_LANES: u32 = 32u;
// Rows from the first of a run to the first of the next: an invocation adds 64 rows before they join its total.
const RUN: u32 = 64u * COLUMN_LANES;

var<workgroup> column_partials: array<vec2<f32>, 256>;

// Sum over the lanes of a column; right in the first COLUMNS invocations.
fn column_sum(lane: u32, x: vec2<f32>) -> vec2<f32> {
    column_partials[lane] = x;
    workgroupBarrier();
    var total = x;
    if (lane < COLUMNS) {
        for (var l = 1u; l < COLUMN_LANES; l++) {
            total += column_partials[l * COLUMNS + lane];
        }
    }
    return total;
}

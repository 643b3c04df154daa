// Rows of a matrix on workgroups of 64: LANES neighbouring invocations share a row, so they read neighbouring words. A
// workgroup has 64 / LANES rows; with 8 lanes these are 8 rows, whose elements fill whole words of any dtype even where
// a single row does not (WHOLE is false then, and the workgroup writes the words of its rows as one run). CPU twin:
// core/src/cpu/rows.rs.
//% const LANES: [8, 64] = 8
//% const WHOLE: bool = true

const WG_SIZE: u32 = 64u;
const ROWS: u32 = WG_SIZE / LANES;

// Two stages may follow each other without a barrier between them.
var<workgroup> row_partials: array<vec2<f32>, 128>;

// Sum of x over the lanes of a row. Stages take turns: 0, 1, 0, ...
fn row_sum(stage: u32, lane: u32, x: vec2<f32>) -> vec2<f32> {
    let first = stage * WG_SIZE;
    row_partials[first + lane] = x;
    workgroupBarrier();
    let start = first + lane / LANES * LANES;
    var total = row_partials[start];
    for (var l = 1u; l < LANES; l++) {
        total += row_partials[start + l];
    }
    return total;
}

// Largest x over the lanes of a row.
fn row_max(stage: u32, lane: u32, x: f32) -> f32 {
    let first = stage * WG_SIZE;
    row_partials[first + lane].x = x;
    workgroupBarrier();
    let start = first + lane / LANES * LANES;
    var largest = row_partials[start].x;
    for (var l = 1u; l < LANES; l++) {
        largest = max(largest, row_partials[start + l].x);
    }
    return largest;
}

// The words that an invocation writes: elements `first, first + step, ..` before `end`, `size` of them to a word.
struct Share {
    first: u32,
    end: u32,
    step: u32,
}

// Share of invocation `lane` of workgroup `group` in the words of [n, c], `size` elements to a word.
fn row_share(group: u32, lane: u32, n: u32, c: u32, size: u32) -> Share {
    if (WHOLE) {
        let row = min(group * ROWS + lane / LANES, n);
        return Share(row * c + lane % LANES * size, min(row + 1u, n) * c, LANES * size);
    }
    let row = min(group * ROWS, n);
    return Share(row * c + lane * size, min(row + ROWS, n) * c, WG_SIZE * size);
}

// Row of element i among those of workgroup `group`; without a division where the invocation has a row of its own.
fn row_in_group(i: u32, group: u32, lane: u32, c: u32) -> u32 {
    if (WHOLE) {
        return lane / LANES;
    }
    return i / c - group * ROWS;
}

// Joining and cutting along one axis, as bits. CPU twin: core/src/cpu/concat.rs. A tensor is a matrix of rows: the axes
// before, and the axis with those behind it.
//
// Formula: concat: y[r] = parts' rows r one behind the other. window: y[r, j] = x[r, j + shift] where that lies in the
// row, else 0: a slice has a shift up, its gradient one down.
// Layout: elements of X's width. A launch whose rows are whole words moves words, as X = F32.
// An invocation owns one word of y; codes beyond n are zero. concat takes seven parts a launch; a later one merges into
// what the first has left.
//% import codec, grid
//% const X: dtype = F32

const WG_SIZE: u32 = 256u;

struct Params {
    // Elements of y, and of its rows.
    n: u32,
    width: u32,
    // window: elements of x's rows; where y's rows start in them.
    x_width: u32,
    shift: u32,
    // concat: where the first part starts in a row, where each ends.
    start: u32,
    merge: u32,
    end_lo: vec4<u32>,
    end_hi: vec4<u32>,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x0: array<u32>;
@group(0) @binding(2) var<storage, read> x1: array<u32>;
@group(0) @binding(3) var<storage, read> x2: array<u32>;
@group(0) @binding(4) var<storage, read> x3: array<u32>;
@group(0) @binding(5) var<storage, read> x4: array<u32>;
@group(0) @binding(6) var<storage, read> x5: array<u32>;
@group(0) @binding(7) var<storage, read> x6: array<u32>;
@group(0) @binding(8) var<storage, read_write> y: array<u32>;

// Element j of row r of the part that covers it.
fn part(r: u32, j: u32) -> u32 {
    let ends = params.end_lo;
    let more = params.end_hi;
    if (j < ends.x) {
        let i = r * (ends.x - params.start) + j - params.start;
        return code_of(X, x0[word_of(X, i)], i);
    }
    if (j < ends.y) {
        let i = r * (ends.y - ends.x) + j - ends.x;
        return code_of(X, x1[word_of(X, i)], i);
    }
    if (j < ends.z) {
        let i = r * (ends.z - ends.y) + j - ends.y;
        return code_of(X, x2[word_of(X, i)], i);
    }
    if (j < ends.w) {
        let i = r * (ends.w - ends.z) + j - ends.z;
        return code_of(X, x3[word_of(X, i)], i);
    }
    if (j < more.x) {
        let i = r * (more.x - ends.w) + j - ends.w;
        return code_of(X, x4[word_of(X, i)], i);
    }
    if (j < more.y) {
        let i = r * (more.y - more.x) + j - more.x;
        return code_of(X, x5[word_of(X, i)], i);
    }
    let i = r * (more.z - more.y) + j - more.y;
    return code_of(X, x6[word_of(X, i)], i);
}

@compute @workgroup_size(WG_SIZE)
fn concat(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    let first = word * pack_size(X);
    if (first >= params.n) {
        return;
    }
    var codes = 0u;
    var missing = 0u;
    for (var k = 0u; k < pack_size(X); k++) {
        if (first + k < params.n) {
            let r = (first + k) / params.width;
            let j = (first + k) % params.width;
            if (j >= params.start && j < params.end_hi.z) {
                codes |= place_code(X, part(r, j), k);
            } else {
                missing |= place_code(X, 0xffffffffu >> (32u - 32u / pack_size(X)), k);
            }
        }
    }
    if (params.merge != 0u) {
        codes |= y[word] & missing;
    }
    y[word] = codes;
}

@compute @workgroup_size(WG_SIZE)
fn window(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    let first = word * pack_size(X);
    if (first >= params.n) {
        return;
    }
    var codes = 0u;
    for (var k = 0u; k < pack_size(X); k++) {
        if (first + k < params.n) {
            let r = (first + k) / params.width;
            // Before the row it wraps to a large number.
            let j = (first + k) % params.width + params.shift;
            if (j < params.x_width) {
                let i = r * params.x_width + j;
                codes |= place_code(X, code_of(X, x0[word_of(X, i)], i), k);
            }
        }
    }
    y[word] = codes;
}

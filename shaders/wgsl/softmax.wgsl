// Softmax and log-softmax over the last axis, forward and backward. CPU twin: core/src/cpu/softmax.rs.
//
// Formula, with m = max x: y = e^(x - m) / sum e^(x - m); log: y = (x - m) - ln(sum e^(x - m)). Backward: dx = y * (dy
// - sum(dy * y));
// log: dx = dy - e^y * sum(dy).
// Layout: x, y, dy, dx [n, c]; LANES invocations a row.
//% import codec, grid, rows
//% const X: dtype = F32
//% const DY: dtype = F32
//% const OUT: dtype = F32
//% const LOG: bool = false

struct Params {
    n: u32,
    c: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
// Forward: the argument. Backward: the result.
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

const LOWEST: f32 = -3.4028234e38;

// Of each row of the workgroup: its maximum and the factor or the logarithm of its sum; backward, its sum.
var<workgroup> stats: array<vec2<f32>, ROWS>;

fn x_at(i: u32) -> f32 {
    return decode(X, x[word_of(X, i)], i);
}

fn dy_at(i: u32) -> f32 {
    return decode(DY, dy[word_of(DY, i)], i);
}

fn forward_at(i: u32, r: u32) -> f32 {
    let s = stats[r];
    if (LOG) {
        return (x_at(i) - s.x) - s.y;
    }
    return exp(x_at(i) - s.x) * s.y;
}

fn backward_at(i: u32, r: u32) -> f32 {
    if (LOG) {
        return dy_at(i) - exp(x_at(i)) * stats[r].x;
    }
    return x_at(i) * (dy_at(i) - stats[r].x);
}

@compute @workgroup_size(WG_SIZE)
fn softmax(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = params.c;
    let at = group_index(group, groups);
    let row = at * ROWS + lane / LANES;
    let start = min(row, params.n) * c;
    let end = min(row + 1u, params.n) * c;
    var largest = LOWEST;
    for (var i = start + lane % LANES; i < end; i += LANES) {
        largest = max(largest, x_at(i));
    }
    largest = row_max(0u, lane, largest);
    var sum = 0.0;
    for (var i = start + lane % LANES; i < end; i += LANES) {
        sum += exp(x_at(i) - largest);
    }
    sum = row_sum(1u, lane, vec2<f32>(sum, 0.0)).x;
    if (lane % LANES == 0u) {
        stats[lane / LANES] = vec2<f32>(largest, select(1.0 / sum, log(sum), LOG));
    }
    workgroupBarrier();
    let share = row_share(at, lane, params.n, c, pack_size(OUT));
    for (var i = share.first; i < share.end; i += share.step) {
        let r = row_in_group(i, at, lane, c);
        // A word may reach into the next rows.
        var next = (at * ROWS + r + 1u) * c;
        var word = 0u;
        var owner = r;
        for (var j = i; j < min(i + pack_size(OUT), share.end); j++) {
            if (j == next) {
                owner++;
                next += c;
            }
            word |= place_code(OUT, encode(OUT, forward_at(j, owner)), j);
        }
        y[word_of(OUT, i)] = word;
    }
}

@compute @workgroup_size(WG_SIZE)
fn softmax_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = params.c;
    let at = group_index(group, groups);
    let row = at * ROWS + lane / LANES;
    let start = min(row, params.n) * c;
    let end = min(row + 1u, params.n) * c;
    var sum = 0.0;
    for (var i = start + lane % LANES; i < end; i += LANES) {
        sum += dy_at(i) * select(x_at(i), 1.0, LOG);
    }
    sum = row_sum(0u, lane, vec2<f32>(sum, 0.0)).x;
    if (lane % LANES == 0u) {
        stats[lane / LANES].x = sum;
    }
    workgroupBarrier();
    let share = row_share(at, lane, params.n, c, pack_size(OUT));
    for (var i = share.first; i < share.end; i += share.step) {
        let r = row_in_group(i, at, lane, c);
        var next = (at * ROWS + r + 1u) * c;
        var word = 0u;
        var owner = r;
        for (var j = i; j < min(i + pack_size(OUT), share.end); j++) {
            if (j == next) {
                owner++;
                next += c;
            }
            word |= place_code(OUT, encode(OUT, backward_at(j, owner)), j);
        }
        y[word_of(OUT, i)] = word;
    }
}

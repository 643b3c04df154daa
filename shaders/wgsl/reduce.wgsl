// Sum, mean, maximum and sum of squares over any set of axes. CPU twin: core/src/cpu/reduce.rs.
//
// Formula: y[o] = sum, max or sum of squares over the reduced points r of x[offset(o) + offset(r)], over a mean its
// count.
// Layout: axes of one fate are merged; `kept` and `reduced` axes come outermost first with their strides in x, unused
// ones have length 1.
// A workgroup of 256 has OUTPUTS outputs, 256 / OUTPUTS invocations an output. With COLUMNS neighbouring invocations
// have neighbouring outputs (the last axis is kept), else neighbouring points. An invocation adds runs of 64 points,
// which then join its total. A part of a long reduction is a workgroup of its own: parts lie beside each other,
// [outputs, parts] in f32, and are reduced again.
// `reduce_vec8`, for sums over the rows of a matrix whose rows are whole vec8s: 16 outputs a workgroup, eight of them
// an invocation, which reads them at once.
// The maximum compares integers in the order of the floats, NaN on top.
//% import grid, vec8, order
//% const X: dtype = F32
//% const Y: dtype = F32
//% const ROUND: dtype = F32
//% const KIND: [0, 1, 2] = 0
//% const OUTPUTS: [1, 8, 16, 32] = 8
//% const COLUMNS: bool = false
//% const FLAT: bool = true

const SUM: u32 = 0u;
const MAX: u32 = 1u;
const SUM_SQ: u32 = 2u;

const WG_SIZE: u32 = 256u;
const LANES: u32 = WG_SIZE / OUTPUTS;
const RUN: u32 = 64u;

struct Params {
    kept: vec4<u32>,
    kept_stride: vec4<u32>,
    reduced: vec4<u32>,
    reduced_stride: vec4<u32>,
    // Outputs; points of one; points of a part; parts; what a sum is divided by.
    outputs: u32,
    points: u32,
    part: u32,
    parts: u32,
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

// Totals of the invocations, in bits: for the maximum, its place in the order.
var<workgroup> totals: array<u32, WG_SIZE>;
var<workgroup> results: array<u32, OUTPUTS>;

// Offset in x of point i of some axes.
fn offset(i: u32, axes: vec4<u32>, strides: vec4<u32>) -> u32 {
    let z = i / axes.w;
    let y = z / axes.z;
    let x = y / axes.y;
    return (i - z * axes.w) * strides.w + (z - y * axes.z) * strides.z + (y - x * axes.y) * strides.y + x * strides.x;
}

// Offset in x of point p. One axis needs no divisions, which cost more than the load.
fn point(p: u32) -> u32 {
    if (FLAT) {
        return p * params.reduced_stride.w;
    }
    return offset(p, params.reduced, params.reduced_stride);
}

fn add(total: u32, v: f32) -> u32 {
    if (KIND == MAX) {
        return max(total, order_of(v));
    }
    return bitcast<u32>(bitcast<f32>(total) + select(v, v * v, KIND == SUM_SQ));
}

fn join(a: u32, b: u32) -> u32 {
    if (KIND == MAX) {
        return max(a, b);
    }
    return bitcast<u32>(bitcast<f32>(a) + bitcast<f32>(b));
}

fn start() -> u32 {
    return select(0u, LOWEST_ORDER, KIND == MAX);
}

fn finish(total: u32) -> f32 {
    if (KIND == MAX) {
        return from_order(total);
    }
    if (params.count == 0u) {
        return from_order(NAN_ORDER);
    }
    return bitcast<f32>(total) / f32(params.count);
}

@compute @workgroup_size(WG_SIZE)
fn reduce(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = group_index(group, groups);
    let part = index % params.parts;
    let first = index / params.parts * OUTPUTS;
    var o = lane / LANES;
    var l = lane % LANES;
    if (COLUMNS) {
        o = lane % OUTPUTS;
        l = lane / OUTPUTS;
    }
    let base = offset(min(first + o, params.outputs), params.kept, params.kept_stride);
    let begin = part * params.part;
    let end = select(begin, min(begin + params.part, params.points), first + o < params.outputs);
    var total = start();
    for (var p0 = begin + l; p0 < end; p0 += RUN * LANES) {
        var run = start();
        for (var p = p0; p < min(p0 + RUN * LANES, end); p += LANES) {
            let i = base + point(p);
            let w = word_of(X, i);
            run = add(run, decode(X, x[w >> 2u][w & 3u], i));
        }
        total = join(total, run);
    }
    totals[lane] = total;
    workgroupBarrier();
    if (lane < OUTPUTS) {
        let at = select(lane * LANES, lane, COLUMNS);
        let step = select(1u, OUTPUTS, COLUMNS);
        var result = totals[at];
        for (var k = 1u; k < LANES; k++) {
            result = join(result, totals[at + k * step]);
        }
        results[lane] = result;
    }
    workgroupBarrier();
    store(first, part, lane);
}

// Adds eight elements to as many totals.
fn add8(total: array<vec4<u32>, 2>, v: mat2x4<f32>) -> array<vec4<u32>, 2> {
    return array<vec4<u32>, 2>(
        vec4<u32>(add(total[0].x, v[0].x), add(total[0].y, v[0].y), add(total[0].z, v[0].z), add(total[0].w, v[0].w)),
        vec4<u32>(add(total[1].x, v[1].x), add(total[1].y, v[1].y), add(total[1].z, v[1].z), add(total[1].w, v[1].w)));
}

fn join4(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(join(a.x, b.x), join(a.y, b.y), join(a.z, b.z), join(a.w, b.w));
}

// Vec8s of a workgroup, and invocations of each.
const VEC8S: u32 = 2u;
const VEC8_LANES: u32 = WG_SIZE / VEC8S;

var<workgroup> vec8_totals: array<array<vec4<u32>, 2>, WG_SIZE>;

@compute @workgroup_size(WG_SIZE)
fn reduce_vec8(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = group_index(group, groups);
    let part = index % params.parts;
    let first = index / params.parts * OUTPUTS;
    let own = first + lane % VEC8S * 8u;
    let begin = part * params.part;
    let end = select(begin, min(begin + params.part, params.points), own < params.outputs);
    let none = array<vec4<u32>, 2>(vec4<u32>(start()), vec4<u32>(start()));
    var total = none;
    for (var p0 = begin + lane / VEC8S; p0 < end; p0 += RUN * VEC8_LANES) {
        var run = none;
        for (var p = p0; p < min(p0 + RUN * VEC8_LANES, end); p += VEC8_LANES) {
            let i = own + p * params.reduced_stride.w;
            let at = vec8_at(X, i);
            run = add8(run, decode8(X, x[at], x[at + vec8_more(X)], i));
        }
        total = array<vec4<u32>, 2>(join4(total[0], run[0]), join4(total[1], run[1]));
    }
    vec8_totals[lane] = total;
    workgroupBarrier();
    if (lane < OUTPUTS) {
        let which = lane / 8u;
        var result = start();
        for (var k = 0u; k < VEC8_LANES; k++) {
            result = join(result, vec8_totals[k * VEC8S + which][lane / 4u % 2u][lane % 4u]);
        }
        results[lane] = result;
    }
    workgroupBarrier();
    store(first, part, lane);
}

// The words of the workgroup's outputs, one an invocation.
fn store(first: u32, part: u32, lane: u32) {
    let i = first + lane * pack_size(Y);
    if (lane * pack_size(Y) < OUTPUTS && i < params.outputs) {
        var word = 0u;
        for (var j = i; j < min(i + pack_size(Y), params.outputs); j++) {
            word |= place_code(Y, encode(Y, round_to(ROUND, finish(results[j - first]))), j);
        }
        // Parts of an output are neighbours.
        y[select(word_of(Y, i), i * params.parts + part, params.parts > 1u)] = word;
    }
}

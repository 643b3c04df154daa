// Elements of the last axis by index, their scatter-add, and the k largest. CPU twin: core/src/cpu/gather.rs.
//
// Formula: y[i, j] = x[i, ids[i, j]]; dx[i, c] = sum over j with ids[i, j] = c of dy[i, j], in order of j; top_k:
// indices of the k largest, larger first, equal values by lower index, NaN last. An index outside the row gathers NaN
// and scatters nothing.
// Layout: x, dx [n, c]; ids, y, dy, indices [n, k]; codes of X.
// gather, gather_backward: an invocation owns one word of y or dx; codes beyond the end are zero. top_k: a workgroup
// owns a row; each round every lane looks for the best element behind the last pick in its part, and all compare what
// was found.
//% import codec, grid
//% const X: dtype = F32

const WG_SIZE: u32 = 64u;

struct Params {
    // Elements of y or dx; rows for top_k.
    n: u32,
    c: u32,
    k: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> dy: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read_write> dx: array<u32>;
@group(0) @binding(6) var<storage, read_write> indices: array<u32>;

@compute @workgroup_size(WG_SIZE)
fn gather(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    let first = word * pack_size(X);
    if (first >= params.n) {
        return;
    }
    var codes = 0u;
    for (var e = 0u; e < pack_size(X); e++) {
        let at = first + e;
        if (at < params.n) {
            let id = ids[at];
            var bits = F32_NAN;
            if (id < params.c) {
                let i = at / params.k * params.c + id;
                bits = decode_bits(X, code_of(X, x[word_of(X, i)], i));
            }
            codes |= place_code(X, encode_bits(X, bits), e);
        }
    }
    y[word] = codes;
}

@compute @workgroup_size(WG_SIZE)
fn gather_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    let first = word * pack_size(X);
    if (first >= params.n) {
        return;
    }
    var codes = 0u;
    for (var e = 0u; e < pack_size(X); e++) {
        if (first + e < params.n) {
            let row = (first + e) / params.c * params.k;
            let c = (first + e) % params.c;
            var sum = 0.0;
            for (var j = row; j < row + params.k; j++) {
                if (ids[j] == c) {
                    sum += decode(X, dy[word_of(X, j)], j);
                }
            }
            codes |= place_code(X, encode(X, sum), e);
        }
    }
    dx[word] = codes;
}

// A key whose ascending order is: larger value first, NaN last.
fn rank(i: u32) -> u32 {
    let bits = decode_bits(X, code_of(X, x[word_of(X, i)], i));
    let magnitude = bits & F32_MAGNITUDE;
    let negative = bits != magnitude && magnitude != 0u;
    let key = select(F32_MAGNITUDE - magnitude, bits, negative);
    return select(key, 0xffffffffu, magnitude > F32_INF);
}

var<workgroup> found_rank: array<u32, WG_SIZE>;
var<workgroup> found_index: array<u32, WG_SIZE>;

@compute @workgroup_size(WG_SIZE)
fn top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = min(group_index(group, groups), params.n - 1u);
    // The last pick; before the first, what precedes everything: no element has index 2^32 - 1.
    var last = vec2<u32>(0u, 0u);
    for (var j = 0u; j < params.k; j++) {
        var best = vec2<u32>(0xffffffffu, 0xffffffffu);
        for (var i = lane; i < params.c; i += WG_SIZE) {
            let key = rank(row * params.c + i);
            // From the second round on, only what comes behind the last pick.
            let behind = j == 0u || key > last.x || (key == last.x && i > last.y);
            if (behind && (key < best.x || (key == best.x && i < best.y))) {
                best = vec2<u32>(key, i);
            }
        }
        found_rank[lane] = best.x;
        found_index[lane] = best.y;
        workgroupBarrier();
        for (var other = 0u; other < WG_SIZE; other++) {
            let key = found_rank[other];
            let i = found_index[other];
            if (key < best.x || (key == best.x && i < best.y)) {
                best = vec2<u32>(key, i);
            }
        }
        workgroupBarrier();
        last = best;
        if (lane == 0u) {
            indices[row * params.k + j] = best.y;
        }
    }
}

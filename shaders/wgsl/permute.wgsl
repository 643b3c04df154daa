// Copies by strides, as bits: axes in another order. CPU twin: core/src/cpu/permute.rs.
//
// Formula: y[i] = x[sum over axes a of i_a * stride_a]; y is contiguous, its axes are collapsed as far as they go, the
// outermost first.
// Layout: elements of X's width. A launch whose innermost axis is a run of whole words moves words instead, as X = F32.
// An invocation owns one word of y; codes beyond n are zero.
// Reads of a transposition are strided; tiles in workgroup memory were not tried: no model here transposes inside a
// step.
//% import codec, grid
//% const X: dtype = F32
//% const RANK: [1, 2, 3, 4, 5, 6, 7, 8] = 2

const WG_SIZE: u32 = 256u;

struct Params {
    // Elements of y.
    n: u32,
    len_lo: vec4<u32>,
    len_hi: vec4<u32>,
    stride_lo: vec4<u32>,
    stride_hi: vec4<u32>,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

fn source(i: u32) -> u32 {
    var rest = i;
    var at = 0u;
    for (var axis = RANK; axis > 1u; axis--) {
        let a = (axis - 1u) & 3u;
        let high = axis > 4u;
        let len = select(params.len_lo[a], params.len_hi[a], high);
        at += (rest % len) * select(params.stride_lo[a], params.stride_hi[a], high);
        rest /= len;
    }
    return at + rest * params.stride_lo[0];
}

@compute @workgroup_size(WG_SIZE)
fn permute(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    let first = word * pack_size(X);
    if (first >= params.n) {
        return;
    }
    var codes = 0u;
    for (var k = 0u; k < pack_size(X); k++) {
        if (first + k < params.n) {
            let at = source(first + k);
            codes |= place_code(X, code_of(X, x[word_of(X, at)], at), k);
        }
    }
    y[word] = codes;
}

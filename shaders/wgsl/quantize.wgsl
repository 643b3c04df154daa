// Per-tensor fp8 quantization. CPU twin: core/src/cpu/quantize.rs.
//
// Formula: q = satRNE(RN(x * scale)), scale_inv = RN(1 / scale), amax = max |x| without NaN. The scale is a stored one,
// or that of the amax: always (current scaling), or while the tensor's history is all zero (warm-up of delayed
// scaling).
// Layout: `amax`, where the scale may come from it, in up to 64 workgroups, each leaving the largest magnitude it saw
// in `block_amax`; skipped in effect where no one asks. `convert`: an invocation owns WORDS words of q, a workgroup
// apart, so that neighbours read and write neighbouring words; where RECORD it updates the tensor's row of
// `staged_stats` (amax and counts), which `flush_stats` of fp8_scale.wgsl moves to the states.
// Bits are those of the CPU: a product that may be subnormal is made of normal ones, quotients are integer divisions.
// Source: Transformer Engine recipe_common.cuh, current_scaling.cu.
//% import amax, codec, grid, quantize_stats
//% const X: dtype = F32
//% const Q: dtype = E4M3
//% const SCALING: [0, 1, 2] = 0
//% const RECORD: bool = false
//% const WG_SIZE: [256] = 256

// The stored scale; that one, but for a fresh history the scale of the amax; the scale of the amax.
const STORED: u32 = 0u;
const WARM_UP: u32 = 1u;
const CURRENT: u32 = 2u;
// Words of q an invocation of `convert` writes.
const WORDS: u32 = 8u;

struct Params {
    len: u32,
    words: u32,
    // Workgroups of `amax`, a multiple of 4.
    blocks: u32,
    slot: u32,
    // Row of `staged_stats`.
    row: u32,
    // Shape of the history.
    rows: u32,
    tensors: u32,
    // Bits of the largest value of Q, and of the lower bound of an amax.
    max: u32,
    epsilon: u32,
    power_of_two: u32,
    // Bits of the number of elements as a float.
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> history: array<u32>;
@group(0) @binding(4) var<storage, read_write> block_amax: array<u32>;
// The same, once they are there.
@group(0) @binding(5) var<storage, read> block_amax_vec4: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> staged_stats: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> q: array<u32>;
@group(0) @binding(8) var<storage, read_write> scale_inv: array<u32>;

// The history of this tensor is all zero. The newest row first: in a run that has begun, one read is enough.
fn fresh() -> bool {
    for (var row = params.rows; row > 0u; row--) {
        if ((history[(row - 1u) * params.tensors + params.slot] & EXACT_MAGNITUDE) != 0u) {
            return false;
        }
    }
    return true;
}

fn wants_amax() -> bool {
    if (SCALING == WARM_UP) {
        return fresh();
    }
    return SCALING == CURRENT;
}

var<workgroup> group_amax: atomic<u32>;

@compute @workgroup_size(WG_SIZE)
fn amax(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = group_index(group, groups);
    if (lane == 0u) {
        atomicStore(&group_amax, 0u);
    }
    workgroupBarrier();
    var own = 0u;
    if (wants_amax()) {
        for (var i = index * WG_SIZE + lane; i < params.words; i += params.blocks * WG_SIZE) {
            let m = magnitudes(i);
            own = max(own, max(max(m.x, m.y), max(m.z, m.w)));
        }
    }
    atomicMax(&group_amax, own);
    workgroupBarrier();
    if (lane == 0u && index < params.blocks) {
        block_amax[index] = atomicLoad(&group_amax);
    }
}

fn amax_of_blocks() -> u32 {
    var all = vec4<u32>();
    for (var i = 0u; i < params.blocks; i += 4u) {
        all = max(all, block_amax_vec4[i / 4u]);
    }
    return max(max(all.x, all.y), max(all.z, all.w));
}

fn current_scale() -> u32 {
    let largest = amax_of_blocks();
    let amax = select(largest, params.epsilon, key(largest) < key(params.epsilon));
    if (!is_positive(amax)) {
        return EXACT_ONE;
    }
    let scale = scale_from_amax(amax, params.max);
    return select(scale, scale & EXACT_INF, params.power_of_two == 1u);
}

fn scale_now() -> u32 {
    if (wants_amax()) {
        return current_scale();
    }
    return scales[params.slot];
}

// RN(x * scale), but for subnormal products, which are 0 in Q in any case. `scale75` is scale * 2^-75.
fn product(x: u32, scale: u32, scale75: u32) -> u32 {
    let a = x & EXACT_MAGNITUDE;
    let plain = bitcast<u32>(bitcast<f32>(a) * bitcast<f32>(scale));
    // A subnormal's bits as a number are 2^149 of it; the rest of that comes off the exponent.
    let raised = bitcast<u32>(f32(a) * bitcast<f32>(scale75));
    let lowered = select(0u, raised - (74u << 23u), raised > (75u << 23u));
    let y = select(plain, lowered, a < 0x800000u);
    return select(y, a, a > EXACT_INF) | (x & 0x80000000u);
}

@compute @workgroup_size(WG_SIZE)
fn convert(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group_index(group, groups) * WORDS * WG_SIZE + lane;
    let scale = scale_now();
    let scale75 = select(0u, scale - (75u << 23u), scale > (76u << 23u));
    if (first == 0u) {
        scale_inv[0] = div_exact(EXACT_ONE, scale);
        if (RECORD) {
            mark_staged(scale);
        }
    }
    var own = vec4<u32>();
    for (var k = 0u; k < WORDS; k++) {
        let word = first + k * WG_SIZE;
        if (word < params.words) {
            let values = elements(word);
            var codes = 0u;
            for (var c = 0u; c < 4u; c++) {
                if (4u * word + c < params.len) {
                    let v = values[c];
                    let y = product(v, scale, scale75);
                    let code = encode_bits(Q, y);
                    codes |= code << (8u * c);
                    if (RECORD) {
                        own = counted(own, v, y, code);
                    }
                }
            }
            q[word] = codes;
        }
    }
    if (RECORD) {
        add_staged(own);
    }
}

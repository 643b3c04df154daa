// MX quantization: blocks of 32 along a row or a column share one power-of-two scale (E8M0). CPU twin:
// core/src/cpu/quantize_mx.rs.
//
// Formula: block amax (NaN left out) -> byte b by the rule -> q = satRNE(x * 2^(127 - b)), a change of the exponent.
// Integers throughout.
// Layout: x [R, C]; scales [R, ceil(C / 32)], or [ceil(R / 32), C] where blocks lie along columns. Where C allows it
// one kernel does all:
// `rows` (C a multiple of 32): a workgroup owns 64 blocks, which follow each other in memory, an invocation WORDS words
// of q among them;
// `columns` (C a multiple of 4): an invocation owns four neighbouring blocks, which share their words. Elsewhere
// `scales` (an invocation owns a word, four scales) is followed by `convert` (a word of q, whose elements may belong to
// different blocks).
// Where RECORD the tensor's row of `staged_stats` is updated (amax and counts), which `flush_stats` of fp8_scale.wgsl
// moves to the states.
// Sources: OCP Microscaling Formats 1.0; Transformer Engine common/cast/mxfp8.
//% import amax, codec, grid, quantize_stats
//% const X: dtype = F32
//% const Q: dtype = E4M3
//% const COLUMNS: bool = false
//% const CEIL: bool = true
//% const RECORD: bool = false
//% const WG_SIZE: [64] = 64

const MX_BLOCK: u32 = 32u;
// Words of q that an invocation of `rows` writes, and words of a block.
const WORDS: u32 = 8u;
const BLOCK_WORDS: u32 = MX_BLOCK / 4u;

struct Params {
    len: u32,
    columns: u32,
    // Shape of the scales.
    scale_rows: u32,
    scale_columns: u32,
    // Row of `staged_stats`.
    row: u32,
    // Bits of the largest value of Q and of its reciprocal; its exponent.
    max: u32,
    inv_max: u32,
    emax: u32,
    // Bits of max * 2^-126, and of the largest amax whose byte is 0.
    normal_from: u32,
    zero_up_to: u32,
    // Bits of the number of elements as a float.
    count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> scale: array<u32>;
@group(0) @binding(3) var<storage, read_write> staged_stats: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> q: array<u32>;

// E8M0 byte of a block whose largest magnitude has these bits.
fn scale_byte(amax: u32) -> u32 {
    if (CEIL) {
        if (amax < params.normal_from) {
            return select(0u, 1u, amax > params.zero_up_to);
        }
        let quotient = mul_exact(amax, params.inv_max);
        return min((quotient + 0x7fffffu) >> 23u, 0xfeu);
    }
    let exponent = amax >> 23u;
    return select(exponent - min(exponent, params.emax), 0xffu, amax >= EXACT_INF);
}

// x * 2^(127 - byte) as bits, but for subnormal products, which are 0 in Q in any case.
fn product(x: u32, byte: u32) -> u32 {
    let a = x & EXACT_MAGNITUDE;
    let sign = x & 0x80000000u;
    if (a > EXACT_INF) {
        return x;
    }
    if (byte == 0xffu) {
        return EXACT_NAN;
    }
    if (a == 0u || a == EXACT_INF) {
        return x;
    }
    let p = parts(a);
    let exponent = p.exponent + 127 - i32(byte);
    let normal = (u32(clamp(exponent, 0, 255)) << 23u) | (p.significand & 0x7fffffu);
    return sign | select(select(normal, EXACT_INF, exponent >= 255), 0u, exponent <= 0);
}

// Word w of q, whose elements have the scales `bytes`, from its elements; adds what happened to them to `own`.
fn quantized(w: u32, v: vec4<u32>, bytes: vec4<u32>, own: ptr<function, vec4<u32>>) -> u32 {
    let exists = inside(w);
    var codes = 0u;
    for (var c = 0u; c < 4u; c++) {
        if (exists[c]) {
            let y = product(v[c], bytes[c]);
            let code = encode_bits(Q, y);
            codes |= code << (8u * c);
            if (RECORD) {
                *own = counted(*own, v[c], y, code);
            }
        }
    }
    return codes;
}

// Adds the numbers of an invocation; the first of all marks the tensor.
fn report(first: bool, own: vec4<u32>) {
    if (RECORD) {
        if (first) {
            mark_staged(EXACT_ONE);
        }
        add_staged(own);
    }
}

// The largest magnitude of each block of the workgroup, then its scale.
var<workgroup> blocks: array<atomic<u32>, WG_SIZE>;

@compute @workgroup_size(WG_SIZE)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group_index(group, groups);
    let words = (params.len + 3u) / 4u;
    let first = at * WORDS * WG_SIZE + lane;
    atomicStore(&blocks[lane], 0u);
    workgroupBarrier();
    for (var k = 0u; k < WORDS; k++) {
        let w = first + k * WG_SIZE;
        if (w < words) {
            let m = magnitudes(w);
            atomicMax(&blocks[(lane + k * WG_SIZE) / BLOCK_WORDS], max(max(m.x, m.y), max(m.z, m.w)));
        }
    }
    workgroupBarrier();
    let byte = scale_byte(atomicLoad(&blocks[lane]));
    workgroupBarrier();
    atomicStore(&blocks[lane], byte);
    workgroupBarrier();
    let word = at * (WG_SIZE / 4u) + lane;
    let count = params.scale_rows * params.scale_columns;
    if (lane < WG_SIZE / 4u && 4u * word < count) {
        var bytes = 0u;
        for (var c = 0u; c < min(4u, count - 4u * word); c++) {
            bytes |= atomicLoad(&blocks[4u * lane + c]) << (8u * c);
        }
        scale[word] = bytes;
    }
    var own = vec4<u32>();
    for (var k = 0u; k < WORDS; k++) {
        let w = first + k * WG_SIZE;
        if (w < words) {
            let b = atomicLoad(&blocks[(lane + k * WG_SIZE) / BLOCK_WORDS]);
            q[w] = quantized(w, elements(w), vec4<u32>(b), &own);
        }
    }
    report(first == 0u, own);
}

@compute @workgroup_size(WG_SIZE)
fn columns(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let item = group_index(group, groups) * WG_SIZE + lane;
    let width = params.columns / 4u;
    if (item >= params.scale_rows * width) {
        return;
    }
    let first = item / width * MX_BLOCK * width + item % width;
    let end = min(first + MX_BLOCK * width, params.len / 4u);
    var top = vec4<u32>();
    for (var w = first; w < end; w += width) {
        top = max(top, magnitudes(w));
    }
    let bytes = vec4<u32>(scale_byte(top.x), scale_byte(top.y), scale_byte(top.z), scale_byte(top.w));
    scale[item] = bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
    var own = vec4<u32>();
    for (var w = first; w < end; w += width) {
        q[w] = quantized(w, elements(w), bytes, &own);
    }
    report(item == 0u, own);
}

@compute @workgroup_size(WG_SIZE)
fn scales(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    let count = params.scale_rows * params.scale_columns;
    if (4u * word >= count) {
        return;
    }
    var bytes = 0u;
    for (var c = 0u; c < 4u; c++) {
        let block = 4u * word + c;
        if (block < count) {
            let row = block / params.scale_columns;
            let column = block % params.scale_columns;
            var first = row * params.columns + MX_BLOCK * column;
            var end = min(first + MX_BLOCK, (row + 1u) * params.columns);
            var stride = 1u;
            if (COLUMNS) {
                first = MX_BLOCK * row * params.columns + column;
                end = min(first + MX_BLOCK * params.columns, params.len);
                stride = params.columns;
            }
            var top = 0u;
            for (var i = first; i < end; i += stride) {
                top = max(top, magnitudes(i >> 2u)[i & 3u]);
            }
            bytes |= scale_byte(top) << (8u * c);
        }
    }
    scale[word] = bytes;
}

@compute @workgroup_size(WG_SIZE)
fn convert(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    if (4u * word >= params.len) {
        return;
    }
    var bytes: vec4<u32>;
    for (var c = 0u; c < 4u; c++) {
        let i = min(4u * word + c, params.len - 1u);
        let row = i / params.columns;
        let column = i % params.columns;
        let block = select(row * params.scale_columns + column / MX_BLOCK, row / MX_BLOCK * params.columns + column, COLUMNS);
        bytes[c] = (scale[block / 4u] >> (8u * (block % 4u))) & 0xffu;
    }
    var own = vec4<u32>();
    q[word] = quantized(word, elements(word), bytes, &own);
    report(word == 0u, own);
}

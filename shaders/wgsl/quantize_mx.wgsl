// MX quantization: blocks of 32 along a row or a column share one power-of-two scale (E8M0). CPU twin: core/src/cpu/quantize_mx.rs.
//
// Formula: block amax (NaN left out) -> byte b by the rule -> q = satRNE(x * 2^(127 - b)), a change of the exponent. Integers throughout.
// Layout: x [R, C]; scales [R, ceil(C / 32)], or [ceil(R / 32), C] where COLUMNS. `scales`: an invocation owns a word, four scales.
// `convert`: an invocation owns a word of q, four elements, which may belong to different blocks. Where RECORD, `convert` raises `seen` (amax and
// counts), which `scales` cleared, and `finish` writes the row of statistics.
// Sources: OCP Microscaling Formats 1.0; Transformer Engine common/cast/mxfp8.
//% import amax, codec, grid, quantize_stats
//% const X: dtype = F32
//% const Q: dtype = E4M3
//% const COLUMNS: bool = false
//% const CEIL: bool = true
//% const RECORD: bool = false
//% const WG_SIZE: [64] = 64

const MX_BLOCK: u32 = 32u;

struct Params {
    len: u32,
    columns: u32,
    // Shape of the scales.
    scale_rows: u32,
    scale_columns: u32,
    slot: u32,
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
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> scale: array<u32>;
@group(0) @binding(3) var<storage, read_write> seen: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> q: array<u32>;
@group(0) @binding(5) var<storage, read_write> stats: array<u32>;

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

@compute @workgroup_size(WG_SIZE)
fn scales(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    if (word == 0u && RECORD) {
        clear_seen();
    }
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
                top = max(top, ordered_bits(element(i)));
            }
            bytes |= scale_byte(top) << (8u * c);
        }
    }
    scale[word] = bytes;
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

@compute @workgroup_size(WG_SIZE)
fn convert(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    if (4u * word >= params.len) {
        return;
    }
    var codes = 0u;
    var own = vec4<u32>();
    for (var c = 0u; c < 4u; c++) {
        let i = 4u * word + c;
        if (i < params.len) {
            let row = i / params.columns;
            let column = i % params.columns;
            let block = select(row * params.scale_columns + column / MX_BLOCK, row / MX_BLOCK * params.columns + column, COLUMNS);
            let byte = (scale[block / 4u] >> (8u * (block % 4u))) & 0xffu;
            let v = element(i);
            let y = product(v, byte);
            let code = encode_bits(Q, y);
            codes |= code << (8u * c);
            if (RECORD) {
                own = counted(own, v, y, code);
            }
        }
    }
    q[word] = codes;
    if (RECORD) {
        raise_seen(own);
    }
}

@compute @workgroup_size(1)
fn finish() {
    write_stats(EXACT_ONE);
}

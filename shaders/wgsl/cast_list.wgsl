// Casts of many f32 tensors in one launch. CPU twin: the plain casts of core/src/cpu/map.rs; which ones go together is
// decided by the memory plan (cast_groups in core/src/program/memory.rs).
//
// Formula: y[i] = encode(Y, x[i]), bit for bit. Layout: `blocks` holds, for each workgroup, the first word of its block
// in x, the first word in y, and its number of elements, at most 4 WG_SIZE. One invocation owns four elements: whole
// words of y in every dtype.
//% import codec, grid
//% const Y: dtype = BF16
//% const WG_SIZE: [64, 256] = 256

struct Params {
    blocks: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> blocks: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(WG_SIZE)
fn cast_list(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = group_index(group, groups);
    if (block >= params.blocks) {
        return;
    }
    let n = blocks[3u * block + 2u];
    let first = 4u * lane;
    if (first >= n) {
        return;
    }
    let v = x[blocks[3u * block] / 4u + lane];
    // Elements beyond the end become the zeros of the padding.
    var codes = vec4<u32>(encode_bits(Y, v.x), encode_bits(Y, v.y), encode_bits(Y, v.z), encode_bits(Y, v.w));
    codes = select(vec4<u32>(0u), codes, first + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(n));
    let at = blocks[3u * block + 1u];
    if (pack_size(Y) == 4u) {
        y[at + lane] = codes.x | (codes.y << 8u) | (codes.z << 16u) | (codes.w << 24u);
    } else if (pack_size(Y) == 2u) {
        y[at + 2u * lane] = codes.x | (codes.y << 16u);
        y[at + 2u * lane + 1u] = codes.z | (codes.w << 16u);
    } else {
        y[at + first] = codes.x;
        y[at + first + 1u] = codes.y;
        y[at + first + 2u] = codes.z;
        y[at + first + 3u] = codes.w;
    }
}

// Every code of f16 and E4M3 decoded, as a probe before kernels rely on the device's conversion. CPU twins:
// core/src/float/{f16,e4m3}.rs.
//
// Formula: y[i] = f32 bits of the f16 codes 2i and 2i + 1, and of the E4M3 codes i and 255 - i, both modulo 256.
// Layout: an invocation a vector, 2^15 of them.
//% import grid

const WG_SIZE: u32 = 256u;

@group(0) @binding(0) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(WG_SIZE)
fn every_code(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG_SIZE + lane;
    if (i >= arrayLength(&y)) {
        return;
    }
    let code8 = i & 0xffu;
    y[i] = vec4<u32>(f16_bits((2u * i) | ((2u * i + 1u) << 16u)), e4m3_bits((code8 << 8u) | ((0xffu - code8) << 24u)));
}

// What a device can do at most: multiply-adds without memory, and a copy without arithmetic. No CPU twin: `mantissa
// devices` and `bench` measure with it what they call the peak.
//
// Formula: fma_rate: CHAINS independent chains of `a = a * m + b` over vec4, `rounds` long; copy: y[i] = x[i].
// Layout: one invocation a chain set, or a vec4.
//% import grid
//% const WG_SIZE: [64, 256] = 64

const CHAINS: u32 = 8u;

struct Params {
    // Rounds of a chain, or vectors of the copy.
    count: u32,
    factor: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(WG_SIZE)
fn fma_rate(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG_SIZE + lane;
    var a: array<vec4<f32>, CHAINS>;
    for (var k = 0u; k < CHAINS; k++) {
        a[k] = vec4<f32>(f32(i), f32(k), 1.0, 2.0);
    }
    // A factor that the compiler does not know, below 1, so that the values stay finite.
    let m = vec4<f32>(params.factor);
    for (var r = 0u; r < params.count; r++) {
        a[0] = fma(a[0], m, m);
        a[1] = fma(a[1], m, m);
        a[2] = fma(a[2], m, m);
        a[3] = fma(a[3], m, m);
        a[4] = fma(a[4], m, m);
        a[5] = fma(a[5], m, m);
        a[6] = fma(a[6], m, m);
        a[7] = fma(a[7], m, m);
    }
    var sum = vec4<f32>(0.0);
    for (var k = 0u; k < CHAINS; k++) {
        sum += a[k];
    }
    y[i] = bitcast<vec4<u32>>(sum);
}

@compute @workgroup_size(WG_SIZE)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG_SIZE + lane;
    if (i < params.count) {
        y[i] = x[i];
    }
}

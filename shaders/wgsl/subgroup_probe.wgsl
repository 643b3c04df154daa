// What a device's subgroups are, as a probe before kernels rely on them. No CPU twin.
//
// Formula: of invocation i, y[i] = (size of its subgroup, its number there, what the first lane and what the last lane
// broadcast), where lane l of a subgroup broadcasts i * 7 + params.seed.
// Layout: one workgroup, an invocation a vector.
//% needs subgroups
//% const SUBGROUP: [8, 16, 32, 64] = 32
//% const SUBGROUPS: [1, 4] = 4

struct Params {
    seed: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(SUBGROUP * SUBGROUPS)
fn lanes(@builtin(local_invocation_index) i: u32, @builtin(subgroup_size) size: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let value = i * 7u + params.seed;
    y[i] = vec4<u32>(size, lane, subgroupBroadcast(value, 0u), subgroupBroadcast(value, SUBGROUP - 1u));
}

// Sets words to zero. CPU twin: Op::Zero in core/src/cpu/dispatch.
//
// Formula: y[i] = 0. Layout: one word an invocation; `words` in all.
//% import grid
//% const WG_SIZE: [64, 256] = 256

struct Params {
    words: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(WG_SIZE)
fn zero(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG_SIZE + lane;
    if (i < params.words) {
        y[i] = 0u;
    }
}

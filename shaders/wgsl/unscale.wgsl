// Gradients times 1 / loss_scale, in place, and a flag for non-finite ones. CPU twin: core/src/cpu/unscale.rs.
//
// Formula: x = RN(x * RN(1 / loss_scale)); found_inf = 1 if any product is infinite or NaN, which covers every x that
// was. Both are integer work: the bits are those of the CPU, subnormals included.
// Layout: `prepare`, one invocation, makes the reciprocal and clears the flag; `unscale` owns one eight of the packed
// list an invocation.
// Source: PyTorch AmpKernels.cu, _amp_foreach_non_finite_check_and_unscale_.
//% import exact, grid
//% const WG_SIZE: [256] = 256

struct Params {
    vec8_count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> loss_scale: array<u32>;
@group(0) @binding(2) var<storage, read_write> inv_scale: array<u32>;
@group(0) @binding(3) var<storage, read_write> found_inf: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> grads: array<Vec8>;

@compute @workgroup_size(1)
fn prepare() {
    inv_scale[0] = div_exact(EXACT_ONE, loss_scale[0]);
    atomicStore(&found_inf[0], 0u);
}

@compute @workgroup_size(WG_SIZE)
fn unscale(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG_SIZE + lane;
    if (i >= params.vec8_count) {
        return;
    }
    let factor = inv_scale[0];
    var x = unpack_vec8(grads[i]);
    var top = vec4<u32>();
    //% for h in 0..2
    for (var c = 0u; c < 4u; c++) {
        x[$h][c] = mul_exact(x[$h][c], factor);
    }
    top = max(top, x[$h] & vec4<u32>(EXACT_MAGNITUDE));
    //% end
    grads[i] = pack_vec8(x);
    if (any(top >= vec4<u32>(EXACT_INF))) {
        atomicStore(&found_inf[0], EXACT_ONE);
    }
}

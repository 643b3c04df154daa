// Matmul in tiles of workgroup memory, for GPUs: any layout, dtype, scale and edge. CPU twin: core/src/cpu/matmul.rs;
// formula and layout of operands: matmul.wgsl.
//
// A workgroup of 16 x 16 owns 64 x 64 elements of y, an invocation 4 x 4. For every 16 steps of k each invocation reads
// four neighbours of each operand, decodes them once for the workgroup and lays them down by k; beyond the contraction
// they are zero. The inner loop reads workgroup memory only. VEC4_A, VEC4_B: stored rows are multiples of four, else
// elements are read one by one.
// On lavapipe it is slower than `tile` of matmul.wgsl, since every barrier there switches all invocations of a
// workgroup.
//% import matmul, grid
//% const VEC4_A: bool = true
//% const VEC4_B: bool = true

const SIDE: u32 = 64u;
const DEPTH: u32 = 16u;

var<workgroup> a_tile: array<f32, 1024>;
var<workgroup> b_tile: array<f32, 1024>;

// Elements at to at + 3 of a stored row, those from `left` on zero.
fn a_four(at: u32, left: u32) -> vec4<f32> {
    if (VEC4_A) {
        return select(vec4<f32>(), a_vec4(at), left > 0u);
    }
    let four = vec4<f32>(a_scalar(at), a_scalar(at + 1u), a_scalar(at + 2u), a_scalar(at + 3u));
    return select(vec4<f32>(), four, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}

fn b_four(at: u32, left: u32) -> vec4<f32> {
    if (VEC4_B) {
        return select(vec4<f32>(), b_vec4(at), left > 0u);
    }
    let four = vec4<f32>(b_scalar(at), b_scalar(at + 1u), b_scalar(at + 2u), b_scalar(at + 3u));
    return select(vec4<f32>(), four, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}

@compute @workgroup_size(256)
fn shared_tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let g = group_index(group, groups);
    let per_matrix = params.tiles_m * params.tiles_n;
    let z = g / per_matrix;
    if (z >= params.batch * params.splits) {
        return;
    }
    let i0 = g % per_matrix / params.tiles_n * SIDE;
    let j0 = g % per_matrix % params.tiles_n * SIDE;
    let base = bases(z);
    let first = z % params.splits * params.split_k;
    let end = min(first + params.split_k, params.k);
    // What this invocation reads: four along k of one row or column, or four rows or columns of one k.
    let a_row = select(lane / 4u, lane % 16u * 4u, TRANS_A);
    let a_k = select(lane % 4u * 4u, lane / 16u, TRANS_A);
    let b_row = select(lane % 16u * 4u, lane / 4u, TRANS_B);
    let b_k = select(lane / 16u, lane % 4u * 4u, TRANS_B);
    let ti = lane / 16u * 4u;
    let tj = lane % 16u * 4u;
    var y0: vec4<f32>;
    var y1: vec4<f32>;
    var y2: vec4<f32>;
    var y3: vec4<f32>;
    for (var k0 = first; k0 < end; k0 += DEPTH) {
        let ka = k0 + a_k;
        let kb = k0 + b_k;
        let a_left = end - min(ka, end);
        let b_left = end - min(kb, end);
        if (TRANS_A) {
            var v = a_four(base.a + ka * params.m + i0 + a_row, select(0u, 4u, a_left > 0u));
            if (SCALE_A >= BLOCK32_LAST) {
                v *= a_scales(base.scale_a, i0 + a_row, min(ka, end - 1u));
            }
            let at = a_k * SIDE + a_row;
            a_tile[at] = v.x;
            a_tile[at + 1u] = v.y;
            a_tile[at + 2u] = v.z;
            a_tile[at + 3u] = v.w;
        } else {
            var v = a_four(base.a + (i0 + a_row) * params.k + ka, a_left);
            if (SCALE_A >= BLOCK32_LAST) {
                v *= a_scale(base.scale_a, i0 + a_row, min(ka, end - 1u));
            }
            let at = a_k * SIDE + a_row;
            a_tile[at] = v.x;
            a_tile[at + SIDE] = v.y;
            a_tile[at + 2u * SIDE] = v.z;
            a_tile[at + 3u * SIDE] = v.w;
        }
        if (TRANS_B) {
            var v = b_four(base.b + (j0 + b_row) * params.k + kb, b_left);
            if (SCALE_B >= BLOCK32_LAST) {
                v *= b_scale(base.scale_b, j0 + b_row, min(kb, end - 1u));
            }
            let at = b_k * SIDE + b_row;
            b_tile[at] = v.x;
            b_tile[at + SIDE] = v.y;
            b_tile[at + 2u * SIDE] = v.z;
            b_tile[at + 3u * SIDE] = v.w;
        } else {
            var v = b_four(base.b + kb * params.n + j0 + b_row, select(0u, 4u, b_left > 0u));
            if (SCALE_B >= BLOCK32_LAST) {
                v *= b_scales(base.scale_b, j0 + b_row, min(kb, end - 1u));
            }
            let at = b_k * SIDE + b_row;
            b_tile[at] = v.x;
            b_tile[at + 1u] = v.y;
            b_tile[at + 2u] = v.z;
            b_tile[at + 3u] = v.w;
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let x = k * SIDE + ti;
            let w = k * SIDE + tj;
            let b_four = vec4<f32>(b_tile[w], b_tile[w + 1u], b_tile[w + 2u], b_tile[w + 3u]);
            y0 += a_tile[x] * b_four;
            y1 += a_tile[x + 1u] * b_four;
            y2 += a_tile[x + 2u] * b_four;
            y3 += a_tile[x + 3u] * b_four;
        }
        workgroupBarrier();
    }
    let i = i0 + ti;
    let j = j0 + tj;
    if (j < params.n) {
        let rows = min(4u, params.m - min(i, params.m));
        for (var r = 0u; r < rows; r++) {
            store(z, i + r, j, y0);
            y0 = y1;
            y1 = y2;
            y2 = y3;
        }
    }
}

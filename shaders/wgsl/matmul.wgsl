// Matrix products in register tiles. CPU twin: core/src/cpu/matmul.rs (and gemm.rs, pack.rs).
//
// Formula: y[z, i, j] = store(alpha * sum over k of a[z, i, k] * b[z, k, j] + bias[j]), alpha = scale_a[0] * scale_b[0] where operands have a
// scale for the tensor; an E8M0 scale of a block of 32 multiplies its elements as they are decoded. f32 sums, k ascending.
// Layout: a is [M, K] ([K, M] if TRANS_A), b is [K, N] ([N, K] if TRANS_B), y is [M, N], matrix after matrix; dense, packed at their width.
//
// `tile`: an invocation owns 8 x 16 elements of y and takes four steps of k at a time. Of an operand stored along the contraction it reads
// four neighbours of each row; of the other, 8 or 16 neighbours of each k, in vectors of 16 bytes. Stored rows must be whole vectors.
// Nothing is shared and nothing waits. Where subgroups work, matmul_subgroup.wgsl is about twice as fast. Reads beyond a matrix meet other values
// or the end of the buffer; what they yield is not stored.
// `edge`: an invocation owns 4 x 4 elements, read one by one: for rows that are no whole vectors.
// `finish`: the second pass where y could not be written at once: adds the sums of a split contraction, packs rows that share words.
//
// Seen on lavapipe (two AVX-512 cores, GFLOP/s of both by CPU time, 512^3), `tile` NN / NT / TN: f32 28 / 31 / 26, bf16 42 / 33 / 49,
// e4m3 54 / 47 / 48: narrow operands are fewer reads, and lavapipe reads lane by lane. Tiles tried in f32: 4 x 4 16, 4 x 16 23, 8 x 8 28,
// 16 x 8 31, 16 x 16 24, 8 x 32 21. No gain: eight steps of k at a time 20, single words instead of vectors 16, rows shared by a workgroup and
// read at uniform addresses 16, workgroup memory (matmul_shared.wgsl) 5, other shapes of the workgroup 26 to 29. Blocks as mat4x4 in
// functions were as fast, but drivers took 10 times longer to compile them than the flat text below.
//% import product, grid
//% const TAIL: bool = false
//% const LANES_M: [1, 2, 4, 8, 16] = 8
//% const LANES_N: [4, 8, 16, 32] = 8
//% const WG_SIZE: [256] = 256

// Rows and columns of y that an invocation owns start here; k runs over first..end. Those beyond y do nothing.
struct Share {
    z: u32,
    i: u32,
    j: u32,
    first: u32,
    end: u32,
    works: bool,
}

fn share(g: u32, lane: vec3<u32>, rows: u32, columns: u32) -> Share {
    let per_product = params.tiles_m * params.tiles_n;
    let z = g / per_product;
    let t = g % per_product;
    let i = ((t / params.tiles_n) * LANES_M + lane.y) * rows;
    let j = ((t % params.tiles_n) * LANES_N + lane.x) * columns;
    let first = (z % params.splits) * params.split_k;
    let works = z < params.batch * params.splits && i < params.m && j < params.n;
    return Share(z, i, j, first, min(first + params.split_k, params.k), works);
}

@compute @workgroup_size(LANES_N, LANES_M)
fn tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let own = share(group_index(group, groups), lane, 8u, 16u);
    if (!own.works) {
        return;
    }
    let base = bases(own.z);
    let i = own.i;
    let j = own.j;
    // y<row>_<quad>: row i + row, columns j + 4 quad on.
    var y0_0: vec4<f32>;
    var y0_1: vec4<f32>;
    var y0_2: vec4<f32>;
    var y0_3: vec4<f32>;
    var y1_0: vec4<f32>;
    var y1_1: vec4<f32>;
    var y1_2: vec4<f32>;
    var y1_3: vec4<f32>;
    var y2_0: vec4<f32>;
    var y2_1: vec4<f32>;
    var y2_2: vec4<f32>;
    var y2_3: vec4<f32>;
    var y3_0: vec4<f32>;
    var y3_1: vec4<f32>;
    var y3_2: vec4<f32>;
    var y3_3: vec4<f32>;
    var y4_0: vec4<f32>;
    var y4_1: vec4<f32>;
    var y4_2: vec4<f32>;
    var y4_3: vec4<f32>;
    var y5_0: vec4<f32>;
    var y5_1: vec4<f32>;
    var y5_2: vec4<f32>;
    var y5_3: vec4<f32>;
    var y6_0: vec4<f32>;
    var y6_1: vec4<f32>;
    var y6_2: vec4<f32>;
    var y6_3: vec4<f32>;
    var y7_0: vec4<f32>;
    var y7_1: vec4<f32>;
    var y7_2: vec4<f32>;
    var y7_3: vec4<f32>;
    var sa0: vec4<f32>;
    var sa1: vec4<f32>;
    var sb0: vec4<f32>;
    var sb1: vec4<f32>;
    var sb2: vec4<f32>;
    var sb3: vec4<f32>;
    for (var k = own.first; k < own.end; k += 4u) {
        // a<row>: four values along k.
        var a0: vec4<f32>;
        var a1: vec4<f32>;
        var a2: vec4<f32>;
        var a3: vec4<f32>;
        var a4: vec4<f32>;
        var a5: vec4<f32>;
        var a6: vec4<f32>;
        var a7: vec4<f32>;
        if (TRANS_A) {
            let at = base.a + k * params.m + i;
            var v0 = a[(at) >> SHIFT];
            var v1 = a[(at + 1u * params.m) >> SHIFT];
            var v2 = a[(at + 2u * params.m) >> SHIFT];
            var v3 = a[(at + 3u * params.m) >> SHIFT];
            var u0: vec4<u32>;
            var u1: vec4<u32>;
            var u2: vec4<u32>;
            var u3: vec4<u32>;
            if (QUADS == 1u) {
                u0 = a[((at) >> SHIFT) + 1u];
                u1 = a[((at + 1u * params.m) >> SHIFT) + 1u];
                u2 = a[((at + 2u * params.m) >> SHIFT) + 1u];
                u3 = a[((at + 3u * params.m) >> SHIFT) + 1u];
            } else if (QUADS == 2u) {
                u0 = v0.zwxy;
                u1 = v1.zwxy;
                u2 = v2.zwxy;
                u3 = v3.zwxy;
            } else {
                // Rows are whole vectors, so all four are cut alike.
                let high = (at & 8u) != 0u;
                v0 = select(v0, v0.zwxy, high);
                u0 = v0.yzwx;
                v1 = select(v1, v1.zwxy, high);
                u1 = v1.yzwx;
                v2 = select(v2, v2.zwxy, high);
                u2 = v2.yzwx;
                v3 = select(v3, v3.zwxy, high);
                u3 = v3.yzwx;
            }
            let l0 = quad(A, TF32_INPUTS, v0);
            let h0 = quad(A, TF32_INPUTS, u0);
            let l1 = quad(A, TF32_INPUTS, v1);
            let h1 = quad(A, TF32_INPUTS, u1);
            let l2 = quad(A, TF32_INPUTS, v2);
            let h2 = quad(A, TF32_INPUTS, u2);
            let l3 = quad(A, TF32_INPUTS, v3);
            let h3 = quad(A, TF32_INPUTS, u3);
            a0 = vec4<f32>(l0.x, l1.x, l2.x, l3.x);
            a1 = vec4<f32>(l0.y, l1.y, l2.y, l3.y);
            a2 = vec4<f32>(l0.z, l1.z, l2.z, l3.z);
            a3 = vec4<f32>(l0.w, l1.w, l2.w, l3.w);
            a4 = vec4<f32>(h0.x, h1.x, h2.x, h3.x);
            a5 = vec4<f32>(h0.y, h1.y, h2.y, h3.y);
            a6 = vec4<f32>(h0.z, h1.z, h2.z, h3.z);
            a7 = vec4<f32>(h0.w, h1.w, h2.w, h3.w);
            if (TAIL) {
                let inside = vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(params.k);
                a0 = select(vec4<f32>(), a0, inside);
                a1 = select(vec4<f32>(), a1, inside);
                a2 = select(vec4<f32>(), a2, inside);
                a3 = select(vec4<f32>(), a3, inside);
                a4 = select(vec4<f32>(), a4, inside);
                a5 = select(vec4<f32>(), a5, inside);
                a6 = select(vec4<f32>(), a6, inside);
                a7 = select(vec4<f32>(), a7, inside);
            }
        } else {
            let at = base.a + i * params.k + k;
            a0 = a_quad(at);
            a1 = a_quad(at + 1u * params.k);
            a2 = a_quad(at + 2u * params.k);
            a3 = a_quad(at + 3u * params.k);
            a4 = a_quad(at + 4u * params.k);
            a5 = a_quad(at + 5u * params.k);
            a6 = a_quad(at + 6u * params.k);
            a7 = a_quad(at + 7u * params.k);
        }
        if (SCALE_A >= BLOCK32_LAST) {
            if ((k & 31u) == 0u || k == own.first) {
                sa0 = a_scales(base.scale_a, i, k);
                sa1 = a_scales(base.scale_a, i + 4u, k);
            }
            a0 *= sa0.x;
            a1 *= sa0.y;
            a2 *= sa0.z;
            a3 *= sa0.w;
            a4 *= sa1.x;
            a5 *= sa1.y;
            a6 *= sa1.z;
            a7 *= sa1.w;
        }
        // b<k>_<quad>: row k + k of b, four columns.
        var b0_0: vec4<f32>;
        var b0_1: vec4<f32>;
        var b0_2: vec4<f32>;
        var b0_3: vec4<f32>;
        var b1_0: vec4<f32>;
        var b1_1: vec4<f32>;
        var b1_2: vec4<f32>;
        var b1_3: vec4<f32>;
        var b2_0: vec4<f32>;
        var b2_1: vec4<f32>;
        var b2_2: vec4<f32>;
        var b2_3: vec4<f32>;
        var b3_0: vec4<f32>;
        var b3_1: vec4<f32>;
        var b3_2: vec4<f32>;
        var b3_3: vec4<f32>;
        if (TRANS_B) {
            let at = base.b + j * params.k + k;
            let c0 = b_quad(at);
            let c1 = b_quad(at + 1u * params.k);
            let c2 = b_quad(at + 2u * params.k);
            let c3 = b_quad(at + 3u * params.k);
            let c4 = b_quad(at + 4u * params.k);
            let c5 = b_quad(at + 5u * params.k);
            let c6 = b_quad(at + 6u * params.k);
            let c7 = b_quad(at + 7u * params.k);
            let c8 = b_quad(at + 8u * params.k);
            let c9 = b_quad(at + 9u * params.k);
            let c10 = b_quad(at + 10u * params.k);
            let c11 = b_quad(at + 11u * params.k);
            let c12 = b_quad(at + 12u * params.k);
            let c13 = b_quad(at + 13u * params.k);
            let c14 = b_quad(at + 14u * params.k);
            let c15 = b_quad(at + 15u * params.k);
            b0_0 = vec4<f32>(c0.x, c1.x, c2.x, c3.x);
            b0_1 = vec4<f32>(c4.x, c5.x, c6.x, c7.x);
            b0_2 = vec4<f32>(c8.x, c9.x, c10.x, c11.x);
            b0_3 = vec4<f32>(c12.x, c13.x, c14.x, c15.x);
            b1_0 = vec4<f32>(c0.y, c1.y, c2.y, c3.y);
            b1_1 = vec4<f32>(c4.y, c5.y, c6.y, c7.y);
            b1_2 = vec4<f32>(c8.y, c9.y, c10.y, c11.y);
            b1_3 = vec4<f32>(c12.y, c13.y, c14.y, c15.y);
            b2_0 = vec4<f32>(c0.z, c1.z, c2.z, c3.z);
            b2_1 = vec4<f32>(c4.z, c5.z, c6.z, c7.z);
            b2_2 = vec4<f32>(c8.z, c9.z, c10.z, c11.z);
            b2_3 = vec4<f32>(c12.z, c13.z, c14.z, c15.z);
            b3_0 = vec4<f32>(c0.w, c1.w, c2.w, c3.w);
            b3_1 = vec4<f32>(c4.w, c5.w, c6.w, c7.w);
            b3_2 = vec4<f32>(c8.w, c9.w, c10.w, c11.w);
            b3_3 = vec4<f32>(c12.w, c13.w, c14.w, c15.w);
        } else {
            let at = base.b + k * params.n + j;
            let at0 = (at) >> SHIFT;
            let v0 = b[at0];
            let at1 = (at + 1u * params.n) >> SHIFT;
            let v1 = b[at1];
            let at2 = (at + 2u * params.n) >> SHIFT;
            let v2 = b[at2];
            let at3 = (at + 3u * params.n) >> SHIFT;
            let v3 = b[at3];
            if (QUADS == 1u) {
                b0_0 = quad(B, TF32_INPUTS, v0);
                b0_1 = quad(B, TF32_INPUTS, b[at0 + 1u]);
                b0_2 = quad(B, TF32_INPUTS, b[at0 + 2u]);
                b0_3 = quad(B, TF32_INPUTS, b[at0 + 3u]);
                b1_0 = quad(B, TF32_INPUTS, v1);
                b1_1 = quad(B, TF32_INPUTS, b[at1 + 1u]);
                b1_2 = quad(B, TF32_INPUTS, b[at1 + 2u]);
                b1_3 = quad(B, TF32_INPUTS, b[at1 + 3u]);
                b2_0 = quad(B, TF32_INPUTS, v2);
                b2_1 = quad(B, TF32_INPUTS, b[at2 + 1u]);
                b2_2 = quad(B, TF32_INPUTS, b[at2 + 2u]);
                b2_3 = quad(B, TF32_INPUTS, b[at2 + 3u]);
                b3_0 = quad(B, TF32_INPUTS, v3);
                b3_1 = quad(B, TF32_INPUTS, b[at3 + 1u]);
                b3_2 = quad(B, TF32_INPUTS, b[at3 + 2u]);
                b3_3 = quad(B, TF32_INPUTS, b[at3 + 3u]);
            } else if (QUADS == 2u) {
                let u0 = b[at0 + 1u];
                b0_0 = quad(B, TF32_INPUTS, v0);
                b0_1 = quad(B, TF32_INPUTS, v0.zwxy);
                b0_2 = quad(B, TF32_INPUTS, u0);
                b0_3 = quad(B, TF32_INPUTS, u0.zwxy);
                let u1 = b[at1 + 1u];
                b1_0 = quad(B, TF32_INPUTS, v1);
                b1_1 = quad(B, TF32_INPUTS, v1.zwxy);
                b1_2 = quad(B, TF32_INPUTS, u1);
                b1_3 = quad(B, TF32_INPUTS, u1.zwxy);
                let u2 = b[at2 + 1u];
                b2_0 = quad(B, TF32_INPUTS, v2);
                b2_1 = quad(B, TF32_INPUTS, v2.zwxy);
                b2_2 = quad(B, TF32_INPUTS, u2);
                b2_3 = quad(B, TF32_INPUTS, u2.zwxy);
                let u3 = b[at3 + 1u];
                b3_0 = quad(B, TF32_INPUTS, v3);
                b3_1 = quad(B, TF32_INPUTS, v3.zwxy);
                b3_2 = quad(B, TF32_INPUTS, u3);
                b3_3 = quad(B, TF32_INPUTS, u3.zwxy);
            } else {
                b0_0 = quad(B, TF32_INPUTS, v0);
                b0_1 = quad(B, TF32_INPUTS, v0.yzwx);
                b0_2 = quad(B, TF32_INPUTS, v0.zwxy);
                b0_3 = quad(B, TF32_INPUTS, v0.wxyz);
                b1_0 = quad(B, TF32_INPUTS, v1);
                b1_1 = quad(B, TF32_INPUTS, v1.yzwx);
                b1_2 = quad(B, TF32_INPUTS, v1.zwxy);
                b1_3 = quad(B, TF32_INPUTS, v1.wxyz);
                b2_0 = quad(B, TF32_INPUTS, v2);
                b2_1 = quad(B, TF32_INPUTS, v2.yzwx);
                b2_2 = quad(B, TF32_INPUTS, v2.zwxy);
                b2_3 = quad(B, TF32_INPUTS, v2.wxyz);
                b3_0 = quad(B, TF32_INPUTS, v3);
                b3_1 = quad(B, TF32_INPUTS, v3.yzwx);
                b3_2 = quad(B, TF32_INPUTS, v3.zwxy);
                b3_3 = quad(B, TF32_INPUTS, v3.wxyz);
            }
            if (TAIL) {
                b1_0 = select(vec4<f32>(), b1_0, k + 1u < params.k);
                b1_1 = select(vec4<f32>(), b1_1, k + 1u < params.k);
                b1_2 = select(vec4<f32>(), b1_2, k + 1u < params.k);
                b1_3 = select(vec4<f32>(), b1_3, k + 1u < params.k);
                b2_0 = select(vec4<f32>(), b2_0, k + 2u < params.k);
                b2_1 = select(vec4<f32>(), b2_1, k + 2u < params.k);
                b2_2 = select(vec4<f32>(), b2_2, k + 2u < params.k);
                b2_3 = select(vec4<f32>(), b2_3, k + 2u < params.k);
                b3_0 = select(vec4<f32>(), b3_0, k + 3u < params.k);
                b3_1 = select(vec4<f32>(), b3_1, k + 3u < params.k);
                b3_2 = select(vec4<f32>(), b3_2, k + 3u < params.k);
                b3_3 = select(vec4<f32>(), b3_3, k + 3u < params.k);
            }
        }
        if (SCALE_B >= BLOCK32_LAST) {
            if ((k & 31u) == 0u || k == own.first) {
                sb0 = b_scales(base.scale_b, j, k);
                sb1 = b_scales(base.scale_b, j + 4u, k);
                sb2 = b_scales(base.scale_b, j + 8u, k);
                sb3 = b_scales(base.scale_b, j + 12u, k);
            }
            b0_0 *= sb0;
            b0_1 *= sb1;
            b0_2 *= sb2;
            b0_3 *= sb3;
            b1_0 *= sb0;
            b1_1 *= sb1;
            b1_2 *= sb2;
            b1_3 *= sb3;
            b2_0 *= sb0;
            b2_1 *= sb1;
            b2_2 *= sb2;
            b2_3 *= sb3;
            b3_0 *= sb0;
            b3_1 *= sb1;
            b3_2 *= sb2;
            b3_3 *= sb3;
        }
        y0_0 = y0_0 + a0.x * b0_0 + a0.y * b1_0 + a0.z * b2_0 + a0.w * b3_0;
        y0_1 = y0_1 + a0.x * b0_1 + a0.y * b1_1 + a0.z * b2_1 + a0.w * b3_1;
        y0_2 = y0_2 + a0.x * b0_2 + a0.y * b1_2 + a0.z * b2_2 + a0.w * b3_2;
        y0_3 = y0_3 + a0.x * b0_3 + a0.y * b1_3 + a0.z * b2_3 + a0.w * b3_3;
        y1_0 = y1_0 + a1.x * b0_0 + a1.y * b1_0 + a1.z * b2_0 + a1.w * b3_0;
        y1_1 = y1_1 + a1.x * b0_1 + a1.y * b1_1 + a1.z * b2_1 + a1.w * b3_1;
        y1_2 = y1_2 + a1.x * b0_2 + a1.y * b1_2 + a1.z * b2_2 + a1.w * b3_2;
        y1_3 = y1_3 + a1.x * b0_3 + a1.y * b1_3 + a1.z * b2_3 + a1.w * b3_3;
        y2_0 = y2_0 + a2.x * b0_0 + a2.y * b1_0 + a2.z * b2_0 + a2.w * b3_0;
        y2_1 = y2_1 + a2.x * b0_1 + a2.y * b1_1 + a2.z * b2_1 + a2.w * b3_1;
        y2_2 = y2_2 + a2.x * b0_2 + a2.y * b1_2 + a2.z * b2_2 + a2.w * b3_2;
        y2_3 = y2_3 + a2.x * b0_3 + a2.y * b1_3 + a2.z * b2_3 + a2.w * b3_3;
        y3_0 = y3_0 + a3.x * b0_0 + a3.y * b1_0 + a3.z * b2_0 + a3.w * b3_0;
        y3_1 = y3_1 + a3.x * b0_1 + a3.y * b1_1 + a3.z * b2_1 + a3.w * b3_1;
        y3_2 = y3_2 + a3.x * b0_2 + a3.y * b1_2 + a3.z * b2_2 + a3.w * b3_2;
        y3_3 = y3_3 + a3.x * b0_3 + a3.y * b1_3 + a3.z * b2_3 + a3.w * b3_3;
        y4_0 = y4_0 + a4.x * b0_0 + a4.y * b1_0 + a4.z * b2_0 + a4.w * b3_0;
        y4_1 = y4_1 + a4.x * b0_1 + a4.y * b1_1 + a4.z * b2_1 + a4.w * b3_1;
        y4_2 = y4_2 + a4.x * b0_2 + a4.y * b1_2 + a4.z * b2_2 + a4.w * b3_2;
        y4_3 = y4_3 + a4.x * b0_3 + a4.y * b1_3 + a4.z * b2_3 + a4.w * b3_3;
        y5_0 = y5_0 + a5.x * b0_0 + a5.y * b1_0 + a5.z * b2_0 + a5.w * b3_0;
        y5_1 = y5_1 + a5.x * b0_1 + a5.y * b1_1 + a5.z * b2_1 + a5.w * b3_1;
        y5_2 = y5_2 + a5.x * b0_2 + a5.y * b1_2 + a5.z * b2_2 + a5.w * b3_2;
        y5_3 = y5_3 + a5.x * b0_3 + a5.y * b1_3 + a5.z * b2_3 + a5.w * b3_3;
        y6_0 = y6_0 + a6.x * b0_0 + a6.y * b1_0 + a6.z * b2_0 + a6.w * b3_0;
        y6_1 = y6_1 + a6.x * b0_1 + a6.y * b1_1 + a6.z * b2_1 + a6.w * b3_1;
        y6_2 = y6_2 + a6.x * b0_2 + a6.y * b1_2 + a6.z * b2_2 + a6.w * b3_2;
        y6_3 = y6_3 + a6.x * b0_3 + a6.y * b1_3 + a6.z * b2_3 + a6.w * b3_3;
        y7_0 = y7_0 + a7.x * b0_0 + a7.y * b1_0 + a7.z * b2_0 + a7.w * b3_0;
        y7_1 = y7_1 + a7.x * b0_1 + a7.y * b1_1 + a7.z * b2_1 + a7.w * b3_1;
        y7_2 = y7_2 + a7.x * b0_2 + a7.y * b1_2 + a7.z * b2_2 + a7.w * b3_2;
        y7_3 = y7_3 + a7.x * b0_3 + a7.y * b1_3 + a7.z * b2_3 + a7.w * b3_3;
    }
    // The first row is stored quad by quad, then the others move up: the code of a store stands here once.
    let rows = min(8u, params.m - i);
    for (var r = 0u; r < rows; r++) {
        for (var q = 0u; q < 4u; q++) {
            if (j + 4u * q < params.n) {
                store(own.z, i + r, j + 4u * q, y0_0);
            }
            y0_0 = y0_1;
            y0_1 = y0_2;
            y0_2 = y0_3;
        }
        y0_0 = y1_0;
        y0_1 = y1_1;
        y0_2 = y1_2;
        y0_3 = y1_3;
        y1_0 = y2_0;
        y1_1 = y2_1;
        y1_2 = y2_2;
        y1_3 = y2_3;
        y2_0 = y3_0;
        y2_1 = y3_1;
        y2_2 = y3_2;
        y2_3 = y3_3;
        y3_0 = y4_0;
        y3_1 = y4_1;
        y3_2 = y4_2;
        y3_3 = y4_3;
        y4_0 = y5_0;
        y4_1 = y5_1;
        y4_2 = y5_2;
        y4_3 = y5_3;
        y5_0 = y6_0;
        y5_1 = y6_1;
        y5_2 = y6_2;
        y5_3 = y6_3;
        y6_0 = y7_0;
        y6_1 = y7_1;
        y6_2 = y7_2;
        y6_3 = y7_3;
    }
}

@compute @workgroup_size(LANES_N, LANES_M)
fn edge(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let own = share(group_index(group, groups), lane, 4u, 4u);
    if (!own.works) {
        return;
    }
    let base = bases(own.z);
    var c: mat4x4<f32>;
    for (var k = own.first; k < own.end; k++) {
        var x = vec4<f32>(a_element(base.a, own.i, k), a_element(base.a, own.i + 1u, k), a_element(base.a, own.i + 2u, k),
            a_element(base.a, own.i + 3u, k));
        var w = vec4<f32>(b_element(base.b, own.j, k), b_element(base.b, own.j + 1u, k), b_element(base.b, own.j + 2u, k),
            b_element(base.b, own.j + 3u, k));
        if (SCALE_A >= BLOCK32_LAST) {
            x *= a_scales(base.scale_a, own.i, k);
        }
        if (SCALE_B >= BLOCK32_LAST) {
            w *= b_scales(base.scale_b, own.j, k);
        }
        c = mat4x4<f32>(c[0] + x.x * w, c[1] + x.y * w, c[2] + x.z * w, c[3] + x.w * w);
    }
    for (var r = 0u; r < min(4u, params.m - own.i); r++) {
        store(own.z, own.i + r, own.j, c[r]);
    }
}

@compute @workgroup_size(WG_SIZE)
fn finish(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group_index(group, groups) * WG_SIZE + lane) << pack_shift(Y);
    let matrix = params.m * params.n;
    let total = params.batch * matrix;
    if (i >= total) {
        return;
    }
    var word = 0u;
    for (var at = i; at < min(i + pack_size(Y), total); at++) {
        let first = (at / matrix) * params.splits * matrix + at % matrix;
        var sum = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            sum += bitcast<f32>(sums[first + s * matrix]);
        }
        word |= place_code(Y, encode(Y, finished(sum, at % params.n)), at);
    }
    y[word_of(Y, i)] = word;
}

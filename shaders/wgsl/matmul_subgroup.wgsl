// Matrix products in tiles that a subgroup owns. CPU twin: core/src/cpu/matmul.rs; formula and layout of operands: matmul.wgsl.
//
// A subgroup owns 32 rows of y and 4 or 8 columns for each of its lanes; a lane keeps the sums of its columns, 32 x 4 or 32 x 8 of them. For
// every four steps of k a lane reads its own columns of b, but only its share of a (a quad of each row, or of each k where a is stored by
// k), which then goes to all lanes by broadcast. With 8 lanes a value of a serves 32 or 64 columns and one of b 32 rows, against 16 and 8 in
// `tile`; nothing waits.
// Sums run over k ascending, one product after the other: the bits of every other kernel of products.
// Rows must be whole vectors of 16 bytes. An operand stored along k gives 2 or 4 quads of a narrow dtype for one read.
//
// Seen on lavapipe (two quiet AVX-512 cores, 8 lanes, f32, GFLOP/s of both by CPU time, NN / NT / TN): 1024^3 63 / 57 / 39, 128 x 384 x 2048
// 64 / 62 / 63 (`tile` at 512^3: 28 / 31 / 26). TN suffers where rows lie 4 KiB apart: each step reads other pages. What costs otherwise is
// loads: one of 16 bytes in each of 8 lanes is a loop of 290 instructions, as much as 100 multiply-adds. Versions for f32 alone, on busy
// cores: 4 columns a lane 62 / 69 / 61, 8 columns 71 / 67 / 71; fewer rows read more often: 8 rows of 4 columns 32 and 16 of 4 46 (NN, 512^3),
// 16 of 8 53 / 58 / 53; more, 64 of 4, 51 / 74 / 61: rows of 4 KiB meet in one set of a cache. Tiles along the rows of y first are as fast
// alone, but while other programs used the caches NN fell to 27 where it now had 49. No gain: bands of 4 rows of tiles, several subgroups in
// a workgroup, subgroupShuffle for subgroupBroadcast, `fma` (lavapipe splits it), reading a word of every line of the next four steps ahead
// (41 / 54 / 36). Compiling takes 0.2 s of CPU time with 4 columns a lane, 0.3 s with 8. Not tried on a GPU.
//% needs subgroups
//% import product, grid
//% const TAIL: bool = false
//% const SUBGROUP: [8, 16, 32, 64] = 32
//% const SUBGROUPS: [1, 4] = 4
//% const QUADS_N: [1, 2] = 1

const ROWS: u32 = 32u;

// The words of a vector with those of the quad at element `at` in front.
fn front(v: vec4<u32>, at: u32) -> vec4<u32> {
    let half = select(v, v.zwxy, QUADS > 1u && (at & (2u * QUADS)) != 0u);
    return select(half, half.yzwx, QUADS == 4u && (at & 4u) != 0u);
}

// The words with those of the next quad in front.
fn turned(v: vec4<u32>) -> vec4<u32> {
    return select(v.zwxy, v.yzwx, QUADS == 4u);
}

// Whether k is the first step that a vector stored along k serves.
fn fresh(k: u32) -> bool {
    return (k & (4u * QUADS - 1u)) == 0u;
}

// The quad of a that is number t of 32: row t, or rows 4 (t % 8) on of k + t / 8.
fn next_a(before: vec4<u32>, base: u32, i: u32, k: u32, t: u32) -> vec4<u32> {
    let at = base + select((i + t) * params.k + k, (k + t / 8u) * params.m + i + t % 8u * 4u, TRANS_A);
    var v = turned(before);
    if (TRANS_A || fresh(k)) {
        v = a[at >> SHIFT];
    }
    return select(v, front(v, at), TRANS_A);
}

fn a_values(words: vec4<u32>, scales: vec4<f32>, k: u32, t: u32) -> vec4<f32> {
    let v = select(quad(A, TF32_INPUTS, words), quad(A, TF32_INPUTS, words) * scales, SCALE_A >= BLOCK32_LAST);
    return select(v, vec4<f32>(), TAIL && TRANS_A && k + t / 8u >= params.k);
}

// Scales of that quad.
fn a_block(base: u32, i: u32, k: u32, t: u32) -> vec4<f32> {
    var s: vec4<f32>;
    if (TRANS_A) {
        s = a_scales(base, i + t % 8u * 4u, min(k + t / 8u, params.k - 1u));
    } else {
        s = vec4<f32>(a_scale(base, i + t, k));
    }
    return s;
}

// Four steps of column j, for b stored along k.
fn next_b(before: vec4<u32>, base: u32, j: u32, k: u32) -> vec4<u32> {
    var v = turned(before);
    if (fresh(k)) {
        v = b[(base + j * params.k + k) >> SHIFT];
    }
    return v;
}

fn b_values(words: vec4<u32>) -> vec4<f32> {
    return quad(B, TF32_INPUTS, words);
}

@compute @workgroup_size(SUBGROUP * SUBGROUPS)
fn subgroup_tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let g = group_index(group, groups);
    let per_product = params.tiles_m * params.tiles_n;
    let z = g / per_product;
    if (z >= params.batch * params.splits) {
        return;
    }
    let base = bases(z);
    let lane = index % SUBGROUP;
    // Down the columns of y, so that what tiles share of b stays in a cache.
    let i = g % per_product % params.tiles_m * ROWS;
    let j = (g % per_product / params.tiles_m * SUBGROUPS * SUBGROUP + index) * 4u * QUADS_N;
    let first = z % params.splits * params.split_k;
    let end = min(first + params.split_k, params.k);
    // Numbers of this lane's quads of a.
    let t0 = lane % ROWS;
    let t1 = (lane + SUBGROUP) % ROWS;
    let t2 = (lane + 2u * SUBGROUP) % ROWS;
    let t3 = (lane + 3u * SUBGROUP) % ROWS;
    var y0_0: vec4<f32>;
    var y1_0: vec4<f32>;
    var y2_0: vec4<f32>;
    var y3_0: vec4<f32>;
    var y4_0: vec4<f32>;
    var y5_0: vec4<f32>;
    var y6_0: vec4<f32>;
    var y7_0: vec4<f32>;
    var y8_0: vec4<f32>;
    var y9_0: vec4<f32>;
    var y10_0: vec4<f32>;
    var y11_0: vec4<f32>;
    var y12_0: vec4<f32>;
    var y13_0: vec4<f32>;
    var y14_0: vec4<f32>;
    var y15_0: vec4<f32>;
    var y16_0: vec4<f32>;
    var y17_0: vec4<f32>;
    var y18_0: vec4<f32>;
    var y19_0: vec4<f32>;
    var y20_0: vec4<f32>;
    var y21_0: vec4<f32>;
    var y22_0: vec4<f32>;
    var y23_0: vec4<f32>;
    var y24_0: vec4<f32>;
    var y25_0: vec4<f32>;
    var y26_0: vec4<f32>;
    var y27_0: vec4<f32>;
    var y28_0: vec4<f32>;
    var y29_0: vec4<f32>;
    var y30_0: vec4<f32>;
    var y31_0: vec4<f32>;
    var y0_1: vec4<f32>;
    var y1_1: vec4<f32>;
    var y2_1: vec4<f32>;
    var y3_1: vec4<f32>;
    var y4_1: vec4<f32>;
    var y5_1: vec4<f32>;
    var y6_1: vec4<f32>;
    var y7_1: vec4<f32>;
    var y8_1: vec4<f32>;
    var y9_1: vec4<f32>;
    var y10_1: vec4<f32>;
    var y11_1: vec4<f32>;
    var y12_1: vec4<f32>;
    var y13_1: vec4<f32>;
    var y14_1: vec4<f32>;
    var y15_1: vec4<f32>;
    var y16_1: vec4<f32>;
    var y17_1: vec4<f32>;
    var y18_1: vec4<f32>;
    var y19_1: vec4<f32>;
    var y20_1: vec4<f32>;
    var y21_1: vec4<f32>;
    var y22_1: vec4<f32>;
    var y23_1: vec4<f32>;
    var y24_1: vec4<f32>;
    var y25_1: vec4<f32>;
    var y26_1: vec4<f32>;
    var y27_1: vec4<f32>;
    var y28_1: vec4<f32>;
    var y29_1: vec4<f32>;
    var y30_1: vec4<f32>;
    var y31_1: vec4<f32>;
    var a0: vec4<u32>;
    var a1: vec4<u32>;
    var a2: vec4<u32>;
    var a3: vec4<u32>;
    var c0: vec4<u32>;
    var c1: vec4<u32>;
    var c2: vec4<u32>;
    var c3: vec4<u32>;
    var c4: vec4<u32>;
    var c5: vec4<u32>;
    var c6: vec4<u32>;
    var c7: vec4<u32>;
    var sa0: vec4<f32>;
    var sa1: vec4<f32>;
    var sa2: vec4<f32>;
    var sa3: vec4<f32>;
    var sb0: vec4<f32>;
    var sb1: vec4<f32>;
    for (var k = first; k < end; k += 4u) {
        if (SCALE_A >= BLOCK32_LAST && ((k & 31u) == 0u || k == first)) {
            sa0 = a_block(base.scale_a, i, k, t0);
            if (SUBGROUP < 32u) {
                sa1 = a_block(base.scale_a, i, k, t1);
            }
            if (SUBGROUP < 16u) {
                sa2 = a_block(base.scale_a, i, k, t2);
                sa3 = a_block(base.scale_a, i, k, t3);
            }
        }
        a0 = next_a(a0, base.a, i, k, t0);
        if (SUBGROUP < 32u) {
            a1 = next_a(a1, base.a, i, k, t1);
        }
        if (SUBGROUP < 16u) {
            a2 = next_a(a2, base.a, i, k, t2);
            a3 = next_a(a3, base.a, i, k, t3);
        }
        let q = array<vec4<f32>, 4>(a_values(a0, sa0, k, t0), a_values(a1, sa1, k, t1), a_values(a2, sa2, k, t2), a_values(a3, sa3, k, t3));
        // b<k>_<quad>: row k + k of b, four columns.
        var b0_0: vec4<f32>;
        var b0_1: vec4<f32>;
        var b1_0: vec4<f32>;
        var b1_1: vec4<f32>;
        var b2_0: vec4<f32>;
        var b2_1: vec4<f32>;
        var b3_0: vec4<f32>;
        var b3_1: vec4<f32>;
        if (TRANS_B) {
            c0 = next_b(c0, base.b, j, k);
            c1 = next_b(c1, base.b, j + 1u, k);
            c2 = next_b(c2, base.b, j + 2u, k);
            c3 = next_b(c3, base.b, j + 3u, k);
            let d0 = b_values(c0);
            let d1 = b_values(c1);
            let d2 = b_values(c2);
            let d3 = b_values(c3);
            b0_0 = vec4<f32>(d0.x, d1.x, d2.x, d3.x);
            b1_0 = vec4<f32>(d0.y, d1.y, d2.y, d3.y);
            b2_0 = vec4<f32>(d0.z, d1.z, d2.z, d3.z);
            b3_0 = vec4<f32>(d0.w, d1.w, d2.w, d3.w);
            if (QUADS_N == 2u) {
                c4 = next_b(c4, base.b, j + 4u, k);
                c5 = next_b(c5, base.b, j + 5u, k);
                c6 = next_b(c6, base.b, j + 6u, k);
                c7 = next_b(c7, base.b, j + 7u, k);
                let d4 = b_values(c4);
                let d5 = b_values(c5);
                let d6 = b_values(c6);
                let d7 = b_values(c7);
                b0_1 = vec4<f32>(d4.x, d5.x, d6.x, d7.x);
                b1_1 = vec4<f32>(d4.y, d5.y, d6.y, d7.y);
                b2_1 = vec4<f32>(d4.z, d5.z, d6.z, d7.z);
                b3_1 = vec4<f32>(d4.w, d5.w, d6.w, d7.w);
            }
        } else {
            let at = base.b + k * params.n + j;
            let at0 = at;
            let v0 = front(b[at0 >> SHIFT], at0);
            b0_0 = b_values(v0);
            let at1 = at + params.n;
            let v1 = front(b[at1 >> SHIFT], at1);
            b1_0 = b_values(v1);
            let at2 = at + 2u * params.n;
            let v2 = front(b[at2 >> SHIFT], at2);
            b2_0 = b_values(v2);
            let at3 = at + 3u * params.n;
            let v3 = front(b[at3 >> SHIFT], at3);
            b3_0 = b_values(v3);
            if (QUADS_N == 2u) {
                var w0 = turned(v0);
                var w1 = turned(v1);
                var w2 = turned(v2);
                var w3 = turned(v3);
                if (QUADS == 1u) {
                    w0 = b[(at0 >> SHIFT) + 1u];
                    w1 = b[(at1 >> SHIFT) + 1u];
                    w2 = b[(at2 >> SHIFT) + 1u];
                    w3 = b[(at3 >> SHIFT) + 1u];
                }
                b0_1 = b_values(w0);
                b1_1 = b_values(w1);
                b2_1 = b_values(w2);
                b3_1 = b_values(w3);
            }
            if (TAIL) {
                b1_0 = select(vec4<f32>(), b1_0, k + 1u < params.k);
                b1_1 = select(vec4<f32>(), b1_1, k + 1u < params.k);
                b2_0 = select(vec4<f32>(), b2_0, k + 2u < params.k);
                b2_1 = select(vec4<f32>(), b2_1, k + 2u < params.k);
                b3_0 = select(vec4<f32>(), b3_0, k + 3u < params.k);
                b3_1 = select(vec4<f32>(), b3_1, k + 3u < params.k);
            }
        }
        if (SCALE_B >= BLOCK32_LAST) {
            if ((k & 31u) == 0u || k == first) {
                sb0 = b_scales(base.scale_b, j, k);
                if (QUADS_N == 2u) {
                    sb1 = b_scales(base.scale_b, j + 4u, k);
                }
            }
            b0_0 *= sb0;
            b0_1 *= sb1;
            b1_0 *= sb0;
            b1_1 *= sb1;
            b2_0 *= sb0;
            b2_1 *= sb1;
            b3_0 *= sb0;
            b3_1 *= sb1;
        }
        // Four rows at a time; o<n> is quad n of these rows, x<row> their values along k.
        let o0 = subgroupBroadcast(q[select(0u, 0u, TRANS_A) / SUBGROUP], select(0u, 0u, TRANS_A) % SUBGROUP);
        let o1 = subgroupBroadcast(q[select(1u, 8u, TRANS_A) / SUBGROUP], select(1u, 8u, TRANS_A) % SUBGROUP);
        let o2 = subgroupBroadcast(q[select(2u, 16u, TRANS_A) / SUBGROUP], select(2u, 16u, TRANS_A) % SUBGROUP);
        let o3 = subgroupBroadcast(q[select(3u, 24u, TRANS_A) / SUBGROUP], select(3u, 24u, TRANS_A) % SUBGROUP);
        let x0 = select(o0, vec4<f32>(o0.x, o1.x, o2.x, o3.x), TRANS_A);
        let x1 = select(o1, vec4<f32>(o0.y, o1.y, o2.y, o3.y), TRANS_A);
        let x2 = select(o2, vec4<f32>(o0.z, o1.z, o2.z, o3.z), TRANS_A);
        let x3 = select(o3, vec4<f32>(o0.w, o1.w, o2.w, o3.w), TRANS_A);
        y0_0 = y0_0 + x0.x * b0_0 + x0.y * b1_0 + x0.z * b2_0 + x0.w * b3_0;
        y1_0 = y1_0 + x1.x * b0_0 + x1.y * b1_0 + x1.z * b2_0 + x1.w * b3_0;
        y2_0 = y2_0 + x2.x * b0_0 + x2.y * b1_0 + x2.z * b2_0 + x2.w * b3_0;
        y3_0 = y3_0 + x3.x * b0_0 + x3.y * b1_0 + x3.z * b2_0 + x3.w * b3_0;
        if (QUADS_N == 2u) {
            y0_1 = y0_1 + x0.x * b0_1 + x0.y * b1_1 + x0.z * b2_1 + x0.w * b3_1;
            y1_1 = y1_1 + x1.x * b0_1 + x1.y * b1_1 + x1.z * b2_1 + x1.w * b3_1;
            y2_1 = y2_1 + x2.x * b0_1 + x2.y * b1_1 + x2.z * b2_1 + x2.w * b3_1;
            y3_1 = y3_1 + x3.x * b0_1 + x3.y * b1_1 + x3.z * b2_1 + x3.w * b3_1;
        }
        let o4 = subgroupBroadcast(q[select(4u, 1u, TRANS_A) / SUBGROUP], select(4u, 1u, TRANS_A) % SUBGROUP);
        let o5 = subgroupBroadcast(q[select(5u, 9u, TRANS_A) / SUBGROUP], select(5u, 9u, TRANS_A) % SUBGROUP);
        let o6 = subgroupBroadcast(q[select(6u, 17u, TRANS_A) / SUBGROUP], select(6u, 17u, TRANS_A) % SUBGROUP);
        let o7 = subgroupBroadcast(q[select(7u, 25u, TRANS_A) / SUBGROUP], select(7u, 25u, TRANS_A) % SUBGROUP);
        let x4 = select(o4, vec4<f32>(o4.x, o5.x, o6.x, o7.x), TRANS_A);
        let x5 = select(o5, vec4<f32>(o4.y, o5.y, o6.y, o7.y), TRANS_A);
        let x6 = select(o6, vec4<f32>(o4.z, o5.z, o6.z, o7.z), TRANS_A);
        let x7 = select(o7, vec4<f32>(o4.w, o5.w, o6.w, o7.w), TRANS_A);
        y4_0 = y4_0 + x4.x * b0_0 + x4.y * b1_0 + x4.z * b2_0 + x4.w * b3_0;
        y5_0 = y5_0 + x5.x * b0_0 + x5.y * b1_0 + x5.z * b2_0 + x5.w * b3_0;
        y6_0 = y6_0 + x6.x * b0_0 + x6.y * b1_0 + x6.z * b2_0 + x6.w * b3_0;
        y7_0 = y7_0 + x7.x * b0_0 + x7.y * b1_0 + x7.z * b2_0 + x7.w * b3_0;
        if (QUADS_N == 2u) {
            y4_1 = y4_1 + x4.x * b0_1 + x4.y * b1_1 + x4.z * b2_1 + x4.w * b3_1;
            y5_1 = y5_1 + x5.x * b0_1 + x5.y * b1_1 + x5.z * b2_1 + x5.w * b3_1;
            y6_1 = y6_1 + x6.x * b0_1 + x6.y * b1_1 + x6.z * b2_1 + x6.w * b3_1;
            y7_1 = y7_1 + x7.x * b0_1 + x7.y * b1_1 + x7.z * b2_1 + x7.w * b3_1;
        }
        let o8 = subgroupBroadcast(q[select(8u, 2u, TRANS_A) / SUBGROUP], select(8u, 2u, TRANS_A) % SUBGROUP);
        let o9 = subgroupBroadcast(q[select(9u, 10u, TRANS_A) / SUBGROUP], select(9u, 10u, TRANS_A) % SUBGROUP);
        let o10 = subgroupBroadcast(q[select(10u, 18u, TRANS_A) / SUBGROUP], select(10u, 18u, TRANS_A) % SUBGROUP);
        let o11 = subgroupBroadcast(q[select(11u, 26u, TRANS_A) / SUBGROUP], select(11u, 26u, TRANS_A) % SUBGROUP);
        let x8 = select(o8, vec4<f32>(o8.x, o9.x, o10.x, o11.x), TRANS_A);
        let x9 = select(o9, vec4<f32>(o8.y, o9.y, o10.y, o11.y), TRANS_A);
        let x10 = select(o10, vec4<f32>(o8.z, o9.z, o10.z, o11.z), TRANS_A);
        let x11 = select(o11, vec4<f32>(o8.w, o9.w, o10.w, o11.w), TRANS_A);
        y8_0 = y8_0 + x8.x * b0_0 + x8.y * b1_0 + x8.z * b2_0 + x8.w * b3_0;
        y9_0 = y9_0 + x9.x * b0_0 + x9.y * b1_0 + x9.z * b2_0 + x9.w * b3_0;
        y10_0 = y10_0 + x10.x * b0_0 + x10.y * b1_0 + x10.z * b2_0 + x10.w * b3_0;
        y11_0 = y11_0 + x11.x * b0_0 + x11.y * b1_0 + x11.z * b2_0 + x11.w * b3_0;
        if (QUADS_N == 2u) {
            y8_1 = y8_1 + x8.x * b0_1 + x8.y * b1_1 + x8.z * b2_1 + x8.w * b3_1;
            y9_1 = y9_1 + x9.x * b0_1 + x9.y * b1_1 + x9.z * b2_1 + x9.w * b3_1;
            y10_1 = y10_1 + x10.x * b0_1 + x10.y * b1_1 + x10.z * b2_1 + x10.w * b3_1;
            y11_1 = y11_1 + x11.x * b0_1 + x11.y * b1_1 + x11.z * b2_1 + x11.w * b3_1;
        }
        let o12 = subgroupBroadcast(q[select(12u, 3u, TRANS_A) / SUBGROUP], select(12u, 3u, TRANS_A) % SUBGROUP);
        let o13 = subgroupBroadcast(q[select(13u, 11u, TRANS_A) / SUBGROUP], select(13u, 11u, TRANS_A) % SUBGROUP);
        let o14 = subgroupBroadcast(q[select(14u, 19u, TRANS_A) / SUBGROUP], select(14u, 19u, TRANS_A) % SUBGROUP);
        let o15 = subgroupBroadcast(q[select(15u, 27u, TRANS_A) / SUBGROUP], select(15u, 27u, TRANS_A) % SUBGROUP);
        let x12 = select(o12, vec4<f32>(o12.x, o13.x, o14.x, o15.x), TRANS_A);
        let x13 = select(o13, vec4<f32>(o12.y, o13.y, o14.y, o15.y), TRANS_A);
        let x14 = select(o14, vec4<f32>(o12.z, o13.z, o14.z, o15.z), TRANS_A);
        let x15 = select(o15, vec4<f32>(o12.w, o13.w, o14.w, o15.w), TRANS_A);
        y12_0 = y12_0 + x12.x * b0_0 + x12.y * b1_0 + x12.z * b2_0 + x12.w * b3_0;
        y13_0 = y13_0 + x13.x * b0_0 + x13.y * b1_0 + x13.z * b2_0 + x13.w * b3_0;
        y14_0 = y14_0 + x14.x * b0_0 + x14.y * b1_0 + x14.z * b2_0 + x14.w * b3_0;
        y15_0 = y15_0 + x15.x * b0_0 + x15.y * b1_0 + x15.z * b2_0 + x15.w * b3_0;
        if (QUADS_N == 2u) {
            y12_1 = y12_1 + x12.x * b0_1 + x12.y * b1_1 + x12.z * b2_1 + x12.w * b3_1;
            y13_1 = y13_1 + x13.x * b0_1 + x13.y * b1_1 + x13.z * b2_1 + x13.w * b3_1;
            y14_1 = y14_1 + x14.x * b0_1 + x14.y * b1_1 + x14.z * b2_1 + x14.w * b3_1;
            y15_1 = y15_1 + x15.x * b0_1 + x15.y * b1_1 + x15.z * b2_1 + x15.w * b3_1;
        }
        let o16 = subgroupBroadcast(q[select(16u, 4u, TRANS_A) / SUBGROUP], select(16u, 4u, TRANS_A) % SUBGROUP);
        let o17 = subgroupBroadcast(q[select(17u, 12u, TRANS_A) / SUBGROUP], select(17u, 12u, TRANS_A) % SUBGROUP);
        let o18 = subgroupBroadcast(q[select(18u, 20u, TRANS_A) / SUBGROUP], select(18u, 20u, TRANS_A) % SUBGROUP);
        let o19 = subgroupBroadcast(q[select(19u, 28u, TRANS_A) / SUBGROUP], select(19u, 28u, TRANS_A) % SUBGROUP);
        let x16 = select(o16, vec4<f32>(o16.x, o17.x, o18.x, o19.x), TRANS_A);
        let x17 = select(o17, vec4<f32>(o16.y, o17.y, o18.y, o19.y), TRANS_A);
        let x18 = select(o18, vec4<f32>(o16.z, o17.z, o18.z, o19.z), TRANS_A);
        let x19 = select(o19, vec4<f32>(o16.w, o17.w, o18.w, o19.w), TRANS_A);
        y16_0 = y16_0 + x16.x * b0_0 + x16.y * b1_0 + x16.z * b2_0 + x16.w * b3_0;
        y17_0 = y17_0 + x17.x * b0_0 + x17.y * b1_0 + x17.z * b2_0 + x17.w * b3_0;
        y18_0 = y18_0 + x18.x * b0_0 + x18.y * b1_0 + x18.z * b2_0 + x18.w * b3_0;
        y19_0 = y19_0 + x19.x * b0_0 + x19.y * b1_0 + x19.z * b2_0 + x19.w * b3_0;
        if (QUADS_N == 2u) {
            y16_1 = y16_1 + x16.x * b0_1 + x16.y * b1_1 + x16.z * b2_1 + x16.w * b3_1;
            y17_1 = y17_1 + x17.x * b0_1 + x17.y * b1_1 + x17.z * b2_1 + x17.w * b3_1;
            y18_1 = y18_1 + x18.x * b0_1 + x18.y * b1_1 + x18.z * b2_1 + x18.w * b3_1;
            y19_1 = y19_1 + x19.x * b0_1 + x19.y * b1_1 + x19.z * b2_1 + x19.w * b3_1;
        }
        let o20 = subgroupBroadcast(q[select(20u, 5u, TRANS_A) / SUBGROUP], select(20u, 5u, TRANS_A) % SUBGROUP);
        let o21 = subgroupBroadcast(q[select(21u, 13u, TRANS_A) / SUBGROUP], select(21u, 13u, TRANS_A) % SUBGROUP);
        let o22 = subgroupBroadcast(q[select(22u, 21u, TRANS_A) / SUBGROUP], select(22u, 21u, TRANS_A) % SUBGROUP);
        let o23 = subgroupBroadcast(q[select(23u, 29u, TRANS_A) / SUBGROUP], select(23u, 29u, TRANS_A) % SUBGROUP);
        let x20 = select(o20, vec4<f32>(o20.x, o21.x, o22.x, o23.x), TRANS_A);
        let x21 = select(o21, vec4<f32>(o20.y, o21.y, o22.y, o23.y), TRANS_A);
        let x22 = select(o22, vec4<f32>(o20.z, o21.z, o22.z, o23.z), TRANS_A);
        let x23 = select(o23, vec4<f32>(o20.w, o21.w, o22.w, o23.w), TRANS_A);
        y20_0 = y20_0 + x20.x * b0_0 + x20.y * b1_0 + x20.z * b2_0 + x20.w * b3_0;
        y21_0 = y21_0 + x21.x * b0_0 + x21.y * b1_0 + x21.z * b2_0 + x21.w * b3_0;
        y22_0 = y22_0 + x22.x * b0_0 + x22.y * b1_0 + x22.z * b2_0 + x22.w * b3_0;
        y23_0 = y23_0 + x23.x * b0_0 + x23.y * b1_0 + x23.z * b2_0 + x23.w * b3_0;
        if (QUADS_N == 2u) {
            y20_1 = y20_1 + x20.x * b0_1 + x20.y * b1_1 + x20.z * b2_1 + x20.w * b3_1;
            y21_1 = y21_1 + x21.x * b0_1 + x21.y * b1_1 + x21.z * b2_1 + x21.w * b3_1;
            y22_1 = y22_1 + x22.x * b0_1 + x22.y * b1_1 + x22.z * b2_1 + x22.w * b3_1;
            y23_1 = y23_1 + x23.x * b0_1 + x23.y * b1_1 + x23.z * b2_1 + x23.w * b3_1;
        }
        let o24 = subgroupBroadcast(q[select(24u, 6u, TRANS_A) / SUBGROUP], select(24u, 6u, TRANS_A) % SUBGROUP);
        let o25 = subgroupBroadcast(q[select(25u, 14u, TRANS_A) / SUBGROUP], select(25u, 14u, TRANS_A) % SUBGROUP);
        let o26 = subgroupBroadcast(q[select(26u, 22u, TRANS_A) / SUBGROUP], select(26u, 22u, TRANS_A) % SUBGROUP);
        let o27 = subgroupBroadcast(q[select(27u, 30u, TRANS_A) / SUBGROUP], select(27u, 30u, TRANS_A) % SUBGROUP);
        let x24 = select(o24, vec4<f32>(o24.x, o25.x, o26.x, o27.x), TRANS_A);
        let x25 = select(o25, vec4<f32>(o24.y, o25.y, o26.y, o27.y), TRANS_A);
        let x26 = select(o26, vec4<f32>(o24.z, o25.z, o26.z, o27.z), TRANS_A);
        let x27 = select(o27, vec4<f32>(o24.w, o25.w, o26.w, o27.w), TRANS_A);
        y24_0 = y24_0 + x24.x * b0_0 + x24.y * b1_0 + x24.z * b2_0 + x24.w * b3_0;
        y25_0 = y25_0 + x25.x * b0_0 + x25.y * b1_0 + x25.z * b2_0 + x25.w * b3_0;
        y26_0 = y26_0 + x26.x * b0_0 + x26.y * b1_0 + x26.z * b2_0 + x26.w * b3_0;
        y27_0 = y27_0 + x27.x * b0_0 + x27.y * b1_0 + x27.z * b2_0 + x27.w * b3_0;
        if (QUADS_N == 2u) {
            y24_1 = y24_1 + x24.x * b0_1 + x24.y * b1_1 + x24.z * b2_1 + x24.w * b3_1;
            y25_1 = y25_1 + x25.x * b0_1 + x25.y * b1_1 + x25.z * b2_1 + x25.w * b3_1;
            y26_1 = y26_1 + x26.x * b0_1 + x26.y * b1_1 + x26.z * b2_1 + x26.w * b3_1;
            y27_1 = y27_1 + x27.x * b0_1 + x27.y * b1_1 + x27.z * b2_1 + x27.w * b3_1;
        }
        let o28 = subgroupBroadcast(q[select(28u, 7u, TRANS_A) / SUBGROUP], select(28u, 7u, TRANS_A) % SUBGROUP);
        let o29 = subgroupBroadcast(q[select(29u, 15u, TRANS_A) / SUBGROUP], select(29u, 15u, TRANS_A) % SUBGROUP);
        let o30 = subgroupBroadcast(q[select(30u, 23u, TRANS_A) / SUBGROUP], select(30u, 23u, TRANS_A) % SUBGROUP);
        let o31 = subgroupBroadcast(q[select(31u, 31u, TRANS_A) / SUBGROUP], select(31u, 31u, TRANS_A) % SUBGROUP);
        let x28 = select(o28, vec4<f32>(o28.x, o29.x, o30.x, o31.x), TRANS_A);
        let x29 = select(o29, vec4<f32>(o28.y, o29.y, o30.y, o31.y), TRANS_A);
        let x30 = select(o30, vec4<f32>(o28.z, o29.z, o30.z, o31.z), TRANS_A);
        let x31 = select(o31, vec4<f32>(o28.w, o29.w, o30.w, o31.w), TRANS_A);
        y28_0 = y28_0 + x28.x * b0_0 + x28.y * b1_0 + x28.z * b2_0 + x28.w * b3_0;
        y29_0 = y29_0 + x29.x * b0_0 + x29.y * b1_0 + x29.z * b2_0 + x29.w * b3_0;
        y30_0 = y30_0 + x30.x * b0_0 + x30.y * b1_0 + x30.z * b2_0 + x30.w * b3_0;
        y31_0 = y31_0 + x31.x * b0_0 + x31.y * b1_0 + x31.z * b2_0 + x31.w * b3_0;
        if (QUADS_N == 2u) {
            y28_1 = y28_1 + x28.x * b0_1 + x28.y * b1_1 + x28.z * b2_1 + x28.w * b3_1;
            y29_1 = y29_1 + x29.x * b0_1 + x29.y * b1_1 + x29.z * b2_1 + x29.w * b3_1;
            y30_1 = y30_1 + x30.x * b0_1 + x30.y * b1_1 + x30.z * b2_1 + x30.w * b3_1;
            y31_1 = y31_1 + x31.x * b0_1 + x31.y * b1_1 + x31.z * b2_1 + x31.w * b3_1;
        }
    }
    // The first row is stored, then the others move up: the code of a store stands here once.
    let rows = min(ROWS, params.m - i);
    for (var r = 0u; r < rows; r++) {
        if (j < params.n) {
            store(z, i + r, j, y0_0);
        }
        if (QUADS_N == 2u && j + 4u < params.n) {
            store(z, i + r, j + 4u, y0_1);
        }
        y0_0 = y1_0;
        y1_0 = y2_0;
        y2_0 = y3_0;
        y3_0 = y4_0;
        y4_0 = y5_0;
        y5_0 = y6_0;
        y6_0 = y7_0;
        y7_0 = y8_0;
        y8_0 = y9_0;
        y9_0 = y10_0;
        y10_0 = y11_0;
        y11_0 = y12_0;
        y12_0 = y13_0;
        y13_0 = y14_0;
        y14_0 = y15_0;
        y15_0 = y16_0;
        y16_0 = y17_0;
        y17_0 = y18_0;
        y18_0 = y19_0;
        y19_0 = y20_0;
        y20_0 = y21_0;
        y21_0 = y22_0;
        y22_0 = y23_0;
        y23_0 = y24_0;
        y24_0 = y25_0;
        y25_0 = y26_0;
        y26_0 = y27_0;
        y27_0 = y28_0;
        y28_0 = y29_0;
        y29_0 = y30_0;
        y30_0 = y31_0;
        y0_1 = y1_1;
        y1_1 = y2_1;
        y2_1 = y3_1;
        y3_1 = y4_1;
        y4_1 = y5_1;
        y5_1 = y6_1;
        y6_1 = y7_1;
        y7_1 = y8_1;
        y8_1 = y9_1;
        y9_1 = y10_1;
        y10_1 = y11_1;
        y11_1 = y12_1;
        y12_1 = y13_1;
        y13_1 = y14_1;
        y14_1 = y15_1;
        y15_1 = y16_1;
        y16_1 = y17_1;
        y17_1 = y18_1;
        y18_1 = y19_1;
        y19_1 = y20_1;
        y20_1 = y21_1;
        y21_1 = y22_1;
        y22_1 = y23_1;
        y23_1 = y24_1;
        y24_1 = y25_1;
        y25_1 = y26_1;
        y26_1 = y27_1;
        y27_1 = y28_1;
        y28_1 = y29_1;
        y29_1 = y30_1;
        y30_1 = y31_1;
    }
}

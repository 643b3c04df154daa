// Matmul in register tiles. CPU twin: core/src/cpu/matmul.rs (and gemm.rs, pack.rs).
//
// Formula: y[z, i, j] = store(epilogue(round(alpha * sum over k of a[z, i, k] * b[z, k, j] + bias[j]))), alpha =
// scale_a[0] * scale_b[0] where operands have a scale for the tensor; an E8M0 scale of a block of 32 multiplies its
// elements as they are decoded. f32 sums, k ascending. An epilogue is an activation, or the sum with an addend [z, i,
// j] or with what y held.
// Layout: a is [M, K] ([K, M] if TRANS_A), b is [K, N] ([N, K] if TRANS_B), y is [M, N], matrix after matrix; dense,
// packed at their width.
//
// `tile`: an invocation owns 8 x 16 elements of y and takes four steps of k at a time. Of an operand stored along the
// contraction it reads four neighbours of each row; of the other, 8 or 16 neighbours of each k, in vectors of 16 bytes.
// Stored rows must be whole vectors.
// Nothing is shared and nothing waits. Where subgroups work, matmul_subgroup.wgsl is about twice as fast. Reads beyond
// a matrix meet other values or the end of the buffer; what they yield is not stored.
// `edge`: an invocation owns 4 x 4 elements, read one by one: for rows that are no whole vectors.
// `finish`: the second pass where y could not be written at once: adds the sums of a split contraction, packs rows that
// share words.
//
// Seen on lavapipe (two AVX-512 cores, GFLOP/s of both by CPU time, 512^3), `tile` NN / NT / TN: f32 28 / 31 / 26, bf16
// 42 / 33 / 49, e4m3 54 / 47 / 48: narrow operands are fewer reads, and lavapipe reads lane by lane. Tiles tried in
// f32: 4 x 4 16, 4 x 16 23, 8 x 8 28, 16 x 8 31, 16 x 16 24, 8 x 32 21. No gain: eight steps of k at a time 20, single
// words instead of vectors 16, rows shared by a workgroup and read at uniform addresses 16, workgroup memory
// (matmul_shared.wgsl) 5, other shapes of the workgroup 26 to 29. Blocks as mat4x4 in functions were as fast, but
// drivers took 10 times longer to compile them than the flat text below.
//% import matmul, grid
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
    let per_matrix = params.tiles_m * params.tiles_n;
    let z = g / per_matrix;
    let t = g % per_matrix;
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
    // y<row>_<vec4>: row i + row, columns j + 4 vec4 on.
    //% for r in 0..8
    //% for q in 0..4
    var y$r_$q: vec4<f32>;
    //% end
    //% end
    //% for h in 0..2
    var sa$h: vec4<f32>;
    //% end
    //% for q in 0..4
    var sb$q: vec4<f32>;
    //% end
    for (var k = own.first; k < own.end; k += 4u) {
        // a<row>: four values along k.
        //% for r in 0..8
        var a$r: vec4<f32>;
        //% end
        if (TRANS_A) {
            let at = base.a + k * params.m + i;
            //% for c in 0..4
            var v$c = a[(at + $(c)u * params.m) >> SHIFT];
            //% end
            //% for c in 0..4
            var u$c: vec4<u32>;
            //% end
            if (VEC4S == 1u) {
                //% for c in 0..4
                u$c = a[((at + $(c)u * params.m) >> SHIFT) + 1u];
                //% end
            } else if (VEC4S == 2u) {
                //% for c in 0..4
                u$c = v$c.zwxy;
                //% end
            } else {
                // Rows are whole vectors, so all four are cut alike.
                let high = (at & 8u) != 0u;
                //% for c in 0..4
                v$c = select(v$c, v$c.zwxy, high);
                u$c = v$c.yzwx;
                //% end
            }
            //% for c in 0..4
            let l$c = decode4(A, TF32_INPUTS, v$c);
            let h$c = decode4(A, TF32_INPUTS, u$c);
            //% end
            //% for r in 0..4
            a$r = vec4<f32>(l0$.r, l1$.r, l2$.r, l3$.r);
            //% end
            //% for r in 0..4
            a$(r+4) = vec4<f32>(h0$.r, h1$.r, h2$.r, h3$.r);
            //% end
            if (TAIL) {
                let inside = vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(params.k);
                //% for r in 0..8
                a$r = select(vec4<f32>(), a$r, inside);
                //% end
            }
        } else {
            let at = base.a + i * params.k + k;
            //% for r in 0..8
            a$r = a_vec4(at + $(r)u * params.k);
            //% end
        }
        if (SCALE_A >= BLOCK32_LAST) {
            if ((k & 31u) == 0u || k == own.first) {
                sa0 = a_scales(base.scale_a, i, k);
                sa1 = a_scales(base.scale_a, i + 4u, k);
            }
            //% for h in 0..2
            //% for c in 0..4
            a$(4*h+c) *= sa$h$.c;
            //% end
            //% end
        }
        // b<k>_<vec4>: row k + k of b, four columns.
        //% for c in 0..4
        //% for q in 0..4
        var b$c_$q: vec4<f32>;
        //% end
        //% end
        if (TRANS_B) {
            let at = base.b + j * params.k + k;
            //% for n in 0..16
            let c$n = b_vec4(at + $(n)u * params.k);
            //% end
            //% for c in 0..4
            //% for q in 0..4
            b$c_$q = vec4<f32>(c$(4*q)$.c, c$(4*q+1)$.c, c$(4*q+2)$.c, c$(4*q+3)$.c);
            //% end
            //% end
        } else {
            let at = base.b + k * params.n + j;
            //% for c in 0..4
            let at$c = (at + $(c)u * params.n) >> SHIFT;
            let v$c = b[at$c];
            //% end
            if (VEC4S == 1u) {
                //% for c in 0..4
                b$c_0 = decode4(B, TF32_INPUTS, v$c);
                //% for q in 1..4
                b$c_$q = decode4(B, TF32_INPUTS, b[at$c + $(q)u]);
                //% end
                //% end
            } else if (VEC4S == 2u) {
                //% for c in 0..4
                let u$c = b[at$c + 1u];
                b$c_0 = decode4(B, TF32_INPUTS, v$c);
                b$c_1 = decode4(B, TF32_INPUTS, v$c.zwxy);
                b$c_2 = decode4(B, TF32_INPUTS, u$c);
                b$c_3 = decode4(B, TF32_INPUTS, u$c.zwxy);
                //% end
            } else {
                //% for c in 0..4
                b$c_0 = decode4(B, TF32_INPUTS, v$c);
                b$c_1 = decode4(B, TF32_INPUTS, v$c.yzwx);
                b$c_2 = decode4(B, TF32_INPUTS, v$c.zwxy);
                b$c_3 = decode4(B, TF32_INPUTS, v$c.wxyz);
                //% end
            }
            if (TAIL) {
                //% for c in 1..4
                //% for q in 0..4
                b$c_$q = select(vec4<f32>(), b$c_$q, k + $(c)u < params.k);
                //% end
                //% end
            }
        }
        if (SCALE_B >= BLOCK32_LAST) {
            if ((k & 31u) == 0u || k == own.first) {
                //% for q in 0..4
                sb$q = b_scales(base.scale_b, j + $(4*q)u, k);
                //% end
            }
            //% for c in 0..4
            //% for q in 0..4
            b$c_$q *= sb$q;
            //% end
            //% end
        }
        //% for r in 0..8
        //% for q in 0..4
        y$r_$q = y$r_$q + a$r.x * b0_$q + a$r.y * b1_$q + a$r.z * b2_$q + a$r.w * b3_$q;
        //% end
        //% end
    }
    // The first row is stored vec4 by vec4, then the others move up: the code of a store stands here once.
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
        //% for r in 0..7
        //% for q in 0..4
        y$r_$q = y$(r+1)_$q;
        //% end
        //% end
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
    let scale = sum_scale();
    var word = 0u;
    for (var at = i; at < min(i + pack_size(Y), total); at++) {
        let first = (at / matrix) * params.splits * matrix + at % matrix;
        var sum = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            sum += bitcast<f32>(sums[first + s * matrix]);
        }
        word |= place_code(Y, encode(Y, finished(sum, scale, bias_of(at % params.n), addend_of(at))), at);
    }
    y[word_of(Y, i)] = word;
}

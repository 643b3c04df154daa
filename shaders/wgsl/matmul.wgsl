// Matrix products in register tiles. CPU twin: core/src/cpu/matmul.rs (and gemm.rs, pack.rs).
//
// Formula: y[z, i, j] = store(alpha * sum over k of a[z, i, k] * b[z, k, j] + bias[j]), alpha = scale_a[0] * scale_b[0] where operands have a
// scale for the tensor; an E8M0 scale of a block of 32 multiplies its elements as they are decoded. f32 sums, k ascending.
// Layout: a is [M, K] ([K, M] if TRANS_A), b is [K, N] ([N, K] if TRANS_B), y is [M, N], matrix after matrix; dense, packed at their width.
// An invocation owns TM x TN elements of y: blocks of 4 x 4, each a mat4x4 whose columns are rows of y. In that form a block is
// `b block * a block`, and the four layouts differ by a transposition of registers only.
// Edges: loads are held inside the matrix, so the inner loop knows no edge; what lies outside is not stored. Where K is no multiple of 4
// (TAIL) values beyond it are zero in both operands. QUAD_A, QUAD_B: stored rows are whole vectors of 16 bytes.
//% import codec, grid
//% const A: dtype = F32
//% const B: dtype = F32
//% const Y: dtype = F32
//% const BIAS: dtype = F32
//% const ROUND: dtype = F32
//% const TRANS_A: bool = false
//% const TRANS_B: bool = false
//% const SCALE_A: [0, 1, 2, 3] = 0
//% const SCALE_B: [0, 1, 2, 3] = 0
//% const HAS_BIAS: bool = false
//% const TF32_INPUTS: bool = false
//% const QUAD_A: bool = true
//% const QUAD_B: bool = true
//% const TAIL: bool = false
//% const PARTIAL: bool = false
//% const TM: [4, 8] = 8
//% const TN: [4, 8, 16] = 16
//% const LANES_M: [1, 2, 4, 8, 16] = 8
//% const LANES_N: [8, 16, 32] = 8
//% const WG_SIZE: [256] = 256

struct Params {
    m: u32,
    n: u32,
    k: u32,
    tiles_m: u32,
    tiles_n: u32,
    batch: u32,
    splits: u32,
    split_k: u32,
    a_stride: u32,
    b_stride: u32,
    scale_a_stride: u32,
    scale_b_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> scale_a: array<u32>;
@group(0) @binding(4) var<storage, read> scale_b: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<u32>;
@group(0) @binding(6) var<storage, read> sums: array<u32>;
@group(0) @binding(7) var<storage, read_write> y: array<u32>;

const NO_SCALE: u32 = 0u;
const TENSOR: u32 = 1u;
const BLOCK32_LAST: u32 = 2u;
const BLOCK32_FIRST: u32 = 3u;

// Where an operand of the product at hand starts, elements, and its scales.
var<private> a_base: u32;
var<private> b_base: u32;
var<private> scale_a_base: u32;
var<private> scale_b_base: u32;

// Element i of a stored operand, from the vector that holds it.
fn element(dtype: u32, v: vec4<u32>, i: u32) -> f32 {
    let word = v[word_of(dtype, i) & 3u];
    let x = decode(dtype, word, i);
    if (TF32_INPUTS) {
        return round_to(TF32, x);
    }
    return x;
}

// Elements i to i + 3, i a multiple of 4, from the vector that holds them.
fn quad(dtype: u32, v: vec4<u32>, i: u32) -> vec4<f32> {
    let s = pack_shift(dtype);
    if (s == 0u) {
        if (TF32_INPUTS) {
            return vec4<f32>(round_to(TF32, bitcast<f32>(v.x)), round_to(TF32, bitcast<f32>(v.y)),
                round_to(TF32, bitcast<f32>(v.z)), round_to(TF32, bitcast<f32>(v.w)));
        }
        return bitcast<vec4<f32>>(v);
    }
    if (s == 1u) {
        let w = select(v.xy, v.zw, (i & 4u) != 0u);
        return vec4<f32>(decode(dtype, w.x, 0u), decode(dtype, w.x, 1u), decode(dtype, w.y, 0u), decode(dtype, w.y, 1u));
    }
    let w = v[(i >> 2u) & 3u];
    return vec4<f32>(decode(dtype, w, 0u), decode(dtype, w, 1u), decode(dtype, w, 2u), decode(dtype, w, 3u));
}

// Vector that holds element i.
fn vector_of(dtype: u32, i: u32) -> u32 {
    return i >> (2u + pack_shift(dtype));
}

fn e8m0(word: u32, i: u32) -> f32 {
    return decode(E8M0, word, i);
}

fn a_element(r: u32, c: u32, columns: u32) -> f32 {
    let i = a_base + r * columns + min(c, columns - 1u);
    return element(A, a[vector_of(A, i)], i);
}

fn b_element(r: u32, c: u32, columns: u32) -> f32 {
    let i = b_base + r * columns + min(c, columns - 1u);
    return element(B, b[vector_of(B, i)], i);
}

// Scale of element (r, c) of the stored a.
fn a_scale(r: u32, c: u32, columns: u32) -> f32 {
    let along = min(c, columns - 1u);
    let i = scale_a_base + select((r >> 5u) * columns + along, r * ((columns + 31u) >> 5u) + (along >> 5u), SCALE_A == BLOCK32_LAST);
    return e8m0(scale_a[i >> 2u], i);
}

fn b_scale(r: u32, c: u32, columns: u32) -> f32 {
    let along = min(c, columns - 1u);
    let i = scale_b_base + select((r >> 5u) * columns + along, r * ((columns + 31u) >> 5u) + (along >> 5u), SCALE_B == BLOCK32_LAST);
    return e8m0(scale_b[i >> 2u], i);
}

// Elements (row, c) to (row, c + 3) of a stored a of `rows` x `columns`.
fn a_quad(row: u32, c: u32, rows: u32, columns: u32) -> vec4<f32> {
    let r = min(row, rows - 1u);
    var v: vec4<f32>;
    if (QUAD_A) {
        let i = a_base + r * columns + min(c, columns - 4u);
        v = quad(A, a[vector_of(A, i)], i);
    } else {
        v = vec4<f32>(a_element(r, c, columns), a_element(r, c + 1u, columns), a_element(r, c + 2u, columns), a_element(r, c + 3u, columns));
    }
    if (SCALE_A >= BLOCK32_LAST) {
        v *= vec4<f32>(a_scale(r, c, columns), a_scale(r, c + 1u, columns), a_scale(r, c + 2u, columns), a_scale(r, c + 3u, columns));
    }
    if (TAIL) {
        let at = select(vec4<u32>(c, c + 1u, c + 2u, c + 3u), vec4<u32>(row), TRANS_A);
        v = select(vec4<f32>(), v, at < vec4<u32>(params.k));
    }
    return v;
}

fn b_quad(row: u32, c: u32, rows: u32, columns: u32) -> vec4<f32> {
    let r = min(row, rows - 1u);
    var v: vec4<f32>;
    if (QUAD_B) {
        let i = b_base + r * columns + min(c, columns - 4u);
        v = quad(B, b[vector_of(B, i)], i);
    } else {
        v = vec4<f32>(b_element(r, c, columns), b_element(r, c + 1u, columns), b_element(r, c + 2u, columns), b_element(r, c + 3u, columns));
    }
    if (SCALE_B >= BLOCK32_LAST) {
        v *= vec4<f32>(b_scale(r, c, columns), b_scale(r, c + 1u, columns), b_scale(r, c + 2u, columns), b_scale(r, c + 3u, columns));
    }
    if (TAIL) {
        let at = select(vec4<u32>(row), vec4<u32>(c, c + 1u, c + 2u, c + 3u), TRANS_B);
        v = select(vec4<f32>(), v, at < vec4<u32>(params.k));
    }
    return v;
}

// Rows i to i + 3 of the product's a, columns k to k + 3: one row a column.
fn a_block(i: u32, k: u32) -> mat4x4<f32> {
    let r = select(i, k, TRANS_A);
    let c = select(k, i, TRANS_A);
    let rows = select(params.m, params.k, TRANS_A);
    let columns = select(params.k, params.m, TRANS_A);
    let stored = mat4x4<f32>(a_quad(r, c, rows, columns), a_quad(r + 1u, c, rows, columns),
        a_quad(r + 2u, c, rows, columns), a_quad(r + 3u, c, rows, columns));
    if (TRANS_A) {
        return transpose(stored);
    }
    return stored;
}

// Rows k to k + 3 of the product's b, columns j to j + 3: one row a column.
fn b_block(k: u32, j: u32) -> mat4x4<f32> {
    let r = select(k, j, TRANS_B);
    let c = select(j, k, TRANS_B);
    let rows = select(params.k, params.n, TRANS_B);
    let columns = select(params.n, params.k, TRANS_B);
    let stored = mat4x4<f32>(b_quad(r, c, rows, columns), b_quad(r + 1u, c, rows, columns),
        b_quad(r + 2u, c, rows, columns), b_quad(r + 3u, c, rows, columns));
    if (TRANS_B) {
        return transpose(stored);
    }
    return stored;
}

// acc + one row of products: four values of a row of a against four rows of b.
fn row_product(acc: vec4<f32>, a_row: vec4<f32>, b_rows: mat4x4<f32>) -> vec4<f32> {
    return acc + a_row.x * b_rows[0] + a_row.y * b_rows[1] + a_row.z * b_rows[2] + a_row.w * b_rows[3];
}

fn block_product(acc: mat4x4<f32>, a_rows: mat4x4<f32>, b_rows: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(row_product(acc[0], a_rows[0], b_rows), row_product(acc[1], a_rows[1], b_rows),
        row_product(acc[2], a_rows[2], b_rows), row_product(acc[3], a_rows[3], b_rows));
}

// What a finished sum becomes: element j of a row.
fn finished(sum: f32, j: u32) -> f32 {
    var x = sum;
    if (SCALE_A == TENSOR && SCALE_B == TENSOR) {
        x *= bitcast<f32>(scale_a[0]) * bitcast<f32>(scale_b[0]);
    } else if (SCALE_A == TENSOR) {
        x *= bitcast<f32>(scale_a[0]);
    } else if (SCALE_B == TENSOR) {
        x *= bitcast<f32>(scale_b[0]);
    }
    if (HAS_BIAS) {
        x += decode(BIAS, bias[word_of(BIAS, j)], j);
    }
    return round_to(ROUND, x);
}

// Stores elements (i, j) to (i, j + 3); `base` is where the product's y starts.
fn store(base: u32, i: u32, j: u32, sums: vec4<f32>) {
    if (i >= params.m || j >= params.n) {
        return;
    }
    let at = base + i * params.n + j;
    if (PARTIAL) {
        for (var e = 0u; e < min(4u, params.n - j); e++) {
            y[at + e] = bitcast<u32>(sums[e]);
        }
        return;
    }
    // Rows are whole words here.
    let v = vec4<f32>(finished(sums.x, j), finished(sums.y, min(j + 1u, params.n - 1u)), finished(sums.z, min(j + 2u, params.n - 1u)),
        finished(sums.w, min(j + 3u, params.n - 1u)));
    let code = vec4<u32>(encode(Y, v.x), encode(Y, v.y), encode(Y, v.z), encode(Y, v.w));
    if (pack_shift(Y) == 2u) {
        y[at >> 2u] = code.x | (code.y << 8u) | (code.z << 16u) | (code.w << 24u);
    } else if (pack_shift(Y) == 1u) {
        y[at >> 1u] = code.x | (code.y << 16u);
        if (j + 2u < params.n) {
            y[(at >> 1u) + 1u] = code.z | (code.w << 16u);
        }
    } else {
        for (var e = 0u; e < min(4u, params.n - j); e++) {
            y[at + e] = code[e];
        }
    }
}

fn store_block(base: u32, i: u32, j: u32, sums: mat4x4<f32>) {
    store(base, i, j, sums[0]);
    store(base, i + 1u, j, sums[1]);
    store(base, i + 2u, j, sums[2]);
    store(base, i + 3u, j, sums[3]);
}

@compute @workgroup_size(LANES_N, LANES_M)
fn tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) lane: vec3<u32>) {
    let g = group_index(group, groups);
    let per_product = params.tiles_m * params.tiles_n;
    let z = g / per_product;
    if (z >= params.batch * params.splits) {
        return;
    }
    let t = g % per_product;
    let i = ((t / params.tiles_n) * LANES_M + lane.y) * TM;
    let j = ((t % params.tiles_n) * LANES_N + lane.x) * TN;
    if (i >= params.m || j >= params.n) {
        return;
    }
    let product = z / params.splits;
    a_base = product * params.a_stride;
    b_base = product * params.b_stride;
    scale_a_base = product * params.scale_a_stride;
    scale_b_base = product * params.scale_b_stride;
    let first = (z % params.splits) * params.split_k;
    let end = min(first + params.split_k, params.k);
    var c00: mat4x4<f32>;
    var c01: mat4x4<f32>;
    var c02: mat4x4<f32>;
    var c03: mat4x4<f32>;
    var c10: mat4x4<f32>;
    var c11: mat4x4<f32>;
    var c12: mat4x4<f32>;
    var c13: mat4x4<f32>;
    for (var k = first; k < end; k += 4u) {
        let a0 = a_block(i, k);
        let b0 = b_block(k, j);
        c00 = block_product(c00, a0, b0);
        var a1: mat4x4<f32>;
        if (TM > 4u) {
            a1 = a_block(i + 4u, k);
            c10 = block_product(c10, a1, b0);
        }
        if (TN > 4u) {
            let b1 = b_block(k, j + 4u);
            c01 = block_product(c01, a0, b1);
            if (TM > 4u) {
                c11 = block_product(c11, a1, b1);
            }
        }
        if (TN > 8u) {
            let b2 = b_block(k, j + 8u);
            c02 = block_product(c02, a0, b2);
            if (TM > 4u) {
                c12 = block_product(c12, a1, b2);
            }
            let b3 = b_block(k, j + 12u);
            c03 = block_product(c03, a0, b3);
            if (TM > 4u) {
                c13 = block_product(c13, a1, b3);
            }
        }
    }
    let base = z * params.m * params.n;
    store_block(base, i, j, c00);
    if (TN > 4u) {
        store_block(base, i, j + 4u, c01);
    }
    if (TN > 8u) {
        store_block(base, i, j + 8u, c02);
        store_block(base, i, j + 12u, c03);
    }
    if (TM > 4u) {
        store_block(base, i + 4u, j, c10);
        if (TN > 4u) {
            store_block(base, i + 4u, j + 4u, c11);
        }
        if (TN > 8u) {
            store_block(base, i + 4u, j + 8u, c12);
            store_block(base, i + 4u, j + 12u, c13);
        }
    }
}

// Second pass: adds the sums of all splits and stores. One word of y an invocation; the order of the splits is fixed.
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

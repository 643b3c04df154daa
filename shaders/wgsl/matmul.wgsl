// Matrix products in register tiles. CPU twin: core/src/cpu/matmul.rs (and gemm.rs, pack.rs).
//
// Formula: y[z, i, j] = store(alpha * sum over k of a[z, i, k] * b[z, k, j] + bias[j]), alpha = scale_a[0] * scale_b[0] where operands have a
// scale for the tensor; an E8M0 scale of a block of 32 multiplies its elements as they are decoded. f32 sums, k ascending.
// Layout: a is [M, K] ([K, M] if TRANS_A), b is [K, N] ([N, K] if TRANS_B), y is [M, N], matrix after matrix; dense, packed at their width.
//
// `tile`: an invocation owns 8 x 16 elements of y. It reads vectors of 16 bytes along the stored rows, which must be whole vectors: for an
// operand stored along the contraction one vector a row, taken apart word by word; for the other, 8 or 16 neighbours of each k. Nothing is
// shared and nothing waits. Reads beyond a matrix meet other values or the end of the buffer; what they yield is not stored.
// `edge`: an invocation owns 4 x 4 elements, read one by one: for rows that are no whole vectors.
// `finish`: the second pass where y could not be written at once: adds the sums of a split contraction, packs rows that share words.
//
// Tried on lavapipe (two AVX-512 cores, 512^3 f32, GFLOP/s of two cores): 4 x 4 16, 4 x 16 23, 8 x 8 28, 8 x 16 30, 16 x 8 31, 16 x 16 24,
// 8 x 32 21; loads of single words instead of vectors 16; rows shared by a workgroup and read at uniform addresses 16.
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
//% const TAIL: bool = false
//% const PARTIAL: bool = false
//% const LANES_M: [1, 2, 4, 8, 16] = 8
//% const LANES_N: [4, 8, 16, 32] = 8
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

// Kinds of scales, as in OperandScale.
const TENSOR: u32 = 1u;
const BLOCK32_LAST: u32 = 2u;
const BLOCK32_FIRST: u32 = 3u;

// log2 of the elements in a vector of 16 bytes; both operands have dtypes of one width.
const SHIFT: u32 = 2u + select(select(0u, 1u, A == F16 || A == BF16), 2u, A == E4M3 || A == E5M2);
// Quads of a vector.
const QUADS: u32 = 1u << (SHIFT - 2u);
// Steps of 4 along k from one load of vectors along k to the next.
const STEPS: u32 = select(QUADS, 1u, TRANS_A && !TRANS_B);

// Where the product at hand starts, elements of each operand and of its scales.
struct Bases {
    a: u32,
    b: u32,
    scale_a: u32,
    scale_b: u32,
}

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

fn bases(z: u32) -> Bases {
    let product = z / params.splits;
    return Bases(product * params.a_stride, product * params.b_stride, product * params.scale_a_stride, product * params.scale_b_stride);
}

// f32 of magnitudes given as f32 bits with too small an exponent: `bits` has the smallest normal value of the format at `least`. Exact: what
// lacks the implicit one is doubled less the least.
fn widen(bits: vec4<u32>, least: f32) -> vec4<u32> {
    let t = bitcast<vec4<f32>>(bits);
    return bitcast<vec4<u32>>(t + min(t - vec4<f32>(least), vec4<f32>()));
}

fn quad_f16(codes: vec4<u32>) -> vec4<f32> {
    let m = codes & vec4<u32>(0x7fffu);
    let finite = widen((m << vec4<u32>(13u)) + vec4<u32>(0x38000000u), 0x1p-14f);
    let bits = select(finite, (m << vec4<u32>(13u)) | vec4<u32>(0x7f800000u), m >= vec4<u32>(0x7c00u));
    return bitcast<vec4<f32>>(bits | ((codes & vec4<u32>(0x8000u)) << vec4<u32>(16u)));
}

// Four 8-bit codes of a word, each in the high byte.
fn bytes_of(word: u32) -> vec4<u32> {
    return vec4<u32>(word << 24u, word << 16u, word << 8u, word);
}

fn quad_e4m3(word: u32) -> vec4<f32> {
    let x = bytes_of(word);
    let m = x & vec4<u32>(0x7f000000u);
    let finite = widen((m >> vec4<u32>(4u)) + vec4<u32>(0x3c000000u), 0x1p-6f);
    let bits = select(finite, vec4<u32>(F32_NAN), m == vec4<u32>(0x7f000000u));
    return bitcast<vec4<f32>>(bits | (x & vec4<u32>(0x80000000u)));
}

// The first four elements of a vector of dtype, the words in front being theirs. As decode, but what a NaN carries.
fn quad(dtype: u32, v: vec4<u32>) -> vec4<f32> {
    if (dtype == BF16) {
        return bitcast<vec4<f32>>(vec4<u32>(v.x << 16u, v.x & 0xffff0000u, v.y << 16u, v.y & 0xffff0000u));
    }
    if (dtype == F16) {
        return quad_f16(vec4<u32>(v.x & 0xffffu, v.x >> 16u, v.y & 0xffffu, v.y >> 16u));
    }
    if (dtype == E4M3) {
        return quad_e4m3(v.x);
    }
    if (dtype == E5M2) {
        return quad_f16((bytes_of(v.x) & vec4<u32>(0xff000000u)) >> vec4<u32>(16u));
    }
    if (TF32_INPUTS) {
        return vec4<f32>(round_to(TF32, bitcast<f32>(v.x)), round_to(TF32, bitcast<f32>(v.y)), round_to(TF32, bitcast<f32>(v.z)),
            round_to(TF32, bitcast<f32>(v.w)));
    }
    return bitcast<vec4<f32>>(v);
}

// The vector without its first four elements.
fn rest(v: vec4<u32>) -> vec4<u32> {
    return select(v.yzwx, v.zwxy, QUADS == 2u);
}

// Raw vectors of four stored rows.
struct Rows {
    r0: vec4<u32>,
    r1: vec4<u32>,
    r2: vec4<u32>,
    r3: vec4<u32>,
}

fn rest_of(r: Rows) -> Rows {
    return Rows(rest(r.r0), rest(r.r1), rest(r.r2), rest(r.r3));
}

// The first four elements of each row, a row a column.
fn quads(dtype: u32, r: Rows) -> mat4x4<f32> {
    return mat4x4<f32>(quad(dtype, r.r0), quad(dtype, r.r1), quad(dtype, r.r2), quad(dtype, r.r3));
}

// Vectors of the stored a that hold elements k on of rows r to r + 3.
fn a_rows(base: u32, r: u32, k: u32) -> Rows {
    let at = (base + r * params.k + k) >> SHIFT;
    let step = params.k >> SHIFT;
    return Rows(a[at], a[at + step], a[at + 2u * step], a[at + 3u * step]);
}

// 8 neighbours of row r of the stored a, from column c on, a multiple of 8; zeros beyond the contraction.
fn a_strip(base: u32, r: u32, c: u32) -> mat2x4<f32> {
    let i = base + r * params.m + c;
    let v = a[i >> SHIFT];
    var s: mat2x4<f32>;
    if (QUADS == 1u) {
        s = mat2x4<f32>(quad(A, v), quad(A, a[(i >> SHIFT) + 1u]));
    } else if (QUADS == 2u) {
        s = mat2x4<f32>(quad(A, v), quad(A, rest(v)));
    } else {
        let half = select(v, v.zwxy, (i & 8u) != 0u);
        s = mat2x4<f32>(quad(A, half), quad(A, rest(half)));
    }
    if (TAIL && r >= params.k) {
        return mat2x4<f32>();
    }
    return s;
}

fn a_element(base: u32, i: u32, k: u32) -> f32 {
    let at = base + select(i * params.k + k, k * params.m + i, TRANS_A);
    let x = decode(A, a[at >> SHIFT][word_of(A, at) & 3u], at);
    if (TF32_INPUTS) {
        return round_to(TF32, x);
    }
    return x;
}

// Block scale of row i of the product at k.
fn a_scale(base: u32, i: u32, k: u32) -> f32 {
    let r = select(i, k, TRANS_A);
    let c = select(k, i, TRANS_A);
    let columns = select(params.k, params.m, TRANS_A);
    let at = base + select((r >> 5u) * columns + c, r * ((columns + 31u) >> 5u) + (c >> 5u), SCALE_A == BLOCK32_LAST);
    return decode(E8M0, scale_a[at >> 2u], at);
}

fn a_scales(base: u32, i: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(a_scale(base, i, k), a_scale(base, i + 1u, k), a_scale(base, i + 2u, k), a_scale(base, i + 3u, k));
}

// Vectors of the stored b that hold elements k on of rows r to r + 3.
fn b_rows(base: u32, r: u32, k: u32) -> Rows {
    let at = (base + r * params.k + k) >> SHIFT;
    let step = params.k >> SHIFT;
    return Rows(b[at], b[at + step], b[at + 2u * step], b[at + 3u * step]);
}

// 16 neighbours of row r of the stored b, from column c on, a multiple of 16; zeros beyond the contraction.
fn b_strip(base: u32, r: u32, c: u32) -> mat4x4<f32> {
    let at = (base + r * params.n + c) >> SHIFT;
    let v = b[at];
    var s: mat4x4<f32>;
    if (QUADS == 1u) {
        s = mat4x4<f32>(quad(B, v), quad(B, b[at + 1u]), quad(B, b[at + 2u]), quad(B, b[at + 3u]));
    } else if (QUADS == 2u) {
        let next = b[at + 1u];
        s = mat4x4<f32>(quad(B, v), quad(B, rest(v)), quad(B, next), quad(B, rest(next)));
    } else {
        s = mat4x4<f32>(quad(B, v), quad(B, v.yyyy), quad(B, v.zzzz), quad(B, v.wwww));
    }
    if (TAIL && r >= params.k) {
        return mat4x4<f32>();
    }
    return s;
}

fn b_element(base: u32, i: u32, k: u32) -> f32 {
    let at = base + select(i * params.k + k, k * params.n + i, !TRANS_B);
    let x = decode(B, b[at >> SHIFT][word_of(B, at) & 3u], at);
    if (TF32_INPUTS) {
        return round_to(TF32, x);
    }
    return x;
}

// Block scale of column i of the product at k.
fn b_scale(base: u32, i: u32, k: u32) -> f32 {
    let r = select(i, k, !TRANS_B);
    let c = select(k, i, !TRANS_B);
    let columns = select(params.k, params.n, !TRANS_B);
    let at = base + select((r >> 5u) * columns + c, r * ((columns + 31u) >> 5u) + (c >> 5u), SCALE_B == BLOCK32_LAST);
    return decode(E8M0, scale_b[at >> 2u], at);
}

fn b_scales(base: u32, i: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(b_scale(base, i, k), b_scale(base, i + 1u, k), b_scale(base, i + 2u, k), b_scale(base, i + 3u, k));
}

// acc + one row of products: four values of a row of a against four rows of b.
fn row_product(acc: vec4<f32>, a_row: vec4<f32>, b_rows: mat4x4<f32>) -> vec4<f32> {
    return acc + a_row.x * b_rows[0] + a_row.y * b_rows[1] + a_row.z * b_rows[2] + a_row.w * b_rows[3];
}

// Rows of a block of y are the columns of acc, rows of a those of a_rows, rows of b those of b_rows.
fn block_product(acc: mat4x4<f32>, a_rows: mat4x4<f32>, b_rows: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(row_product(acc[0], a_rows[0], b_rows), row_product(acc[1], a_rows[1], b_rows),
        row_product(acc[2], a_rows[2], b_rows), row_product(acc[3], a_rows[3], b_rows));
}

fn scale_rows(x: mat4x4<f32>, s: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(x[0] * s.x, x[1] * s.y, x[2] * s.z, x[3] * s.w);
}

fn scale_columns(x: mat4x4<f32>, s: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(x[0] * s, x[1] * s, x[2] * s, x[3] * s);
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

// Stores elements (i, j) to (i, j + 3) of product z, j a multiple of 4: words that no other invocation writes.
fn store(z: u32, i: u32, j: u32, quad: vec4<f32>) {
    var values = quad;
    let at = (z * params.m + i) * params.n + j;
    let shift = select(pack_shift(Y), 0u, PARTIAL);
    let count = min(4u, params.n - j);
    var word = 0u;
    for (var e = 0u; e < count; e++) {
        if (PARTIAL) {
            word = bitcast<u32>(values.x);
        } else {
            word |= place_code(Y, encode(Y, finished(values.x, j + e)), at + e);
        }
        if (((e + 1u) & ((1u << shift) - 1u)) == 0u) {
            y[(at + e) >> shift] = word;
            word = 0u;
        }
        values = values.yzwx;
    }
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
    var c00: mat4x4<f32>;
    var c01: mat4x4<f32>;
    var c02: mat4x4<f32>;
    var c03: mat4x4<f32>;
    var c10: mat4x4<f32>;
    var c11: mat4x4<f32>;
    var c12: mat4x4<f32>;
    var c13: mat4x4<f32>;
    for (var k = own.first; k < own.end; k += 4u * STEPS) {
        var a_rows0: Rows;
        var a_rows1: Rows;
        if (!TRANS_A) {
            a_rows0 = a_rows(base.a, i, k);
            a_rows1 = a_rows(base.a, i + 4u, k);
        }
        var b_rows0: Rows;
        var b_rows1: Rows;
        var b_rows2: Rows;
        var b_rows3: Rows;
        if (TRANS_B) {
            b_rows0 = b_rows(base.b, j, k);
            b_rows1 = b_rows(base.b, j + 4u, k);
            b_rows2 = b_rows(base.b, j + 8u, k);
            b_rows3 = b_rows(base.b, j + 12u, k);
        }
        var sa0: vec4<f32>;
        var sa1: vec4<f32>;
        if (SCALE_A >= BLOCK32_LAST) {
            sa0 = a_scales(base.scale_a, i, k);
            sa1 = a_scales(base.scale_a, i + 4u, k);
        }
        var sb: mat4x4<f32>;
        if (SCALE_B >= BLOCK32_LAST) {
            sb = mat4x4<f32>(b_scales(base.scale_b, j, k), b_scales(base.scale_b, j + 4u, k),
                b_scales(base.scale_b, j + 8u, k), b_scales(base.scale_b, j + 12u, k));
        }
        for (var step = 0u; step < STEPS; step++) {
            let kk = k + 4u * step;
            var a0: mat4x4<f32>;
            var a1: mat4x4<f32>;
            if (TRANS_A) {
                let s0 = a_strip(base.a, kk, i);
                let s1 = a_strip(base.a, kk + 1u, i);
                let s2 = a_strip(base.a, kk + 2u, i);
                let s3 = a_strip(base.a, kk + 3u, i);
                a0 = transpose(mat4x4<f32>(s0[0], s1[0], s2[0], s3[0]));
                a1 = transpose(mat4x4<f32>(s0[1], s1[1], s2[1], s3[1]));
            } else {
                a0 = quads(A, a_rows0);
                a1 = quads(A, a_rows1);
                a_rows0 = rest_of(a_rows0);
                a_rows1 = rest_of(a_rows1);
            }
            if (SCALE_A >= BLOCK32_LAST) {
                a0 = scale_rows(a0, sa0);
                a1 = scale_rows(a1, sa1);
            }
            var b0: mat4x4<f32>;
            var b1: mat4x4<f32>;
            var b2: mat4x4<f32>;
            var b3: mat4x4<f32>;
            if (TRANS_B) {
                b0 = transpose(quads(B, b_rows0));
                b1 = transpose(quads(B, b_rows1));
                b2 = transpose(quads(B, b_rows2));
                b3 = transpose(quads(B, b_rows3));
                b_rows0 = rest_of(b_rows0);
                b_rows1 = rest_of(b_rows1);
                b_rows2 = rest_of(b_rows2);
                b_rows3 = rest_of(b_rows3);
            } else {
                let s0 = b_strip(base.b, kk, j);
                let s1 = b_strip(base.b, kk + 1u, j);
                let s2 = b_strip(base.b, kk + 2u, j);
                let s3 = b_strip(base.b, kk + 3u, j);
                b0 = mat4x4<f32>(s0[0], s1[0], s2[0], s3[0]);
                b1 = mat4x4<f32>(s0[1], s1[1], s2[1], s3[1]);
                b2 = mat4x4<f32>(s0[2], s1[2], s2[2], s3[2]);
                b3 = mat4x4<f32>(s0[3], s1[3], s2[3], s3[3]);
            }
            if (SCALE_B >= BLOCK32_LAST) {
                b0 = scale_columns(b0, sb[0]);
                b1 = scale_columns(b1, sb[1]);
                b2 = scale_columns(b2, sb[2]);
                b3 = scale_columns(b3, sb[3]);
            }
            c00 = block_product(c00, a0, b0);
            c10 = block_product(c10, a1, b0);
            c01 = block_product(c01, a0, b1);
            c11 = block_product(c11, a1, b1);
            c02 = block_product(c02, a0, b2);
            c12 = block_product(c12, a1, b2);
            c03 = block_product(c03, a0, b3);
            c13 = block_product(c13, a1, b3);
        }
    }
    var tile = array<mat4x4<f32>, 8>(c00, c01, c02, c03, c10, c11, c12, c13);
    let count = min(8u, params.m - i) * 4u;
    for (var e = 0u; e < count; e++) {
        let r = e >> 2u;
        let q = e & 3u;
        if (j + 4u * q < params.n) {
            store(own.z, i + r, j + 4u * q, tile[(r >> 2u) * 4u + q][r & 3u]);
        }
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

// What all matmul kernels share: operands, how their elements are read, what becomes of a finished sum.
// CPU twin: core/src/cpu/matmul.rs. Formula and layout: matmul.wgsl.
//% import vec4, math
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
//% const ACTIVATION: [0, 1, 2, 3, 4] = 0
//% const ADD: [0, 1, 2] = 0
//% const ADDEND: dtype = F32
//% const TF32_INPUTS: bool = false
//% const PARTIAL: bool = false

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
@group(0) @binding(8) var<storage, read> addend: array<u32>;

// Kinds of scales, as in OperandScale.
const TENSOR: u32 = 1u;
const BLOCK32_LAST: u32 = 2u;
const BLOCK32_FIRST: u32 = 3u;

// Activations, as in Activation.
const RELU: u32 = 1u;
const GELU_TANH: u32 = 2u;
const GELU_ERF: u32 = 3u;
const SILU: u32 = 4u;

// What is added last: the addend, or what y holds.
const ADD_OPERAND: u32 = 1u;
const ADD_OLD: u32 = 2u;

// log2 of the elements in a vector of 16 bytes; both operands have dtypes of one width.
const SHIFT: u32 = 2u + select(select(0u, 1u, A == F16 || A == BF16), 2u, A == E4M3 || A == E5M2);
// Vec4s of a vector.
const VEC4S: u32 = 1u << (SHIFT - 2u);

// First elements of each operand and of its scales for one matrix of the batch.
struct Bases {
    a: u32,
    b: u32,
    scale_a: u32,
    scale_b: u32,
}

fn bases(z: u32) -> Bases {
    let matrix = z / params.splits;
    return Bases(matrix * params.a_stride, matrix * params.b_stride, matrix * params.scale_a_stride, matrix * params.scale_b_stride);
}

// Elements at to at + 3 of the stored a, a multiple of 4.
fn a_vec4(at: u32) -> vec4<f32> {
    let i = at >> SHIFT;
    var v: vec4<u32>;
    if (VEC4S == 1u) {
        v = a[i];
    } else if (VEC4S == 2u) {
        v.x = a[i][(at >> 1u) & 2u];
        v.y = a[i][((at >> 1u) & 2u) + 1u];
    } else {
        v.x = a[i][(at >> 2u) & 3u];
    }
    return decode4(A, TF32_INPUTS, v);
}

fn a_scalar(at: u32) -> f32 {
    return decode1(A, TF32_INPUTS, a[at >> SHIFT][word_of(A, at) & 3u], at);
}

fn a_element(base: u32, i: u32, k: u32) -> f32 {
    return a_scalar(base + select(i * params.k + k, k * params.m + i, TRANS_A));
}

// Block scale of row i at k.
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

// Elements at to at + 3 of the stored b, a multiple of 4.
fn b_vec4(at: u32) -> vec4<f32> {
    let i = at >> SHIFT;
    var v: vec4<u32>;
    if (VEC4S == 1u) {
        v = b[i];
    } else if (VEC4S == 2u) {
        v.x = b[i][(at >> 1u) & 2u];
        v.y = b[i][((at >> 1u) & 2u) + 1u];
    } else {
        v.x = b[i][(at >> 2u) & 3u];
    }
    return decode4(B, TF32_INPUTS, v);
}

fn b_scalar(at: u32) -> f32 {
    return decode1(B, TF32_INPUTS, b[at >> SHIFT][word_of(B, at) & 3u], at);
}

fn b_element(base: u32, i: u32, k: u32) -> f32 {
    return b_scalar(base + select(i * params.k + k, k * params.n + i, !TRANS_B));
}

// Block scale of column i at k.
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

// The scale of whole operands, for their sums.
fn sum_scale() -> f32 {
    if (SCALE_A == TENSOR && SCALE_B == TENSOR) {
        return bitcast<f32>(scale_a[0]) * bitcast<f32>(scale_b[0]);
    } else if (SCALE_A == TENSOR) {
        return bitcast<f32>(scale_a[0]);
    } else if (SCALE_B == TENSOR) {
        return bitcast<f32>(scale_b[0]);
    }
    return 1.0;
}

// The bias of column j.
fn bias_of(j: u32) -> f32 {
    if (HAS_BIAS) {
        return decode(BIAS, bias[word_of(BIAS, j)], j);
    }
    return 0.0;
}

// What is added to element `at` of y.
fn addend_of(at: u32) -> f32 {
    if (ADD == ADD_OPERAND) {
        return decode(ADDEND, addend[word_of(ADDEND, at)], at);
    } else if (ADD == ADD_OLD) {
        return decode(Y, y[word_of(Y, at)], at);
    }
    return 0.0;
}

// What a finished sum becomes, given what belongs to its element.
fn finished(sum: f32, scale: f32, bias: f32, addend: f32) -> f32 {
    var x = sum;
    if (SCALE_A == TENSOR || SCALE_B == TENSOR) {
        x *= scale;
    }
    if (HAS_BIAS) {
        x += bias;
    }
    x = round_to(ROUND, x);
    if (ACTIVATION == RELU) {
        x = relu_f32(x);
    } else if (ACTIVATION == GELU_TANH) {
        x = gelu_tanh_f32(x);
    } else if (ACTIVATION == GELU_ERF) {
        x = gelu_erf_f32(x);
    } else if (ACTIVATION == SILU) {
        x = silu_f32(x);
    }
    if (ADD != 0u) {
        x += addend;
    }
    return x;
}

// Stores elements (i, j) to (i, j + 3) of matrix z, j a multiple of 4: words that no other invocation writes.
fn store(z: u32, i: u32, j: u32, sums: vec4<f32>) {
    var values = sums;
    let at = (z * params.m + i) * params.n + j;
    let shift = select(pack_shift(Y), 0u, PARTIAL);
    let count = min(4u, params.n - j);
    let scale = sum_scale();
    var word = 0u;
    for (var e = 0u; e < count; e++) {
        if (PARTIAL) {
            word = bitcast<u32>(values.x);
        } else {
            word |= place_code(Y, encode(Y, finished(values.x, scale, bias_of(j + e), addend_of(at + e))), at + e);
        }
        if (((e + 1u) & ((1u << shift) - 1u)) == 0u) {
            y[(at + e) >> shift] = word;
            word = 0u;
        }
        values = values.yzwx;
    }
}

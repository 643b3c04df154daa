// Heads of attention: operands, where they lie, reading and writing eight elements at a time. CPU twin:
// core/src/cpu/attention.rs.
//
// Layout: qkv, dqkv [B, T, (H + 2 KV) HS], query heads, then key heads, then value heads; y, dy [B, T, H HS]; stats [B,
// H, T, 2] f32, the largest score of a query and the inverse of the sum of exponentials over it; delta [B, H, T] f32.
// Heads that are no multiple of eight (WHOLE is false) are read element by element and stored as f32, padded to whole
// vec8s.
//% import vec8, rng
//% const X: dtype = F32
//% const Y: dtype = F32
//% const DY: dtype = F32
//% const OUT: dtype = F32
//% const HEAD_VEC8S: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] = 4
//% const WHOLE: bool = true
//% const CAUSAL: bool = true
//% const DROPOUT: bool = false

const LOWEST: f32 = -3.4028234e38;

struct Params {
    batch: u32,
    t: u32,
    heads: u32,
    kv_heads: u32,
    head_size: u32,
    scale: f32,
    // Words below the threshold are dropped, others multiplied by keep_scale.
    threshold: u32,
    keep_scale: f32,
    stream: u32,
    // Elements that `attention_pack` rounds.
    elements: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> random_state: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> saved_y: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> saved_stats: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read> dy: array<vec4<u32>>;
@group(0) @binding(8) var<storage, read_write> delta: array<f32>;
@group(0) @binding(9) var<storage, read> saved_delta: array<f32>;
@group(0) @binding(10) var<storage, read_write> dqkv: array<vec2<u32>>;
@group(0) @binding(11) var<storage, read> padded: array<f32>;

// Number of head `slot` of row `row` among those of the packed projection, and its first element.
fn packed_head(row: u32, slot: u32) -> u32 {
    return row * (params.heads + 2u * params.kv_heads) + slot;
}

fn packed_start(row: u32, slot: u32) -> u32 {
    return packed_head(row, slot) * params.head_size;
}

// Slot of the keys that query head h reads.
fn key_slot(h: u32) -> u32 {
    return params.heads + h / (params.heads / params.kv_heads);
}

// First element of head `slot` of row `row` of the output.
fn y_start(row: u32, slot: u32) -> u32 {
    return (row * params.heads + slot) * params.head_size;
}

// Elements k to k + 3 of a head that exist.
fn inside(k: u32) -> vec4<bool> {
    return vec4<u32>(k) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.head_size);
}

fn dot8(a: mat2x4<f32>, b: mat2x4<f32>) -> f32 {
    return dot(a[0], b[0]) + dot(a[1], b[1]);
}

fn qkv_at(i: u32) -> f32 {
    let w = word_of(X, i);
    return decode(X, qkv[w >> 2u][w & 3u], i);
}

fn y_at(i: u32) -> f32 {
    let w = word_of(Y, i);
    return decode(Y, saved_y[w >> 2u][w & 3u], i);
}

fn dy_at(i: u32) -> f32 {
    let w = word_of(DY, i);
    return decode(DY, dy[w >> 2u][w & 3u], i);
}

fn qkv_vec8(start: u32, d: u32) -> mat2x4<f32> {
    let i = start + 8u * d;
    if (WHOLE) {
        let at = vec8_at(X, i);
        return decode8(X, qkv[at], qkv[at + vec8_more(X)], i);
    }
    let low = vec4<f32>(qkv_at(i), qkv_at(i + 1u), qkv_at(i + 2u), qkv_at(i + 3u));
    let high = vec4<f32>(qkv_at(i + 4u), qkv_at(i + 5u), qkv_at(i + 6u), qkv_at(i + 7u));
    return mat2x4<f32>(select(vec4<f32>(0.0), low, inside(8u * d)), select(vec4<f32>(0.0), high, inside(8u * d + 4u)));
}

fn y_vec8(start: u32, d: u32) -> mat2x4<f32> {
    let i = start + 8u * d;
    if (WHOLE) {
        let at = vec8_at(Y, i);
        return decode8(Y, saved_y[at], saved_y[at + vec8_more(Y)], i);
    }
    let low = vec4<f32>(y_at(i), y_at(i + 1u), y_at(i + 2u), y_at(i + 3u));
    let high = vec4<f32>(y_at(i + 4u), y_at(i + 5u), y_at(i + 6u), y_at(i + 7u));
    return mat2x4<f32>(select(vec4<f32>(0.0), low, inside(8u * d)), select(vec4<f32>(0.0), high, inside(8u * d + 4u)));
}

fn dy_vec8(start: u32, d: u32) -> mat2x4<f32> {
    let i = start + 8u * d;
    if (WHOLE) {
        let at = vec8_at(DY, i);
        return decode8(DY, dy[at], dy[at + vec8_more(DY)], i);
    }
    let low = vec4<f32>(dy_at(i), dy_at(i + 1u), dy_at(i + 2u), dy_at(i + 3u));
    let high = vec4<f32>(dy_at(i + 4u), dy_at(i + 5u), dy_at(i + 6u), dy_at(i + 7u));
    return mat2x4<f32>(select(vec4<f32>(0.0), low, inside(8u * d)), select(vec4<f32>(0.0), high, inside(8u * d + 4u)));
}

// Vectors of OUT from the first of vec8 d of a head on; heads are padded to whole vec8s where their size is not.
fn out_at(head: u32, d: u32) -> u32 {
    let size = select(HEAD_VEC8S * 8u, params.head_size, WHOLE);
    return word_of(OUT, head * size + 8u * d) >> 1u;
}

fn put_y(head: u32, d: u32, v: mat2x4<f32>) {
    let words = encode8(OUT, v);
    let at = out_at(head, d);
    for (var k = 0u; k < (4u >> pack_shift(OUT)); k++) {
        y[at + k] = words[k];
    }
}

fn put_dqkv(head: u32, d: u32, v: mat2x4<f32>) {
    let words = encode8(OUT, v);
    let at = out_at(head, d);
    for (var k = 0u; k < (4u >> pack_shift(OUT)); k++) {
        dqkv[at + k] = words[k];
    }
}

// Probability of a score, by what the forward found about its query. No score exceeds the largest, unless a compiler
// contracts the products of two kernels in two ways.
fn probability(score: f32, s: vec2<f32>) -> f32 {
    return exp(min(score - s.x, 0.0)) * s.y;
}

// Inverse of a sum of exponentials; NaN where all scores were -inf.
fn inverse_sum(sum: f32) -> f32 {
    return bitcast<f32>(select(F32_NAN, bitcast<u32>(1.0 / sum), sum > 0.0));
}

// Index of a query among those of all heads.
fn query_index(b: u32, h: u32, i: u32) -> u32 {
    return (b * params.heads + h) * params.t + i;
}

// Dropout factor of a query for key j.
fn keep(query: u32, j: u32) -> f32 {
    let word = random_word(random_state[0], params.stream, random_state[1], query * params.t + j);
    return select(params.keep_scale, 0.0, word < params.threshold);
}

// v * keep, where dropping also drops NaN and infinity.
fn apply(keep: f32, v: f32) -> f32 {
    return select(v * keep, 0.0, keep == 0.0);
}

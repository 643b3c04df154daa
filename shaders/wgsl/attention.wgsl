// Softmax attention over a packed projection, forward and backward. CPU twins: core/src/cpu/{attention,attention_backward}.rs.
//
// Formula: y = dropout(softmax(mask(scale q k^T))) v, lse = ln sum e^(scale q k^T); backward, with p = exp(scale q k^T - lse),
// delta = sum dy y and dp = dropout(dy v^T): ds = scale p (dp - delta), dq = ds k, dk = ds^T q, dv = dropout(p)^T dy.
// Layout: qkv, dqkv [B, T, (H + 2 KV) HS], query heads, then key heads, then value heads; y, dy [B, T, H HS]; lse, delta [B, H, T] f32.
// An invocation owns a query (`attention`, `attention_dq`) or a key with its value (`attention_dkv`), which sums over the query heads that
// read it: nothing is added across invocations. It keeps its rows in registers and meets the other side row by row; all invocations of a
// workgroup read the same row, so a load serves them all and no workgroup memory or barrier is needed.
// Heads that are no multiple of eight (WHOLE is false) are read element by element and stored as f32, padded to whole octs;
// `attention_pack` rounds them.
// Tried on llvmpipe at [16, 128], 4 heads of 32, f32, forward: rows in quads, four keys at a time, 27 ms; octs, four keys at a time 15.5 ms
// but ten times the time to compile; this, one key at a time, 13 ms. Two queries an invocation: 8.3 ms for twice the time to compile.
// Source: Dao, "FlashAttention-2" (arXiv 2307.08691).
//% import oct, rng, grid
//% const X: dtype = F32
//% const Y: dtype = F32
//% const DY: dtype = F32
//% const OUT: dtype = F32
//% const OCTS: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] = 4
//% const WHOLE: bool = true
//% const CAUSAL: bool = true
//% const DROPOUT: bool = false

const WG_SIZE: u32 = 32u;
const LOWEST: f32 = -3.4028234e38;

struct Params {
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
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> saved_y: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> saved_lse: array<f32>;
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

fn qkv_oct(start: u32, d: u32) -> mat2x4<f32> {
    let i = start + 8u * d;
    if (WHOLE) {
        let at = oct_at(X, i);
        return oct(X, qkv[at], qkv[at + oct_more(X)], i);
    }
    let low = vec4<f32>(qkv_at(i), qkv_at(i + 1u), qkv_at(i + 2u), qkv_at(i + 3u));
    let high = vec4<f32>(qkv_at(i + 4u), qkv_at(i + 5u), qkv_at(i + 6u), qkv_at(i + 7u));
    return mat2x4<f32>(select(vec4<f32>(0.0), low, inside(8u * d)), select(vec4<f32>(0.0), high, inside(8u * d + 4u)));
}

fn y_oct(start: u32, d: u32) -> mat2x4<f32> {
    let i = start + 8u * d;
    if (WHOLE) {
        let at = oct_at(Y, i);
        return oct(Y, saved_y[at], saved_y[at + oct_more(Y)], i);
    }
    let low = vec4<f32>(y_at(i), y_at(i + 1u), y_at(i + 2u), y_at(i + 3u));
    let high = vec4<f32>(y_at(i + 4u), y_at(i + 5u), y_at(i + 6u), y_at(i + 7u));
    return mat2x4<f32>(select(vec4<f32>(0.0), low, inside(8u * d)), select(vec4<f32>(0.0), high, inside(8u * d + 4u)));
}

fn dy_oct(start: u32, d: u32) -> mat2x4<f32> {
    let i = start + 8u * d;
    if (WHOLE) {
        let at = oct_at(DY, i);
        return oct(DY, dy[at], dy[at + oct_more(DY)], i);
    }
    let low = vec4<f32>(dy_at(i), dy_at(i + 1u), dy_at(i + 2u), dy_at(i + 3u));
    let high = vec4<f32>(dy_at(i + 4u), dy_at(i + 5u), dy_at(i + 6u), dy_at(i + 7u));
    return mat2x4<f32>(select(vec4<f32>(0.0), low, inside(8u * d)), select(vec4<f32>(0.0), high, inside(8u * d + 4u)));
}

// Vectors of OUT from the first of oct d of a head on; heads are padded to whole octs where their size is not.
fn out_at(head: u32, d: u32) -> u32 {
    let size = select(OCTS * 8u, params.head_size, WHOLE);
    return word_of(OUT, head * size + 8u * d) >> 1u;
}

fn put_y(head: u32, d: u32, v: mat2x4<f32>) {
    let words = oct_words(OUT, v);
    let at = out_at(head, d);
    for (var k = 0u; k < (4u >> pack_shift(OUT)); k++) {
        y[at + k] = words[k];
    }
}

fn put_dqkv(head: u32, d: u32, v: mat2x4<f32>) {
    let words = oct_words(OUT, v);
    let at = out_at(head, d);
    for (var k = 0u; k < (4u >> pack_shift(OUT)); k++) {
        dqkv[at + k] = words[k];
    }
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

@compute @workgroup_size(WG_SIZE)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let i = group.x * WG_SIZE + lane;
    let h = group.y;
    let row0 = group.z * t;
    let own = row0 + min(i, t - 1u);
    let query = query_index(group.z, h, min(i, t - 1u));
    var q: array<mat2x4<f32>, OCTS>;
    var o: array<mat2x4<f32>, OCTS>;
    for (var d = 0u; d < OCTS; d++) {
        q[d] = qkv_oct(packed_start(own, h), d);
        o[d] = mat2x4<f32>();
    }
    var largest = LOWEST;
    var sum = 0.0;
    let keys = select(t, min(t, group.x * WG_SIZE + WG_SIZE), CAUSAL);
    for (var j = 0u; j < keys; j++) {
        let k_start = packed_start(row0 + j, key_slot(h));
        let v_start = k_start + params.kv_heads * params.head_size;
        var s = 0.0;
        for (var d = 0u; d < OCTS; d++) {
            s += dot8(q[d], qkv_oct(k_start, d));
        }
        let seen = !CAUSAL || j <= i;
        s = select(LOWEST, s * params.scale, seen);
        let grown = max(largest, s);
        var p = select(0.0, exp(s - grown), seen);
        let shrink = exp(largest - grown);
        sum = sum * shrink + p;
        largest = grown;
        if (DROPOUT) {
            p = apply(keep(query, j), p);
        }
        for (var d = 0u; d < OCTS; d++) {
            o[d] = o[d] * shrink + qkv_oct(v_start, d) * p;
        }
    }
    if (i < t) {
        let inverse = 1.0 / sum;
        for (var d = 0u; d < OCTS; d++) {
            put_y(own * params.heads + h, d, o[d] * inverse);
        }
        lse[query] = largest + log(sum);
    }
}

@compute @workgroup_size(WG_SIZE)
fn attention_dq(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let i = group.x * WG_SIZE + lane;
    let h = group.y;
    let row0 = group.z * t;
    let own = row0 + min(i, t - 1u);
    let query = query_index(group.z, h, min(i, t - 1u));
    let own_lse = saved_lse[query];
    var own_delta = 0.0;
    var q: array<mat2x4<f32>, OCTS>;
    var g: array<mat2x4<f32>, OCTS>;
    var k: array<mat2x4<f32>, OCTS>;
    var dq: array<mat2x4<f32>, OCTS>;
    for (var d = 0u; d < OCTS; d++) {
        q[d] = qkv_oct(packed_start(own, h), d);
        g[d] = dy_oct(y_start(own, h), d);
        own_delta += dot8(g[d], y_oct(y_start(own, h), d));
        dq[d] = mat2x4<f32>();
    }
    let keys = select(t, min(t, group.x * WG_SIZE + WG_SIZE), CAUSAL);
    for (var j = 0u; j < keys; j++) {
        let k_start = packed_start(row0 + j, key_slot(h));
        let v_start = k_start + params.kv_heads * params.head_size;
        var s = 0.0;
        var dp = 0.0;
        for (var d = 0u; d < OCTS; d++) {
            k[d] = qkv_oct(k_start, d);
            s += dot8(q[d], k[d]);
            dp += dot8(g[d], qkv_oct(v_start, d));
        }
        if (DROPOUT) {
            dp = apply(keep(query, j), dp);
        }
        let p = exp(s * params.scale - own_lse);
        let ds = select(0.0, params.scale * p * (dp - own_delta), !CAUSAL || j <= i);
        for (var d = 0u; d < OCTS; d++) {
            dq[d] += k[d] * ds;
        }
    }
    if (i < t) {
        for (var d = 0u; d < OCTS; d++) {
            put_dqkv(packed_head(own, h), d, dq[d]);
        }
        delta[query] = own_delta;
    }
}

@compute @workgroup_size(WG_SIZE)
fn attention_dkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let j = group.x * WG_SIZE + lane;
    let kv = group.y;
    let row0 = group.z * t;
    let own = row0 + min(j, t - 1u);
    let k_slot = params.heads + kv;
    let v_slot = k_slot + params.kv_heads;
    var k: array<mat2x4<f32>, OCTS>;
    var v: array<mat2x4<f32>, OCTS>;
    var q: array<mat2x4<f32>, OCTS>;
    var g: array<mat2x4<f32>, OCTS>;
    var dk: array<mat2x4<f32>, OCTS>;
    var dv: array<mat2x4<f32>, OCTS>;
    for (var d = 0u; d < OCTS; d++) {
        k[d] = qkv_oct(packed_start(own, k_slot), d);
        v[d] = qkv_oct(packed_start(own, v_slot), d);
        dk[d] = mat2x4<f32>();
        dv[d] = mat2x4<f32>();
    }
    let per_kv = params.heads / params.kv_heads;
    for (var h = kv * per_kv; h < kv * per_kv + per_kv; h++) {
        for (var i = select(0u, group.x * WG_SIZE, CAUSAL); i < t; i++) {
            var s = 0.0;
            var dp = 0.0;
            for (var d = 0u; d < OCTS; d++) {
                q[d] = qkv_oct(packed_start(row0 + i, h), d);
                g[d] = dy_oct(y_start(row0 + i, h), d);
                s += dot8(k[d], q[d]);
                dp += dot8(v[d], g[d]);
            }
            let query = query_index(group.z, h, i);
            // A hidden score may exceed lse: its exponential is dropped, infinite or not.
            let seen = !CAUSAL || j <= i;
            var p = select(0.0, exp(s * params.scale - saved_lse[query]), seen);
            var factor = 1.0;
            if (DROPOUT) {
                factor = keep(query, j);
            }
            let ds = select(0.0, params.scale * p * (apply(factor, dp) - saved_delta[query]), seen);
            p = apply(factor, p);
            for (var d = 0u; d < OCTS; d++) {
                dk[d] += q[d] * ds;
                dv[d] += g[d] * p;
            }
        }
    }
    if (j < t) {
        for (var d = 0u; d < OCTS; d++) {
            put_dqkv(packed_head(own, k_slot), d, dk[d]);
            put_dqkv(packed_head(own, v_slot), d, dv[d]);
        }
    }
}

// Heads of padded octs of f32 to words of OUT, one an invocation.
@compute @workgroup_size(WG_SIZE)
fn attention_pack(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group_index(group, groups) * WG_SIZE + lane) * pack_size(OUT);
    if (i >= params.elements) {
        return;
    }
    var word = 0u;
    for (var j = i; j < min(i + pack_size(OUT), params.elements); j++) {
        let head = j / params.head_size;
        let value = padded[head * OCTS * 8u + (j - head * params.head_size)];
        word |= place_code(OUT, encode(OUT, value), j);
    }
    let w = word_of(OUT, i);
    y[w >> 1u][w & 1u] = word;
}

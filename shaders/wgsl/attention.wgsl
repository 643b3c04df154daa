// Softmax attention over a packed projection, forward and backward. CPU twins: core/src/cpu/{attention,attention_backward}.rs.
//
// Formula: y = dropout(softmax(mask(scale q k^T))) v, lse = ln sum e^(scale q k^T); backward, with p = exp(scale q k^T - lse),
// delta = sum dy y and dp = dropout(dy v^T): ds = scale p (dp - delta), dq = ds k, dk = ds^T q, dv = dropout(p)^T dy.
// Layout: qkv, dqkv [B, T, (H + 2 KV) HS], query heads, then key heads, then value heads; y, dy [B, T, H HS]; lse, delta [B, H, T] f32.
// An invocation owns a query (`attention`, `attention_dq`) or a key with its value (`attention_dkv`), which sums over the query heads that
// read it: nothing is added across invocations. It keeps its rows in registers and meets the other side four rows at a time; all
// invocations of a workgroup read the same rows, so a load serves them all and no workgroup memory or barrier is needed.
// Heads whose size is no multiple of four (WHOLE is false) are read element by element and stored as f32, `attention_pack` rounds them.
// Source: Dao, "FlashAttention-2" (arXiv 2307.08691).
//% import quad, rng, grid
//% const X: dtype = F32
//% const Y: dtype = F32
//% const DY: dtype = F32
//% const OUT: dtype = F32
//% const QUADS: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32] = 8
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
@group(0) @binding(1) var<storage, read> qkv: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> random_state: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read> saved_y: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> saved_lse: array<f32>;
@group(0) @binding(7) var<storage, read> dy: array<vec2<u32>>;
@group(0) @binding(8) var<storage, read_write> delta: array<f32>;
@group(0) @binding(9) var<storage, read> saved_delta: array<f32>;
@group(0) @binding(10) var<storage, read_write> dqkv: array<u32>;
@group(0) @binding(11) var<storage, read> unpacked: array<f32>;

// First element of head `slot` of row `row`, in rows of the packed projection and of the output.
fn packed_start(row: u32, slot: u32) -> u32 {
    return (row * (params.heads + 2u * params.kv_heads) + slot) * params.head_size;
}

fn y_start(row: u32, slot: u32) -> u32 {
    return (row * params.heads + slot) * params.head_size;
}

// Elements 4 d to 4 d + 3 of a head that exist.
fn inside(d: u32) -> vec4<bool> {
    return vec4<u32>(4u * d) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.head_size);
}

fn qkv_at(i: u32) -> f32 {
    let w = word_of(X, i);
    let pair = qkv[w >> 1u];
    return decode(X, select(pair.x, pair.y, (w & 1u) == 1u), i);
}

fn y_at(i: u32) -> f32 {
    let w = word_of(Y, i);
    let pair = saved_y[w >> 1u];
    return decode(Y, select(pair.x, pair.y, (w & 1u) == 1u), i);
}

fn dy_at(i: u32) -> f32 {
    let w = word_of(DY, i);
    let pair = dy[w >> 1u];
    return decode(DY, select(pair.x, pair.y, (w & 1u) == 1u), i);
}

fn qkv_quad(start: u32, d: u32) -> vec4<f32> {
    let i = start + 4u * d;
    if (WHOLE) {
        let at = quad_at(X, i);
        return quad(X, qkv[at], qkv[at + quad_more(X)], i);
    }
    let v = vec4<f32>(qkv_at(i), qkv_at(i + 1u), qkv_at(i + 2u), qkv_at(i + 3u));
    return select(vec4<f32>(0.0), v, inside(d));
}

fn y_quad(start: u32, d: u32) -> vec4<f32> {
    let i = start + 4u * d;
    if (WHOLE) {
        let at = quad_at(Y, i);
        return quad(Y, saved_y[at], saved_y[at + quad_more(Y)], i);
    }
    let v = vec4<f32>(y_at(i), y_at(i + 1u), y_at(i + 2u), y_at(i + 3u));
    return select(vec4<f32>(0.0), v, inside(d));
}

fn dy_quad(start: u32, d: u32) -> vec4<f32> {
    let i = start + 4u * d;
    if (WHOLE) {
        let at = quad_at(DY, i);
        return quad(DY, dy[at], dy[at + quad_more(DY)], i);
    }
    let v = vec4<f32>(dy_at(i), dy_at(i + 1u), dy_at(i + 2u), dy_at(i + 3u));
    return select(vec4<f32>(0.0), v, inside(d));
}

// Words of a quad that OUT has.
fn out_words() -> u32 {
    return 4u >> pack_shift(OUT);
}

fn put_y(start: u32, d: u32, v: vec4<f32>) {
    let words = quad_words(OUT, v);
    let at = word_of(OUT, start + 4u * d);
    for (var k = 0u; k < select(min(params.head_size - 4u * d, 4u), out_words(), WHOLE); k++) {
        y[at + k] = words[k];
    }
}

fn put_dqkv(start: u32, d: u32, v: vec4<f32>) {
    let words = quad_words(OUT, v);
    let at = word_of(OUT, start + 4u * d);
    for (var k = 0u; k < select(min(params.head_size - 4u * d, 4u), out_words(), WHOLE); k++) {
        dqkv[at + k] = words[k];
    }
}

// Index of a query among those of all heads.
fn query_index(b: u32, h: u32, i: u32) -> u32 {
    return (b * params.heads + h) * params.t + i;
}

fn keep_factor(words: vec4<u32>) -> vec4<f32> {
    return select(vec4<f32>(params.keep_scale), vec4<f32>(0.0), words < vec4<u32>(params.threshold));
}

// Pair of random words `pair`.
fn random_pair(pair: u32) -> vec2<u32> {
    return threefry2x32(vec2<u32>(random_state[0], params.stream), vec2<u32>(pair & 0x7fffffffu, random_state[1]));
}

// Dropout factors of a query for keys j to j + 3. Two neighbours share a block of the generator.
fn keep_keys(query: u32, j: u32) -> vec4<f32> {
    let first = query * params.t + j;
    let a = random_pair(first >> 1u);
    let b = random_pair((first >> 1u) + 1u);
    var words = vec4<u32>(a, b);
    if ((first & 1u) == 1u) {
        words = vec4<u32>(a.y, b, random_pair((first >> 1u) + 2u).x);
    }
    return keep_factor(words);
}

// Dropout factors of queries i to i + 3, the first of which has this index, for key j.
fn keep_queries(query: u32, j: u32) -> vec4<f32> {
    var words = vec4<u32>(0u);
    for (var r = 0u; r < 4u; r++) {
        words[r] = random_word(random_state[0], params.stream, random_state[1], (query + r) * params.t + j);
    }
    return keep_factor(words);
}

// v * keep, where dropping also drops NaN and infinity.
fn apply(keep: vec4<f32>, v: vec4<f32>) -> vec4<f32> {
    return select(v * keep, vec4<f32>(0.0), keep == vec4<f32>(0.0));
}

@compute @workgroup_size(WG_SIZE)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let own = group.x * WG_SIZE + lane;
    let i = min(own, t - 1u);
    let h = group.y;
    let kv = h / (params.heads / params.kv_heads);
    let row0 = group.z * t;
    let query = query_index(group.z, h, i);
    var q: array<vec4<f32>, QUADS>;
    var o: array<vec4<f32>, QUADS>;
    for (var d = 0u; d < QUADS; d++) {
        q[d] = qkv_quad(packed_start(row0 + i, h), d);
        o[d] = vec4<f32>(0.0);
    }
    var largest = LOWEST;
    var sum = 0.0;
    let keys = select(t, min(t, group.x * WG_SIZE + WG_SIZE), CAUSAL);
    for (var j = 0u; j < keys; j += 4u) {
        let rows = row0 + min(vec4<u32>(j, j + 1u, j + 2u, j + 3u), vec4<u32>(t - 1u));
        var s = vec4<f32>(0.0);
        let k0 = packed_start(rows.x, params.heads + kv);
        let k1 = packed_start(rows.y, params.heads + kv);
        let k2 = packed_start(rows.z, params.heads + kv);
        let k3 = packed_start(rows.w, params.heads + kv);
        for (var d = 0u; d < QUADS; d++) {
            let x = q[d];
            s += vec4<f32>(dot(x, qkv_quad(k0, d)), dot(x, qkv_quad(k1, d)), dot(x, qkv_quad(k2, d)), dot(x, qkv_quad(k3, d)));
        }
        let seen = vec4<u32>(j, j + 1u, j + 2u, j + 3u) <= vec4<u32>(select(t - 1u, i, CAUSAL));
        s = select(vec4<f32>(LOWEST), s * params.scale, seen);
        let grown = max(largest, max(max(s.x, s.y), max(s.z, s.w)));
        var p = select(vec4<f32>(0.0), exp(s - grown), seen);
        let shrink = exp(largest - grown);
        sum = sum * shrink + ((p.x + p.y) + (p.z + p.w));
        largest = grown;
        if (DROPOUT) {
            p = apply(keep_keys(query, j), p);
        }
        let v0 = packed_start(rows.x, params.heads + params.kv_heads + kv);
        let v1 = packed_start(rows.y, params.heads + params.kv_heads + kv);
        let v2 = packed_start(rows.z, params.heads + params.kv_heads + kv);
        let v3 = packed_start(rows.w, params.heads + params.kv_heads + kv);
        for (var d = 0u; d < QUADS; d++) {
            o[d] = o[d] * shrink + p.x * qkv_quad(v0, d) + p.y * qkv_quad(v1, d) + p.z * qkv_quad(v2, d) + p.w * qkv_quad(v3, d);
        }
    }
    if (own < t) {
        let inverse = 1.0 / sum;
        for (var d = 0u; d < QUADS; d++) {
            put_y(y_start(row0 + i, h), d, o[d] * inverse);
        }
        lse[query] = largest + log(sum);
    }
}

@compute @workgroup_size(WG_SIZE)
fn attention_dq(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let own = group.x * WG_SIZE + lane;
    let i = min(own, t - 1u);
    let h = group.y;
    let kv = h / (params.heads / params.kv_heads);
    let row0 = group.z * t;
    let query = query_index(group.z, h, i);
    var q: array<vec4<f32>, QUADS>;
    var g: array<vec4<f32>, QUADS>;
    var dq: array<vec4<f32>, QUADS>;
    var own_delta = 0.0;
    for (var d = 0u; d < QUADS; d++) {
        q[d] = qkv_quad(packed_start(row0 + i, h), d);
        g[d] = dy_quad(y_start(row0 + i, h), d);
        own_delta += dot(g[d], y_quad(y_start(row0 + i, h), d));
        dq[d] = vec4<f32>(0.0);
    }
    let own_lse = saved_lse[query];
    let keys = select(t, min(t, group.x * WG_SIZE + WG_SIZE), CAUSAL);
    for (var j = 0u; j < keys; j += 4u) {
        let rows = row0 + min(vec4<u32>(j, j + 1u, j + 2u, j + 3u), vec4<u32>(t - 1u));
        let k0 = packed_start(rows.x, params.heads + kv);
        let k1 = packed_start(rows.y, params.heads + kv);
        let k2 = packed_start(rows.z, params.heads + kv);
        let k3 = packed_start(rows.w, params.heads + kv);
        let to_v = params.kv_heads * params.head_size;
        var s = vec4<f32>(0.0);
        var dp = vec4<f32>(0.0);
        for (var d = 0u; d < QUADS; d++) {
            let x = q[d];
            s += vec4<f32>(dot(x, qkv_quad(k0, d)), dot(x, qkv_quad(k1, d)), dot(x, qkv_quad(k2, d)), dot(x, qkv_quad(k3, d)));
            let z = g[d];
            dp += vec4<f32>(
                dot(z, qkv_quad(k0 + to_v, d)),
                dot(z, qkv_quad(k1 + to_v, d)),
                dot(z, qkv_quad(k2 + to_v, d)),
                dot(z, qkv_quad(k3 + to_v, d)),
            );
        }
        let seen = vec4<u32>(j, j + 1u, j + 2u, j + 3u) <= vec4<u32>(select(t - 1u, i, CAUSAL));
        if (DROPOUT) {
            dp = apply(keep_keys(query, j), dp);
        }
        let p = exp(s * params.scale - own_lse);
        let ds = select(vec4<f32>(0.0), params.scale * p * (dp - own_delta), seen);
        for (var d = 0u; d < QUADS; d++) {
            dq[d] += ds.x * qkv_quad(k0, d) + ds.y * qkv_quad(k1, d) + ds.z * qkv_quad(k2, d) + ds.w * qkv_quad(k3, d);
        }
    }
    if (own < t) {
        for (var d = 0u; d < QUADS; d++) {
            put_dqkv(packed_start(row0 + i, h), d, dq[d]);
        }
        delta[query] = own_delta;
    }
}

@compute @workgroup_size(WG_SIZE)
fn attention_dkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let own = group.x * WG_SIZE + lane;
    let j = min(own, t - 1u);
    let kv = group.y;
    let row0 = group.z * t;
    let k_start = packed_start(row0 + j, params.heads + kv);
    let v_start = packed_start(row0 + j, params.heads + params.kv_heads + kv);
    var k: array<vec4<f32>, QUADS>;
    var v: array<vec4<f32>, QUADS>;
    var dk: array<vec4<f32>, QUADS>;
    var dv: array<vec4<f32>, QUADS>;
    for (var d = 0u; d < QUADS; d++) {
        k[d] = qkv_quad(k_start, d);
        v[d] = qkv_quad(v_start, d);
        dk[d] = vec4<f32>(0.0);
        dv[d] = vec4<f32>(0.0);
    }
    let per_kv = params.heads / params.kv_heads;
    for (var h = kv * per_kv; h < kv * per_kv + per_kv; h++) {
        for (var i = select(0u, group.x * WG_SIZE, CAUSAL); i < t; i += 4u) {
            let at = min(vec4<u32>(i, i + 1u, i + 2u, i + 3u), vec4<u32>(t - 1u));
            let rows = row0 + at;
            let q0 = packed_start(rows.x, h);
            let q1 = packed_start(rows.y, h);
            let q2 = packed_start(rows.z, h);
            let q3 = packed_start(rows.w, h);
            let g0 = y_start(rows.x, h);
            let g1 = y_start(rows.y, h);
            let g2 = y_start(rows.z, h);
            let g3 = y_start(rows.w, h);
            var s = vec4<f32>(0.0);
            var dp = vec4<f32>(0.0);
            for (var d = 0u; d < QUADS; d++) {
                let x = k[d];
                s += vec4<f32>(dot(x, qkv_quad(q0, d)), dot(x, qkv_quad(q1, d)), dot(x, qkv_quad(q2, d)), dot(x, qkv_quad(q3, d)));
                let z = v[d];
                dp += vec4<f32>(dot(z, dy_quad(g0, d)), dot(z, dy_quad(g1, d)), dot(z, dy_quad(g2, d)), dot(z, dy_quad(g3, d)));
            }
            let query = query_index(group.z, h, 0u) + at;
            let of_lse = vec4<f32>(saved_lse[query.x], saved_lse[query.y], saved_lse[query.z], saved_lse[query.w]);
            let of_delta = vec4<f32>(saved_delta[query.x], saved_delta[query.y], saved_delta[query.z], saved_delta[query.w]);
            let next = vec4<u32>(i, i + 1u, i + 2u, i + 3u);
            var seen = next < vec4<u32>(t);
            if (CAUSAL) {
                seen = seen & (next >= vec4<u32>(j));
            }
            var p = select(vec4<f32>(0.0), exp(s * params.scale - of_lse), seen);
            if (DROPOUT) {
                let keep = keep_queries(query.x, j);
                dp = apply(keep, dp);
                let ds = select(vec4<f32>(0.0), params.scale * p * (dp - of_delta), seen);
                p = apply(keep, p);
                s = ds;
            } else {
                s = select(vec4<f32>(0.0), params.scale * p * (dp - of_delta), seen);
            }
            for (var d = 0u; d < QUADS; d++) {
                dv[d] += p.x * dy_quad(g0, d) + p.y * dy_quad(g1, d) + p.z * dy_quad(g2, d) + p.w * dy_quad(g3, d);
                dk[d] += s.x * qkv_quad(q0, d) + s.y * qkv_quad(q1, d) + s.z * qkv_quad(q2, d) + s.w * qkv_quad(q3, d);
            }
        }
    }
    if (own < t) {
        for (var d = 0u; d < QUADS; d++) {
            put_dqkv(k_start, d, dk[d]);
            put_dqkv(v_start, d, dv[d]);
        }
    }
}

// f32 elements to words of OUT, one an invocation.
@compute @workgroup_size(WG_SIZE)
fn attention_pack(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group_index(group, groups) * WG_SIZE + lane) * pack_size(OUT);
    if (i >= params.elements) {
        return;
    }
    var word = 0u;
    for (var j = i; j < min(i + pack_size(OUT), params.elements); j++) {
        word |= place_code(OUT, encode(OUT, unpacked[j]), j);
    }
    y[word_of(OUT, i)] = word;
}

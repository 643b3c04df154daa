// Softmax attention over a packed projection, forward and backward. CPU twins:
// core/src/cpu/{attention,attention_backward}.rs.
//
// Formula: y = dropout(softmax(mask(scale q k^T))) v; stats = [m, 1 / l] with m = max(scale q k^T), l = sum e^(scale q
// k^T - m); backward, with p = exp(scale q k^T - m) / l, delta = sum dy y and dp = dropout(dy v^T): ds = scale p (dp -
// delta), dq = ds k, dk = ds^T q, dv = dropout(p)^T dy.
// Layout: shared/heads.wgsl.
// An invocation owns a query (`attention`, `attention_dq`) or a key with its value (`attention_dkv`), which sums over
// the query heads that read it: nothing is added across invocations. It keeps its rows in registers and meets the other
// side row by row; all invocations of a workgroup read the same row, so a load serves them all and no workgroup memory
// or barrier is needed.
// `attention_pack` rounds heads that were stored as f32.
// Tried on llvmpipe at [16, 128], 4 heads of 32, f32, forward: rows in vec4s, four keys at a time, 27 ms; vec8s, four
// keys at a time 15.5 ms but ten times the time to compile; this, one key at a time, 13 ms. Two queries an invocation:
// 8.3 ms for twice the time to compile. There attention_subgroup.wgsl is used instead.
// Source: Dao, "FlashAttention-2" (arXiv 2307.08691).
//% import heads, grid

const WG_SIZE: u32 = 32u;

@compute @workgroup_size(WG_SIZE)
fn attention(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let group = group_place(group_index(id, groups), (t + WG_SIZE - 1u) / WG_SIZE, params.heads);
    if (group.z >= params.batch) {
        return;
    }
    let i = group.x * WG_SIZE + lane;
    let h = group.y;
    let row0 = group.z * t;
    let own = row0 + min(i, t - 1u);
    let query = query_index(group.z, h, min(i, t - 1u));
    var q: array<mat2x4<f32>, HEAD_VEC8S>;
    var o: array<mat2x4<f32>, HEAD_VEC8S>;
    for (var d = 0u; d < HEAD_VEC8S; d++) {
        q[d] = qkv_vec8(packed_start(own, h), d);
        o[d] = mat2x4<f32>();
    }
    var largest = LOWEST;
    var sum = 0.0;
    let keys = select(t, min(t, group.x * WG_SIZE + WG_SIZE), CAUSAL);
    for (var j = 0u; j < keys; j++) {
        let k_start = packed_start(row0 + j, key_slot(h));
        let v_start = k_start + params.kv_heads * params.head_size;
        var s = 0.0;
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            s += dot8(q[d], qkv_vec8(k_start, d));
        }
        let visible = !CAUSAL || j <= i;
        s = select(LOWEST, s * params.scale, visible);
        let grown = max(largest, s);
        var p = select(0.0, exp(s - grown), visible);
        let shrink = exp(largest - grown);
        sum = sum * shrink + p;
        largest = grown;
        if (DROPOUT) {
            p = apply(keep(query, j), p);
        }
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            o[d] = o[d] * shrink + qkv_vec8(v_start, d) * p;
        }
    }
    if (i < t) {
        let inverse = inverse_sum(sum);
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            put_y(own * params.heads + h, d, o[d] * inverse);
        }
        stats[query] = vec2<f32>(largest, inverse);
    }
}

@compute @workgroup_size(WG_SIZE)
fn attention_dq(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let group = group_place(group_index(id, groups), (t + WG_SIZE - 1u) / WG_SIZE, params.heads);
    if (group.z >= params.batch) {
        return;
    }
    let i = group.x * WG_SIZE + lane;
    let h = group.y;
    let row0 = group.z * t;
    let own = row0 + min(i, t - 1u);
    let query = query_index(group.z, h, min(i, t - 1u));
    let own_stats = saved_stats[query];
    var own_delta = 0.0;
    var q: array<mat2x4<f32>, HEAD_VEC8S>;
    var g: array<mat2x4<f32>, HEAD_VEC8S>;
    var k: array<mat2x4<f32>, HEAD_VEC8S>;
    var dq: array<mat2x4<f32>, HEAD_VEC8S>;
    for (var d = 0u; d < HEAD_VEC8S; d++) {
        q[d] = qkv_vec8(packed_start(own, h), d);
        g[d] = dy_vec8(y_start(own, h), d);
        own_delta += dot8(g[d], y_vec8(y_start(own, h), d));
        dq[d] = mat2x4<f32>();
    }
    let keys = select(t, min(t, group.x * WG_SIZE + WG_SIZE), CAUSAL);
    for (var j = 0u; j < keys; j++) {
        let k_start = packed_start(row0 + j, key_slot(h));
        let v_start = k_start + params.kv_heads * params.head_size;
        var s = 0.0;
        var dp = 0.0;
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            k[d] = qkv_vec8(k_start, d);
            s += dot8(q[d], k[d]);
            dp += dot8(g[d], qkv_vec8(v_start, d));
        }
        if (DROPOUT) {
            dp = apply(keep(query, j), dp);
        }
        let p = probability(s * params.scale, own_stats);
        let ds = select(0.0, params.scale * p * (dp - own_delta), !CAUSAL || j <= i);
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            dq[d] += k[d] * ds;
        }
    }
    if (i < t) {
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            put_dqkv(packed_head(own, h), d, dq[d]);
        }
        delta[query] = own_delta;
    }
}

@compute @workgroup_size(WG_SIZE)
fn attention_dkv(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let group = group_place(group_index(id, groups), (t + WG_SIZE - 1u) / WG_SIZE, params.kv_heads);
    if (group.z >= params.batch) {
        return;
    }
    let j = group.x * WG_SIZE + lane;
    let kv = group.y;
    let row0 = group.z * t;
    let own = row0 + min(j, t - 1u);
    let k_slot = params.heads + kv;
    let v_slot = k_slot + params.kv_heads;
    var k: array<mat2x4<f32>, HEAD_VEC8S>;
    var v: array<mat2x4<f32>, HEAD_VEC8S>;
    var q: array<mat2x4<f32>, HEAD_VEC8S>;
    var g: array<mat2x4<f32>, HEAD_VEC8S>;
    var dk: array<mat2x4<f32>, HEAD_VEC8S>;
    var dv: array<mat2x4<f32>, HEAD_VEC8S>;
    for (var d = 0u; d < HEAD_VEC8S; d++) {
        k[d] = qkv_vec8(packed_start(own, k_slot), d);
        v[d] = qkv_vec8(packed_start(own, v_slot), d);
        dk[d] = mat2x4<f32>();
        dv[d] = mat2x4<f32>();
    }
    let per_kv = params.heads / params.kv_heads;
    for (var h = kv * per_kv; h < kv * per_kv + per_kv; h++) {
        for (var i = select(0u, group.x * WG_SIZE, CAUSAL); i < t; i++) {
            var s = 0.0;
            var dp = 0.0;
            for (var d = 0u; d < HEAD_VEC8S; d++) {
                q[d] = qkv_vec8(packed_start(row0 + i, h), d);
                g[d] = dy_vec8(y_start(row0 + i, h), d);
                s += dot8(k[d], q[d]);
                dp += dot8(v[d], g[d]);
            }
            let query = query_index(group.z, h, i);
            // A hidden score may be anything: its probability is dropped.
            let visible = !CAUSAL || j <= i;
            var p = select(0.0, probability(s * params.scale, saved_stats[query]), visible);
            var factor = 1.0;
            if (DROPOUT) {
                factor = keep(query, j);
            }
            let ds = select(0.0, params.scale * p * (apply(factor, dp) - saved_delta[query]), visible);
            p = apply(factor, p);
            for (var d = 0u; d < HEAD_VEC8S; d++) {
                dk[d] += q[d] * ds;
                dv[d] += g[d] * p;
            }
        }
    }
    if (j < t) {
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            put_dqkv(packed_head(own, k_slot), d, dk[d]);
            put_dqkv(packed_head(own, v_slot), d, dv[d]);
        }
    }
}

// Heads of padded vec8s of f32 to words of OUT, one an invocation.
@compute @workgroup_size(WG_SIZE)
fn attention_pack(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = (group_index(group, groups) * WG_SIZE + lane) * pack_size(OUT);
    if (i >= params.elements) {
        return;
    }
    var word = 0u;
    for (var j = i; j < min(i + pack_size(OUT), params.elements); j++) {
        let head = j / params.head_size;
        let value = padded[head * HEAD_VEC8S * 8u + (j - head * params.head_size)];
        word |= place_code(OUT, encode(OUT, value), j);
    }
    let w = word_of(OUT, i);
    y[w >> 1u][w & 1u] = word;
}

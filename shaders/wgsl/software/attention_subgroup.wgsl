// Attention where a subgroup has eight lanes, as on software adapters. CPU twins:
// core/src/cpu/{attention,attention_backward}.rs; formula: attention.wgsl; layout: shared/heads.wgsl.
//
// A workgroup is one subgroup and owns eight queries (`attention`, `attention_dq`) or eight keys (`attention_dkv`), one
// a lane. It meets the other side eight rows at a time: each lane loads one, and all get its elements by broadcast. A
// row is thus loaded once for eight rows on this side, and the rescaling of a softmax is done once for eight keys.
// llvmpipe loads lane by lane, so loads are what counts there. At [16, 128], 4 heads of 32, causal, CPU time of
// attention.wgsl's kernels and of these: f32 forward 24.6 and 4.9 ms, backward 52.7 and 18 ms; bf16 16.7 and 3.9, 42
// and 17 ms. Of `attention_dkv` a third is loads.
// Tried without gain: two queries a lane (registers), a loop over `subgroupShuffle` (1.6 times), all broadcasts of a
// vector in an array before they are used (1.7 times), fma (not fused there).
//% needs subgroups
//% import heads, grid

// Lanes of a subgroup, each with a row of the other side.
const LANES: u32 = 8u;
const WG_SIZE: u32 = LANES;

alias Head = array<mat2x4<f32>, HEAD_VEC8S>;
// A number for each lane.
alias PerLane = array<f32, LANES>;

// Adds the dot products of a vec8 with each lane's.
fn add_dots(s: ptr<function, PerLane>, a: mat2x4<f32>, b: mat2x4<f32>) {
    (*s)[0] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 0u), subgroupBroadcast(b[1], 0u)));
    (*s)[1] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 1u), subgroupBroadcast(b[1], 1u)));
    (*s)[2] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 2u), subgroupBroadcast(b[1], 2u)));
    (*s)[3] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 3u), subgroupBroadcast(b[1], 3u)));
    (*s)[4] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 4u), subgroupBroadcast(b[1], 4u)));
    (*s)[5] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 5u), subgroupBroadcast(b[1], 5u)));
    (*s)[6] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 6u), subgroupBroadcast(b[1], 6u)));
    (*s)[7] += dot8(a, mat2x4<f32>(subgroupBroadcast(b[0], 7u), subgroupBroadcast(b[1], 7u)));
}

// y + the sum over the lanes of w b.
fn weighted(y: mat2x4<f32>, b: mat2x4<f32>, w: PerLane) -> mat2x4<f32> {
    var sum = y;
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 0u), subgroupBroadcast(b[1], 0u)) * w[0];
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 1u), subgroupBroadcast(b[1], 1u)) * w[1];
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 2u), subgroupBroadcast(b[1], 2u)) * w[2];
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 3u), subgroupBroadcast(b[1], 3u)) * w[3];
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 4u), subgroupBroadcast(b[1], 4u)) * w[4];
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 5u), subgroupBroadcast(b[1], 5u)) * w[5];
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 6u), subgroupBroadcast(b[1], 6u)) * w[6];
    sum += mat2x4<f32>(subgroupBroadcast(b[0], 7u), subgroupBroadcast(b[1], 7u)) * w[7];
    return sum;
}

// Four vec8s of a head: lavapipe does not unroll longer loops, and keeps what they index in memory that it reads lane
// by lane.
fn add_four(first: u32, s: ptr<function, PerLane>, a: ptr<function, Head>, b: ptr<function, Head>) {
    for (var d = first; d < min(first + 4u, HEAD_VEC8S); d++) {
        add_dots(s, (*a)[d], (*b)[d]);
    }
}

fn weigh_four(first: u32, y: ptr<function, Head>, b: ptr<function, Head>, w: ptr<function, PerLane>) {
    for (var d = first; d < min(first + 4u, HEAD_VEC8S); d++) {
        (*y)[d] = weighted((*y)[d], (*b)[d], *w);
    }
}

// The dot products of a head with each lane's.
fn dots(a: ptr<function, Head>, b: ptr<function, Head>) -> PerLane {
    var s: PerLane;
    add_four(0u, &s, a, b);
    if (HEAD_VEC8S > 4u) {
        add_four(4u, &s, a, b);
    }
    if (HEAD_VEC8S > 8u) {
        add_four(8u, &s, a, b);
    }
    if (HEAD_VEC8S > 12u) {
        add_four(12u, &s, a, b);
    }
    return s;
}

// Adds the sum over the lanes of w b to y.
fn weigh(y: ptr<function, Head>, b: ptr<function, Head>, w: ptr<function, PerLane>) {
    weigh_four(0u, y, b, w);
    if (HEAD_VEC8S > 4u) {
        weigh_four(4u, y, b, w);
    }
    if (HEAD_VEC8S > 8u) {
        weigh_four(8u, y, b, w);
    }
    if (HEAD_VEC8S > 12u) {
        weigh_four(12u, y, b, w);
    }
}

// The number of each lane.
fn spread(x: f32) -> PerLane {
    return PerLane(subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
        subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u), subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u));
}

@compute @workgroup_size(WG_SIZE)
fn attention(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = params.t;
    let group = group_place(group_index(id, groups), (t + LANES - 1u) / LANES, params.heads);
    if (group.z >= params.batch) {
        return;
    }
    let first = group.x * LANES;
    let i = first + lane;
    let h = group.y;
    let row0 = group.z * t;
    let own = row0 + min(i, t - 1u);
    let query = query_index(group.z, h, min(i, t - 1u));
    var q: Head;
    var k: Head;
    var o: Head;
    for (var d = 0u; d < HEAD_VEC8S; d++) {
        q[d] = qkv_vec8(packed_start(own, h), d);
        o[d] = mat2x4<f32>();
    }
    var largest = LOWEST;
    var sum = 0.0;
    let keys = select(t, min(t, first + LANES), CAUSAL);
    let limit = select(t, min(t, i + 1u), CAUSAL);
    for (var j = 0u; j < keys; j += LANES) {
        let k_start = packed_start(row0 + min(j + lane, t - 1u), key_slot(h));
        let v_start = k_start + params.kv_heads * params.head_size;
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            k[d] = qkv_vec8(k_start, d);
        }
        var s = dots(&q, &k);
        var grown = largest;
        for (var x = 0u; x < LANES; x++) {
            s[x] = select(LOWEST, s[x] * params.scale, j + x < limit);
            grown = max(grown, s[x]);
        }
        let shrink = exp(largest - grown);
        sum *= shrink;
        for (var x = 0u; x < LANES; x++) {
            s[x] = select(0.0, exp(s[x] - grown), j + x < limit);
            sum += s[x];
            if (DROPOUT) {
                s[x] = apply(keep(query, j + x), s[x]);
            }
        }
        largest = grown;
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            k[d] = qkv_vec8(v_start, d);
            o[d] *= shrink;
        }
        weigh(&o, &k, &s);
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
    let group = group_place(group_index(id, groups), (t + LANES - 1u) / LANES, params.heads);
    if (group.z >= params.batch) {
        return;
    }
    let first = group.x * LANES;
    let i = first + lane;
    let h = group.y;
    let row0 = group.z * t;
    let own = row0 + min(i, t - 1u);
    let query = query_index(group.z, h, min(i, t - 1u));
    let own_stats = saved_stats[query];
    var own_delta = 0.0;
    var q: Head;
    var g: Head;
    var k: Head;
    var v: Head;
    var dq: Head;
    for (var d = 0u; d < HEAD_VEC8S; d++) {
        q[d] = qkv_vec8(packed_start(own, h), d);
        g[d] = dy_vec8(y_start(own, h), d);
        own_delta += dot8(g[d], y_vec8(y_start(own, h), d));
        dq[d] = mat2x4<f32>();
    }
    let keys = select(t, min(t, first + LANES), CAUSAL);
    let limit = select(t, min(t, i + 1u), CAUSAL);
    for (var j = 0u; j < keys; j += LANES) {
        let k_start = packed_start(row0 + min(j + lane, t - 1u), key_slot(h));
        let v_start = k_start + params.kv_heads * params.head_size;
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            k[d] = qkv_vec8(k_start, d);
            v[d] = qkv_vec8(v_start, d);
        }
        var s = dots(&q, &k);
        var dp = dots(&g, &v);
        for (var x = 0u; x < LANES; x++) {
            let p = probability(s[x] * params.scale, own_stats);
            var e = dp[x];
            if (DROPOUT) {
                e = apply(keep(query, j + x), e);
            }
            s[x] = select(0.0, params.scale * p * (e - own_delta), j + x < limit);
        }
        weigh(&dq, &k, &s);
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
    let group = group_place(group_index(id, groups), (t + LANES - 1u) / LANES, params.kv_heads);
    if (group.z >= params.batch) {
        return;
    }
    let first = group.x * LANES;
    let j = first + lane;
    let kv = group.y;
    let row0 = group.z * t;
    let own = row0 + min(j, t - 1u);
    let k_slot = params.heads + kv;
    let v_slot = k_slot + params.kv_heads;
    var k: Head;
    var v: Head;
    var q: Head;
    var g: Head;
    var dk: Head;
    var dv: Head;
    for (var d = 0u; d < HEAD_VEC8S; d++) {
        k[d] = qkv_vec8(packed_start(own, k_slot), d);
        v[d] = qkv_vec8(packed_start(own, v_slot), d);
        dk[d] = mat2x4<f32>();
        dv[d] = mat2x4<f32>();
    }
    let per_kv = params.heads / params.kv_heads;
    for (var h = kv * per_kv; h < kv * per_kv + per_kv; h++) {
        for (var i = select(0u, first, CAUSAL); i < t; i += LANES) {
            let other = row0 + min(i + lane, t - 1u);
            for (var d = 0u; d < HEAD_VEC8S; d++) {
                q[d] = qkv_vec8(packed_start(other, h), d);
                g[d] = dy_vec8(y_start(other, h), d);
            }
            var s = dots(&k, &q);
            var dp = dots(&v, &g);
            let query = query_index(group.z, h, min(i + lane, t - 1u));
            let own_stats = saved_stats[query];
            let all_largest = spread(own_stats.x);
            let all_inverse = spread(own_stats.y);
            let all_delta = spread(saved_delta[query]);
            for (var x = 0u; x < LANES; x++) {
                // A hidden score may be anything: its probability is dropped.
                let visible = i + x < t && (!CAUSAL || j <= i + x);
                let p = select(0.0, probability(s[x] * params.scale, vec2<f32>(all_largest[x], all_inverse[x])), visible);
                var factor = 1.0;
                if (DROPOUT) {
                    factor = keep(query_index(group.z, h, i + x), j);
                }
                dp[x] = select(0.0, params.scale * p * (apply(factor, dp[x]) - all_delta[x]), visible);
                s[x] = apply(factor, p);
            }
            weigh(&dk, &q, &dp);
            weigh(&dv, &g, &s);
        }
    }
    if (j < t) {
        for (var d = 0u; d < HEAD_VEC8S; d++) {
            put_dqkv(packed_head(own, k_slot), d, dk[d]);
            put_dqkv(packed_head(own, v_slot), d, dv[d]);
        }
    }
}

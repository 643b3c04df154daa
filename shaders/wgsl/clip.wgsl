// Gradient clipping: by norm (`coef`), by a percentile of past norms (`adaptive`), by value (`value`). CPU twin:
// core/src/cpu/clip.rs.
//
// Formula: coef = min(1, 1 / (norm + 1e-6) * max_norm), NaN stays NaN, as two factors: 1 and coef, or for norms from
// 2^64 on 2^-64 and 1 / (norm 2^-64) * max_norm, since coef itself may be subnormal; `adaptive` takes max_norm from a
// ring of past norms (each entry is ranked by counting smaller ones, ties by position) and enters this norm; `value`
// holds every element in [-limit, limit].
// Layout: `coef` one invocation; `adaptive` one workgroup; `value` eight elements an invocation, in place. Bits are
// those of the CPU.
// Source: PyTorch clip_grad.py; Seetharaman et al., "AutoClip", arXiv 2007.14469.
//% import exact, grid
//% const WG_SIZE: [256] = 256

struct Params {
    // The limit; of `adaptive`, while the ring fills.
    max_norm: f32,
    // Which of the remembered norms in ascending order, and how many there are.
    rank: u32,
    window: u32,
    vec8_count: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> norm: array<u32>;
@group(0) @binding(2) var<storage, read_write> coef_out: array<u32>;
@group(0) @binding(3) var<storage, read_write> ring: array<u32>;
@group(0) @binding(4) var<storage, read_write> count: array<u32>;
@group(0) @binding(5) var<storage, read_write> grads: array<Vec8>;
@group(0) @binding(6) var<storage, read> far: array<u32>;

const FAR: f32 = 0x1p-64f;
// Bits of 2^64.
const FAR_FROM: u32 = 0x5f800000u;

// `far` is the norm times 2^-64.
fn clip_coef(norm: u32, far: u32, max_norm: u32) -> vec2<u32> {
    if (norm >= FAR_FROM && norm <= EXACT_INF) {
        let coef = mul_exact(div_exact(EXACT_ONE, far), max_norm);
        return select(vec2<u32>(bitcast<u32>(FAR), coef), vec2<u32>(EXACT_ONE), coef > FAR_FROM && coef <= EXACT_INF);
    }
    let shifted = bitcast<u32>(bitcast<f32>(norm) + 1e-6);
    let sum = select(shifted, norm, (norm & EXACT_MAGNITUDE) >= EXACT_INF);
    let product = mul_exact(div_exact(EXACT_ONE, sum), max_norm);
    // Positive floats order as their bits.
    return vec2<u32>(EXACT_ONE, select(product, EXACT_ONE, product > EXACT_ONE && product <= EXACT_INF));
}

fn put(coef: vec2<u32>) {
    coef_out[0] = coef.x;
    coef_out[1] = coef.y;
}

@compute @workgroup_size(1)
fn coef() {
    put(clip_coef(norm[0], far[0], bitcast<u32>(params.max_norm)));
}

var<workgroup> max_norm: u32;

@compute @workgroup_size(WG_SIZE)
fn adaptive(@builtin(local_invocation_index) lane: u32) {
    let n = params.window;
    let met = count[0];
    if (lane == 0u) {
        max_norm = bitcast<u32>(params.max_norm);
    }
    workgroupBarrier();
    for (var i = lane; i < n && met >= n; i += WG_SIZE) {
        let own = key(ring[i]);
        var rank = 0u;
        for (var j = 0u; j < n; j++) {
            let other = key(ring[j]);
            rank += select(0u, 1u, other < own || (other == own && j < i));
        }
        if (rank == params.rank) {
            max_norm = ring[i];
        }
    }
    workgroupBarrier();
    storageBarrier();
    if (lane == 0u) {
        put(clip_coef(norm[0], far[0], max_norm));
        if ((norm[0] & EXACT_MAGNITUDE) < EXACT_INF) {
            ring[met % n] = norm[0];
            count[0] = select(met + 1u, n, met + 1u >= 2u * n);
        }
    }
}

@compute @workgroup_size(WG_SIZE)
fn value(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG_SIZE + lane;
    if (i < params.vec8_count) {
        var bits = unpack_vec8(grads[i]);
        let limit = vec4<u32>(bitcast<u32>(params.max_norm));
        //% for h in 0..2
        let a$h = bits[$h] & vec4<u32>(EXACT_MAGNITUDE);
        let held$h = (bits[$h] & vec4<u32>(0x80000000u)) | limit;
        bits[$h] = select(bits[$h], held$h, (a$h > limit) & (a$h <= vec4<u32>(EXACT_INF)));
        //% end
        grads[i] = pack_vec8(bits);
    }
}

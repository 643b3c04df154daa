// The dynamic loss scale: growth after a run of good steps, backoff after an overflow. CPU twin:
// core/src/cpu/loss_scale.rs.
//
// Formula: f32(f64(scale) * f64(factor)), rounded to 53 bits and then to 24 as PyTorch does, in 32-bit integers. A
// factor is the two words of its f64.
// Layout: one invocation. A launch sees the flags of up to four optimizers, absent ones 0; where there are more, `join`
// collects them in launches of its own.
// Sources: PyTorch AmpKernels.cu; apex update_scale_hysteresis.cu.
//% import exact
//% const JOINED: bool = false

struct Params {
    growth_hi: u32,
    growth_lo: u32,
    backoff_hi: u32,
    backoff_lo: u32,
    growth_interval: i32,
    min_scale: u32,
    hysteresis: i32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> found_inf0: array<u32>;
@group(0) @binding(2) var<storage, read> found_inf1: array<u32>;
@group(0) @binding(3) var<storage, read> found_inf2: array<u32>;
@group(0) @binding(4) var<storage, read> found_inf3: array<u32>;
@group(0) @binding(5) var<storage, read_write> joined: array<u32>;
@group(0) @binding(6) var<storage, read_write> loss_scale: array<u32>;
@group(0) @binding(7) var<storage, read_write> growth_tracker: array<i32>;
@group(0) @binding(8) var<storage, read_write> hysteresis_tracker: array<i32>;

// 0 unless some flag is anything but 0.
fn overflow() -> u32 {
    let flags = (found_inf0[0] | found_inf1[0] | found_inf2[0] | found_inf3[0]) & EXACT_MAGNITUDE;
    if (JOINED) {
        return flags | joined[0];
    }
    return flags;
}

@compute @workgroup_size(1)
fn join() {
    joined[0] = overflow();
}

@compute @workgroup_size(1)
fn update_loss_scale() {
    let scale = loss_scale[0];
    if (overflow() != 0u) {
        growth_tracker[0] = 0;
        let left = max(hysteresis_tracker[0], -0x7fffffff) - 1;
        hysteresis_tracker[0] = left;
        if (left <= 0) {
            let least = select(scale, params.min_scale, key(params.min_scale) < key(scale));
            let lower = scale_times(scale, params.backoff_hi, params.backoff_lo);
            loss_scale[0] = select(lower, least, key(lower) < key(least));
        }
        return;
    }
    hysteresis_tracker[0] = params.hysteresis;
    let good = growth_tracker[0] + 1;
    growth_tracker[0] = good;
    if (good == params.growth_interval) {
        growth_tracker[0] = 0;
        let higher = scale_times(scale, params.growth_hi, params.growth_lo);
        if ((higher & EXACT_MAGNITUDE) < EXACT_INF) {
            loss_scale[0] = higher;
        }
    }
}

// scale * factor, the factor as the words of an f64.
fn scale_times(scale: u32, factor_hi: u32, factor_lo: u32) -> u32 {
    let sign = (scale ^ factor_hi) & 0x80000000u;
    let a = scale & EXACT_MAGNITUDE;
    let f_exponent = i32((factor_hi >> 20u) & 0x7ffu);
    if (a >= EXACT_INF) {
        return scale;
    }
    if (a == 0u || f_exponent == 0) {
        return sign;
    }
    // |factor| = f * 2^(f_exponent - 1075), f of 53 bits. The product with the bytes of f, lowest first, in 80 bits:
    // w2 w1 w0.
    let s = parts(a);
    let f_hi = (factor_hi & 0xfffffu) | 0x100000u;
    var w = vec2<u32>();
    var carry = 0u;
    for (var i = 0u; i < 7u; i++) {
        let place = (8u * i) & 31u;
        let byte = (select(f_hi, factor_lo, i < 4u) >> place) & 0xffu;
        let p = s.significand * byte + carry;
        w[i / 4u] |= (p & 0xffu) << place;
        carry = p >> 8u;
    }
    let w0 = w.x;
    let w1 = w.y | (carry << 24u);
    let w2 = carry >> 8u;
    // First rounding: drop 23 or 24 of the 76 or 77 bits, leaving 53 (or 2^53, which the second rounding takes as
    // well).
    let first = 23u + select(0u, 1u, (w2 >> 12u) != 0u);
    let lo_floor = (w0 >> first) | (w1 << (32u - first));
    let lost = w0 & ((1u << first) - 1u);
    let tie = 1u << (first - 1u);
    let add = select(0u, 1u, lost > tie || (lost == tie && (lo_floor & 1u) == 1u));
    let lo = lo_floor + add;
    let hi = ((w1 >> first) | (w2 << (32u - first))) + select(0u, 1u, add == 1u && lo == 0u);
    // Second rounding: to 24 bits, or fewer where the result is subnormal in f32.
    let exponent = s.exponent - 150 + f_exponent - 1075 + i32(first) + 52 + 127;
    if (exponent >= 255) {
        return sign | EXACT_INF;
    }
    let drop = 29u + u32(max(1 - exponent, 0));
    if (drop > 54u) {
        return sign;
    }
    var kept = hi;
    var rest = vec2<u32>(0u, lo);
    var half = vec2<u32>(0u, 0x80000000u);
    if (drop < 32u) {
        kept = (hi << (32u - drop)) | (lo >> drop);
        rest.y = lo & ((1u << drop) - 1u);
        half.y = 1u << (drop - 1u);
    } else if (drop > 32u) {
        kept = hi >> (drop - 32u);
        rest.x = hi & ((1u << (drop - 32u)) - 1u);
        half = vec2<u32>(1u << (drop - 33u), 0u);
    }
    let above = rest.x > half.x || (rest.x == half.x && rest.y > half.y);
    let up = above || (all(rest == half) && (kept & 1u) == 1u);
    let bits = (u32(max(exponent, 1) - 1) << 23u) + kept + select(0u, 1u, up);
    return sign | min(bits, EXACT_INF);
}

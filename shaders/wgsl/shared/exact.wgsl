// Correctly rounded products and quotients of f32 from integers alone: WGSL's division may be off by 2.5 ulp, and an
// adapter may flush subnormals. Operands and results are bits. Ties to even; NaN in, quiet NaN out. CPU twin: the
// operators of f32.

const EXACT_MAGNITUDE: u32 = 0x7fffffffu;
const EXACT_INF: u32 = 0x7f800000u;
const EXACT_NAN: u32 = 0x7fc00000u;
const EXACT_ONE: u32 = 0x3f800000u;

// Orders as the values do; NaN lies beyond infinity.
fn key(bits: u32) -> i32 {
    let a = bitcast<i32>(bits & EXACT_MAGNITUDE);
    return select(a, -a, bits > EXACT_MAGNITUDE);
}

// A finite magnitude above 0 as significand * 2^(exponent - 150), the significand in [2^23, 2^24).
struct Parts {
    significand: u32,
    exponent: i32,
}

fn parts(a: u32) -> Parts {
    if (a >= 0x800000u) {
        return Parts((a & 0x7fffffu) | 0x800000u, i32(a >> 23u));
    }
    let top = firstLeadingBit(max(a, 1u));
    return Parts(a << (23u - top), i32(top) - 22);
}

// Bits of the magnitude m * 2^(exponent - 157), m in [2^30, 2^31) with its last bit set where anything below was lost.
fn round_magnitude(m: u32, exponent: i32) -> u32 {
    if (exponent >= 255) {
        return EXACT_INF;
    }
    let lost = 7 + max(1 - exponent, 0);
    if (lost > 31) {
        return 0u;
    }
    let drop = u32(lost);
    let kept = m >> drop;
    let rest = m & ((1u << drop) - 1u);
    let half = 1u << (drop - 1u);
    let up = rest > half || (rest == half && (kept & 1u) == 1u);
    // The leading bit of a normal significand, or a carry into it, adds 1 to the exponent field.
    return min((u32(max(exponent, 1) - 1) << 23u) + kept + select(0u, 1u, up), EXACT_INF);
}

fn mul_exact(x: u32, y: u32) -> u32 {
    let sign = (x ^ y) & 0x80000000u;
    let a = x & EXACT_MAGNITUDE;
    let b = y & EXACT_MAGNITUDE;
    if (a > EXACT_INF || b > EXACT_INF) {
        return select(y, x, a > EXACT_INF) | 0x400000u;
    }
    if (a == 0u || b == 0u) {
        return select(sign, EXACT_NAN, max(a, b) == EXACT_INF);
    }
    if (max(a, b) == EXACT_INF) {
        return sign | EXACT_INF;
    }
    let p = parts(a);
    let q = parts(b);
    // 24 x 24 bits by halves of 12: the product is high * 2^24 + low, in [2^46, 2^48).
    let p1 = p.significand >> 12u;
    let p0 = p.significand & 0xfffu;
    let q1 = q.significand >> 12u;
    let q0 = q.significand & 0xfffu;
    let middle = p1 * q0 + p0 * q1;
    let low = p0 * q0 + ((middle & 0xfffu) << 12u);
    let high = p1 * q1 + (middle >> 12u) + (low >> 24u);
    let m = (high << 8u) | ((low & 0xffffffu) >> 16u) | select(0u, 1u, (low & 0xffffu) != 0u);
    let exponent = p.exponent + q.exponent - 127;
    if (m >= 0x80000000u) {
        return sign | round_magnitude((m >> 1u) | (m & 1u), exponent + 1);
    }
    return sign | round_magnitude(m, exponent);
}

fn div_exact(x: u32, y: u32) -> u32 {
    let sign = (x ^ y) & 0x80000000u;
    let a = x & EXACT_MAGNITUDE;
    let b = y & EXACT_MAGNITUDE;
    if (a > EXACT_INF || b > EXACT_INF) {
        return select(y, x, a > EXACT_INF) | 0x400000u;
    }
    if (a == b && (a == 0u || a == EXACT_INF)) {
        return EXACT_NAN;
    }
    if (a == 0u || b == EXACT_INF) {
        return sign;
    }
    if (b == 0u || a == EXACT_INF) {
        return sign | EXACT_INF;
    }
    let p = parts(a);
    let q = parts(b);
    let less = p.significand < q.significand;
    // The first digit is 1; three more of 8 bits make a quotient in [2^24, 2^25).
    var rest = select(p.significand, p.significand << 1u, less) - q.significand;
    var quotient = 1u;
    for (var i = 0u; i < 3u; i++) {
        let wide = rest << 8u;
        let digit = wide / q.significand;
        quotient = (quotient << 8u) | digit;
        rest = wide - digit * q.significand;
    }
    let m = (quotient << 6u) | select(0u, 1u, rest != 0u);
    return sign | round_magnitude(m, p.exponent - q.exponent + select(127, 126, less));
}

// Elementary functions and activations of f32. CPU twins: core/src/float/math.rs (polynomials, constants and sources
// are there) and core/src/cpu/map/functions.rs.
//
// Unlike the twin: rounding to an integer is `round`, since WGSL may reassociate (x + R) - R; NaN and zero tests,
// comparisons, maxima and signs look at bits, since WGSL may take floats for finite and flush subnormals; NaN arguments
// are put back at the end. Builtin exp, tanh, sin and pow are not used: Vulkan promises 2^-11 for sin and 3 + 2|x| ulp
// for exp.
//% import codec

const LOG2_E: f32 = 1.44269504;
const LN2_HI: f32 = 0.693359375;
const LN2_LO: f32 = -2.1219444e-4;
const FRAC_1_SQRT_2: f32 = 0.70710678;

// A value by its bits. A call is no constant expression, so non-finite bits are allowed.
fn from_bits(bits: u32) -> f32 {
    return bitcast<f32>(bits);
}

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & F32_MAGNITUDE) > F32_INF;
}

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & F32_MAGNITUDE) < F32_INF;
}

// y, or x where x is NaN.
fn keep_nan(x: f32, y: f32) -> f32 {
    return select(y, x, is_nan(x));
}

fn flag(condition: bool) -> f32 {
    return select(0.0, 1.0, condition);
}

fn copy_sign(magnitude: f32, sign: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(magnitude) & F32_MAGNITUDE) | (bitcast<u32>(sign) & 0x80000000u));
}

// An integer that ascends with the value, infinities included; both zeros give 0. Means nothing for NaN.
fn order(x: f32) -> i32 {
    let bits = bitcast<i32>(x);
    return select(bits, -(bits & 0x7fffffff), bits < 0);
}

// 2^n for -126 <= n <= 127.
fn pow2(n: i32) -> f32 {
    return bitcast<f32>(u32(n + 127) << 23u);
}

// p 2^n for -252 <= n <= 254.
fn scale2(p: f32, n: i32) -> f32 {
    let half = n >> 1u;
    return p * pow2(half) * pow2(n - half);
}

// e^r for |r| <= ln(2) / 2.
fn exp_poly(r: f32) -> f32 {
    var p = 1.9875691e-4;
    p = p * r + 1.3982e-3;
    p = p * r + 8.333452e-3;
    p = p * r + 4.1665796e-2;
    p = p * r + 1.6666665e-1;
    p = p * r + 5.0000001e-1;
    return p * (r * r) + r + 1.0;
}

fn exp_f32(x: f32) -> f32 {
    let v = clamp(x, -104.0, 89.0);
    let n = round(v * LOG2_E);
    let r = (v - n * LN2_HI) - n * LN2_LO;
    let y = scale2(exp_poly(r), i32(n));
    return keep_nan(x, select(y, 0.0, x < -104.0));
}

// m in [sqrt(1/2), sqrt(2)) and an integral e with x = m 2^e, for positive finite x.
fn mantissa_exponent(x: f32) -> vec2<f32> {
    let sqrt_half = 0x3f3504f3u;
    let a = bitcast<u32>(x) & F32_MAGNITUDE;
    // The code of a subnormal is its value in units of 2^-149.
    let tiny = a < 0x800000u;
    let i = select(a, bitcast<u32>(f32(a)), tiny) - sqrt_half;
    let e = f32(bitcast<i32>(i) >> 23u) - select(0.0, 149.0, tiny);
    return vec2<f32>(bitcast<f32>((i & 0x7fffffu) + sqrt_half), e);
}

fn log_f32(x: f32) -> f32 {
    let parts = mantissa_exponent(x);
    let e = parts.y;
    let f = parts.x - 1.0;
    let z = f * f;
    var p = 7.0376836e-2;
    p = p * f - 1.151461e-1;
    p = p * f + 1.16769987e-1;
    p = p * f - 1.2420141e-1;
    p = p * f + 1.4249323e-1;
    p = p * f - 1.6668057e-1;
    p = p * f + 2.0000715e-1;
    p = p * f - 2.4999994e-1;
    p = p * f + 3.3333331e-1;
    let y = f * z * p + e * LN2_LO - 0.5 * z;
    let bits = bitcast<u32>((f + y) + e * LN2_HI);
    let own = bitcast<u32>(x);
    let a = own & F32_MAGNITUDE;
    let defined = select(select(bits, F32_INF, a == F32_INF), 0xff800000u, a == 0u);
    return bitcast<f32>(select(defined, F32_NAN, a > F32_INF || (own > 0x80000000u)));
}

fn tanh_f32(x: f32) -> f32 {
    let z = x * x;
    var p = -5.7049887e-3;
    p = p * z + 2.0639089e-2;
    p = p * z - 5.3739716e-2;
    p = p * z + 1.3331442e-1;
    p = p * z - 3.3333282e-1;
    let small = p * z * x + x;
    let a = abs(x);
    let a2 = 2.0 * min(a, 10.0);
    let n = round(a2 * LOG2_E);
    let r = (a2 - n * LN2_HI) - n * LN2_LO;
    let e = exp_poly(r) * pow2(i32(n));
    let large = 1.0 - 2.0 / (e + 1.0);
    return keep_nan(x, copy_sign(select(large, small, a < 0.625), x));
}

fn erf_f32(x: f32) -> f32 {
    let s = x * x;
    var p = -0.00059643283;
    p = p * s + 0.00498802075;
    p = p * s - 0.0267631374;
    p = p * s + 0.112817213;
    p = p * s - 0.376124859;
    p = p * s + 0.128379151;
    let small = p * x + x;
    let a = min(abs(x), 4.0);
    var q = -1.15425482e-05;
    q = q * a + 0.000325898873;
    q = q * a - 0.0036549801;
    q = q * a + 0.0237884521;
    q = q * a - 0.106267452;
    q = q * a - 0.635132849;
    q = q * a - 0.128653035;
    let v = q * a - a;
    let n = round(v * LOG2_E);
    let r = (v - n * LN2_HI) - n * LN2_LO;
    let large = copy_sign(1.0 - exp_poly(r) * pow2(i32(n)), x);
    return keep_nan(x, select(large, small, a <= 0.9277344));
}

fn sigmoid_f32(x: f32) -> f32 {
    let e = exp_f32(-abs(x));
    let d = 1.0 + e;
    let y = select(e, 1.0, x >= 0.0) / d;
    return keep_nan(x, y - y * (e - (d - 1.0)) * select(1.0 - y, y, x >= 0.0));
}

fn softplus_f32(x: f32) -> f32 {
    let e = exp_f32(-abs(x));
    let s = e / (2.0 + e);
    let z = s * s;
    var p = 0.103938088;
    p = p * z + 0.0873235092;
    p = p * z + 0.111323558;
    p = p * z + 0.142851532;
    p = p * z + 0.200000048;
    p = p * z + 0.333333343;
    let half = p * z * s + s;
    return keep_nan(x, select(0.0, x, x > 0.0) + (half + half));
}

// r in [-pi/4, pi/4] for |x| <= 1e5, and the quarter turns taken off.
fn reduce_half_pi(x: f32) -> vec2<f32> {
    let n = round(x * 0.63661977);
    var r = x - n * 1.5703125;
    r = r - n * 4.82559204101562500e-04;
    r = r - n * 1.26659870147705078e-06;
    r = r - n * 9.89530235528945923e-10;
    r = r - n * 2.56334406825708960e-12;
    return vec2<f32>(clamp(r, -1.0, 1.0), n);
}

// sin(r + quadrant pi/2).
fn sin_quadrant(r: f32, quadrant: u32) -> f32 {
    let z = r * r;
    let s = ((-1.9515296e-4 * z + 8.332161e-3) * z - 1.6666655e-1) * z * r + r;
    let c = ((2.4433157e-5 * z - 1.3887316e-3) * z + 4.1666646e-2) * z * z - 0.5 * z + 1.0;
    let y = select(c, s, (quadrant & 1u) == 0u);
    return bitcast<f32>(bitcast<u32>(y) ^ ((quadrant & 2u) << 30u));
}

fn sin_f32(x: f32) -> f32 {
    let t = reduce_half_pi(x);
    let y = select(sin_quadrant(t.x, u32(i32(t.y))), x, x == 0.0);
    return select(from_bits(F32_NAN), y, finite(x));
}

fn cos_f32(x: f32) -> f32 {
    let t = reduce_half_pi(x);
    return select(from_bits(F32_NAN), sin_quadrant(t.x, u32(i32(t.y)) + 1u), finite(x));
}

// The upper 12 bits of a significand: products of two such are exact.
fn high(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}

// log2(x) as an unevaluated sum, for positive finite x.
fn log2_double(x: f32) -> vec2<f32> {
    let parts = mantissa_exponent(x);
    let m = parts.x;
    let u = m - 1.0;
    let v = 1.0 / (m + 1.0);
    let s = u * v;
    let s_hi = high(s);
    let d_hi = high(m + 1.0);
    let d_lo = m - (d_hi - 1.0);
    let s_lo = v * ((u - s_hi * d_hi) - s_hi * d_lo);
    let s2 = s * s;
    var p = 3.0 / 15.0;
    p = p * s2 + 3.0 / 13.0;
    p = p * s2 + 3.0 / 11.0;
    p = p * s2 + 3.0 / 9.0;
    p = p * s2 + 3.0 / 7.0;
    p = p * s2 + 3.0 / 5.0;
    let r = s2 * s2 * p + s_lo * (s_hi + s);
    let q = s_hi * s_hi;
    let t_hi = high(3.0 + q + r);
    let t_lo = r - ((t_hi - 3.0) - q);
    let w_hi = s_hi * t_hi;
    let w_lo = s_lo * t_hi + t_lo * s;
    let p_hi = high(w_hi + w_lo);
    let p_lo = w_lo - (p_hi - w_hi);
    let z_hi = 9.6191406e-1 * p_hi;
    let z_lo = -1.17368574e-4 * p_hi + p_lo * 9.617967e-1;
    let hi = high((z_hi + z_lo) + parts.y);
    return vec2<f32>(hi, z_lo - ((hi - parts.y) - z_hi));
}

fn is_integer(y: f32) -> bool {
    return abs(y) >= 8388608.0 || floor(y) == y;
}

fn pow_f32(x: f32, y: f32) -> f32 {
    let ax = abs(x);
    let log = log2_double(ax);
    let yc = clamp(y, -1099511627776.0, 1099511627776.0);
    let y1 = high(yc);
    let p_hi_wide = y1 * log.x;
    let p_lo = select((yc - y1) * log.x + yc * log.y, 0.0, abs(p_hi_wide) > 300.0);
    let p_hi = clamp(p_hi_wide, -300.0, 300.0);
    let n = round(p_hi + p_lo);
    let f = (p_hi - n) + p_lo;
    let power = scale2(exp_poly(f * 0.693147181), clamp(i32(n), -250, 250));

    let a = bitcast<u32>(x) & F32_MAGNITUDE;
    let negative = bitcast<u32>(x) != a;
    let positive_y = order(y) > 0;
    let edge = select(from_bits(F32_INF), 0.0, (a == 0u) == positive_y);
    let magnitude = select(power, edge, a == 0u || a == F32_INF);
    let integral = is_integer(y);
    let odd = integral && abs(y) < 16777216.0 && !is_integer(0.5 * y);
    let signed = select(magnitude, copy_sign(magnitude, x), odd);
    let undefined = (negative && a != 0u && a < F32_INF && !integral) || is_nan(x) || is_nan(y);
    return select(select(signed, from_bits(F32_NAN), undefined), 1.0, (order(y) == 0 && !is_nan(y)) || x == 1.0);
}

fn neg_f32(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ 0x80000000u);
}

fn abs_f32(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & F32_MAGNITUDE);
}

fn recip_f32(x: f32) -> f32 {
    return 1.0 / x;
}

fn square_f32(x: f32) -> f32 {
    return x * x;
}

fn sqrt_f32(x: f32) -> f32 {
    // The square root of -0 is -0.
    return select(select(sqrt(x), from_bits(F32_NAN), order(x) < 0), x, order(x) == 0 || is_nan(x));
}

fn rsqrt_f32(x: f32) -> f32 {
    return 1.0 / sqrt_f32(x);
}

fn floor_f32(x: f32) -> f32 {
    return keep_nan(x, floor(x));
}

fn sign_f32(x: f32) -> f32 {
    return select(f32(sign(order(x))), 0.0, is_nan(x));
}

fn relu_f32(x: f32) -> f32 {
    return select(x, 0.0, bitcast<u32>(x) >> 31u == 1u && !is_nan(x));
}

fn relu_grad_f32(x: f32) -> f32 {
    return flag(order(x) > 0 && !is_nan(x));
}

const SQRT_2_OVER_PI: f32 = 0.79788456;
const CUBIC: f32 = 0.044715;

fn gelu_tanh_f32(x: f32) -> f32 {
    let u2 = x * (2.0 * SQRT_2_OVER_PI + (2.0 * SQRT_2_OVER_PI * CUBIC) * (x * x));
    return keep_nan(x, x / (1.0 + exp_f32(max(-u2, -80.0))));
}

fn gelu_tanh_grad_f32(at: f32) -> f32 {
    let x = clamp(at, -10.0, 10.0);
    let x2 = x * x;
    let u2 = x * (2.0 * SQRT_2_OVER_PI + (2.0 * SQRT_2_OVER_PI * CUBIC) * x2);
    let du2 = 2.0 * SQRT_2_OVER_PI + (6.0 * SQRT_2_OVER_PI * CUBIC) * x2;
    let e = exp_f32(-u2);
    let s = 1.0 / (1.0 + e);
    return keep_nan(at, s + x * (s * (e * s)) * du2);
}

fn gelu_erf_f32(x: f32) -> f32 {
    return 0.5 * x * (1.0 + erf_f32(x * FRAC_1_SQRT_2));
}

fn gelu_erf_grad_f32(at: f32) -> f32 {
    let x = clamp(at, -13.0, 13.0);
    let cdf = 0.5 * (1.0 + erf_f32(x * FRAC_1_SQRT_2));
    return keep_nan(at, cdf + x * (0.39894228 * exp_f32(-0.5 * (x * x))));
}

fn silu_f32(x: f32) -> f32 {
    return keep_nan(x, x / (1.0 + exp_f32(max(-x, -80.0))));
}

fn silu_grad_f32(at: f32) -> f32 {
    let x = clamp(at, -87.0, 87.0);
    let e = exp_f32(-x);
    let s = 1.0 / (1.0 + e);
    return keep_nan(at, s * (1.0 + x * (e * s)));
}

fn is_finite_f32(x: f32) -> f32 {
    return flag(finite(x));
}

// NaN if either is NaN; +0 above -0.
fn max_f32(a: f32, b: f32) -> f32 {
    let larger = select(b, a, (order(a) > order(b) && !is_nan(b)) || is_nan(a));
    let equal = bitcast<f32>(bitcast<u32>(a) & bitcast<u32>(b));
    return select(larger, equal, order(a) == order(b));
}

// NaN if either is NaN; -0 below +0.
fn min_f32(a: f32, b: f32) -> f32 {
    let smaller = select(b, a, (order(a) < order(b) && !is_nan(b)) || is_nan(a));
    let equal = bitcast<f32>(bitcast<u32>(a) | bitcast<u32>(b));
    return select(smaller, equal, order(a) == order(b));
}

fn lt_f32(a: f32, b: f32) -> f32 {
    return flag(order(a) < order(b) && !is_nan(a) && !is_nan(b));
}

fn le_f32(a: f32, b: f32) -> f32 {
    return flag(order(a) <= order(b) && !is_nan(a) && !is_nan(b));
}

fn eq_f32(a: f32, b: f32) -> f32 {
    return flag(order(a) == order(b) && !is_nan(a) && !is_nan(b));
}

//! Elementary functions of f32 that the compiler can vectorize.
//!
//! Every function is branch-free (both sides are computed, one is selected), uses f32 and 32-bit integers only, and
//! calls nothing, so a loop over it inside `par::simd::vectorize` becomes vector code on AVX2, AVX-512, NEON and
//! simd128. There is no fused multiply-add: `a * b + c` rounds twice, which is the same bits on every CPU and in the
//! browser (a fused one is a libm call on baseline x86-64 and on wasm). NaN gives NaN; infinities and signed zeros give
//! the limits.
//!
//! Largest errors found by the tests, which sweep the whole range against f64, in ulp: exp 0.93, ln 0.77, pow 1.1,
//! erf 1.3, tanh 1.3, sigmoid 1.9, softplus 2.6; sin and cos 2^-23 absolute for |x| <= 1e5. Subnormal arguments and
//! results are kept.
//!
//! Sources: Cephes single precision (Moshier: `expf`, `logf`, `tanhf`, `sinf`, `cosf`); the scheme of pow from FreeBSD
//! msun `e_powf.c` (log2 as a sum of two floats), with the exact series. Our own fits: erf, as x + x p(x^2) and
//! 1 - e^(a q(a) - a), weighted minimax by Lawson's iteration; softplus, by interpolation at Chebyshev nodes.

/// `1.5 * 2^23`: adding it rounds to an integer (nearest even) and leaves that integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `ln 2` in two parts: the first has 10 bits, so its product with an exponent is exact.
const LN2_HI: f32 = 0.693_359_375;
const LN2_LO: f32 = -2.121_944_4e-4;

/// `e^x`. Overflows to infinity above 88.7228, underflows gradually to 0 at -103.97.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Arguments that give 0 take the way of 0: multiplying down to a subnormal is slow on many CPUs, and the -inf of an
    // attention mask is common.
    let zero = x < -104.0;
    let v = select(zero, 0.0, x);
    let v = select(v > 89.0, 89.0, v);
    let t = v * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = (v - n * LN2_HI) - n * LN2_LO;
    select(zero, 0.0, scale2(exp_poly(r), integer(t)))
}

/// Natural logarithm; -inf at 0, NaN below.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let (m, e) = mantissa_exponent(x);
    let f = m - 1.0;
    let z = f * f;
    let mut p = 7.037_683_6e-2;
    p = p * f - 1.151_461e-1;
    p = p * f + 1.167_699_87e-1;
    p = p * f - 1.242_014_1e-1;
    p = p * f + 1.424_932_3e-1;
    p = p * f - 1.666_805_7e-1;
    p = p * f + 2.000_071_5e-1;
    p = p * f - 2.499_999_4e-1;
    p = p * f + 3.333_333_1e-1;
    let y = f * z * p + e * LN2_LO - 0.5 * z;
    let y = (f + y) + e * LN2_HI;
    let y = select(x == f32::INFINITY, x, y);
    let y = select(x == 0.0, f32::NEG_INFINITY, y);
    // Written so that NaN takes the NaN side.
    select(x >= 0.0, y, f32::NAN)
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = p * z + 2.063_908_9e-2;
    p = p * z - 5.373_971_6e-2;
    p = p * z + 1.333_144_2e-1;
    p = p * z - 3.333_328_2e-1;
    let small = p * z * x + x;
    // 1 - 2 / (e^2|x| + 1); from 9.02 on it is 1, so the exponent needs no second step.
    let a = x.abs();
    let a2 = 2.0 * select(a > 10.0, 10.0, a);
    let t = a2 * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = (a2 - n * LN2_HI) - n * LN2_LO;
    let e = exp_poly(r) * pow2(integer(t));
    let large = 1.0 - 2.0 / (e + 1.0);
    select(a < 0.625, small, large).copysign(x)
}

/// Error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let s = x * x;
    let mut p = -0.00059643283;
    p = p * s + 0.00498802075;
    p = p * s - 0.0267631374;
    p = p * s + 0.112817213;
    p = p * s - 0.376124859;
    p = p * s + 0.128379151;
    let small = p * x + x;
    // 1 - e^q(|x|); from 3.92 on it is 1.
    let a = x.abs();
    let a = select(a > 4.0, 4.0, a);
    let mut q = -1.15425482e-05;
    q = q * a + 0.000325898873;
    q = q * a - 0.0036549801;
    q = q * a + 0.0237884521;
    q = q * a - 0.106267452;
    q = q * a - 0.635132849;
    q = q * a - 0.128653035;
    let v = q * a - a;
    let t = v * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = (v - n * LN2_HI) - n * LN2_LO;
    let large = (1.0 - exp_poly(r) * pow2(integer(t))).copysign(x);
    select(x.abs() <= 0.927_734_4, small, large)
}

/// `1 / (1 + e^-x)`, accurate in both tails.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let d = 1.0 + e;
    let y = select(x >= 0.0, 1.0, e) / d;
    // The part of `e` that 1 + e rounded away, to first order; 1 / d is y or 1 - y.
    y - y * (e - (d - 1.0)) * select(x >= 0.0, y, 1.0 - y)
}

/// `ln(1 + e^x)` without overflow; tends to `x` above and to `e^x` below.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let e = exp(-x.abs());
    // ln(1 + e) = 2 atanh(e / (2 + e)), the series in s^2 fitted on [0, 1/9].
    let s = e / (2.0 + e);
    let z = s * s;
    let mut p = 0.103938088;
    p = p * z + 0.0873235092;
    p = p * z + 0.111323558;
    p = p * z + 0.142851532;
    p = p * z + 0.200000048;
    p = p * z + 0.333333343;
    let half = p * z * s + s;
    let log1p = half + half;
    select(x > 0.0, x, 0.0) + log1p
}

/// Sine. Good to 2^-23 for |x| <= 1e5; beyond that the argument reduction fails and only -1 <= y <= 1 is promised.
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (r, quadrant) = reduce_half_pi(x);
    // Keeps the sign of -0.
    select(x == 0.0, x, sin_quadrant(r, quadrant))
}

/// Cosine. Range as for [`sin`].
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (r, quadrant) = reduce_half_pi(x);
    sin_quadrant(r, quadrant.wrapping_add(1))
}

/// `x^y` with the IEEE 754 special cases of C `pow`: `x^0 = 1` and `1^y = 1` even for NaN; a negative `x` needs an
/// integer `y` (an odd one keeps the sign) and gives NaN otherwise.
#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    let ax = x.abs();
    let (hi, lo) = log2_double(ax);
    // |y log2 x| is above 150 or x is 1 long before 2^40, so clamping y changes no result and avoids inf - inf.
    let yc = clamp(y, -1_099_511_627_776.0, 1_099_511_627_776.0);
    let y1 = high(yc);
    let p_lo = (yc - y1) * hi + yc * lo;
    let p_hi = y1 * hi;
    // Only the high part may be clamped: an out-of-range sum is decided by it alone.
    let out = p_hi.abs() > 300.0;
    let p_lo = select(out, 0.0, p_lo);
    let p_hi = clamp(p_hi, -300.0, 300.0);
    let t = (p_hi + p_lo) + ROUND;
    let n = t - ROUND;
    let f = (p_hi - n) + p_lo;
    let mag = scale2_wide(exp_poly(f * std::f32::consts::LN_2), integer(t));

    let edge = (ax == 0.0) | (ax == f32::INFINITY);
    let mag = select(edge, select((ax == 0.0) == (y > 0.0), 0.0, f32::INFINITY), mag);
    let integral = is_integer(y);
    let odd = integral & (y.abs() < 16_777_216.0) & !is_integer(0.5 * y);
    let signed = select(odd, mag.copysign(x), mag);
    let signed = select((x < 0.0) & (ax < f32::INFINITY) & !integral, f32::NAN, signed);
    let signed = select(x.is_nan() | y.is_nan(), f32::NAN, signed);
    select((y == 0.0) | (x == 1.0), 1.0, signed)
}

/// `if condition { a } else { b }` on values that are already computed: a vector blend.
#[inline(always)]
fn select(condition: bool, a: f32, b: f32) -> f32 {
    if condition { a } else { b }
}

/// Clamp that keeps NaN.
#[inline(always)]
fn clamp(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// The integer in `t = x + ROUND`; arbitrary but harmless for NaN.
#[inline(always)]
fn integer(t: f32) -> i32 {
    t.to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// `2^n` for -126 <= n <= 127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `p * 2^n` for -252 <= n <= 254 and `p` in [0.7, 1.5]: one rounding, into the subnormals where it must.
#[inline(always)]
fn scale2(p: f32, n: i32) -> f32 {
    let half = n >> 1;
    p * pow2(half) * pow2(n.wrapping_sub(half))
}

/// As [`scale2`] for |n| <= 300.
#[inline(always)]
fn scale2_wide(p: f32, n: i32) -> f32 {
    let n = n.clamp(-250, 250);
    scale2(p, n)
}

/// `e^r` for |r| <= ln(2) / 2, Cephes `expf`.
#[inline(always)]
fn exp_poly(r: f32) -> f32 {
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
    p * (r * r) + r + 1.0
}

/// `m` in [sqrt(1/2), sqrt(2)) and an integral `e` with `x = m 2^e`, for positive finite `x`.
#[inline(always)]
fn mantissa_exponent(x: f32) -> (f32, f32) {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = x * select(tiny, 8_388_608.0, 1.0);
    let i = scaled.to_bits().wrapping_sub(SQRT_HALF);
    let e = (i as i32) >> 23;
    let m = f32::from_bits((i & 0x007f_ffff).wrapping_add(SQRT_HALF));
    (m, e as f32 - select(tiny, 23.0, 0.0))
}

/// `log2(x)` as an unevaluated sum, error about 2^-32 relative, for positive finite `x`.
#[inline(always)]
fn log2_double(x: f32) -> (f32, f32) {
    // 2 / (3 ln 2), and in two parts, the first with 12 bits.
    const CP: f32 = 9.617_967e-1;
    const CP_HI: f32 = 9.619_140_6e-1;
    const CP_LO: f32 = -1.173_685_74e-4;
    let (m, e) = mantissa_exponent(x);
    // s = (m - 1) / (m + 1) = s_hi + s_lo
    let u = m - 1.0;
    let v = 1.0 / (m + 1.0);
    let s = u * v;
    let s_hi = high(s);
    let d_hi = high(m + 1.0);
    let d_lo = m - (d_hi - 1.0);
    let s_lo = v * ((u - s_hi * d_hi) - s_hi * d_lo);
    // ln(m) = 2 s (1 + s^2/3 + s^4/5 + ...), times 3/2
    let s2 = s * s;
    let mut p = 3.0 / 15.0;
    p = p * s2 + 3.0 / 13.0;
    p = p * s2 + 3.0 / 11.0;
    p = p * s2 + 3.0 / 9.0;
    p = p * s2 + 3.0 / 7.0;
    p = p * s2 + 3.0 / 5.0;
    let r = s2 * s2 * p + s_lo * (s_hi + s);
    let q = s_hi * s_hi;
    let t_hi = high(3.0 + q + r);
    let t_lo = r - ((t_hi - 3.0) - q);
    let u = s_hi * t_hi;
    let v = s_lo * t_hi + t_lo * s;
    let p_hi = high(u + v);
    let p_lo = v - (p_hi - u);
    let z_hi = CP_HI * p_hi;
    let z_lo = CP_LO * p_hi + p_lo * CP;
    let hi = high((z_hi + z_lo) + e);
    (hi, z_lo - ((hi - e) - z_hi))
}

/// The upper 12 bits of a significand: products of two such are exact.
#[inline(always)]
fn high(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0xffff_f000)
}

/// `r` in [-pi/4, pi/4] (a little more for large `x`) and the number of quarter turns taken off (Cody and Waite, parts
/// of pi/2 whose products with a 16-bit count are exact).
#[inline(always)]
fn reduce_half_pi(x: f32) -> (f32, u32) {
    let t = x * std::f32::consts::FRAC_2_PI + ROUND;
    let n = t - ROUND;
    let r = x - n * HALF_PI[0];
    let r = r - n * HALF_PI[1];
    let r = r - n * HALF_PI[2];
    let r = r - n * HALF_PI[3];
    let r = r - n * HALF_PI[4];
    (clamp(r, -1.0, 1.0), integer(t) as u32)
}

/// pi/2 in four parts of at most 8 bits, the last with the rest.
const HALF_PI: [f32; 5] =
    [1.5703125, 4.82559204101562500e-04, 1.26659870147705078e-06, 9.89530235528945923e-10, 2.56334406825708960e-12];

/// `sin(r + quadrant pi/2)` for |r| <= pi/4.
#[inline(always)]
fn sin_quadrant(r: f32, quadrant: u32) -> f32 {
    let z = r * r;
    let s = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * r + r;
    let c = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    let y = select(quadrant & 1 == 0, s, c);
    f32::from_bits(y.to_bits() ^ ((quadrant & 2) << 30))
}

/// True for integers, zeros included, and infinities.
#[inline(always)]
fn is_integer(y: f32) -> bool {
    // From 2^23 on every f32 is an integer; below, adding and subtracting 2^23 rounds.
    let a = y.abs();
    (a >= 8_388_608.0) | ((a + 8_388_608.0) - 8_388_608.0 == a)
}

#[cfg(test)]
mod tests;

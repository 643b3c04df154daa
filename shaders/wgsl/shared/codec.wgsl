// Conversion between f32 bits and the codes of the stored formats, in integers: no rounding mode, flush-to-zero or NaN
// assumption of an adapter can change a bit. Only f16 is decoded by what suits the device (wgsl/f16). CPU twins:
// core/src/float/{minifloat,f16,bf16,e4m3,e5m2,e8m0,tf32}.rs.
// Sources: IEEE 754-2019; OCP 8-bit Floating Point Specification 1.0; OCP Microscaling Formats 1.0.
//% import dtype

const F32_INF: u32 = 0x7f800000u;
const F32_NAN: u32 = 0x7fc00000u;
const F32_MAGNITUDE: u32 = 0x7fffffffu;

// Magnitude a (f32 bits without sign, not NaN) rounded to nearest even in a format that lacks `shift` mantissa bits,
// whose smallest normal value has the f32 exponent field min_exponent; codes are held at cap.
fn encode_magnitude(a: u32, shift: u32, min_exponent: u32, cap: u32) -> u32 {
    let odd = (a >> shift) & 1u;
    let half_less_one = (1u << (shift - 1u)) - 1u;
    let normal = (a + half_less_one + odd - ((min_exponent - 1u) << 23u)) >> shift;
    let exponent = max(a >> 23u, 1u);
    let significand = (a & 0x7fffffu) | select(0u, 0x800000u, a >= 0x800000u);
    // Beyond 25 places nothing is left of a significand of 24 bits.
    let dropped = min(shift + max(min_exponent, exponent) - exponent, 25u);
    let last = (significand >> dropped) & 1u;
    let subnormal = (significand + ((1u << (dropped - 1u)) - 1u) + last) >> dropped;
    return min(select(normal, subnormal, a < (min_exponent << 23u)), cap);
}

// f32 bits of the magnitude `code` of such a format; infinities and NaN come out as numbers beyond the largest value.
fn decode_magnitude(code: u32, shift: u32, min_exponent: u32) -> u32 {
    let normal = (code << shift) + ((min_exponent - 1u) << 23u);
    // A subnormal code is an integer below 2^10: its leading place becomes the implicit one.
    let top = firstLeadingBit(max(code, 1u));
    let mantissa_bits = 23u - shift;
    let exponent = min_exponent + top - mantissa_bits;
    let subnormal = (exponent << 23u) | ((code << (23u - top)) & 0x7fffffu);
    let small = select(subnormal, 0u, code == 0u);
    return select(normal, small, code < (1u << mantissa_bits));
}

fn encode_f16(bits: u32) -> u32 {
    let a = bits & F32_MAGNITUDE;
    let nan = 0x7e00u | ((a >> 13u) & 0x3ffu);
    return select(encode_magnitude(a, 13u, 113u, 0x7c00u), nan, a > F32_INF) | ((bits >> 16u) & 0x8000u);
}

fn decode_f16(code: u32) -> u32 {
    return f16_bits(code).x;
}

fn encode_bf16(bits: u32) -> u32 {
    let a = bits & F32_MAGNITUDE;
    let rounded = min((a + 0x7fffu + ((a >> 16u) & 1u)) >> 16u, 0x7f80u);
    let nan = 0x7fc0u | ((a >> 16u) & 0x7fu);
    return select(rounded, nan, a > F32_INF) | ((bits >> 16u) & 0x8000u);
}

// A signaling NaN stays signaling.
fn decode_bf16(code: u32) -> u32 {
    return code << 16u;
}

// OCP E4M3, saturating: infinity too becomes 448; NaN is S.1111.111.
fn encode_e4m3(bits: u32) -> u32 {
    let a = bits & F32_MAGNITUDE;
    return select(encode_magnitude(a, 20u, 121u, 0x7eu), 0x7fu, a > F32_INF) | ((bits >> 24u) & 0x80u);
}

fn decode_e4m3(code: u32) -> u32 {
    let m = code & 0x7fu;
    return select(decode_magnitude(m, 20u, 121u), F32_NAN, m == 0x7fu) | ((code & 0x80u) << 24u);
}

// OCP E5M2, saturating: infinity too becomes 57344; NaN is 7E with the sign.
fn encode_e5m2(bits: u32) -> u32 {
    let a = bits & F32_MAGNITUDE;
    return select(encode_magnitude(a, 21u, 113u, 0x7bu), 0x7eu, a > F32_INF) | ((bits >> 24u) & 0x80u);
}

fn decode_e5m2(code: u32) -> u32 {
    let m = code & 0x7fu;
    let finite = select(decode_magnitude(m, 21u, 113u), F32_INF, m == 0x7cu);
    return select(finite, F32_NAN, m > 0x7cu) | ((code & 0x80u) << 24u);
}

// Nearest power of two, ties up, sign ignored; saturates at 0xFE, NaN is 0xFF.
fn encode_e8m0(bits: u32) -> u32 {
    let a = bits & F32_MAGNITUDE;
    let normal = (a + 0x400000u) >> 23u;
    let code = min(select(normal, select(0u, 1u, a > 0x400000u), a < 0x800000u), 0xfeu);
    return select(code, 0xffu, a > F32_INF);
}

fn decode_e8m0(code: u32) -> u32 {
    return select(select(code << 23u, 0x400000u, code == 0u), F32_NAN, code == 0xffu);
}

// f32 bits rounded to 10 mantissa bits.
fn round_tf32(bits: u32) -> u32 {
    let a = bits & F32_MAGNITUDE;
    let rounded = min((a + 0xfffu + ((a >> 13u) & 1u)) & 0xffffe000u, F32_INF);
    let nan = (a | 0x400000u) & 0xffffe000u;
    return select(rounded, nan, a > F32_INF) | (bits & 0x80000000u);
}

// f32 bits of a code.
fn decode_bits(dtype: u32, code: u32) -> u32 {
    if (dtype == F16) {
        return decode_f16(code);
    }
    if (dtype == BF16) {
        return decode_bf16(code);
    }
    if (dtype == E4M3) {
        return decode_e4m3(code);
    }
    if (dtype == E5M2) {
        return decode_e5m2(code);
    }
    if (dtype == E8M0) {
        return decode_e8m0(code);
    }
    if (dtype == U32) {
        return bitcast<u32>(f32(code));
    }
    if (dtype == I32) {
        return bitcast<u32>(f32(bitcast<i32>(code)));
    }
    return code;
}

// Code of f32 bits, rounded to nearest even under the dtype's own overflow rule. The integers convert as Rust's `as`
// does.
fn encode_bits(dtype: u32, bits: u32) -> u32 {
    if (dtype == F16) {
        return encode_f16(bits);
    }
    if (dtype == BF16) {
        return encode_bf16(bits);
    }
    if (dtype == E4M3) {
        return encode_e4m3(bits);
    }
    if (dtype == E5M2) {
        return encode_e5m2(bits);
    }
    if (dtype == E8M0) {
        return encode_e8m0(bits);
    }
    if (dtype == U32 || dtype == I32) {
        return encode_integer(dtype, bits);
    }
    return bits;
}

// Truncated toward zero, held at the ends of the range; NaN gives 0.
fn encode_integer(dtype: u32, bits: u32) -> u32 {
    let a = bits & F32_MAGNITUDE;
    let negative = bits != a;
    let exponent = a >> 23u;
    let significand = (a & 0x7fffffu) | 0x800000u;
    let small = significand >> min(150u - min(exponent, 150u), 31u);
    let large = significand << min(max(exponent, 150u) - 150u, 31u);
    let whole = select(select(small, large, exponent >= 150u), 0u, exponent < 127u);
    if (a > F32_INF) {
        return 0u;
    }
    if (dtype == U32) {
        return select(select(whole, 0xffffffffu, exponent >= 159u), 0u, negative);
    }
    let held = select(whole, 0x7fffffffu, exponent >= 158u);
    return select(held, select(~held + 1u, 0x80000000u, exponent >= 158u), negative);
}

// Element i, from the word that holds it.
fn decode(dtype: u32, word: u32, i: u32) -> f32 {
    return bitcast<f32>(decode_bits(dtype, code_of(dtype, word, i)));
}

// Code of a value.
fn encode(dtype: u32, x: f32) -> u32 {
    return encode_bits(dtype, bitcast<u32>(x));
}

// A value as if stored in dtype and read back.
fn round_to(dtype: u32, x: f32) -> f32 {
    if (dtype == TF32) {
        return bitcast<f32>(round_tf32(bitcast<u32>(x)));
    }
    return bitcast<f32>(decode_bits(dtype, encode(dtype, x)));
}

// The place of element i's code in its word.
fn place_code(dtype: u32, code: u32, i: u32) -> u32 {
    let shift = pack_shift(dtype);
    return code << ((i & ((1u << shift) - 1u)) * (32u >> shift) % 32u);
}

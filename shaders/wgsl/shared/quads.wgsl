// Stored elements in fours, decoded without branches. CPU twins: core/src/float/{f16,bf16,e4m3,e5m2,tf32}.rs.
//% import codec

// f32 of magnitudes given as f32 bits with too small an exponent: `bits` has the smallest normal value of the format at `least`. Exact: what
// lacks the implicit one is doubled less the least.
fn widen(bits: vec4<u32>, least: f32) -> vec4<u32> {
    let t = bitcast<vec4<f32>>(bits);
    return bitcast<vec4<u32>>(t + min(t - vec4<f32>(least), vec4<f32>()));
}

fn bits_of_f16(codes: vec4<u32>) -> vec4<u32> {
    let m = codes & vec4<u32>(0x7fffu);
    let finite = widen((m << vec4<u32>(13u)) + vec4<u32>(0x38000000u), 0x1p-14f);
    let bits = select(finite, (m << vec4<u32>(13u)) | vec4<u32>(F32_INF), m >= vec4<u32>(0x7c00u));
    return bits | ((codes & vec4<u32>(0x8000u)) << vec4<u32>(16u));
}

// Codes in the high byte.
fn bits_of_e4m3(codes: vec4<u32>) -> vec4<u32> {
    let m = codes & vec4<u32>(0x7f000000u);
    let finite = widen((m >> vec4<u32>(4u)) + vec4<u32>(0x3c000000u), 0x1p-6f);
    return select(finite, vec4<u32>(F32_NAN), m == vec4<u32>(0x7f000000u)) | (codes & vec4<u32>(0x80000000u));
}

// The first four elements of a vector of dtype, the words in front being theirs, rounded to tf32 if asked for. As decode, but for what a NaN
// carries. Selected without branches: a hundred of them made a kernel compile 20 times longer on lavapipe.
fn quad(dtype: u32, tf32: bool, v: vec4<u32>) -> vec4<f32> {
    let halves = vec4<u32>(v.x & 0xffffu, v.x >> 16u, v.y & 0xffffu, v.y >> 16u);
    let bytes = vec4<u32>(v.x << 24u, v.x << 16u, v.x << 8u, v.x) & vec4<u32>(0xff000000u);
    let f16_codes = select(halves, bytes >> vec4<u32>(16u), dtype == E5M2);
    var bits = select(v, vec4<u32>(round_tf32(v.x), round_tf32(v.y), round_tf32(v.z), round_tf32(v.w)), tf32);
    bits = select(bits, halves << vec4<u32>(16u), dtype == BF16);
    bits = select(bits, bits_of_f16(f16_codes), dtype == F16 || dtype == E5M2);
    bits = select(bits, bits_of_e4m3(bytes), dtype == E4M3);
    return bitcast<vec4<f32>>(bits);
}

// Element i of a stored operand, from the word that holds it.
fn lone(dtype: u32, tf32: bool, word: u32, i: u32) -> f32 {
    let shift = pack_shift(dtype);
    let code = word >> ((i & ((1u << shift) - 1u)) * (32u >> shift) % 32u);
    return quad(dtype, tf32, vec4<u32>(code, 0u, 0u, 0u)).x;
}

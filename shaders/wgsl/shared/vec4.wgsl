// Stored elements in fours, decoded without branches. CPU twins: core/src/float/{bf16,e5m2,tf32}.rs.
//% import codec

// The first four elements of a vector of dtype, the words in front being theirs, rounded to tf32 if asked for. As
// decode, but for what a NaN carries. Selected without branches: a hundred of them made a kernel compile 20 times
// longer on lavapipe.
fn decode4(dtype: u32, tf32: bool, v: vec4<u32>) -> vec4<f32> {
    // Of four bytes, the even ones and then the odd ones, each at the top of a half; so E5M2 is f16.
    let evens = (v.x << 8u) & 0xff00ff00u;
    let odds = v.x & 0xff00ff00u;
    let e4m3 = vec4<u32>(e4m3_bits(evens), e4m3_bits(odds)).xzyw;
    let e5m2 = vec4<u32>(f16_bits(evens), f16_bits(odds)).xzyw;
    let tf32_bits = vec4<u32>(round_tf32(v.x), round_tf32(v.y), round_tf32(v.z), round_tf32(v.w));
    var bits = select(v, tf32_bits, tf32);
    bits = select(bits, vec4<u32>(v.x << 16u, v.x & 0xffff0000u, v.y << 16u, v.y & 0xffff0000u), dtype == BF16);
    bits = select(bits, vec4<u32>(f16_bits(v.x), f16_bits(v.y)), dtype == F16);
    bits = select(bits, e5m2, dtype == E5M2);
    bits = select(bits, e4m3, dtype == E4M3);
    return bitcast<vec4<f32>>(bits);
}

// Element i of a stored operand, from the word that holds it.
fn decode1(dtype: u32, tf32: bool, word: u32, i: u32) -> f32 {
    let shift = pack_shift(dtype);
    let code = word >> ((i & ((1u << shift) - 1u)) * (32u >> shift) % 32u);
    return decode4(dtype, tf32, vec4<u32>(code, 0u, 0u, 0u)).x;
}

// The words of a vector of 16 bytes with those of the vec4 at element `at` in front.
fn shift_to_front(dtype: u32, v: vec4<u32>, at: u32) -> vec4<u32> {
    let shift = pack_shift(dtype);
    let half = select(v, v.zwxy, shift > 0u && (at & (2u << shift)) != 0u);
    return select(half, half.yzwx, shift == 2u && (at & 4u) != 0u);
}

// Four codes in the words of the vec4 in front, `left` of them elements of the row; the others are zero.
fn pack4(dtype: u32, codes: vec4<u32>, left: u32) -> vec4<u32> {
    let shift = pack_shift(dtype);
    let c = select(vec4<u32>(), codes, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
    let halves = vec4<u32>(c.x | (c.y << 16u), c.z | (c.w << 16u), 0u, 0u);
    let bytes = vec4<u32>(c.x | (c.y << 8u) | (c.z << 16u) | (c.w << 24u), 0u, 0u, 0u);
    return select(select(c, halves, shift == 1u), bytes, shift == 2u);
}

// Four neighbouring elements at a time, from buffers bound as array<vec2<u32>>: 16-bit formats take one load, f32 two. The first element is
// a multiple of four. A NaN keeps its class, not its bits.
//% import codec

// Index of the vector that holds element i.
fn quad_at(dtype: u32, i: u32) -> u32 {
    return word_of(dtype, i) >> 1u;
}

// Vectors from the one at `quad_at` to the one with the last element.
fn quad_more(dtype: u32) -> u32 {
    return select(0u, 1u, pack_shift(dtype) == 0u);
}

// Elements i to i + 3, from their vectors.
fn quad(dtype: u32, a: vec2<u32>, b: vec2<u32>, i: u32) -> vec4<f32> {
    if (dtype == F16) {
        return quad_f16(vec4<u32>(a.x, a.x >> 16u, a.y, a.y >> 16u));
    }
    if (dtype == BF16) {
        return bitcast<vec4<f32>>(vec4<u32>(a.x << 16u, a.x & 0xffff0000u, a.y << 16u, a.y & 0xffff0000u));
    }
    if (pack_shift(dtype) == 2u) {
        let word = select(a.x, a.y, (i & 4u) != 0u);
        return vec4<f32>(decode(dtype, word, 0u), decode(dtype, word, 1u), decode(dtype, word, 2u), decode(dtype, word, 3u));
    }
    return bitcast<vec4<f32>>(vec4<u32>(a, b));
}

// f16 codes in the low halves. A subnormal is the difference of two normal values, which is exact.
fn quad_f16(code: vec4<u32>) -> vec4<f32> {
    let magnitude = (code & vec4<u32>(0x7fffu)) << vec4<u32>(13u);
    let sign = (code & vec4<u32>(0x8000u)) << vec4<u32>(16u);
    let beyond = select(vec4<u32>(0u), vec4<u32>(0x38000000u), magnitude >= vec4<u32>(0x0f800000u));
    let subnormal = bitcast<vec4<f32>>(magnitude + vec4<u32>(0x38800000u)) - vec4<f32>(6.103515625e-5);
    let bits = select(magnitude + vec4<u32>(0x38000000u) + beyond, bitcast<vec4<u32>>(subnormal), magnitude < vec4<u32>(0x00800000u));
    return bitcast<vec4<f32>>(bits | sign);
}

// The words of four elements: one to four of them, from the first component on.
fn quad_words(dtype: u32, v: vec4<f32>) -> vec4<u32> {
    let c = vec4<u32>(encode(dtype, v.x), encode(dtype, v.y), encode(dtype, v.z), encode(dtype, v.w));
    if (pack_shift(dtype) == 1u) {
        return vec4<u32>(c.x | c.y << 16u, c.z | c.w << 16u, 0u, 0u);
    }
    if (pack_shift(dtype) == 2u) {
        return vec4<u32>(c.x | c.y << 8u | c.z << 16u | c.w << 24u, 0u, 0u, 0u);
    }
    return c;
}

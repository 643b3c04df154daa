// Eight neighbouring elements at a time, from buffers bound as array<vec4<u32>>: 16-bit formats take one load, f32 two.
// The first element is a multiple of eight. A NaN keeps its class, not its bits.
//% import vec4

// Index of the vector that holds element i.
fn vec8_at(dtype: u32, i: u32) -> u32 {
    return word_of(dtype, i) >> 2u;
}

// Vectors from the one at `vec8_at` to the one with the last element.
fn vec8_more(dtype: u32) -> u32 {
    return select(0u, 1u, pack_shift(dtype) == 0u);
}

// Elements i to i + 7, from their vectors.
fn decode8(dtype: u32, a: vec4<u32>, b: vec4<u32>, i: u32) -> mat2x4<f32> {
    if (pack_shift(dtype) == 0u) {
        return mat2x4<f32>(bitcast<vec4<f32>>(a), bitcast<vec4<f32>>(b));
    }
    let bytes = pack_shift(dtype) == 2u;
    let v = select(a, a.zwxy, bytes && (i & 8u) != 0u);
    return mat2x4<f32>(decode4(dtype, false, v), decode4(dtype, false, select(v.zwxy, v.yzwx, bytes)));
}

// The words of eight elements: one to four vectors, from the first on.
fn encode8(dtype: u32, v: mat2x4<f32>) -> array<vec2<u32>, 4> {
    let low = encode4(dtype, v[0]);
    let high = encode4(dtype, v[1]);
    var words: array<vec2<u32>, 4>;
    if (pack_shift(dtype) == 2u) {
        let shift = vec4<u32>(0u, 8u, 16u, 24u);
        let a = low << shift;
        let b = high << shift;
        words[0] = vec2<u32>(a.x | a.y | a.z | a.w, b.x | b.y | b.z | b.w);
    } else if (pack_shift(dtype) == 1u) {
        words[0] = low.xz | (low.yw << vec2<u32>(16u));
        words[1] = high.xz | (high.yw << vec2<u32>(16u));
    } else {
        words[0] = low.xy;
        words[1] = low.zw;
        words[2] = high.xy;
        words[3] = high.zw;
    }
    return words;
}

fn encode4(dtype: u32, v: vec4<f32>) -> vec4<u32> {
    return vec4<u32>(encode(dtype, v.x), encode(dtype, v.y), encode(dtype, v.z), encode(dtype, v.w));
}

// Decoding of f16 and E4M3 where a device's own conversion is not known to be exact (unpack.wgsl): operations on normal
// f32 values, each of which is exact, and integers. CPU twins: core/src/float/{f16,e4m3}.rs.

// f32 of magnitudes given as f32 bits with too small an exponent: `bits` has the smallest normal value of the format at
// `least`. What lacks the implicit one is doubled less the least.
fn widen(bits: vec2<u32>, least: f32) -> vec2<u32> {
    let t = bitcast<vec2<f32>>(bits);
    return bitcast<vec2<u32>>(t + min(t - vec2<f32>(least), vec2<f32>()));
}

// f32 bits of the two f16 codes of a word, the first in its low half. NaN comes out quiet, with its payload.
fn f16_bits(word: u32) -> vec2<u32> {
    let codes = vec2<u32>(word, word >> 16u);
    let m = (codes & vec2<u32>(0x7fffu)) << vec2<u32>(13u);
    let finite = widen(m + vec2<u32>(0x38000000u), 0x1p-14f);
    let beyond = m | select(vec2<u32>(0x7f800000u), vec2<u32>(0x7fc00000u), m > vec2<u32>(0x0f800000u));
    return select(finite, beyond, m >= vec2<u32>(0x0f800000u)) | ((codes & vec2<u32>(0x8000u)) << vec2<u32>(16u));
}

// f32 bits of the two E4M3 codes in the high bytes of the halves of a word; NaN in class.
fn e4m3_bits(word: u32) -> vec2<u32> {
    let codes = vec2<u32>(word << 16u, word);
    let m = codes & vec2<u32>(0x7f000000u);
    let finite = widen((m >> vec2<u32>(4u)) + vec2<u32>(0x3c000000u), 0x1p-6f);
    return select(finite, vec2<u32>(0x7fc00000u), m == vec2<u32>(0x7f000000u)) | (codes & vec2<u32>(0x80000000u));
}

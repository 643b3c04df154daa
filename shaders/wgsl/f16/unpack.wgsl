// Decoding of f16 and E4M3 by the device's conversion, of which WGSL promises too little to rely on unseen: subnormals
// may be flushed, a NaN may be any. A probe of every code when the device is opened decides between this file and
// integers.wgsl, its twin in what it gives.
//
// Matmuls of 1024^3 on lavapipe, GFLOP/s of two cores by integers and so, NN / NT / TN: f16 59 / 69 / 58 and 87 / 81 /
// 82, E4M3 65 / 81 / 63 and 88 / 85 / 85, E5M2 65 / 81 / 61 and 99 / 89 / 92, when bf16 had 92 / 79 / 88. Of E4M3 the
// first version, which compared to find a NaN, gained nothing. `shader-f16` decodes wrongly there: a bitcast to
// vec2<f16> leaves both halves in each element (Mesa 22.3).
// Encoding by pack2x16float is to the bit on lavapipe but for what a NaN carries, over 2^24 values, but WGSL leaves its
// rounding open; it made a step of gpt-tiny 2.4 % shorter, all of it in attention, while maps took a tenth longer.
// Encoding stays integer work.

// f32 bits of the two f16 codes of a word, the first in its low half. NaN comes out quiet, with its payload.
fn f16_bits(word: u32) -> vec2<u32> {
    return bitcast<vec2<u32>>(unpack2x16float(word));
}

// f32 bits of the two E4M3 codes in the high bytes of the halves of a word; NaN in class. As f16 codes they mean 2^-8
// of the value, subnormals too; a carry out of the one code that is NaN fills the exponent.
fn e4m3_bits(word: u32) -> vec2<u32> {
    let codes = (word & 0x80008000u) | ((word & 0x7f007f00u) >> 1u);
    return bitcast<vec2<u32>>(unpack2x16float(codes | ((codes + 0x00800080u) & 0x40004000u)) * 256.0);
}

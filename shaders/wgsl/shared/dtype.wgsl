// Codes of the dtypes (the order of the format table) and where an element lies in packed words: one f32, two 16-bit or
// four 8-bit values to a u32, the first in the low bits. CPU twin: core/src/dtype.rs.

const F32: u32 = 0u;
const TF32: u32 = 1u;
const F16: u32 = 2u;
const BF16: u32 = 3u;
const E4M3: u32 = 4u;
const E5M2: u32 = 5u;
const E8M0: u32 = 6u;
const U32: u32 = 7u;
const I32: u32 = 8u;

// log2 of the elements in a word.
fn pack_shift(dtype: u32) -> u32 {
    if (dtype == F16 || dtype == BF16) {
        return 1u;
    }
    if (dtype == E4M3 || dtype == E5M2 || dtype == E8M0) {
        return 2u;
    }
    return 0u;
}

// Elements in a word.
fn pack_size(dtype: u32) -> u32 {
    return 1u << pack_shift(dtype);
}

// Word that holds element i.
fn word_of(dtype: u32, i: u32) -> u32 {
    return i >> pack_shift(dtype);
}

// Code of element i in its word.
fn code_of(dtype: u32, word: u32, i: u32) -> u32 {
    let shift = pack_shift(dtype);
    if (shift == 0u) {
        return word;
    }
    let bits = 32u >> shift;
    let at = (i & ((1u << shift) - 1u)) * bits;
    return (word >> at) & ((1u << bits) - 1u);
}

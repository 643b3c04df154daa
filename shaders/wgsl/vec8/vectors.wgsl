// Eight neighbouring words of a buffer as two vectors, which every device reads and writes.
alias Vec8 = array<vec4<u32>, 2>;

// The words in order.
fn unpack_vec8(v: Vec8) -> array<vec4<u32>, 2> {
    return v;
}

fn pack_vec8(halves: array<vec4<u32>, 2>) -> Vec8 {
    return halves;
}

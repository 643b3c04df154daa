// Eight neighbouring words of a buffer as four of 64 bits, for software adapters that have those; twin of vectors.wgsl.
//
// On llvmpipe a load or store is a loop over lanes whose cost goes by the number of components, not by their width
// (matmul_panels.wgsl). Over 1.9 million parameters (two Zen 4 cores, the best of many): AdamW 5.6 and 4.4 ms, norm of
// the gradients 1.65 and 1.27 ms.
//% needs int64
alias Vec8 = vec4<u64>;

// The words in order.
fn unpack_vec8(v: Vec8) -> array<vec4<u32>, 2> {
    let low = vec4<u32>(v);
    let high = vec4<u32>(v >> vec4<u32>(32u));
    return array<vec4<u32>, 2>(vec4<u32>(low.x, high.x, low.y, high.y), vec4<u32>(low.z, high.z, low.w, high.w));
}

fn pack_vec8(halves: array<vec4<u32>, 2>) -> Vec8 {
    let low = vec4<u32>(halves[0].xz, halves[1].xz);
    let high = vec4<u32>(halves[0].yw, halves[1].yw);
    return vec4<u64>(low) | (vec4<u64>(high) << vec4<u32>(32u));
}

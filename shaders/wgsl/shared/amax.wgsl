// fp8 scales from amaxes, to the bit. CPU twins: core/src/cpu/{fp8_scale,quantize}.rs.
//% import exact

// The magnitude as bits, which order as the values do; 0 for NaN.
fn ordered_bits(bits: u32) -> u32 {
    let a = bits & EXACT_MAGNITUDE;
    return select(a, 0u, a > EXACT_INF);
}

// Finite and above zero, subnormals included.
fn is_positive(bits: u32) -> bool {
    return bits != 0u && bits < EXACT_INF;
}

// range / amax, where range is fp8_max * 2^-margin, held among the normal values.
fn scale_from_amax(amax: u32, range: u32) -> u32 {
    return clamp(div_exact(range, amax), 0x800000u, 0x7f7fffffu);
}

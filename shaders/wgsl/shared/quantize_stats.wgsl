// What quantizing did to the elements of a tensor: amax, underflows, saturated, non-finite elements. CPU twin: QuantizeStats in
// core/src/cpu/quantize.rs. The stem declares `x`, the atomic words `seen`, `stats` [n, 5], and in `params`: `slot`, `max` (bits of the
// largest value of Q), `count` (number of elements, as a float, by its bits).
//% import amax, codec

const STATS: u32 = 5u;

// Bits of element i.
fn element(i: u32) -> u32 {
    return decode_bits(X, code_of(X, x[word_of(X, i)], i));
}

// The numbers of one more element: x was multiplied to y and encoded to code.
fn counted(so_far: vec4<u32>, x: u32, y: u32, code: u32) -> vec4<u32> {
    let a = x & EXACT_MAGNITUDE;
    let m = y & EXACT_MAGNITUDE;
    let lost = a != 0u && (code & 0x7fu) == 0u;
    let saturated = m > params.max && m <= EXACT_INF;
    let added = select(vec3<u32>(), vec3<u32>(1u), vec3<bool>(lost, saturated, a >= EXACT_INF));
    return vec4<u32>(max(so_far.x, ordered_bits(x)), so_far.yzw + added);
}

fn clear_seen() {
    for (var k = 0u; k < 4u; k++) {
        atomicStore(&seen[k], 0u);
    }
}

// Adds the numbers of an invocation; most have nothing to report.
fn raise_seen(own: vec4<u32>) {
    if (own.x > atomicLoad(&seen[0])) {
        atomicMax(&seen[0], own.x);
    }
    for (var k = 1u; k < 4u; k++) {
        if (own[k] != 0u) {
            atomicAdd(&seen[k], own[k]);
        }
    }
}

fn share(n: u32) -> u32 {
    return div_exact(bitcast<u32>(f32(n)), params.count);
}

fn write_stats(scale: u32) {
    let row = STATS * params.slot;
    stats[row] = atomicLoad(&seen[0]);
    stats[row + 1u] = scale;
    stats[row + 2u] = share(atomicLoad(&seen[1]));
    stats[row + 3u] = share(atomicLoad(&seen[2]));
    stats[row + 4u] = bitcast<u32>(f32(atomicLoad(&seen[3])));
}

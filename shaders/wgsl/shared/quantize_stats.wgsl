// What quantizing did to the elements of a tensor: amax, underflows, saturated, non-finite elements. CPU twin:
// QuantizeStats in core/src/cpu/quantize.rs. They are staged in a row of `staged_stats`, from where `flush_stats`
// (fp8_scale.wgsl) moves them to the states of a run.
// The stem declares `x`, as vectors of two words, the atomic words `staged_stats`, and in `params`: `len`, `row` (of
// `staged_stats`), `max` (bits of the largest value of Q), `count` (number of elements, as a float, by its bits).
//% import amax, codec, staged_stats

// Bits of elements 4 w to 4 w + 3, which become word w of q; what lies beyond the end means nothing.
fn elements(w: u32) -> vec4<u32> {
    var codes: vec4<u32>;
    if (pack_shift(X) == 0u) {
        codes = vec4<u32>(x[2u * w], x[2u * w + 1u]);
    } else if (pack_shift(X) == 1u) {
        let v = x[w];
        codes = vec4<u32>(v.x & 0xffffu, v.x >> 16u, v.y & 0xffffu, v.y >> 16u);
    } else {
        let word = select(x[w >> 1u].x, x[w >> 1u].y, (w & 1u) == 1u);
        codes = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
    }
    return vec4<u32>(decode_bits(X, codes.x), decode_bits(X, codes.y), decode_bits(X, codes.z), decode_bits(X, codes.w));
}

// Which elements of word w exist.
fn inside(w: u32) -> vec4<bool> {
    return vec4<u32>(4u * w) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.len);
}

// The magnitudes of word w, 0 for NaN and for what does not exist.
fn magnitudes(w: u32) -> vec4<u32> {
    let v = elements(w);
    let bits = vec4<u32>(ordered_bits(v.x), ordered_bits(v.y), ordered_bits(v.z), ordered_bits(v.w));
    return select(vec4<u32>(), bits, inside(w));
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

// Adds the numbers of an invocation; most have nothing to report.
fn add_staged(own: vec4<u32>) {
    let first = STATS_ROW * params.row;
    if (own.x > atomicLoad(&staged_stats[first])) {
        atomicMax(&staged_stats[first], own.x);
    }
    for (var k = 1u; k < 4u; k++) {
        if (own[k] != 0u) {
            atomicAdd(&staged_stats[first + k], own[k]);
        }
    }
}

// Marks the tensor as quantized with this scale. For one invocation.
fn mark_staged(scale: u32) {
    atomicStore(&staged_stats[STATS_ROW * params.row + STATS_SCALE], scale);
    atomicStore(&staged_stats[STATS_ROW * params.row + STATS_COUNT], params.count);
}

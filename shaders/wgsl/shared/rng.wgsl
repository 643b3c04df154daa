// Threefry-2x32 with 20 rounds: a random word is a pure function of (seed, stream, step, index). CPU twin:
// core/src/rng.rs.
// Source: Salmon et al., SC'11.

fn rotate_left(x: u32, by: u32) -> u32 {
    return (x << by) | (x >> (32u - by));
}

fn four_rounds(x: vec2<u32>, r: vec4<u32>) -> vec2<u32> {
    var v = x;
    for (var i = 0u; i < 4u; i++) {
        v.x += v.y;
        v.y = rotate_left(v.y, r[i]) ^ v.x;
    }
    return v;
}

fn threefry2x32(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
    let k2 = 0x1BD11BDAu ^ key.x ^ key.y;
    let even = vec4<u32>(13u, 15u, 26u, 6u);
    let odd = vec4<u32>(17u, 29u, 16u, 24u);
    var x = counter + key;
    x = four_rounds(x, even) + vec2<u32>(key.y, k2 + 1u);
    x = four_rounds(x, odd) + vec2<u32>(k2, key.x + 2u);
    x = four_rounds(x, even) + vec2<u32>(key.x, key.y + 3u);
    x = four_rounds(x, odd) + vec2<u32>(key.y, k2 + 4u);
    return four_rounds(x, even) + vec2<u32>(k2, key.x + 5u);
}

// The random word of element `index` of `stream` in micro-step `step`.
fn random_word(seed: u32, stream: u32, step: u32, index: u32) -> u32 {
    let pair = threefry2x32(vec2<u32>(seed, stream), vec2<u32>(index >> 1u, step));
    return select(pair.x, pair.y, (index & 1u) == 1u);
}

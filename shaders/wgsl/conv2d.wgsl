// 2-D convolution and its gradients, as matmuls whose operands are read where they lie. CPU twin:
// core/src/cpu/conv2d.rs.
//
// Images [N, H, W, C], weights [KH, KW, Cin, Cout], all dense and packed at their width; f32 sums.
// `rows`, forward: y[p, o] = sum over taps and c of x[source(p, tap), c] * w[tap, c, o]; the source of position p under
// a tap is p * stride + tap * dilation - padding, zeros outside. Where DGRAD, x is dy, y is dx, w is read as w[tap, o,
// c], and the source is the position whose window has p under that tap, if there is one. An invocation owns 4 positions
// x 8 channels.
// `wgrad`: dw[tap, c, o] = sum over positions p of x[source(p, tap), c] * dy[p, o]: `x` is x, `w` is dy, y is dw. An
// invocation owns 4 x 8 channels of a tap over a part of the positions; `finish` of matmul.wgsl adds the parts and
// packs.
// VEC4_C, VEC4_O: the channels that are summed over or read along (c) and those of the result (o) are multiples of
// four.
//% import vec4, grid
//% const X: dtype = F32
//% const Y: dtype = F32
//% const DGRAD: bool = false
//% const VEC4_C: bool = true
//% const VEC4_O: bool = true
//% const PARTIAL: bool = false
//% const WG_SIZE: [64] = 64

struct Params {
    // Positions of the result of `rows`, those that `wgrad` sums over.
    positions: u32,
    height: u32,
    width: u32,
    source_height: u32,
    source_width: u32,
    c: u32,
    o: u32,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    padding: vec2<u32>,
    dilation: vec2<u32>,
    // Positions of a part, and parts.
    part: u32,
    parts: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;

// log2 of the elements in a vector of 16 bytes, and vec4s of one.
const SHIFT: u32 = 2u + select(select(0u, 1u, X == F16 || X == BF16), 2u, X == E4M3 || X == E5M2);
const VEC4S: u32 = 1u << (SHIFT - 2u);
// No source: outside the image.
const NONE: u32 = 0xffffffffu;

// Elements at to at + 3, of which `left` count; the others are zero.
fn x_vec4(at: u32, left: u32) -> vec4<f32> {
    let i = at >> SHIFT;
    if (VEC4_C) {
        var v: vec4<u32>;
        if (VEC4S == 1u) {
            v = x[i];
        } else if (VEC4S == 2u) {
            v.x = x[i][(at >> 1u) & 2u];
            v.y = x[i][((at >> 1u) & 2u) + 1u];
        } else {
            v.x = x[i][(at >> 2u) & 3u];
        }
        return decode4(X, false, v);
    }
    let four = vec4<f32>(x_scalar(at), x_scalar(at + 1u), x_scalar(at + 2u), x_scalar(at + 3u));
    return select(vec4<f32>(), four, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}

fn x_scalar(at: u32) -> f32 {
    return decode1(X, false, x[at >> SHIFT][word_of(X, at) & 3u], at);
}

// As x_vec4, along the last axis of w (of dy in `wgrad`).
fn w_vec4(at: u32, left: u32) -> vec4<f32> {
    let i = at >> SHIFT;
    if (select(VEC4_O, VEC4_C, DGRAD)) {
        var v: vec4<u32>;
        if (VEC4S == 1u) {
            v = w[i];
        } else if (VEC4S == 2u) {
            v.x = w[i][(at >> 1u) & 2u];
            v.y = w[i][((at >> 1u) & 2u) + 1u];
        } else {
            v.x = w[i][(at >> 2u) & 3u];
        }
        return decode4(X, false, v);
    }
    let four = vec4<f32>(w_scalar(at), w_scalar(at + 1u), w_scalar(at + 2u), w_scalar(at + 3u));
    return select(vec4<f32>(), four, vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(left));
}

fn w_scalar(at: u32) -> f32 {
    return decode1(X, false, w[at >> SHIFT][word_of(X, at) & 3u], at);
}

// Index of the source pixel of position p under tap (kh, kw), or NONE.
fn source(p: u32, kh: u32, kw: u32) -> u32 {
    let image = p / (params.height * params.width);
    let at = vec2<i32>(vec2<u32>(p / params.width % params.height, p % params.width));
    let shift = vec2<i32>(vec2<u32>(kh, kw) * params.dilation) - vec2<i32>(params.padding);
    var s = at * vec2<i32>(params.stride) + shift;
    var there = true;
    if (DGRAD) {
        s = at - shift;
        there = all(s >= vec2<i32>()) && all(vec2<u32>(max(s, vec2<i32>())) % params.stride == vec2<u32>());
        s /= vec2<i32>(params.stride);
    }
    there = there && all(s >= vec2<i32>()) && s.x < i32(params.source_height) && s.y < i32(params.source_width) && p < params.positions;
    return select(NONE, (image * params.source_height + u32(max(s.x, 0))) * params.source_width + u32(max(s.y, 0)), there);
}

// Four channels from c on of a source pixel.
fn pixel(s: u32, c: u32) -> vec4<f32> {
    let at = select(s, 0u, s == NONE) * params.c + c;
    return select(x_vec4(at, params.c - c), vec4<f32>(), s == NONE);
}

// Stores elements (i, j) to (i, j + 3) of a result with rows of params.o elements: words that no other invocation
// writes.
fn store(i: u32, j: u32, sums: vec4<f32>) {
    var values = sums;
    let at = i * params.o + j;
    let shift = select(pack_shift(Y), 0u, PARTIAL);
    let count = min(4u, params.o - min(j, params.o));
    var word = 0u;
    for (var e = 0u; e < count; e++) {
        let code = encode(Y, values.x);
        word |= select(place_code(Y, code, at + e), bitcast<u32>(values.x), PARTIAL);
        if (((e + 1u) & ((1u << shift) - 1u)) == 0u) {
            y[(at + e) >> shift] = word;
            word = 0u;
        }
        values = values.yzwx;
    }
}

@compute @workgroup_size(WG_SIZE)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = group_index(group, groups) * WG_SIZE + lane;
    let across = (params.o + 7u) / 8u;
    let i = id / across * 4u;
    let j = id % across * 8u;
    if (i >= params.positions) {
        return;
    }
    //% for r in 0..4
    //% for q in 0..2
    var y$r_$q: vec4<f32>;
    //% end
    //% end
    let taps = params.kernel.x * params.kernel.y;
    for (var tap = 0u; tap < taps; tap++) {
        let kh = tap / params.kernel.y;
        let kw = tap % params.kernel.y;
        //% for r in 0..4
        let s$r = source(i + $(r)u, kh, kw);
        //% end
        for (var c = 0u; c < params.c; c += 4u) {
            //% for r in 0..4
            let a$r = pixel(s$r, c);
            //% end
            // b<k>_<vec4>: channel c + k, four channels of the result.
            //% for k in 0..4
            //% for q in 0..2
            var b$k_$q: vec4<f32>;
            //% end
            //% end
            if (DGRAD) {
                let at = (tap * params.o + j) * params.c + c;
                let left = params.c - c;
                //% for n in 0..8
                let c$n = w_vec4(at + $(n)u * params.c, left);
                //% end
                //% for k in 0..4
                //% for q in 0..2
                b$k_$q = vec4<f32>(c$(4*q)$.k, c$(4*q+1)$.k, c$(4*q+2)$.k, c$(4*q+3)$.k);
                //% end
                //% end
            } else {
                let at = (tap * params.c + c) * params.o + j;
                //% for k in 0..4
                //% for q in 0..2
                b$k_$q = w_vec4(at + $(k)u * params.o + $(4*q)u, 4u);
                //% end
                //% end
                if (!VEC4_C) {
                    // Weights beyond the last channel are zero too: what lies there may be no number.
                    let inside = vec4<u32>(c, c + 1u, c + 2u, c + 3u) < vec4<u32>(params.c);
                    //% for k in 1..4
                    //% for q in 0..2
                    b$k_$q = select(vec4<f32>(), b$k_$q, inside$.k);
                    //% end
                    //% end
                }
            }
            //% for r in 0..4
            //% for q in 0..2
            y$r_$q += a$r.x * b0_$q + a$r.y * b1_$q + a$r.z * b2_$q + a$r.w * b3_$q;
            //% end
            //% end
        }
    }
    for (var r = 0u; r < min(4u, params.positions - i); r++) {
        store(i + r, j, y0_0);
        store(i + r, j + 4u, y0_1);
        //% for r in 0..3
        //% for q in 0..2
        y$r_$q = y$(r+1)_$q;
        //% end
        //% end
    }
}

@compute @workgroup_size(WG_SIZE)
fn wgrad(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = group_index(group, groups) * WG_SIZE + lane;
    let across = (params.o + 7u) / 8u;
    let down = (params.c + 3u) / 4u;
    let taps = params.kernel.x * params.kernel.y;
    let j = id % across * 8u;
    let c = id / across % down * 4u;
    let tap = id / (across * down) % taps;
    let part = id / (across * down * taps);
    if (part >= params.parts) {
        return;
    }
    let kh = tap / params.kernel.y;
    let kw = tap % params.kernel.y;
    //% for r in 0..4
    //% for q in 0..2
    var y$r_$q: vec4<f32>;
    //% end
    //% end
    let end = min((part + 1u) * params.part, params.positions);
    for (var p = part * params.part; p < end; p++) {
        let a = pixel(source(p, kh, kw), c);
        let b0 = w_vec4(p * params.o + j, 4u);
        let b1 = w_vec4(p * params.o + j + 4u, 4u);
        //% for r in 0..4
        //% for q in 0..2
        y$r_$q += a$.r * b$q;
        //% end
        //% end
    }
    let first = (part * taps + tap) * params.c + c;
    for (var r = 0u; r < min(4u, params.c - c); r++) {
        store(first + r, j, y0_0);
        store(first + r, j + 4u, y0_1);
        //% for r in 0..3
        //% for q in 0..2
        y$r_$q = y$(r+1)_$q;
        //% end
        //% end
    }
}

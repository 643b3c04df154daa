// Maximum and average pooling of images [N, H, W, C], forward and backward. CPU twin: core/src/cpu/pool.rs.
//
// Formula: y = max over the taps inside the image, or their sum over the number of taps, padding counted. Backward:
// dx[first maximum] += dy, or dx[every tap] += dy / taps. The maximum of a window with a NaN is NaN; its first NaN
// takes the gradient.
// Layout: an invocation owns a word of y or of dx. Backward, it visits the windows that read its pixel, in their order,
// and finds each window's first maximum again: no sums across invocations.
//% import codec, grid, order
//% const X: dtype = F32
//% const DY: dtype = F32
//% const AVERAGE: bool = false
//% const WG_SIZE: [64, 256] = 64

struct Params {
    // Rows, columns and channels of x; rows and columns of y.
    h: u32,
    w: u32,
    c: u32,
    oh: u32,
    ow: u32,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    padding: vec2<u32>,
    // Elements of y, of dx.
    elements: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<storage, read_write> dx: array<u32>;

// Taps of a window that lie in the image: rows from top to bottom, columns from left to right, ends excluded.
struct Window {
    top: u32,
    bottom: u32,
    left: u32,
    right: u32,
}

fn window_of(oh: u32, ow: u32) -> Window {
    let first = vec2<u32>(oh, ow) * params.stride;
    let start = max(first, params.padding) - params.padding;
    let end = min(max(first + params.kernel, params.padding) - params.padding, vec2<u32>(params.h, params.w));
    return Window(start.x, end.x, start.y, end.y);
}

fn x_at(i: u32) -> f32 {
    return decode(X, x[word_of(X, i)], i);
}

fn dy_at(i: u32) -> f32 {
    return decode(DY, dy[word_of(DY, i)], i);
}

// Place in the order, zeros of both signs alike.
fn rank(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    return order_of(bitcast<f32>(select(bits, 0u, bits == 0x80000000u)));
}

// Element of channel k, row r, column q of an image.
fn place(image: u32, r: u32, q: u32, k: u32) -> u32 {
    return ((image * params.h + r) * params.w + q) * params.c + k;
}

fn pooled(i: u32) -> f32 {
    let pixel = i / params.c;
    let k = i - pixel * params.c;
    let line = pixel / params.ow;
    let image = line / params.oh;
    let window = window_of(line - image * params.oh, pixel - line * params.ow);
    var sum = 0.0;
    var largest = LOWEST_ORDER;
    for (var r = window.top; r < window.bottom; r++) {
        for (var q = window.left; q < window.right; q++) {
            let v = x_at(place(image, r, q, k));
            if (AVERAGE) {
                sum += v;
            } else {
                largest = max(largest, order_of(v));
            }
        }
    }
    if (AVERAGE) {
        return sum / f32(params.kernel.x * params.kernel.y);
    }
    return from_order(largest);
}

// Whether the first maximum of a window is at row r, column q.
fn is_first(window: Window, image: u32, r: u32, q: u32, k: u32) -> bool {
    let own = rank(x_at(place(image, r, q, k)));
    var wins = true;
    for (var a = window.top; a < window.bottom; a++) {
        for (var b = window.left; b < window.right; b++) {
            let other = rank(x_at(place(image, a, b, k)));
            let before = a < r || (a == r && b < q);
            wins = wins && (other < own || (other == own && !before));
        }
    }
    return wins;
}

// First window of an axis that reads a place, and the one behind the last.
fn readers(at: vec2<u32>) -> vec4<u32> {
    let far = at + params.padding;
    // The window of output o starts at o * stride and covers `kernel` places.
    let first = (max(far + vec2<u32>(1u), params.kernel) - params.kernel + params.stride - vec2<u32>(1u)) / params.stride;
    let end = min(far / params.stride + vec2<u32>(1u), vec2<u32>(params.oh, params.ow));
    return vec4<u32>(first, end);
}

fn gradient(i: u32) -> f32 {
    let pixel = i / params.c;
    let k = i - pixel * params.c;
    let line = pixel / params.w;
    let q = pixel - line * params.w;
    let image = line / params.h;
    let r = line - image * params.h;
    let reads = readers(vec2<u32>(r, q));
    var sum = 0.0;
    for (var oh = reads.x; oh < reads.z; oh++) {
        for (var ow = reads.y; ow < reads.w; ow++) {
            let g = dy_at(((image * params.oh + oh) * params.ow + ow) * params.c + k);
            if (AVERAGE) {
                sum += g / f32(params.kernel.x * params.kernel.y);
            } else if (is_first(window_of(oh, ow), image, r, q, k)) {
                sum += g;
            }
        }
    }
    return sum;
}

// First element of the word that an invocation owns.
fn first_element(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group_index(group, groups) * WG_SIZE + lane) * pack_size(X);
}

@compute @workgroup_size(WG_SIZE)
fn pool(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = first_element(group, groups, lane);
    if (i >= params.elements) {
        return;
    }
    var word = 0u;
    for (var j = i; j < min(i + pack_size(X), params.elements); j++) {
        word |= place_code(X, encode(X, pooled(j)), j);
    }
    y[word_of(X, i)] = word;
}

@compute @workgroup_size(WG_SIZE)
fn pool_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = first_element(group, groups, lane);
    if (i >= params.elements) {
        return;
    }
    var word = 0u;
    for (var j = i; j < min(i + pack_size(X), params.elements); j++) {
        word |= place_code(X, encode(X, gradient(j)), j);
    }
    dx[word_of(X, i)] = word;
}

// Global norm of a packed list of gradients. CPU twin: core/src/cpu/grad_norm.rs.
//
// Formula: L2 sqrt(sum x^2), L1 sum |x|, Inf max |x|; NaN anywhere gives NaN. An L2 norm neither overflows nor loses
// small elements: magnitudes below 2^-43 are squared after a factor of 2^90, those from 2^45 after 2^-80, each kind in
// a sum of its own (the CPU sums a piece again with one of these factors where it has to). Subnormals become integers
// first, so that no adapter flushes them. A norm of finite elements that exceeds f32 is given as the largest f32;
// `far`, the norm times 2^-64, is right.
// Layout: `pieces` reads 16384 elements a workgroup, neighbouring invocations neighbouring vec8s, and writes one vec4
// of sums (small, middle, big; bits of the largest magnitude); `total`, one workgroup, adds the pieces. Nothing depends
// on timing.
// Source: Blue, "A portable Fortran program to find the Euclidean norm", 1978.
//% import exact, grid
//% const NORM: [0, 1, 2] = 0
//% const WG_SIZE: [256] = 256

const L2: u32 = 0u;
const L1: u32 = 1u;
// Vec8s an invocation of `pieces` reads; the launch counts pieces by it.
const VEC8S_EACH: u32 = 8u;
const ENLARGE: f32 = 0x1p90f;
// The same for a subnormal whose bits became a number.
const ENLARGE_BITS: f32 = 0x1p-59f;
const SHRINK: f32 = 0x1p-90f;
const REDUCE: f32 = 0x1p-80f;
const RESTORE: f32 = 0x1p80f;
const FAR: f32 = 0x1p-64f;
const LARGEST: u32 = 0x7f7fffffu;
// Bits of 2^-43 and 2^45.
const SMALL_BELOW: u32 = 0x2a000000u;
const BIG_FROM: u32 = 0x56000000u;

struct Params {
    vec8_count: u32,
    pieces: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<Vec8>;
@group(0) @binding(2) var<storage, read_write> sums: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<storage, read_write> far: array<u32>;

var<workgroup> lanes: array<vec4<u32>, WG_SIZE>;

fn add(a: vec4<u32>, b: vec4<u32>) -> vec4<u32> {
    let sum = bitcast<vec3<f32>>(a.xyz) + bitcast<vec3<f32>>(b.xyz);
    return vec4<u32>(bitcast<vec3<u32>>(sum), max(a.w, b.w));
}

// The sum over the workgroup, in invocation 0.
fn add_lanes(own: vec4<u32>, lane: u32) -> vec4<u32> {
    var sum = own;
    lanes[lane] = own;
    workgroupBarrier();
    if (lane < 16u) {
        for (var i = lane + 16u; i < WG_SIZE; i += 16u) {
            sum = add(sum, lanes[i]);
        }
        lanes[lane] = sum;
    }
    workgroupBarrier();
    if (lane == 0u) {
        for (var i = 1u; i < 16u; i++) {
            sum = add(sum, lanes[i]);
        }
    }
    return sum;
}

@compute @workgroup_size(WG_SIZE)
fn pieces(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let piece = group_index(group, groups);
    var small = vec4<f32>();
    var middle = vec4<f32>();
    var big = vec4<f32>();
    var top = vec4<u32>();
    for (var k = 0u; k < VEC8S_EACH; k++) {
        let i = (piece * VEC8S_EACH + k) * WG_SIZE + lane;
        if (i < params.vec8_count) {
            let bits = unpack_vec8(x[i]);
            //% for h in 0..2
            let a$h = bits[$h] & vec4<u32>(EXACT_MAGNITUDE);
            top = max(top, a$h);
            if (NORM == L1 || NORM == L2) {
                let v = bitcast<vec4<f32>>(a$h);
                let enlarged = select(v * ENLARGE, vec4<f32>(a$h) * ENLARGE_BITS, a$h < vec4<u32>(0x800000u));
                let reduced = v * REDUCE;
                let is_small = a$h < vec4<u32>(SMALL_BELOW);
                let is_big = a$h >= vec4<u32>(BIG_FROM);
                if (NORM == L2) {
                    small += select(vec4<f32>(), enlarged * enlarged, is_small);
                    middle += select(v * v, vec4<f32>(), is_small | is_big);
                    big += select(vec4<f32>(), reduced * reduced, is_big);
                } else {
                    small += select(vec4<f32>(), enlarged, is_small);
                    middle += select(v, vec4<f32>(), is_small | is_big);
                    big += select(vec4<f32>(), reduced, is_big);
                }
            }
            //% end
        }
    }
    var own = vec4<u32>();
    for (var c = 0u; c < 4u; c++) {
        own = add(own, vec4<u32>(bitcast<vec3<u32>>(vec3<f32>(small[c], middle[c], big[c])), top[c]));
    }
    let sum = add_lanes(own, lane);
    if (lane == 0u && piece < params.pieces) {
        sums[piece] = sum;
    }
}

@compute @workgroup_size(WG_SIZE)
fn total(@builtin(local_invocation_index) lane: u32) {
    var own = vec4<u32>();
    for (var i = lane; i < params.pieces; i += WG_SIZE) {
        own = add(own, sums[i]);
    }
    let sum = add_lanes(own, lane);
    if (lane == 0u) {
        let both = norm(sum);
        y[0] = both.x;
        far[0] = both.y;
    }
}

// The norm and `far` from the norm.
fn near(norm: u32) -> vec2<u32> {
    return vec2<u32>(norm, mul_exact(norm, bitcast<u32>(FAR)));
}

// The norm and `far` from the norm times 2^-80.
fn restored(reduced: f32) -> vec2<u32> {
    let bits = bitcast<u32>(reduced);
    return vec2<u32>(min(mul_exact(bits, bitcast<u32>(RESTORE)), LARGEST), mul_exact(bits, bitcast<u32>(RESTORE * FAR)));
}

fn norm(sum: vec4<u32>) -> vec2<u32> {
    if (sum.w > EXACT_INF) {
        return vec2<u32>(EXACT_NAN);
    }
    if (sum.w == EXACT_INF || (NORM != L1 && NORM != L2)) {
        return near(sum.w);
    }
    let small = bitcast<f32>(sum.x);
    let middle = bitcast<f32>(sum.y);
    let big = bitcast<f32>(sum.z);
    let shrink = bitcast<u32>(SHRINK);
    if (NORM == L1) {
        if (sum.z != 0u) {
            return restored(big + middle * REDUCE);
        }
        return near(select(bitcast<u32>(middle + small * SHRINK), mul_exact(sum.x, shrink), sum.y == 0u));
    }
    if (sum.z != 0u) {
        let reduced = sqrt(middle) * REDUCE;
        return restored(sqrt(big + reduced * reduced));
    }
    if (sum.y != 0u) {
        // Two factors in a row would be one to Mesa, and 0.
        let shrunk = sqrt(small) * SHRINK;
        return near(bitcast<u32>(sqrt(middle + shrunk * shrunk)));
    }
    return near(mul_exact(bitcast<u32>(sqrt(small)), shrink));
}

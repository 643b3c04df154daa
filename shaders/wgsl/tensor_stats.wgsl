// Statistics of one tensor: an exponent histogram, what rounding to a format does to its elements, and sums. CPU twin:
// core/src/cpu/tensor_stats.rs; layout and meaning of a row: core/src/op/tensor_stats.rs.
//
// Formula: of x and y = RN(x * scale); sums over x * unit(amax), and over y and its rounding error times unit(amax *
// scale).
// Layout: `clear` empties the row; `counts` collects the histogram in workgroup memory, the kinds in registers; `sums`
// leaves five sums a workgroup in `partials`; `total`, one workgroup, adds them. An invocation of `counts` and `sums`
// sees four neighbouring elements at a time, one vector a sum; neighbours see neighbouring ones. Products are exact, so
// that a format's subnormals are never flushed.
//% import codec, exact, grid
//% const X: dtype = F32
//% const FORMAT: dtype = E4M3
//% const SCALED: bool = false
//% const WG_SIZE: [256] = 256

const BUCKETS: u32 = 256u;
// Words of a row behind the histogram.
const ZEROS: u32 = 256u;
const KINDS: u32 = 5u;
const LEN: u32 = 261u;
const AMAX: u32 = 262u;
const SCALE: u32 = 263u;
const SUM: u32 = 264u;
const SUMS: u32 = 5u;
// Groups of four elements that an invocation sees; the launch counts workgroups by it.
const STEPS: u32 = 32u;

struct Params {
    len: u32,
    pieces: u32,
    // First word of the row.
    row: u32,
    scale_at: u32,
    // Bits at which a rounded magnitude changes its kind: zero up to, normal from, the largest value.
    zero: u32,
    normal: u32,
    max: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> scale: array<u32>;
@group(0) @binding(3) var<storage, read_write> partials: array<array<f32, SUMS>>;
@group(0) @binding(4) var<storage, read_write> stats: array<atomic<u32>>;

var<workgroup> own_counts: array<atomic<u32>, LEN>;
var<workgroup> lanes: array<array<f32, SUMS>, WG_SIZE>;

fn element(i: u32) -> u32 {
    return decode_bits(X, code_of(X, x[word_of(X, i)], i));
}

fn scale_used() -> u32 {
    if (SCALED) {
        return scale[params.scale_at];
    }
    return EXACT_ONE;
}

fn scaled(x: u32) -> u32 {
    if (SCALED) {
        return mul_exact(x, scale[params.scale_at]);
    }
    return x;
}

fn is_finite(bits: u32) -> bool {
    return (bits & EXACT_MAGNITUDE) < EXACT_INF;
}

// First group of four of step k.
fn at(piece: u32, k: u32, lane: u32) -> u32 {
    return (piece * STEPS + k) * WG_SIZE + lane;
}

@compute @workgroup_size(WG_SIZE)
fn clear(@builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i <= AMAX; i += WG_SIZE) {
        atomicStore(&stats[params.row + i], 0u);
    }
}

@compute @workgroup_size(WG_SIZE)
fn counts(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < LEN; i += WG_SIZE) {
        atomicStore(&own_counts[i], 0u);
    }
    workgroupBarrier();
    let piece = group_index(group, groups);
    var kinds: array<u32, KINDS>;
    var top = 0u;
    for (var k = 0u; k < STEPS; k++) {
        let first = 4u * at(piece, k, lane);
        for (var i = first; i < min(first + 4u, params.len); i++) {
            let v = element(i);
            let a = v & EXACT_MAGNITUDE;
            let y = scaled(v) & EXACT_MAGNITUDE;
            let finite = a < EXACT_INF;
            kinds[0] += select(0u, 1u, a == 0u);
            kinds[1] += select(0u, 1u, finite && a != 0u && y <= params.zero);
            kinds[2] += select(0u, 1u, finite && y > params.zero && y < params.normal);
            kinds[3] += select(0u, 1u, finite && y > params.max);
            kinds[4] += select(0u, 1u, !finite);
            top = max(top, select(0u, a, finite));
            atomicAdd(&own_counts[a >> 23u], 1u);
        }
    }
    for (var k = 0u; k < KINDS; k++) {
        atomicAdd(&own_counts[ZEROS + k], kinds[k]);
    }
    atomicMax(&stats[params.row + AMAX], top);
    workgroupBarrier();
    for (var i = lane; i < LEN; i += WG_SIZE) {
        let n = atomicLoad(&own_counts[i]);
        if (n != 0u) {
            atomicAdd(&stats[params.row + i], n);
        }
    }
}

// The power of two that brings amax into [1, 2), as far as it is normal.
fn unit(amax: u32) -> u32 {
    let exponent = clamp((amax >> 23u) & 0xffu, 1u, 253u);
    return (254u - exponent) << 23u;
}

// Sums over the workgroup, in invocation 0.
fn add_lanes(own: array<f32, SUMS>, lane: u32) -> array<f32, SUMS> {
    var sum = own;
    lanes[lane] = own;
    workgroupBarrier();
    if (lane < 16u) {
        for (var i = lane + 16u; i < WG_SIZE; i += 16u) {
            for (var s = 0u; s < SUMS; s++) {
                sum[s] += lanes[i][s];
            }
        }
        lanes[lane] = sum;
    }
    workgroupBarrier();
    if (lane == 0u) {
        for (var i = 1u; i < 16u; i++) {
            for (var s = 0u; s < SUMS; s++) {
                sum[s] += lanes[i][s];
            }
        }
    }
    return sum;
}

@compute @workgroup_size(WG_SIZE)
fn sums(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let piece = group_index(group, groups);
    let amax = atomicLoad(&stats[params.row + AMAX]);
    let f = unit(amax);
    let g = unit(scaled(amax));
    var vectors: array<vec4<f32>, SUMS>;
    for (var k = 0u; k < STEPS; k++) {
        let first = 4u * at(piece, k, lane);
        for (var c = 0u; c < 4u && first + c < params.len; c++) {
            let v = element(first + c);
            let y = scaled(v);
            let rounded = bitcast<u32>(round_to(FORMAT, bitcast<f32>(y)));
            let both = is_finite(y) && is_finite(rounded);
            let xf = bitcast<f32>(select(0u, mul_exact(v, f), is_finite(v)));
            let yg = bitcast<f32>(select(0u, mul_exact(y, g), both));
            let rg = bitcast<f32>(select(0u, mul_exact(rounded, g), both));
            let noise = rg - yg;
            vectors[0][c] += xf;
            vectors[1][c] += abs(xf);
            vectors[2][c] += xf * xf;
            vectors[3][c] += yg * yg;
            vectors[4][c] += noise * noise;
        }
    }
    var own: array<f32, SUMS>;
    for (var s = 0u; s < SUMS; s++) {
        let v = vectors[s];
        own[s] = (v.x + v.y) + (v.z + v.w);
    }
    let sum = add_lanes(own, lane);
    if (lane == 0u && piece < params.pieces) {
        partials[piece] = sum;
    }
}

@compute @workgroup_size(WG_SIZE)
fn total(@builtin(local_invocation_index) lane: u32) {
    var own: array<f32, SUMS>;
    for (var i = lane; i < params.pieces; i += WG_SIZE) {
        for (var s = 0u; s < SUMS; s++) {
            own[s] += partials[i][s];
        }
    }
    let sum = add_lanes(own, lane);
    if (lane == 0u) {
        for (var s = 0u; s < SUMS; s++) {
            atomicStore(&stats[params.row + SUM + s], bitcast<u32>(sum[s]));
        }
        atomicStore(&stats[params.row + LEN], params.len);
        atomicStore(&stats[params.row + SCALE], scale_used());
    }
}

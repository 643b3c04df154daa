// Softmax cross entropy, fused: logits and targets to the mean loss, and back to the logits. CPU twin:
// core/src/cpu/xent.rs.
//
// Formula: loss = lse - x[t], with smoothing s: (1 - s) (lse - x[t]) + s (lse - mean x), where lse = ln sum e^x.
// Backward: dlogits = (e^(x - m) / l - q) * dloss / count with q = (1 - s) onehot(t) + s / V. A target of -100 drops a
// row; any other target outside 0..V makes the row's loss, and so the mean and the row's gradient, NaN.
// Layout: logits, dlogits [n, v]; targets [n]; loss of rows [n] f32; stats [n, 2] f32, m = max x and 1 / l of
// l = sum e^(x - m). `xent` has LANES invocations a row, `xent_mean` is one
// workgroup over the rows, `xent_backward` one invocation a word.
//% import codec, grid, rows
//% const X: dtype = F32
//% const SMOOTH: bool = false

const IGNORE_INDEX: u32 = 0xffffff9cu;

struct Params {
    n: u32,
    c: u32,
    smoothing: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> row_loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
@group(0) @binding(6) var<storage, read_write> count: array<f32>;
@group(0) @binding(7) var<storage, read> saved_stats: array<vec2<f32>>;
@group(0) @binding(8) var<storage, read> saved_count: array<f32>;
@group(0) @binding(9) var<storage, read> dloss: array<f32>;
@group(0) @binding(10) var<storage, read_write> dlogits: array<u32>;

// Rows that enter one sum before it joins the total.
const RUN: u32 = 64u;
const MEAN_SIZE: u32 = 256u;
const LOWEST: f32 = -3.4028234e38;

// Loss and count of the invocations.
var<workgroup> totals: array<vec2<f32>, MEAN_SIZE>;

fn x_at(i: u32) -> f32 {
    return decode(X, logits[word_of(X, i)], i);
}

// v, or NaN.
fn nan_unless(good: bool, v: f32) -> f32 {
    return bitcast<f32>(select(F32_NAN, bitcast<u32>(v), good));
}

@compute @workgroup_size(WG_SIZE)
fn xent(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let v = params.c;
    let row = group_index(group, groups) * ROWS + lane / LANES;
    let start = min(row, params.n) * v;
    let end = min(row + 1u, params.n) * v;
    var largest = LOWEST;
    for (var i = start + lane % LANES; i < end; i += LANES) {
        largest = max(largest, x_at(i));
    }
    largest = row_max(0u, lane, largest);
    // sum e^(x - max) and, for smoothing, sum (x - max).
    var sums = vec2<f32>(0.0);
    for (var i = start + lane % LANES; i < end; i += LANES) {
        let shifted = x_at(i) - largest;
        sums += vec2<f32>(exp(shifted), select(0.0, shifted, SMOOTH));
    }
    sums = row_sum(1u, lane, sums);
    if (lane % LANES == 0u && row < params.n) {
        let ln_sum = log(sums.x);
        stats[row] = vec2<f32>(largest, 1.0 / sums.x);
        let t = targets[row];
        // ln_sum - (x - max) rather than lse - x: no cancellation against a large max.
        let nll = ln_sum - (x_at(start + min(t, v - 1u)) - largest);
        var of_row = nll;
        if (SMOOTH) {
            of_row = (1.0 - params.smoothing) * nll + params.smoothing * (ln_sum - sums.y / f32(v));
        }
        row_loss[row] = select(nan_unless(t < v, of_row), 0.0, t == IGNORE_INDEX);
    }
}

@compute @workgroup_size(MEAN_SIZE)
fn xent_mean(@builtin(local_invocation_index) lane: u32) {
    var total = vec2<f32>(0.0);
    for (var r0 = lane; r0 < params.n; r0 += RUN * MEAN_SIZE) {
        var run = vec2<f32>(0.0);
        for (var r = r0; r < min(r0 + RUN * MEAN_SIZE, params.n); r += MEAN_SIZE) {
            run += vec2<f32>(row_loss[r], select(1.0, 0.0, targets[r] == IGNORE_INDEX));
        }
        total += run;
    }
    totals[lane] = total;
    workgroupBarrier();
    for (var half = MEAN_SIZE / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            totals[lane] += totals[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        total = totals[0];
        loss[0] = nan_unless(total.y > 0.0, total.x / max(total.y, 1.0));
        count[0] = total.y;
    }
}

@compute @workgroup_size(WG_SIZE)
fn xent_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let v = params.c;
    let i = (group_index(group, groups) * WG_SIZE + lane) * pack_size(X);
    if (i >= params.n * v) {
        return;
    }
    let scale = dloss[0] / saved_count[0];
    let off = params.smoothing / f32(v);
    var row = i / v;
    var k = i - row * v;
    var word = 0u;
    for (var j = i; j < min(i + pack_size(X), params.n * v); j++) {
        let t = targets[row];
        let q = off + select(0.0, 1.0 - params.smoothing, k == t);
        let s = saved_stats[row];
        let dx = nan_unless(t < v, (exp(x_at(j) - s.x) * s.y - q) * scale);
        word |= place_code(X, encode(X, select(dx, 0.0, t == IGNORE_INDEX)), j);
        k++;
        if (k == v) {
            k = 0u;
            row++;
        }
    }
    dlogits[word_of(X, i)] = word;
}

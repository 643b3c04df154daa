// LayerNorm and RmsNorm over the last axis, forward and backward. CPU twin: core/src/cpu/norm.rs.
//
// Formula: y = (x - mean) * rstd * weight + bias; rms: mean is 0 and rstd = 1 / sqrt(mean(x^2) + eps). Backward, with
// xhat = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) (rms: without mean(g)),
// dweight = sum dy * xhat, dbias = sum dy. The variance is the corrected two-pass form of the twin.
// Layout: x, y, dy, dx [n, c]; weight, bias, dweight, dbias [c]; mean, rstd [n] f32. LANES invocations a row; the parameter gradients have
// 8 columns a workgroup, 32 invocations a column, and add runs of 64 rows.
// Source: Ba et al. 2016 (arXiv 1607.06450); Zhang and Sennrich 2019 (arXiv 1910.07467).
//% import codec, grid, rows, columns
//% const X: dtype = F32
//% const W: dtype = F32
//% const B: dtype = F32
//% const Y: dtype = F32
//% const DY: dtype = F32
//% const LAYER: bool = true
//% const WEIGHT: bool = true
//% const BIAS: bool = true

struct Params {
    n: u32,
    c: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> weight: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;
@group(0) @binding(7) var<storage, read> dy: array<u32>;
@group(0) @binding(8) var<storage, read> saved_mean: array<f32>;
@group(0) @binding(9) var<storage, read> saved_rstd: array<f32>;
@group(0) @binding(10) var<storage, read_write> dx: array<u32>;
@group(0) @binding(11) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(12) var<storage, read_write> dbias: array<f32>;

// Statistics of the rows of the workgroup: centre and rstd.
var<workgroup> stats: array<vec2<f32>, ROWS>;
// Backward: mean(g) and mean(g * xhat).
var<workgroup> means: array<vec2<f32>, ROWS>;

fn x_at(i: u32) -> f32 {
    return decode(X, x[word_of(X, i)], i);
}

fn dy_at(i: u32) -> f32 {
    return decode(DY, dy[word_of(DY, i)], i);
}

fn weight_at(k: u32) -> f32 {
    if (WEIGHT) {
        return decode(W, weight[word_of(W, k)], k);
    }
    return 1.0;
}

fn bias_at(k: u32) -> f32 {
    if (BIAS) {
        return decode(B, bias[word_of(B, k)], k);
    }
    return 0.0;
}

// Rounding can leave the variance of a constant row slightly below 0; NaN stays.
fn not_negative(v: f32) -> f32 {
    let bits = bitcast<u32>(v);
    return select(v, 0.0, bits > 0x80000000u && bits <= 0xff800000u);
}

@compute @workgroup_size(WG_SIZE)
fn norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = params.n;
    let c = params.c;
    let at = group_index(group, groups);
    let row = at * ROWS + lane / LANES;
    let start = min(row, n) * c;
    let end = min(row + 1u, n) * c;
    var sum = 0.0;
    for (var i = start + lane % LANES; i < end; i += LANES) {
        let v = x_at(i);
        sum += select(v * v, v, LAYER);
    }
    let rough = row_sum(0u, lane, vec2<f32>(sum, 0.0)).x / f32(c);
    var centre = 0.0;
    var variance = rough;
    if (LAYER) {
        var d = vec2<f32>(0.0);
        for (var i = start + lane % LANES; i < end; i += LANES) {
            let v = x_at(i) - rough;
            d += vec2<f32>(v, v * v);
        }
        d = row_sum(1u, lane, d) / f32(c);
        centre = rough + d.x;
        variance = not_negative(d.y - d.x * d.x);
    }
    let inverse = 1.0 / sqrt(variance + params.eps);
    if (lane % LANES == 0u) {
        stats[lane / LANES] = vec2<f32>(centre, inverse);
        if (row < n) {
            rstd[row] = inverse;
            if (LAYER) {
                mean[row] = centre;
            }
        }
    }
    workgroupBarrier();
    let share = row_share(at, lane, n, c, pack_size(Y));
    for (var i = share.first; i < share.end; i += share.step) {
        var r = row_in_group(i, at, lane, c);
        var k = i - (at * ROWS + r) * c;
        var word = 0u;
        for (var j = i; j < min(i + pack_size(Y), share.end); j++) {
            let s = stats[r];
            word |= place_code(Y, encode(Y, (x_at(j) - s.x) * s.y * weight_at(k) + bias_at(k)), j);
            k++;
            if (k == c) {
                k = 0u;
                r++;
            }
        }
        y[word_of(Y, i)] = word;
    }
}

@compute @workgroup_size(WG_SIZE)
fn norm_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = params.n;
    let c = params.c;
    let at = group_index(group, groups);
    let row = at * ROWS + lane / LANES;
    let s = row_stats(row);
    var sums = vec2<f32>(0.0);
    let start = min(row, n) * c;
    for (var k = lane % LANES; start + k < min(row + 1u, n) * c; k += LANES) {
        let g = dy_at(start + k) * weight_at(k);
        sums += vec2<f32>(g, g * ((x_at(start + k) - s.x) * s.y));
    }
    sums = row_sum(0u, lane, sums) / f32(c);
    if (lane % LANES == 0u) {
        stats[lane / LANES] = s;
        means[lane / LANES] = vec2<f32>(select(0.0, sums.x, LAYER), sums.y);
    }
    workgroupBarrier();
    let share = row_share(at, lane, n, c, pack_size(X));
    for (var i = share.first; i < share.end; i += share.step) {
        var r = row_in_group(i, at, lane, c);
        var k = i - (at * ROWS + r) * c;
        var word = 0u;
        for (var j = i; j < min(i + pack_size(X), share.end); j++) {
            let s = stats[r];
            let m = means[r];
            let xhat = (x_at(j) - s.x) * s.y;
            word |= place_code(X, encode(X, (dy_at(j) * weight_at(k) - m.x - xhat * m.y) * s.y), j);
            k++;
            if (k == c) {
                k = 0u;
                r++;
            }
        }
        dx[word_of(X, i)] = word;
    }
}

@compute @workgroup_size(256)
fn norm_parameters(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let k = group_index(group, groups) * COLUMNS + lane % COLUMNS;
    let n = select(0u, params.n, k < params.c);
    var total = vec2<f32>(0.0);
    for (var r0 = lane / COLUMNS; r0 < n; r0 += RUN) {
        var part = vec2<f32>(0.0);
        for (var r = r0; r < min(r0 + RUN, n); r += COLUMN_LANES) {
            let i = r * params.c + k;
            let s = row_stats(r);
            part += dy_at(i) * vec2<f32>((x_at(i) - s.x) * s.y, 1.0);
        }
        total += part;
    }
    total = column_sum(lane, total);
    if (lane < COLUMNS && k < params.c) {
        dweight[k] = total.x;
        if (BIAS) {
            dbias[k] = total.y;
        }
    }
}

// Centre and rstd of a row as the forward left them.
fn row_stats(row: u32) -> vec2<f32> {
    let r = min(row, params.n - 1u);
    if (LAYER) {
        return vec2<f32>(saved_mean[r], saved_rstd[r]);
    }
    return vec2<f32>(0.0, saved_rstd[r]);
}

// LayerNorm and RmsNorm over the last axis, forward and backward. CPU twin: core/src/cpu/norm.rs.
//
// Formula: y = (x - mean) * rstd * weight + bias; rms: mean is 0 and rstd = 1 / sqrt(mean(x^2) + eps). Backward, with
// xhat = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) (rms: without
// mean(g)), dweight = sum dy * xhat, dbias = sum dy. The variance is the corrected two-pass form of the twin. Rows
// whose moments leave f32 are taken after a factor of 2^-80; of these each lane finds the moments alone, since a
// barrier cannot stand in a branch.
// Layout: x, y, dy, dx [n, c]; weight, bias, dweight, dbias [c]; mean, rstd [n] f32. LANES invocations a row; the
// parameter gradients have 8 columns a workgroup, 32 invocations a column, and add runs of 64 rows. Where c is a
// multiple of eight (VEC8) rows are read eight elements at a time, and the parameter gradients have 16 columns a
// workgroup, eight of them an invocation: on llvmpipe, which reads lane by lane, a forward takes 0.27 and a backward
// 0.48 of the time of one element at a time ([2048, 128], f32).
// Source: Ba et al. 2016 (arXiv 1607.06450); Zhang and Sennrich 2019 (arXiv 1910.07467).
//% import vec8, grid, rows, columns
//% const X: dtype = F32
//% const W: dtype = F32
//% const B: dtype = F32
//% const Y: dtype = F32
//% const DY: dtype = F32
//% const LAYER: bool = true
//% const WEIGHT: bool = true
//% const BIAS: bool = true
//% const VEC8: bool = false

struct Params {
    n: u32,
    c: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> rstd: array<f32>;
@group(0) @binding(7) var<storage, read> dy: array<vec4<u32>>;
@group(0) @binding(8) var<storage, read> saved_mean: array<f32>;
@group(0) @binding(9) var<storage, read> saved_rstd: array<f32>;
@group(0) @binding(10) var<storage, read_write> dx: array<vec2<u32>>;
@group(0) @binding(11) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(12) var<storage, read_write> dbias: array<f32>;

// Elements that an invocation reads at a time.
const STRIDE: u32 = select(1u, 8u, VEC8);

// What brings a row to mean 0 and mean square 1: xhat = (x * factor - centre) * rstd. The factor is 1, but REDUCE for
// large rows.
struct Row {
    factor: f32,
    centre: f32,
    rstd: f32,
}

const REDUCE: f32 = 0x1p-80f;
const RESTORE: f32 = 0x1p80f;
// Bits of 2^-100: a row with a smaller rstd may have elements that differ by more than f32 holds.
const LARGE: u32 = 0x0d800000u;
// Elements that enter one sum before it joins the total, where a lane adds alone.
const RUN_ALONE: u32 = 64u;

// Of the rows of the workgroup.
var<workgroup> stats: array<Row, ROWS>;
// Backward: mean(g) and mean(g * xhat).
var<workgroup> means: array<vec2<f32>, ROWS>;

fn x_at(i: u32) -> f32 {
    let w = word_of(X, i);
    return decode(X, x[w >> 2u][w & 3u], i);
}

fn dy_at(i: u32) -> f32 {
    let w = word_of(DY, i);
    return decode(DY, dy[w >> 2u][w & 3u], i);
}

fn weight_at(k: u32) -> f32 {
    if (WEIGHT) {
        let w = word_of(W, k);
        return decode(W, weight[w >> 2u][w & 3u], k);
    }
    return 1.0;
}

fn bias_at(k: u32) -> f32 {
    if (BIAS) {
        let w = word_of(B, k);
        return decode(B, bias[w >> 2u][w & 3u], k);
    }
    return 0.0;
}

fn x_vec8(i: u32) -> mat2x4<f32> {
    let at = vec8_at(X, i);
    return decode8(X, x[at], x[at + vec8_more(X)], i);
}

fn dy_vec8(i: u32) -> mat2x4<f32> {
    let at = vec8_at(DY, i);
    return decode8(DY, dy[at], dy[at + vec8_more(DY)], i);
}

fn weight_vec8(k: u32) -> mat2x4<f32> {
    if (WEIGHT) {
        let at = vec8_at(W, k);
        return decode8(W, weight[at], weight[at + vec8_more(W)], k);
    }
    return all8(1.0);
}

fn bias_vec8(k: u32) -> mat2x4<f32> {
    if (BIAS) {
        let at = vec8_at(B, k);
        return decode8(B, bias[at], bias[at + vec8_more(B)], k);
    }
    return all8(0.0);
}

fn all8(v: f32) -> mat2x4<f32> {
    return mat2x4<f32>(vec4<f32>(v), vec4<f32>(v));
}

fn times8(a: mat2x4<f32>, b: mat2x4<f32>) -> mat2x4<f32> {
    return mat2x4<f32>(a[0] * b[0], a[1] * b[1]);
}

fn xhat_at(i: u32, s: Row) -> f32 {
    return (x_at(i) * s.factor - s.centre) * s.rstd;
}

fn xhat_vec8(i: u32, s: Row) -> mat2x4<f32> {
    return (x_vec8(i) * s.factor - all8(s.centre)) * s.rstd;
}

fn total8(a: mat2x4<f32>) -> f32 {
    let v = a[0] + a[1];
    return (v.x + v.y) + (v.z + v.w);
}

// Rounding can leave the variance of a constant row slightly below 0; NaN stays.
fn not_negative(v: f32) -> f32 {
    let bits = bitcast<u32>(v);
    return select(v, 0.0, bits > 0x80000000u && bits <= 0xff800000u);
}

fn is_finite(v: f32) -> bool {
    return (bitcast<u32>(v) & F32_MAGNITUDE) < F32_INF;
}

// Sums of x - centre and of its square, after the factor, over a large row.
fn sums_alone(start: u32, end: u32, centre: f32) -> vec2<f32> {
    var total = vec2<f32>(0.0);
    for (var first = start; first < end; first += RUN_ALONE) {
        var part = vec2<f32>(0.0);
        for (var i = first; i < min(first + RUN_ALONE, end); i++) {
            let v = x_at(i) * REDUCE - centre;
            part += vec2<f32>(v, v * v);
        }
        total += part;
    }
    return total / f32(end - start);
}

// Of a large row; its rstd is 0 where all elements are equal.
fn large_row(start: u32, end: u32) -> Row {
    var d = sums_alone(start, end, 0.0);
    var centre = 0.0;
    if (LAYER) {
        // Thrice: about 0, about a rough mean, and about the corrected mean, which is exact where all elements are
        // equal.
        centre = d.x;
        centre += sums_alone(start, end, centre).x;
        d = sums_alone(start, end, centre);
        centre += d.x;
        d.y = not_negative(d.y - d.x * d.x);
    }
    let spread = d.y + params.eps * REDUCE * REDUCE;
    let inverse = select(1.0 / sqrt(spread), 0.0, spread == 0.0);
    return Row(REDUCE, centre, bitcast<f32>(select(F32_NAN, bitcast<u32>(inverse), is_finite(spread))));
}

// The rstd of a row itself from that of the reduced row, and back. Subnormals pass as integers, so that no adapter
// flushes them.
fn rstd_to_store(reduced: f32) -> f32 {
    return select(reduced * REDUCE, bitcast<f32>(u32(round(reduced * 0x1p69f))), reduced < 0x1p-46f);
}

fn reduced_rstd(stored: f32) -> f32 {
    let bits = bitcast<u32>(stored);
    return select(stored * RESTORE, f32(bits) * 0x1p-69f, bits < 0x800000u);
}

@compute @workgroup_size(WG_SIZE)
fn norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = params.n;
    let c = params.c;
    let at = group_index(group, groups);
    let row = at * ROWS + lane / LANES;
    let start = min(row, n) * c;
    let end = min(row + 1u, n) * c;
    let first = start + lane % LANES * STRIDE;
    var sum = 0.0;
    for (var i = first; i < end; i += LANES * STRIDE) {
        if (VEC8) {
            let v = x_vec8(i);
            sum += select(total8(times8(v, v)), total8(v), LAYER);
        } else {
            let v = x_at(i);
            sum += select(v * v, v, LAYER);
        }
    }
    let rough = row_sum(0u, lane, vec2<f32>(sum, 0.0)).x / f32(c);
    var centre = 0.0;
    var variance = rough;
    if (LAYER) {
        var d = vec2<f32>(0.0);
        for (var i = first; i < end; i += LANES * STRIDE) {
            if (VEC8) {
                let v = x_vec8(i) - all8(rough);
                d += vec2<f32>(total8(v), total8(times8(v, v)));
            } else {
                let v = x_at(i) - rough;
                d += vec2<f32>(v, v * v);
            }
        }
        d = row_sum(1u, lane, d) / f32(c);
        centre = rough + d.x;
        variance = not_negative(d.y - d.x * d.x);
    }
    var s = Row(1.0, centre, 1.0 / sqrt(variance + params.eps));
    var own_rstd = s.rstd;
    if (!is_finite(variance)) {
        s = large_row(start, end);
        centre = s.centre * RESTORE;
        own_rstd = select(rstd_to_store(s.rstd), 1.0 / sqrt(params.eps), s.rstd == 0.0);
    }
    if (lane % LANES == 0u) {
        stats[lane / LANES] = s;
        if (row < n) {
            rstd[row] = own_rstd;
            if (LAYER) {
                mean[row] = centre;
            }
        }
    }
    if (VEC8) {
        for (var i = first; i < end; i += LANES * STRIDE) {
            let v = times8(xhat_vec8(i, s), weight_vec8(i - start)) + bias_vec8(i - start);
            let words = encode8(Y, v);
            for (var k = 0u; k < (4u >> pack_shift(Y)); k++) {
                y[(word_of(Y, i) >> 1u) + k] = words[k];
            }
        }
        return;
    }
    workgroupBarrier();
    let share = row_share(at, lane, n, c, pack_size(Y));
    for (var i = share.first; i < share.end; i += share.step) {
        var r = row_in_group(i, at, lane, c);
        var k = i - (at * ROWS + r) * c;
        var word = 0u;
        for (var j = i; j < min(i + pack_size(Y), share.end); j++) {
            let s = stats[r];
            word |= place_code(Y, encode(Y, xhat_at(j, s) * weight_at(k) + bias_at(k)), j);
            k++;
            if (k == c) {
                k = 0u;
                r++;
            }
        }
        y[word_of(Y, i) >> 1u][word_of(Y, i) & 1u] = word;
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
    let end = min(row + 1u, n) * c;
    let first = start + lane % LANES * STRIDE;
    for (var i = first; i < end; i += LANES * STRIDE) {
        if (VEC8) {
            let g = times8(dy_vec8(i), weight_vec8(i - start));
            sums += vec2<f32>(total8(g), total8(times8(g, xhat_vec8(i, s))));
        } else {
            let g = dy_at(i) * weight_at(i - start);
            sums += vec2<f32>(g, g * xhat_at(i, s));
        }
    }
    sums = row_sum(0u, lane, sums) / f32(c);
    sums.x = select(0.0, sums.x, LAYER);
    if (lane % LANES == 0u) {
        stats[lane / LANES] = s;
        means[lane / LANES] = sums;
    }
    if (VEC8) {
        for (var i = first; i < end; i += LANES * STRIDE) {
            let g = times8(dy_vec8(i), weight_vec8(i - start));
            let words = encode8(X, (g - all8(sums.x) - xhat_vec8(i, s) * sums.y) * s.rstd * s.factor);
            for (var k = 0u; k < (4u >> pack_shift(X)); k++) {
                dx[(word_of(X, i) >> 1u) + k] = words[k];
            }
        }
        return;
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
            let v = (dy_at(j) * weight_at(k) - m.x - xhat_at(j, s) * m.y) * s.rstd * s.factor;
            word |= place_code(X, encode(X, v), j);
            k++;
            if (k == c) {
                k = 0u;
                r++;
            }
        }
        dx[word_of(X, i) >> 1u][word_of(X, i) & 1u] = word;
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
            part += dy_at(i) * vec2<f32>(xhat_at(i, s), 1.0);
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

// Of eight columns: dweight, then dbias.
var<workgroup> vec8_partials: array<vec4<f32>, 1024>;

@compute @workgroup_size(256)
fn norm_parameters_vec8(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let vec8s = params.c / 8u;
    let k = group_index(group, groups) * 2u + lane % 2u;
    let n = select(0u, params.n, k < vec8s);
    var total_weight = mat2x4<f32>();
    var total_bias = mat2x4<f32>();
    for (var r0 = lane / 2u; r0 < n; r0 += 64u * 128u) {
        var part_weight = mat2x4<f32>();
        var part_bias = mat2x4<f32>();
        for (var r = r0; r < min(r0 + 64u * 128u, n); r += 128u) {
            let i = r * params.c + 8u * k;
            let s = row_stats(r);
            let g = dy_vec8(i);
            part_weight += times8(g, xhat_vec8(i, s));
            part_bias += g;
        }
        total_weight += part_weight;
        total_bias += part_bias;
    }
    vec8_partials[4u * lane] = total_weight[0];
    vec8_partials[4u * lane + 1u] = total_weight[1];
    vec8_partials[4u * lane + 2u] = total_bias[0];
    vec8_partials[4u * lane + 3u] = total_bias[1];
    workgroupBarrier();
    // An invocation a vector of the two vec8s.
    let which = lane / 4u;
    let own = group_index(group, groups) * 2u + which;
    if (lane < 8u && own < vec8s) {
        var total = vec4<f32>();
        for (var l = 0u; l < 128u; l++) {
            total += vec8_partials[4u * (2u * l + which) + lane % 4u];
        }
        let at = 8u * own + 4u * (lane % 2u);
        for (var c = 0u; c < 4u; c++) {
            if (lane % 4u < 2u) {
                dweight[at + c] = total[c];
            } else if (BIAS) {
                dbias[at + c] = total[c];
            }
        }
    }
}

// Of a row as the forward left it.
fn row_stats(row: u32) -> Row {
    let r = min(row, params.n - 1u);
    var s = Row(1.0, 0.0, saved_rstd[r]);
    if (LAYER) {
        s.centre = saved_mean[r];
    }
    if (bitcast<u32>(s.rstd) < LARGE) {
        s = Row(REDUCE, s.centre * REDUCE, reduced_rstd(s.rstd));
    }
    return s;
}

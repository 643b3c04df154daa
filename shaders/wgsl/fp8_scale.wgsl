// The states of fp8 recipes: `record` brings in what quantizations collected, `update_fp8_scales` rolls the amax
// histories of delayed scaling and derives the next scales. CPU twins: core/src/cpu/quantize.rs,
// core/src/cpu/fp8_scale.rs.
//
// Formula: scale = (fp8_max * 2^-margin) / max(window). Histories are [rows, tensors]; row 0 is staged, row 1 the
// oldest.
// Layout: an invocation owns a tensor, a column; neighbours read neighbouring words. Rows are read eight at a time
// before eight are written, since a store would make the next load wait. `ranges` holds fp8_max * 2^-margin of each
// tensor.
// Source: Transformer Engine delayed_scaling.cu.
//% import amax, grid, staged_stats
//% const MOST_RECENT: bool = false
//% const IGNORE: bool = true
//% const DELAYED: bool = true
//% const WG_SIZE: [64] = 64

const ROWS_AHEAD: u32 = 8u;
// Numbers in a row of statistics.
const STATS: u32 = 5u;

struct Params {
    tensors: u32,
    rows: u32,
    // The first row of `staged_stats`.
    first: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ranges: array<u32>;
@group(0) @binding(2) var<storage, read_write> history: array<u32>;
@group(0) @binding(3) var<storage, read_write> scale: array<u32>;
@group(0) @binding(4) var<storage, read_write> nonfinite: array<u32>;
@group(0) @binding(5) var<storage, read_write> staged_stats: array<u32>;
@group(0) @binding(6) var<storage, read_write> stats: array<u32>;

fn share(n: u32, count: u32) -> u32 {
    return div_exact(bitcast<u32>(f32(n)), count);
}

// For every tensor quantized since the last flush: stages the amax in row 0 of the history where DELAYED, writes its
// row of statistics and clears its row of `staged_stats`. A no-op for other tensors.
@compute @workgroup_size(WG_SIZE)
fn flush_stats(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = group_index(group, groups) * WG_SIZE + lane;
    if (t >= params.tensors) {
        return;
    }
    let from_row = STATS_ROW * (params.first + t);
    let amax = staged_stats[from_row];
    let scale = staged_stats[from_row + STATS_SCALE];
    let count = staged_stats[from_row + STATS_COUNT];
    if (scale == 0u) {
        return;
    }
    if (DELAYED) {
        history[t] = max(history[t], amax);
    }
    let row = STATS * t;
    stats[row] = amax;
    stats[row + 1u] = scale;
    stats[row + 2u] = share(staged_stats[from_row + 1u], count);
    stats[row + 3u] = share(staged_stats[from_row + 2u], count);
    stats[row + 4u] = bitcast<u32>(f32(staged_stats[from_row + 3u]));
    for (var k = 0u; k < STATS_ROW; k++) {
        staged_stats[from_row + k] = 0u;
    }
}

fn finite(bits: u32) -> bool {
    return (bits & EXACT_MAGNITUDE) < EXACT_INF;
}

// What a recorded value adds to the window.
fn in_window(bits: u32) -> u32 {
    return select(ordered_bits(bits), 0u, IGNORE && !finite(bits));
}

@compute @workgroup_size(WG_SIZE)
fn update_fp8_scales(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = group_index(group, groups) * WG_SIZE + lane;
    if (t >= params.tensors) {
        return;
    }
    let staged = history[t];
    if ((staged & EXACT_MAGNITUDE) == 0u) {
        return;
    }
    history[t] = 0u;
    if (IGNORE && !finite(staged)) {
        nonfinite[t] += select(1u, 0u, nonfinite[t] == 0xffffffffu);
        return;
    }
    var top = ordered_bits(staged);
    if (params.rows > 1u) {
        let last = params.rows - 1u;
        top = max(top, in_window(history[params.tensors + t]));
        for (var row = 1u; row < last; row += ROWS_AHEAD) {
            var next: array<u32, ROWS_AHEAD>;
            for (var k = 0u; k < ROWS_AHEAD; k++) {
                next[k] = history[min(row + k + 1u, last) * params.tensors + t];
            }
            for (var k = 0u; k < ROWS_AHEAD; k++) {
                top = max(top, in_window(next[k]));
                if (row + k < last) {
                    history[(row + k) * params.tensors + t] = next[k];
                }
            }
        }
        history[last * params.tensors + t] = staged;
    }
    let amax = select(top, staged, MOST_RECENT);
    if (is_positive(amax)) {
        scale[t] = scale_from_amax(amax, ranges[t]);
    }
}

// Matmul of operands in panels (matmul_pack.wgsl) in tiles that a subgroup of eight lanes owns. CPU twin:
// core/src/cpu/matmul.rs.
//
// A tile is 32 rows of y and eight columns for each lane, as in matmul_subgroup.wgsl; sums run over k ascending, with
// the bits of every other matmul kernel. Panels cost what that kernel spends on strides: rows 4 KiB apart meet in the
// same sets of every cache and are prefetched by nobody, so each tile waited for the last cache. In a panel everything
// is read in a row, once, and one kernel serves all layouts and dtypes.
// On llvmpipe (Mesa 22.3) a load is a loop over lanes with a mask test, and in it for each component a bounds check, a
// load and a blend: about 15 instructions a lane and 8 a component, whatever its width. So components of 64 bits halve
// the loads. Its short path for uniform addresses is closed to loops, and that for uniform buffers, a quarter of the
// cost, ends at 64 KiB.
//
// Seen there (two Zen 4 cores, GFLOP/s of both by CPU time, f32, 1024^3, NN / NT / TN): matmul_subgroup 44 / 38 / 40,
// this 69 / 69 / 69 with the time of packing, a twelfth of the whole; without it 76. Of that, 64-bit loads alone,
// operands as they lie: 52 / 49 / 51; panels read by words: 51 without packing; a panel of one operand only: 64 (a), 60
// (b). Compiling takes 0.3 s of CPU time, packing 0.1 s.
// No gain (without packing, 76 here): tiles across rows first 64, vec4s along k in the panel of a 69, 64 rows by two
// steps of k 63, 32 columns by eight steps, operands as they lie, 45 / 48 / 41; reading a word of every line one, two
// or four rounds ahead, as they lie: 50 for 54. Not tried on a GPU.
// Finished sums leave by vec8s of a row: stored word by word, biases read for each sum and rows moved up one by one,
// that was a quarter of a matmul with 256 steps. So the weight gradients of mlp went from 9.6 to 8.4 ms and from 7.8 to
// 6.8, the matmuls with a bias from 9.9 to 9.5 and from 7.8 to 7.4. Four rows at a time in place of two: no gain, and
// 0.1 s more to compile each kernel.
//% needs subgroups, int64
//% import matmul, vec8, grid

const ROWS: u32 = 32u;
const COLUMNS: u32 = 64u;
const LANES: u32 = 8u;

// In place of a and b: pairs of f32.
@group(0) @binding(1) var<storage, read> panels_a: array<vec4<u64>>;
@group(0) @binding(2) var<storage, read> panels_b: array<vec4<u64>>;
// In place of y and addend: two, four or eight elements each. Rows of y are whole vec8s.
@group(0) @binding(7) var<storage, read_write> words_y: array<u64>;
@group(0) @binding(8) var<storage, read> words_addend: array<u64>;

const OUT: u32 = select(Y, F32, PARTIAL);

fn front_vec4(v: vec4<u64>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(u32(v.x), u32(v.x >> 32u), u32(v.y), u32(v.y >> 32u)));
}

fn back_vec4(v: vec4<u64>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(u32(v.z), u32(v.z >> 32u), u32(v.w), u32(v.w >> 32u)));
}

// The eight elements in the first of four words.
fn vec8_of(dtype: u32, w0: u64, w1: u64, w2: u64, w3: u64) -> mat2x4<f32> {
    let a = vec4<u32>(u32(w0), u32(w0 >> 32u), u32(w1), u32(w1 >> 32u));
    let b = vec4<u32>(u32(w2), u32(w2 >> 32u), u32(w3), u32(w3 >> 32u));
    return decode8(dtype, a, b, 0u);
}

// What is added to eight elements of y, the first a multiple of eight.
fn addends_of(at: u32) -> mat2x4<f32> {
    if (ADD == ADD_OPERAND) {
        let i = at >> (1u + pack_shift(ADDEND));
        let more = 4u >> pack_shift(ADDEND);
        return vec8_of(ADDEND, words_addend[i], words_addend[i + 1u % more], words_addend[i + 2u % more], words_addend[i + 3u % more]);
    } else if (ADD == ADD_OLD) {
        let i = at >> (1u + pack_shift(Y));
        let more = 4u >> pack_shift(Y);
        return vec8_of(Y, words_y[i], words_y[i + 1u % more], words_y[i + 2u % more], words_y[i + 3u % more]);
    }
    return mat2x4<f32>();
}

// Stores eight elements of y.
fn store_vec8(at: u32, sums: mat2x4<f32>, scale: f32, biases: mat2x4<f32>) {
    var v = sums;
    if (!PARTIAL) {
        let addends = addends_of(at);
        //% for q in 0..2
        //% for e in 0..4
        v[$q]$.e = finished(sums[$q]$.e, scale, biases[$q]$.e, addends[$q]$.e);
        //% end
        //% end
    }
    let words = encode8(OUT, v);
    let i = at >> (1u + pack_shift(OUT));
    //% for w in 0..4
    if ($(w)u < 4u >> pack_shift(OUT)) {
        words_y[i + $(w)u] = u64(words[$w].x) | (u64(words[$w].y) << 32u);
    }
    //% end
}

@compute @workgroup_size(LANES)
fn panel_tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let g = group_index(group, groups);
    let per_matrix = params.tiles_m * params.tiles_n;
    let z = g / per_matrix;
    if (z >= params.batch * params.splits) {
        return;
    }
    let base = bases(z);
    // The index itself, which lavapipe knows to be 0 to 7, makes the matmul a sixth slower.
    let lane = index % LANES;
    // Down the columns of y, so that the panel of b stays in a cache.
    let i = g % per_matrix % params.tiles_m * ROWS;
    let column = g % per_matrix / params.tiles_m * COLUMNS;
    let j = column + lane * 8u;
    let first = z % params.splits * params.split_k;
    let end = min(first + params.split_k, params.k);
    let steps = (params.k + 3u) & ~3u;
    // A lane reads half a step of the panel of a, and eight columns of each of four steps of that of b.
    let panel_a = base.a + i * steps + lane * 16u;
    let panel_b = base.b + column * steps + lane * 8u;
    //% for q in 0..2
    //% for r in 0..32
    var y$r_$q: vec4<f32>;
    //% end
    //% end
    for (var k = first; k < end; k += 4u) {
        let at_a = (panel_a + k * ROWS) >> 3u;
        let l0 = panels_a[at_a];
        let l1 = panels_a[at_a + 1u];
        let q = array<vec4<f32>, 4>(front_vec4(l0), back_vec4(l0), front_vec4(l1), back_vec4(l1));
        //% for r in 0..4
        let at$r = (panel_b + (k + $(r)u) * COLUMNS) >> 3u;
        let w$r = panels_b[at$r];
        let b$r_0 = front_vec4(w$r);
        let b$r_1 = back_vec4(w$r);
        //% end
        // Row by row: x<row> its values along k.
        //% for g in 0..8
        //% for t in 0..4
        let v$(4*g+t) = q[$(g)u % 4u]$.t;
        let x$(4*g+t) = vec4<f32>(subgroupBroadcast(v$(4*g+t), $(g)u / 4u), subgroupBroadcast(v$(4*g+t), 2u + $(g)u / 4u), subgroupBroadcast(v$(4*g+t), 4u + $(g)u / 4u), subgroupBroadcast(v$(4*g+t), 6u + $(g)u / 4u));
        //% for q in 0..2
        y$(4*g+t)_$q = y$(4*g+t)_$q + x$(4*g+t).x * b0_$q + x$(4*g+t).y * b1_$q + x$(4*g+t).z * b2_$q + x$(4*g+t).w * b3_$q;
        //% end
        //% end
        //% end
    }
    let scale = sum_scale();
    var biases: mat2x4<f32>;
    //% for q in 0..2
    //% for e in 0..4
    biases[$q]$.e = bias_of(min(j + $(4*q+e)u, params.n - 1u));
    //% end
    //% end
    // Two rows are stored, then the others move up.
    let rows = min(ROWS, params.m - i);
    let at = (z * params.m + i) * params.n + j;
    for (var r = 0u; r < rows; r += 2u) {
        //% for t in 0..2
        if (j < params.n && r + $(t)u < rows) {
            store_vec8(at + (r + $(t)u) * params.n, mat2x4<f32>(y$(t)_0, y$(t)_1), scale, biases);
        }
        //% end
        //% for q in 0..2
        //% for r in 0..30
        y$r_$q = y$(r+2)_$q;
        //% end
        //% end
    }
}

// Lays an operand of a matmul out in panels for matmul_panels: rows of a or columns of b are lines; a panel is LINES of
// them, [panel][k][line] in f32, decoded and scaled. Steps of k beyond the last, up to a multiple of four, are zeros.
// What lines beyond the last hold is of no use. CPU twin: core/src/cpu/pack.rs.
//
// An invocation lays out eight lines of four steps. Neighbours read neighbours: further along k where the operand is
// stored along k, further lines where it is stored by k.
//
// On llvmpipe (two Zen 4 cores) a million elements take 0.4 to 0.6 ms where they are stored by k and 1.8 ms along k,
// with as many instructions: that waits for stores to lines that no cache has, and for loads. No gain: 64-bit loads and
// stores (a hundredth of a step), 16 lines of four steps, so that lines of the cache are written whole; slower by a
// tenth of the matmul: four lines of eight steps by neighbours across lines, workgroups of whole panels of 32 steps. So
// long runs along a line are what reading wants.
//% import vec4, grid
//% const X: dtype = F32
//% const BY_K: bool = false
//% const SCALE: [0, 1, 2, 3] = 0
//% const TF32_INPUTS: bool = false
//% const WHOLE: bool = true
//% const LINES: [32, 64] = 32
//% const WG_SIZE: [64] = 64

// blocks: vec8s of lines, fours: groups of four steps of k, both of one matrix; x_stride and scale_stride: elements
// from one matrix to the next.
struct Params {
    lines: u32,
    k: u32,
    blocks: u32,
    fours: u32,
    batch: u32,
    x_stride: u32,
    scale_stride: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> scale: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

// Kinds of scales, as in OperandScale.
const BLOCK32_LAST: u32 = 2u;

// log2 of the elements in a vector of 16 bytes.
const SHIFT: u32 = 2u + select(select(0u, 1u, X == F16 || X == BF16), 2u, X == E4M3 || X == E5M2);

// Elements at to at + 3 of x, of which `left` are of its row; the others are zero.
fn four(at: u32, left: u32) -> vec4<f32> {
    var words: vec4<u32>;
    if (WHOLE) {
        words = shift_to_front(X, x[at >> SHIFT], at);
    } else {
        words = pack4(X, vec4<u32>(code(at), code(at + 1u), code(at + 2u), code(at + 3u)), left);
    }
    return decode4(X, TF32_INPUTS, words);
}

fn code(at: u32) -> u32 {
    return code_of(X, x[at >> SHIFT][word_of(X, at) & 3u], at);
}

// Block scale of a line at k; it is that of the next three steps too.
fn scale_of(base: u32, line: u32, k: u32) -> f32 {
    let r = select(line, k, BY_K);
    let c = select(k, line, BY_K);
    let columns = select(params.k, params.lines, BY_K);
    let at = base + select((r >> 5u) * columns + c, r * ((columns + 31u) >> 5u) + (c >> 5u), SCALE == BLOCK32_LAST);
    return decode(E8M0, scale[at >> 2u], at);
}

@compute @workgroup_size(WG_SIZE)
fn pack(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let item = group_index(group, groups) * WG_SIZE + index;
    let per_matrix = params.blocks * params.fours;
    let z = item / per_matrix;
    if (z >= params.batch) {
        return;
    }
    let at = item % per_matrix;
    let block = select(at / params.fours, at % params.blocks, BY_K);
    let k = 4u * select(at % params.fours, at / params.blocks, BY_K);
    let line = 8u * block;
    let base = z * params.x_stride;
    // u<step>: lines 0 to 3 of these eight, v<step>: lines 4 to 7.
    //% for r in 0..4
    var u$r: vec4<f32>;
    var v$r: vec4<f32>;
    //% end
    if (BY_K) {
        //% for r in 0..4
        let at$r = base + (k + $(r)u) * params.lines + line;
        u$r = select(vec4<f32>(), four(at$r, 4u), k + $(r)u < params.k);
        v$r = select(vec4<f32>(), four(at$r + 4u, 4u), k + $(r)u < params.k);
        //% end
    } else {
        //% for c in 0..8
        let l$c = four(base + (line + $(c)u) * params.k + k, params.k - k);
        //% end
        //% for r in 0..4
        u$r = vec4<f32>(l0$.r, l1$.r, l2$.r, l3$.r);
        v$r = vec4<f32>(l4$.r, l5$.r, l6$.r, l7$.r);
        //% end
    }
    if (SCALE >= BLOCK32_LAST) {
        let scales = z * params.scale_stride;
        let su = vec4<f32>(scale_of(scales, line, k), scale_of(scales, line + 1u, k), scale_of(scales, line + 2u, k), scale_of(scales, line + 3u, k));
        let sv = vec4<f32>(scale_of(scales, line + 4u, k), scale_of(scales, line + 5u, k), scale_of(scales, line + 6u, k), scale_of(scales, line + 7u, k));
        //% for r in 0..4
        u$r *= su;
        v$r *= sv;
        //% end
    }
    let panel = z * (8u * params.blocks / LINES) + line / LINES;
    //% for r in 0..4
    let to$r = ((panel * 4u * params.fours + k + $(r)u) * LINES + line % LINES) >> 2u;
    y[to$r] = u$r;
    y[to$r + 1u] = v$r;
    //% end
}

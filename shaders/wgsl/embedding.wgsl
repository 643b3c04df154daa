// Rows of a table by id, and the scatter-add of their gradients. CPU twin: core/src/cpu/embedding.rs.
//
// Formula: y[i] = table[ids[i]]; dtable[v] = sum over i with ids[i] = v of dy[i], in ascending order of i, in f32. An
// id outside the table gives a row of NaN and adds nothing.
// Layout: table, dtable [v, c]; ids [n]; y, dy [n, c]. embedding moves elements of X's width, or words as X = F32 where
// rows are whole words; dy has codes of X, dtable is f32.
// embedding: an invocation owns one word of y; codes beyond the end are zero. The gradient needs no atomics: `link`
// chains the positions of equal ids (an invocation owns a position, or a row of the table and its first position),
// embedding_backward walks the chain of its element's row.
// Sums are in the order of the twin, so the bits are equal.
//% import codec, grid
//% const X: dtype = F32

const WG_SIZE: u32 = 64u;

struct Params {
    // Elements of y, or of dtable; positions for link.
    n: u32,
    v: u32,
    c: u32,
    // Code of NaN, or a word of them.
    nan: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> dy: array<u32>;
// Positions counted from 1, 0 for none: the first of each row of the table, then the next with the same id of each
// position.
@group(0) @binding(4) var<storage, read> chain: array<u32>;
@group(0) @binding(5) var<storage, read_write> y: array<u32>;
@group(0) @binding(6) var<storage, read_write> links: array<u32>;
@group(0) @binding(7) var<storage, read_write> dtable: array<f32>;

@compute @workgroup_size(WG_SIZE)
fn embedding(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let word = group_index(group, groups) * WG_SIZE + lane;
    let first = word * pack_size(X);
    if (first >= params.n) {
        return;
    }
    var codes = 0u;
    for (var k = 0u; k < pack_size(X); k++) {
        let at = first + k;
        if (at < params.n) {
            let row = at / params.c;
            let id = ids[row];
            var code = params.nan;
            if (id < params.v) {
                let i = id * params.c + (at - row * params.c);
                code = code_of(X, table[word_of(X, i)], i);
            }
            codes |= place_code(X, code, k);
        }
    }
    y[word] = codes;
}

// The first position from `start` on that holds `id`, counted from 1; 0 if there is none.
fn find(id: u32, start: u32) -> u32 {
    for (var i = start; i < params.n; i++) {
        if (ids[i] == id) {
            return i + 1u;
        }
    }
    return 0u;
}

@compute @workgroup_size(WG_SIZE)
fn link(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let item = group_index(group, groups) * WG_SIZE + lane;
    if (item >= params.v + params.n) {
        return;
    }
    if (item < params.v) {
        links[item] = find(item, 0u);
    } else {
        let i = item - params.v;
        links[item] = find(ids[i], i + 1u);
    }
}

@compute @workgroup_size(WG_SIZE)
fn embedding_backward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let at = group_index(group, groups) * WG_SIZE + lane;
    if (at >= params.n) {
        return;
    }
    let row = at / params.c;
    let c = at - row * params.c;
    var sum = 0.0;
    var position = chain[row];
    while (position != 0u) {
        let i = (position - 1u) * params.c + c;
        sum += decode(X, dy[word_of(X, i)], i);
        position = chain[params.v + position - 1u];
    }
    dtable[at] = sum;
}

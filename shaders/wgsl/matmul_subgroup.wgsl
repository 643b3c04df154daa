// Matmul in tiles that a subgroup owns. CPU twin: core/src/cpu/matmul.rs; formula and layout of operands: matmul.wgsl.
//
// A subgroup owns 32 rows of y and 4 or 8 columns for each of its lanes; a lane keeps the sums of its columns, 32 x 4
// or 32 x 8 of them. For every four steps of k a lane reads its own columns of b, but only its share of a (a vec4 of
// each row, or of each k where a is stored by k), which then goes to all lanes by broadcast. With 8 lanes a value of a
// serves 32 or 64 columns and one of b 32 rows, against 16 and 8 in `tile`; nothing waits.
// Sums run over k ascending, one product after the other: the bits of every other matmul kernel.
// An operand stored along k gives 2 or 4 vec4s of a narrow dtype for one read. Where its rows are no whole vectors of
// 16 bytes, it is read element by element.
//
// Seen on lavapipe (two AVX-512 cores, 8 lanes, f32, GFLOP/s of both by CPU time, the best of 60 runs on a busy
// machine, NN / NT / TN): 1024^3 74 / 66 / 72, 512^3 80 / 66 / 75 (`tile`: 28 / 31 / 26); bf16 at 1024^3 100 / 91 / 97.
// Other programs' use of the caches costs up to half.
// What costs is loads: one of 16 bytes in each of 8 lanes is a loop of 290 instructions, as much as 100 multiply-adds;
// the index of a neighbour costs less where the driver sees that it is another plus a constant, (at >> SHIFT) + 1 and
// not (at + 4) >> SHIFT: that is 15 % of NN. Fewer rows read more often: 8 rows of 4 columns 32 and 16 of 4 46 (NN,
// 512^3), 16 of 8 53 / 58 / 53. More: 64 rows of 8 columns 53 / 54 / 36, the loop leaves the instruction cache.
// Operands laid out in panels first, not counting what that takes: 62 / - / 64 at 1024^3, bf16 99 / - / 95. 64-bit
// loads and panels together: matmul_panels.wgsl. 16 elements along k read at a time: 51, an `if` around loads and a
// loop in the loop make every sum be stored under a mask; `||` of constants does the same. Two vec4s along k in the
// text of one round:
// NT 70, but the same text then gives NN 57, with and without the dead half; speed depends on where the compiler puts
// the sums.
// No gain: bands of 4 rows of tiles, several subgroups in a workgroup, subgroupShuffle for subgroupBroadcast, `fma`
// (lavapipe splits it), reading a word of every line of the next four steps ahead. Compiling takes 0.2 s of CPU time
// with 4 columns a lane, 0.3 s with 8. Not tried on a GPU.
//% needs subgroups
//% import matmul, grid
//% const TAIL: bool = false
//% const SUBGROUP: [8, 16, 32, 64] = 32
//% const SUBGROUPS: [1, 4] = 4
//% const VEC4S_N: [1, 2] = 1
//% const WHOLE_A: bool = true
//% const WHOLE_B: bool = true

const ROWS: u32 = 32u;
// Vec4s of a that a lane reads for four steps of k, of the 32 that its subgroup needs.
const SHARES: u32 = max(ROWS / SUBGROUP, 1u);

// The words with those of the next vec4 in front.
fn turned(v: vec4<u32>) -> vec4<u32> {
    return select(v.zwxy, v.yzwx, VEC4S == 4u);
}

// Whether k is the first step that a vector stored along k serves.
fn fresh(k: u32) -> bool {
    return (k & (4u * VEC4S - 1u)) == 0u;
}

// The vec4 at element `at` in front, read one by one where rows are no whole vectors.
fn a_front(at: u32, left: u32) -> vec4<u32> {
    var v: vec4<u32>;
    if (WHOLE_A) {
        v = shift_to_front(A, a[at >> SHIFT], at);
    } else {
        v = pack4(A, vec4<u32>(a_code(at), a_code(at + 1u), a_code(at + 2u), a_code(at + 3u)), left);
    }
    return v;
}

fn a_code(at: u32) -> u32 {
    return code_of(A, a[at >> SHIFT][word_of(A, at) & 3u], at);
}

fn b_front(at: u32, left: u32) -> vec4<u32> {
    var v: vec4<u32>;
    if (WHOLE_B) {
        v = shift_to_front(B, b[at >> SHIFT], at);
    } else {
        v = pack4(B, vec4<u32>(b_code(at), b_code(at + 1u), b_code(at + 2u), b_code(at + 3u)), left);
    }
    return v;
}

fn b_code(at: u32) -> u32 {
    return code_of(B, b[at >> SHIFT][word_of(B, at) & 3u], at);
}

// The vec4 of a that is number t of 32, stored along k: row t.
fn next_a(before: vec4<u32>, base: u32, i: u32, k: u32, t: u32) -> vec4<u32> {
    var v = turned(before);
    let at = base + (i + t) * params.k + k;
    if (!WHOLE_A) {
        v = a_front(at, params.k - k);
    } else if (fresh(k)) {
        v = a[at >> SHIFT];
    }
    return v;
}

// Where that vec4 is if a is stored by k: rows 4 (t % 8) on of k + t / 8.
fn a_at(base: u32, i: u32, k: u32, t: u32) -> u32 {
    return base + (k + t / 8u) * params.m + i + t % 8u * 4u;
}

fn a_values(words: vec4<u32>, scales: vec4<f32>, k: u32, t: u32) -> vec4<f32> {
    let v = select(decode4(A, TF32_INPUTS, words), decode4(A, TF32_INPUTS, words) * scales, SCALE_A >= BLOCK32_LAST);
    return select(v, vec4<f32>(), TAIL && TRANS_A && k + t / 8u >= params.k);
}

// Scales of that vec4.
fn a_block(base: u32, i: u32, k: u32, t: u32) -> vec4<f32> {
    var s: vec4<f32>;
    if (TRANS_A) {
        s = a_scales(base, i + t % 8u * 4u, min(k + t / 8u, params.k - 1u));
    } else {
        s = vec4<f32>(a_scale(base, i + t, k));
    }
    return s;
}

// Four steps of column j, for b stored along k.
fn next_b(before: vec4<u32>, base: u32, j: u32, k: u32) -> vec4<u32> {
    var v = turned(before);
    if (select(true, fresh(k), WHOLE_B)) {
        v = b_front(base + j * params.k + k, params.k - k);
    }
    return v;
}

fn b_values(words: vec4<u32>) -> vec4<f32> {
    return decode4(B, TF32_INPUTS, words);
}

@compute @workgroup_size(SUBGROUP * SUBGROUPS)
fn subgroup_tile(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let g = group_index(group, groups);
    let per_matrix = params.tiles_m * params.tiles_n;
    let z = g / per_matrix;
    if (z >= params.batch * params.splits) {
        return;
    }
    let base = bases(z);
    let lane = index % SUBGROUP;
    // Down the columns of y, so that what tiles share of b stays in a cache.
    let i = g % per_matrix % params.tiles_m * ROWS;
    let j = (g % per_matrix / params.tiles_m * SUBGROUPS * SUBGROUP + index) * 4u * VEC4S_N;
    let first = z % params.splits * params.split_k;
    let end = min(first + params.split_k, params.k);
    // Numbers of this lane's vec4s of a; those beyond SHARES are of no use.
    //% for s in 0..4
    let t$s = (lane * SHARES + $(s)u) % ROWS;
    //% end
    //% for q in 0..2
    //% for r in 0..32
    var y$r_$q: vec4<f32>;
    //% end
    //% end
    //% for s in 0..4
    var a$s: vec4<u32>;
    //% end
    //% for c in 0..8
    var c$c: vec4<u32>;
    //% end
    //% for s in 0..4
    var sa$s: vec4<f32>;
    //% end
    var sb0: vec4<f32>;
    var sb1: vec4<f32>;
    for (var k = first; k < end; k += 4u) {
        if (SCALE_A >= BLOCK32_LAST && ((k & 31u) == 0u || k == first)) {
            //% for s in 0..4
            sa$s = a_block(base.scale_a, i, k, t$s);
            //% end
        }
        if (TRANS_A) {
            // Neighbours.
            let at = a_at(base.a, i, k, t0);
            a0 = a_front(at, 4u);
            a1 = turned(a0);
            if (VEC4S == 1u) {
                a1 = a[(at >> SHIFT) + 1u];
            }
            a2 = turned(a1);
            if (VEC4S < 4u) {
                a2 = a[(at >> SHIFT) + 2u / VEC4S];
            }
            a3 = turned(a2);
            if (VEC4S == 1u) {
                a3 = a[(at >> SHIFT) + 3u];
            }
            if (!WHOLE_A) {
                //% for s in 1..4
                a$s = a_front(at + $(4*s)u, 4u);
                //% end
            }
        } else {
            //% for s in 0..4
            a$s = next_a(a$s, base.a, i, k, t$s);
            //% end
        }
        let q = array<vec4<f32>, 4>(a_values(a0, sa0, k, t0), a_values(a1, sa1, k, t1), a_values(a2, sa2, k, t2), a_values(a3, sa3, k, t3));
        // b<k>_<vec4>: row k + k of b, four columns.
        //% for r in 0..4
        //% for q in 0..2
        var b$r_$q: vec4<f32>;
        //% end
        //% end
        if (TRANS_B) {
            //% for c in 0..4
            c$c = next_b(c$c, base.b, j + $(c)u, k);
            //% end
            //% for c in 0..4
            let d$c = b_values(c$c);
            //% end
            //% for r in 0..4
            b$r_0 = vec4<f32>(d0$.r, d1$.r, d2$.r, d3$.r);
            //% end
            if (VEC4S_N == 2u) {
                //% for c in 4..8
                c$c = next_b(c$c, base.b, j + $(c)u, k);
                //% end
                //% for c in 4..8
                let d$c = b_values(c$c);
                //% end
                //% for r in 0..4
                b$r_1 = vec4<f32>(d4$.r, d5$.r, d6$.r, d7$.r);
                //% end
            }
        } else {
            let at = base.b + k * params.n + j;
            //% for r in 0..4
            let at$r = at + $(r)u * params.n;
            let v$r = b_front(at$r, 4u);
            b$r_0 = b_values(v$r);
            //% end
            if (VEC4S_N == 2u) {
                //% for r in 0..4
                var w$r = turned(v$r);
                //% end
                if (!WHOLE_B) {
                    //% for r in 0..4
                    w$r = b_front(at$r + 4u, 4u);
                    //% end
                } else if (VEC4S == 1u) {
                    //% for r in 0..4
                    w$r = b[(at$r >> SHIFT) + 1u];
                    //% end
                }
                //% for r in 0..4
                b$r_1 = b_values(w$r);
                //% end
            }
            if (TAIL) {
                //% for r in 1..4
                //% for q in 0..2
                b$r_$q = select(vec4<f32>(), b$r_$q, k + $(r)u < params.k);
                //% end
                //% end
            }
        }
        if (SCALE_B >= BLOCK32_LAST) {
            if ((k & 31u) == 0u || k == first) {
                sb0 = b_scales(base.scale_b, j, k);
                if (VEC4S_N == 2u) {
                    sb1 = b_scales(base.scale_b, j + 4u, k);
                }
            }
            //% for r in 0..4
            //% for q in 0..2
            b$r_$q *= sb$q;
            //% end
            //% end
        }
        // Four rows at a time; o<n> is vec4 n of these rows, x<row> their values along k.
        //% for g in 0..8
        //% for t in 0..4
        let o$(4*g+t) = subgroupBroadcast(q[select($(4*g+t)u, $(g+8*t)u, TRANS_A) % SHARES], select($(4*g+t)u, $(g+8*t)u, TRANS_A) / SHARES);
        //% end
        //% for t in 0..4
        let x$(4*g+t) = select(o$(4*g+t), vec4<f32>(o$(4*g)$.t, o$(4*g+1)$.t, o$(4*g+2)$.t, o$(4*g+3)$.t), TRANS_A);
        //% end
        //% for t in 0..4
        y$(4*g+t)_0 = y$(4*g+t)_0 + x$(4*g+t).x * b0_0 + x$(4*g+t).y * b1_0 + x$(4*g+t).z * b2_0 + x$(4*g+t).w * b3_0;
        //% end
        if (VEC4S_N == 2u) {
            //% for t in 0..4
            y$(4*g+t)_1 = y$(4*g+t)_1 + x$(4*g+t).x * b0_1 + x$(4*g+t).y * b1_1 + x$(4*g+t).z * b2_1 + x$(4*g+t).w * b3_1;
            //% end
        }
        //% end
    }
    // The first row is stored, then the others move up: the code of a store stands here once.
    let rows = min(ROWS, params.m - i);
    for (var r = 0u; r < rows; r++) {
        if (j < params.n) {
            store(z, i + r, j, y0_0);
        }
        if (VEC4S_N == 2u && j + 4u < params.n) {
            store(z, i + r, j + 4u, y0_1);
        }
        //% for q in 0..2
        //% for r in 0..31
        y$r_$q = y$(r+1)_$q;
        //% end
        //% end
    }
}

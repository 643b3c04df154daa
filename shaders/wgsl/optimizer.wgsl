// One optimizer step over packed lists: AdamW, Adam, SGD. CPU twin: core/src/cpu/optimizer.rs.
//
// Formula: that of the CPU, in its order. Where found_inf is set nothing is touched: not weights, not moments, not the
// step counter.
// Bias corrections: 1 - beta^t by the bits of t, from a table of q(k) = 1 - beta^(2^k) that the host rounds from f64: 1
// - a b = p + (1 - p) q for p = 1 - a, q = 1 - b. All terms are positive, so nothing cancels; the result is within a
// few ulps.
// Layout: `prepare`, one invocation, turns the scalars into coefficients; `step_all` updates the lists, whose padding
// is zero and stays so.
// Members start at blocks of 256 bytes, and OWNERS invocations share a block, so that each looks up a weight decay once
// for several vec8s.
// `decays`: for each run of members with one weight decay the eight behind its last, and the decay.
// Sources: Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101; PyTorch optim/{adam,adamw,sgd}.py.
//% import exact, grid
//% const RULE: [0, 1, 2, 3, 4] = 0
//% const FOUND_INF: bool = false
//% const CLIP_COEF: bool = false
//% const WG_SIZE: [256] = 256

const ADAMW: u32 = 0u;
const ADAM: u32 = 1u;
const SGD: u32 = 2u;
const MOMENTUM: u32 = 3u;
const NESTEROV: u32 = 4u;

// Vec8s of a block, and the invocations that share it; the launch counts invocations by both.
const BLOCK: u32 = 8u;
const OWNERS: u32 = 4u;

// Bits of 2^63, the root of the largest second moment.
const LARGEST: u32 = 0x5f000000u;

// What an update needs to know of this step.
struct Step {
    // 0 where the step is skipped.
    taken: u32,
    lr: f32,
    // Multiplied into the gradient one after the other.
    clip_coef0: f32,
    clip_coef1: f32,
    // lr / (1 - beta1^t)
    step_size: f32,
    // sqrt(1 - beta2^t)
    root_correction2: f32,
    // 1 - dampening, or 1 on the first step.
    share: f32,
}

struct Params {
    vec8_count: u32,
    runs: u32,
    one_less_beta1: f32,
    beta2: f32,
    one_less_beta2: f32,
    eps: f32,
    momentum: f32,
    one_less_dampening: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> lr: array<f32>;
@group(0) @binding(2) var<storage, read> found_inf: array<u32>;
@group(0) @binding(3) var<storage, read> clip_coef: array<f32>;
@group(0) @binding(4) var<storage, read> powers: array<vec2<f32>>;
@group(0) @binding(5) var<storage, read> decays: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> grad: array<Vec8>;
@group(0) @binding(7) var<storage, read_write> counter: array<u32>;
@group(0) @binding(8) var<storage, read_write> now: array<Step>;
@group(0) @binding(9) var<storage, read_write> param: array<Vec8>;
@group(0) @binding(10) var<storage, read_write> moment1: array<Vec8>;
@group(0) @binding(11) var<storage, read_write> moment2: array<Vec8>;

@compute @workgroup_size(1)
fn prepare() {
    var s = Step(0u, lr[0], 1.0, 1.0, 0.0, 1.0, 1.0);
    if (!FOUND_INF || (found_inf[0] & EXACT_MAGNITUDE) == 0u) {
        let t = counter[0] + select(1u, 0u, counter[0] == 0xffffffffu);
        counter[0] = t;
        s.taken = 1u;
        if (CLIP_COEF) {
            s.clip_coef0 = clip_coef[0];
            s.clip_coef1 = clip_coef[1];
        }
        if (t != 1u) {
            s.share = params.one_less_dampening;
        }
        if (RULE == ADAMW || RULE == ADAM) {
            var correction = vec2<f32>();
            // No count that a compiler would write out: 32 rounds in a row took 0.1 s to compile on llvmpipe.
            var rest = t;
            for (var k = 0u; rest != 0u; k++) {
                if ((rest & 1u) == 1u) {
                    correction += (1.0 - correction) * powers[k];
                }
                rest >>= 1u;
            }
            s.step_size = bitcast<f32>(div_exact(bitcast<u32>(s.lr), bitcast<u32>(correction.x)));
            s.root_correction2 = sqrt(correction.y);
        }
    }
    now[0] = s;
}

// Weight decay of eight i: that of the first run that ends behind it.
fn decay_of(i: u32) -> f32 {
    var low = 0u;
    var high = params.runs - 1u;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (i < decays[middle].x) {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    return bitcast<f32>(decays[low].y);
}

@compute @workgroup_size(WG_SIZE)
fn step_all(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let item = group_index(group, groups) * WG_SIZE + lane;
    let first = item / OWNERS * BLOCK + item % OWNERS;
    let s = now[0];
    if (first >= params.vec8_count || s.taken == 0u) {
        return;
    }
    let weight_decay = decay_of(first);
    for (var i = first; i < first + BLOCK; i += OWNERS) {
        step_one(i, s, weight_decay);
    }
}

fn floats(v: Vec8) -> mat2x4<f32> {
    let h = unpack_vec8(v);
    return mat2x4<f32>(bitcast<vec4<f32>>(h[0]), bitcast<vec4<f32>>(h[1]));
}

fn of_floats(v: mat2x4<f32>) -> Vec8 {
    return pack_vec8(array<vec4<u32>, 2>(bitcast<vec4<u32>>(v[0]), bitcast<vec4<u32>>(v[1])));
}

// A weight and its moments.
struct State {
    w: vec4<f32>,
    first: vec4<f32>,
    second: vec4<f32>,
}

// Gradients whose squares are within f32, unless they are not finite.
fn held(g: vec4<f32>) -> vec4<f32> {
    let bits = bitcast<vec4<u32>>(g);
    let magnitude = bits & vec4<u32>(EXACT_MAGNITUDE);
    let largest = bitcast<vec4<f32>>((bits & vec4<u32>(0x80000000u)) | vec4<u32>(LARGEST));
    return select(g, largest, (magnitude > vec4<u32>(LARGEST)) & (magnitude < vec4<u32>(EXACT_INF)));
}

fn update(old: State, grad: vec4<f32>, s: Step, weight_decay: f32) -> State {
    var g = grad * s.clip_coef0 * s.clip_coef1;
    var next = old;
    if (RULE == ADAMW || RULE == ADAM) {
        if (RULE == ADAMW) {
            next.w *= 1.0 - s.lr * weight_decay;
        } else {
            g += weight_decay * next.w;
        }
        g = held(g);
        next.first = old.first + (g - old.first) * params.one_less_beta1;
        next.second = old.second * params.beta2 + g * g * params.one_less_beta2;
        let denominator = sqrt(next.second) / s.root_correction2 + params.eps;
        next.w -= s.step_size * (next.first / denominator);
    } else {
        g += weight_decay * next.w;
        if (RULE == SGD) {
            next.w -= s.lr * g;
        } else {
            next.first = params.momentum * old.first + s.share * g;
            if (RULE == NESTEROV) {
                next.w -= s.lr * (g + params.momentum * next.first);
            } else {
                next.w -= s.lr * next.first;
            }
        }
    }
    return next;
}

fn step_one(i: u32, s: Step, weight_decay: f32) {
    let grads = floats(grad[i]);
    var w = floats(param[i]);
    var first: mat2x4<f32>;
    var second: mat2x4<f32>;
    if (RULE != SGD) {
        first = floats(moment1[i]);
    }
    if (RULE == ADAMW || RULE == ADAM) {
        second = floats(moment2[i]);
    }
    //% for h in 0..2
    let next$h = update(State(w[$h], first[$h], second[$h]), grads[$h], s, weight_decay);
    w[$h] = next$h.w;
    first[$h] = next$h.first;
    second[$h] = next$h.second;
    //% end
    if (RULE != SGD) {
        moment1[i] = of_floats(first);
    }
    if (RULE == ADAMW || RULE == ADAM) {
        moment2[i] = of_floats(second);
    }
    param[i] = of_floats(w);
}

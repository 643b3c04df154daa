// One optimizer step over packed lists: AdamW, Adam, SGD. CPU twin: core/src/cpu/optimizer.rs.
//
// Formula: that of the CPU, in its order. Where found_inf is set nothing is touched: not weights, not moments, not the step counter.
// Bias corrections: 1 - beta^t by the bits of t, from a table of q(k) = 1 - beta^(2^k) that the host rounds from f64:
// 1 - a b = p + (1 - p) q for p = 1 - a, q = 1 - b. All terms are positive, so nothing cancels; the result is within a few ulps.
// Layout: `prepare`, one invocation, turns the scalars into coefficients; `step_all` updates the lists, whose padding is zero and stays so.
// Members start at blocks of 256 bytes, and OWNERS invocations share a block, so that each looks up a weight decay once for several vectors.
// `decays`: for each run of members with one weight decay the vector behind its last, and the decay.
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

// Vectors of a block, and the invocations that share it; the launch counts invocations by both.
const BLOCK: u32 = 16u;
const OWNERS: u32 = 4u;

// What an update needs to know of this step.
struct Step {
    // 0 where the step is skipped.
    taken: u32,
    lr: f32,
    clip_coef: f32,
    // lr / (1 - beta1^t)
    step_size: f32,
    // sqrt(1 - beta2^t)
    root_correction2: f32,
    // 1 - dampening, or 1 on the first step.
    share: f32,
}

struct Params {
    vectors: u32,
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
@group(0) @binding(6) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> counter: array<u32>;
@group(0) @binding(8) var<storage, read_write> now: array<Step>;
@group(0) @binding(9) var<storage, read_write> param: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> moment1: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> moment2: array<vec4<f32>>;

@compute @workgroup_size(1)
fn prepare() {
    var s = Step(0u, lr[0], 1.0, 0.0, 1.0, 1.0);
    if (!FOUND_INF || (found_inf[0] & EXACT_MAGNITUDE) == 0u) {
        let t = counter[0] + select(1u, 0u, counter[0] == 0xffffffffu);
        counter[0] = t;
        s.taken = 1u;
        if (CLIP_COEF) {
            s.clip_coef = clip_coef[0];
        }
        if (t != 1u) {
            s.share = params.one_less_dampening;
        }
        if (RULE == ADAMW || RULE == ADAM) {
            var correction = vec2<f32>();
            for (var k = 0u; k < 32u; k++) {
                if (((t >> k) & 1u) == 1u) {
                    correction += (1.0 - correction) * powers[k];
                }
            }
            s.step_size = bitcast<f32>(div_exact(bitcast<u32>(s.lr), bitcast<u32>(correction.x)));
            s.root_correction2 = sqrt(correction.y);
        }
    }
    now[0] = s;
}

// Weight decay of vector i: that of the first run that ends behind it.
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
    if (first >= params.vectors || s.taken == 0u) {
        return;
    }
    let weight_decay = decay_of(first);
    for (var i = first; i < first + BLOCK; i += OWNERS) {
        step_one(i, s, weight_decay);
    }
}

fn step_one(i: u32, s: Step, weight_decay: f32) {
    var g = grad[i] * s.clip_coef;
    var w = param[i];
    if (RULE == ADAMW || RULE == ADAM) {
        if (RULE == ADAMW) {
            w *= 1.0 - s.lr * weight_decay;
        } else {
            g += weight_decay * w;
        }
        let m = moment1[i];
        let first = m + (g - m) * params.one_less_beta1;
        let second = moment2[i] * params.beta2 + g * g * params.one_less_beta2;
        let denominator = sqrt(second) / s.root_correction2 + params.eps;
        moment1[i] = first;
        moment2[i] = second;
        param[i] = w - s.step_size * (first / denominator);
    } else {
        g += weight_decay * w;
        if (RULE == SGD) {
            param[i] = w - s.lr * g;
        } else {
            let buffer = params.momentum * moment1[i] + s.share * g;
            moment1[i] = buffer;
            if (RULE == NESTEROV) {
                param[i] = w - s.lr * (g + params.momentum * buffer);
            } else {
                param[i] = w - s.lr * buffer;
            }
        }
    }
}

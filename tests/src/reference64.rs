//! An independent interpreter of forward Programs in f64: plain loops over the definition of each operation, sharing no
//! arithmetic with any backend. Storage dtypes are ignored (every value is f64), so finite differences of it are
//! smooth. The integer random words of dropout come from `rng`, whose known answers are tested there.

use mantissa_core::op::Op;
use mantissa_core::op::attention::Attention;
use mantissa_core::op::conv::{Conv2d, Pool2d, PoolKind};
use mantissa_core::op::expr::Map;
use mantissa_core::op::loss::IGNORE_INDEX;
use mantissa_core::op::map::{BinaryFn, Node, UnaryFn};
use mantissa_core::op::matmul::{Epilogue, MatMul};
use mantissa_core::op::norm::{Norm, NormKind};
use mantissa_core::op::reduce::{Reduce, ReduceKind};
use mantissa_core::program::{Program, ValueId};
use mantissa_core::rng;
use mantissa_core::shape::Shape;

/// A tensor of the interpreter.
#[derive(Clone, Debug, Default)]
pub struct Tensor {
    /// Axis lengths.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor.
    pub fn new(shape: &[usize], data: Vec<f64>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Tensor { shape: shape.to_vec(), data }
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Tensor {
        Tensor { shape: self.shape.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    /// Index of the element that stands at `at` of an output of `shape` under broadcasting.
    fn broadcast(&self, shape: &[usize], at: usize) -> usize {
        let strides = Shape::from(self.shape.clone()).broadcast_strides(&Shape::from(shape));
        coordinates(at, shape).iter().zip(&strides).map(|(c, s)| c * s).sum()
    }
}

/// Runs every instruction of `program` and returns the tensors of `wanted`. Errs on an operation without a forward
/// definition here.
pub fn run(program: &Program, inputs: &[(ValueId, Tensor)], wanted: &[ValueId]) -> Result<Vec<Tensor>, String> {
    let mut values: Vec<Tensor> = vec![Tensor::default(); program.values.len()];
    for (id, tensor) in inputs {
        values[id.index()] = tensor.clone();
    }
    for instr in &program.instrs {
        let x: Vec<&Tensor> = instr.inputs.iter().map(|i| &values[i.index()]).collect();
        let out = forward(&instr.op, &x)?;
        for (&id, tensor) in instr.outputs.iter().zip(out) {
            assert_eq!(tensor.shape, program.ty(id).shape.to_vec(), "{}", instr.op.row().name);
            values[id.index()] = tensor;
        }
    }
    Ok(wanted.iter().map(|id| values[id.index()].clone()).collect())
}

/// The forward definition of one operation.
pub fn forward(op: &Op, x: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    Ok(match op {
        Op::Map(m) => map(m, x),
        Op::Reduce(r) => vec![reduce(r, x[0])],
        Op::MatMul(m) => vec![matmul(m, x)],
        Op::Attention(a) => attention(a, x),
        Op::Norm(n) => norm(n, x),
        Op::Softmax(s) => vec![softmax(s.log, x[0])],
        Op::CrossEntropy(c) => cross_entropy(c.label_smoothing.0, x),
        Op::Embedding => vec![embedding(x[0], x[1])],
        Op::Reshape(shape) => vec![Tensor { shape: shape.to_vec(), data: x[0].data.clone() }],
        Op::Permute(axes) => vec![permute(axes, x[0])],
        Op::Concat(axis) => vec![concat(*axis, x)],
        Op::Slice(s) => vec![slice(s.axis, s.start, s.end, x[0])],
        Op::Gather => vec![gather(x[0], x[1])],
        Op::Conv2d(c) => vec![conv2d(c, x[0], x[1])],
        Op::Pool2d(p) => vec![pool2d(p, x[0])],
        Op::TopK(k) => top_k(*k, x[0]),
        Op::AttentionBackward(_)
        | Op::NormBackward(_)
        | Op::SoftmaxBackward(_)
        | Op::CrossEntropyBackward(_)
        | Op::EmbeddingBackward(_)
        | Op::SliceBackward(_)
        | Op::GatherBackward(_)
        | Op::Conv2dDgrad(_)
        | Op::Conv2dWgrad(_)
        | Op::Pool2dBackward(_)
        | Op::Quantize(_)
        | Op::QuantizeMx(_)
        | Op::UnscaleCheck(_)
        | Op::GradNorm(_)
        | Op::ClipCoef(_)
        | Op::ClipValue(_)
        | Op::UpdateLossScale(_)
        | Op::UpdateFp8Scales(_)
        | Op::Optimizer(_)
        | Op::Zero
        | Op::Record(_)
        | Op::TensorStats(_) => return Err(format!("{} is no forward operation", op.row().name)),
    })
}

/// For operations that sum: the sum of magnitudes that bounds the error of each element, for products times the
/// contraction length; `None` for other operations.
pub fn sum_of_magnitudes(op: &Op, x: &[&Tensor]) -> Option<Tensor> {
    let magnitudes: Vec<Tensor> = x.iter().map(|t| t.map(f64::abs)).collect();
    let x: Vec<&Tensor> = magnitudes.iter().collect();
    if let Op::MatMul(m) = op {
        let shape = &x[0].shape;
        let k = shape[shape.len() - if m.trans_a { 2 } else { 1 }] as f64;
        return Some(matmul(m, &x).map(|v| v * (k + 1.0)));
    }
    if let Op::Conv2d(c) = op {
        let k = c.w_shape[..3].iter().product::<usize>() as f64;
        return Some(conv2d(c, x[0], x[1]).map(|v| v * (k + 1.0)));
    }
    let Op::Reduce(r) = op else { return None };
    (r.kind != ReduceKind::Max).then(|| reduce(r, x[0]))
}

fn coordinates(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut c = vec![0; shape.len()];
    for i in (0..shape.len()).rev() {
        c[i] = at % shape[i];
        at /= shape[i];
    }
    c
}

fn index(c: &[usize], shape: &[usize]) -> usize {
    c.iter().zip(shape).fold(0, |at, (c, n)| at * n + c)
}

fn map(m: &Map, x: &[&Tensor]) -> Vec<Tensor> {
    let n: usize = m.shape.iter().product();
    let mut out = vec![Vec::with_capacity(n); m.expr.outputs.len()];
    for at in 0..n {
        let words = |input: u16, stream: u32| {
            let state = &x[usize::from(input)].data;
            rng::bits(state[0] as u32, stream, state[1] as u32, at as u32)
        };
        let mut v: Vec<f64> = Vec::with_capacity(m.expr.nodes.len());
        for node in &m.expr.nodes {
            let of = |i: u16| v[usize::from(i)];
            v.push(match *node {
                Node::Input(i) => {
                    let t = x[usize::from(i)];
                    t.data[t.broadcast(&m.shape, at)]
                }
                Node::Const(bits) => f64::from(f32::from_bits(bits)),
                Node::Round(_, x) => of(x),
                Node::Unary(f, x) => unary(f, of(x)),
                Node::Binary(f, a, b) => binary(f, of(a), of(b)),
                Node::Select([c, a, b]) => {
                    if of(c) != 0.0 {
                        of(a)
                    } else {
                        of(b)
                    }
                }
                Node::Dropout { x, rng, stream, threshold, scale } => {
                    if words(rng, stream) >= threshold {
                        of(x) * f64::from(f32::from_bits(scale))
                    } else {
                        0.0
                    }
                }
                Node::Uniform { rng, stream } => f64::from(words(rng, stream) >> 8) / 16_777_216.0,
            });
        }
        for (o, &id) in out.iter_mut().zip(&m.expr.outputs) {
            o.push(v[usize::from(id)]);
        }
    }
    out.into_iter().map(|data| Tensor::new(&m.shape, data)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The error function by its series without alternating terms: `2/sqrt(pi) e^-x^2 sum (2 x^2)^n x / (1 3 5 ..)`.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

const GELU: f64 = 0.797_884_560_802_865_4; // sqrt(2 / pi)
const CUBE: f64 = 0.044_715;

fn unary(f: UnaryFn, x: f64) -> f64 {
    use UnaryFn as U;
    let normal = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    match f {
        U::Neg => -x,
        U::Abs => x.abs(),
        U::Recip => 1.0 / x,
        U::Square => x * x,
        U::Sqrt => x.sqrt(),
        U::Rsqrt => 1.0 / x.sqrt(),
        U::Exp => x.exp(),
        U::Log => x.ln(),
        U::Tanh => x.tanh(),
        U::Erf => erf(x),
        U::Sigmoid => sigmoid(x),
        U::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        U::Sin => x.sin(),
        U::Cos => x.cos(),
        U::Floor => x.floor(),
        U::Sign => {
            if x == 0.0 || x.is_nan() {
                0.0
            } else {
                x.signum()
            }
        }
        U::Relu => x.max(0.0),
        U::ReluGrad => f64::from(x > 0.0),
        U::GeluTanh => 0.5 * x * (1.0 + (GELU * (x + CUBE * x * x * x)).tanh()),
        U::GeluTanhGrad => {
            let t = (GELU * (x + CUBE * x * x * x)).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU * (1.0 + 3.0 * CUBE * x * x)
        }
        U::GeluErf => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        U::GeluErfGrad => 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * normal(x),
        U::Silu => x * sigmoid(x),
        U::SiluGrad => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
        U::IsFinite => f64::from(x.is_finite()),
    }
}

fn binary(f: BinaryFn, a: f64, b: f64) -> f64 {
    use BinaryFn as B;
    match f {
        B::Add => a + b,
        B::Sub => a - b,
        B::Mul => a * b,
        B::Div => a / b,
        B::Max => a.max(b),
        B::Min => a.min(b),
        B::Pow => a.powf(b),
        B::Lt => f64::from(a < b),
        B::Le => f64::from(a <= b),
        B::Eq => f64::from(a == b),
    }
}

fn reduce(r: &Reduce, x: &Tensor) -> Tensor {
    let kept: Vec<usize> = (0..x.shape.len()).map(|i| if r.axes.contains(&i) { 1 } else { x.shape[i] }).collect();
    let start = if r.kind == ReduceKind::Max { f64::NEG_INFINITY } else { 0.0 };
    let mut data = vec![start; kept.iter().product()];
    for (at, &v) in x.data.iter().enumerate() {
        let mut c = coordinates(at, &x.shape);
        r.axes.iter().for_each(|&a| c[a] = 0);
        let sum = &mut data[index(&c, &kept)];
        match r.kind {
            ReduceKind::Sum | ReduceKind::Mean => *sum += v,
            ReduceKind::SumSq => *sum += v * v,
            ReduceKind::Max => *sum = sum.max(v),
        }
    }
    if r.kind == ReduceKind::Mean {
        let count: usize = r.axes.iter().map(|&a| x.shape[a]).product();
        data.iter_mut().for_each(|v| *v /= count as f64);
    }
    let shape: Vec<usize> = (0..kept.len()).filter(|i| r.keep || !r.axes.contains(i)).map(|i| kept[i]).collect();
    Tensor::new(&shape, data)
}

fn matmul(m: &MatMul, x: &[&Tensor]) -> Tensor {
    assert_eq!(m.epilogue, Epilogue::None, "epilogues come from a pass");
    let (a, b) = (x[0], x[1]);
    let (ra, rb) = (a.shape.len(), b.shape.len());
    let lead = &a.shape[..ra - 2];
    let batch: usize = lead.iter().product();
    let size = |t: &Tensor, trans: bool| {
        let r = t.shape.len();
        if trans { [t.shape[r - 1], t.shape[r - 2]] } else { [t.shape[r - 2], t.shape[r - 1]] }
    };
    let ([rows, k], [_, cols]) = (size(a, m.trans_a), size(b, m.trans_b));
    let mut data = Vec::with_capacity(batch * rows * cols);
    for p in 0..batch {
        let (a_at, b_at) = (p * rows * k, if rb == 2 { 0 } else { p * k * cols });
        for i in 0..rows {
            for j in 0..cols {
                let product = |l: usize| {
                    let x = if m.trans_a { l * rows + i } else { i * k + l };
                    let y = if m.trans_b { j * k + l } else { l * cols + j };
                    a.data[a_at + x] * b.data[b_at + y]
                };
                let bias = m.bias_input().map_or(0.0, |at| x[at].data[j]);
                data.push((0..k).map(product).sum::<f64>() + bias);
            }
        }
    }
    Tensor::new(&[lead, &[rows, cols]].concat(), data)
}

fn attention(a: &Attention, x: &[&Tensor]) -> Vec<Tensor> {
    let qkv = x[0];
    let [batch, t, width] = [qkv.shape[0], qkv.shape[1], qkv.shape[2]];
    let hs = width / (a.heads + 2 * a.kv_heads);
    let at = |b: usize, i: usize, head: usize, d: usize| qkv.data[(b * t + i) * width + head * hs + d];
    let mut y = vec![0.0; batch * t * a.heads * hs];
    let mut stats = vec![0.0; batch * a.heads * t * 2];
    for b in 0..batch {
        for h in 0..a.heads {
            let kv = h / (a.heads / a.kv_heads);
            for i in 0..t {
                let seen = if a.causal { i + 1 } else { t };
                let score = |j: usize| a.scale.0 * (0..hs).map(|d| at(b, i, h, d) * at(b, j, a.heads + kv, d)).sum::<f64>();
                let scores: Vec<f64> = (0..seen).map(score).collect();
                let [largest, inverse] = largest_and_inverse_sum(&scores);
                stats[((b * a.heads + h) * t + i) * 2..][..2].copy_from_slice(&[largest, inverse]);
                for j in 0..seen {
                    let mut p = (scores[j] - largest).exp() * inverse;
                    if let Some(drop) = a.dropout {
                        let linear = ((b * a.heads + h) * t + i) * t + j;
                        let word = rng::bits(x[1].data[0] as u32, drop.stream, x[1].data[1] as u32, linear as u32);
                        let keep = f64::from(word) >= (drop.p.0 * 4_294_967_296.0).round();
                        p *= if keep { 1.0 / (1.0 - drop.p.0) } else { 0.0 };
                    }
                    for d in 0..hs {
                        y[((b * t + i) * a.heads + h) * hs + d] += p * at(b, j, a.heads + a.kv_heads + kv, d);
                    }
                }
            }
        }
    }
    vec![Tensor::new(&[batch, t, a.heads * hs], y), Tensor::new(&[batch, a.heads, t, 2], stats)]
}

fn norm(n: &Norm, x: &[&Tensor]) -> Vec<Tensor> {
    let width = x[0].shape[x[0].shape.len() - 1];
    let (mut y, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
    for row in x[0].data.chunks(width) {
        let mean = match n.kind {
            NormKind::Layer => row.iter().sum::<f64>() / width as f64,
            NormKind::Rms => 0.0,
        };
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        let rstd = 1.0 / (var + n.eps.0).sqrt();
        for (c, v) in row.iter().enumerate() {
            let weight = if n.affine { x[1].data[c] } else { 1.0 };
            let bias = if n.bias { x[2].data[c] } else { 0.0 };
            y.push((v - mean) * rstd * weight + bias);
        }
        means.push(mean);
        rstds.push(rstd);
    }
    let rows = means.len();
    let mut out = vec![Tensor::new(&x[0].shape, y)];
    if n.kind == NormKind::Layer {
        out.push(Tensor::new(&[rows], means));
    }
    out.push(Tensor::new(&[rows], rstds));
    out
}

/// Of the exponentials of a row: their largest exponent, and the inverse of their sum over it.
fn largest_and_inverse_sum(row: &[f64]) -> [f64; 2] {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [top, 1.0 / row.iter().map(|v| (v - top).exp()).sum::<f64>()]
}

fn log_sum_exp(row: &[f64]) -> f64 {
    let [top, inverse] = largest_and_inverse_sum(row);
    top - inverse.ln()
}

fn softmax(log: bool, x: &Tensor) -> Tensor {
    let width = x.shape[x.shape.len() - 1];
    let rows = x.data.chunks(width).flat_map(|row| {
        let lse = log_sum_exp(row);
        row.iter().map(move |v| if log { v - lse } else { (v - lse).exp() })
    });
    Tensor::new(&x.shape, rows.collect())
}

fn cross_entropy(smoothing: f64, x: &[&Tensor]) -> Vec<Tensor> {
    let classes = x[0].shape[1];
    let lse: Vec<f64> = x[0].data.chunks(classes).map(log_sum_exp).collect();
    let (mut sum, mut count) = (0.0, 0.0);
    for (i, row) in x[0].data.chunks(classes).enumerate() {
        let target = x[1].data[i] as u32;
        if target == IGNORE_INDEX {
            continue;
        }
        let uniform = row.iter().map(|v| lse[i] - v).sum::<f64>() / classes as f64;
        sum += (1.0 - smoothing) * (lse[i] - row[target as usize]) + smoothing * uniform;
        count += 1.0;
    }
    let stats = x[0].data.chunks(classes).flat_map(largest_and_inverse_sum).collect();
    vec![Tensor::new(&[], vec![sum / count]), Tensor::new(&[lse.len(), 2], stats), Tensor::new(&[], vec![count])]
}

fn embedding(table: &Tensor, ids: &Tensor) -> Tensor {
    let width = table.shape[1];
    let data = ids.data.iter().flat_map(|&id| table.data[id as usize * width..][..width].to_vec()).collect();
    Tensor::new(&[&ids.shape[..], &[width]].concat(), data)
}

fn permute(axes: &[usize], x: &Tensor) -> Tensor {
    let shape: Vec<usize> = axes.iter().map(|&a| x.shape[a]).collect();
    let data = (0..x.data.len()).map(|at| {
        let c = coordinates(at, &shape);
        let mut from = vec![0; c.len()];
        axes.iter().zip(&c).for_each(|(&a, &c)| from[a] = c);
        x.data[index(&from, &x.shape)]
    });
    Tensor::new(&shape, data.collect())
}

fn concat(axis: usize, x: &[&Tensor]) -> Tensor {
    let mut shape = x[0].shape.clone();
    shape[axis] = x.iter().map(|t| t.shape[axis]).sum();
    let data = (0..shape.iter().product::<usize>()).map(|at| {
        let mut c = coordinates(at, &shape);
        let mut part = 0;
        while c[axis] >= x[part].shape[axis] {
            c[axis] -= x[part].shape[axis];
            part += 1;
        }
        x[part].data[index(&c, &x[part].shape)]
    });
    Tensor::new(&shape, data.collect())
}

fn slice(axis: usize, start: usize, end: usize, x: &Tensor) -> Tensor {
    let mut shape = x.shape.clone();
    shape[axis] = end - start;
    let data = (0..shape.iter().product::<usize>()).map(|at| {
        let mut c = coordinates(at, &shape);
        c[axis] += start;
        x.data[index(&c, &x.shape)]
    });
    Tensor::new(&shape, data.collect())
}

fn gather(x: &Tensor, ids: &Tensor) -> Tensor {
    let (from, to) = (x.shape[x.shape.len() - 1], ids.shape[ids.shape.len() - 1]);
    let data = ids.data.iter().enumerate().map(|(at, &id)| x.data[at / to * from + id as usize]);
    Tensor::new(&ids.shape, data.collect())
}

fn top_k(k: usize, x: &Tensor) -> Vec<Tensor> {
    let width = x.shape[x.shape.len() - 1];
    let mut shape = x.shape.clone();
    shape[x.shape.len() - 1] = k;
    let (mut values, mut ids) = (Vec::new(), Vec::new());
    for row in x.data.chunks(width) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        values.extend(order[..k].iter().map(|&i| row[i]));
        ids.extend(order[..k].iter().map(|&i| i as f64));
    }
    vec![Tensor::new(&shape, values), Tensor::new(&shape, ids)]
}

/// Input position that tap `tap` of window `at` reads, if it lies inside.
fn tap(at: usize, tap: usize, stride: usize, padding: usize, dilation: usize, len: usize) -> Option<usize> {
    (at * stride + tap * dilation).checked_sub(padding).filter(|&p| p < len)
}

fn conv2d(c: &Conv2d, x: &Tensor, w: &Tensor) -> Tensor {
    let reach = |i: usize| (x.shape[1 + i] + 2 * c.padding[i] - c.dilation[i] * (w.shape[i] - 1) - 1) / c.stride[i] + 1;
    let [kh, kw, cin, cout] = [w.shape[0], w.shape[1], w.shape[2], w.shape[3]];
    let shape = [x.shape[0], reach(0), reach(1), cout];
    let data = (0..shape.iter().product::<usize>()).map(|at| {
        let p = coordinates(at, &shape);
        let mut sum = 0.0;
        for i in 0..kh {
            for j in 0..kw {
                let row = tap(p[1], i, c.stride[0], c.padding[0], c.dilation[0], x.shape[1]);
                let col = tap(p[2], j, c.stride[1], c.padding[1], c.dilation[1], x.shape[2]);
                if let (Some(row), Some(col)) = (row, col) {
                    let weight = |l: usize| w.data[index(&[i, j, l, p[3]], &w.shape)];
                    sum += (0..cin).map(|l| x.data[index(&[p[0], row, col, l], &x.shape)] * weight(l)).sum::<f64>();
                }
            }
        }
        sum
    });
    Tensor::new(&shape, data.collect())
}

fn pool2d(p: &Pool2d, x: &Tensor) -> Tensor {
    let reach = |i: usize| (x.shape[1 + i] + 2 * p.padding[i] - p.window[i]) / p.stride[i] + 1;
    let shape = [x.shape[0], reach(0), reach(1), x.shape[3]];
    let data = (0..shape.iter().product::<usize>()).map(|at| {
        let c = coordinates(at, &shape);
        let mut seen = Vec::new();
        for i in 0..p.window[0] {
            for j in 0..p.window[1] {
                let row = tap(c[1], i, p.stride[0], p.padding[0], 1, x.shape[1]);
                let col = tap(c[2], j, p.stride[1], p.padding[1], 1, x.shape[2]);
                if let (Some(row), Some(col)) = (row, col) {
                    seen.push(x.data[index(&[c[0], row, col, c[3]], &x.shape)]);
                }
            }
        }
        match p.kind {
            PoolKind::Max => seen.into_iter().fold(f64::NEG_INFINITY, f64::max),
            PoolKind::Average => seen.iter().sum::<f64>() / (p.window[0] * p.window[1]) as f64,
        }
    });
    Tensor::new(&shape, data.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_published_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, want) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (-1.0, -0.842_700_792_9)]
        {
            assert!((erf(x) - want).abs() <= 1e-10, "{x}");
        }
    }

    #[test]
    fn definitions_agree_with_hand_computed_values() {
        let x = Tensor::new(&[1, 2], vec![0.0, 3.0f64.ln()]);
        let p = softmax(false, &x);
        assert!((p.data[0] - 0.25).abs() <= 1e-15 && (p.data[1] - 0.75).abs() <= 1e-15);
        let y = permute(&[1, 0], &Tensor::new(&[2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(y.data, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}

//! Every operation with a gradient rule: forward against the f64 reference, gradient against central differences of it.

mod cases;

use cases::{Case, In, all};
use mantissa_core::DType;
use mantissa_core::backend::Backend;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::op::map::{BinaryFn, UnaryFn};
use mantissa_core::op::{Gradient, Op};
use mantissa_core::program::{Program, Rate, ValueId};
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use mantissa_tests::data::normal;
use mantissa_tests::machine::Machine;
use mantissa_tests::reference64::{self, Tensor};
use mantissa_tests::tolerance::{DIFFERENCE_ERROR, GRADIENT_FACTOR, compare, relative, ulps};
use std::collections::BTreeSet;

/// Seed and step that dropout cases draw from.
const RNG: [u32; 2] = [77, 5];

fn declare<'g>(g: &'g Graph, inputs: &[In]) -> Vec<Var<'g>> {
    let input = |(i, input): (usize, &In)| g.input(&format!("x{i}"), input.ty(), Rate::MicroStep);
    inputs.iter().enumerate().map(input).collect()
}

/// The forward alone, with its result named `y`.
fn forward_program(case: &Case) -> (Program, ValueId) {
    let g = Graph::new(case.name.clone(), true);
    let y = (case.build)(&g, &declare(&g, &case.inputs));
    let id = y.id();
    g.output("y", y);
    (g.finish_raw().unwrap_or_else(|e| panic!("{}: {e}", case.name)), id)
}

/// Forward and gradients, with outputs `y`, `d0`, ...; which inputs have a gradient.
fn gradient_program(case: &Case) -> (Program, Vec<bool>) {
    let g = Graph::new(case.name.clone(), true);
    let x = declare(&g, &case.inputs);
    let wrt: Vec<Var<'_>> = x.iter().copied().filter(|v| v.dtype() == DType::F32).collect();
    wrt.iter().for_each(|v| g.requires_grad(*v));
    let y = (case.build)(&g, &x);
    let dy = g.input("dy", y.ty(), Rate::MicroStep);
    let grads = g.grad_from(&[(y, dy)], &wrt);
    g.output("y", y);
    for (i, d) in grads.iter().enumerate() {
        if let Some(d) = d {
            // A copy: two inputs may share one gradient, and a gradient may be dy itself.
            g.output(&format!("d{i}"), d.copy());
        }
    }
    let has = grads.iter().map(Option::is_some).collect();
    (g.finish().unwrap_or_else(|e| panic!("{}: {e}", case.name)), has)
}

fn reference(program: &Program, y: ValueId, inputs: &[Tensor]) -> Tensor {
    let mut named: Vec<(ValueId, Tensor)> =
        inputs.iter().enumerate().filter_map(|(i, t)| Some((program.find(&format!("x{i}"))?, t.clone()))).collect();
    if let Some(id) = program.find("rng") {
        named.push((id, Tensor::new(&[2], RNG.map(f64::from).to_vec())));
    }
    reference64::run(program, &named, &[y]).expect("a forward Program").remove(0)
}

/// Bound of the forward: by the sum of magnitudes where the case is one sum or product, else ulps of the largest
/// magnitude of anything on the way.
fn forward_bound(program: &Program, inputs: &[Tensor], want: &Tensor) -> Vec<f64> {
    if let [only] = &program.instrs[..] {
        let x: Vec<&Tensor> = inputs.iter().collect();
        if let Some(sum) = reference64::sum_of_magnitudes(&only.op, &x) {
            let u = DType::F32.unit_roundoff();
            return sum.data.iter().map(|s| s * u * ulps(&only.op)).collect();
        }
    }
    let ops: f64 = program.instrs.iter().map(|i| ulps(&i.op)).sum();
    vec![relative(&want.data, ops)]
}

fn check(case: &Case, backend: &dyn Backend) {
    let name = &case.name;
    let inputs: Vec<Tensor> = case.inputs.iter().map(In::tensor).collect();
    let (forward, y) = forward_program(case);
    let want = reference(&forward, y, &inputs);
    let dy: Vec<f32> = normal(want.data.len(), 1.0, 99);
    let bytes: Vec<Vec<u8>> = case.inputs.iter().map(In::bytes).collect();
    let names: Vec<String> = (0..bytes.len()).map(|i| format!("x{i}")).collect();
    let mut fed: Vec<(&str, &[u8])> = names.iter().zip(&bytes).map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    fed.push(("rng", bytemuck::cast_slice(&RNG)));
    fed.push(("dy", bytemuck::cast_slice(&dy)));

    let (program, has) = gradient_program(case);
    let mut machine = Machine::new(backend, program).unwrap_or_else(|e| panic!("{name}: {e}"));
    machine.step(&fed).unwrap_or_else(|e| panic!("{name}: {e}"));
    let got = machine.f32s("y").expect("an output");
    compare(&format!("{name}: y"), &got, &want.data, &forward_bound(&forward, &inputs, &want))
        .unwrap_or_else(|e| panic!("{e}"));

    let floats: Vec<usize> = (0..inputs.len()).filter(|&i| case.inputs[i].ty().dtype == DType::F32).collect();
    for (at, &i) in floats.iter().enumerate() {
        let loss =
            |x: &[Tensor]| -> f64 { reference(&forward, y, x).data.iter().zip(&dy).map(|(y, d)| y * f64::from(*d)).sum() };
        let differences: Vec<f64> = (0..inputs[i].data.len())
            .map(|j| {
                let h = 1e-5 * inputs[i].data[j].abs().max(1.0);
                let mut moved = inputs.clone();
                moved[i].data[j] += h;
                let up = loss(&moved);
                moved[i].data[j] -= 2.0 * h;
                (up - loss(&moved)) / (2.0 * h)
            })
            .collect();
        let got = if has[at] { machine.f32s(&format!("d{at}")).expect("an output") } else { vec![0.0; differences.len()] };
        let scale = differences.iter().fold(0.0f64, |m, d| m.max(d.abs()));
        let ops: f64 = forward.instrs.iter().map(|i| ulps(&i.op).max(4.0)).sum();
        let bound = relative(&differences, GRADIENT_FACTOR * ops) + DIFFERENCE_ERROR * scale.max(1.0);
        compare(&format!("{name}: gradient of input {i}"), &got, &differences, &[bound]).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn gradients_are_central_differences() {
    let backend = CpuBackend::new();
    let failed: Vec<String> = all()
        .iter()
        .filter_map(|case| {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case, &backend)));
            outcome.err().map(|e| e.downcast_ref::<String>().cloned().unwrap_or_else(|| case.name.clone()))
        })
        .collect();
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Whether an operation must have a case above. Exhaustive: a new variant has to answer.
fn needs_case(op: &Op) -> bool {
    match op {
        Op::Map(_)
        | Op::Reduce(_)
        | Op::MatMul(_)
        | Op::Attention(_)
        | Op::Norm(_)
        | Op::Softmax(_)
        | Op::CrossEntropy(_)
        | Op::Embedding
        | Op::Reshape(_)
        | Op::Permute(_)
        | Op::Concat(_)
        | Op::Slice(_)
        | Op::Gather
        | Op::Conv2d(_)
        | Op::Pool2d(_) => true,
        Op::AttentionBackward(_)
        | Op::NormBackward(_)
        | Op::SoftmaxBackward(_)
        | Op::CrossEntropyBackward(_)
        | Op::EmbeddingBackward(_)
        | Op::SliceBackward(_)
        | Op::GatherBackward(_)
        | Op::TopK(_)
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
        | Op::TensorStats(_) => false,
    }
}

/// Names of the operations with a rule, as many as `needs_case` says.
const WITH_RULE: [&str; 15] = [
    "map",
    "reduce",
    "matmul",
    "attention",
    "norm",
    "softmax",
    "cross_entropy",
    "embedding",
    "reshape",
    "permute",
    "concat",
    "slice",
    "gather",
    "conv2d",
    "pool2d",
];

#[test]
fn every_operation_with_a_rule_has_a_case() {
    let mut seen = BTreeSet::new();
    for case in all() {
        for instr in forward_program(&case).0.instrs {
            let row = instr.op.row();
            assert_eq!(needs_case(&instr.op), row.gradient == Gradient::Rule, "{}", row.name);
            if needs_case(&instr.op) {
                seen.insert(row.name);
            }
        }
    }
    let want: BTreeSet<&str> = WITH_RULE.into_iter().collect();
    assert_eq!(seen, want);
    let names: BTreeSet<String> = all().into_iter().map(|c| c.name).collect();
    for f in UnaryFn::ALL {
        assert!(names.contains(&format!("unary {}", f.name())), "no case for {}", f.name());
    }
    for f in BinaryFn::ALL {
        assert!(names.contains(&format!("binary {}", f.name())), "no case for {}", f.name());
    }
}

#[test]
fn derivatives_of_activations_are_refused_a_gradient_not_given_a_wrong_one() {
    for f in [UnaryFn::GeluTanhGrad, UnaryFn::GeluErfGrad, UnaryFn::SiluGrad] {
        let g = Graph::new("second derivative", true);
        let x = g.input("x", Ty::new(DType::F32, [3]), Rate::MicroStep);
        g.requires_grad(x);
        let loss = x.unary(f).sum_all();
        let grads = g.grad(loss, &[x]);
        assert!(grads[0].is_none());
        let error = g.finish().expect_err("no rule for it").to_string();
        assert!(error.contains(f.name()) && error.contains("gradient"), "{error}");
    }
}

//! Passes, memory plan and validation: random Programs compute the same bits with and without each pass, live values
//! never share memory, malformed Programs are refused by name, and no recipe or scaler setting makes a weight
//! non-finite.

mod generate;
mod malformed;
mod plan;

use generate::{Choice, build, choices};
use mantissa_core::DType;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::model::ModelConfig;
use mantissa_core::op::Op;
use mantissa_core::op::expr::{Ex, Map};
use mantissa_core::op::map::UnaryFn;
use mantissa_core::op::quantize::{AmaxAlgo, MxRule, NonFiniteAmax};
use mantissa_core::optim::OptimConfig;
use mantissa_core::precision::clip::Clip;
use mantissa_core::precision::scaler::ScalerConfig;
use mantissa_core::precision::settings::{Fp8Format, Fp8Scaling};
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::program::display::op_text;
use mantissa_core::program::{Init, Kind, Program, Rate, Role, passes};
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use mantissa_core::train::{Session, TrainConfig, record};
use mantissa_tests::data::{normal, spread};
use mantissa_tests::machine::Machine;
use mantissa_tests::tiny;
use proptest::prelude::*;
use std::sync::Arc;

/// A named rewrite of a Program.
type Pass = (&'static str, fn(&mut Program));

const PASSES: [Pass; 5] = [
    ("cse", passes::cse::run),
    ("dce", passes::dce::run),
    ("fuse", passes::fuse::run),
    ("epilogue", passes::epilogue::run),
    ("all", passes::optimize),
];

/// Everything that two steps of a Program leave behind. All NaNs count as one.
fn outcome(program: &Program) -> Vec<(String, Vec<u8>)> {
    let mut m = Machine::new(&CpuBackend::new(), program.clone()).unwrap_or_else(|e| panic!("{e}\n{program}"));
    let n = program.grad_accum;
    let (a, b) = (spread(n * 32, -2.0, 2.0, 1), spread(n * 32, -1.0, 3.0, 2));
    let mut all = Vec::new();
    for step in 0..2u32 {
        let rng: Vec<u32> = (0..n as u32).flat_map(|m| [9, step * 4 + m]).collect();
        let fed: [(&str, &[u8]); 4] = [
            ("a", bytemuck::cast_slice(&a)),
            ("b", bytemuck::cast_slice(&b)),
            ("rng", bytemuck::cast_slice(&rng)),
            ("optim.lr", bytemuck::bytes_of(&0.05f32)),
        ];
        m.step(&fed).unwrap_or_else(|e| panic!("{e}\n{program}"));
        let outputs: Vec<String> = program.values_where(|v| v.kind == Kind::Output).map(|(_, v)| v.name.clone()).collect();
        all.extend(outputs.into_iter().map(|name| (name.clone(), m.bytes(&name).expect("an output"))));
    }
    all.extend(m.snapshot().expect("reads"));
    for (name, bytes) in &mut all {
        let dtype = program.ty(program.find(name).expect("known")).dtype;
        if dtype == mantissa_core::DType::F32 {
            for word in bytes.chunks_exact_mut(4) {
                if f32::from_ne_bytes([word[0], word[1], word[2], word[3]]).is_nan() {
                    word.copy_from_slice(&f32::NAN.to_ne_bytes());
                }
            }
        }
    }
    all
}

fn check_passes(choices: &[Choice], grad_accum: usize) -> Result<(), TestCaseError> {
    let raw = build(choices, grad_accum);
    let want = outcome(&raw);
    for (name, pass) in PASSES {
        let mut program = raw.clone();
        pass(&mut program);
        program.validate().unwrap_or_else(|e| panic!("{name}: {e}\n{program}"));
        let got = outcome(&program);
        for ((label, a), (_, b)) in want.iter().zip(&got) {
            prop_assert!(a == b, "{} changes `{}`\nbefore\n{}\nafter\n{}", name, label, raw, program);
        }
        prop_assert_eq!(got.len(), want.len());
        let text = program.to_string();
        pass(&mut program);
        prop_assert_eq!(program.to_string(), text, "{} is not idempotent", name);
        plan::check(&program);
    }
    plan::check(&raw);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_pass_changes_a_bit(choices in choices(), grad_accum in 1usize..3) {
        check_passes(&choices, grad_accum)?;
    }
}

#[test]
fn training_steps_of_every_recipe_survive_the_passes() {
    for name in RecipeName::ALL {
        for grad_accum in [1, 2] {
            let config = TrainConfig { grad_accum, ..tiny::gpt(Recipe::new(name), 10) };
            let raw = record::train_graph(&config).expect("records").finish_raw().expect("valid");
            plan::check(&raw);
            let mut optimized = raw.clone();
            passes::optimize(&mut optimized);
            let casts = !matches!(name, RecipeName::F32 | RecipeName::Tf32);
            assert!(!casts || optimized.instrs.len() < raw.instrs.len(), "{name}: there are casts to merge");
            for (pass_name, pass) in PASSES {
                let mut program = raw.clone();
                pass(&mut program);
                program.validate().unwrap_or_else(|e| panic!("{name}, {pass_name}: {e}"));
                plan::check(&program);
                let text = program.to_string();
                pass(&mut program);
                assert_eq!(program.to_string(), text, "{name}: {pass_name} is not idempotent");
            }
        }
    }
}

/// WebGPU grants a kernel eight storage buffers.
#[test]
fn fused_maps_bind_no_more_than_eight_operands() {
    let g = Graph::new("sum", false);
    let xs: Vec<Var<'_>> = (0..12).map(|i| g.input(&format!("x{i}"), Ty::new(DType::F32, [4]), Rate::Step)).collect();
    let total = xs[1..].iter().fold(xs[0], |sum, &x| sum + x);
    g.output("total", total);
    let program = g.finish().expect("valid");
    let operands: Vec<usize> = program.instrs.iter().map(|i| i.inputs.len() + i.outputs.len()).collect();
    assert_eq!(operands, [8, 7], "{program}");
}

#[test]
fn the_passes_leave_the_bits_of_a_training_step() {
    for name in RecipeName::ALL {
        let config = tiny::mlp(Recipe::new(name));
        let raw = record::train_graph(&config).expect("records").finish_raw().expect("valid");
        let mut optimized = raw.clone();
        passes::optimize(&mut optimized);
        let (x, targets) = (normal(32 * 32, 1.0, 4), (0..32u32).collect::<Vec<_>>());
        let run = |program: Program| {
            let mut m = Machine::new(&CpuBackend::new(), program).expect("compiles");
            for _ in 0..3 {
                let fed: [(&str, &[u8]); 3] = [
                    ("x", bytemuck::cast_slice(&x)),
                    ("targets", bytemuck::cast_slice(&targets)),
                    ("optim.lr", bytemuck::bytes_of(&0.01f32)),
                ];
                m.step(&fed).expect("runs");
            }
            m.snapshot().expect("reads")
        };
        assert_eq!(run(raw), run(optimized), "{name}");
    }
}

fn scaling(pick: u8) -> (RecipeName, Fp8Scaling) {
    let delayed = |len, algo, margin, warm_up| {
        let nonfinite_amax = if margin == 0 { NonFiniteAmax::Record } else { NonFiniteAmax::Ignore };
        Fp8Scaling::Delayed { amax_history_len: len, amax_algo: algo, margin, nonfinite_amax, warm_up }
    };
    match pick % 6 {
        0 => (RecipeName::Fp8Delayed, delayed(1, AmaxAlgo::MostRecent, 0, false)),
        1 => (RecipeName::Fp8Delayed, delayed(16, AmaxAlgo::Max, 2, true)),
        2 => (RecipeName::Fp8Delayed, delayed(4, AmaxAlgo::Max, -3, false)),
        3 => (RecipeName::Fp8Current, Fp8Scaling::Current { amax_epsilon: 0.0, power_of_two: true }),
        4 => (RecipeName::Mxfp8, Fp8Scaling::Mx { scale_rule: MxRule::Floor }),
        _ => (RecipeName::Mxfp8, Fp8Scaling::Mx { scale_rule: MxRule::Ceil }),
    }
}

fn any_recipe() -> impl Strategy<Value = Recipe> {
    let scaler = (0i32..120, 1u32..6, 1.01f64..64.0, 0.01f64..0.99, 1u32..4, proptest::bool::ANY).prop_map(
        |(exponent, growth_interval, growth_factor, backoff_factor, hysteresis, floor)| ScalerConfig {
            init_scale: 2.0f64.powi(exponent),
            growth_factor,
            backoff_factor,
            growth_interval,
            min_scale: if floor { 1.0 / 16384.0 } else { 0.0 },
            hysteresis,
        },
    );
    (0usize..7, scaler, proptest::bool::ANY, 0u8..6, proptest::bool::ANY).prop_map(|(name, scaler, scale, pick, hybrid)| {
        let name = RecipeName::ALL[name];
        let mut recipe = Recipe::new(name);
        if recipe.fp8.is_some() {
            let (name, scaling) = scaling(pick);
            let format = if hybrid { Fp8Format::Hybrid } else { Fp8Format::E4m3 };
            recipe = Recipe::new(name).fp8_scaling(scaling).fp8_format(format);
        }
        // f16 always has one; the fp8 recipes may.
        if recipe.scaler.is_some() || scale && recipe.fp8.is_some() { recipe.scaler(scaler) } else { recipe }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_setting_makes_a_weight_non_finite(
        recipe in any_recipe(),
        size in prop_oneof![Just(1.0f32), Just(300.0), Just(1e5)],
        clip in prop_oneof![Just(None), Just(Some(Clip::Norm(1.0))), Just(Some(Clip::Value(0.1)))],
        adam in proptest::bool::ANY,
        grad_accum in 1usize..3,
    ) {
        let optim = if adam { OptimConfig::adam() } else { OptimConfig::adamw() };
        let config = TrainConfig { optim, clip, grad_accum, ..tiny::mlp(recipe.clone()) };
        let mut s = Session::new(Arc::new(CpuBackend::new()), config).expect("a valid run");
        let ModelConfig::Mlp(_) = &s.config().model else { panic!("an mlp") };
        for step in 0..20u32 {
            let x = normal(grad_accum * 32 * 32, size, step);
            let targets: Vec<u32> = (0..grad_accum as u32 * 32).map(|i| (i * 5 + step) % 32).collect();
            s.step(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) }).expect("runs");
        }
        for weight in ["mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"] {
            let values = s.read_f32(weight).expect("a weight");
            prop_assert!(values.iter().all(|v| v.is_finite()), "{} under {:?}", weight, recipe);
        }
    }
}

/// Texts of the matmuls of a step.
fn products(program: &Program) -> Vec<String> {
    let products = program.instrs.iter().filter(|i| matches!(i.op, Op::MatMul(_)));
    products.map(|i| op_text(&i.op)).collect()
}

#[test]
fn products_do_relu_residuals_and_accumulation_themselves() {
    for name in RecipeName::ALL {
        let step = |config: &TrainConfig| record::train_step(config).expect("records");
        let count = |program: &Program, what: &str| products(program).iter().filter(|p| p.contains(what)).count();
        let maps = |program: &Program, what: &str| {
            program.instrs.iter().filter(|i| matches!(&i.op, Op::Map(m) if m.expr.to_string() == what)).count()
        };
        let mlp = step(&tiny::mlp(Recipe::new(name)));
        assert!(count(&mlp, " relu)") > 0 && maps(&mlp, "relu(i0)") == 0, "{name}\n{mlp}");
        let apart = record::observable_step(&tiny::mlp(Recipe::new(name))).expect("records");
        assert!(count(&apart, " relu)") == 0 && maps(&apart, "relu(i0)") > 0, "{name}\n{apart}");

        let gpt = tiny::gpt(Recipe::new(name), 10);
        let ModelConfig::Gpt(model) = &gpt.model else { unreachable!("a gpt") };
        // Two residual connections a layer. The gradient of GELU needs what GELU was given.
        assert!(count(&step(&gpt), " + i") >= 2 * model.layers, "{name}\n{}", step(&gpt));
        assert_eq!(count(&step(&gpt), " gelu_tanh)"), 0);
        let eval = record::eval_step(&gpt).expect("records");
        assert_eq!(count(&eval, " gelu_tanh)"), model.layers, "{name}\n{eval}");

        let accumulating = step(&TrainConfig { grad_accum: 2, ..gpt.clone() });
        let in_place = accumulating.instrs.iter().filter(|i| {
            let last = i.inputs.last().map(|id| (accumulating.value(*id).kind, *id));
            matches!(last, Some((Kind::State(Role::Accumulator, _), id)) if i.outputs == [id]) && matches!(i.op, Op::MatMul(_))
        });
        assert_eq!(
            in_place.count(),
            4 * model.layers,
            "{name}: every weight of a linear layer but the shared one\n{accumulating}"
        );
    }
}

/// Each with what forbids it.
#[test]
fn a_product_that_others_need_keeps_its_result() {
    let ty = || Ty::new(DType::F32, [4, 4]);
    let joined = |record: &dyn for<'g> Fn(&'g Graph, Var<'g>, Var<'g>)| {
        let g = Graph::new("refused", false);
        let (a, w) = (g.input("a", ty(), Rate::Step), g.param("w", [4, 4], Init::Fill(0.5)));
        record(&g, a, a.matmul(w));
        let program = g.finish().expect("valid");
        products(&program).iter().any(|p| p != "matmul(nn)")
    };
    assert!(joined(&|g, _, y| g.output("y", y.unary(UnaryFn::Silu))));
    assert!(joined(&|g, a, y| g.output("y", y + a)));
    assert!(!joined(&|g, _, y| {
        g.output("y", y.unary(UnaryFn::Silu));
        g.output("softmax", y.softmax());
    }));
    assert!(!joined(&|g, a, y| {
        g.output("y", y + a);
        g.output("softmax", y.softmax());
    }));
    assert!(!joined(&|g, _, y| g.output("y", y + y.softmax())));
    assert!(!joined(&|g, a, y| g.output("y", y + a.mean(&[0], true))), "a row is no whole addend");
    assert!(!joined(&|g, _, y| g.output("y", y.unary(UnaryFn::Tanh))), "no activation of a matmul");
    // The derivative of ReLU can be had from its result, if no positive result is rounded to zero there; the product
    // itself cannot.
    let relu_and = |dtype: DType, times_product: bool| {
        joined(&|g, _, y| {
            g.output("y", y.unary(UnaryFn::Relu).cast(dtype));
            let slope = y.unary(UnaryFn::ReluGrad);
            g.output("slope", if times_product { slope * y } else { slope });
        })
    };
    assert!(relu_and(DType::F32, false));
    assert!(!relu_and(DType::F16, false));
    assert!(!relu_and(DType::F32, true));
    // What is added changes between the matmul and the sum.
    assert!(!joined(&|g, a, y| {
        let state = g.state("state", ty(), Role::Telemetry, Init::Fill(1.0));
        let add = Map::new(Ex::input(0) + Ex::input(1), &[state.ty(), a.ty()], DType::F32).expect("fits");
        g.push_into(add.op(), &[state.id(), a.id()], &[Some(state.id())]);
        g.output("y", y + state);
    }));
    // Somebody reads the state after the matmul and before the sum.
    assert!(!joined(&|g, _, y| {
        let state = g.state("state", ty(), Role::Telemetry, Init::Fill(1.0));
        g.output("before", state.softmax());
        let add = Map::new(Ex::input(0) + Ex::input(1), &[state.ty(), y.ty()], DType::F32).expect("fits");
        g.push_into(add.op(), &[state.id(), y.id()], &[Some(state.id())]);
    }));
}

//! Running a Program: the same bits every time and on any number of threads; inputs are checked; the comparison of the
//! harness sees red.

use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::program::Rate;
use mantissa_core::rng::Rng;
use mantissa_core::shape::Ty;
use mantissa_core::trace::Graph;
use mantissa_core::train::{Session, TrainConfig};
use mantissa_core::{DType, backend};
use mantissa_tests::data::{normal, text, windows};
use mantissa_tests::machine::Machine;
use mantissa_tests::tiny;
use mantissa_tests::tolerance::compare;
use std::sync::Arc;

/// Every persistent byte and every report after three steps, the loss of an evaluation included.
fn train(config: &TrainConfig, context: usize) -> (Vec<Vec<u8>>, Vec<String>) {
    let data = text(8000);
    let mut s = Session::new(Arc::new(CpuBackend::new()), config.clone()).expect("a valid run");
    let mut rng = Rng::new(8, 0);
    let mut reports = Vec::new();
    let rows = config.batch * config.grad_accum;
    for _ in 0..3 {
        let (x, targets) = windows(&data, rows, context, &mut rng);
        let report = s.step(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) });
        reports.push(format!("{:?}", report.expect("runs")));
    }
    let (x, targets) = windows(&data, config.batch, context, &mut rng);
    let loss = s.eval(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) }).expect("evaluates");
    reports.push(loss.to_bits().to_string());
    let read = |name: &str| backend::wait(s.memory().read(name).expect("a value")).expect("bytes");
    (s.memory().layout().entries.iter().map(|e| read(&e.name)).collect(), reports)
}

/// With dropout and accumulation, so that every kind of state takes part.
fn config(name: RecipeName) -> TrainConfig {
    let base = tiny::gpt(Recipe::new(name), 10);
    let ModelConfig::Gpt(model) = base.model.clone() else { panic!("a GPT") };
    TrainConfig { model: ModelConfig::Gpt(GptConfig { dropout: 0.1, ..model }), grad_accum: 2, ..base }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    for name in RecipeName::ALL {
        let config = config(name);
        let first = train(&config, 32);
        assert_eq!(train(&config, 32), first, "{name}");
        let other = train(&TrainConfig { seed: config.seed + 1, ..config }, 32);
        assert_ne!(other.1, first.1, "{name}: another seed is another run");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let on = |threads: usize, config: &TrainConfig, context: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| train(config, context))
    };
    for name in RecipeName::ALL {
        let config = config(name);
        let one = on(1, &config, 32);
        for threads in [2, 3] {
            assert!(on(threads, &config, 32) == one, "{name} on {threads} threads");
        }
    }
    // Sizes at which every kernel splits its work.
    let model = GptConfig { layers: 1, ..GptConfig::tiny() };
    for name in [RecipeName::F32, RecipeName::Bf16, RecipeName::Fp8Delayed, RecipeName::Mxfp8] {
        let config = TrainConfig { model: ModelConfig::Gpt(model.clone()), batch: 8, ..tiny::gpt(Recipe::new(name), 10) };
        assert!(on(2, &config, 128) == on(1, &config, 128), "{name}, larger");
    }
}

#[test]
fn inputs_of_the_wrong_size_are_refused_by_name() {
    let mut s = Session::new(Arc::new(CpuBackend::new()), tiny::gpt(Recipe::new(RecipeName::F32), 10)).expect("a valid run");
    let tokens = vec![0u32; 8 * 32];
    let good: &[u8] = bytemuck::cast_slice(&tokens);
    let error = s.step(Batch { x: &good[4..], targets: good }).expect_err("one token short").to_string();
    assert_eq!(error, "input `x`: expected 1024 bytes, got 1020 bytes");
    let error = s.step(Batch { x: good, targets: &[] }).expect_err("no targets").to_string();
    assert_eq!(error, "input `targets`: expected 1024 bytes, got 0 bytes");
    assert!(
        s.memory().write("gpt.wte.weight", &[0; 3]).expect_err("3 bytes").to_string().contains("expected 65536 bytes, got 3")
    );
    assert!(s.read_f32("nothing").expect_err("no such value").to_string().contains("`nothing`"));
}

#[test]
fn casts_between_dtypes_of_one_width_are_exact() {
    // The result may take over the memory of its operand only where the kernel can read it there.
    let g = Graph::new("casts", true);
    let x = g.input("x", Ty::new(DType::F32, [64]), Rate::MicroStep);
    let through = |a: DType, b: DType| x.cast(a).tanh().cast(b).cast(DType::F32);
    g.output("f16 bf16", through(DType::F16, DType::Bf16));
    g.output("e4m3 e5m2", through(DType::E4m3, DType::E5m2));
    g.output("ids", x.reshape([8, 8]).top_k(3).1.cast(DType::F32));
    let p = g.finish_raw().expect("valid");
    let mut m = Machine::new(&CpuBackend::new(), p).expect("compiles");
    let x = normal(64, 1.0, 1);
    m.step(&[("x", bytemuck::cast_slice(&x))]).expect("runs");
    let round = |d: DType, v: &mut Vec<f32>| mantissa_core::float::slices::round(d, v);
    for (name, a, b) in [("f16 bf16", DType::F16, DType::Bf16), ("e4m3 e5m2", DType::E4m3, DType::E5m2)] {
        let mut want = x.clone();
        round(a, &mut want);
        let exact: Vec<f64> = want.iter().map(|&v| f64::from(v).tanh()).collect();
        // One rounding to each format: at most half a step of both, relative.
        let bound: Vec<f64> =
            exact.iter().map(|v| v.abs() * (a.unit_roundoff() + b.unit_roundoff()) * 1.2 + 1e-2 * b.unit_roundoff()).collect();
        compare(name, &m.f32s(name).expect("an output"), &exact, &bound).expect("close");
    }
    let ids = m.f32s("ids").expect("an output");
    for (row, ids) in x.chunks(8).zip(ids.chunks(3)) {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(row[ids[0] as usize], top);
    }
}

#[test]
fn the_comparison_sees_one_perturbed_element() {
    let g = Graph::new("product", true);
    let (a, b) =
        (g.input("a", Ty::new(DType::F32, [8, 16]), Rate::Step), g.input("b", Ty::new(DType::F32, [16, 8]), Rate::Step));
    g.output("y", a.matmul(b));
    let mut m = Machine::new(&CpuBackend::new(), g.finish().expect("valid")).expect("compiles");
    let (a, b) = (normal(128, 1.0, 1), normal(128, 1.0, 2));
    m.step(&[("a", bytemuck::cast_slice(&a)), ("b", bytemuck::cast_slice(&b))]).expect("runs");
    let mut y = m.f32s("y").expect("an output");
    let product = |at: usize, f: fn(f64) -> f64| -> f64 {
        (0..16).map(|k| f(f64::from(a[at / 8 * 16 + k]) * f64::from(b[k * 8 + at % 8]))).sum()
    };
    let want: Vec<f64> = (0..64).map(|at| product(at, |v| v)).collect();
    let bound: Vec<f64> = (0..64).map(|at| 4.0 * 17.0 * DType::F32.unit_roundoff() * product(at, f64::abs)).collect();
    compare("y", &y, &want, &bound).expect("within the bound");
    let kept = y[37];
    for wrong in [kept * 1.001, kept + 1e-3, f32::NAN, f32::INFINITY, -kept] {
        y[37] = wrong;
        let error = compare("y", &y, &want, &bound).expect_err("one element is off");
        assert!(error.starts_with("y[37]: expected"), "{error}");
    }
    y[37] = kept;
    assert!(compare("y", &y[1..], &want, &bound).is_err(), "a length that differs");
    assert!(compare("y", &[f32::NAN], &[f64::NAN], &[1.0]).is_err(), "NaN never passes");
    assert!(compare("y", &[f32::INFINITY], &[f64::INFINITY], &[1.0]).is_ok());
    assert!(compare("y", &[f32::INFINITY], &[f64::NEG_INFINITY], &[1.0]).is_err());
    assert!(compare("y", &[1e30], &[f64::INFINITY], &[1.0]).is_err());
}

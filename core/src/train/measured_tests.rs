//! Measured steps: the bits of plain steps, no memory beyond the block, and rows that say what an observer sees at the
//! same places.

use super::measured::{TENSOR_STATS, Tensor, measured, select, step};
use super::record::{observable_step, train_step};
use super::session::init_memory;
use super::{Session, TrainConfig};
use crate::backend::Backend;
use crate::cpu::CpuBackend;
use crate::data::Batch;
use crate::diagnose::stats::Stats;
use crate::diagnose::testing::{tiny, tokens};
use crate::op::Op;
use crate::op::matmul::Epilogue;
use crate::op::tensor_stats::{WORDS, Word};
use crate::precision::clip::Clip;
use crate::precision::fp8;
use crate::precision::recipe::RecipeName;
use crate::precision::settings::Fp8Scaling;
use crate::program::Instr;
use crate::program::memory::{Layout, MemoryPlan, Purpose};
use crate::program::observe::{Moment, Observer};
use std::collections::HashMap;
use std::sync::Arc;

fn measuring(config: &TrainConfig, globs: &[&str]) -> Session {
    let globs: Vec<String> = globs.iter().map(|g| (*g).to_string()).collect();
    Session::measuring(Arc::new(CpuBackend::new()), config.clone(), &globs).unwrap()
}

fn configs() -> impl Iterator<Item = TrainConfig> {
    let clips = [Some(Clip::Norm(1.0)), Some(Clip::Value(0.01)), None];
    RecipeName::ALL.into_iter().enumerate().flat_map(move |(i, name)| {
        [1, 2].map(|grad_accum| TrainConfig { grad_accum, clip: clips[(i + grad_accum) % 3], ..tiny(name) })
    })
}

#[test]
fn measured_steps_have_the_bits_of_plain_ones() {
    for config in configs() {
        let (x, y) = tokens(&config);
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&y) };
        let (mut plain, mut other) = (measuring(&config, &["**"]), measuring(&config, &["**"]));
        for step in 0..6 {
            let want = plain.step(batch).unwrap();
            let got = if step % 2 == 1 { other.step_measured(batch).map(|l| l.report) } else { other.step(batch) }.unwrap();
            assert_eq!(want, got, "{}", config.recipe.name);
        }
        for entry in plain.saved() {
            let [a, b] = [&plain, &other].map(|s| s.read(&entry.name).unwrap());
            assert!(a == b, "{}: {} differs", config.recipe.name, entry.name);
        }
    }
}

#[test]
fn the_variant_takes_the_memory_of_the_plain_step_and_its_block() {
    for config in configs() {
        let (plain, tensors) = step(&config, &["**".to_string()]).unwrap();
        let program = measured(&plain, &tensors).unwrap();
        let layout = Arc::new(Layout::new(&program));
        let [a, b] = [&plain, &program].map(|p| MemoryPlan::new(p, &layout).unwrap());
        assert_eq!(a.bytes_by_purpose(), b.bytes_by_purpose(), "{}", config.recipe.name);
        let sizes = |plan: &MemoryPlan| {
            let mut sizes: Vec<usize> = plan.buffers.iter().map(|b| b.size).collect();
            sizes.sort_unstable();
            sizes
        };
        assert_eq!(sizes(&a), sizes(&b), "{}", config.recipe.name);
        let telemetry = |p: &_| {
            let buffers = Layout::new(p).buffers;
            buffers.iter().filter(|b| b.purpose == Purpose::Telemetry).map(|b| b.size).sum::<usize>()
        };
        assert!(telemetry(&program) - telemetry(&plain) <= tensors.len() * WORDS * 4 + 256);
        // The other instructions are the same, in the same order.
        let rest = program.instrs.iter().filter(|i| !matches!(i.op, Op::TensorStats(_)));
        assert!(rest.map(|i| (&i.op, &i.inputs)).eq(plain.instrs.iter().map(|i| (&i.op, &i.inputs))));
    }
}

#[test]
fn names_are_those_of_layers_parameters_and_scopes() {
    let names = |name, globs: &[&str]| -> Vec<String> {
        let globs: Vec<String> = globs.iter().map(|g| (*g).to_string()).collect();
        let program = train_step(&tiny(name)).unwrap();
        select(&program, &globs).unwrap().into_iter().map(|t| t.name).collect()
    };
    for name in RecipeName::ALL {
        let up = ["x", "weight", "y", "dy", "weight.grad", "bias", "bias.grad"].map(|r| format!("gpt.h0.mlp.up.{r}"));
        let mut found = names(name, &["gpt.h0.mlp.up"]);
        found.sort();
        let mut want = up.to_vec();
        want.sort();
        assert_eq!(found, want, "{name}");
        // Four layers a block, and the head; input, weight, gradient of the output, and of the weight.
        let default = names(name, &[]);
        assert_eq!(default.len(), 4 * (2 * 4 + 1), "{name}: {default:?}");
        assert!(default.contains(&"gpt.wte.weight.grad".to_string()) && default.contains(&"gpt.head.dy".to_string()));
        assert_eq!(names(name, &["gpt.h1.ln_1.y", "gpt.h0.attn.qkv.x"]), ["gpt.h0.attn.qkv.x", "gpt.h1.ln_1.y"]);
    }
    let program = train_step(&tiny(RecipeName::F32)).unwrap();
    let error = select(&program, &["gpt.h0.mlp.upp".into()]).unwrap_err().to_string();
    assert!(error.contains("gpt.h0.mlp.up") && error.contains("`gpt.h0.mlp.upp`"), "{error}");
}

/// Whatever follows the matmul of a layer in the step that runs: ReLU, a residual connection.
#[test]
fn the_output_of_a_layer_is_what_its_product_gives() {
    for config in configs() {
        let (program, tensors) = step(&config, &["gpt.*.*.*.y".to_string(), "gpt.h0.y".to_string()]).unwrap();
        assert!(tensors.len() > 8, "{}", tensors.len());
        let apart = |i: &Instr| !matches!(&i.op, Op::MatMul(m) if m.epilogue != Epilogue::None);
        assert!(program.instrs.iter().all(apart), "{program}");
        assert!(!train_step(&config).unwrap().instrs.iter().all(apart));
        // What is measured by default lies in memory in the step that runs, under the same names.
        let default = step(&config, &[]).unwrap().1;
        let names: Vec<&String> = default.iter().map(|t| &t.name).collect();
        let of_apart = select(&program, &[]).unwrap();
        assert_eq!(names, of_apart.iter().map(|t| &t.name).collect::<Vec<_>>());
    }
}

/// What an observer sees of the operand of each `TensorStats` instruction.
#[derive(Default)]
struct Seen(HashMap<usize, Stats>);

impl Observer for Seen {
    fn before(&mut self, now: &Moment<'_>) {
        if let Op::TensorStats(s) = &now.instr().op {
            self.0.insert(s.slot, Stats::of(now.view(now.instr().inputs[0]).unwrap()));
        }
    }
}

/// The second step of the measuring variant, observed.
fn observed(config: &TrainConfig, tensors: &[Tensor], batch: Batch<'_>) -> Seen {
    let program = Arc::new(measured(&observable_step(config).unwrap(), tensors).unwrap());
    let backend = CpuBackend::new();
    let memory = backend.alloc(Arc::new(Layout::new(&program))).unwrap();
    init_memory(&*memory, config.seed).unwrap();
    let mut step = backend.compile(program.clone(), &memory).unwrap();
    let lr = config.schedule.lr(1) as f32;
    let inputs = [("x", batch.x), ("targets", batch.targets), ("optim.lr", bytemuck::bytes_of(&lr))];
    let inputs = inputs.map(|(name, bytes)| (program.find(name).unwrap(), bytes));
    let mut seen = Seen::default();
    step.submit(&inputs).unwrap();
    step.submit_observed(&inputs, &mut seen).unwrap();
    seen
}

#[test]
fn rows_are_about_the_values_in_memory_and_the_formats_of_the_products() {
    for config in configs() {
        let mut session = measuring(&config, &["**"]);
        let tensors = select(session.program(), &["**".to_string()]).unwrap();
        let (x, y) = tokens(&config);
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&y) };
        session.step(batch).unwrap();
        let reports = session.step_measured(batch).unwrap().tensors.unwrap();
        let seen = observed(&config, &tensors, batch);
        assert!(reports.len() >= tensors.len() && seen.0.len() == tensors.len());
        let bytes = session.read(TENSOR_STATS).unwrap();
        let rows: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        for ((slot, t), row) in tensors.iter().enumerate().zip(rows.chunks_exact(WORDS)) {
            let (want, report) = (&seen.0[&slot], reports.iter().find(|r| r.name == t.name).unwrap());
            let what = format!("{} {}", config.recipe.name, t.name);
            assert_eq!(u64::from(row[Word::Len as usize]), want.len, "{what}");
            assert_eq!(row[Word::Amax as usize], want.amax.to_bits(), "{what}");
            let s = report.stats.as_ref().unwrap();
            assert!((s.l2 - want.l2()).abs() <= 1e-5 * want.l2(), "{what}: {} {}", s.l2, want.l2());
            if let (Some(fp8), true) = (t.fp8_slot, t.judged) {
                // The quantization itself counted the same.
                let own = session.fp8_stats().unwrap()[fp8];
                assert_eq!(f32::from_bits(row[Word::Scale as usize]), own.scale, "{what}");
                let share = row[Word::Underflow as usize] as f32 / row[Word::Len as usize] as f32;
                assert_eq!(share, own.underflow, "{what}");
                assert_eq!(report.scale, Some(own.scale));
            }
        }
        let find = |name: &str| tensors.iter().find(|t| t.name == name).unwrap();
        let grad_norm = tensors.iter().zip(&reports).filter(|(t, _)| t.name.ends_with(".grad"));
        let squares: f64 = grad_norm.map(|(_, r)| r.stats.as_ref().unwrap().l2.powi(2)).sum();
        let reported = f64::from(session.read_f32(crate::telemetry::TELEMETRY).unwrap()[1]);
        assert!((squares.sqrt() - reported).abs() <= 1e-4 * reported, "{} {reported}", squares.sqrt());
        let expect = match config.recipe.name {
            RecipeName::F32 => ["f32"; 3],
            RecipeName::Tf32 => ["tf32"; 3],
            RecipeName::Bf16 | RecipeName::Mxfp8 => ["bf16"; 3],
            RecipeName::F16 => ["f16"; 3],
            RecipeName::Fp8Delayed | RecipeName::Fp8Current => ["e4m3", "e4m3", "e5m2"],
        };
        let formats = ["x", "weight", "dy"].map(|r| find(&format!("gpt.h0.mlp.up.{r}")).format.name());
        if config.recipe.name == RecipeName::Mxfp8 {
            assert!(!find("gpt.h0.mlp.up.x").judged);
        } else {
            assert_eq!(formats, expect, "{}", config.recipe.name);
        }
    }
}

#[test]
fn rings_are_those_of_the_device_and_hold_the_amaxes_of_the_reports_before() {
    let mut config = tiny(RecipeName::Fp8Delayed);
    let scaling = config.recipe.fp8.as_mut().map(|f| &mut f.scaling);
    let Some(Fp8Scaling::Delayed { amax_history_len, .. }) = scaling else { panic!("delayed scaling") };
    *amax_history_len = 5;
    let (x, y) = tokens(&config);
    let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&y) };
    let mut session = measuring(&config, &[]);
    let slots = session.program().fp8_slots.clone();
    let mut told: HashMap<String, Vec<Option<f32>>> = HashMap::new();
    for step in 1..=8 {
        let reports = session.step_measured(batch).unwrap().tensors.unwrap();
        let history = session.read_f32(fp8::HISTORY).unwrap();
        for (slot, name) in slots.iter().map(|s| &s.name).enumerate() {
            let report = reports.iter().find(|r| r.name == *name).unwrap();
            let ring = report.ring.as_ref().unwrap();
            let amaxes = told.entry(name.clone()).or_default();
            amaxes.insert(0, report.amax);
            amaxes.truncate(4);
            let column: Vec<Option<f32>> = (1..5).rev().map(|row| Some(history[row * slots.len() + slot])).collect();
            assert_eq!((ring.room, ring.held, &ring.newest), (4, amaxes.len(), &*amaxes), "{name} after step {step}");
            assert_eq!(ring.newest, column[..ring.held], "{name} after step {step}");
            let largest = amaxes.iter().flatten().fold(0f32, |a, b| a.max(*b));
            assert_eq!((ring.largest, amaxes[ring.largest_age]), (Some(largest), Some(largest)), "{name}");
        }
    }
    let mut current = measuring(&tiny(RecipeName::Fp8Current), &[]);
    let reports = current.step_measured(batch).unwrap().tensors.unwrap();
    assert!(reports.iter().all(|r| r.ring.is_none()), "no history, no ring");
}

#[test]
fn what_is_taken_is_what_is_planned_and_what_comes_beside_it() {
    let config = tiny(RecipeName::Bf16);
    let (x, y) = tokens(&config);
    let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&y) };
    let mut session = measuring(&config, &[]);
    let sum = |s: &Session| s.taken_bytes().iter().map(|r| r.1).sum::<usize>();
    let step = session.plan().total_bytes() + session.scratch_bytes();
    assert_eq!(sum(&session), step);
    session.step(batch).unwrap();
    session.step_measured(batch).unwrap();
    assert_eq!(sum(&session), step, "a measured step shares the memory of a plain one");
    session.eval(batch).unwrap();
    let taken = session.taken_bytes();
    assert!(taken.iter().any(|(p, bytes)| *p == "evaluation" && *bytes > 0) && sum(&session) > step, "{taken:?}");
}

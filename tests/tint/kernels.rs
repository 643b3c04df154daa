//! Writes every kernel that a browser may compile as JSON, for `check.mjs` beside this file.
//!
//! Of each stem the default and every single change of a constant, as the tests of `shaders` validate them with naga;
//! elementwise expressions of every function, constant and pair of dtypes; and the kernels of whole steps: models in
//! every recipe, training, evaluation, scores and measured steps, with the matmul kernels that every device runs. Texts
//! of `broken/` are added, which naga must accept and Tint must not.

use mantissa_backend_wgpu::{MatmulKernel, kernels};
use mantissa_core::DType;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::op::expr::Ex;
use mantissa_core::op::map::{BinaryFn, Node, UnaryFn};
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::program::Program;
use mantissa_core::train::{TrainConfig, measured, record};
use mantissa_shaders::map::{Access, Input, generate};
use mantissa_shaders::{BindingKind, F16Decoding, Need, Prelude, STEMS, stem};
use mantissa_tests::tiny;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::{env, fs, io};

/// Texts that a browser refuses.
const BROKEN: [(&str, &str); 3] = [
    ("barrier", include_str!("broken/barrier.wgsl")),
    ("constant", include_str!("broken/constant.wgsl")),
    ("workgroup", include_str!("broken/workgroup.wgsl")),
];

/// A text and what is known of it.
struct Module {
    name: String,
    /// Values of its constants, as text.
    constants: String,
    needs: &'static [Need],
    /// Entry points with number and use of each binding.
    entries: BTreeMap<String, Vec<(u32, BindingKind)>>,
}

impl Module {
    fn json(&self, text: &str) -> Value {
        let kind = |kind: &BindingKind| match kind {
            BindingKind::Uniform => "uniform",
            BindingKind::Read => "read-only-storage",
            BindingKind::ReadWrite => "storage",
        };
        let bindings = |of: &[(u32, BindingKind)]| of.iter().map(|(number, k)| json!([number, kind(k)])).collect::<Vec<_>>();
        let entries: Vec<Value> = self.entries.iter().map(|(entry, of)| json!([entry, bindings(of)])).collect();
        let name = |need: &Need| match need {
            Need::Subgroups => "subgroups",
            Need::Int64 => unreachable!("{} is not WGSL of the standard", self.name),
        };
        let enable: Vec<&str> = self.needs.iter().map(name).collect();
        json!({ "name": self.name, "constants": self.constants, "enable": enable, "entries": entries, "text": text })
    }
}

/// Every stem with its defaults and with every constant moved away from its default in turn. Integers of 64 bits are
/// naga's alone.
fn add_stems(modules: &mut BTreeMap<String, Module>) {
    for stem in STEMS.iter().filter(|stem| !stem.needs.contains(&Need::Int64)) {
        let changes = stem.consts.iter().flat_map(|c| c.domain.iter().map(|&value| vec![(c.name, value)]));
        for change in [Vec::new()].into_iter().chain(changes) {
            let text = stem.stitch(&change).expect("a constant of the stem and a value of its domain");
            let entries = stem.entries.iter().map(|entry| {
                let bindings = entry.bindings.iter().map(|b| (b.index, b.kind)).collect();
                (entry.name.to_string(), bindings)
            });
            let module = Module {
                name: stem.name.into(),
                constants: constants(&text, stem.consts.len()),
                needs: stem.needs,
                entries: entries.collect(),
            };
            modules.entry(text).or_insert(module);
        }
    }
}

/// The constants that `text` opens with.
fn constants(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().take(n).map(|line| line.trim_start_matches("const ").trim_end_matches(';')).collect();
    lines.join(", ")
}

/// Elementwise expressions of one function, constant or rounding, and casts.
fn add_maps(modules: &mut BTreeMap<String, Module>) {
    const N: usize = 10;
    let binary = BinaryFn::ALL.into_iter().map(|f| Ex::input(0).binary(f, Ex::input(1)));
    let constants = [0.0, -0.0, 1e-40, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN].into_iter().map(Ex::constant);
    let computed = UnaryFn::ALL.into_iter().map(|f| Ex::input(0).unary(f)).chain(binary).chain(constants);
    let computed = computed.chain([Ex::input(0).select(Ex::input(1), Ex::input(2))]).map(|ex| (ex, DType::F32, DType::F32));
    let pairs = DType::ALL.into_iter().flat_map(|from| DType::ALL.map(|to| (from, to)));
    let converted = pairs.flat_map(|(from, to)| {
        let rounded = Ex::input(0).push(|x| Node::Round(to, x));
        [(Ex::input(0), from, to), (rounded, from, DType::F32)]
    });
    for (ex, from, to) in computed.chain(converted) {
        let expr = ex.finish();
        let input = Input { dtype: from, access: Access::Axes(vec![[N, 1]]), beside_output: false };
        let kernel = generate(&expr, &[input.clone(), input.clone(), input], &[to], N);
        let entries = [("map".to_string(), kernel.bindings)].into();
        let module = Module { name: format!("map {expr} of {from} as {to}"), constants: String::new(), needs: &[], entries };
        modules.entry(kernel.text).or_insert(module);
    }
}

/// Programs of all recipes.
fn programs() -> Vec<Program> {
    let mut out = Vec::new();
    for name in RecipeName::ALL {
        let gpt = |dropout| ModelConfig::Gpt(GptConfig { dropout, ..GptConfig::tiny() });
        let runs = [
            TrainConfig { model: gpt(0.0), ..tiny::gpt(Recipe::new(name), 10) },
            TrainConfig { model: gpt(0.1), grad_accum: 2, ..tiny::gpt(Recipe::new(name), 10) },
            tiny::mlp(Recipe::new(name)),
        ];
        for config in runs {
            let (step, tensors) = measured::step(&config, &["**".to_string()]).expect("every tensor");
            out.push(measured::measured(&step, &tensors).expect("a step that measures"));
            out.push(record::train_step(&config).expect("a valid run"));
            out.push(record::eval_step(&config).expect("a valid run"));
            out.push(record::logits(&config, 1).expect("a valid run"));
        }
    }
    out
}

/// What those programs launch.
fn add_launches(modules: &mut BTreeMap<String, Module>) {
    for program in programs() {
        for matmul in [MatmulKernel::Registers, MatmulKernel::WorkgroupMemory] {
            for kernel in kernels(&program, matmul).expect("a kernel for every instruction") {
                let consts = kernel.label.split_once('.').and_then(|(name, _)| stem(name)).map_or(0, |s| s.consts.len());
                let module = modules.entry(kernel.text).or_insert_with_key(|text| Module {
                    name: kernel.label,
                    constants: constants(text, consts),
                    needs: kernel.needs,
                    entries: BTreeMap::new(),
                });
                module.entries.insert(kernel.entry.into(), kernel.bindings);
            }
        }
    }
}

/// A broken text, if naga accepts it.
fn broken((name, text): (&str, &str)) -> Value {
    let parsed = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    let checked = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&parsed);
    checked.unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(text)));
    let entries = [("broken".to_string(), vec![(0, BindingKind::ReadWrite)])].into();
    Module { name: name.into(), constants: String::new(), needs: &[], entries }.json(text)
}

fn main() {
    let path = env::args().nth(1).expect("the file to write");
    let mut modules = BTreeMap::new();
    add_stems(&mut modules);
    add_maps(&mut modules);
    add_launches(&mut modules);
    let kernels: Vec<Value> = modules.iter().map(|(text, module)| module.json(text)).collect();
    let prelude = |f16| json!({ "name": format!("{f16:?}"), "text": Prelude { f16, ..Prelude::default() }.text() });
    let preludes = [F16Decoding::Integers, F16Decoding::Unpack].map(prelude);
    let all = json!({ "preludes": preludes, "kernels": kernels, "broken": BROKEN.map(broken) });
    let file = fs::File::create(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::to_writer(io::BufWriter::new(file), &all).expect("texts are JSON");
}

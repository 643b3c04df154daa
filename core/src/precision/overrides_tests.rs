//! Tests of patterns, their errors, and what they change in recorded steps.

use super::*;
use crate::dtype::DType;
use crate::model::ModelConfig;
use crate::model::gpt::GptConfig;
use crate::op::Op;
use crate::optim::OptimConfig;
use crate::optim::schedule::{Decay, Schedule};
use crate::precision::OnNonFinite;
use crate::precision::recipe::{Recipe, RecipeName};
use crate::program::{Instr, Program};
use crate::train::{TrainConfig, record};

fn config(name: RecipeName, overrides: &[&str]) -> TrainConfig {
    let overrides = overrides.iter().map(|o| o.parse().expect(o)).collect();
    TrainConfig {
        model: ModelConfig::Gpt(GptConfig { layers: 2, ..GptConfig::tiny() }),
        recipe: Recipe { overrides, ..Recipe::new(name) },
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-3, min_lr: 1e-4, warmup: 0, steps: 10, decay: Decay::Constant },
        clip: None,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch: 2,
        grad_accum: 1,
        seed: 1,
    }
}

fn products<'p>(program: &'p Program, scope: &str) -> Vec<&'p Instr> {
    program.instrs.iter().filter(|i| matches!(i.op, Op::MatMul(_)) && program.scope(i.scope) == scope).collect()
}

fn operand(program: &Program, instr: &Instr) -> DType {
    program.ty(instr.inputs[0]).dtype
}

#[test]
fn patterns_cover_segments_and_what_lies_inside() {
    let covers = |p: &str, s: &str| Pattern::new(p).expect(p).covers(s);
    assert!(covers("gpt.head", "gpt.head"));
    assert!(covers("gpt.h*.mlp.*", "gpt.h0.mlp.up"));
    assert!(covers("gpt.h*.mlp", "gpt.h11.mlp.down"));
    assert!(covers("gpt.h[0-3]", "gpt.h2.attn.qkv"));
    assert!(covers("gpt.{wte,wpe}", "gpt.wpe"));
    assert!(covers("**.ln_?", "gpt.h0.ln_1"));
    assert!(covers("**", "gpt"));
    assert!(!covers("gpt.*", "mlp.fc1"));
    assert!(!covers("gpt.h*.up", "gpt.h0.mlp.up"), "* stays inside one segment");
    assert!(!covers("gpt.h1", "gpt.h11"));
    assert!(!covers("**", ""), "the root is no scope of the model");
}

#[test]
fn bad_patterns_and_dtypes_say_what_is_wrong() {
    let text = |s: &str| s.parse::<Override>().expect_err(s).to_string();
    assert!(text("gpt.head").contains("SCOPE=DTYPE"));
    assert!(text("gpt.head=fp4").contains("f32, tf32, bf16, f16, fp8"));
    assert!(text("gpt.h[0=f32").contains("unclosed character class"), "{}", text("gpt.h[0=f32"));
    assert!(text("=f32").contains("empty"));
    assert!(text("(root)=f32").contains("f32 under every recipe"));
    assert!(text("gpt/head=f32").contains("'/'"));
    let fp8 = config(RecipeName::Bf16, &["gpt.head=fp8"]);
    assert!(fp8.validate().expect_err("no fp8").to_string().contains("the recipe has no fp8 scaling"));
    assert!(toml::from_str::<Recipe>("name = \"bf16\"\n[[override]]\nscope = \"gpt\"\ndtype = \"f31\"").is_err());
    assert!(toml::from_str::<Recipe>("name = \"bf16\"\n[[override]]\nscope = \"gpt\"\ndtype = \"f32\"\nx = 1").is_err());
}

#[test]
fn a_pattern_without_a_scope_names_close_ones() {
    let error = record::train_step(&config(RecipeName::Bf16, &["gpt.hed=f32"])).expect_err("no such scope").to_string();
    assert!(error.contains("gpt.head") && error.contains("`gpt.hed`"), "{error}");
    assert!(record::logits(&config(RecipeName::Bf16, &["gpt.hed=f32"]), 1).is_err());
    assert!(record::eval_step(&config(RecipeName::Bf16, &["gpt.head=f32"])).is_ok());
}

#[test]
fn overrides_survive_toml() {
    let recipe = config(RecipeName::Fp8Delayed, &["gpt.head=f32", "gpt.h*.mlp.*=bf16"]).recipe;
    let text = toml::to_string(&recipe).expect("serializes");
    assert!(text.contains("[[override]]"), "{text}");
    assert_eq!(toml::from_str::<Recipe>(&text).expect(&text), recipe);
}

#[test]
fn an_override_changes_its_scope_forward_and_backward_and_says_so() {
    let program = record::train_step(&config(RecipeName::Bf16, &["gpt.head=f32"])).expect("records");
    let head = products(&program, "gpt.head");
    assert_eq!(head.len(), 3, "fprop, dgrad, wgrad");
    assert!(head.iter().all(|i| operand(&program, i) == DType::F32));
    let why = head[0].why.as_deref().expect("decided by an override");
    assert!(why.starts_with("override gpt.head: f32"), "{why}");
    let up = products(&program, "gpt.h1.mlp.up");
    assert!(!up.is_empty() && up.iter().all(|i| operand(&program, i) == DType::Bf16));
    assert!(!up[0].why.as_deref().expect("autocast").contains("override"));
}

#[test]
fn the_last_match_wins() {
    let program = record::train_step(&config(RecipeName::Bf16, &["gpt.h*=f32", "gpt.h1.mlp=f16", "gpt.h1.mlp.up=tf32"]))
        .expect("records");
    let dtype = |scope: &str| operand(&program, products(&program, scope)[0]);
    assert_eq!(dtype("gpt.h0.mlp.up"), DType::F32);
    assert_eq!(dtype("gpt.h1.mlp.down"), DType::F16);
    let up = products(&program, "gpt.h1.mlp.up");
    assert!(
        up.iter().all(|i| matches!(&i.op, Op::MatMul(m) if m.compute == DType::Tf32) && operand(&program, i) == DType::F32)
    );
}

#[test]
fn fp8_can_be_turned_off_and_on() {
    let program = record::train_step(&config(RecipeName::Fp8Current, &["gpt.h0=bf16", "gpt.head=fp8"])).expect("records");
    assert!(products(&program, "gpt.h0.mlp.up").iter().all(|i| operand(&program, i) == DType::Bf16));
    assert!(products(&program, "gpt.h1.mlp.up").iter().all(|i| operand(&program, i).is_fp8()));
    let head = products(&program, "gpt.head");
    assert!(head.iter().all(|i| operand(&program, i).is_fp8()));
    assert!(head[0].why.as_deref().expect("override").contains("override gpt.head: fp8"));
}

#[test]
fn f32_everywhere_is_the_f32_recipe() {
    let shape = |program: &Program| {
        let types = |i: &Instr| (i.op.clone(), program.input_types(i), program.output_types(i));
        program.instrs.iter().map(types).collect::<Vec<_>>()
    };
    let plain = record::train_step(&config(RecipeName::F32, &[])).expect("records");
    for name in [RecipeName::Bf16, RecipeName::Tf32, RecipeName::Fp8Delayed] {
        let widened = record::train_step(&config(name, &["gpt=f32"])).expect("records");
        assert_eq!(shape(&widened), shape(&plain), "{name}");
    }
}

#[test]
fn every_override_records_under_every_recipe() {
    for name in RecipeName::ALL {
        for dtype in OverrideDtype::ALL {
            if dtype == OverrideDtype::Fp8 && Recipe::new(name).fp8.is_none() {
                continue;
            }
            for scope in ["gpt.h0.attn", "gpt.h*.mlp.down", "gpt.head", "gpt.h1.ln_1", "gpt"] {
                let over = format!("{scope}={}", dtype.name());
                record::train_step(&config(name, &[&over])).unwrap_or_else(|e| panic!("{name}, {over}: {e}"));
            }
        }
    }
}

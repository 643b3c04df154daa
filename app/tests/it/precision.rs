//! The commands that show and model precision: `explain`, `plan`, `recommend`, and `--override` in `train`.

use super::{good, json_lines, output, stderr, stdout, train};
use serde_json::Value;

/// The one JSON object that a command prints.
#[track_caller]
fn report(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut lines = json_lines(&stdout(&good(output(dir.path(), &[args, &["--json"]].concat()))));
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

/// What a command prints for people.
#[track_caller]
fn text(args: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let text = stdout(&good(output(dir.path(), args)));
    let long: Vec<&str> = text.lines().filter(|l| l.chars().count() > 120).collect();
    assert!(long.is_empty(), "wider than 120 columns: {long:#?}");
    text
}

/// Refused with exit code 2 and a message that has every part.
#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let o = output(dir.path(), args);
    assert_eq!(o.status.code(), Some(2), "{args:?}: {}", stdout(&o));
    for part in parts {
        assert!(stderr(&o).contains(part), "{args:?}: expected {part:?} in {}", stderr(&o));
    }
}

#[test]
fn explain_lists_every_instruction_with_its_reason() {
    for recipe in ["f32", "tf32", "bf16", "f16", "fp8-delayed", "fp8-current", "mxfp8"] {
        let r = report(&["explain", "--recipe", recipe]);
        let rows = r["instructions"].as_array().unwrap();
        assert_eq!(rows.len() as u64, r["totals"]["instructions"].as_u64().unwrap());
        assert!(rows.iter().all(|row| !row["why"].as_str().unwrap().is_empty()), "{recipe}");
        let flops: u64 = rows.iter().map(|row| row["flops"].as_u64().unwrap()).sum();
        assert_eq!(Some(flops), r["totals"]["flops"].as_u64(), "{recipe}");
        let shown = text(&["explain", "--recipe", recipe]);
        assert!(shown.contains("gpt.h3.mlp.down") && shown.contains("memory (planned)"), "{recipe}");
    }
    assert!(
        text(&["explain", "--model", "mlp", "--recipe", "fp8-current"]).contains("out_features 10 is not a multiple of 16")
    );
}

#[test]
fn overrides_show_in_explain_wherever_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = "[[precision.override]]\nscope = \"gpt.head\"\ndtype = \"f32\"\n";
    std::fs::write(dir.path().join("c.toml"), file).unwrap();
    let config = dir.path().join("c.toml");
    let scope = ["--scope", "gpt.head"];
    for given in [["--override", "gpt.head=f32"], ["--config", config.to_str().unwrap()]] {
        let r = report(&[&["explain", "--recipe", "bf16"], &given[..], &scope[..]].concat());
        let rows = r["instructions"].as_array().unwrap();
        let products: Vec<&Value> = rows.iter().filter(|row| row["name"] == "matmul").collect();
        assert!(products.len() == 3 && products.iter().all(|p| p["compute"] == "f32"));
        assert!(products[0]["why"].as_str().unwrap().contains("override gpt.head: f32"));
    }
    refused(&["explain", "--override", "gpt.hed=f32"], &["gpt.head", "`gpt.hed`"]);
    refused(&["explain", "--override", "gpt.head=f31"], &["--override", "f32, tf32, bf16, f16, fp8"]);
    refused(&["explain", "--override", "gpt.[=f32"], &["--override", "unclosed character class"]);
    refused(&["explain", "--recipe", "bf16", "--override", "gpt=fp8"], &["the recipe has no fp8 scaling"]);
    refused(&["explain", "--scope", "gtp"], &["scope", "gpt"]);
    std::fs::write(dir.path().join("bad.toml"), "[precision]\noverrides = 1\n").unwrap();
    let bad = dir.path().join("bad.toml");
    refused(&["train", "--config", bad.to_str().unwrap()], &["precision.overrides", "precision.override"]);
}

#[test]
fn train_takes_overrides_and_keeps_them_in_the_config() {
    let dir = tempfile::tempdir().unwrap();
    let flags = [
        "--recipe",
        "fp8-delayed",
        "--steps",
        "2",
        "--out",
        "r",
        "--override",
        "gpt.h0.mlp.*=f16",
        "--override",
        "gpt.head=f32",
    ];
    good(train(dir.path(), &flags));
    let config = std::fs::read_to_string(dir.path().join("r/config.toml")).unwrap();
    assert!(config.contains("scope = \"gpt.h0.mlp.*\"") && config.contains("dtype = \"f16\""), "{config}");
    good(output(dir.path(), &["sample", "--run", "r", "--tokens", "3"]));
    let o = train(dir.path(), &["--override", "gpt.h7=f32", "--steps", "1", "--out", "q"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("gpt.h0"), "{}", stderr(&o));
    assert!(!dir.path().join("q").exists(), "nothing is written for a refused run");
}

#[test]
fn plan_says_modelled_and_what_would_fit() {
    for gpu in ["h100", "h200", "a100", "4090", "l4", "v100", "b200"] {
        let r = report(&["plan", "--model", "gpt2-124m", "--recipe", "fp8-delayed", "--gpu", gpu]);
        assert_eq!(r["basis"], "modelled");
        assert_eq!((r["memory"]["fits"].as_bool(), r["fixes"].as_array().unwrap().len()), (Some(true), 0), "{gpu}");
        assert!(r["time"]["step_ms"].as_f64().unwrap() > 0.0);
        assert!(r["figures"].as_array().unwrap().iter().all(|f| f["source"].as_str().unwrap().contains("NVIDIA")));
    }
    let big = ["plan", "--model", "gpt2-124m", "--recipe", "f32", "--batch-size", "64", "--gpu", "4090"];
    let shown = text(&big);
    assert!(
        shown.contains("modelled, not measured") && shown.contains("DOES NOT FIT") && shown.contains("--grad-accum"),
        "{shown}"
    );
    let fixes = report(&big)["fixes"].clone();
    assert!(fixes.as_array().unwrap().iter().any(|f| f["fits"] == true), "{fixes}");
    assert!(text(&["plan", "--recipe", "fp8-current", "--gpu", "a100"]).contains("has no fp8 matmuls"));
    refused(&["plan", "--gpu", "h300"], &["--gpu", "b200", "h300"]);
    refused(&["plan"], &["--gpu"]);
}

#[test]
fn recommend_gives_a_recipe_with_reasons() {
    for (gpu, kind, recipe) in [
        ("a100", "transformer", "bf16"),
        ("v100", "transformer", "f16"),
        ("h100", "transformer", "fp8-delayed"),
        ("b200", "transformer", "mxfp8"),
        ("h100", "vision", "bf16"),
        ("v100", "gan", "f16"),
    ] {
        let args = ["recommend", "--gpu", gpu, "--model-type", kind];
        let r = report(&args);
        assert_eq!(r["recipe"], recipe, "{gpu} {kind}");
        assert!(r["why"].as_str().unwrap().contains("TFLOP/s"));
        assert!(text(&args).contains(&format!("--recipe {recipe}")));
    }
    refused(&["recommend", "--gpu", "h100", "--model-type", "cnn"], &["--model-type", "transformer, vision, gan"]);
}

/// The first block of text in the README is a part of what `explain` prints.
#[test]
fn the_readme_shows_lines_of_explain() {
    let readme = include_str!("../../../README.md");
    let block = readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the README has a block");
    let printed = text(&["explain", "--recipe", "f16"]);
    assert_eq!(block.lines().count(), 12);
    for line in block.lines() {
        assert!(printed.lines().any(|l| l == line), "not printed: {line}");
    }
}

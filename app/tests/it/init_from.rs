//! `--init-from`: a run that starts from other weights, of a run, a checkpoint, or a folder of `transformers`.

use super::{fixed_text, good, json_lines, output, stderr, stdout, step_lines, train};
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Trains a little; the folder of the newest checkpoint.
fn source(dir: &Path, steps: &str) -> std::path::PathBuf {
    fixed_text(dir);
    good(train(dir, &["--data", "text.txt", "--out", "first", "--steps", steps, "--recipe", "f32"]));
    dir.join(format!("first/checkpoints/step-{steps:0>8}"))
}

/// A folder as `transformers` saves one: the weights in two files with an index.
fn shard(checkpoint: &Path, to: &Path) {
    let bytes = fs::read(checkpoint.join("model.safetensors")).expect("weights");
    let whole = SafeTensors::deserialize(&bytes).expect("safetensors");
    fs::create_dir(to).expect("a new folder");
    fs::copy(checkpoint.join("config.json"), to.join("config.json")).expect("a config");
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", part + 1);
        let own: Vec<_> = whole.tensors().into_iter().enumerate().filter(|(i, _)| i % 2 == part).map(|(_, t)| t).collect();
        map.extend(own.iter().map(|(tensor, _)| (tensor.clone(), Value::from(name.clone()))));
        fs::write(to.join(name), safetensors::serialize(own, None).expect("serializes")).expect("a file");
    }
    let index = serde_json::json!({ "metadata": { "total_size": bytes.len() }, "weight_map": map });
    fs::write(to.join("model.safetensors.index.json"), index.to_string()).expect("a file");
}

/// The losses of a few steps.
fn losses(dir: &Path, args: &[&str]) -> Vec<f64> {
    let flags = [
        "train",
        "--data",
        "text.txt",
        "--recipe",
        "f32",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--json",
        "--sample-tokens",
        "0",
    ];
    let o = good(output(dir, &[&flags[..], &["--eval-batches", "1"], args].concat()));
    json_lines(&stdout(&o)).iter().filter_map(|v| v["loss"].as_f64()).collect()
}

#[test]
fn every_kind_of_source_gives_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = source(dir.path(), "30");
    shard(&checkpoint, &dir.path().join("sharded"));
    let from = |path: &str| losses(dir.path(), &["--init-from", path]);
    let first = from("first");
    assert_eq!(first.len(), 2);
    assert_eq!(from("first/checkpoints/step-00000030"), first);
    assert_eq!(from("sharded"), first);
    let fresh = losses(dir.path(), &["--seq-len", "32", "--set", "train.model.layers=1"]);
    assert!(first[0] < fresh[0] - 0.3, "{first:?} starts where the first run ended, {fresh:?} does not");
    // The run that was made names its source, and goes on without the source.
    fs::remove_dir_all(dir.path().join("sharded")).unwrap();
    let runs = super::listing(&dir.path().join("runs"));
    assert_eq!(runs, ["first-f32-1", "first-f32-2", "gpt-tiny-f32-1", "sharded-f32-1"]);
    let last = "runs/sharded-f32-1";
    assert!(fs::read_to_string(dir.path().join(last).join("config.toml")).unwrap().contains("init_from = \"sharded\""));
    good(output(dir.path(), &["train", "--resume", last, "--steps", "3", "--quiet"]));
}

#[test]
fn a_shorter_context_is_cut_and_other_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    source(dir.path(), "2");
    assert_eq!(losses(dir.path(), &["--init-from", "first", "--seq-len", "16"]).len(), 2);
    let refused = |args: &[&str], parts: &[&str]| {
        let o = output(dir.path(), &[&["train", "--data", "text.txt", "--init-from", "first", "--out", "new"], args].concat());
        assert_eq!(o.status.code(), Some(2), "{}", stdout(&o));
        assert!(parts.iter().all(|p| stderr(&o).contains(p)), "{args:?}: {}", stderr(&o));
        assert!(!dir.path().join("new").exists());
    };
    refused(&["--seq-len", "64"], &["transformer.wpe.weight", "expected shape [64, 128], found [32, 128]"]);
    refused(&["--vocab", "300"], &["transformer.wte.weight", "[300, 128]", "[256, 128]"]);
    refused(&["--model", "gpt-mini"], &["expected shape"]);
    let o = output(dir.path(), &["train", "--init-from", "nowhere"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("--init-from"), "{}", stderr(&o));
    let o = output(dir.path(), &["train", "--model", "pretrained"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("--init-from DIR"), "{}", stderr(&o));
}

#[test]
fn a_folder_of_transformers_brings_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = source(dir.path(), "2");
    shard(&checkpoint, &dir.path().join("hf"));
    let sample = ["sample", "--run", "hf", "--prompt", "a b", "--tokens", "3"];
    // As many tokens as bytes are bytes, to `sample` as to `train`. What another tokenizer left behind says that they
    // are not.
    let text = good(output(dir.path(), &sample)).stdout;
    assert!(text.starts_with(b"a b") && text.len() == 7, "{text:?}");
    fs::write(dir.path().join("hf/vocab.json"), "{}").unwrap();
    for args in [&sample[..], &["train", "--init-from", "hf", "--data", "text.txt"]] {
        let o = output(dir.path(), args);
        assert!(
            o.status.code() == Some(2) && stderr(&o).contains("expected tokenizer.json, found vocab.json"),
            "{}",
            stderr(&o)
        );
    }
    // A checkpoint has a tokenizer beside its weights, which gives the same text when it is moved elsewhere.
    fs::rename(&checkpoint, dir.path().join("moved")).unwrap();
    let moved =
        good(output(dir.path(), &["sample", "--run", "moved", "--prompt", "a b", "--tokens", "3", "--temperature", "0"]));
    assert!(moved.stdout.starts_with(b"a b"));
    assert!(
        dir.path().join("moved/tokenizer_config.json").is_file() && dir.path().join("moved/generation_config.json").is_file()
    );
    let words = (0..256).map(|i| (if i < 2 { ["a", "b"][i].to_string() } else { format!("w{i}") }, i.into()));
    let vocab: serde_json::Map<String, Value> = words.collect();
    let tokenizer = serde_json::json!({ "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "w255" } });
    fs::write(dir.path().join("hf/tokenizer.json"), tokenizer.to_string()).unwrap();
    let text = stdout(&good(output(dir.path(), &sample)));
    assert!(text.starts_with("a b"), "{text}");
    good(train(dir.path(), &["--data", "text.txt", "--init-from", "hf", "--steps", "1", "--out", "r"]));
    assert!(dir.path().join("r/tokenizer.json").is_file());
    let carried = fs::read_to_string(dir.path().join("r/checkpoints/step-00000001/tokenizer.json")).unwrap();
    assert_eq!(carried, tokenizer.to_string());
}

/// Rewrites the header of the weights in `folder`.
fn rename(folder: &Path, change: impl Fn(&str) -> String) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let whole = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensors: Vec<_> = whole.tensors().into_iter().map(|(name, t)| (change(&name), t)).collect();
    fs::write(path, safetensors::serialize(tensors, None).expect("serializes")).expect("a file");
}

#[test]
fn names_that_other_tools_write_are_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = source(dir.path(), "2");
    let folder = dir.path().join("hf");
    let fresh = || {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(checkpoint.join(name), folder.join(name)).unwrap();
        }
    };
    let plain = losses(dir.path(), &["--init-from", "first"]);
    fresh();
    rename(&folder, |name| name.replace("transformer.wte.weight", "lm_head.weight"));
    assert_eq!(losses(dir.path(), &["--init-from", "hf"]), plain);
    fresh();
    rename(&folder, |name| format!("_orig_mod.module.{name}"));
    assert_eq!(losses(dir.path(), &["--init-from", "hf"]), plain);
    good(output(dir.path(), &["sample", "--run", "hf", "--tokens", "1"]));
    fresh();
    // Buffers of older versions have no weights.
    rename(
        &folder,
        |name| if name == "transformer.ln_f.bias" { "transformer.h.0.attn.masked_bias".into() } else { name.into() },
    );
    let o = output(dir.path(), &["train", "--init-from", "hf", "--data", "text.txt"]);
    assert!(stderr(&o).contains("expected a tensor `transformer.ln_f.bias`"), "{}", stderr(&o));
    fresh();
    rename(&folder, |name| name.replace("transformer.", "\u{1b}]0;x\u{7}."));
    let o = output(dir.path(), &["train", "--init-from", "hf", "--data", "text.txt"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(
        stderr(&o).contains("found the prefix `\\u{1b}]0;x\\u{7}.` in") && !stderr(&o).contains('\u{1b}'),
        "{:?}",
        stderr(&o)
    );
    // Weights of another kind are named.
    fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    for path in ["hf", "hf/pytorch_model.bin"] {
        let o = output(dir.path(), &["train", "--init-from", path, "--data", "text.txt"]);
        assert!(o.status.code() == Some(2) && stderr(&o).contains("safe_serialization=True"), "{}", stderr(&o));
    }
}

#[test]
fn an_mlp_starts_from_a_run_too() {
    let dir = tempfile::tempdir().unwrap();
    let mlp = [
        "train",
        "--model",
        "mlp",
        "--set",
        "train.model.hidden=[16]",
        "--batch-size",
        "8",
        "--eval-batches",
        "1",
        "--recipe",
        "f32",
    ];
    good(output(dir.path(), &[&mlp[..], &["--steps", "60", "--out", "a", "--quiet"]].concat()));
    let on = ["train", "--init-from", "a", "--recipe", "f32", "--steps", "1", "--eval-batches", "1", "--json", "--out", "b"];
    let o = good(output(dir.path(), &on));
    let loss = step_lines(&stdout(&o))[0]["loss"].as_f64().unwrap();
    assert!(loss < 2.0, "{loss}: guessing among ten gives 2.3");
    good(output(dir.path(), &["train", "--resume", "b", "--steps", "2", "--quiet"]));
}

//! `doctor RUN`: what a run folder shows, healthy, crashed or damaged. Nothing in it may change.

use super::{fixed_text, good, json_lines, listing, output, stderr, stdout, train};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A run of some steps in `name`.
fn run(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    fixed_text(dir);
    good(train(dir, &[&["--data", "text.txt", "--out", name, "--checkpoint-every", "4", "--keep", "0"], args].concat()));
    dir.join(name)
}

#[track_caller]
fn doctor(dir: &Path, args: &[&str]) -> Value {
    let mut lines = json_lines(&stdout(&good(output(dir, &[&["doctor"], args, &["--json"]].concat()))));
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

fn problems(report: &Value, seen_in: &str) -> Vec<String> {
    let found = report["findings"].as_array().expect("findings of text").iter().filter(|f| f["seen_in"] == seen_in);
    found.map(|f| f["problem"].as_str().expect("findings of text").to_string()).collect()
}

/// Sets one element of a tensor in a checkpoint and mends the checksums, as a run that went wrong would have written
/// it.
fn poison(checkpoint: &Path, file: &str, tensor: &str, value: f32) {
    let path = checkpoint.join(file);
    let mut bytes = fs::read(&path).expect("a checkpoint as written");
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a checkpoint as written");
    let at = 8 + header + metadata.info(tensor).expect("a checkpoint as written").data_offsets.0;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, &bytes).expect("a checkpoint as written");
    let digest = |bytes: &[u8]| serde_json::json!({ "bytes": bytes.len(), "crc32": crc32fast::hash(bytes) });
    let mut state: Value = serde_json::from_slice(&fs::read(checkpoint.join("state.json")).expect("a checkpoint as written"))
        .expect("a checkpoint as written");
    state["files"][file] = digest(&bytes);
    let state = serde_json::to_vec(&state).expect("a checkpoint as written");
    fs::write(checkpoint.join("state.json"), &state).expect("a checkpoint as written");
    fs::write(checkpoint.join("DONE"), serde_json::to_vec(&digest(&state)).expect("a checkpoint as written"))
        .expect("a checkpoint as written");
}

#[test]
fn a_good_run_is_healthy_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for recipe in ["f16", "fp8-delayed"] {
        let run = run(dir.path(), recipe, &["--recipe", recipe, "--steps", "8"]);
        let before = (listing(&run), fs::read(run.join("events.jsonl")).unwrap(), listing(&run.join("checkpoints")));
        let v = doctor(dir.path(), &[recipe, "--steps", "5"]);
        assert_eq!((v["healthy"].as_bool(), v["steps"].as_u64()), (Some(true), Some(5)), "{v}");
        assert_eq!((v["checkpoint"].as_u64(), v["log"]["last_step"].as_u64()), (Some(8), Some(8)), "{v}");
        assert_eq!(before, (listing(&run), fs::read(run.join("events.jsonl")).unwrap(), listing(&run.join("checkpoints"))));
    }
    let text = stdout(&good(output(dir.path(), &["doctor", "f16", "--no-run"])));
    assert!(
        text.contains("log       8 steps, up to 8 of 8\nsaved     after step 8\nobserved  no steps: --no-run\nhealthy"),
        "{text}"
    );
}

#[test]
fn a_crashed_run_tells_what_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), "r", &["--recipe", "bf16", "--steps", "8"]);
    let log = fs::read_to_string(run.join("events.jsonl")).unwrap();
    fs::write(run.join("events.jsonl"), format!("\u{0}\u{1}\n{}", &log[..log.len() - 9])).unwrap();
    // The newest checkpoint lost its end.
    let weights = run.join("checkpoints/step-00000008/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let v = doctor(dir.path(), &["r", "--steps", "2"]);
    assert_eq!(
        (v["log"]["corrupt_lines"].as_u64(), v["checkpoint"].as_u64(), v["steps"].as_u64()),
        (Some(2), Some(4), Some(2))
    );
    assert!(problems(&v, "checkpoint")[0].contains("step 8 cannot be used"), "{v}");
    // Nothing but a config: a run that died at once.
    fs::remove_file(run.join("events.jsonl")).unwrap();
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let v = doctor(dir.path(), &["r", "--no-run"]);
    assert!(v["checkpoint"].is_null() && v["log"]["steps"] == 0, "{v}");
    // The data has gone.
    fs::remove_file(dir.path().join("text.txt")).unwrap();
    let o = good(output(dir.path(), &["doctor", "r"]));
    assert!(stdout(&o).contains("observed  no steps: ") && stdout(&o).contains("text.txt"), "{}", stdout(&o));
}

#[test]
fn values_that_are_not_finite_are_named_from_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), "r", &["--recipe", "fp8-delayed", "--steps", "4"]);
    let checkpoint = run.join("checkpoints/step-00000004");
    poison(&checkpoint, "model.safetensors", "transformer.h.0.mlp.c_fc.bias", f32::NAN);
    poison(&checkpoint, "optim.safetensors", "optim.v.gpt.h0.mlp.down.bias", f32::INFINITY);
    poison(&checkpoint, "optim.safetensors", "fp8.scale", 0.0);
    let v = doctor(dir.path(), &["r", "--steps", "1"]);
    let found = v["findings"].to_string();
    assert!(found.contains("gpt.h0.mlp.up.bias") && found.contains("optim.v.gpt.h0.mlp.down.bias"), "{found}");
    assert!(found.contains("fp8 scales are not positive numbers"), "{found}");
    assert!(problems(&v, "steps")[0].contains("comes out of gpt.h0.attn.qkv"), "{v}");
    assert_eq!(v["healthy"], false);
}

#[test]
fn a_log_shows_the_death_of_a_loss_scale() {
    let dir = tempfile::tempdir().unwrap();
    let lost = ["--recipe", "f16", "--optim", "sgd", "--lr", "1e30", "--warmup", "0", "--grad-clip", "0", "--steps", "40"];
    run(dir.path(), "r", &lost);
    let v = doctor(dir.path(), &["r", "--no-run"]);
    let log = problems(&v, "log").join("\n");
    for part in ["loss scale spiral", "at its floor", "39 of 40 logged steps were skipped"] {
        assert!(log.contains(part), "expected {part:?} in {log}");
    }
    assert!(problems(&v, "checkpoint").join("").contains("the loss scale is"), "{v}");
    assert_eq!(v["findings"][0]["severity"], "fatal");
}

#[test]
fn what_is_no_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["doctor", "nowhere"][..], &["doctor", "--no-run"], &["doctor", ".", "--config", "x.toml"]] {
        let o = output(dir.path(), args);
        assert_eq!(o.status.code(), Some(2), "{args:?}: {}", stderr(&o));
    }
}

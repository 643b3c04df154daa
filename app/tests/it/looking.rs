//! `compare`, `doctor` and `bench`: what they print, as JSON and for people.

use super::{TINY, fixed_text, good, json_lines, lacks, output, stderr, stdout};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// [`TINY`] without the flags of evaluations and samples, on a text that does not change with the sources.
const SMALL: [&str; 8] = ["--batch-size", "2", "--seq-len", "32", "--set", "train.model.layers=1", "--data", "text.txt"];

fn look(dir: &Path, command: &str, args: &[&str]) -> Output {
    fixed_text(dir);
    output(dir, &[&[command], &SMALL[..], args].concat())
}

#[track_caller]
fn json(o: Output) -> Value {
    let mut lines = json_lines(&stdout(&good(o)));
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[test]
fn compare_ranks_what_fp8_loses() {
    let dir = tempfile::tempdir().unwrap();
    let v = json(look(dir.path(), "compare", &["--b", "fp8-delayed", "--steps", "4", "--rows", "0", "--json"]));
    assert_eq!((v["a"].as_str(), v["b"].as_str(), v["unmatched"].as_u64()), (Some("f32"), Some("fp8-delayed"), Some(0)));
    let rows = v["rows"].as_array().unwrap();
    for kind in ["forward", "backward", "gradient", "update", "conversion"] {
        assert!(rows.iter().any(|r| r["kind"] == kind), "{kind}");
    }
    let db: Vec<f64> = rows.iter().filter_map(|r| r["sqnr_db"].as_f64()).collect();
    assert!(db.len() > 50 && db.windows(2).all(|w| w[0] <= w[1]), "worst first");
    let of = |scope: &str, kind: &str| rows.iter().any(|r| r["kind"] == kind && r["scope"] == scope);
    assert!(of("gpt.h0.mlp.up.weight", "gradient") && of("gpt.h0.attn.qkv", "conversion"));
    assert!((v["loss_a"].as_f64().unwrap() - v["loss_b"].as_f64().unwrap()).abs() <= 0.2);
    let text = stdout(&good(look(dir.path(), "compare", &["--b", "bf16", "--steps", "2", "--rows", "5"])));
    assert!(text.contains("worst first, 5 of") && text.lines().all(|l| l.len() <= 160), "{text}");
}

#[test]
fn compare_finds_no_difference_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let v =
        json(look(dir.path(), "compare", &["--a", "bf16", "--b", "bf16", "--drift", "--steps", "3", "--rows", "0", "--json"]));
    let rows = v["rows"].as_array().unwrap();
    assert!(rows.iter().all(|r| r["exact"] == true || r["kind"] == "conversion"));
    assert_eq!(v["loss_a"], v["loss_b"]);
}

#[test]
fn doctor_calls_a_good_run_healthy() {
    let dir = tempfile::tempdir().unwrap();
    for recipe in ["f32", "bf16", "f16", "fp8-delayed", "mxfp8"] {
        let v = json(look(dir.path(), "doctor", &["--recipe", recipe, "--steps", "8", "--json"]));
        assert_eq!(v["healthy"], true, "{recipe}: {v}");
    }
}

#[test]
fn doctor_names_the_first_failure_and_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--recipe", "f16", "--init-scale", "1073741824", "--steps", "25", "--json"];
    let v = json(look(dir.path(), "doctor", &args));
    let finding = &v["findings"][0];
    assert_eq!((finding["severity"].as_str(), v["healthy"].as_bool()), (Some("note"), Some(true)), "{v}");
    let evidence = finding["evidence"].to_string();
    assert!(
        evidence.contains("recorded by Mantissa in: ") && evidence.contains(".rs:") && evidence.contains("backward"),
        "{evidence}"
    );

    let lost = ["--recipe", "bf16", "--optim", "sgd", "--lr", "1e30", "--warmup", "0", "--grad-clip", "0"];
    let text = stdout(&good(look(dir.path(), "doctor", &lost)));
    assert!(
        text.contains("\nfatal") && text.contains("instruction ") && text.contains("remedy") && text.contains("--lr"),
        "{text}"
    );
}

#[test]
fn training_warns_once_where_the_doctor_would() {
    let dir = tempfile::tempdir().unwrap();
    let lost = ["--optim", "sgd", "--lr", "1e30", "--warmup", "0", "--grad-clip", "0", "--steps", "6"];
    let o = good(output(dir.path(), &[&["train"], &TINY[..], &lost, &["--on-nonfinite", "ignore"]].concat()));
    let warnings: Vec<String> = stderr(&o).lines().filter(|l| l.starts_with("warning: ")).map(String::from).collect();
    assert_eq!(warnings.iter().filter(|w| w.contains("the loss is")).count(), 1, "{warnings:?}");
    assert!(warnings.iter().all(|w| w.contains("--lr")), "{warnings:?}");
}

#[test]
fn bench_times_every_recipe_and_writes_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--recipes", "bf16,f32", "--steps", "3", "--profile", "--trace", "t.json", "--json"];
    let v = json(look(dir.path(), "bench", &args));
    let recipes = v["recipes"].as_array().unwrap();
    assert_eq!(recipes.iter().map(|r| r["recipe"].as_str().unwrap()).collect::<Vec<_>>(), ["bf16", "f32"]);
    assert_eq!(recipes[1]["speed_up"], 1.0);
    for r in recipes {
        assert!(r["median_ms"].as_f64().unwrap() > 0.0 && r["planned_bytes"].as_u64().unwrap() > 0);
        let shares: f64 = r["families"].as_array().unwrap().iter().map(|l| l["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() <= 1e-6, "{shares}");
        assert!(r["ops"].as_array().unwrap().iter().any(|l| l["name"].as_str().unwrap().starts_with("matmul")));
    }
    let trace: Value = serde_json::from_slice(&std::fs::read(dir.path().join("t.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    assert!(spans.len() > 40 && spans.iter().all(|s| s["dur"].as_f64().unwrap() >= 0.0 && s["pid"].as_u64().unwrap() >= 1));
    let text = stdout(&good(look(dir.path(), "bench", &["--recipes", "f32,f16", "--steps", "2", "--profile"])));
    assert!(text.contains("speed-up over f32") && text.contains("GFLOP/s") && text.contains("1.00x"), "{text}");
}

/// One timed step of gpt-tiny in bf16 on `device`, and the events of its trace; nothing where the machine lacks the
/// device.
fn profile(device: &str) -> Option<(Value, Vec<Value>)> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let args = ["--device", device, "--recipes", "bf16", "--steps", "1", "--profile", "--trace", "t.json", "--json"];
    let o = look(dir.path(), "bench", &args);
    if lacks(device, &o) {
        return None;
    }
    let report = json(o);
    let trace: Value = serde_json::from_slice(&std::fs::read(dir.path().join("t.json")).expect("a trace")).expect("JSON");
    Some((report, trace["traceEvents"].as_array().expect("a list").clone()))
}

/// Name, runs and milliseconds of every operation, by name.
fn operations(report: &Value) -> Vec<(String, u64, f64)> {
    let ops = report["recipes"][0]["ops"].as_array().expect("a list").iter();
    let mut ops: Vec<_> = ops
        .map(|l| {
            (
                l["name"].as_str().unwrap_or_default().to_string(),
                l["calls"].as_u64().unwrap_or(0),
                l["ms"].as_f64().unwrap_or(0.0),
            )
        })
        .collect();
    ops.sort_by(|a, b| a.0.cmp(&b.0));
    ops
}

#[test]
fn a_profile_times_the_same_operations_on_every_device() {
    let (cpu, _) = profile("cpu").unwrap();
    let wanted: Vec<(String, u64)> = operations(&cpu).into_iter().map(|(name, calls, _)| (name, calls)).collect();
    assert!(wanted.len() > 20 && wanted.windows(2).all(|w| w[0].0 != w[1].0), "each once: {wanted:?}");
    for device in ["cpu", "wgpu"] {
        let Some((report, events)) = profile(device) else { continue };
        let ops = operations(&report);
        assert_eq!(ops.iter().map(|(name, calls, _)| (name.clone(), *calls)).collect::<Vec<_>>(), wanted, "{device}");
        assert!(ops.iter().all(|(_, _, ms)| *ms > 0.0), "{device}: {ops:?}");
        let clock = report["clock"].as_str().unwrap();
        assert!(["host clock around each instruction", "timestamps of the device"].contains(&clock), "{clock}");
        // The trace is of the same step: microseconds there, milliseconds here. Views are in the trace only.
        let (total_us, step_us) =
            (1e3 * ops.iter().map(|(_, _, ms)| ms).sum::<f64>(), 1e3 * report["recipes"][0]["profiled_ms"].as_f64().unwrap());
        let label = events.iter().find(|e| e["name"] == "process_labels").unwrap();
        assert_eq!(label["args"]["labels"].as_str(), Some(clock));
        let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
        assert!(spans.iter().all(|s| s["name"].as_str().is_some_and(|n| n.len() > 1) && s["tid"].as_u64().is_some()));
        let times: Vec<(f64, f64)> = spans.iter().map(|s| (s["ts"].as_f64().unwrap(), s["dur"].as_f64().unwrap())).collect();
        // In the order of time, one after the other; a thousandth of a microsecond for rounding.
        assert!(times.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0 + 1e-3), "{device}");
        let traced_us: f64 = times.iter().map(|(_, dur)| dur).sum();
        assert!(total_us <= traced_us + 1e-3 && traced_us <= step_us, "{device}: {total_us} {traced_us} {step_us}");
    }
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[&str], &str); 7] = [
        ("bench", &["--recipes", "f32,f32"], "twice"),
        ("bench", &["--recipe", "f32"], "--recipes"),
        ("bench", &["--recipes", "f32,fp16"], "fp8-delayed"),
        ("bench", &["--recipes", "f32", "--trace", "no/such/folder/t.json", "--steps", "1"], "cannot write the trace"),
        ("compare", &["--b", "bf16", "--recipe", "f32"], "--a and --b"),
        ("compare", &["--b", "bf16", "--keep-mib", "0"], "smaller batch"),
        ("doctor", &["--out", "x"], "--out"),
    ];
    for (command, args, says) in cases {
        let o = look(dir.path(), command, args);
        assert_eq!(o.status.code(), Some(2), "{command} {args:?}: {}", stdout(&o));
        assert!(stderr(&o).contains(says), "{command} {args:?}: {}", stderr(&o));
    }
}

//! Runs that succeed, and what they print and leave.

use super::{TINY, fixed_text, good, json_lines, lacks, listing, mantissa, output, stderr, stdout, step_lines, train};
use mantissa_app::transcript::{Text, Transcript};
use mantissa_app::watcher::Begin;
use mantissa_core::telemetry::event::Event;
use serde_json::Value;
use std::time::Duration;

#[test]
fn a_json_stream_has_every_field_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let o = good(train(dir.path(), &["--steps", "5", "--eval-every", "2", "--json"]));
    let lines = json_lines(&stdout(&o));
    let [steps, memory, evals] =
        ["step", "memory", "eval"].map(|k| lines.iter().filter(|v| v["kind"] == k).collect::<Vec<_>>());
    assert_eq!((&lines[0]["kind"], lines[0]["schema"].as_u64()), (&"log".into(), Some(2)));
    assert_eq!(steps.len() + memory.len() + evals.len(), lines.len() - 1);
    assert_eq!(memory.iter().map(|v| v["step"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)], "a step, then an evaluation");
    let bytes = |v: &Value| v["memory"].as_array().unwrap().iter().map(|r| r["bytes"].as_u64().unwrap()).sum::<u64>();
    assert!(bytes(memory[0]) > 0 && bytes(memory[1]) > bytes(memory[0]), "{memory:?}");
    assert_eq!(steps.iter().map(|v| v["step"].as_u64()).collect::<Vec<_>>(), (1..=5).map(Some).collect::<Vec<_>>());
    assert_eq!(evals.iter().map(|v| v["step"].as_u64()).collect::<Vec<_>>(), [Some(2), Some(4), Some(5)]);
    for v in &steps {
        for key in ["loss", "lr", "grad_norm", "ms", "tok_per_s", "mfu"] {
            assert!(v[key].as_f64().is_some_and(|x| x.is_finite() && x > 0.0), "{key} in {v}");
        }
        assert_eq!((v["skipped"].as_u64(), v["found_inf"].as_bool()), (Some(0), Some(false)));
        for key in ["loss_scale", "growth_tracker"] {
            assert!(v.get(key).is_some_and(|x| x.is_null()), "{key} in {v}");
        }
    }
    assert!(evals.iter().all(|v| v["val_loss"].as_f64().is_some_and(|x| (1.0..7.0).contains(&x))), "{evals:?}");
    let human = stderr(&o);
    for part in ["device", "recipe", "2 x 32 x 1 = 64", "kernels", "run folder", "planned", "peak"] {
        assert!(human.contains(part), "expected `{part}` in: {human}");
    }
    let log = std::fs::read_to_string(dir.path().join("runs/gpt-tiny-bf16-1/events.jsonl")).unwrap();
    assert_eq!(log, stdout(&o), "the event log holds the same lines");
    assert_eq!(listing(&dir.path().join("runs/gpt-tiny-bf16-1")), ["checkpoints", "config.toml", "events.jsonl"]);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let dir = tempfile::tempdir().unwrap();
    let losses = |seed: &str| -> Vec<String> {
        let o = good(train(dir.path(), &["--steps", "4", "--seed", seed, "--dropout", "0.1", "--grad-accum", "2", "--json"]));
        json_lines(&stdout(&o)).iter().map(|v| format!("{}{}", v["loss"], v["val_loss"])).collect()
    };
    let first = losses("1");
    assert_eq!(first, losses("1"));
    assert_ne!(first, losses("2"));
}

#[test]
fn every_recipe_trains() {
    let dir = tempfile::tempdir().unwrap();
    let data = fixed_text(dir.path());
    for recipe in ["f32", "tf32", "bf16", "f16", "fp8-delayed", "fp8-current", "mxfp8"] {
        let flags = ["--data", data, "--steps", "20", "--lr", "3e-3", "--warmup", "2", "--recipe", recipe, "--json"];
        let o = good(train(dir.path(), &flags));
        let lines = step_lines(&stdout(&o));
        let loss = |i: usize| lines[i]["loss"].as_f64().unwrap();
        assert!(loss(19) <= loss(0) - 1.0, "{recipe}: {} to {}", loss(0), loss(19));
        assert_eq!(lines[0].get("fp8").is_some(), recipe.contains("fp8"), "{recipe}");
        assert_eq!(lines[0]["loss_scale"].is_null(), recipe != "f16", "{recipe}");
    }
}

#[test]
fn a_huge_loss_scale_skips_backs_off_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--data", fixed_text(dir.path()), "--steps", "30", "--recipe", "f16", "--init-scale", "1073741824"];
    let o = good(train(dir.path(), &[&flags[..], &["--json"]].concat()));
    let lines = json_lines(&stdout(&o));
    let steps: Vec<_> = lines.iter().filter(|v| v.get("lr").is_some()).collect();
    assert_eq!(steps[0]["loss_scale"].as_f64(), Some(1073741824.0));
    assert_eq!((steps[0]["found_inf"].as_bool(), steps[0]["skipped"].as_u64()), (Some(true), Some(1)));
    assert!(steps[1]["loss_scale"].as_f64() == Some(536870912.0), "{}", steps[1]);
    let last = steps[29];
    assert_eq!(last["found_inf"].as_bool(), Some(false), "{last}");
    assert!(last["skipped"].as_u64().is_some_and(|n| (2..25).contains(&n)), "{last}");
    assert!(last["growth_tracker"].as_i64().is_some_and(|n| n > 0), "{last}");
    let human = stderr(&o);
    assert!(human.contains("step skipped, loss_scale 1073741824 -> 536870912"), "{human}");
    assert!(human.contains("recovered at loss_scale"), "{human}");
    let o = good(train(dir.path(), &flags));
    assert!(stdout(&o).contains("step skipped, loss_scale 1073741824 -> 536870912"), "{}", stdout(&o));
    assert!(stdout(&o).contains("| skipped "), "{}", stdout(&o));
}

#[test]
fn a_run_that_blows_up_is_reported_once_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        ["--steps", "8", "--recipe", "f32", "--optim", "sgd", "--lr", "1e30", "--warmup", "0", "--grad-clip", "0", "--json"];
    let o = good(train(dir.path(), &[&flags[..], &["--on-nonfinite", "ignore"]].concat()));
    let lines = json_lines(&stdout(&o));
    assert!(lines.iter().any(|v| v["loss"].is_null() && v["loss_nonfinite"] == true), "{}", stdout(&o));
    assert_eq!(stderr(&o).matches("warning: ").count(), 1, "{}", stderr(&o));
    assert!(stderr(&o).contains("lower --lr"), "{}", stderr(&o));
}

#[test]
fn a_folder_of_texts_trains_without_its_binary_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("texts/deeper")).unwrap();
    std::fs::write(dir.path().join("texts/b.txt"), "the quick brown fox jumps over the lazy dog. ".repeat(40)).unwrap();
    std::fs::write(dir.path().join("texts/deeper/a.md"), "pack my box with five dozen liquor jugs. ".repeat(40)).unwrap();
    std::fs::write(dir.path().join("texts/picture.png"), b"\x89PNG\0\xff").unwrap();
    let o = good(train(dir.path(), &["--data", "texts", "--steps", "3", "--out", "r"]));
    assert!(stderr(&o).contains("left out") && stderr(&o).contains("picture.png"), "{}", stderr(&o));
    assert!(stdout(&o).contains("2 text files"), "{}", stdout(&o));
}

#[test]
fn quiet_prints_the_result_only() {
    let dir = tempfile::tempdir().unwrap();
    let o = good(train(dir.path(), &["--steps", "2", "--quiet"]));
    let lines: Vec<String> = stdout(&o).lines().map(str::to_string).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("done: 2 steps") && lines[0].contains("val_loss"), "{}", lines[0]);
    assert_eq!(stderr(&o), "");
}

#[test]
fn the_config_of_a_run_repeats_it() {
    let dir = tempfile::tempdir().unwrap();
    let losses = |args: &[&str]| -> Vec<String> {
        let o = good(output(dir.path(), &[&["train", "--json", "--quiet"], args].concat()));
        json_lines(&stdout(&o)).iter().map(|v| format!("{}{}", v["loss"], v["val_loss"])).collect()
    };
    let flags = [
        "--batch-size",
        "2",
        "--seq-len",
        "32",
        "--steps",
        "3",
        "--recipe",
        "fp8-current",
        "--grad-clip",
        "0",
        "--eval-batches",
        "2",
    ];
    let first = losses(&[&flags[..], &["--sample-tokens", "0", "--out", "a"]].concat());
    assert_eq!(first, losses(&["--config", "a/config.toml", "--out", "b"]));
    let config = |run: &str| std::fs::read_to_string(dir.path().join(run).join("config.toml")).unwrap();
    assert_eq!(config("a"), config("b"));
}

#[test]
fn an_mlp_learns_the_drawn_digits() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        ["train", "--model", "mlp", "--steps", "120", "--batch-size", "64", "--set", "train.model.hidden=[128]", "--json"];
    let o = good(output(dir.path(), &flags));
    let lines = json_lines(&stdout(&o));
    let eval = lines.last().unwrap();
    assert!(eval["val_accuracy"].as_f64().is_some_and(|a| a > 0.9), "{eval}");
    assert!(eval["val_loss"].as_f64().is_some_and(|l| l < 0.4), "{eval}");
    assert!(lines[1]["img_per_s"].as_f64().is_some_and(|x| x > 0.0), "{}", lines[1]);
    assert!(lines[1].get("tok_per_s").is_none(), "{}", lines[1]);
}

#[test]
fn an_mlp_reads_idx_files_plain_and_gzipped() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let images = [&0x803u32.to_be_bytes()[..], &40u32.to_be_bytes(), &28u32.to_be_bytes(), &28u32.to_be_bytes()].concat();
    let pixels = (0..40 * 784u32).map(|i| (i * i % 251) as u8);
    let images: Vec<u8> = images.into_iter().chain(pixels).collect();
    let labels: Vec<u8> = [0, 0, 8, 1, 0, 0, 0, 40].into_iter().chain((0..40).map(|i| i % 10)).collect();
    std::fs::write(dir.path().join("train-labels-idx1-ubyte"), &labels).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&images).unwrap();
    std::fs::write(dir.path().join("train-images-idx3-ubyte.gz"), gz.finish().unwrap()).unwrap();
    let flags = [
        "train",
        "--model",
        "mlp",
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--set",
        "train.model.hidden=[16]",
        "--eval-batches",
        "1",
    ];
    let gzipped = good(output(dir.path(), &[&flags[..], &["--json", "--data", "train-images-idx3-ubyte.gz"]].concat()));
    std::fs::write(dir.path().join("train-images-idx3-ubyte"), &images).unwrap();
    let plain = good(output(dir.path(), &[&flags[..], &["--json", "--data", "train-images-idx3-ubyte"]].concat()));
    let losses = |o| json_lines(&stdout(o)).iter().map(|v| v["loss"].to_string()).collect::<Vec<_>>();
    assert_eq!(losses(&gzipped), losses(&plain));
    good(output(dir.path(), &[&flags[..], &["--data", "."]].concat()));
}

#[test]
fn samples_are_kept_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        ["train", "--batch-size", "2", "--seq-len", "32", "--steps", "4", "--sample-every", "2", "--sample-tokens", "10"];
    let o = good(output(dir.path(), &[&flags[..], &["--eval-batches", "1", "--out", "r"]].concat()));
    assert_eq!(listing(&dir.path().join("r/samples")), ["step-00000002.txt", "step-00000004.txt"]);
    assert_eq!(stdout(&o).matches("sample at step").count(), 2, "{}", stdout(&o));
}

#[test]
fn devices_lists_the_cpu_and_what_it_emulates() {
    let dir = tempfile::tempdir().unwrap();
    let o = good(output(dir.path(), &["devices"]));
    let text = stdout(&o);
    assert!(text.starts_with("cpu: "), "{text}");
    let line = |start: &str| text.lines().find(|l| l.trim_start().starts_with(start)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("native:").contains("f32"), "{text}");
    assert!(["bf16", "e4m3"].iter().all(|d| line("emulated").contains(d)), "{text}");
    assert!(text.contains("wgpu"), "adapters, or that there is none: {text}");
    assert_eq!(text.matches("f16 and fp8 decoded by").count(), text.matches("wgpu adapter").count(), "{text}");
}

#[test]
fn devices_are_one_json_object() {
    let dir = tempfile::tempdir().unwrap();
    let text = stdout(&good(output(dir.path(), &["devices", "--json"])));
    let v: serde_json::Value = serde_json::from_str(&text).expect("one object");
    assert!(v["cpu"]["native"].as_array().expect("dtypes").contains(&"f32".into()), "{text}");
    assert!(v["cpu"]["flops_per_s"].as_f64().expect("a rate") > 0.0 && v["adapters"].is_array(), "{text}");
}

#[test]
fn when_to_measure_is_one_of_three_words_about_a_gpu() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["train", "bench", "sample"] {
        let o = output(dir.path(), &[command, "--tune", "sometimes"]);
        assert_eq!(o.status.code(), Some(2), "{command}");
        assert!(["sometimes", "off", "auto", "always"].iter().all(|word| stderr(&o).contains(word)), "{}", stderr(&o));
    }
    let o = output(dir.path(), &["train", "--device", "cpu", "--tune", "off"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("--tune: expected"), "{}", stderr(&o));
}

#[test]
fn what_was_measured_to_be_fastest_stands_in_the_log_of_this_run_and_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let run = |variable: &str, tune: &[&str], out: &str| {
        let flags = ["--device", "wgpu", "--recipe", "bf16", "--steps", "2", "--out", out];
        let mut command = mantissa(dir.path(), &[&["train"], &TINY[..], &flags, tune].concat());
        command.env("MANTISSA_CACHE_DIR", dir.path().join("cache")).env("MANTISSA_TUNE", variable).output().unwrap()
    };
    let o = run("always", &[], "first");
    if lacks("wgpu", &o) {
        return;
    }
    good(o);
    // The flag wins over the variable.
    good(run("off", &["--tune", "always"], "second"));
    good(run("always", &["--tune", "off"], "third"));
    let told = |out: &str| -> Vec<Value> {
        let lines = std::fs::read_to_string(dir.path().join(out).join("events.jsonl")).unwrap();
        let lines = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines.filter(|l| l.get("tuned").is_some()).map(|l| l["tuned"].clone()).collect()
    };
    let (first, second) = (told("first"), told("second"));
    let last = first.last().unwrap().as_array().unwrap();
    assert!(last.len() > 3, "{last:?}");
    assert!(last.iter().all(|row| row["product"].is_string() && row["kind"].is_string()), "{last:?}");
    assert_eq!(second, [first.last().unwrap().clone()], "remembered, not measured again");
    assert!(told("third").is_empty());
    let o = run("sometimes", &[], "fourth");
    assert!(o.status.code() == Some(2) && stderr(&o).contains("off, auto or always"), "{}", stderr(&o));
}

#[test]
fn progress_is_kept_every_so_many_steps_and_the_end_says_what_can_follow() {
    let dir = tempfile::tempdir().unwrap();
    let text = stdout(&good(train(dir.path(), &["--steps", "9", "--log-every", "4", "--out", "r"])));
    assert!([1, 4, 8, 9].iter().all(|step| text.contains(&format!("step {step}/9 | loss"))), "{text}");
    let next = "next: mantissa sample --run r | mantissa gui r | mantissa train --resume r --steps 18";
    assert_eq!(text.lines().last(), Some(next));
    for flags in [["--quiet", "--out", "q"], ["--json", "--out", "j"]] {
        let o = good(train(dir.path(), &[&["--steps", "1"], &flags[..]].concat()));
        assert!(!stdout(&o).contains("next:") && !stderr(&o).contains("next:"), "{}{}", stdout(&o), stderr(&o));
    }
}

#[test]
fn a_log_gives_the_lines_that_the_terminal_had() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--recipe", "f16", "--init-scale", "1073741824", "--steps", "30", "--log-every", "10", "--eval-every", "15"];
    let o = good(train(dir.path(), &[&flags[..], &["--data", fixed_text(dir.path()), "--out", "r"]].concat()));
    let run = dir.path().join("r");
    let config = mantissa_app::config::read(&run.join("config.toml")).unwrap();
    let mut transcript = Transcript::new(&Begin { config: &config, folder: &run, steps: 0 });
    let (mut lines, mut warnings) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(run.join("events.jsonl")).unwrap().lines() {
        let event = Event::from_line(line).unwrap().expect("a kind of this version");
        transcript.event(&event, Duration::ZERO, |text| match text {
            Text::Progress { text, keep } => lines.extend(keep.then_some(text)),
            Text::Line(text) => lines.push(text),
            Text::Warning(text) => warnings.push(text),
        });
    }
    // The time left goes by the clock.
    let without_eta = |line: &str| line.split(" | eta").next().unwrap_or_default().to_string();
    let mut rest = stdout(&o).lines().map(without_eta).collect::<Vec<_>>().join("\n");
    for line in lines.iter().map(|line| without_eta(line)) {
        let at = rest.find(&line).unwrap_or_else(|| panic!("expected {line:?}, in this order, in: {}", stdout(&o)));
        rest = rest.split_off(at + line.len());
    }
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((count("step  1/30") + count("step 10/30") + count("step 20/30") + count("step 30/30"), count("eval")), (4, 2));
    assert!(lines.iter().any(|line| line.contains("recovered at loss_scale")), "{lines:?}");
    assert!(warnings.iter().all(|text| stderr(&o).contains(text.as_str())), "{warnings:?}: {}", stderr(&o));
}

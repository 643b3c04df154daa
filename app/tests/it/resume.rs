//! `--resume`: bit for bit, from the newest or a named checkpoint, with clear refusals of whatever would make it
//! something else.

use super::{CHECKPOINT_FILES, good, json_lines, listing, mantissa, output, stderr, stdout, step_lines, train};
use serde_json::Value;
use std::path::Path;

/// What decides the numbers of the runs here, beside the recipe.
const NUMBERS: [&str; 8] = [
    "--dropout",
    "0.1",
    "--grad-accum",
    "2",
    "--lr",
    "3e-3",
    "--set",
    "train.clip={ adaptive = { percentile = 60.0, window = 6, max_norm = 1.0 } }",
];

/// The events of a run without what depends on the clock.
pub(super) fn events(run: &Path) -> Vec<Value> {
    let mut lines = json_lines(&std::fs::read_to_string(run.join("events.jsonl")).expect("events"));
    // Each process reports the memory that it has taken itself.
    lines.retain(|line| line.get("memory").is_none());
    for line in &mut lines {
        let object = line.as_object_mut().expect("an object");
        for clock in ["ms", "tok_per_s", "img_per_s", "mfu"] {
            object.remove(clock);
        }
    }
    lines
}

pub(super) fn checkpoint(run: &Path, step: u64) -> std::path::PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

/// The tensors of a checkpoint, byte for byte.
#[track_caller]
pub(super) fn same_tensors(a: &Path, b: &Path) {
    for file in ["model.safetensors", "optim.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap_or_else(|e| panic!("{e}: {}", run.join(file).display()));
        assert!(read(a) == read(b), "{file} differs: {} and {}", a.display(), b.display());
    }
}

#[test]
fn forty_steps_are_twenty_and_twenty_more_in_every_recipe() {
    let dir = tempfile::tempdir().unwrap();
    for recipe in ["f32", "tf32", "bf16", "f16", "fp8-delayed", "fp8-current", "mxfp8"] {
        let mut flags =
            vec!["--steps", "40", "--recipe", recipe, "--eval-every", "10", "--checkpoint-every", "20", "--keep", "0"];
        flags.extend(NUMBERS);
        match recipe {
            "f16" => flags.extend(["--init-scale", "1e9", "--growth-interval", "4", "--hysteresis", "2"]),
            "fp8-delayed" => flags.extend(["--amax-history", "5"]),
            _ => {}
        }
        let (whole, parts) = (format!("{recipe}-whole"), format!("{recipe}-parts"));
        good(train(dir.path(), &[&flags[..], &["--out", &whole]].concat()));
        let (whole, parts) = (dir.path().join(whole), dir.path().join(parts));
        // A run cut off after its first checkpoint, some steps on: as a kill would leave it.
        copy(&whole, &parts);
        std::fs::remove_dir_all(checkpoint(&parts, 40)).unwrap();
        let log = std::fs::read_to_string(whole.join("events.jsonl")).unwrap();
        let cut: Vec<&str> = log.lines().take(28).collect();
        std::fs::write(parts.join("events.jsonl"), format!("{}\n{{\"step\":26,\"lo", cut.join("\n"))).unwrap();
        let o = good(output(dir.path(), &["train", "--json", "--resume", parts.to_str().unwrap()]));
        let told = json_lines(&stdout(&o));
        assert_eq!((&told[0]["kind"], &told[0]["schema"], &told[0]["step"]), (&"log".into(), &2.into(), &20.into()));
        assert_eq!(told[1]["step"], 21, "goes on after the checkpoint");
        assert!(!stderr(&o).contains("bit for bit"), "nothing differs: {}", stderr(&o));
        assert_eq!(events(&parts), events(&whole), "{recipe}");
        same_tensors(&checkpoint(&parts, 40), &checkpoint(&whole, 40));
        let state = |run: &Path| std::fs::read_to_string(checkpoint(run, 40).join("state.json")).unwrap();
        assert_eq!(state(&parts), state(&whole), "{recipe}");
    }
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("copied");
    for entry in std::fs::read_dir(from).expect("copied") {
        let entry = entry.expect("copied");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_checkpoint_has_the_documented_files_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("r");
    let flags =
        ["--steps", "9", "--recipe", "f16", "--init-scale", "256", "--checkpoint-every", "2", "--keep", "3", "--out", "r"];
    good(train(dir.path(), &flags));
    assert_eq!(listing(&out.join("checkpoints")), ["step-00000006", "step-00000008", "step-00000009"]);
    let last = checkpoint(&out, 9);
    assert_eq!(listing(&last), CHECKPOINT_FILES);
    let state: Value = serde_json::from_slice(&std::fs::read(last.join("state.json")).unwrap()).unwrap();
    assert_eq!((&state["step"], &state["recipe"], &state["data"]["position"]), (&9.into(), &"f16".into(), &18.into()));
    assert_eq!(state["scaler"]["_growth_tracker"], 9);
    let config: Value = serde_json::from_slice(&std::fs::read(last.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["model_type"], &config["n_positions"], &config["n_layer"]), (&"gpt2".into(), &32.into(), &1.into()));
    let bytes = std::fs::read(last.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("transformer.h.0.attn.c_attn.weight").unwrap().shape(), [128, 384]);
    assert!(tensors.names().iter().all(|n| n.starts_with("transformer.")));
    let bytes = std::fs::read(last.join("optim.safetensors")).unwrap();
    let states = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in ["optim.step", "optim.m.gpt.wte.weight", "optim.v.gpt.wte.weight", "loss_scale", "growth_tracker"] {
        assert!(states.tensor(name).is_ok(), "{name}: {:?}", states.names());
    }
}

#[test]
fn the_newest_run_goes_on_and_the_end_can_be_moved() {
    let dir = tempfile::tempdir().unwrap();
    let constant = ["--schedule", "constant", "--warmup", "0", "--recipe", "f32"];
    good(train(dir.path(), &[&["--steps", "12", "--out", "whole"], &constant[..]].concat()));
    good(train(dir.path(), &[&["--steps", "3"], &constant[..]].concat()));
    good(train(dir.path(), &[&["--steps", "5"], &constant[..]].concat()));
    let run = dir.path().join("runs/gpt-tiny-f32-2");
    let o = good(output(dir.path(), &["train", "--resume"]));
    assert!(stdout(&o).contains("done already: 5 steps") && stdout(&o).contains("gpt-tiny-f32-2"), "{}", stdout(&o));
    let o = good(output(dir.path(), &["train", "--resume", "--steps", "12", "--json"]));
    assert!(stderr(&o).contains("train.schedule.steps was 5, is 12"), "{}", stderr(&o));
    let told = json_lines(&stdout(&o)).iter().filter(|line| line["kind"] != "memory").count();
    assert_eq!(told, 1 + 7 + 1, "the log, steps, an evaluation");
    same_tensors(&checkpoint(&run, 12), &checkpoint(&dir.path().join("whole"), 12));
    let steps: Vec<u64> =
        events(&run).iter().filter(|e| e.get("loss").is_some()).map(|e| e["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    assert!(std::fs::read_to_string(run.join("config.toml")).unwrap().contains("steps = 12"));
}

#[test]
fn an_earlier_checkpoint_takes_the_run_back_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("r");
    good(train(
        dir.path(),
        &["--steps", "9", "--checkpoint-every", "3", "--keep", "0", "--out", "r", "--recipe", "fp8-delayed"],
    ));
    let before = (events(&run), std::fs::read(checkpoint(&run, 9).join("optim.safetensors")).unwrap());
    let o = good(output(dir.path(), &["train", "--resume", "r/checkpoints/step-00000003", "--discard-newer"]));
    let said = "drops what came after step 3: 6 steps of the log, and of the checkpoints step-00000006, step-00000009";
    assert!(stderr(&o).contains(said), "{}", stderr(&o));
    assert_eq!(events(&run), before.0);
    assert_eq!(std::fs::read(checkpoint(&run, 9).join("optim.safetensors")).unwrap(), before.1);
    assert_eq!(listing(&run.join("checkpoints")).len(), 3);
}

#[test]
fn an_mlp_resumes_too() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["train", "--model", "mlp", "--batch-size", "16", "--eval-batches", "2", "--set", "train.model.hidden=[32]"];
    good(output(dir.path(), &[&flags[..], &["--steps", "8", "--checkpoint-every", "4", "--keep", "0", "--out", "a"]].concat()));
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    copy(&a, &b);
    good(output(dir.path(), &["train", "--resume", "b/checkpoints/step-00000004", "--discard-newer"]));
    assert_eq!(events(&b), events(&a));
    same_tensors(&checkpoint(&b, 8), &checkpoint(&a, 8));
}

/// `--resume` is refused with a message that has all the parts, and changes nothing.
#[track_caller]
fn refused(dir: &Path, args: &[&str], parts: &[&str]) {
    let before = std::fs::read(dir.join("r/events.jsonl")).expect("events");
    let o = output(dir, &[&["train"], args].concat());
    let message = stderr(&o);
    assert_eq!(o.status.code(), Some(2), "{args:?}: {message}");
    assert_eq!(message.lines().filter(|l| l.starts_with("error")).count(), 1, "{message}");
    assert!(parts.iter().all(|p| message.contains(p)) && !message.contains("panicked"), "{parts:?} in {message}");
    assert_eq!(std::fs::read(dir.join("r/events.jsonl")).expect("events"), before, "{args:?}");
}

#[test]
fn flags_that_change_numbers_are_refused_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("text.txt"), "some other text ".repeat(300)).unwrap();
    good(train(dir, &["--steps", "4", "--checkpoint-every", "2", "--keep", "0", "--out", "r"]));
    let back = ["--resume", "r/checkpoints/step-00000002"];
    let with = |flags: &[&'static str]| [&back[..], flags].concat();
    refused(dir, &with(&["--lr", "0.5"]), &["train.schedule.lr", "0.001", "0.5", "new run"]);
    refused(dir, &with(&["--recipe", "f16"]), &["train.recipe.name", "bf16", "f16"]);
    refused(dir, &with(&["--seed", "1"]), &["train.seed"]);
    refused(dir, &with(&["--batch-size", "3"]), &["train.batch"]);
    refused(dir, &with(&["--grad-clip", "0"]), &["train.clip"]);
    refused(dir, &with(&["--data", "text.txt"]), &["run.data", "builtin", "text.txt"]);
    refused(dir, &with(&["--steps", "1"]), &["--steps of at least 2"]);
    refused(dir, &with(&["--out", "r"]), &["--out", "new or empty folder"]);
    refused(dir, &with(&["--out", "other", "--discard-newer"]), &["--out", "--discard-newer"]);
    refused(dir, &["--discard-newer"], &["--resume"]);
    refused(dir, &["--resume", "nowhere"], &["nowhere"]);
    refused(dir, &["--resume", "."], &["neither"]);
    refused(dir, &["--resume", "r/checkpoints"], &["neither"]);
    refused(dir, &["--resume"], &["no run to go on with"]);
    // The same numbers again, and what only the host does.
    good(output(dir, &[&["train", "--batch-size", "2", "--seed", "1337", "--eval-every", "1"], &back[..]].concat()));
}

#[test]
fn data_that_changed_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("t.txt");
    std::fs::write(&text, "abcdefgh".repeat(400)).unwrap();
    good(train(dir.path(), &["--steps", "4", "--data", "t.txt", "--checkpoint-every", "2", "--keep", "0", "--out", "r"]));
    std::fs::write(&text, "abcdefgz".repeat(400)).unwrap();
    let o = good(output(dir.path(), &["train", "--resume", "r/checkpoints/step-00000002"]));
    assert!(stderr(&o).contains("warning: the data was 3200 bytes with checksum"), "{}", stderr(&o));
}

#[test]
fn where_the_newest_checkpoint_is_damaged_the_older_one_is_named_with_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    good(train(dir, &["--steps", "4", "--checkpoint-every", "2", "--out", "r"]));
    let weights = checkpoint(&dir.join("r"), 4).join("model.safetensors");
    std::fs::write(&weights, std::fs::read(&weights).unwrap().split_off(1)).unwrap();
    let older = "r/checkpoints/step-00000002";
    for (flag, args) in [
        ("mantissa train --resume", &["train", "--resume", "r"][..]),
        ("--init-from", &["train", "--init-from", "r", "--steps", "1"]),
        ("--run", &["sample", "--run", "r"]),
        ("--run", &["sample", "--run", "r/checkpoints/step-00000004"]),
    ] {
        let o = output(dir, args);
        assert_eq!(o.status.code(), Some(2));
        assert!(stderr(&o).contains(&format!("; the checkpoint of step 2 is whole: {flag} {older}")), "{}", stderr(&o));
    }
    good(output(dir, &["sample", "--run", older, "--tokens", "1"]));
}

#[test]
fn damaged_checkpoints_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    good(train(dir, &["--steps", "2", "--recipe", "f16", "--out", "r"]));
    let last = checkpoint(&dir.join("r"), 2);
    let resume = ["--resume", "r", "--steps", "4"];
    let with = |file: &str, bytes: Option<&[u8]>, parts: &[&str]| {
        let path = last.join(file);
        let whole = std::fs::read(&path).unwrap();
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        refused(dir, &resume, parts);
        std::fs::write(&path, whole).unwrap();
    };
    for file in ["model.safetensors", "optim.safetensors", "config.json", "state.json", "DONE"] {
        let whole = std::fs::read(last.join(file)).unwrap();
        with(file, None, &[file]);
        with(file, Some(&whole[..whole.len() / 2]), &[file, "expected"].map(|p| if file == "DONE" { "DONE" } else { p }));
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x11;
        with(file, Some(&flipped), &["checkpoint"]);
    }
    with("DONE", Some(b"{\"bytes\":1,\"crc32\":2}"), &["state.json", "expected 1 bytes"]);
    // A DONE that vouches for a file that lies: the header is judged, too.
    let lie = |file: &str, bytes: &[u8], parts: &[&str]| {
        let kept: Vec<Vec<u8>> = ["DONE", "state.json", file].iter().map(|f| std::fs::read(last.join(f)).unwrap()).collect();
        let mut state: Value = serde_json::from_slice(&kept[1]).unwrap();
        state["files"][file] = digest(bytes);
        if file == "state.json" {
            state = serde_json::from_slice(bytes).unwrap();
        }
        let text = serde_json::to_string(&state).unwrap();
        std::fs::write(last.join(file), bytes).unwrap();
        std::fs::write(last.join("state.json"), &text).unwrap();
        std::fs::write(last.join("DONE"), digest(text.as_bytes()).to_string()).unwrap();
        refused(dir, &resume, parts);
        for (f, bytes) in ["DONE", "state.json", file].iter().zip(kept) {
            std::fs::write(last.join(f), bytes).unwrap();
        }
    };
    let model = std::fs::read(last.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(model[..8].try_into().unwrap()) as usize;
    let edit = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&model[8..8 + header]).replacen(from, to, 1);
        assert_ne!(text.as_bytes(), &model[8..8 + header], "{from}");
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &model[8 + header..]].concat()
    };
    lie("model.safetensors", &u64::MAX.to_le_bytes(), &["not a safetensors file", "18446744073709551615"]);
    lie("model.safetensors", &model[..model.len() - 4], &["truncated", "as the header says"]);
    lie(
        "model.safetensors",
        &edit("[128,384]", "[384,128]"),
        &["c_attn.weight", "expected shape [128, 384], found [384, 128]"],
    );
    lie(
        "model.safetensors",
        &edit("wte.weight\":{\"dtype\":\"F32\"", "wte.weight\":{\"dtype\":\"I32\""),
        &["wte.weight", "I32"],
    );
    lie("model.safetensors", &edit("ln_f.bias", "ln_g.bias"), &["found `transformer.ln_g.bias` too"]);
    lie("model.safetensors", &edit("[384]", "[18446744073709551615,2]"), &["not a safetensors file"]);
    lie("optim.safetensors", &model, &["optim.", "found none"]);
    let mut state: Value = serde_json::from_slice(&std::fs::read(last.join("state.json")).unwrap()).unwrap();
    state["scaler"]["scale"] = 3.0.into();
    lie("state.json", state.to_string().as_bytes(), &["scaler"]);
    // Undamaged, it goes on; with an edited config it does not.
    let config = dir.join("r/config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("width = 128", "width = 64")).unwrap();
    refused(dir, &resume, &["train.model.width: expected 128", "found 64"]);
    std::fs::write(&config, text).unwrap();
    good(output(dir, &[&["train"], &resume[..]].concat()));
    std::fs::remove_file(checkpoint(&dir.join("r"), 4).join("DONE")).unwrap();
    refused(dir, &["--resume", "r/checkpoints/step-00000004"], &["DONE", "incomplete"]);
    // The one before is complete and is what the run goes on from.
    let o = good(output(dir, &["train", "--resume", "r", "--json"]));
    assert_eq!(step_lines(&stdout(&o))[0]["step"], 3);
}

fn digest(bytes: &[u8]) -> Value {
    serde_json::json!({ "bytes": bytes.len(), "crc32": crc32fast::hash(bytes) })
}

#[cfg(unix)]
#[test]
fn a_run_in_use_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "train",
        "--steps",
        "100000",
        "--json",
        "--batch-size",
        "2",
        "--seq-len",
        "32",
        "--checkpoint-every",
        "1",
        "--out",
        "r",
    ];
    let mut child =
        mantissa(dir.path(), &args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut reader, &mut String::new()).unwrap();
    let o = output(dir.path(), &["train", "--resume", "r"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("in use"), "{}", stderr(&o));
    child.kill().unwrap();
    child.wait().unwrap();
}

//! Every class of bad flag, file, config and shape: exit code 2, one clear message, no panic, nothing left behind.

use super::{TINY, listing, mantissa, output, stderr, stdout, train};
use std::path::Path;

/// Runs `args` in an empty folder holding `files` and demands a refusal whose message has every one of `parts`.
#[track_caller]
fn refused(files: &[(&str, &[u8])], args: &[&str], parts: &[&str]) {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("a file");
    }
    let before = listing(dir.path());
    let o = output(dir.path(), args);
    let message = stderr(&o);
    assert_eq!(o.status.code(), Some(2), "{args:?}\nstdout: {}\nstderr: {message}", stdout(&o));
    assert!(message.starts_with("error: "), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "expected `{part}` in: {message}");
    }
    assert_eq!(listing(dir.path()), before, "nothing is left behind by {args:?}");
}

#[test]
fn unknown_names() {
    refused(&[], &["train", "--model", "gpt-huge"], &["gpt-huge", "gpt-tiny", "mlp"]);
    refused(&[], &["train", "--recipe", "fp16"], &["fp16", "fp8-delayed"]);
    refused(&[], &["train", "--device", "tpu"], &["tpu", "cpu"]);
    refused(&[], &["train", "--optim", "lion"], &["lion", "adamw"]);
    refused(&[], &["train", "--schedule", "step"], &["cosine"]);
    refused(&[], &["train", "--stpes", "3"], &["--stpes"]);
    refused(&[], &["trian"], &["trian"]);
}

#[test]
fn numbers_that_are_none_or_out_of_range() {
    for flag in ["--lr", "--min-lr", "--weight-decay", "--grad-clip", "--clip-value", "--init-scale", "--dropout", "--beta1"] {
        refused(&[], &["train", flag, "nan"], &[flag, "finite"]);
        refused(&[], &["train", flag, "inf"], &[flag, "finite"]);
    }
    refused(&[], &["train", "--lr=-1e-3"], &["--lr", "at least 0"]);
    refused(&[], &["train", "--lr", "fast"], &["--lr", "number"]);
    refused(&[], &["train", "--lr", "1e-3", "--min-lr", "1e-2"], &["min_lr"]);
    refused(&[], &["train", "--steps", "0"], &["--steps"]);
    refused(&[], &["train", "--batch-size", "0"], &["batch"]);
    refused(&[], &["train", "--grad-accum", "0"], &["--grad-accum", "from 1 to"]);
    refused(&[], &["train", "--seq-len", "0"], &["from 1 to"]);
    refused(&[], &["train", "--beta1", "1"], &["beta1", "[0, 1)"]);
    refused(&[], &["train", "--dropout", "1"], &["dropout"]);
    refused(&[], &["train", "--clip-value", "0"], &["--clip-value", "above 0"]);
    refused(&[], &["train", "--adaptive-clip", "101"], &["--adaptive-clip", "above 0 and at most 100"]);
    refused(&[], &["train", "--eval-batches", "0"], &["--eval-batches"]);
    refused(&[], &["train", "--seed", "18446744073709551615"], &["--seed"]);
    refused(&[], &["sample", "--temperature", "nan"], &["--temperature"]);
}

#[test]
fn options_of_another_recipe_model_or_optimizer() {
    refused(&[], &["train", "--recipe", "bf16", "--init-scale", "1024"], &["--init-scale", "loss scaler", "bf16"]);
    refused(&[], &["train", "--recipe", "fp8-current", "--hysteresis", "2"], &["--hysteresis"]);
    refused(&[], &["train", "--recipe", "fp8-current", "--margin", "-1"], &["--margin", "fp8-delayed"]);
    refused(&[], &["train", "--recipe", "f16", "--fp8-format", "e4m3"], &["--fp8-format", "fp8"]);
    refused(&[], &["train", "--recipe", "fp8-delayed", "--mx-scale-rule", "floor"], &["--mx-scale-rule", "mxfp8"]);
    refused(&[], &["train", "--recipe", "f16", "--init-scale", "0"], &["init_scale", "positive"]);
    refused(&[], &["train", "--recipe", "f16", "--growth-factor", "1"], &["growth_factor", "above 1"]);
    refused(&[], &["train", "--recipe", "f16", "--backoff-factor", "2"], &["backoff_factor"]);
    refused(&[], &["train", "--recipe", "fp8-delayed", "--amax-history", "0"], &["--amax-history"]);
    refused(&[], &["train", "--model", "mlp", "--seq-len", "32"], &["--seq-len", "gpt"]);
    refused(&[], &["train", "--model", "mlp", "--sample-every", "5"], &["gpt"]);
    refused(&[], &["train", "--optim", "sgd", "--beta2", "0.9"], &["--beta2"]);
    refused(&[], &["train", "--clip-value", "1", "--grad-clip", "1"], &["--clip-value", "--grad-clip"]);
}

#[test]
fn data_that_is_not_there_or_not_what_it_should_be() {
    refused(&[], &["train", "--data", "missing.txt"], &["missing.txt"]);
    refused(&[("a.txt", b"too short")], &["train", "--data", "a.txt"], &["part of the text", "--seq-len"]);
    refused(&[("a.txt", b"")], &["train", "--data", "a.txt"], &["at least 129 tokens"]);
    refused(&[("a.dat", b"ab\xff\xfe")], &["train", "--data", "a.dat"], &["UTF-8", "at 2", "a.dat"]);
    refused(&[("a.dat", b"\0\0\0")], &["train", "--data", "."], &["found none (left out: 1 no UTF-8 text", "in the folder"]);
    let idx = [&0x803u32.to_be_bytes()[..], &u32::MAX.to_be_bytes(), &28u32.to_be_bytes(), &28u32.to_be_bytes()].concat();
    let mlp = ["train", "--model", "mlp", "--data"];
    let labels: &[u8] = &[0, 0, 8, 1, 0, 0, 0, 0];
    refused(&[("x-images-idx3", b"hello, this is text")], &[&mlp[..], &["x-images-idx3"]].concat(), &["labels"]);
    let files: [(&str, &[u8]); 2] = [("x-images-idx3", b"hello, this is text"), ("x-labels-idx1", labels)];
    refused(&files, &[&mlp[..], &["x-images-idx3"]].concat(), &["magic number 0x00000803"]);
    refused(
        &[("x-images-idx3", &idx), ("x-labels-idx1", labels)],
        &[&mlp[..], &["x-images-idx3"]].concat(),
        &["claims 4294967295"],
    );
    let small =
        [&0x803u32.to_be_bytes()[..], &20u32.to_be_bytes(), &2u32.to_be_bytes(), &2u32.to_be_bytes(), &[7; 50]].concat();
    refused(
        &[("x-images-idx3", &small), ("x-labels-idx1", labels)],
        &[&mlp[..], &["x-images-idx3"]].concat(),
        &["truncated", "x-images-idx3"],
    );
    // A gzip header with nothing behind it.
    let gz: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    refused(
        &[("x-images-idx3.gz", gz), ("x-labels-idx1", labels)],
        &[&mlp[..], &["x-images-idx3.gz"]].concat(),
        &["x-images-idx3.gz"],
    );
}

#[test]
fn configs_that_do_not_parse_or_do_not_fit() {
    refused(&[], &["train", "--config", "none.toml"], &["none.toml"]);
    refused(&[("c.toml", b"steps = = 3")], &["train", "--config", "c.toml"], &["not TOML", "c.toml"]);
    refused(&[("c.toml", b"[train]\nbacth = 3")], &["train", "--config", "c.toml"], &["bacth", "c.toml"]);
    refused(&[("c.toml", b"[train]\nbatch = \"many\"")], &["train", "--config", "c.toml"], &["c.toml"]);
    refused(&[], &["train", "--set", "train.batch"], &["KEY=VALUE"]);
    refused(&[], &["train", "--set", "train.batch.size=3"], &["batch"]);
    refused(&[], &["train", "--set", "train.schedule.lr=nan"], &["lr"]);
    refused(&[], &["train", "--set", "train.model.heads=3"], &["heads", "divisor"]);
    refused(&[], &["train", "--set", "train.model.vocab=100"], &["--vocab", "token values for the data"]);
}

#[test]
fn runs_too_large_for_the_machine() {
    let dir = tempfile::tempdir().expect("a folder");
    let o = output(dir.path(), &["train", "--device", "cpu", "--batch-size", "1048576", "--seq-len", "1024"]);
    assert_eq!(o.status.code(), Some(3), "{}", stderr(&o));
    assert!(stderr(&o).starts_with("error: memory: expected a run of at most "), "{}", stderr(&o));
    refused(&[], &["train", "--batch-size", "1048576", "--seq-len", "8192"], &["(--batch-size)", "a smaller --batch-size or"]);
    refused(&[], &["train", "--set", "train.model.width=16777216"], &["elements"]);
    refused(&[], &["train", "--seq-len", "18446744073709551615"], &["--seq-len"]);
}

#[test]
fn folders_that_hold_something_are_not_written_to() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("used")).expect("a folder");
    std::fs::write(dir.path().join("used/notes.txt"), b"mine").expect("a file");
    let o = train(dir.path(), &["--steps", "1", "--out", "used"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("new or empty folder"), "{}", stderr(&o));
    assert_eq!(listing(&dir.path().join("used")), ["notes.txt"]);
}

#[test]
fn sampling_without_usable_weights() {
    refused(&[], &["sample"], &["no run of a gpt with weights", "--run"]);
    refused(&[], &["sample", "--run", "nowhere"], &["nowhere"]);
    let dir = tempfile::tempdir().expect("a folder");
    let o = train(dir.path(), &["--steps", "1", "--out", "r"]);
    assert_eq!(o.status.code(), Some(0), "{}", stderr(&o));
    let weights = dir.path().join("r/checkpoints/step-00000001/model.safetensors");
    let whole = std::fs::read(&weights).expect("weights");
    let says = |bytes: &[u8], parts: &[&str]| {
        std::fs::write(&weights, bytes).expect("weights");
        for args in [&["sample", "--run", "r", "--tokens", "1"][..], &["sample", "--run", "r/checkpoints/step-00000001"]] {
            let o = output(dir.path(), args);
            let message = stderr(&o);
            assert_eq!(o.status.code(), Some(2), "{message}");
            assert!(message.contains("model.safetensors") && !message.contains("panicked"), "{message}");
            assert!(parts.iter().all(|p| message.contains(p)), "{message}");
        }
    };
    let size = format!("expected {} bytes, found", whole.len());
    says(&whole[..whole.len() / 2], &[&size]);
    says(&[], &[&size, "found 0"]);
    let mut flipped = whole.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    says(&flipped, &["checksum"]);
    std::fs::remove_file(&weights).expect("weights");
    let o = output(dir.path(), &["sample", "--run", "r"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("model.safetensors"), "{}", stderr(&o));
    let o = output(dir.path(), &["sample", "--run", "."]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("found none of them"), "{}", stderr(&o));
}

#[test]
fn print_config_writes_no_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let o = mantissa(dir.path(), &[&["train", "--print-config"], &TINY[..]].concat()).output().expect("starts");
    assert_eq!(o.status.code(), Some(0));
    let table: toml::Table = stdout(&o).parse().expect("TOML");
    assert_eq!(table["train"]["batch"].as_integer(), Some(2));
    assert_eq!(listing(dir.path()), Vec::<String>::new());
    assert!(Path::new(env!("CARGO_BIN_EXE_mantissa")).is_file());
}

//! Data that is not plain text, and logs beside `events.jsonl`.

use super::{good, json_lines, listing, output, stderr, stdout, step_lines, train};
use std::path::Path;
use std::process::Output;

/// `train` with tiny sizes and samples.
fn train_and_sample(dir: &Path, args: &[&str]) -> Output {
    let sizes = ["train", "--batch-size", "2", "--seq-len", "32", "--eval-batches", "2", "--set", "train.model.layers=1"];
    output(dir, &[&sizes[..], args, &["--sample-tokens", "20"]].concat())
}

/// A nanoGPT data set of the three characters a, b and line break, with or without its characters.
fn token_files(dir: &Path, named: bool) {
    let file = |n: u16| (0..n).flat_map(|i| (i * i % 3).to_le_bytes()).collect::<Vec<u8>>();
    std::fs::create_dir_all(dir).expect("a folder");
    std::fs::write(dir.join("train.bin"), file(180)).expect("a file");
    std::fs::write(dir.join("val.bin"), file(60)).expect("a file");
    if named {
        std::fs::write(dir.join("meta.json"), r#"{"vocab_size": 3, "itos": {"0": "\n", "1": "a", "2": "b"}}"#).expect("a file");
    }
}

#[test]
fn token_files_train_and_sample_in_their_own_characters() {
    let dir = tempfile::tempdir().unwrap();
    token_files(&dir.path().join("d"), true);
    let o = good(train_and_sample(dir.path(), &["--data", "d", "--steps", "3", "--out", "r"]));
    assert!(stdout(&o).contains("180 tokens of 3 to learn from, 60 held out (val.bin)"), "{}", stdout(&o));
    // The run folder is enough.
    std::fs::remove_dir_all(dir.path().join("d")).unwrap();
    let text = stdout(&good(output(dir.path(), &["sample", "--run", "r", "--prompt", "ab", "--tokens", "30"])));
    assert!(
        text.starts_with("ab") && text.trim_end_matches('\n').len() > 2 && text.chars().all(|c| "ab\n".contains(c)),
        "{text}"
    );
    let o = output(dir.path(), &["sample", "--run", "r", "--prompt", "xyz"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("found 'x'"), "{}", stderr(&o));
}

#[test]
fn tokens_without_text_train_but_do_not_sample() {
    let dir = tempfile::tempdir().unwrap();
    token_files(&dir.path().join("d"), false);
    let o = good(train_and_sample(dir.path(), &["--data", "d/train.bin", "--steps", "2", "--out", "r"]));
    let all = stdout(&o) + &stderr(&o);
    assert!(all.contains("no samples: the tokens of the data have no text"), "{all}");
    let o = output(dir.path(), &["sample", "--run", "r"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("have no text"), "{}", stderr(&o));
}

#[test]
fn a_larger_vocabulary_raises_the_models_unless_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let tokens: Vec<u8> = (0..400u16).flat_map(u16::to_le_bytes).collect();
    std::fs::write(dir.path().join("x.bin"), tokens).unwrap();
    good(train(dir.path(), &["--data", "x.bin", "--steps", "1", "--out", "r"]));
    assert!(std::fs::read_to_string(dir.path().join("r/config.toml")).unwrap().contains("vocab = 448"));
    let o = train(dir.path(), &["--data", "x.bin", "--steps", "1", "--vocab", "399", "--out", "s"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(
        stderr(&o).contains("--vocab: expected at least 400 token values for the data, got 399; it lacks token 399 (1 x)"),
        "{}",
        stderr(&o)
    );
    for (bytes, part) in [(&[1u8, 0, 2][..], "(truncated)"), (&[], "an empty file"), (&[1, 0], "at least 33 tokens")] {
        std::fs::write(dir.path().join("x.bin"), bytes).unwrap();
        let o = train(dir.path(), &["--data", "x.bin", "--steps", "1", "--out", "s"]);
        assert_eq!(o.status.code(), Some(2));
        assert!(stderr(&o).contains(part), "{}", stderr(&o));
    }
    assert_eq!(listing(dir.path()), ["r", "x.bin"], "nothing is left behind");
}

#[test]
fn a_file_that_is_cut_while_it_is_in_use_ends_the_run_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    token_files(dir.path(), true);
    let flags = ["--data", "train.bin", "--steps", "1000000", "--checkpoint-every", "5", "--quiet", "--out", "r"];
    let mut run = super::mantissa(dir.path(), &[&["train"], &super::TINY[..], &flags].concat());
    let mut child = run.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let checkpoint = dir.path().join("r/checkpoints/step-00000005/DONE");
    while !checkpoint.is_file() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    std::fs::OpenOptions::new().write(true).open(dir.path().join("train.bin")).unwrap().set_len(10).unwrap();
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("train.bin") && stderr(&o).contains("was cut while it was in use"), "{}", stderr(&o));
    assert!(stderr(&o).contains("the run ends; step ") && stderr(&o).contains(" is saved"), "{}", stderr(&o));
}

/// A word-level tokenizer whose file is small.
#[cfg(feature = "tokenizer")]
pub(super) const TOKENIZER: &str = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
    "model":{"type":"WordLevel","vocab":{"[UNK]":0,"to":1,"be":2,"or":3,"not":4},"unk_token":"[UNK]"}}"#;

#[cfg(feature = "tokenizer")]
#[test]
fn a_tokenizer_turns_text_into_tokens_and_back() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.json"), TOKENIZER).unwrap();
    std::fs::write(dir.path().join("text.txt"), "to be or not to be ".repeat(100)).unwrap();
    let flags = ["--data", "text.txt", "--tokenizer", "t.json", "--steps", "2", "--vocab", "5", "--out", "r"];
    let o = good(train(dir.path(), &flags));
    assert!(stdout(&o).contains("600 tokens of 5"), "{}", stdout(&o));
    std::fs::remove_file(dir.path().join("t.json")).unwrap();
    let text = stdout(&good(output(dir.path(), &["sample", "--run", "r", "--prompt", "to be", "--tokens", "8"])));
    assert!(
        text.starts_with("to be ") && text.split_whitespace().all(|w| ["to", "be", "or", "not", "[UNK]"].contains(&w)),
        "{text}"
    );
    std::fs::write(dir.path().join("t.json"), &TOKENIZER[..50]).unwrap();
    let o = train(dir.path(), &["--data", "text.txt", "--tokenizer", "t.json", "--steps", "2", "--out", "s"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("not a Hugging Face tokenizer.json") && !stderr(&o).contains("panicked"), "{}", stderr(&o));
}

/// The folder of a byte-level GPT-2 of 256 tokens whose tokenizer has one more, `[PAD]`.
#[cfg(feature = "tokenizer")]
fn one_token_more(dir: &Path) {
    good(train(dir, &["--steps", "1", "--out", "small"]));
    std::fs::create_dir(dir.join("m")).expect("a folder");
    let checkpoint = dir.join("small/checkpoints/step-00000001");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(checkpoint.join(file), dir.join("m").join(file)).expect("a file");
    }
    let tokenizer = include_str!("../../../tests/cases/data/prefix-space-tokenizer.json");
    std::fs::write(dir.join("m/tokenizer.json"), tokenizer).expect("a file");
}

#[cfg(feature = "tokenizer")]
#[test]
fn a_tokenizer_may_have_tokens_that_the_model_lacks_and_no_text_uses() {
    let dir = tempfile::tempdir().unwrap();
    one_token_more(dir.path());
    std::fs::write(dir.path().join("notes.txt"), "plain words ".repeat(90)).unwrap();
    let flags = ["--init-from", "m", "--data", "notes.txt", "--steps", "1"];
    let o = good(train(dir.path(), &[&flags[..], &["--out", "r"]].concat()));
    assert!(stderr(&o).contains("the model has 256 of the 257 tokens of the vocabulary"), "{}", stderr(&o));
    good(output(dir.path(), &["sample", "--run", "r", "--prompt", "a", "--tokens", "5"]));
    let o = output(dir.path(), &["sample", "--run", "r", "--prompt", "a[PAD]b", "--tokens", "5"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("expected tokens of the model, which has 256, found token 256 `[PAD]`"), "{}", stderr(&o));
    std::fs::write(dir.path().join("notes.txt"), "plain [PAD] words ".repeat(90)).unwrap();
    let o = train(dir.path(), &[&flags[..], &["--out", "s"]].concat());
    assert_eq!(o.status.code(), Some(2));
    let text = "--vocab: expected at least 257 token values for the data, got 256; it lacks token 256 `[PAD]` (90 x)";
    assert!(stderr(&o).contains(text), "{}", stderr(&o));
}

#[cfg(feature = "tokenizer")]
#[test]
fn samples_are_text_whatever_the_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = include_str!("../../../tests/cases/data/mark-in-front-tokenizer.json");
    std::fs::write(dir.path().join("t.json"), tokenizer).unwrap();
    let flags = ["--tokenizer", "t.json", "--steps", "1", "--out", "r"];
    good(train(dir.path(), &flags));
    for seed in 0..6 {
        // A prompt that ends in a byte, and bytes behind it: those of a run that is no text are marks, all of them.
        let flags = ["sample", "--run", "r", "--prompt", "a\n", "--tokens", "40", "--temperature", "9", "--seed"];
        let o = good(output(dir.path(), &[&flags[..], &[seed.to_string().as_str()]].concat()));
        assert!(std::str::from_utf8(&o.stdout).is_ok(), "{:?}", stdout(&o));
    }
}

#[test]
fn logs_are_written_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        ["--steps", "4", "--recipe", "fp8-delayed", "--log", "csv,tensorboard", "--stats-every", "2", "--out", "r", "--json"];
    let o = good(train(dir.path(), &flags));
    let names = listing(&dir.path().join("r"));
    assert!(names.iter().any(|n| n.starts_with("events.out.tfevents.")), "{names:?}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join("r").join(name)).unwrap();
    let events = json_lines(&read("events.jsonl"));
    assert_eq!(events, json_lines(&stdout(&o)));
    let tensors: Vec<_> = events.iter().filter(|e| e.get("tensor").is_some()).collect();
    let steps: Vec<_> = tensors.iter().filter_map(|e| e["step"].as_u64()).collect();
    assert!(steps.len() >= 2 && steps.iter().filter(|s| **s == 2).count() == steps.iter().filter(|s| **s == 4).count());
    for e in &tensors {
        let t = &e["tensor"];
        assert!(t["name"].as_str().is_some_and(|n| n.starts_with("gpt.")), "{e}");
        let fp8 = ["e4m3", "e5m2"].contains(&t["dtype"].as_str().unwrap());
        for key in ["amax", "underflow", "saturated", "nonfinite", "l1", "l2", "zero", "subnormal"] {
            assert!(t[key].as_f64().is_some_and(|x| x >= 0.0), "{key} in {e}");
        }
        assert_eq!(fp8, t["scale"].as_f64().is_some_and(|x| x > 0.0), "{e}");
        let counts = t["histogram"]["counts"].as_array().unwrap();
        assert_eq!(counts.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), t["len"].as_u64().unwrap(), "{e}");
    }
    assert_eq!((read("steps.csv").lines().count(), read("evals.csv").lines().count()), (5, 2));
    assert_eq!(read("tensors.csv").lines().count(), 1 + tensors.len());
    let loss = step_lines(&stdout(&o))[0]["loss"].as_f64().unwrap() as f32;
    assert_eq!(read("steps.csv").lines().nth(1).unwrap().split(',').nth(1).unwrap().parse::<f32>().unwrap(), loss);
    let flags =
        ["--steps", "2", "--recipe", "bf16", "--stats-every", "2", "--stats", "gpt.h0.mlp.up", "--stats", "gpt.h0.*.*.dy"];
    let o = good(train(dir.path(), &[&flags[..], &["--json", "--out", "s"]].concat()));
    let names: Vec<String> =
        json_lines(&stdout(&o)).iter().filter_map(|e| Some(e.get("tensor")?["name"].as_str()?.to_string())).collect();
    assert_eq!(names.len(), 7 + 3, "{names:?}");
    for (flags, message) in [
        (&["--stats-every", "2", "--stats", "gpt.nothing"][..], "`gpt.nothing`"),
        (&["--stats", "gpt.**"], "--stats: expected --stats-every"),
    ] {
        let o = train(dir.path(), &[flags, &["--out", "t"]].concat());
        assert!(o.status.code() == Some(2) && stderr(&o).contains(message), "{}", stderr(&o));
        assert!(!dir.path().join("t").exists());
    }
    assert_eq!(train(dir.path(), &["--log", "xml"]).status.code(), Some(2));
}

#[test]
fn a_resumed_run_over_token_files_goes_on_in_every_log() {
    let dir = tempfile::tempdir().unwrap();
    token_files(&dir.path().join("d"), true);
    let flags = |steps, out| {
        ["--data", "d", "--schedule", "constant", "--warmup", "2", "--log", "csv,tensorboard", "--steps", steps, "--out", out]
    };
    good(train(dir.path(), &flags("6", "whole")));
    good(train(dir.path(), &flags("4", "parts")));
    // Rows that a crash left behind the checkpoint.
    let table = |run: &str| dir.path().join(run).join("steps.csv");
    let mut rows = std::fs::read_to_string(table("parts")).unwrap();
    rows.push_str("5,9,9,9,,9,9,,,,9,9,9\n6,9");
    std::fs::write(table("parts"), rows).unwrap();
    good(output(dir.path(), &["train", "--resume", "parts", "--steps", "6"]));
    let losses = |run: &str| -> Vec<String> {
        let text = std::fs::read_to_string(table(run)).unwrap();
        text.lines().map(|l| l.split(',').take(4).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(losses("parts").len(), 7);
    assert_eq!(losses("parts"), losses("whole"));
    let boards = listing(&dir.path().join("parts")).into_iter().filter(|n| n.contains("tfevents")).count();
    assert_eq!(boards, 2, "one for each start");
}

//! Weights on disk: written whole or not at all, readable by `sample`.

use super::{TINY, good, mantissa, output, stderr, stdout, train};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

#[test]
fn sample_writes_text_from_the_last_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ab.txt"), "ab".repeat(2000)).unwrap();
    for recipe in ["f32", "f16", "fp8-delayed", "mxfp8"] {
        let flags = ["--data", "ab.txt", "--steps", "60", "--lr", "3e-3", "--warmup", "5", "--recipe", recipe];
        good(train(dir.path(), &flags));
        let args = ["sample", "--prompt", "abab", "--tokens", "40", "--temperature", "0"];
        let text = stdout(&good(output(dir.path(), &args)));
        assert_eq!(text.trim_end(), "ab".repeat(22), "{recipe}: longer than the context, too");
        assert_eq!(stdout(&good(output(dir.path(), &args))), text);
    }
    let run = ["sample", "--run", "runs/gpt-tiny-f32-1", "--tokens", "5", "--top-k", "2", "--prompt", ""];
    good(output(dir.path(), &run));
}

#[test]
fn several_samples_differ_and_come_back_by_seed() {
    let dir = tempfile::tempdir().unwrap();
    good(train(dir.path(), &["--steps", "2", "--out", "r"]));
    std::fs::write(dir.path().join("prompt.txt"), "fn main").unwrap();
    let sample = |args: &[&str]| {
        stdout(&good(output(
            dir.path(),
            &[&["sample", "--run", "r", "--tokens", "12", "--prompt-file", "prompt.txt"], args].concat(),
        )))
    };
    let both = sample(&["--samples", "2", "--top-p", "0.9", "--top-k", "40"]);
    let texts: Vec<&str> = both.split("\n---------------\n").collect();
    assert!(texts.len() == 3 && texts[2].is_empty() && texts[0] != texts[1], "{both:?}");
    assert!(texts[..2].iter().all(|t| t.starts_with("fn main")), "{both:?}");
    // The text may end in a line break of its own, before the one that ends the output.
    let alone = sample(&["--seed", "1338", "--top-p", "0.9", "--top-k", "40"]);
    assert_eq!(alone.strip_suffix('\n'), Some(texts[1]));
    for bad in [["--top-p", "0"], ["--top-p", "1.5"], ["--prompt", "x"]] {
        let o = output(dir.path(), &[&["sample", "--run", "r", "--prompt-file", "prompt.txt"], &bad[..]].concat());
        assert_eq!(o.status.code(), Some(2), "{bad:?}");
    }
}

fn start(dir: &Path, args: &[&str]) -> Child {
    mantissa(dir, &[&["train"], &TINY[..], args].concat()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts")
}

/// Reads lines of `child` until `count` of them have come; the reader is returned so that the pipe stays open.
fn wait_for_lines(child: &mut Child, count: usize) -> BufReader<std::process::ChildStdout> {
    let mut reader = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    for _ in 0..count {
        line.clear();
        assert!(reader.read_line(&mut line).expect("readable") > 0, "the run ended early");
    }
    reader
}

#[test]
fn a_killed_run_leaves_whole_weights() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let out = format!("r{round}");
        // Saves after every step, so that a kill is likely to meet a write.
        let mut child = start(dir.path(), &["--steps", "100000", "--checkpoint-every", "1", "--json", "--out", &out]);
        let reader = wait_for_lines(&mut child, 5 + 3 * round);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(reader);
        let o = output(dir.path(), &["sample", "--run", &out, "--tokens", "1"]);
        assert_eq!(o.status.code(), Some(0), "round {round}: {}", stderr(&o));
    }
}

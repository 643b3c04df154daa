//! The command line from outside: the program is started as a user starts it, in a folder of its own.

mod cast;
mod crash;
mod data;
mod doctor;
mod dump;
mod forks;
mod gui;
mod history;
mod init_from;
mod looking;
mod moved;
mod nonfinite;
mod precision;
mod quiet;
mod refusals;
mod resume;
mod runs;
mod saving;
mod stats;
#[cfg(unix)]
mod stopping;
#[cfg(target_os = "linux")]
mod unwritable;

// Counts what needs a device; a test crate cannot depend on one that depends on its package.
#[expect(dead_code, unreachable_pub, reason = "another test program reads the tally")]
#[path = "../../../tests/src/device_checks.rs"]
mod device_checks;

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Flags of a run that takes a fraction of a second.
const TINY: [&str; 10] =
    ["--batch-size", "2", "--seq-len", "32", "--eval-batches", "2", "--sample-tokens", "0", "--set", "train.model.layers=1"];

/// Files of the checkpoint of a model of bytes, sorted.
const CHECKPOINT_FILES: [&str; 8] = [
    "DONE",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "optim.safetensors",
    "state.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Writes a text that does not change with the sources, as the built-in corpus does; its name.
fn fixed_text(dir: &Path) -> &'static str {
    std::fs::write(dir.join("text.txt"), include_str!("../../../LICENSE-APACHE")).expect("a temporary folder is writable");
    "text.txt"
}

/// The program, in `dir`.
fn mantissa(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mantissa"));
    command.current_dir(dir).args(args);
    command
}

fn output(dir: &Path, args: &[&str]) -> Output {
    mantissa(dir, args).output().expect("the program starts")
}

/// `train` with [`TINY`] sizes.
fn train(dir: &Path, args: &[&str]) -> Output {
    output(dir, &[&["train"], &TINY[..], args].concat())
}

fn stdout(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn stderr(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// Whether the program says that the machine lacks `device`, and `MANTISSA_REQUIRE` lets it.
fn lacks(device: &str, o: &Output) -> bool {
    let lacks = o.status.code() == Some(2) && stderr(o).contains("no adapter at all");
    if lacks {
        device_checks::skipped(device, "no adapter at all")
    } else {
        device_checks::ran()
    }
    lacks
}

/// The output, if the program succeeded.
#[track_caller]
fn good(o: Output) -> Output {
    assert_eq!(o.status.code(), Some(0), "stdout: {}\nstderr: {}", stdout(&o), stderr(&o));
    o
}

/// The JSON objects of a stream that holds nothing else.
#[track_caller]
fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// The lines about steps.
fn step_lines(text: &str) -> Vec<Value> {
    json_lines(text).into_iter().filter(|line| line["kind"] == "step").collect()
}

/// Names below a folder, sorted.
fn listing(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).map(|d| d.filter_map(|e| e.ok()).collect::<Vec<_>>()).unwrap_or_default();
    let mut names: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

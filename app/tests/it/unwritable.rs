//! Places that cannot be written: what fails beside training costs itself and a warning, never the run.

use super::{TINY, fixed_text, good, json_lines, listing, mantissa, output, stderr, stdout};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A model whose files are small.
const SMALL: [&str; 12] = [
    "--device",
    "cpu",
    "--data",
    "text.txt",
    "--eval-every",
    "0",
    "--set",
    "train.model.width=16",
    "--set",
    "train.model.heads=2",
    "--out",
    "r",
];

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it")
}

/// `train` of a small model, with files of at most `bytes`.
fn train_within(dir: &Path, bytes: u64, args: &[&str]) -> Output {
    fixed_text(dir);
    let args = [&["train"], &TINY[..], &SMALL, args].concat();
    limited(dir, &format!("--fsize={bytes}"), &args)
}

/// The program under a limit of `prlimit`, which is part of util-linux.
fn limited(dir: &Path, limit: &str, args: &[&str]) -> Output {
    let mut command = Command::new("prlimit");
    command.current_dir(dir).arg(limit).arg(env!("CARGO_BIN_EXE_mantissa")).args(args);
    command.output().expect("prlimit of util-linux")
}

#[test]
fn a_full_stdout_costs_its_lines_and_is_told_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for (out, flags) in [("a", &[][..]), ("b", &["--json"][..]), ("c", &["--quiet"][..])] {
        let args = [&["train"], &TINY[..], &["--steps", "3", "--out", out], flags].concat();
        let o = mantissa(dir.path(), &args).stdout(full()).output().unwrap();
        let err = stderr(&o);
        assert_eq!(o.status.code(), Some(2), "{out}: {err}");
        assert_eq!(err.matches("warning: cannot write to stdout: No space left on device").count(), 1, "{err}");
        assert!(err.contains("error: stdout did not take") && err.contains("done: 3 steps"), "{err}");
        assert!(dir.path().join(out).join("checkpoints/step-00000003/DONE").is_file(), "{err}");
    }
    let o = mantissa(dir.path(), &["sample", "--run", "a", "--tokens", "3"]).stdout(full()).output().unwrap();
    assert!(
        o.status.code() == Some(2) && stderr(&o).contains("cannot write the text to stdout: No space left"),
        "{}",
        stderr(&o)
    );
    let o = mantissa(dir.path(), &["train", "--print-config"]).stdout(full()).output().unwrap();
    assert!(o.status.code() == Some(2) && stderr(&o).contains("cannot write to stdout: No space left"), "{}", stderr(&o));
}

#[test]
fn a_reader_that_goes_away_costs_nothing_but_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&["train"], &TINY[..], &["--steps", "30", "--json", "--out", "r"]].concat();
    let mut child = mantissa(dir.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let o = good(child.wait_with_output().unwrap());
    assert_eq!(stderr(&o).matches("nobody reads stdout any more; the run goes on without it").count(), 1, "{}", stderr(&o));
    assert!(dir.path().join("r/checkpoints/step-00000030/DONE").is_file());
}

#[test]
fn log_lines_without_room_cost_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let o = train_within(dir.path(), 160 << 10, &["--steps", "900", "--log", "csv", "--quiet"]);
    let (code, err) = (o.status.code(), stderr(&o));
    // The run is whole, its log is not.
    assert!(code == Some(2) && err.contains("the run is saved, but"), "{err}");
    assert_eq!(err.matches("cannot write the event log").count(), 1, "{err}");
    assert!(
        err.contains("the run goes on, and the lines wait for room") && err.contains("lines of the logs are lost"),
        "{err}"
    );
    assert!(dir.path().join("r/checkpoints/step-00000900/DONE").is_file(), "{err}");
    let log = std::fs::read_to_string(dir.path().join("r/events.jsonl")).unwrap();
    let lines = json_lines(&log);
    assert!(log.ends_with('\n') && lines.len() < 900, "whole lines only, {} of them", lines.len());
    good(output(dir.path(), &["sample", "--run", "r", "--tokens", "1"]));
}

#[test]
fn a_checkpoint_without_room_is_tried_again_and_missed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let o = train_within(dir.path(), 16 << 10, &["--steps", "6", "--checkpoint-every", "2", "--quiet"]);
    let err = stderr(&o);
    assert_eq!(o.status.code(), Some(2), "{err}");
    assert_eq!(err.matches("warning: cannot write the checkpoint").count(), 1, "said in full once: {err}");
    assert!(err.contains("warning: 2 checkpoints in a row could not be written (") && !err.contains("3 checkpoints"), "{err}");
    assert!(err.contains("error: step 6 is not saved: ") && err.contains("no step is saved: r"), "{err}");
    assert_eq!(listing(&dir.path().join("r/checkpoints")), Vec::<String>::new());
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["train", "--help"], &["--version"]] {
        let o = mantissa(dir.path(), args).stdout(full()).output().unwrap();
        assert!(o.status.code() == Some(2) && stderr(&o).contains("cannot write to stdout: No space left"), "{}", stderr(&o));
    }
}

/// Steps until `step` is printed, then does something to the folder of the run; the rest of its output.
fn disturbed(dir: &Path, disturb: impl FnOnce()) -> Output {
    fixed_text(dir);
    let args = [&["train"], &TINY[..], &SMALL, &["--steps", "100000000", "--checkpoint-every", "0", "--json"]].concat();
    let mut child = mantissa(dir, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.starts_with("{\"kind\":\"step\",\"step\":3,") {
        line.clear();
        assert!(out.read_line(&mut line).expect("readable") > 0, "the run ended early");
    }
    disturb();
    // Read on, so that the run is not held up.
    let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).count());
    let o = child.wait_with_output().expect("an exit status");
    reader.join().expect("the reader ends");
    o
}

#[test]
fn a_run_folder_that_is_moved_gets_a_last_checkpoint_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("r"), dir.path().join("r2"));
    let o = disturbed(dir.path(), || std::fs::rename(&old, &new).unwrap());
    let err = stderr(&o);
    assert_eq!(o.status.code(), Some(2), "{err}");
    assert!(err.contains("the run folder r was moved; step") && err.contains("go on with --resume: r2"), "{err}");
    assert!(!old.exists());
    good(output(dir.path(), &["sample", "--run", "r2", "--tokens", "1"]));
}

#[test]
fn a_run_folder_that_is_removed_is_saved_beside() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("r");
    // In one go, as far as the run can see.
    let aside = tempfile::tempdir_in(dir.path()).unwrap();
    let o = disturbed(dir.path(), || {
        std::fs::rename(&old, aside.path().join("r")).unwrap();
        std::fs::remove_dir_all(aside.path()).unwrap();
    });
    let err = stderr(&o);
    assert_eq!(o.status.code(), Some(2), "{err}");
    assert!(err.contains("the run folder r was moved or removed; step") && err.contains("--resume: r-rescued-1"), "{err}");
    assert!(!old.exists());
    good(output(dir.path(), &["sample", "--run", "r-rescued-1", "--tokens", "1"]));
}

#[test]
fn a_limit_of_memory_is_an_error_with_both_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["train", "--device", "cpu", "--model", "gpt-mini", "--batch-size", "64", "--out", "r"];
    let o = limited(dir.path(), "--as=700000000", &args);
    let err = stderr(&o);
    assert_eq!(o.status.code(), Some(3), "{} {err}", stdout(&o));
    assert!(err.contains("available (by ulimit -v)") && err.contains("planned"), "{err}");
    assert!(!dir.path().join("r").exists(), "nothing is left");
}

//! `--on-nonfinite`: what a run does when a step is not finite, from outside.

use super::{fixed_text, good, json_lines, output, stderr, stdout, train};
use std::path::Path;
use std::process::Output;

/// A learning rate that breaks the weights in the first step, so that no later one is finite.
const LOST: [&str; 10] = ["--optim", "sgd", "--lr", "1e30", "--warmup", "0", "--grad-clip", "0", "--data", "text.txt"];

fn lost(dir: &Path, args: &[&str]) -> Output {
    fixed_text(dir);
    train(dir, &[&LOST[..], args].concat())
}

fn warnings(o: &Output) -> Vec<String> {
    stderr(o).lines().filter(|l| l.starts_with("warning: ")).map(String::from).collect()
}

#[test]
fn skipping_keeps_the_weights_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    for recipe in ["f32", "bf16", "fp8-current"] {
        let o = good(lost(dir.path(), &["--recipe", recipe, "--steps", "8", "--json", "--out", recipe]));
        let steps: Vec<_> = json_lines(&stdout(&o)).into_iter().filter(|v| v["lr"].is_number()).collect();
        assert!(steps[1..].iter().all(|s| s["found_inf"] == true), "{recipe}");
        assert_eq!(steps[7]["skipped"], 7, "{recipe}");
        let warnings = warnings(&o);
        assert_eq!(warnings.iter().filter(|w| w.contains("the weights are as before it")).count(), 1, "{warnings:?}");
        assert_eq!(warnings.iter().filter(|w| w.contains("the run stands still")).count(), 1, "{warnings:?}");
    }
}

#[test]
fn a_resumed_run_is_warned_as_if_it_had_never_ended() {
    let dir = tempfile::tempdir().unwrap();
    good(lost(dir.path(), &["--steps", "8", "--checkpoint-every", "4", "--keep", "0", "--out", "r"]));
    let told = || -> Vec<_> {
        let log = std::fs::read_to_string(dir.path().join("r/events.jsonl")).unwrap();
        json_lines(&log).into_iter().filter(|line| line.get("warning").is_some()).collect()
    };
    let whole = told();
    assert_eq!(whole.iter().map(|w| w["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 6]);
    let on = good(output(dir.path(), &["train", "--resume", "r/checkpoints/step-00000004", "--discard-newer"]));
    let steps: Vec<String> = warnings(&on).into_iter().filter(|w| w.contains(": step ")).collect();
    assert_eq!(steps.len(), 1, "the first was said before the checkpoint: {steps:?}");
    assert_eq!(told(), whole);
}

#[test]
fn stopping_explains_saves_and_exits_with_4() {
    let dir = tempfile::tempdir().unwrap();
    for recipe in ["f32", "f16", "fp8-delayed"] {
        let flags = ["--recipe", recipe, "--steps", "9", "--on-nonfinite", "stop", "--out", recipe];
        let o = lost(dir.path(), &flags);
        let text = stdout(&o);
        assert_eq!(o.status.code(), Some(4), "{recipe}: {text} {}", stderr(&o));
        for part in ["\nfatal", "instruction ", "recorded by Mantissa in: ", ".rs:", "reads ", "remedy", "stopped at step 2"] {
            assert!(text.contains(part), "{recipe}: expected {part:?} in {text}");
        }
        assert!(dir.path().join(recipe).join("checkpoints/step-00000002/DONE").is_file());
        // Going on skips what ended the run, whatever the policy is now.
        let on = output(dir.path(), &["train", "--resume", recipe, "--on-nonfinite", "skip", "--quiet"]);
        assert!(stdout(&good(on)).contains("done: 9 steps"), "{recipe}");
    }
}

#[test]
fn an_error_if_nonfinite_is_saved_too() {
    let dir = tempfile::tempdir().unwrap();
    for (policy, weights) in [("skip", "the weights before it"), ("ignore", "the weights after it")] {
        let flags = ["--recipe", "f32", "--steps", "9", "--error-if-nonfinite", "--on-nonfinite", policy, "--out", policy];
        let o = lost(dir.path(), &flags);
        assert_eq!(o.status.code(), Some(4), "{} {}", stdout(&o), stderr(&o));
        assert!(stdout(&o).contains("stopped at step 2") && stdout(&o).contains(weights), "{}", stdout(&o));
        assert!(dir.path().join(policy).join("checkpoints/step-00000002/DONE").is_file());
        let log = std::fs::read_to_string(dir.path().join(policy).join("events.jsonl")).unwrap();
        assert!(json_lines(&log).iter().any(|line| line["step"] == 2 && line["lr"].is_number()), "{log}");
    }
}

#[test]
fn a_run_of_mostly_skipped_steps_says_so_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let o = good(lost(dir.path(), &["--recipe", "f32", "--steps", "8", "--out", "r"]));
    let last = warnings(&o).pop().unwrap();
    assert!(last.contains("7 of 8 steps were skipped") && last.contains("mantissa doctor r"), "{last}");
}

#[test]
fn a_scaler_that_finds_its_scale_does_not_stop_a_run() {
    let dir = tempfile::tempdir().unwrap();
    fixed_text(dir.path());
    let flags = ["--recipe", "f16", "--init-scale", "1073741824", "--on-nonfinite", "stop", "--steps", "30"];
    let o = good(train(dir.path(), &[&flags[..], &["--data", "text.txt"]].concat()));
    assert!(stdout(&o).contains("recovered at loss_scale"), "{}", stdout(&o));
}

#[test]
fn the_policy_is_shown_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let shown = stdout(&good(train(dir.path(), &["--print-config"])));
    assert!(shown.contains("on_nonfinite = \"skip\""), "{shown}");
    let banner = stdout(&good(train(dir.path(), &["--steps", "1", "--on-nonfinite", "ignore"])));
    assert!(banner.contains("ignore (steps are applied)"), "{banner}");
    let o = train(dir.path(), &["--on-nonfinite", "explode"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("skip, stop, ignore"), "{}", stderr(&o));
}

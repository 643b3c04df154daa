//! What a run has done stays: damaged logs cost what is damaged, older checkpoints are gone on with beside the newer
//! ones, and what stands in the way of a checkpoint is no reason to end a run.

use super::resume::{checkpoint, copy, events, same_tensors};
use super::{TINY, good, listing, mantissa, output, stderr, stdout, train};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_else(|e| panic!("{e}: {}", path.display()))).into_owned()
}

/// Steps in the log of a run.
fn steps(run: &Path) -> Vec<u64> {
    let steps = events(run).into_iter().filter(|e| e.get("loss").is_some());
    steps.map(|e| e["step"].as_u64().expect("a step")).collect()
}

/// Steps in the first column of a table.
fn rows(table: &Path) -> Vec<u64> {
    text(table).lines().skip(1).map(|row| row.split(',').next().expect("a column").parse().expect("a step")).collect()
}

/// How often a tag stands in the TensorBoard files of a run.
fn tags(run: &Path, tag: &str) -> usize {
    let files = listing(run).into_iter().filter(|name| name.contains("tfevents"));
    files.map(|name| text(&run.join(name)).matches(tag).count()).sum()
}

#[test]
fn damaged_logs_cost_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--steps", "12", "--checkpoint-every", "6", "--log", "csv,tensorboard", "--out", "whole"];
    good(train(dir.path(), &flags));
    let (whole, run) = (dir.path().join("whole"), dir.path().join("r"));
    let log = text(&whole.join("events.jsonl"));
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let at = lines.iter().position(|line| line.starts_with("{\"kind\":\"step\",\"step\":5,")).unwrap();
    let later = lines[at].replacen("\"step\":5", "\"step\":999", 1);
    let bad = [
        "\n",
        "\0\0\0\0\n",
        "a note\n",
        "{\"loss\":1.0}\n",
        &lines[at][..20],
        &format!("{}{}", lines[at].trim(), lines[at]),
        &later,
    ];
    for bad in bad {
        let _ = std::fs::remove_dir_all(&run);
        copy(&whole, &run);
        std::fs::write(run.join("events.jsonl"), lines[..at].concat() + bad.trim_end() + "\n" + &lines[at + 1..].concat())
            .unwrap();
        let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "14"]));
        let said = format!("1 of {} lines of the event log", lines.len());
        assert!(stderr(&o).contains(&said) && stderr(&o).contains(&format!("line {}", at + 1)), "{bad:?}: {}", stderr(&o));
        assert_eq!(steps(&run), (1..=14).filter(|s| *s != 5).collect::<Vec<_>>(), "{bad:?}");
        assert!(stderr(&o).contains("1 of the 12 steps taken so far have no line"), "{}", stderr(&o));
        assert_eq!(rows(&run.join("steps.csv")), (1..=14).collect::<Vec<_>>());
        assert_eq!(text(&run.join("events.jsonl.damaged-1")).lines().count(), lines.len());
        // The log of the run that goes on is whole: nothing more is said.
        let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "15"]));
        assert!(!stderr(&o).contains("cannot be read") && !stderr(&o).contains("out of order"), "{}", stderr(&o));
    }
    // Tables and event files lose what is damaged, too.
    let _ = std::fs::remove_dir_all(&run);
    copy(&whole, &run);
    let table = text(&run.join("steps.csv"));
    std::fs::write(run.join("steps.csv"), table.replacen("\n5,", "\n5\",", 1)).unwrap();
    let board = run.join(listing(&run).into_iter().find(|n| n.contains("tfevents")).unwrap());
    let mut bytes = std::fs::read(&board).unwrap();
    let loss = bytes.windows(10).position(|w| w == b"train/loss").unwrap();
    bytes[loss] ^= 1;
    std::fs::write(&board, bytes).unwrap();
    let before = tags(&whole, "train/mfu");
    let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "14"]));
    assert!(stderr(&o).contains("1 of 13 lines of a table") && stderr(&o).contains("TensorBoard"), "{}", stderr(&o));
    assert_eq!(rows(&run.join("steps.csv")), (1..=14).filter(|s| *s != 5).collect::<Vec<_>>());
    assert_eq!((before, tags(&run, "train/mfu")), (12, 13));
    assert_eq!((tags(&run, "val/loss"), tags(&run, "val/val_loss")), (2, 0));
}

#[test]
fn a_log_that_is_gone_or_cut_is_told() {
    let dir = tempfile::tempdir().unwrap();
    good(train(dir.path(), &["--steps", "4", "--out", "r"]));
    let log = dir.path().join("r/events.jsonl");
    let whole = text(&log);
    std::fs::write(&log, whole.split_inclusive('\n').take(2).collect::<String>()).unwrap();
    let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "5"]));
    assert!(stderr(&o).contains("3 of the 4 steps taken so far have no line in the event log"), "{}", stderr(&o));
    std::fs::remove_file(&log).unwrap();
    let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "6"]));
    assert!(stderr(&o).contains("no line of the 5 steps taken so far"), "{}", stderr(&o));
}

/// Every file below a folder with its bytes.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for name in listing(dir) {
        let path = dir.join(&name);
        if path.is_dir() {
            out.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            out.push((name, std::fs::read(&path).expect("a file")));
        }
    }
    out
}

#[test]
fn an_older_checkpoint_goes_on_in_a_folder_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (run, branch) = (dir.path().join("r"), dir.path().join("r-from-3-1"));
    let flags = ["--steps", "9", "--checkpoint-every", "3", "--keep", "0", "--log", "csv,tensorboard", "--out", "r"];
    // With samples, of which the small runs take none.
    let tiny = TINY.map(|flag| if flag == "0" { "3" } else { flag });
    good(output(dir.path(), &[&["train", "--sample-every", "3"], &tiny[..], &flags[..]].concat()));
    let before = contents(&run);
    let o = good(output(dir.path(), &["train", "--resume", "r/checkpoints/step-00000003"]));
    assert!(stderr(&o).contains("goes on in a new folder") && stderr(&o).contains("r-from-3-1"), "{}", stderr(&o));
    assert!(stderr(&o).contains("--discard-newer") && stdout(&o).contains("r-from-3-1"), "{}", stdout(&o));
    assert_eq!(contents(&run), before, "the old run is as it was");
    // The branch is the run that never was anything else.
    assert_eq!(events(&branch), events(&run));
    same_tensors(&checkpoint(&branch, 9), &checkpoint(&run, 9));
    assert_eq!(listing(&branch.join("checkpoints")), ["step-00000003", "step-00000006", "step-00000009"]);
    assert_eq!(rows(&branch.join("steps.csv")), (1..=9).collect::<Vec<_>>());
    assert_eq!(listing(&branch.join("samples")), listing(&run.join("samples")));
    // It is a run like any other, and where it goes can be said.
    good(output(dir.path(), &["train", "--resume", "r-from-3-1", "--steps", "10"]));
    let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "10", "--out", "named"]));
    assert!(stderr(&o).contains("goes on in a new folder") && stderr(&o).contains("named"), "{}", stderr(&o));
    assert_eq!(steps(&dir.path().join("named")), (1..=10).collect::<Vec<_>>());
    assert_eq!(contents(&run), before);
    good(output(dir.path(), &["train", "--resume", "r/checkpoints/step-00000003", "--steps", "4"]));
    assert_eq!(steps(&dir.path().join("r-from-3-2")), [1, 2, 3, 4]);
}

#[test]
fn what_stands_in_the_way_of_a_checkpoint_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    good(train(dir.path(), &["--steps", "4", "--checkpoint-every", "1", "--keep", "2", "--out", "r"]));
    let checkpoints = dir.path().join("r/checkpoints");
    for name in ["step-00000005", ".removed-x", ".unfinished-step-00000006", ".removed-step-00000004"] {
        std::fs::write(checkpoints.join(name), "mine").unwrap();
    }
    std::fs::create_dir(checkpoints.join(".unfinished-step-00000001")).unwrap();
    let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "7"]));
    assert!(stderr(&o).contains("warning: ") && stderr(&o).contains("step-00000005.aside"), "{}", stderr(&o));
    let mine = [".removed-step-00000004", ".removed-x", ".unfinished-step-00000006", "step-00000005.aside"];
    assert_eq!(listing(&checkpoints), [&mine[..3], &["step-00000005.aside", "step-00000006", "step-00000007"]].concat());
    assert!(mine.iter().all(|name| text(&checkpoints.join(name)) == "mine"));
    good(output(dir.path(), &["train", "--resume", "r", "--steps", "8"]));
}

#[test]
fn a_damaged_checkpoint_names_the_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    good(train(dir.path(), &["--steps", "6", "--checkpoint-every", "3", "--keep", "0", "--out", "r"]));
    let weights = checkpoint(&dir.path().join("r"), 6).join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let o = output(dir.path(), &["train", "--resume", "r", "--steps", "8"]);
    let command = "the checkpoint of step 3 is whole: mantissa train --resume r/checkpoints/step-00000003";
    assert!(o.status.code() == Some(2) && stderr(&o).contains(command), "{}", stderr(&o));
    std::fs::remove_dir_all(checkpoint(&dir.path().join("r"), 3)).unwrap();
    let o = output(dir.path(), &["train", "--resume", "r", "--steps", "8"]);
    assert!(o.status.code() == Some(2) && stderr(&o).contains("no other checkpoint of the run is whole"), "{}", stderr(&o));
    std::fs::write(&weights, &whole).unwrap();
    // Without DONE it is passed over, which is reported.
    std::fs::create_dir(checkpoint(&dir.path().join("r"), 7)).unwrap();
    let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "8"]));
    assert!(stderr(&o).contains("passed over, since it has no DONE: r/checkpoints/step-00000007"), "{}", stderr(&o));
}

#[cfg(unix)]
#[test]
fn links_in_a_run_are_not_written_through() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    good(train(dir.path(), &["--steps", "2", "--log", "csv", "--out", "whole"]));
    let run = dir.path().join("r");
    let resume = |link: &str, to: &Path| {
        let _ = std::fs::remove_dir_all(&run);
        copy(&dir.path().join("whole"), &run);
        let link = run.join(link);
        if link.is_dir() {
            std::fs::remove_dir_all(&link).unwrap();
        }
        let _ = std::fs::remove_file(&link);
        symlink(to, &link).unwrap();
        let o = output(dir.path(), &["train", "--resume", "r", "--steps", "3", "--sample-tokens", "2"]);
        assert_eq!(text(&victim), "precious", "{}", link.display());
        o
    };
    for temporary in ["config.toml.tmp", "steps.csv.tmp", "evals.csv.tmp", "samples/step-00000003.txt.tmp", "events.jsonl.tmp"]
    {
        std::fs::create_dir_all(dir.path().join("whole/samples")).unwrap();
        good(resume(temporary, &victim));
    }
    for refused in ["events.jsonl", "steps.csv", "evals.csv"] {
        let o = resume(refused, &victim);
        assert!(o.status.code() == Some(2) && stderr(&o).contains("found a link"), "{refused}: {}", stderr(&o));
        assert!(stderr(&o).contains(&format!("r/{refused}")), "{}", stderr(&o));
    }
    let weights = dir.path().join("whole/checkpoints/step-00000002/model.safetensors");
    symlink(&victim, dir.path().join("o.safetensors.tmp")).unwrap();
    good(output(dir.path(), &["cast", "--to", "bf16", weights.to_str().unwrap(), "o.safetensors"]));
    assert_eq!(text(&victim), "precious");
}

#[cfg(unix)]
#[test]
fn of_runs_started_at_once_in_one_folder_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&["train"], &TINY[..], &["--steps", "1000000", "--quiet", "--out", "two"]].concat();
    let (send, ended) = mpsc::channel();
    let children: Vec<_> = (0..3)
        .map(|i| {
            let mut command = mantissa(dir.path(), &args);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
            let (send, mut err) = (send.clone(), child.stderr.take().expect("piped"));
            std::thread::spawn(move || {
                let mut text = String::new();
                let _ = std::io::Read::read_to_string(&mut err, &mut text);
                let _ = send.send((i, text));
            });
            child
        })
        .collect();
    let losers: Vec<(usize, String)> = ended.iter().take(2).collect();
    for (i, mut child) in children.into_iter().enumerate() {
        match losers.iter().find(|(loser, _)| *loser == i) {
            Some((_, text)) => {
                assert!(text.contains("in use"), "{text}");
                assert_eq!(child.wait().expect("an exit status").code(), Some(2));
            }
            None => child.kill().and_then(|()| child.wait().map(drop)).expect("killed"),
        }
    }
}

#[test]
fn numbers_of_set_are_spelled_as_in_flags() {
    let dir = tempfile::tempdir().unwrap();
    let lr = |args: &[&str]| {
        let o = good(output(dir.path(), &[&["train", "--print-config"], args].concat()));
        stdout(&o).parse::<toml::Table>().expect("TOML")["train"]["schedule"]["lr"].as_float()
    };
    for (text, expected) in [(".001", 0.001), ("1.", 1.0), ("1.e-3", 0.001)] {
        assert_eq!(lr(&["--set", &format!("train.schedule.lr={text}")]), Some(expected), "{text}");
        assert_eq!(lr(&["--lr", text]), Some(expected), "{text}");
    }
}

#[test]
fn an_object_that_is_long_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    good(train(dir.path(), &["--steps", "2", "--out", "r"]));
    let log = dir.path().join("r/events.jsonl");
    let sample = serde_json::json!({ "step": 2, "sample": "\u{1}".repeat(1 << 20) });
    std::fs::write(&log, format!("{}{sample}\n", text(&log))).unwrap();
    let o = good(output(dir.path(), &["doctor", "r", "--no-run", "--json"]));
    let v: Value = serde_json::from_str(&stdout(&o)).expect("JSON");
    assert_eq!(v["log"]["corrupt_lines"], 0, "{v}");
    let o = good(output(dir.path(), &["train", "--resume", "r", "--steps", "3"]));
    assert!(!stderr(&o).contains("event log"), "{}", stderr(&o));
    assert!(text(&log).contains(&sample.to_string()));
}

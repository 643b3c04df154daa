//! Going on from an older checkpoint in a folder of its own: whatever ends the process while that folder is filled, no
//! half of a run is left.

use super::resume::{checkpoint, events, same_tensors};
use super::{good, listing, mantissa, output, stderr, train};
use std::fs::File;
use std::path::Path;
use std::process::{Output, Stdio};

/// A sample that takes so long to copy that a process can be met while it does. It is a hole, and takes no room here.
const LARGE_BYTES: u64 = 1 << 28;
/// Kills that may come too early or too late before one must have met the copy.
const TRIES: usize = 20;

/// A run of ten steps in `r`, with checkpoints of the steps 5 and 10.
fn run(dir: &Path) {
    good(train(dir, &["--steps", "10", "--checkpoint-every", "5", "--keep", "0", "--out", "r"]));
}

const FORK: [&str; 5] = ["train", "--resume", "r/checkpoints/step-00000005", "--steps", "7"];

/// Every folder in `dir` that has a plain name is a run.
#[track_caller]
fn all_are_runs(dir: &Path) {
    for name in listing(dir).iter().filter(|name| !name.starts_with('.')) {
        assert!(dir.join(name).join("config.toml").is_file(), "{name} has no config: {:?}", listing(&dir.join(name)));
    }
}

/// The fork in `path` is the run up to its step 5, and two steps more.
#[track_caller]
fn is_whole(dir: &Path, path: &str) {
    let (run, fork) = (dir.join("r"), dir.join(path));
    same_tensors(&checkpoint(&run, 5), &checkpoint(&fork, 5));
    let steps: Vec<u64> = events(&fork).iter().filter(|e| e.get("loss").is_some()).filter_map(|e| e["step"].as_u64()).collect();
    assert_eq!(steps, (1..=7).collect::<Vec<_>>());
}

#[test]
fn a_process_that_is_killed_while_it_copies_leaves_no_half_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    std::fs::create_dir_all(dir.path().join("r/samples")).unwrap();
    File::create(dir.path().join("r/samples/step-00000003.txt")).unwrap().set_len(LARGE_BYTES).unwrap();
    for (out, unfinished) in [(None, ".unfinished-r-from-5"), (Some("named"), ".unfinished-named")] {
        let args = [&FORK[..], &out.map_or(vec![], |out| vec!["--out", out])].concat();
        let met = (0..TRIES).any(|_| {
            let mut child = mantissa(dir.path(), &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            while !dir.path().join(unfinished).exists() && child.try_wait().expect("a child of ours").is_none() {
                std::thread::yield_now();
            }
            child.kill().expect("SIGKILL");
            child.wait().expect("an exit status");
            all_are_runs(dir.path());
            dir.path().join(unfinished).exists()
        });
        assert!(met, "no kill met the copy");
        // The next attempt takes away what the killed one left.
        good(output(dir.path(), &args));
        assert!(!listing(dir.path()).iter().any(|name| name.starts_with(".unfinished")), "{:?}", listing(dir.path()));
        let newest = listing(dir.path()).into_iter().rfind(|name| name.starts_with(out.unwrap_or("r-from-5-"))).unwrap();
        is_whole(dir.path(), &newest);
    }
}

#[test]
fn what_a_killed_process_left_is_never_taken_for_a_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("runs")).unwrap();
    run(&dir.path().join("runs"));
    // Whole but for its name, and newer than the run.
    good(output(&dir.path().join("runs"), &[&FORK[..], &["--out", ".unfinished-r-from-5"]].concat()));
    let o = good(output(dir.path(), &["train", "--resume", "--steps", "11"]));
    assert!(!dir.path().join("runs/.unfinished-r-from-5/checkpoints/step-00000011").exists(), "{}", stderr(&o));
    assert!(dir.path().join("runs/r/checkpoints/step-00000011").is_dir());
}

/// The fork under a limit of `prlimit`, which is part of util-linux: files of at most `bytes`.
#[cfg(target_os = "linux")]
fn within(dir: &Path, bytes: u64, args: &[&str]) -> Output {
    let mut command = std::process::Command::new("prlimit");
    command.current_dir(dir).arg(format!("--fsize={bytes}")).arg(env!("CARGO_BIN_EXE_mantissa")).args(args);
    command.output().expect("prlimit of util-linux")
}

#[cfg(target_os = "linux")]
#[test]
fn a_copy_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let before = listing(&dir.path().join("r/checkpoints"));
    for out in [&[][..], &["--out", "new"], &["--out", "empty"]] {
        // Room for the log, but not for the weights.
        let o = within(dir.path(), 20_000, &[&FORK[..], out].concat());
        assert_eq!(o.status.code(), Some(2), "{}", stderr(&o));
        assert!(stderr(&o).contains("error: cannot copy r/checkpoints/step-00000005/"), "{}", stderr(&o));
        assert_eq!(listing(dir.path()), ["empty", "r"]);
        assert!(listing(&dir.path().join("empty")).is_empty());
        assert_eq!(listing(&dir.path().join("r/checkpoints")), before);
    }
    for (out, name) in [(&[][..], "r-from-5-1"), (&["--out", "new"], "new"), (&["--out", "empty"], "empty")] {
        good(output(dir.path(), &[&FORK[..], out].concat()));
        is_whole(dir.path(), name);
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_in_a_run_is_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path());
    std::fs::create_dir_all(dir.path().join("r/samples")).unwrap();
    for pipe in ["r/samples/step-00000002.txt", "r/checkpoints/step-00000005/pipe"] {
        let made = std::process::Command::new("mkfifo").arg(dir.path().join(pipe)).status();
        assert!(made.expect("mkfifo of coreutils").success());
    }
    good(output(dir.path(), &FORK));
    is_whole(dir.path(), "r-from-5-1");
}

//! Runs killed at random moments: whatever was being written, `--resume` goes on, and ends where an undisturbed run
//! ends.
//!
//! `MANTISSA_CRASH_SEED` repeats a failing sequence of moments, `MANTISSA_CRASH_KILLS` asks for more of them.

use super::{CHECKPOINT_FILES, good, json_lines, listing, mantissa, output, stderr};
use mantissa_core::rng::Rng;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const DEFAULT_KILLS: u64 = 100;
/// Latest moment of an early kill, from the start of the process.
const EARLY_MS: u64 = 200;
/// Most steps before another one. The next step is printed only after the checkpoint of the last, however slow the
/// disk.
const LATE_STEPS: u64 = 3;
/// Latest moment of that one, from the last of these steps.
const LATE_MS: u64 = 60;
/// A process that has taken no step by then has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run shows of itself.
enum Sign {
    /// It printed a step.
    Stepped,
    /// It ended, and wrote this on stderr.
    Ended(String),
}

/// Threads that read the output of `child` and tell of it.
fn watch(child: &mut Child) -> (mpsc::Receiver<Sign>, [JoinHandle<()>; 2]) {
    let (send, receive) = mpsc::channel();
    let (out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let stepped = send.clone();
    // The receiver may be gone by the time something happens: then nobody asks.
    let lines = std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        for _ in lines.filter(|line| line.starts_with("{\"kind\":\"step\"")) {
            let _ = stepped.send(Sign::Stepped);
        }
    });
    let end = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = err.read_to_string(&mut text);
        let _ = send.send(Sign::Ended(text));
    });
    (receive, [lines, end])
}

/// Waits for a random time of at most `ms`; what the run wrote, if it ended before.
fn ended_within(signs: &mpsc::Receiver<Sign>, rng: &mut Rng, ms: u64) -> Option<String> {
    let until = Instant::now() + Duration::from_micros(rng.below(ms * 1000));
    loop {
        match signs.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Sign::Stepped) => {}
            Ok(Sign::Ended(text)) => return Some(text),
            Err(_time_is_up) => return None,
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// A model small enough that most of the time goes into checkpoints; one is written after every step.
fn start(dir: &Path, resume: bool, steps: &str) -> Child {
    let fresh = [
        "--recipe",
        "f16",
        "--dropout",
        "0.1",
        "--grad-accum",
        "2",
        "--schedule",
        "constant",
        "--warmup",
        "0",
        "--seed",
        "3",
        "--set",
        "train.model.layers=1",
        "--set",
        "train.model.width=32",
        "--batch-size",
        "2",
        "--seq-len",
        "8",
        "--out",
        "r",
        "--eval-every",
        "2",
        "--eval-batches",
        "1",
        "--sample-tokens",
        "0",
        "--checkpoint-every",
        "1",
        "--keep",
        "2",
    ];
    let again = ["--resume", "r"];
    let args = [
        &["train", "--quiet", "--json", "--data", "t.txt", "--steps", steps][..],
        if resume { &again[..] } else { &fresh[..] },
    ]
    .concat();
    mantissa(dir, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
}

/// Every folder that has the name of a checkpoint has every file; `DONE` is not yet asked of them here, but of
/// `--resume`.
#[track_caller]
fn checkpoints_are_whole(run: &Path) -> Vec<String> {
    let names: Vec<String> = listing(&run.join("checkpoints")).into_iter().filter(|n| n.starts_with("step-")).collect();
    for name in &names {
        let files = listing(&run.join("checkpoints").join(name));
        assert_eq!(files, CHECKPOINT_FILES, "{name}");
    }
    names
}

#[test]
fn a_run_killed_at_random_moments_always_resumes() {
    let (seed, kills) = (number("MANTISSA_CRASH_SEED", 1), number("MANTISSA_CRASH_KILLS", DEFAULT_KILLS));
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("r");
    std::fs::write(dir.path().join("t.txt"), "the quick brown fox jumps over the lazy dog. ".repeat(60)).unwrap();
    let mut rng = Rng::new(seed, 0);
    let (mut unfinished, mut newest) = (0, 0);
    for kill in 0..kills {
        // Before its config is there, a run is not yet a run and may be started again.
        let resume = run.join("config.toml").is_file();
        let mut child = start(dir.path(), resume, "1000000");
        let (signs, watchers) = watch(&mut child);
        // One kill in four meets the start of the process, the others its steps and checkpoints, however slow the
        // machine is.
        let early = rng.below(4) == 0;
        let failed = |text: String| panic!("kill {kill} of seed {seed}: the run ended by itself: {text}");
        let steps = if early { 0 } else { 1 + rng.below(LATE_STEPS) };
        for _ in 0..steps {
            match signs.recv_timeout(PATIENCE) {
                Ok(Sign::Stepped) => {}
                Ok(Sign::Ended(text)) => failed(text),
                Err(e) => panic!("kill {kill} of seed {seed}: no step in {PATIENCE:?}: {e}"),
            }
        }
        if let Some(text) = ended_within(&signs, &mut rng, if early { EARLY_MS } else { LATE_MS }) {
            failed(text);
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("an exit status");
        watchers.into_iter().for_each(|w| w.join().expect("a watcher"));
        let names = checkpoints_are_whole(&run);
        unfinished += u64::from(listing(&run.join("checkpoints")).len() > names.len());
        let last = names.last().map_or(0, |n| n.trim_start_matches("step-").parse::<u64>().expect("a step"));
        assert!(last >= newest, "kill {kill} of seed {seed}: step {newest} was there, now {last} is the newest");
        newest = last;
    }
    assert!(newest >= kills / 10, "{newest} steps in {kills} processes: the kills came too early to mean anything");
    assert!(unfinished > 0, "no kill met a checkpoint that was being written");
    // The end, undisturbed, and the same run without any kill.
    let steps = (newest + 3).to_string();
    let finish = |child: Child| {
        let o = child.wait_with_output().expect("an exit status");
        assert_eq!(o.status.code(), Some(0), "{}", stderr(&o));
    };
    finish(start(dir.path(), true, &steps));
    let whole = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("t.txt"), whole.path().join("t.txt")).unwrap();
    finish(start(whole.path(), false, &steps));
    let last = format!("checkpoints/step-{:08}", newest + 3);
    for file in ["model.safetensors", "optim.safetensors"] {
        let read = |run: &Path| std::fs::read(run.join("r").join(&last).join(file)).expect("a file");
        assert!(read(dir.path()) == read(whole.path()), "{file} of step {steps}");
    }
    let seen = |run: &Path| -> Vec<(u64, Option<String>)> {
        let lines = json_lines(&std::fs::read_to_string(run.join("r/events.jsonl")).expect("events"));
        lines.iter().map(|e| (e["step"].as_u64().expect("a step"), e.get("loss").map(|l| l.to_string()))).collect()
    };
    // Every step is there once, with the same loss, and every evaluation, however often the process was killed before
    // it was done.
    let steps_of = |run: &Path| seen(run).into_iter().filter(|(_, loss)| loss.is_some()).collect::<Vec<_>>();
    assert_eq!(steps_of(dir.path()), steps_of(whole.path()));
    let evals_of = |run: &Path| -> Vec<(u64, String)> {
        let lines = json_lines(&std::fs::read_to_string(run.join("r/events.jsonl")).expect("events"));
        let evals = lines.iter().filter_map(|e| Some((e["step"].as_u64()?, e.get("val_loss")?.to_string())));
        evals.collect()
    };
    assert_eq!(evals_of(dir.path()), evals_of(whole.path()));
    assert_eq!(steps_of(dir.path()).len() as u64, newest + 3);
    good(output(dir.path(), &["sample", "--run", "r", "--tokens", "1"]));
}

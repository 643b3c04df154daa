//! `mantissa gui` finds the window program beside itself, or says how to get it.

use super::stderr;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a copy of the program that lies alone in `dir`.
fn alone(dir: &Path, args: &[&str]) -> Output {
    let program = dir.join(format!("mantissa{}", std::env::consts::EXE_SUFFIX));
    std::fs::copy(env!("CARGO_BIN_EXE_mantissa"), &program).expect("the program can be copied");
    Command::new(&program).args(args).output().expect("the copy starts")
}

#[test]
fn without_the_window_program_the_command_that_builds_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let o = alone(dir.path(), &["gui"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(stderr(&o).contains("cargo build --release --bin mantissa-gui"), "{}", stderr(&o));
}

#[cfg(unix)]
#[test]
fn runs_are_handed_on_to_the_window_program() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let window = dir.path().join("mantissa-gui");
    std::fs::write(&window, "#!/bin/sh\necho \"$@\"\ntest \"$1\" != bad\n").unwrap();
    std::fs::set_permissions(&window, std::fs::Permissions::from_mode(0o755)).unwrap();
    let o = alone(dir.path(), &["gui", "a", "b", "--attach", "c"]);
    assert_eq!((o.status.code(), String::from_utf8_lossy(&o.stdout).trim()), (Some(0), "a b --attach c"));
    assert_eq!(alone(dir.path(), &["gui", "bad"]).status.code(), Some(1), "the exit code of the window");
}

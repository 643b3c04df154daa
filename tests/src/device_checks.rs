//! A tally of the checks that need a device: which ran and which did not, for want of it. libtest hides what a passing
//! test prints, so every test process of one `cargo test` writes to one file, and `tests/zz_tally.rs`, which cargo runs
//! last, reads it.
//!
//! Used by test crates that cannot depend on this one, too, as a file of their own.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Variable with the devices that must be there, such as `wgpu`.
const REQUIRE: &str = "MANTISSA_REQUIRE";

/// A check that met a device, or none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Met {
    /// The test.
    pub check: String,
    /// Why it could not run; `None` if it did.
    pub skipped: Option<String>,
}

/// Counts the test that runs on this thread as one that met the device that it needs.
pub fn ran() {
    note(&Met { check: check(), skipped: None });
}

/// Counts the test that runs on this thread as skipped for want of `device`.
///
/// # Panics
/// If `MANTISSA_REQUIRE` names `device`.
pub fn skipped(device: &str, why: &str) {
    let required = std::env::var(REQUIRE).is_ok_and(|r| r.split(',').any(|d| d.trim() == device));
    assert!(!required, "{REQUIRE} names {device}: {why}");
    eprintln!("SKIPPED: no {device}: {why}");
    note(&Met { check: check(), skipped: Some(format!("no {device}")) });
}

/// What the test processes of this `cargo test` have counted, each check once; one that ran on some device is not
/// skipped. The tally is gone then, with those of other runs that nobody read.
pub fn take() -> Vec<Met> {
    let Some(file) = file() else { return Vec::new() };
    let met = read(&fs::read_to_string(&file).unwrap_or_default());
    if let Some(folder) = file.parent() {
        // The next run makes it anew.
        let _ = fs::remove_dir_all(folder);
    }
    met
}

fn read(text: &str) -> Vec<Met> {
    let line = |line: &str| {
        let (check, why) = line.split_once('\t')?;
        Some(Met { check: check.into(), skipped: (!why.is_empty()).then(|| why.into()) })
    };
    let all: BTreeSet<Met> = text.lines().filter_map(line).collect();
    let ran: BTreeSet<String> = all.iter().filter(|m| m.skipped.is_none()).map(|m| m.check.clone()).collect();
    all.into_iter().filter(|m| m.skipped.is_none() || !ran.contains(&m.check)).collect()
}

/// Adds a line. A tally that cannot be written costs no test.
fn note(met: &Met) {
    let Some(file) = file() else { return };
    let line = format!("{}\t{}\n", met.check, met.skipped.as_deref().unwrap_or_default());
    let _ = file.parent().map(fs::create_dir_all);
    let _ = OpenOptions::new().create(true).append(true).open(file).and_then(|mut f| f.write_all(line.as_bytes()));
}

/// Program and name of the test on this thread.
fn check() -> String {
    let program = std::env::current_exe().ok();
    let stem = program.as_deref().and_then(Path::file_stem).map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let thread = std::thread::current();
    format!("{stem}::{}", thread.name().unwrap_or("main"))
}

/// The file of this `cargo test`, in a folder beside those of the tests' programs: named by the process that started
/// them all.
fn file() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.join("device-checks").join(parent().to_string()))
}

#[cfg(unix)]
fn parent() -> u32 {
    std::os::unix::process::parent_id()
}

/// Elsewhere the runs of a folder share a tally; the last program of each takes it.
#[cfg(not(unix))]
fn parent() -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_counts_once_and_as_run_if_any_device_ran_it() {
        let met = read("a::x\t\na::x\t\na::y\tno wgpu\nb::x\tno wgpu\nb::x\t\ncut off");
        let counted: Vec<(&str, bool)> = met.iter().map(|m| (m.check.as_str(), m.skipped.is_some())).collect();
        assert_eq!(counted, [("a::x", false), ("a::y", true), ("b::x", false)]);
    }
}

//! Rules over the lines of one file.

use crate::repository::{File, clean, files, lines_with};

/// Rust files open with what they are.
fn opens_without_doc(f: &File) -> Vec<String> {
    let bad = f.is_rust() && !f.text.starts_with("//! ");
    bad.then(|| format!("{}: does not open with `//!`", f.path)).into_iter().collect()
}

/// Examples in documentation are run by a test: their text lies in a file of `core/docs`. Cargo's own run of them would
/// come after the tally.
fn untested_examples(f: &File) -> Vec<String> {
    let fence = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix("//!").or(line.strip_prefix("///")).and_then(|l| l.trim().strip_prefix("```").map(String::from))
    };
    let lines: Vec<&str> = if f.is_rust() { f.text.lines().collect() } else { Vec::new() };
    let fences: Vec<(usize, String)> = lines.iter().enumerate().filter_map(|(i, l)| Some((i, fence(l)?))).collect();
    let code = |info: &str| info.is_empty() || info.starts_with("rust") || info.starts_with("no_run");
    let included = |i: usize| lines.get(i + 1).is_some_and(|next| next.contains("include_str!"));
    let bad = fences.iter().step_by(2).filter(|(i, info)| code(info) && !included(*i));
    bad.map(|(i, _)| format!("{}:{}: an example that no test runs", f.path, i + 1)).collect()
}

/// 600 lines are the end, tests aside.
fn too_long(f: &File) -> Vec<String> {
    let n = f.text.lines().count();
    let bad = f.is_rust() && !f.is_test() && n > 600;
    bad.then(|| format!("{}: {n} lines, at most 600", f.path)).into_iter().collect()
}

/// Format constants stand in the format table.
fn format_constants(f: &File) -> Vec<String> {
    const CONSTANTS: [&str; 6] = ["448", "57344", "240", "65504", "464", "61440"];
    if !f.in_core() || f.is_test() || f.path == "core/src/dtype.rs" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (i, line) in f.code().lines().enumerate() {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        for word in words.map(|w| w.replace('_', "")) {
            if CONSTANTS.contains(&word.trim_end_matches("f32").trim_end_matches("f64")) {
                found.push(format!("{}:{}: format constant {word}; take it from DType::format", f.path, i + 1));
            }
        }
    }
    found
}

/// The library asks neither environment, files, clock, network nor terminal: they arrive as arguments.
fn outside_world(f: &File) -> Vec<String> {
    const WORLD: [&str; 9] =
        ["std::env", "std::fs", "std::net", "std::process", "std::time", "Instant::now", "SystemTime", "println!", "eprint"];
    if f.in_core() && !f.is_test() { lines_with(f, &f.code(), &WORLD) } else { Vec::new() }
}

/// The wgpu backend measures time, and keeps kernel choices in a folder that it is given. It asks nothing else.
fn outside_world_of_wgpu(f: &File) -> Vec<String> {
    const WORLD: [&str; 5] = ["std::env", "std::net", "SystemTime", "println!", "eprint"];
    let ours = f.path.starts_with("backend-wgpu/src/") && f.is_rust();
    if ours && !f.is_test() { lines_with(f, &f.code(), &WORLD) } else { Vec::new() }
}

/// Texts for people leave the programs through `out.rs`, which makes control characters printable.
fn past_the_way_out(f: &File) -> Vec<String> {
    const WAYS: [&str; 5] = ["println!", "eprint", " print!(", "io::stdout().lock", "writeln!(std::io"];
    let ours = ["app/src/", "app/dashboard/src/"].iter().any(|folder| f.path.starts_with(folder));
    let home = f.path == "app/src/out.rs";
    if ours && !f.is_test() && !home { lines_with(f, &f.code(), &WAYS) } else { Vec::new() }
}

/// Threads are used through `core/src/par/` only.
fn threads(f: &File) -> Vec<String> {
    let home = ["core/src/par/threads.rs", "core/src/backend.rs"].contains(&&*f.path); // `wait` in backend.rs yields its time slice
    if f.in_core() && !f.is_test() && !home { lines_with(f, &f.code(), &["rayon::", "std::thread"]) } else { Vec::new() }
}

/// Unfinished work and switched-off checks.
fn loose_ends(f: &File) -> Vec<String> {
    const ENDS: [&str; 6] = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "allow(unsafe_code", "allow(clippy::wildcard_enum"];
    let own = f.path.starts_with("tests/tidy/");
    if f.is_rust() && !own { lines_with(f, &f.text, &ENDS) } else { Vec::new() }
}

/// Paths of somebody's machine.
fn absolute_paths(f: &File) -> Vec<String> {
    let places: Vec<String> = ["home", "root", "work", "Users", "mnt"].iter().map(|top| format!("/{top}/")).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).chain(["C:\\"]).collect();
    if f.path.starts_with("tests/tidy/") { Vec::new() } else { lines_with(f, &f.text, &places) }
}

#[test]
fn every_file_keeps_the_rules() {
    type Rule = fn(&File) -> Vec<String>;
    let rules: [(&str, Rule); 10] = [
        ("files open with //!", opens_without_doc),
        ("examples in documentation are run", untested_examples),
        ("file length", too_long),
        ("format constants stand in dtype.rs", format_constants),
        ("core knows no environment, files, clock, network or terminal", outside_world),
        ("the wgpu backend knows no environment, network or terminal", outside_world_of_wgpu),
        ("texts for people go through app/src/out.rs", past_the_way_out),
        ("threads go through core/src/par", threads),
        ("no loose ends", loose_ends),
        ("no absolute paths", absolute_paths),
    ];
    let files = files();
    for (name, rule) in rules {
        clean(name, files.iter().flat_map(rule).collect());
    }
}

#[test]
fn each_rule_sees_a_planted_violation() {
    let core = |text: &str| File::of("core/src/op/x.rs", text);
    let one = |found: Vec<String>| assert_eq!(found.len(), 1, "{found:?}");
    one(opens_without_doc(&core("use std::fmt;\n")));
    one(untested_examples(&core("//! ```\n//! f();\n//! ```\n//! ```text\n//! f\n//! ```\n")));
    assert!(untested_examples(&core("//! ```\n#![doc = include_str!(\"x.rs\")]\n//! ```\n")).is_empty());
    one(too_long(&core(&"\n".repeat(601))));
    one(format_constants(&core("let max = 448.0_f32;\n")));
    one(format_constants(&core("let max = 57_344.0;\n")));
    one(outside_world(&core("let x = std::env::var(\"X\");\n")));
    one(outside_world_of_wgpu(&File::of("backend-wgpu/src/tune/x.rs", "let x = std::env::var(\"X\");\n")));
    one(past_the_way_out(&File::of("app/src/cli/x.rs", "eprintln!(\"{name}\");\n")));
    assert!(past_the_way_out(&core("println!();\n")).is_empty());
    one(threads(&core("rayon::join(a, b);\n")));
    one(loose_ends(&core("fn f() { todo!() }\n")));
    one(absolute_paths(&File::of("README.md", "see /home/me/file\n")));

    // Comments and tests are not code.
    let quiet = "//! 448\nlet a = 1; // std::env, 57344\n#[cfg(test)]\nmod tests {\n    const MAX: f32 = 448.0;\n}\n";
    assert!(format_constants(&core(quiet)).is_empty() && outside_world(&core(quiet)).is_empty());
    assert!(
        format_constants(&core("#[cfg(test)]\nmod tests;\nlet max = 448.0;\n")).len() == 1,
        "code after an outlined module"
    );
}

//! House rules that a compiler cannot check, over the text of the repository. Each rule also sees a planted violation in `rules_can_fail`.
//!
//! A rule returns what it found, one line a finding, so that a failure names every place at once.

use mantissa_core::precision::Recipe;
use mantissa_core::train::TrainConfig;
use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository.
struct File {
    /// Path from the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn of(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn in_core(&self) -> bool {
        self.path.starts_with("core/src/") && self.is_rust()
    }

    /// A file of tests, of what they share, or of lessons.
    fn is_test(&self) -> bool {
        let stem = self.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let shared = ["tests", "testing", "oracle"].contains(&stem) || stem.ends_with("_tests");
        shared || self.path.starts_with("tests/") || self.path.contains("/tests/")
    }

    /// The code: without comments and without the module of tests at the end.
    fn code(&self) -> String {
        let mut out = String::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.next() {
            let inline = lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
            if line == "#[cfg(test)]" && inline {
                break;
            }
            out.push_str(line.split("//").next().unwrap_or_default());
            out.push('\n');
        }
        out
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

/// All text files but build outputs, in a fixed order.
fn files() -> Vec<File> {
    const TEXT: [&str; 8] = ["rs", "toml", "md", "mjs", "svg", "wgsl", "cu", "snap"];
    fn walk(dir: &Path, root: &Path, out: &mut Vec<File>) {
        let mut entries: Vec<PathBuf> = fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            let skip =
                (name.starts_with('.') && name != ".ci") || ["target", "runs", "shared", "node_modules"].contains(&&*name);
            if skip {
                continue;
            }
            if path.is_dir() && path.join("CACHEDIR.TAG").is_file() {
                continue; // build outputs, whatever the folder is called
            }
            if path.is_dir() {
                walk(&path, root, out);
            } else if path.extension().is_some_and(|e| TEXT.iter().any(|t| e == *t))
                || name == "justfile"
                || path.parent().and_then(Path::file_name).is_some_and(|n| n == ".ci")
            {
                let relative = path.strip_prefix(root).expect("inside").to_string_lossy().replace('\\', "/");
                out.push(File { path: relative, text: fs::read_to_string(&path).expect("UTF-8 text") });
            }
        }
    }
    let mut out = Vec::new();
    walk(&root(), &root(), &mut out);
    assert!(out.len() > 100, "found only {} files", out.len());
    out
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[track_caller]
fn clean(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// Lines of `text` in which one of `words` occurs, as findings.
fn lines_with(file: &File, text: &str, words: &[&str]) -> Vec<String> {
    let hit = |line: &str| words.iter().find(|w| line.contains(**w)).copied();
    let found = text.lines().enumerate().filter_map(|(i, line)| hit(line).map(|w| (i, w)));
    found.map(|(i, w)| format!("{}:{}: `{w}`", file.path, i + 1)).collect()
}

// Rules.

/// Rust files open with what they are.
fn opens_without_doc(f: &File) -> Vec<String> {
    let bad = f.is_rust() && !f.text.starts_with("//! ");
    bad.then(|| format!("{}: does not open with `//!`", f.path)).into_iter().collect()
}

/// Examples in documentation are run by a test: their text lies in a file of `core/docs`. Cargo's own run of them would come after the tally.
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
    let own = f.path == "tests/tidy.rs";
    if f.is_rust() && !own { lines_with(f, &f.text, &ENDS) } else { Vec::new() }
}

/// Paths of somebody's machine.
fn absolute_paths(f: &File) -> Vec<String> {
    let places: Vec<String> = ["home", "root", "work", "Users", "mnt"].iter().map(|top| format!("/{top}/")).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).chain(["C:\\"]).collect();
    if f.path == "tests/tidy.rs" { Vec::new() } else { lines_with(f, &f.text, &places) }
}

/// What each folder of core may not know, by its place in the chain from bytes to training.
fn layers(f: &File) -> Vec<String> {
    const UPPER: [&str; 6] = ["crate::nn", "crate::model", "crate::optim", "crate::train", "crate::telemetry", "crate::data"];
    const POLICY: [&str; 2] = ["crate::precision", "crate::trace"];
    let forbidden: Vec<&str> = match f.path.strip_prefix("core/src/").and_then(|p| p.split(['/', '.']).next()) {
        Some("dtype" | "error" | "shape" | "rng" | "float" | "op") => {
            [&UPPER[..], &POLICY, &["crate::program", "crate::backend"]].concat()
        }
        Some("program" | "backend" | "cpu") => [&UPPER[..], &POLICY].concat(),
        Some("trace" | "nn") => ["crate::model", "crate::train", "crate::data"].to_vec(),
        _ => return Vec::new(),
    };
    if f.is_test() { Vec::new() } else { lines_with(f, &f.code(), &forbidden) }
}

/// Crates that a member may depend on, among ours.
fn crate_order(manifest: &str) -> Vec<String> {
    const MAY: [(&str, &[&str]); 7] = [
        ("mantissa-core", &[]),
        ("mantissa-lessons", &["mantissa-core"]),
        ("mantissa-shaders", &["mantissa-core"]),
        ("mantissa-backend-wgpu", &["mantissa-core", "mantissa-shaders"]),
        ("mantissa", &["mantissa-core", "mantissa-backend-wgpu"]),
        ("mantissa-dashboard", &["mantissa-core", "mantissa"]),
        ("mantissa-tests", &["mantissa-core", "mantissa-shaders", "mantissa-backend-wgpu", "mantissa"]),
    ];
    let table: toml::Table = toml::from_str(manifest).expect("a manifest is TOML");
    let name = table["package"]["name"].as_str().expect("a package has a name");
    let Some((_, may)) = MAY.iter().find(|(n, _)| *n == name) else {
        return vec![format!("{name}: not in the list of crates; say what it may depend on")];
    };
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let names = kinds.iter().filter_map(|k| table.get(*k)?.as_table()).flat_map(|t| t.keys());
    let bad = names.filter(|n| n.starts_with("mantissa") && !may.contains(&n.as_str()));
    bad.map(|n| format!("{name} depends on {n}")).collect()
}

/// Name and kernel stem of every row of the Op table.
fn op_table(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let mut parts = line.split_once("=> row(\"")?.1.split('"');
        Some((parts.next()?.to_string(), parts.nth(1)?.to_string()))
    };
    text.lines().filter_map(row).collect()
}

/// Stems without a kernel file, and why.
const NO_KERNEL: [(&str, &str); 3] = [
    ("reshape", "no data moves: the memory plan makes it a view"),
    ("zero", "a fill of bytes, in dispatch"),
    ("record", "the store of one scalar, in dispatch"),
];

/// Code blocks of a Markdown text with their language.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match line.trim_start().strip_prefix("```") {
            Some(language) if !open => {
                out.push((language.trim().to_string(), String::new()));
                open = true;
            }
            Some(_) => open = false,
            None if open => {
                let block = out.last_mut().expect("opened above");
                block.1.push_str(line);
                block.1.push('\n');
            }
            None => {}
        }
    }
    out
}

/// A TOML text as what it claims to be: a run, the part of it that core trains, or a recipe alone.
fn config(text: &str) -> Result<(), String> {
    let mut table = toml::from_str::<toml::Table>(text).map_err(|e| e.to_string())?;
    let train = table.remove("train").and_then(|v| v.as_table().cloned()).unwrap_or(table);
    let checked = if train.contains_key("model") {
        train.try_into::<TrainConfig>().map_err(|e| e.to_string())?.validate()
    } else {
        let recipe = train.get("recipe").and_then(|v| v.as_table().cloned()).unwrap_or(train);
        recipe.try_into::<Recipe>().map_err(|e| e.to_string())?.validate()
    };
    checked.map_err(|e| e.to_string())
}

/// Files that a Markdown text names: link targets, and code spans that start with a folder of ours.
fn named_files(text: &str) -> Vec<String> {
    let links = text.split("](").skip(1).filter_map(|t| t.split(')').next());
    let links =
        links.filter(|l| !l.contains("://") && !l.starts_with('#')).map(|l| l.split('#').next().unwrap_or(l).to_string());
    let spans = text.lines().flat_map(|l| l.split('`').skip(1).step_by(2));
    let ours = |s: &&str| ["core/", "app/", "tests/", "docs/", ".ci/"].iter().any(|d| s.starts_with(d));
    let plain = |s: &&str| s.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    links.chain(spans.filter(ours).filter(plain).map(String::from)).collect()
}

// Tests.

#[test]
fn every_file_keeps_the_rules() {
    type Rule = fn(&File) -> Vec<String>;
    let rules: [(&str, Rule); 10] = [
        ("files open with //!", opens_without_doc),
        ("examples in documentation are run", untested_examples),
        ("file length", too_long),
        ("format constants stand in dtype.rs", format_constants),
        ("core knows no environment, files, clock, network or terminal", outside_world),
        ("texts for people go through app/src/out.rs", past_the_way_out),
        ("threads go through core/src/par", threads),
        ("no loose ends", loose_ends),
        ("no absolute paths", absolute_paths),
        ("imports inside core go one way", layers),
    ];
    let files = files();
    for (name, rule) in rules {
        clean(name, files.iter().flat_map(rule).collect());
    }
}

#[test]
fn crates_import_one_way() {
    let workspace: toml::Table = toml::from_str(&read("Cargo.toml")).expect("a manifest is TOML");
    let members = workspace["workspace"]["members"].as_array().expect("members").clone();
    let manifest = |m: &toml::Value| read(&format!("{}/Cargo.toml", m.as_str().expect("a folder")));
    clean("crates import one way", members.iter().flat_map(|m| crate_order(&manifest(m))).collect());
}

#[test]
fn every_kernel_stem_has_its_file() {
    let table = op_table(&read("core/src/op/table.rs"));
    assert!(table.len() >= 30, "read only {} rows of the Op table", table.len());
    let exists = |stem: &str| root().join(format!("core/src/cpu/{stem}.rs")).is_file();
    let excepted = |stem: &str| NO_KERNEL.iter().any(|(s, _)| *s == stem);
    let missing = table.iter().filter(|(_, stem)| !exists(stem) && !excepted(stem));
    clean("stems without core/src/cpu/<stem>.rs", missing.map(|(op, stem)| format!("{op}: {stem}")).collect());
    let stale = NO_KERNEL.iter().filter(|(s, _)| exists(s) || !table.iter().any(|(_, stem)| stem == s));
    clean("exceptions that are none", stale.map(|(s, why)| format!("{s} ({why})")).collect());
}

/// Kernels that belong to no operation.
const NO_OPERATION: [(&str, &str); 9] = [
    ("attention_subgroup", "attention where subgroups have eight lanes"),
    ("cast_list", "the casts of many parameters in one launch"),
    ("f16_probe", "whether a device decodes f16 as the CPU does"),
    ("matmul_pack", "the operands of matmul_panels"),
    ("matmul_panels", "the products of matmul by subgroups, of operands laid out anew"),
    ("matmul_shared", "the products of matmul for GPUs"),
    ("matmul_subgroup", "the products of matmul by subgroups"),
    ("probe", "what a device does at most"),
    ("subgroup_probe", "whether subgroups are what kernels take them for"),
];

#[test]
fn every_kernel_stem_has_its_wgsl() {
    let table = op_table(&read("core/src/op/table.rs"));
    let exists = |stem: &str| ["wgsl", "wgsl.in"].iter().any(|end| root().join(format!("shaders/wgsl/{stem}.{end}")).is_file());
    let missing = table.iter().filter(|(_, stem)| stem != "reshape" && !exists(stem));
    clean("stems without shaders/wgsl/<stem>.wgsl", missing.map(|(op, stem)| format!("{op}: {stem}")).collect());
    let stems: Vec<String> =
        files().iter().filter_map(|f| Some(f.path.strip_prefix("shaders/wgsl/")?.strip_suffix(".wgsl")?.to_string())).collect();
    let known = |stem: &String| table.iter().any(|(_, s)| s == stem) || NO_OPERATION.iter().any(|(s, _)| s == stem);
    let strange = stems.iter().filter(|s| !s.contains('/') && !known(s));
    clean("kernels of no operation", strange.cloned().collect());
}

#[test]
fn every_example_config_parses() {
    let files = files();
    let markdown = files.iter().filter(|f| f.path.ends_with(".md"));
    let toml_blocks =
        markdown.flat_map(|f| blocks(&f.text).into_iter().filter(|b| b.0 == "toml").map(|b| (f.path.clone(), b.1)));
    let stored = files.iter().filter(|f| f.path.starts_with("configs/")).map(|f| (f.path.clone(), f.text.clone()));
    let configs: Vec<(String, String)> = toml_blocks.chain(stored).collect();
    assert!(!configs.is_empty(), "no example config found");
    let bad = configs.iter().filter_map(|(path, text)| config(text).err().map(|e| format!("{path}: {e}\n{text}")));
    clean("example configs parse", bad.collect());
}

#[test]
fn the_front_door_has_two_commands_and_ci_runs_them() {
    let readme = read("README.md");
    let first_screen = readme.lines().take(40).collect::<Vec<_>>().join("\n");
    let shell: Vec<String> = blocks(&first_screen)
        .into_iter()
        .filter(|b| b.0 == "sh")
        .flat_map(|b| b.1.lines().map(String::from).collect::<Vec<_>>())
        .collect();
    let commands: Vec<&str> = shell.iter().map(|l| l.split('#').next().unwrap_or(l).trim()).collect();
    let [run, test] = commands[..] else {
        panic!("the first screen of README.md has {} commands, not 2: {commands:?}", commands.len())
    };
    assert!(run.starts_with("cargo run") && test.starts_with("cargo test"), "{commands:?}");
    let ci = read(".ci/run");
    for command in [run, test] {
        assert!(ci.lines().any(|l| l.contains(command)), ".ci/run does not call `{command}`");
    }
}

#[test]
fn files_named_in_the_documents_exist() {
    let files = files();
    let markdown: Vec<&File> = files.iter().filter(|f| f.path.ends_with(".md")).collect();
    let count: usize = markdown.iter().map(|f| named_files(&f.text).len()).sum();
    assert!(count >= 20, "the documents name only {count} files");
    let missing = markdown.iter().flat_map(|f| {
        let folder = root().join(&f.path).parent().expect("a file lies in a folder").to_path_buf();
        named_files(&f.text)
            .into_iter()
            .filter(move |name| !folder.join(name).exists() && !root().join(name).exists())
            .map(|name| format!("{}: {name}", f.path))
    });
    clean("named files exist", missing.collect());
}

#[test]
fn lessons_are_short_and_numbered() {
    let files = files();
    let lessons: Vec<&File> = files.iter().filter(|f| f.path.starts_with("core/examples/") && f.is_rust()).collect();
    assert_eq!(lessons.len(), 5);
    for (i, f) in lessons.iter().enumerate() {
        assert!(f.path.starts_with(&format!("core/examples/0{}_", i + 1)), "{}", f.path);
        assert!(f.text.lines().count() < 120, "{} has {} lines", f.path, f.text.lines().count());
        assert!(f.text.contains("assert"), "{} asserts nothing", f.path);
    }
}

#[test]
fn rules_can_fail() {
    let core = |text: &str| File::of("core/src/op/x.rs", text);
    let one = |found: Vec<String>| assert_eq!(found.len(), 1, "{found:?}");
    one(opens_without_doc(&core("use std::fmt;\n")));
    one(untested_examples(&core("//! ```\n//! f();\n//! ```\n//! ```text\n//! f\n//! ```\n")));
    assert!(untested_examples(&core("//! ```\n#![doc = include_str!(\"x.rs\")]\n//! ```\n")).is_empty());
    one(too_long(&core(&"\n".repeat(601))));
    one(format_constants(&core("let max = 448.0_f32;\n")));
    one(format_constants(&core("let max = 57_344.0;\n")));
    one(outside_world(&core("let x = std::env::var(\"X\");\n")));
    one(past_the_way_out(&File::of("app/src/cli/x.rs", "eprintln!(\"{name}\");\n")));
    assert!(past_the_way_out(&core("println!();\n")).is_empty());
    one(threads(&core("rayon::join(a, b);\n")));
    one(loose_ends(&core("fn f() { todo!() }\n")));
    one(absolute_paths(&File::of("README.md", "see /home/me/file\n")));
    one(layers(&core("use crate::precision::Recipe;\n")));
    one(layers(&File::of("core/src/cpu/x.rs", "use crate::train::Session;\n")));
    one(crate_order("[package]\nname = \"mantissa-core\"\n[dependencies]\nmantissa-tests = \"1\"\n"));
    one(crate_order("[package]\nname = \"mantissa-new\"\n"));

    // Comments and tests are not code.
    let quiet = "//! 448\nlet a = 1; // std::env, 57344\n#[cfg(test)]\nmod tests {\n    const MAX: f32 = 448.0;\n}\n";
    assert!(format_constants(&core(quiet)).is_empty() && outside_world(&core(quiet)).is_empty());
    assert!(
        format_constants(&core("#[cfg(test)]\nmod tests;\nlet max = 448.0;\n")).len() == 1,
        "code after an outlined module"
    );

    assert_eq!(
        op_table("Op::Zero => row(\"zero\", \"zero_stem\", Keep, UPDATE),"),
        [("zero".to_string(), "zero_stem".to_string())]
    );
    assert!(config("name = \"bf16\"\nlow = \"bf16\"\n").is_ok());
    assert!(config("name = \"bf16\"\nmargin = 3\n").is_err());
    assert_eq!(named_files("a [link](docs/x.svg) and `core/src/y.rs`, not `core/<z>`"), ["docs/x.svg", "core/src/y.rs"]);
}

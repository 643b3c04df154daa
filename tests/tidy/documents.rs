//! What documents claim: configs parse, commands run in CI, named files exist, lessons are short.

use crate::repository::{File, clean, files, read, root};
use mantissa_core::precision::Recipe;
use mantissa_core::train::TrainConfig;

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
        // CI adds `--locked`, which a newcomer need not type.
        let called = ci.lines().any(|l| l.replace(" --locked", "").contains(command));
        assert!(called, ".ci/run does not call `{command}`");
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
fn configs_and_names_are_read() {
    assert!(config("name = \"bf16\"\nlow = \"bf16\"\n").is_ok());
    assert!(config("name = \"bf16\"\nmargin = 3\n").is_err());
    assert_eq!(named_files("a [link](docs/x.svg) and `core/src/y.rs`, not `core/<z>`"), ["docs/x.svg", "core/src/y.rs"]);
}

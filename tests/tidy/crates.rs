//! Which of our crates may depend on which.

use crate::repository::{clean, read};

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

#[test]
fn crates_import_one_way() {
    let workspace: toml::Table = toml::from_str(&read("Cargo.toml")).expect("a manifest is TOML");
    let members = workspace["workspace"]["members"].as_array().expect("members").clone();
    let manifest = |m: &toml::Value| read(&format!("{}/Cargo.toml", m.as_str().expect("a folder")));
    clean("crates import one way", members.iter().flat_map(|m| crate_order(&manifest(m))).collect());
}

#[test]
fn dependencies_upward_are_seen() {
    let one = |found: Vec<String>| assert_eq!(found.len(), 1, "{found:?}");
    one(crate_order("[package]\nname = \"mantissa-core\"\n[dependencies]\nmantissa-tests = \"1\"\n"));
    one(crate_order("[package]\nname = \"mantissa-new\"\n"));
}

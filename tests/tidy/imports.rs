//! Which file of a crate imports which: read from `use` trees and from paths in the code, tests left out.
//!
//! A path is followed through re-exports to the file that defines the item, so `trace::Var` counts as `trace/var.rs`.
//! Paths inside macros count like any other text.

use crate::repository::File;
use std::collections::{BTreeMap, BTreeSet};

/// Re-exports followed for one path.
const MAX_HOPS: usize = 8;

/// A file of a crate.
#[derive(Debug)]
struct Module {
    path: String,
    /// Names that a `pub use` passes on, and the paths they stand for.
    names: Vec<(String, Vec<String>)>,
    /// Every path that the code mentions, from `crate`, `self`, `super` or another crate.
    paths: Vec<Vec<String>>,
}

/// The files of one crate by module: `cpu::map`, or nothing for the root.
#[derive(Debug)]
pub(crate) struct Crate {
    modules: BTreeMap<String, Module>,
}

impl Crate {
    /// Reads the files under `src`, such as `core/src/`.
    pub(crate) fn read(files: &[File], src: &str) -> Crate {
        let own = files.iter().filter(|f| f.is_rust() && !f.is_test());
        let module = |f: &File| Some((module_of(f.path.strip_prefix(src)?)?, Module::of(f)));
        Crate { modules: own.filter_map(module).collect() }
    }

    /// Edges between files: importing module, imported module. The root, which names all others, is left out.
    pub(crate) fn edges(&self) -> BTreeSet<(String, String)> {
        let mut edges = BTreeSet::new();
        for (from, module) in self.modules.iter().filter(|(name, _)| !name.is_empty()) {
            let targets = module.paths.iter().filter_map(|p| self.resolve(p, from, MAX_HOPS));
            edges.extend(targets.filter(|to| to != from && !to.is_empty()).map(|to| (from.clone(), to)));
        }
        edges
    }

    /// Folders of the crate `name`, whose files are `of`, that a file here mentions: importing file, folder.
    pub(crate) fn mentions(&self, name: &str, of: &Crate) -> BTreeSet<(String, String)> {
        let foreign = |p: &[String]| (p.first()? == name).then(|| [&["crate".to_string()], &p[1..]].concat());
        let folder = |p: &Vec<String>| Some(folder_of(&of.resolve(&foreign(p)?, "", MAX_HOPS)?).to_string());
        let of_module = |m: &Module| m.paths.iter().filter_map(folder).map(|to| (m.path.clone(), to)).collect::<Vec<_>>();
        self.modules.values().flat_map(of_module).filter(|(_, to)| !to.is_empty()).collect()
    }

    /// The folders, or files at the top.
    pub(crate) fn folders(&self) -> BTreeSet<String> {
        self.modules.keys().map(|m| folder_of(m).to_string()).filter(|f| !f.is_empty()).collect()
    }

    /// Path of the file of a module.
    pub(crate) fn path(&self, module: &str) -> &str {
        &self.modules[module].path
    }

    /// The module that a path, mentioned in `from`, leads to; `None` for items of other crates.
    fn resolve(&self, path: &[String], from: &str, hops: usize) -> Option<String> {
        let mut here: Vec<&str> = from.split("::").filter(|s| !s.is_empty()).collect();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                here.clear();
                rest = &rest[1..];
            }
            "self" | "super" => {
                while let Some("self" | "super") = rest.first().map(String::as_str) {
                    if rest[0] == "super" {
                        here.pop()?;
                    }
                    rest = &rest[1..];
                }
            }
            first => {
                here.push(first);
                let child = self.modules.contains_key(&here.join("::"));
                here.pop();
                if !child {
                    return None;
                }
            }
        }
        while let Some(next) = rest.first() {
            here.push(next);
            if !self.modules.contains_key(&here.join("::")) {
                here.pop();
                break;
            }
            rest = &rest[1..];
        }
        let found = here.join("::");
        let module = self.modules.get(&found)?;
        let Some((item, hops)) = rest.first().zip(hops.checked_sub(1)) else { return Some(found) };
        let passed_on = module.names.iter().find(|(name, _)| name == item);
        Some(passed_on.and_then(|(_, path)| self.resolve(path, &found, hops)).unwrap_or(found))
    }
}

impl Module {
    fn of(file: &File) -> Module {
        let code = file.code();
        let (mut names, mut paths) = (Vec::new(), Vec::new());
        let mut rest = String::new();
        let mut lines = code.lines();
        while let Some(line) = lines.next() {
            let Some(tree) = use_tree(line) else {
                rest.push_str(line);
                rest.push('\n');
                continue;
            };
            let mut tree = tree.to_string();
            while !tree.contains(';') {
                let Some(more) = lines.next() else { break };
                tree.push_str(more.trim());
            }
            let leaves = leaves(tree.split(';').next().unwrap_or_default());
            paths.extend(leaves.iter().map(|(_, path)| path.clone()));
            names.extend(leaves.into_iter().filter(|_| line.trim_start().starts_with("pub")));
        }
        paths.extend(inline_paths(&rest));
        Module { path: file.path.clone(), names, paths }
    }
}

/// `core/src/trace/mod.rs` without its prefix as `trace`; `None` for a program.
fn module_of(path: &str) -> Option<String> {
    if path.starts_with("bin/") || path == "main.rs" {
        return None;
    }
    let module = path.trim_end_matches(".rs").replace('/', "::");
    Some(if module == "lib" { String::new() } else { module.trim_end_matches("::mod").to_string() })
}

/// The first part of a module.
pub(crate) fn folder_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// What follows `use` on a line that begins with it.
fn use_tree(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = ["pub(crate) ", "pub(super) ", "pub "].iter().find_map(|p| line.strip_prefix(p)).unwrap_or(line);
    line.strip_prefix("use ")
}

/// The names of a `use` tree with their paths: `a::{b, c as d}` gives `b` for `a::b` and `d` for `a::c`.
fn leaves(tree: &str) -> Vec<(String, Vec<String>)> {
    let tree = tree.trim();
    let Some((before, inner)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(p, a)| (p, Some(a)));
        let mut path: Vec<String> = path.split("::").map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect();
        if path.len() > 1 && path.last().is_some_and(|s| s == "self" || s == "*") {
            path.pop();
        }
        let name = alias.map(str::trim).or(path.last().map(String::as_str)).unwrap_or_default().to_string();
        return vec![(name, path)];
    };
    let inner = inner.rsplit_once('}').map_or(inner, |(inside, _)| inside);
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in inner.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().expect("never empty").push(c),
        }
    }
    let whole = parts.iter().filter(|p| !p.trim().is_empty()).map(|p| format!("{before}{}", p.trim()));
    whole.flat_map(|p| leaves(&p)).collect()
}

/// Paths in the code that begin with `crate`, `super` or one of our crates.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = Vec::new();
    for start in ["crate::", "super::", "mantissa_core::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with(|c| is_word(c) || c == ':') {
                continue;
            }
            let end = code[at..].find(|c| !is_word(c) && c != ':').map_or(code.len(), |n| at + n);
            let path = code[at..end].split("::").take_while(|s| !s.is_empty() && s.chars().all(is_word));
            out.push(path.map(String::from).collect());
        }
    }
    out
}

/// Groups of files that import each other in a circle. A module and those inside it are one thing: edges between them
/// do not count.
pub(crate) fn circles(edges: &BTreeSet<(String, String)>) -> Vec<Vec<String>> {
    let inside = |a: &str, b: &str| a.starts_with(&format!("{b}::"));
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (a, b) in edges.iter().filter(|(a, b)| !inside(a, b) && !inside(b, a)) {
        next.entry(a).or_default().insert(b);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|m| (*m, reach(m, &next))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (m, seen) in reached.iter().filter(|(m, seen)| seen.contains(*m)) {
        let both = |o: &&&str| reached.get(**o).is_some_and(|back| back.contains(m));
        found.insert(seen.iter().filter(both).map(|o| o.to_string()).collect());
    }
    found.into_iter().collect()
}

/// All modules that `from` imports, also through others.
fn reach<'a>(from: &'a str, next: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(at) = open.pop() {
        open.extend(next.get(at).into_iter().flatten().copied().filter(|to| seen.insert(*to)));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(files: &[(&str, &str)]) -> Crate {
        let files: Vec<File> = files.iter().map(|(p, t)| File::of(&format!("x/src/{p}"), t)).collect();
        Crate::read(&files, "x/src/")
    }

    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        crate_of(files).edges().into_iter().map(|(a, b)| format!("{a} -> {b}")).collect()
    }

    #[test]
    fn use_trees_inline_paths_and_re_exports_are_followed() {
        let files = [
            ("lib.rs", "pub mod a;\npub use a::Item;\n"),
            ("a/mod.rs", "pub mod deep;\npub use deep::{Item, other as Other};\n"),
            ("a/deep.rs", "use std::fmt;\nfn f() { let x = super::super::c::g(); }\n"),
            ("b.rs", "use crate::{\n    a::{self, Other},\n    c::*,\n};\n#[cfg(test)]\nmod tests {\n    use crate::d;\n}\n"),
            ("c.rs", "fn g() -> crate::Item {}\n// use crate::b;\n"),
            ("d.rs", "use mantissa_core::cpu;\n"),
        ];
        let expected = ["a -> a::deep", "a::deep -> c", "b -> a", "b -> a::deep", "b -> c", "c -> a::deep"];
        assert_eq!(edges(&files), expected);
        let core = crate_of(&[("lib.rs", ""), ("cpu/mod.rs", "")]);
        let mentioned: Vec<_> = crate_of(&files).mentions("mantissa_core", &core).into_iter().collect();
        assert_eq!(mentioned, [("x/src/d.rs".to_string(), "cpu".to_string())]);
    }

    #[test]
    fn circles_are_found_but_between_a_module_and_its_parts() {
        let circle = crate_of(&[
            ("lib.rs", ""),
            ("a.rs", "use crate::b::X;\n"),
            ("b.rs", "use crate::c::X;\n"),
            ("c.rs", "use crate::a::X;\n"),
            ("d.rs", "use crate::a::X;\nmod part;\nuse part::Y;\n"),
            ("d/part.rs", "use super::Z;\n"),
        ]);
        assert_eq!(circles(&circle.edges()), [["a", "b", "c"]]);
    }
}

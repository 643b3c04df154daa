//! The text files of the repository, and how findings about them are reported.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository.
pub(crate) struct File {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

impl File {
    pub(crate) fn of(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn in_core(&self) -> bool {
        self.path.starts_with("core/src/") && self.is_rust()
    }

    /// A file of tests, of what they share, or of lessons.
    pub(crate) fn is_test(&self) -> bool {
        let stem = self.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let shared = ["tests", "testing", "oracle"].contains(&stem) || stem.ends_with("_tests");
        shared || self.path.starts_with("tests/") || self.path.contains("/tests/")
    }

    /// The code: without comments and without the module of tests at the end.
    pub(crate) fn code(&self) -> String {
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

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

/// All text files but build outputs, in a fixed order.
pub(crate) fn files() -> Vec<File> {
    const TEXT: [&str; 9] = ["rs", "toml", "md", "mjs", "svg", "wgsl", "in", "cu", "snap"];
    fn walk(dir: &Path, root: &Path, out: &mut Vec<File>) {
        let mut entries: Vec<PathBuf> = fs::read_dir(dir).expect("readable").map(|e| e.expect("readable").path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            let outside = ["target", "runs", "node_modules"].contains(&&*name) || (name == "shared" && dir == root);
            let skip = outside || (name.starts_with('.') && name != ".ci");
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

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[track_caller]
pub(crate) fn clean(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// Lines of `text` in which one of `words` occurs, as findings.
pub(crate) fn lines_with(file: &File, text: &str, words: &[&str]) -> Vec<String> {
    let hit = |line: &str| words.iter().find(|w| line.contains(**w)).copied();
    let found = text.lines().enumerate().filter_map(|(i, line)| hit(line).map(|w| (i, w)));
    found.map(|(i, w)| format!("{}:{}: `{w}`", file.path, i + 1)).collect()
}

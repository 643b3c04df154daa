//! Rules over words and comments: the field's terms instead of old private ones, comments that fit a screen and name
//! files that exist, public functions of core that say when they fail, documents of bounded length.
//!
//! The table of old words is the one of `docs/glossary.md`. A word is refused in code, messages and documents alike.

use crate::repository::{File, clean, files, read};

/// Columns of a line of comment, indentation included.
const COLUMNS: usize = 120;

/// Files in which old words stay, and why.
const STAY: [(&str, &str); 2] = [("docs/glossary.md", "it lists the old words"), ("tests/tidy/words.rs", "it plants them")];

/// Old and new words, from the last table of the glossary.
fn old_words(glossary: &str) -> Vec<(String, String)> {
    let table = glossary.split("## Old words").nth(1).unwrap_or_default();
    let rows = table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| ---") && !l.starts_with("| old"));
    let cells = rows.map(|l| l.trim_matches('|').split('|').map(|c| c.trim().to_string()).collect::<Vec<_>>());
    let pairs = cells.filter_map(|c| Some((c.first()?.clone(), c.get(1)?.clone())));
    pairs
        .flat_map(|(old, new)| old.split(", ").map(|o| (o.trim_matches('`').to_string(), new.clone())).collect::<Vec<_>>())
        .collect()
}

/// Whether `word` stands in `line` as a whole word.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = line;
    let mut before = None;
    while let Some(at) = rest.find(word) {
        let left = rest[..at].chars().next_back().or(before);
        let right = rest[at + word.len()..].chars().next();
        if !left.is_some_and(inside) && !right.is_some_and(inside) {
            return true;
        }
        before = rest[..at + word.len()].chars().next_back();
        rest = &rest[at + word.len()..];
    }
    false
}

fn stale_words(f: &File, table: &[(String, String)]) -> Vec<String> {
    let text = ["rs", "wgsl", "md", "in"].iter().any(|end| f.path.ends_with(&format!(".{end}")));
    if !text || STAY.iter().any(|(path, ..)| f.path == *path) {
        return Vec::new();
    }
    let lines = f.text.lines().enumerate();
    let hits = lines.filter_map(|(i, line)| Some((i, table.iter().find(|(old, _)| has_word(line, old))?)));
    hits.map(|(i, (old, new))| format!("{}:{}: `{old}`; say {new}", f.path, i + 1)).collect()
}

fn is_source(f: &File) -> bool {
    f.is_rust() || f.path.ends_with(".wgsl") || f.path.ends_with(".wgsl.in")
}

/// A line that heads the columns of a table.
const TABLE: &str = "core/src/plan/device.rs";

/// Lines that are comments as a whole, with their numbers.
fn comments(f: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = f.text.lines().enumerate().map(|(i, l)| (i + 1, l));
    lines.filter(|(_, l)| l.trim_start().starts_with("//"))
}

fn wide_comments(f: &File) -> Vec<String> {
    if !is_source(f) || f.path == TABLE {
        return Vec::new();
    }
    let wide = comments(f).filter(|(_, l)| l.chars().count() > COLUMNS);
    wide.map(|(i, l)| format!("{}:{i}: {} columns, at most {COLUMNS}", f.path, l.chars().count())).collect()
}

/// Files with an ending of ours that a comment names: `cpu/unscale.rs`, `docs/precision.md`.
fn named_in(line: &str) -> Vec<&str> {
    let words = line.split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c)));
    let words = words.map(|w| w.trim_matches(|c| c == '.' || c == '/'));
    let ours = |w: &&str| w.contains('/') && [".rs", ".wgsl", ".wgsl.in"].iter().any(|end| w.ends_with(end));
    words.filter(|w| ours(w) || (w.starts_with("docs/") && w.ends_with(".md"))).collect()
}

/// Comments name files by the end of their path; each must be there.
fn lost_paths(f: &File, all: &[File]) -> Vec<String> {
    if !is_source(f) {
        return Vec::new();
    }
    let there = |name: &str| all.iter().any(|other| other.path == name || other.path.ends_with(&format!("/{name}")));
    let named = comments(f).flat_map(|(i, l)| named_in(l).into_iter().map(move |name| (i, name)));
    named.filter(|(_, name)| !there(name)).map(|(i, name)| format!("{}:{i}: {name}", f.path)).collect()
}

/// Sections of `docs/precision.md` that a comment cites: "docs/precision.md 2.4 and 2.5".
fn cited(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for tail in line.split("docs/precision.md ").skip(1) {
        for word in tail.split(' ') {
            let section = word.trim_end_matches([',', '.', ';', ':', ')']);
            let number = section.starts_with(|c: char| c.is_ascii_digit());
            let number = number && section.chars().all(|c| c.is_ascii_digit() || c == '.');
            if number {
                out.push(section.to_string());
            }
            let goes_on = number && !word.ends_with(['.', ';', ':', ')']);
            if !goes_on && !["and", "to"].contains(&word) {
                break;
            }
        }
    }
    out
}

fn lost_sections(f: &File, precision: &str) -> Vec<String> {
    let there = |section: &str| {
        let mark = if section.contains('.') { format!("### {section} ") } else { format!("## {section}. ") };
        precision.lines().any(|l| l.starts_with(&mark))
    };
    let lost = comments(f).flat_map(|(i, l)| cited(l).into_iter().map(move |s| (i, s)));
    lost.filter(|(_, s)| !there(s)).map(|(i, s)| format!("{}:{i}: docs/precision.md {s}", f.path)).collect()
}

/// Public functions of core that return `Result` say when they fail.
fn silent_failures(f: &File) -> Vec<String> {
    if !f.in_core() || f.is_test() {
        return Vec::new();
    }
    const SAYS: [&str; 4] = ["Fails", "efuse", "Error", "error"];
    let code = f.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let public = line.trim_start().starts_with("pub fn ");
        let signature: String = lines[i..]
            .iter()
            .scan(false, |done, l| {
                (!*done).then(|| {
                    *done = l.contains('{');
                    *l
                })
            })
            .collect();
        if !public || !signature.split("->").nth(1).is_some_and(|out| out.contains("Result<")) {
            continue;
        }
        let above =
            lines[..i].iter().rev().take_while(|l| l.trim_start().starts_with("///") || l.trim_start().starts_with("#["));
        if !above.into_iter().any(|l| SAYS.iter().any(|s| l.contains(s))) {
            found.push(format!("{}:{}: returns Result and does not say when it fails", f.path, i + 1));
        }
    }
    found
}

/// Documents that must be read in one go, and their lines.
const SHORT: [(&str, usize); 2] = [("README.md", 160), ("ARCHITECTURE.md", 250)];

fn too_long_to_read(f: &File) -> Vec<String> {
    let n = f.text.lines().count();
    let bad = SHORT.iter().filter(|(path, most)| f.path == *path && n > *most);
    bad.map(|(path, most)| format!("{path}: {n} lines, at most {most}")).collect()
}

#[test]
fn words_and_comments_keep_the_rules() {
    let (files, glossary, precision) = (files(), read("docs/glossary.md"), read("docs/precision.md"));
    let table = old_words(&glossary);
    assert!(table.len() >= 10, "read only {} old words from the glossary", table.len());
    let cites: usize = files.iter().flat_map(comments).map(|(_, l)| cited(l).len()).sum();
    assert!(cites >= 20, "comments cite only {cites} sections of docs/precision.md");
    clean("the field's words", files.iter().flat_map(|f| stale_words(f, &table)).collect());
    clean("comments fit", files.iter().flat_map(wide_comments).collect());
    clean("files named in comments exist", files.iter().flat_map(|f| lost_paths(f, &files)).collect());
    clean("sections cited in comments exist", files.iter().flat_map(|f| lost_sections(f, &precision)).collect());
    clean("functions of core say when they fail", files.iter().flat_map(silent_failures).collect());
    clean("documents are short", files.iter().flat_map(too_long_to_read).collect());
}

#[test]
fn rules_over_words_can_fail() {
    let one = |found: Vec<String>| assert_eq!(found.len(), 1, "{found:?}");
    let core = |text: &str| File::of("core/src/op/x.rs", text);
    let table = old_words("## Old words\n\n| old | say |\n| --- | --- |\n| `ailment`, `speak` | warning |\n");
    assert_eq!(table.len(), 2);
    one(stale_words(&core("// what they speak\n"), &table));
    assert!(stale_words(&core("// bespeak, speaker, speak_up\n"), &table).is_empty());
    one(wide_comments(&core(&format!("    // {}\nlet x = \"{0}\";\n", "a ".repeat(60)))));
    let all = [core(""), File::of("docs/precision.md", "## 2. Loss scaling\n\n### 2.4 Traces\n")];
    one(lost_paths(&core("// see op/x.rs and op/y.rs; torch/x.py\n"), &all));
    one(lost_paths(&core("// see docs/none.md\n"), &all));
    one(lost_sections(&core("// docs/precision.md 2.4 and 2.5.\n// docs/precision.md 2: all\n"), &all[1].text));
    one(silent_failures(&core(
        "/// Reads.\npub fn f(\n    x: u32,\n) -> Result<u32> {\n}\n/// Reads. Fails at 0.\npub fn g() -> Result<u32> {\n}\n",
    )));
    assert!(silent_failures(&core("/// Takes.\npub fn f(x: Result<u32>) -> u32 {\n}\n")).is_empty());
    one(too_long_to_read(&File::of("README.md", &"\n".repeat(161))));
}

//! Makes the built-in corpus: the text of this repository's own sources and documents, in a fixed order, one header
//! line per file.
//!
//! In a checkout it is the whole workspace; in a packaged crate, which has no workspace around it, this crate's own
//! sources.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What counts as a source or document.
const EXTENSIONS: [&str; 5] = ["cu", "md", "rs", "toml", "wgsl"];
/// Folders of outputs and of material that is not this repository's.
const SKIPPED: [&str; 4] = ["node_modules", "runs", "shared", "target"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let workspace = own.parent().filter(|p| p.join("core/src/lib.rs").is_file() && p.join("app/src/lib.rs").is_file());
    let root = workspace.unwrap_or(&own);
    let mut files = Vec::new();
    for entry in sorted(root)? {
        if skipped(&entry) {
            continue;
        }
        if entry.is_dir() {
            println!("cargo::rerun-if-changed={}", entry.display());
            collect(&entry, &mut files)?;
        } else if wanted(&entry) {
            println!("cargo::rerun-if-changed={}", entry.display());
            files.push(entry);
        }
    }
    let mut corpus = String::new();
    for file in files {
        // A file that is not text is no part of a corpus.
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let name = file.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
        writeln!(corpus, "==== {name} ====\n{}", text.replace('\r', "").trim_end())?;
        corpus.push('\n');
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("corpus.txt");
    std::fs::write(out, corpus)?;
    Ok(())
}

fn sorted(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut entries = std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn skipped(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A tagged folder is a cache, wherever it is and whatever it is called.
    name.starts_with('.') || SKIPPED.contains(&&*name) || path.is_symlink() || path.join("CACHEDIR.TAG").is_file()
}

fn wanted(path: &Path) -> bool {
    path.extension().is_some_and(|e| EXTENSIONS.iter().any(|w| e == *w))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in sorted(dir)? {
        if skipped(&entry) {
            continue;
        }
        if entry.is_dir() {
            collect(&entry, files)?;
        } else if wanted(&entry) {
            files.push(entry);
        }
    }
    Ok(())
}

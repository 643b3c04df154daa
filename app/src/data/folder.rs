//! The files below a folder, in an order of their own, and what was left out, counted by reason.
//!
//! Links to folders are followed, each folder once: what is there comes before what is linked, and a link to a folder
//! that holds the link is left out.

use crate::plain_file;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Names reported for each reason.
const NAMES: usize = 3;

/// Files that were left out: their names by reason.
#[derive(Debug, Default)]
pub struct LeftOut {
    by_reason: BTreeMap<String, Vec<String>>,
}

impl LeftOut {
    /// Leaves a file out.
    pub fn add(&mut self, reason: impl Into<String>, path: &Path) {
        self.by_reason.entry(reason.into()).or_default().push(path.display().to_string());
    }

    /// One line for people; `None` if nothing was left out.
    pub fn note(&self) -> Option<String> {
        let told = |(reason, names): (&String, &Vec<String>)| {
            let more = if names.len() > NAMES { ", .." } else { "" };
            format!("{} {reason} ({}{more})", names.len(), names[..names.len().min(NAMES)].join(", "))
        };
        let parts: Vec<String> = self.by_reason.iter().map(told).collect();
        (!parts.is_empty()).then(|| format!("left out: {}", parts.join("; ")))
    }
}

/// Plain files below `root`, sorted, but hidden ones.
pub fn files(root: &Path, left_out: &mut LeftOut) -> Result<Vec<PathBuf>> {
    let mut walk = Walk { files: Vec::new(), seen: BTreeSet::new(), links: Vec::new() };
    walk.folder(root, left_out)?;
    // Links that lie behind links come later still.
    while !walk.links.is_empty() {
        let mut links = std::mem::take(&mut walk.links);
        links.sort();
        for link in links {
            walk.link(&link, left_out)?;
        }
    }
    walk.files.sort();
    Ok(walk.files)
}

struct Walk {
    files: Vec<PathBuf>,
    /// Folders read, by the name that no link is part of.
    seen: BTreeSet<PathBuf>,
    /// Links to folders that are still to be followed.
    links: Vec<PathBuf>,
}

impl Walk {
    fn folder(&mut self, dir: &Path, left_out: &mut LeftOut) -> Result<()> {
        let context = || format!("cannot read the folder: {}", dir.display());
        if !self.seen.insert(dir.canonicalize().with_context(context)?) {
            left_out.add("read already, by another name", dir);
            return Ok(());
        }
        for entry in std::fs::read_dir(dir).with_context(context)? {
            let entry = entry.with_context(context)?;
            let (path, kind) = (entry.path(), entry.file_type().with_context(context)?);
            if entry.file_name().to_string_lossy().starts_with('.') {
                left_out.add("hidden", &path);
                continue;
            }
            if kind.is_dir() {
                self.folder(&path, left_out)?;
                continue;
            }
            // Of a link, what it leads to.
            match std::fs::metadata(&path).map(|meta| meta.file_type()) {
                Err(_) => left_out.add("unreadable or linked to nothing", &path),
                Ok(kind) if kind.is_file() => self.files.push(path),
                Ok(kind) if kind.is_dir() => self.links.push(path),
                Ok(kind) => left_out.add(format!("no file but {}", plain_file::kind(kind)), &path),
            }
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, left_out: &mut LeftOut) -> Result<()> {
        let context = || format!("cannot read the folder: {}", path.display());
        let target = path.canonicalize().with_context(context)?;
        let place = path.parent().unwrap_or(path).canonicalize().with_context(context)?;
        if place.starts_with(&target) {
            left_out.add("linked to a folder that holds it", path);
            return Ok(());
        }
        self.folder(path, left_out)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn folders_are_read_once_and_what_is_left_out_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("d");
        std::fs::create_dir_all(root.join("z")).unwrap();
        std::fs::create_dir_all(dir.path().join("other/deep")).unwrap();
        for file in ["d/a.txt", "d/z/b.txt", "other/deep/c.txt", "d/.hidden"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        symlink(root.join("z"), root.join("again")).unwrap();
        symlink(dir.path().join("other"), root.join("more")).unwrap();
        symlink(dir.path().join("other/deep"), root.join("some")).unwrap();
        symlink("..", root.join("loop")).unwrap();
        symlink("../..", root.join("z/loop")).unwrap();
        symlink("/nonexistent", root.join("gone.txt")).unwrap();
        symlink(root.join("a.txt"), root.join("file.txt")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s.txt")).unwrap();
        let mut left_out = LeftOut::default();
        let files = files(&root, &mut left_out).unwrap();
        let names: Vec<String> = files.iter().map(|f| f.strip_prefix(&root).unwrap().display().to_string()).collect();
        assert_eq!(names, ["a.txt", "file.txt", "more/deep/c.txt", "z/b.txt"]);
        let note = left_out.note().unwrap().replace(&root.display().to_string(), "d");
        assert_eq!(
            note,
            "left out: 1 hidden (d/.hidden); 2 linked to a folder that holds it (d/loop, d/z/loop); 1 no file but a socket (d/s.txt); \
             2 read already, by another name (d/again, d/some); 1 unreadable or linked to nothing (d/gone.txt)"
        );
    }

    #[test]
    fn long_lists_are_cut() {
        let mut left_out = LeftOut::default();
        assert_eq!(left_out.note(), None);
        (0..5).for_each(|i| left_out.add("odd", Path::new(&i.to_string())));
        assert_eq!(left_out.note().unwrap(), "left out: 5 odd (0, 1, 2, ..)");
    }
}

//! Files that are replaced as a whole, and what stands in their way.
//!
//! A whole file is written under a temporary name in the same folder, synced and renamed: whatever happens, it is the
//! old one or the new one. Links are never written through: a folder may come from somebody else.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Names tried for a file that is kept aside.
const MAX_ASIDE: usize = 10_000;

/// Writes a whole file: under a temporary name beside it, synced, renamed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_through(path, |file| Ok(file.write_all(bytes)?))
}

/// As [`write_whole`], for contents that are written bit by bit.
pub fn write_through(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    replace(path, |temporary| {
        let mut file = File::create_new(temporary)?;
        fill(&mut file)?;
        Ok(file.sync_all()?)
    })
}

/// The name beside `path` under which its new contents are written.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Puts what `write` makes (and syncs) under a temporary name in the place of `path`.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary(path);
    remove_leftover(&temporary)?;
    let rename = || -> Result<()> {
        write(&temporary)?;
        std::fs::rename(&temporary, path)?;
        Ok(sync_parent(path)?)
    };
    rename().with_context(|| {
        // The first error is the one to report; a leftover is removed by the next write.
        let _ = std::fs::remove_file(&temporary);
        format!("cannot write the file: {}", path.display())
    })
}

/// Removes what an earlier write left under its temporary name. A link there is removed itself: what it leads to is
/// somebody else's.
pub fn remove_leftover(temporary: &Path) -> Result<()> {
    match std::fs::remove_file(temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove what stands in the way: {}", temporary.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a new name last: the folder of `path` is synced. Only Unix lets a folder be opened for that.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    sync_folder(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Makes the names in a folder last.
pub fn sync_folder(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Refuses what is no file of its own: a link in a run folder may lead anywhere, and what is written is to stay in the
/// folder.
pub fn refuse_link(path: &Path) -> Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot read the file: {}", path.display())),
    };
    if kind.is_symlink() {
        bail!("expected a file, found a link, which is not written through: {}", path.display());
    }
    if !kind.is_file() {
        bail!("expected a file, found something else: {}", path.display());
    }
    Ok(())
}

/// Gives the file at `path` a second name beside it, `name` and a number, or a copy where a file system has no such
/// names; returns it.
pub fn keep_aside(path: &Path, name: &str) -> Result<PathBuf> {
    for n in 1..=MAX_ASIDE {
        let aside = path.with_file_name(format!("{name}.damaged-{n}"));
        match std::fs::hard_link(path, &aside) {
            Ok(()) => return Ok(aside),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(_) => {
                let mut copy = match OpenOptions::new().write(true).create_new(true).open(&aside) {
                    Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
                    opened => opened.with_context(|| format!("cannot keep a copy: {}", aside.display()))?,
                };
                let copied = File::open(path).and_then(|mut from| std::io::copy(&mut from, &mut copy));
                copied.with_context(|| format!("cannot keep a copy: {}", aside.display()))?;
                return Ok(aside);
            }
        }
    }
    bail!("expected a free name for a copy, found {MAX_ASIDE} taken: {}", path.display())
}

/// Whether two open files are one, as far as a system can tell.
pub fn same_file(a: &File, b: &File) -> std::io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    }
    #[cfg(not(unix))]
    {
        // Without numbers of files, a file that was made at another time is another one.
        Ok(a.created().ok() == b.created().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bin");
        write_whole(&path, b"old").unwrap();
        write_whole(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bin");
        write_whole(&path, b"old").unwrap();
        // A folder in the place of the temporary file makes the write fail.
        std::fs::create_dir(dir.path().join("x.bin.tmp")).unwrap();
        assert!(write_whole(&path, b"new").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}

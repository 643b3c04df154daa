//! Files that a person or another file names are opened only if they are plain files: a pipe would wait for its other
//! end, and a device may never end.

use crate::files::temporary;
use anyhow::{Result, bail};
use std::fs::{File, FileType};
use std::io::Read;
use std::path::Path;

/// Opens a file for reading; its size in bytes. Whatever is no plain file (or a link to one) is refused by what it is.
pub fn open(path: &Path) -> Result<(File, u64)> {
    // Asked before it is opened, since opening a pipe waits.
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        bail!("expected a file, found {}", kind(meta.file_type()));
    }
    Ok((File::open(path)?, meta.len()))
}

/// Contents of a file of at most `max_bytes`.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let (file, size) = open(path)?;
    if size > max_bytes {
        bail!("expected at most {max_bytes} bytes, found {size}");
    }
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        bail!("expected at most {max_bytes} bytes, found more");
    }
    Ok(bytes)
}

/// Refuses to write `output` where that is the file `input`, under whatever name or link, or where it is first written
/// in the place of `input`. `command` is who asks.
pub fn refuse_same(command: &str, input: &Path, output: &Path) -> Result<()> {
    // The comparison opens both, which a pipe would not let it. An error means that one is not there: then they are not
    // the same.
    let plain = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file());
    let same = |path: &Path| plain(input) && plain(path) && same_file::is_same_file(input, path).unwrap_or(false);
    if same(output) {
        bail!("{command}: expected another file to write than the one that is read, found the same: {}", output.display());
    }
    let temporary = temporary(output);
    if same(&temporary) {
        let (input, temporary) = (input.display(), temporary.display());
        bail!("{command}: the file is written as {temporary} first; expected another file to read, found the same: {input}");
    }
    Ok(())
}

/// Refuses to write `output` where something lies that is no file, or a file that may not be replaced (`force`).
/// `command` is who asks.
pub fn refuse_taken(command: &str, output: &Path, force: bool) -> Result<()> {
    match output.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(meta) if !(meta.is_file() || meta.is_symlink()) => {
            bail!("{command}: expected a file to write, found {}: {}", kind(meta.file_type()), output.display())
        }
        Ok(_) if force => Ok(()),
        Ok(_) => {
            bail!("{command}: expected a file that is not there yet, found one; --force replaces it: {}", output.display())
        }
    }
}

/// What lies at `path`, or the end of a link there, for people: `none` where that is nothing.
pub fn found(path: &Path) -> &'static str {
    match path.metadata() {
        Ok(meta) if meta.is_file() => "a file",
        Ok(meta) => kind(meta.file_type()),
        Err(_) => "none",
    }
}

/// What a file type is called, for people.
pub fn kind(of: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if of.is_fifo() {
            return "a pipe (FIFO)";
        } else if of.is_char_device() || of.is_block_device() {
            return "a device";
        } else if of.is_socket() {
            return "a socket";
        }
    }
    if of.is_dir() { "a folder" } else { "something else" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_files_are_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(open(&path).unwrap().1, 3);
        assert_eq!(read(&path, 3).unwrap(), b"abc");
        assert!(read(&path, 2).unwrap_err().to_string().contains("at most 2 bytes, found 3"));
        assert!(open(dir.path()).unwrap_err().to_string().contains("expected a file, found a folder"));
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_sockets_are_named_and_links_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [link, socket, path] = ["link", "socket", "x"].map(|n| dir.path().join(n));
        assert!(read(Path::new("/dev/zero"), 9).unwrap_err().to_string().contains("found a device"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(open(&socket).unwrap_err().to_string().contains("found a socket"));
        std::fs::write(&path, b"abc").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read(&link, 9).unwrap(), b"abc");
    }

    #[test]
    fn a_file_is_replaced_only_if_that_is_asked_for_and_a_folder_never() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        refuse_taken("dump", &path, false).unwrap();
        std::fs::write(&path, b"abc").unwrap();
        assert!(refuse_taken("dump", &path, false).unwrap_err().to_string().contains("--force replaces it"));
        refuse_taken("dump", &path, true).unwrap();
        assert!(refuse_taken("dump", dir.path(), true).unwrap_err().to_string().contains("found a folder"));
        if cfg!(unix) {
            assert!(refuse_taken("dump", Path::new("/dev/null"), true).unwrap_err().to_string().contains("found a device"));
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_same_file_is_known_by_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let [path, link, hard, other, temporary] = ["x", "link", "hard", "y", "z.tmp"].map(|n| dir.path().join(n));
        for file in [&path, &other, &temporary] {
            std::fs::write(file, b"abc").unwrap();
        }
        std::os::unix::fs::symlink(&path, &link).unwrap();
        std::fs::hard_link(&path, &hard).unwrap();
        let dotted = dir.path().join("./x");
        for output in [&path, &link, &hard, &dotted] {
            assert!(refuse_same("cast", &path, output).unwrap_err().to_string().contains("found the same"));
        }
        assert!(refuse_same("cast", &temporary, &dir.path().join("z")).unwrap_err().to_string().contains("z.tmp first"));
        refuse_same("cast", &path, &other).unwrap();
        refuse_same("cast", &path, &dir.path().join("new")).unwrap();
    }
}

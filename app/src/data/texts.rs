//! Texts: the built-in corpus, a file, or all files below a folder. A long file stays where it is: see
//! [`super::long_text`].

use super::Loaded;
use super::folder::{self, LeftOut};
use super::long_text::{LongText, Opened, TextFile};
use crate::config::BUILTIN;
use crate::encoding::{self, Decoded};
use crate::plain_file;
use crate::progress::Progress;
use crate::show::{counted, thousands};
use crate::vocabulary::Vocabulary;
use anyhow::{Context, Result, bail};
use mantissa_core::data::tokens::BYTE_VOCAB;
use mantissa_core::data::{Dataset, Tokens};
use std::path::Path;
use std::sync::Arc;

/// This repository's own sources and documents, made by the build script.
pub const CORPUS: &str = include_str!(concat!(env!("OUT_DIR"), "/corpus.txt"));

/// A text, and what it is.
struct Read {
    text: Text,
    what: String,
}

/// Where a text is.
enum Text {
    Memory(String),
    File(TextFile),
}

/// Loads the text that `--data` names, as the tokens of `tokenizer` or as bytes.
pub(super) fn load(name: &str, tokenizer: Option<Vocabulary>, silent: bool) -> Result<Loaded> {
    let mut left_out = LeftOut::default();
    let Read { text, what } = read(name, &mut left_out, silent)?;
    let size = match &text {
        Text::Memory(text) => text.len(),
        Text::File(file) => file.size_bytes(),
    };
    let size = counted(size, "byte");
    let (tokens, vocabulary, size) = match tokenizer {
        None => (as_bytes(text), Vocabulary::Bytes, size),
        Some(vocabulary) => {
            let ids = match &text {
                Text::Memory(text) => encode(&vocabulary, text.as_str(), silent),
                Text::File(file) => encode(&vocabulary, file, silent),
            };
            let ids = ids.with_context(|| format!("cannot turn the text into tokens: {name}"))?;
            let size = format!("{size}, {} tokens of {}", thousands(ids.len()), thousands(vocabulary.size()));
            (Tokens::from_ids(ids, vocabulary.size())?, vocabulary, size)
        }
    };
    let about = format!("{name} ({what}): {size}, last tenth held out");
    Ok(Loaded { dataset: Dataset::Tokens(tokens), vocabulary, about, notes: left_out.note().into_iter().collect() })
}

/// Each byte as a token.
fn as_bytes(text: Text) -> Tokens {
    match text {
        Text::Memory(text) => Tokens::from_bytes(text.into_bytes()),
        Text::File(file) => {
            let largest = file.largest();
            Tokens::new(Arc::new(file.into_tokens()), None, BYTE_VOCAB, largest)
        }
    }
}

fn encode(vocabulary: &Vocabulary, text: &(impl LongText + ?Sized), silent: bool) -> Result<Vec<u32>> {
    let mut progress = Progress::new("tokenizing", "bytes", text.size_bytes() as u64, silent);
    let mut done = 0;
    vocabulary.encode_long(text, |now| {
        progress.advance((now - done) as u64);
        done = now;
    })
}

fn read(name: &str, left_out: &mut LeftOut, silent: bool) -> Result<Read> {
    if name == BUILTIN {
        return Ok(Read { text: Text::Memory(CORPUS.into()), what: "this repository's sources and documents".into() });
    }
    let path = Path::new(name);
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read the data: {name}"))?;
    if meta.is_dir() {
        return read_folder(path, left_out);
    }
    if !meta.is_file() {
        bail!("--data: expected a file or a folder, found {}: {name}", plain_file::kind(meta.file_type()));
    }
    let decoded = match TextFile::open(path, silent)? {
        Opened::Long(file) => return Ok(Read { text: Text::File(file), what: "text file".into() }),
        Opened::Whole => read_file(path)?,
        Opened::Other(found) => Err(found),
    };
    match decoded {
        Ok(Decoded { text, from }) => {
            let how = if from.is_empty() { String::new() } else { format!(", {}", from.join(" in ")) };
            Ok(Read { text: Text::Memory(text), what: format!("text file{how}") })
        }
        Err(found) => bail!("data: expected UTF-8 text, found {found}: {name}"),
    }
}

/// The text of a file, or what it is instead.
fn read_file(path: &Path) -> Result<Result<Decoded, String>> {
    let bytes = plain_file::read(path, u64::MAX - 1).with_context(|| format!("cannot read the data: {}", path.display()))?;
    Ok(encoding::decode(bytes))
}

/// All texts below a folder, in the order of their paths, each ending in a line break.
fn read_folder(dir: &Path, left_out: &mut LeftOut) -> Result<Read> {
    let (mut text, mut count) = (String::new(), 0);
    for file in &folder::files(dir, left_out)? {
        match read_file(file)? {
            Err(found) => left_out.add(format!("no UTF-8 text but {found}"), file),
            Ok(decoded) => {
                text.push_str(&decoded.text);
                if !text.ends_with('\n') {
                    text.push('\n');
                }
                count += 1;
            }
        }
    }
    if count == 0 {
        let left_out = left_out.note().map_or(String::new(), |note| format!(" ({note})"));
        bail!("data: expected UTF-8 text files, found none{left_out} in the folder: {}", dir.display());
    }
    Ok(Read { text: Text::Memory(text), what: counted(count, "text file") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_there_and_has_headers() {
        assert!(CORPUS.len() > 20_000, "{} bytes", CORPUS.len());
        assert!(CORPUS.starts_with("==== ") && CORPUS.contains("lib.rs ====\n"));
        assert!(!CORPUS.contains('\r') && !CORPUS.contains("\n==== target/"));
    }

    #[test]
    fn a_folder_gives_its_texts_and_says_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("b.txt", b"\xef\xbb\xbfb");
        write("a.txt", b"\xff\xfea\0\n\0");
        write("c.png", b"\x89PNG\r\n\x1a\n");
        write("d.txt", b"\xff");
        let loaded = load(&dir.path().display().to_string(), None, true).unwrap();
        assert!(loaded.about.contains("(2 text files): 4 bytes"), "{}", loaded.about);
        let note = loaded.notes.concat();
        assert!(note.contains("1 no UTF-8 text but a PNG image (") && note.contains("an invalid byte at 0"), "{note}");
    }
}

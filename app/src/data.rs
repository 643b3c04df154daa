//! Reads what `--data` names: the built-in corpus, a text file, a folder of texts, token files, IDX images. Files are judged before
//! anything is trained.

pub mod token_files;

use crate::config::{BUILTIN, RunConfig, RunOptions};
use crate::show::thousands;
use crate::vocabulary::Vocabulary;
use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use mantissa_core::data::images::{IDX_IMAGES, IDX_LABELS, idx_len};
use mantissa_core::data::{Dataset, Images, Tokens, glyphs};
use mantissa_core::model::ModelConfig;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// This repository's own sources and documents, made by the build script.
pub const CORPUS: &str = include_str!(concat!(env!("OUT_DIR"), "/corpus.txt"));

/// A model is made large enough for its data in steps of this many token values: sizes that hardware multiplies well.
const VOCAB_MULTIPLE: usize = 64;
/// Bytes of an IDX header.
const IDX_HEADER_BYTES: u64 = 16;
/// Seed of the drawn digits: the data set is one and the same for every run.
const GLYPH_SEED: u64 = 1;

/// A data set and what to say about it.
#[derive(Debug)]
pub struct Loaded {
    /// The data.
    pub dataset: Dataset,
    /// What its tokens mean; of no use for images.
    pub vocabulary: Vocabulary,
    /// One line for the banner.
    pub about: String,
    /// Things that were left out, for people.
    pub notes: Vec<String>,
}

/// Loads the data of a run.
pub fn load(config: &RunConfig) -> Result<Loaded> {
    match &config.train.model {
        ModelConfig::Gpt(_) => load_tokens(&config.run),
        ModelConfig::Mlp(_) => load_images(&config.run.data),
    }
}

/// Makes a model that is too small for the tokens of its data large enough, unless its size was `given`; the note says so.
pub fn settle_vocab(config: &mut RunConfig, given: bool, loaded: &Loaded) -> Result<Option<String>> {
    let (ModelConfig::Gpt(gpt), Dataset::Tokens(tokens)) = (&mut config.train.model, &loaded.dataset) else { return Ok(None) };
    if given || gpt.vocab >= tokens.vocab() {
        return Ok(None);
    }
    let old = std::mem::replace(&mut gpt.vocab, tokens.vocab().next_multiple_of(VOCAB_MULTIPLE));
    let note = format!("model.vocab raised from {old} to {} for the {} tokens of the data", gpt.vocab, tokens.vocab());
    config.train.validate()?;
    Ok(Some(note))
}

fn load_tokens(run: &RunOptions) -> Result<Loaded> {
    let tokenizer = run.tokenizer.as_ref().map(|path| Vocabulary::from_tokenizer(Path::new(path))).transpose()?;
    match token_files::find(Path::new(&run.data)) {
        Some(files) => files.load(&run.data, tokenizer),
        None => load_text(&run.data, tokenizer),
    }
}

fn load_text(name: &str, tokenizer: Option<Vocabulary>) -> Result<Loaded> {
    let mut notes = Vec::new();
    let (bytes, what) = if name == BUILTIN {
        (CORPUS.as_bytes().to_vec(), "this repository's sources and documents".to_string())
    } else {
        let path = Path::new(name);
        let meta = std::fs::metadata(path).with_context(|| format!("cannot read the data: {name}"))?;
        if meta.is_dir() {
            read_folder(path, &mut notes)?
        } else if meta.is_file() {
            (read_text(path)?.into_bytes(), "text file".to_string())
        } else {
            bail!("data: expected a file or a folder, found something else: {name}");
        }
    };
    let size = format!("{} bytes", thousands(bytes.len()));
    let (tokens, vocabulary, size) = match tokenizer {
        None => (Tokens::from_bytes(bytes), Vocabulary::Bytes, size),
        Some(vocabulary) => {
            let text = String::from_utf8(bytes).context("data: expected UTF-8 text")?;
            let ids = vocabulary.encode(&text).with_context(|| format!("cannot turn the text into tokens: {name}"))?;
            let size = format!("{size}, {} tokens of {}", thousands(ids.len()), thousands(vocabulary.size()));
            (Tokens::from_ids(ids, vocabulary.size())?, vocabulary, size)
        }
    };
    let about = format!("{name} ({what}): {size}, last tenth held out");
    Ok(Loaded { dataset: Dataset::Tokens(tokens), vocabulary, about, notes })
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the data: {}", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(e) => {
            bail!("data: expected UTF-8 text, found an invalid byte at {}: {}", e.utf8_error().valid_up_to(), path.display())
        }
    }
}

/// All texts below a folder, in the order of their paths, each ending in a line break.
fn read_folder(dir: &Path, notes: &mut Vec<String>) -> Result<(Vec<u8>, String)> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.sort();
    let (mut out, mut count) = (Vec::new(), 0);
    for file in &files {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read the data: {}", file.display()))?;
        // A zero byte is legal UTF-8 but no text file has one.
        if bytes.contains(&0) || std::str::from_utf8(&bytes).is_err() {
            notes.push(format!("left out, not UTF-8 text: {}", file.display()));
            continue;
        }
        out.extend_from_slice(&bytes);
        if !bytes.ends_with(b"\n") {
            out.push(b'\n');
        }
        count += 1;
    }
    if count == 0 {
        bail!("data: expected UTF-8 text files, found none in the folder: {}", dir.display());
    }
    Ok((out, format!("{count} text files")))
}

/// Plain files below `dir`. Hidden entries and links to folders are not followed, so that a loop of links ends.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let context = || format!("cannot read the folder: {}", dir.display());
    for entry in std::fs::read_dir(dir).with_context(context)? {
        let entry = entry.with_context(context)?;
        let (path, kind) = (entry.path(), entry.file_type().with_context(context)?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            collect(&path, files)?;
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn load_images(name: &str) -> Result<Loaded> {
    let (images, what) = if name == BUILTIN {
        (glyphs::digits(glyphs::DEFAULT_COUNT, GLYPH_SEED), "drawn digits")
    } else {
        let path = images_file(Path::new(name))?;
        let labels = labels_beside(&path)?;
        let pixels = read_idx("IDX images", IDX_IMAGES, &path)?;
        let label_bytes = read_idx("IDX labels", IDX_LABELS, &labels)?;
        let images =
            Images::from_idx(&pixels, &label_bytes).with_context(|| format!("cannot use the images: {}", path.display()))?;
        (images, "IDX images")
    };
    let [rows, cols] = images.size();
    let count = thousands(images.train_len() + images.val_len());
    let about = format!("{name} ({what}): {count} of {rows} x {cols}, last tenth held out");
    Ok(Loaded { dataset: Dataset::Images(images), vocabulary: Vocabulary::Bytes, about, notes: Vec::new() })
}

/// The image file itself, or the one in a folder (that of the training part, if there are several).
fn images_file(path: &Path) -> Result<PathBuf> {
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read the data: {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(path.to_path_buf());
    }
    let mut files = Vec::new();
    collect(path, &mut files)?;
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.retain(|p| name(p).contains("images") && name(p).contains("idx3"));
    files.sort_by_key(|p| (!name(p).starts_with("train"), p.clone()));
    files
        .into_iter()
        .next()
        .with_context(|| format!("data: expected an IDX image file (*images*idx3*), found none in: {}", path.display()))
}

/// The label file that belongs to an image file: `images` and `idx3` replaced in its name, gzipped or not.
fn labels_beside(images: &Path) -> Result<PathBuf> {
    let name = images.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let wanted = name.replace("images", "labels").replace("idx3", "idx1");
    if wanted == name {
        bail!(
            "data: expected an IDX image file named like train-images-idx3-ubyte, so that its labels can be found: {}",
            images.display()
        );
    }
    let plain = wanted.strip_suffix(".gz").unwrap_or(&wanted).to_string();
    let candidates = [wanted.clone(), plain.clone(), format!("{plain}.gz")];
    let found = candidates.iter().map(|c| images.with_file_name(c)).find(|p| p.is_file());
    found.with_context(|| format!("data: expected the labels `{wanted}` beside the images: {}", images.display()))
}

/// Contents of an IDX file, gzipped or not; never more than one byte beyond what its header claims.
fn read_idx(what: &str, magic: u32, path: &Path) -> Result<Vec<u8>> {
    let context = || format!("cannot read {what}: {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mut start = Vec::new();
    (&file).take(2).read_to_end(&mut start).with_context(context)?;
    let reader = std::io::BufReader::new(File::open(path).with_context(context)?);
    // A gzip file says so in its first two bytes.
    let mut reader: Box<dyn Read> = if start == [0x1f, 0x8b] { Box::new(GzDecoder::new(reader)) } else { Box::new(reader) };
    let mut bytes = Vec::new();
    reader.by_ref().take(IDX_HEADER_BYTES).read_to_end(&mut bytes).with_context(context)?;
    let claimed = idx_len(what, magic, &bytes).with_context(context)?;
    let rest = (claimed + 1).saturating_sub(bytes.len() as u64);
    reader.take(rest).read_to_end(&mut bytes).with_context(context)?;
    Ok(bytes)
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
    fn labels_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t10k-labels-idx1-ubyte.gz"), b"x").unwrap();
        let found = labels_beside(&dir.path().join("t10k-images-idx3-ubyte")).unwrap();
        assert!(found.ends_with("t10k-labels-idx1-ubyte.gz"));
        assert!(labels_beside(&dir.path().join("train-images-idx3-ubyte")).is_err());
        assert!(labels_beside(&dir.path().join("pictures")).is_err());
    }
}

//! Token files of nanoGPT: one `.bin`, or a folder with `train.bin` and `val.bin`; beside them `meta.json`, the JSON form of nanoGPT's
//! `meta.pkl`, says how many token values there are and what they mean.

use super::Loaded;
use crate::show::thousands;
use crate::vocabulary::{META, Vocabulary};
use anyhow::{Context, Result};
use mantissa_core::data::tokens::Split;
use mantissa_core::data::{Dataset, Tokens, bin};
use std::path::{Path, PathBuf};

const EXTENSION: &str = "bin";
const TRAIN: &str = "train.bin";
const VAL: &str = "val.bin";
/// What nanoGPT writes; a pickle, which is not read.
const META_PICKLE: &str = "meta.pkl";

/// The files of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFiles {
    train: PathBuf,
    val: Option<PathBuf>,
}

/// The token files that a name stands for; `None` if it stands for something else.
pub fn find(path: &Path) -> Option<TokenFiles> {
    let train = if path.is_dir() { path.join(TRAIN) } else { path.to_path_buf() };
    if !train.is_file() || train.extension().is_none_or(|e| e != EXTENSION) {
        return None;
    }
    let val = Some(train.with_file_name(VAL)).filter(|v| train.ends_with(TRAIN) && v.is_file());
    Some(TokenFiles { train, val })
}

impl TokenFiles {
    /// Reads the files. Tokens mean what `tokenizer` says, or else `meta.json`.
    pub fn load(&self, name: &str, tokenizer: Option<Vocabulary>) -> Result<Loaded> {
        let meta = self.train.with_file_name(META);
        let known = match tokenizer {
            Some(vocabulary) => Some(vocabulary),
            None if meta.is_file() => Some(Vocabulary::from_meta(&meta)?),
            None => None,
        };
        let mut notes = Vec::new();
        if known.is_none() && self.train.with_file_name(META_PICKLE).is_file() {
            notes.push(format!(
                "{META_PICKLE} is a Python pickle, which is not read; for samples write {META}: \
                 python3 -c 'import json, pickle; json.dump(pickle.load(open(\"{META_PICKLE}\", \"rb\")), open(\"{META}\", \"w\"))'"
            ));
        }
        let val = self.val.as_deref().map(read).transpose()?;
        let vocab = known.as_ref().map(Vocabulary::size);
        let tokens = Tokens::from_u16(read(&self.train)?, val, vocab)
            .with_context(|| format!("cannot use the token file: {}", self.train.display()))?;
        let (train_len, val_len) = (thousands(tokens.len(Split::Train)), thousands(tokens.len(Split::Val)));
        let held_out = if self.val.is_some() { VAL } else { "the last tenth" };
        let about = format!(
            "{name} (token file): {train_len} tokens of {} to learn from, {val_len} held out ({held_out})",
            thousands(tokens.vocab())
        );
        let vocabulary = known.unwrap_or(Vocabulary::Unnamed(tokens.vocab()));
        Ok(Loaded { dataset: Dataset::Tokens(tokens), vocabulary, about, notes })
    }
}

fn read(path: &Path) -> Result<Vec<u16>> {
    let context = || format!("cannot read the data: {}", path.display());
    let bytes = std::fs::read(path).with_context(context)?;
    bin::tokens("token file", &bytes).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, tokens: &[u16]) {
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        std::fs::write(dir.join(name), bytes).unwrap();
    }

    #[test]
    fn files_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path()), None);
        write(dir.path(), "train.bin", &[1, 2]);
        write(dir.path(), "other.bin", &[1, 2]);
        assert_eq!(find(dir.path()).unwrap().val, None);
        write(dir.path(), "val.bin", &[1, 2]);
        assert!(find(dir.path()).unwrap().val.is_some());
        assert!(find(&dir.path().join("train.bin")).unwrap().val.is_some());
        assert_eq!(find(&dir.path().join("other.bin")).unwrap().val, None);
        assert_eq!(find(&dir.path().join("none.bin")), None);
    }

    #[test]
    fn the_vocabulary_is_that_of_meta_json_or_the_largest_token() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "train.bin", &[3; 40]);
        std::fs::write(dir.path().join(META_PICKLE), b"\x80\x04").unwrap();
        let load = || find(dir.path()).unwrap().load("x", None);
        let plain = load().unwrap();
        assert!(matches!(plain.vocabulary, Vocabulary::Unnamed(4)) && plain.notes[0].contains("write meta.json"));
        std::fs::write(dir.path().join(META), r#"{"itos": ["a", "b", "c", "d", "e"]}"#).unwrap();
        let named = load().unwrap();
        assert!(named.vocabulary.has_text() && named.vocabulary.size() == 5 && named.notes.is_empty());
        assert!(named.about.contains("36 tokens of 5 to learn from, 4 held out (the last tenth)"), "{}", named.about);
        std::fs::write(dir.path().join(META), r#"{"vocab_size": 3}"#).unwrap();
        let message = format!("{:#}", load().unwrap_err());
        assert!(
            message.contains("train.bin") && message.contains("values below 3") && message.contains("found 3 at position 0"),
            "{message}"
        );
        std::fs::write(dir.path().join("train.bin"), [1, 2, 3]).unwrap();
        std::fs::remove_file(dir.path().join(META)).unwrap();
        assert!(format!("{:#}", load().unwrap_err()).contains("found 3 bytes (truncated)"));
    }
}

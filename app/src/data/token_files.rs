//! Token files: one `.bin` or `.npy`, or a folder with `train` and `val` of either kind; beside them `meta.json`, the
//! JSON form of nanoGPT's `meta.pkl`, says how many token values there are and what they mean. The files stay where
//! they are: see [`super::file_tokens`].

use super::file_tokens::FileTokens;
use super::{Loaded, Reading};
use crate::progress::Progress;
use crate::show::thousands;
use crate::vocabulary::{META, Vocabulary};
use anyhow::{Context, Result, bail};
use mantissa_core::Result as CoreResult;
use mantissa_core::data::token_layout::TokenDtype;
use mantissa_core::data::tokens::Split;
use mantissa_core::data::{Dataset, Largest, TokenSource, Tokens};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const EXTENSIONS: [&str; 2] = ["bin", "npy"];
const TRAIN: &str = "train";
const VAL: &str = "val";
/// What nanoGPT writes; a pickle, which is not read.
const META_PICKLE: &str = "meta.pkl";

/// Files up to this size are looked through before a run; of larger ones with a known vocabulary every token is checked
/// when it is read.
const LOOK_THROUGH_BYTES: u64 = 1 << 28;
/// Token values above which no vocabulary in use goes: the largest have about a million.
const MOST_TOKENS: u32 = 1 << 20;
/// Tokens looked at in one go.
const STRETCH_TOKENS: usize = 1 << 19;
/// Threads that look, at most: more than two seldom read faster.
const LOOKERS: usize = 2;

/// The files of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFiles {
    train: PathBuf,
    val: Option<PathBuf>,
}

/// The token files that a name stands for; `None` if it stands for something else.
pub fn find(path: &Path) -> Option<TokenFiles> {
    let of_folder = |stem: &str| EXTENSIONS.map(|e| path.join(stem).with_extension(e)).into_iter().find(|file| file.is_file());
    if path.is_dir() {
        return Some(TokenFiles { train: of_folder(TRAIN)?, val: of_folder(VAL) });
    }
    let extension = path.extension().filter(|found| EXTENSIONS.iter().any(|e| *found == *e));
    if !path.is_file() || extension.is_none() {
        return None;
    }
    let of_train = path.file_stem().is_some_and(|stem| stem == TRAIN);
    let val = EXTENSIONS.map(|e| path.with_file_name(VAL).with_extension(e)).into_iter().find(|file| file.is_file());
    Some(TokenFiles { train: path.to_path_buf(), val: val.filter(|_| of_train) })
}

impl TokenFiles {
    /// Opens the files, whose tokens lie there as `asked`, or as they say themselves. Tokens mean what `tokenizer`
    /// says, or else `meta.json`.
    pub fn load(&self, name: &str, tokenizer: Option<Vocabulary>, asked: Option<TokenDtype>, how: Reading) -> Result<Loaded> {
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
        let size = known.as_ref().map(Vocabulary::size);
        let open = |path: &PathBuf| one_file(path, asked, size);
        let train = open(&self.train)?;
        let val = self.val.as_ref().map(open).transpose()?;
        let largest = match size.or(how.vocab) {
            Some(_) if bytes(&train) + val.as_ref().map_or(0, |val| bytes(val)) > LOOK_THROUGH_BYTES => None,
            _ => self.largest(&train, val.as_deref(), size, how.silent)?,
        };
        // With a known vocabulary every token was compared with that.
        if let (None, Some(largest)) = (size, largest) {
            self.check_believable(largest, &train, how.vocab)?;
        }
        let vocab = size.or(largest.map(|l| l.token as usize + 1)).or(how.vocab).unwrap_or(1);
        let kind = format!("{}, {}", train.layout().kind, train.layout().dtype);
        let held_out = self.val.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let tokens = Tokens::new(train, val.map(|val| val as Arc<dyn TokenSource>), vocab, largest);
        let about = format!(
            "{name} ({kind}): {} tokens of {} to learn from, {} held out ({})",
            thousands(tokens.len(Split::Train)),
            thousands(tokens.vocab()),
            thousands(tokens.len(Split::Val)),
            held_out.as_deref().unwrap_or("the last tenth")
        );
        let vocabulary = known.unwrap_or(Vocabulary::Unnamed(vocab));
        Ok(Loaded { dataset: Dataset::Tokens(tokens), vocabulary, about, notes })
    }

    /// Refuses tokens that no vocabulary has: they are read in another width than they were written in. The user's word
    /// is taken.
    fn check_believable(&self, largest: Largest, train: &FileTokens, vocab: Option<usize>) -> Result<()> {
        let Largest { position, token } = largest;
        if token < MOST_TOKENS || vocab.is_some_and(|vocab| vocab > token as usize) {
            return Ok(());
        }
        let (path, dtype) = (self.train.display(), train.layout().dtype);
        bail!(
            "token file: expected token values below {}, more than any tokenizer has, found {token} at position {position} (read as {dtype}); \
             if tokens are narrower give --token-dtype u16, and if there are so many --vocab {}: {path}",
            thousands(MOST_TOKENS as usize),
            u64::from(token) + 1
        )
    }

    /// The largest token of both files, which must be one of a vocabulary of `size` values.
    fn largest(
        &self,
        train: &FileTokens,
        val: Option<&FileTokens>,
        size: Option<usize>,
        silent: bool,
    ) -> Result<Option<Largest>> {
        let total = train.len() + val.map_or(0, TokenSource::len);
        let mut progress = Progress::new("looking for the largest token (--vocab spares it)", "token", total as u64, silent);
        let mut all = None;
        let parts = [(&self.train, Some(train), 0), (self.val.as_ref().unwrap_or(&self.train), val, train.len())];
        for (path, tokens, before) in parts {
            let Some(tokens) = tokens else { continue };
            let found = largest(tokens, &mut progress).context("cannot read the data")?;
            if let (Some(Largest { position, token }), Some(size)) = (found, size)
                && token as usize >= size
            {
                bail!(
                    "token file: expected values below {size}, the size of the vocabulary, found {token} at position {position} (read as {}; \
                     --token-dtype says how they lie there): {}",
                    tokens.layout().dtype,
                    path.display()
                );
            }
            let found = found.map(|l| Largest { position: before + l.position, ..l });
            all = Largest::higher(all, found);
        }
        Ok(all)
    }
}

/// Opens a file for a vocabulary of `size` tokens, if that is known.
fn one_file(path: &Path, asked: Option<TokenDtype>, size: Option<usize>) -> Result<Arc<FileTokens>> {
    let tokens = FileTokens::open(path, asked)?;
    let layout = tokens.layout();
    match size {
        // A header knows better.
        Some(size) if asked.is_none() && layout.offset == 0 && size > 1 << 16 => bail!(
            "token file: expected to be told how its tokens lie there, since the {} of the vocabulary do not fit the usual 16 bits; \
             give --token-dtype u32, or u16 if that is right: {}",
            thousands(size),
            path.display()
        ),
        Some(_) | None => Ok(Arc::new(tokens)),
    }
}

fn bytes(tokens: &FileTokens) -> u64 {
    tokens.layout().len * tokens.token_bytes() as u64
}

/// The largest token of a source, by some threads.
fn largest(tokens: &FileTokens, progress: &mut Progress) -> CoreResult<Option<Largest>> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let look = |each: &mut dyn FnMut(usize)| -> CoreResult<Option<Largest>> {
        let mut found = None;
        loop {
            let start = next.fetch_add(STRETCH_TOKENS, Ordering::Relaxed);
            if start >= tokens.len() {
                return Ok(found);
            }
            let stretch = start..tokens.len().min(start + STRETCH_TOKENS);
            let len = stretch.len();
            found = Largest::higher(found, tokens.largest(stretch)?);
            each(done.fetch_add(len, Ordering::Relaxed) + len);
        }
    };
    let (mut told, mut found) = (0, Vec::new());
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..LOOKERS).map(|_| scope.spawn(|| look(&mut |_| {}))).collect();
        found.push(look(&mut |done| {
            progress.advance(done.saturating_sub(told) as u64);
            told = told.max(done);
        }));
        // A thread that panicked has said so; what it took is then missing, which is no answer.
        found.extend(others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
    });
    // Threads take stretches in turn: of equal tokens the first counts.
    let found: CoreResult<Vec<_>> = found.into_iter().collect();
    let mut found: Vec<Largest> = found?.into_iter().flatten().collect();
    found.sort_by_key(|l| l.position);
    Ok(found.into_iter().fold(None, |all, one| Largest::higher(all, Some(one))))
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
        let load = || find(dir.path()).unwrap().load("x", None, None, Reading::default());
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
        // Twice as wide as they are.
        std::fs::write(dir.path().join(META), r#"{"vocab_size": 4}"#).unwrap();
        let wide =
            |how| find(dir.path()).unwrap().load("x", None, Some(TokenDtype::U32), how).map(|loaded| loaded.vocabulary.size());
        let message = format!("{:#}", wide(Reading::default()).unwrap_err());
        assert!(message.contains("found 196611 at position 0 (read as u32; --token-dtype says"), "{message}");
        std::fs::remove_file(dir.path().join(META)).unwrap();
        assert_eq!(wide(Reading::default()).unwrap(), 196_612);
        write(dir.path(), "train.bin", &[3, 17].repeat(20));
        let message = format!("{:#}", wide(Reading::default()).unwrap_err());
        assert!(
            message.contains("below 1,048,576") && message.contains("found 1114115 at position 0 (read as u32)"),
            "{message}"
        );
        assert!(message.contains("give --token-dtype u16") && message.contains("--vocab 1114116"), "{message}");
        assert!(wide(Reading { vocab: Some(1_114_115), silent: true }).is_err());
        assert_eq!(wide(Reading { vocab: Some(1_114_116), silent: true }).unwrap(), 1_114_116);
        std::fs::write(dir.path().join(META), r#"{"vocab_size": 3}"#).unwrap();
        std::fs::write(dir.path().join("train.bin"), [1, 2, 3]).unwrap();
        std::fs::remove_file(dir.path().join(META)).unwrap();
        assert!(format!("{:#}", load().unwrap_err()).contains("found 3 bytes (truncated)"));
    }
}

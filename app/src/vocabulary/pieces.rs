//! Hugging Face tokenizers (`tokenizer.json`), read by the `tokenizers` crate. Twin file: `pieces_absent.rs`, for
//! builds without it.

mod stream;
mod windows;

use crate::data::long_text::LongText;
use crate::encoding::without_mark;
use anyhow::{Result, anyhow, bail};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{ModelWrapper, PreTokenizerWrapper, Tokenizer};
use windows::{OVERLAP_BYTES, WINDOW_BYTES, Windows};

/// A tokenizer and the file it came from.
#[derive(Clone, Debug)]
pub struct Pieces {
    tokenizer: Tokenizer,
    json: Vec<u8>,
    size: usize,
}

impl Pieces {
    /// From the contents of a `tokenizer.json`. Its truncation and padding, which are for batches of questions, are
    /// switched off.
    pub fn from_json(json: Vec<u8>) -> Result<Pieces> {
        let json = without_mark(json);
        // The crate panics on some texts that are not JSON.
        serde_json::from_slice::<serde_json::Value>(&json).map_err(|e| anyhow!("not a Hugging Face tokenizer.json: {e}"))?;
        let tokenizer = guarded(|| Tokenizer::from_bytes(&json))?;
        let mut tokenizer = tokenizer.map_err(|e| anyhow!("not a Hugging Face tokenizer.json: {e}"))?;
        tokenizer.with_truncation(None).map_err(|e| anyhow!("its truncation cannot be switched off: {e}"))?;
        tokenizer.with_padding(None);
        // Ids may have gaps: the largest counts.
        let size = tokenizer.get_vocab(true).into_values().max().map_or(0, |t| t as usize + 1);
        if size == 0 {
            bail!("expected a vocabulary, found an empty one");
        }
        Ok(Pieces { tokenizer, json, size })
    }

    /// The file.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// One more than the largest token.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The tokens of a text, without the special ones that some tokenizers add at its ends.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_long(text, |_| {})
    }

    /// The tokens of a text that may be long; beside them, memory does not grow with it. `each` receives the bytes done
    /// now and then.
    pub fn encode_long(&self, text: &(impl LongText + ?Sized), each: impl FnMut(usize)) -> Result<Vec<u32>> {
        self.encode_in(text, Windows { window: WINDOW_BYTES, overlap: OVERLAP_BYTES }, each)
    }

    fn encode_in(&self, text: &(impl LongText + ?Sized), sizes: Windows, each: impl FnMut(usize)) -> Result<Vec<u32>> {
        let encode = |part: &str| {
            let encoding = guarded(|| self.tokenizer.encode_fast(part, false))?;
            let encoding = encoding.map_err(|e| anyhow!("the tokenizer failed: {e}"))?;
            Ok(encoding.get_ids().to_vec())
        };
        let whole = Windows { window: text.size_bytes(), overlap: 0 };
        windows::encode(text, if self.is_local() { sizes } else { whole }, encode, each)
    }

    /// Whether the tokens of a place follow from its neighbourhood. A unigram model adds up scores from the start of a
    /// word on, and rounding decides between cuts of equal score: without words, from the start of the text on.
    fn is_local(&self) -> bool {
        match self.tokenizer.get_model() {
            ModelWrapper::Unigram(_) => self.tokenizer.get_pre_tokenizer().is_some_and(makes_words),
            ModelWrapper::BPE(_) | ModelWrapper::WordPiece(_) | ModelWrapper::WordLevel(_) => true,
        }
    }

    /// The text of tokens; those without text are left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.tokenizer.decode(tokens, false))?.map_err(|e| anyhow!("the tokenizer failed: {e}"))
    }

    /// What a token is called in the file.
    pub fn name(&self, token: u32) -> Option<String> {
        self.tokenizer.id_to_token(token)
    }

    /// The text of tokens that come one by one.
    pub fn stream(&self) -> PieceStream<'_> {
        PieceStream(stream::Growing::new(&self.tokenizer))
    }
}

/// The text of tokens that come one by one; all that is given out is what [`Pieces::decode`] gives of all of them.
#[derive(Debug)]
pub struct PieceStream<'a>(stream::Growing<'a>);

impl PieceStream<'_> {
    /// Adds a token and gives out the text that no later token can change.
    pub fn push(&mut self, token: u32) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        guarded(|| self.0.push(token, &mut out))??;
        Ok(out)
    }

    /// What was held back.
    pub fn finish(self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        guarded(|| self.0.finish(&mut out))??;
        Ok(out)
    }
}

/// Whether a text is cut at blanks at least.
fn makes_words(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    match pre_tokenizer {
        PreTokenizerWrapper::Metaspace(space) => space.get_split(),
        PreTokenizerWrapper::ByteLevel(level) => level.use_regex,
        PreTokenizerWrapper::Sequence(all) => all.as_ref().iter().any(makes_words),
        PreTokenizerWrapper::BertPreTokenizer(_)
        | PreTokenizerWrapper::Whitespace(_)
        | PreTokenizerWrapper::WhitespaceSplit(_) => true,
        PreTokenizerWrapper::Delimiter(_)
        | PreTokenizerWrapper::Split(_)
        | PreTokenizerWrapper::Punctuation(_)
        | PreTokenizerWrapper::Digits(_)
        | PreTokenizerWrapper::UnicodeScripts(_)
        | PreTokenizerWrapper::FixedLength(_) => false,
    }
}

/// Runs a function of the crate, which has `expect`s on the contents of files (`normalizers`, `decoders`
/// in 0.23): what would end the process becomes an error. Its message is on stderr already.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| anyhow!("the tokenizers library gave up on this file; it is malformed"))
}

#[cfg(test)]
mod long_tests;
#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level BPE with one merge.
    const SMALL: &str = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},"padding":null,
        "added_tokens":[{"id":7,"content":"<|end|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
        "normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
        "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
        "fuse_unk":false,"byte_fallback":false,"vocab":{"a":0,"b":1,"ab":2,"Ċ":3,"Ġ":4,"Ã":5,"¤":6},"merges":["a b"]}}"#;

    #[test]
    fn encodes_decodes_and_never_truncates() {
        let p = Pieces::from_json(SMALL.into()).unwrap();
        assert_eq!(p.size(), 8, "one more than the special token");
        assert_eq!(p.encode("abba ab\n").unwrap(), [2, 1, 0, 4, 2, 3]);
        assert_eq!(p.decode(&[2, 1, 0, 4, 2, 3]).unwrap(), "abba ab\n");
        assert!(p.encode("").unwrap().is_empty());
        assert_eq!(p.decode(&[5]).unwrap(), "\u{FFFD}", "half a character");
        assert_eq!(p.decode(&[5, 6]).unwrap(), "\u{e4}");
    }

    #[test]
    fn other_files_are_refused() {
        for bad in ["", "{}", "[]", "\u{0}", r#"{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":["a b"]}}"#] {
            assert!(Pieces::from_json(bad.into()).is_err(), "{bad}");
        }
        // A normalizer that the crate panics on.
        let broken = SMALL.replace(r#""normalizer":null"#, r#""normalizer":{"type":"Precompiled","precompiled_charsmap":3}"#);
        assert!(Pieces::from_json(broken.into()).is_err());
        assert!(Pieces::from_json(SMALL[..SMALL.len() - 9].into()).unwrap_err().to_string().contains("not a Hugging Face"));
    }
}

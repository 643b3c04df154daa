//! Hugging Face tokenizers (`tokenizer.json`), read by the `tokenizers` crate. Twin file: `pieces_absent.rs`, for builds without it.

use anyhow::{Result, anyhow, bail};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::Tokenizer;

/// Bytes of text encoded at a time, at least. Encoding takes some hundred times the memory of its text.
const PART_BYTES: usize = 4 << 20;

/// A tokenizer and the file it came from.
#[derive(Clone, Debug)]
pub struct Pieces {
    tokenizer: Tokenizer,
    json: Vec<u8>,
    size: usize,
}

impl Pieces {
    /// From the contents of a `tokenizer.json`. Its truncation and padding, which are for batches of questions, are switched off.
    pub fn from_json(json: Vec<u8>) -> Result<Pieces> {
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
        let mut tokens = Vec::new();
        for part in parts(text, PART_BYTES) {
            let encoding = guarded(|| self.tokenizer.encode_fast(&text[part], false))?;
            let encoding = encoding.map_err(|e| anyhow!("the tokenizer failed: {e}"))?;
            tokens.extend_from_slice(encoding.get_ids());
        }
        Ok(tokens)
    }

    /// The text of tokens; those without text are left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        guarded(|| self.tokenizer.decode(tokens, false))?.map_err(|e| anyhow!("the tokenizer failed: {e}"))
    }
}

/// Runs a function of the crate, which has `expect`s on the contents of files (`normalizers/mod.rs`, `decoders/mod.rs` in 0.23): what would
/// end the process becomes an error. Its message is on stderr already.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| anyhow!("the tokenizers library gave up on this file; it is malformed"))
}

/// Cuts a text after a line break that stands between two characters which are not blank: there the tokenizers of the GPT family, which
/// first cut a text into words and blanks, cut too. A text without such a place stays whole.
fn parts(text: &str, part_bytes: usize) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut parts, mut start) = (Vec::new(), 0);
    while start < bytes.len() {
        let solid = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_graphic);
        let from = start.saturating_add(part_bytes);
        let end =
            (from..bytes.len()).find(|&i| bytes[i - 1] == b'\n' && i >= 2 && solid(i - 2) && solid(i)).unwrap_or(bytes.len());
        parts.push(start..end);
        start = end;
    }
    parts
}

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

    #[test]
    fn long_texts_give_the_tokens_of_the_whole() {
        let p = Pieces::from_json(SMALL.into()).unwrap();
        let text = "ab ba\nab\n\n  ba\nb\n\n\nab ".repeat(50);
        for size in [1, 7, 100] {
            let parts = parts(&text, size);
            assert!(parts.len() > 5 && parts.iter().map(|r| r.len()).sum::<usize>() == text.len());
            let joined: Vec<u32> = parts.into_iter().flat_map(|r| p.encode(&text[r]).unwrap()).collect();
            assert_eq!(joined, p.encode(&text).unwrap());
        }
        assert_eq!(super::parts("no breaks", 2), [0..9]);
        assert!(super::parts("", 2).is_empty());
    }
}

//! What tokens mean: bytes, the characters of a `meta.json`, the pieces of a Hugging Face `tokenizer.json`, or nothing
//! that is known.
//!
//! A run folder keeps the file that its vocabulary came from, so that `sample` needs the run folder only.

pub mod chars;
pub mod export;
#[cfg_attr(not(feature = "tokenizer"), path = "vocabulary/pieces_absent.rs")]
pub mod pieces;

use crate::data::long_text::LongText;
use crate::files::write_whole;
use crate::plain_file;
use anyhow::{Context, Result, bail};
use chars::Chars;
use mantissa_core::data::tokens::BYTE_VOCAB;
use pieces::{PieceStream, Pieces};
use std::path::Path;

/// Characters of the tokens of nanoGPT's files, as JSON.
pub const META: &str = "meta.json";
/// A Hugging Face tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// Largest file of a vocabulary that is read, bytes. The largest in use have some tens of MB.
const MAX_FILE_BYTES: u64 = 1 << 28;

/// What tokens mean.
#[derive(Clone, Debug)]
pub enum Vocabulary {
    /// A token is a byte.
    Bytes,
    /// A token is a string of a list.
    Chars(Chars),
    /// A token is a piece of a Hugging Face tokenizer.
    Pieces(Box<Pieces>),
    /// So many token values, without a text.
    Unnamed(usize),
}

impl Vocabulary {
    /// The vocabulary of a `tokenizer.json`.
    pub fn from_tokenizer(path: &Path) -> Result<Vocabulary> {
        let context = || format!("cannot use the tokenizer: {}", path.display());
        let bytes = plain_file::read(path, MAX_FILE_BYTES).with_context(context)?;
        Ok(Vocabulary::Pieces(Box::new(Pieces::from_json(bytes).with_context(context)?)))
    }

    /// The vocabulary of a `meta.json`.
    pub fn from_meta(path: &Path) -> Result<Vocabulary> {
        let context = || format!("cannot use the vocabulary: {}", path.display());
        chars::from_json(&plain_file::read(path, MAX_FILE_BYTES).with_context(context)?).with_context(context)
    }

    /// The vocabulary that a run folder keeps; bytes, if it keeps none.
    pub fn of_run(folder: &Path) -> Result<Vocabulary> {
        let (tokenizer, meta) = (folder.join(TOKENIZER), folder.join(META));
        if tokenizer.is_file() {
            Vocabulary::from_tokenizer(&tokenizer)
        } else if meta.is_file() {
            Vocabulary::from_meta(&meta)
        } else {
            Ok(Vocabulary::Bytes)
        }
    }

    /// Writes what [`Vocabulary::of_run`] reads.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match self {
            Vocabulary::Bytes => Ok(()),
            Vocabulary::Chars(chars) => write_whole(&folder.join(META), chars.to_json()?.as_bytes()),
            Vocabulary::Pieces(pieces) => write_whole(&folder.join(TOKENIZER), pieces.json()),
            Vocabulary::Unnamed(size) => write_whole(&folder.join(META), format!("{{\"vocab_size\":{size}}}\n").as_bytes()),
        }
    }

    /// Number of token values.
    pub fn size(&self) -> usize {
        match self {
            Vocabulary::Bytes => BYTE_VOCAB,
            Vocabulary::Chars(chars) => chars.size(),
            Vocabulary::Pieces(pieces) => pieces.size(),
            Vocabulary::Unnamed(size) => *size,
        }
    }

    /// Whether tokens have a text.
    pub fn has_text(&self) -> bool {
        match self {
            Vocabulary::Bytes | Vocabulary::Chars(_) | Vocabulary::Pieces(_) => true,
            Vocabulary::Unnamed(_) => false,
        }
    }

    /// What a token is called.
    pub fn unit(&self) -> &'static str {
        match self {
            Vocabulary::Bytes => "bytes",
            Vocabulary::Chars(_) | Vocabulary::Pieces(_) | Vocabulary::Unnamed(_) => "tokens",
        }
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Vocabulary::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Vocabulary::Chars(chars) => chars.encode(text),
            Vocabulary::Pieces(pieces) => pieces.encode(text),
            Vocabulary::Unnamed(_) => {
                bail!("the tokens of this data have no text; give a --tokenizer FILE, or `itos` in {META}")
            }
        }
    }

    /// The tokens of a text that may be long; `each` receives the bytes done now and then.
    pub fn encode_long(&self, text: &(impl LongText + ?Sized), each: impl FnMut(usize)) -> Result<Vec<u32>> {
        match self {
            Vocabulary::Pieces(pieces) => pieces.encode_long(text, each),
            Vocabulary::Bytes | Vocabulary::Chars(_) | Vocabulary::Unnamed(_) => self.encode(&text.part(0..text.size_bytes())?),
        }
    }

    /// What a token is called, for people.
    pub fn name(&self, token: u32) -> String {
        let name = match self {
            Vocabulary::Chars(chars) => Some(chars.decode(&[token])).filter(|text| !text.is_empty()),
            Vocabulary::Pieces(pieces) => pieces.name(token),
            Vocabulary::Bytes | Vocabulary::Unnamed(_) => None,
        };
        name.map_or(format!("token {token}"), |name| format!("token {token} `{}`", name.escape_debug()))
    }

    /// Refuses tokens that a model of `vocab` values does not have.
    pub fn check_known(&self, tokens: &[u32], vocab: usize) -> Result<()> {
        match tokens.iter().find(|&&t| t as usize >= vocab) {
            Some(&token) => bail!("expected tokens of the model, which has {vocab}, found {}", self.name(token)),
            None => Ok(()),
        }
    }

    /// Tokens to go on from: those of `text`, or token 0 if the text has none.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.encode(text)?;
        Ok(if tokens.is_empty() { vec![0] } else { tokens })
    }

    /// The text of tokens, as bytes: a byte token may be part of a character.
    pub fn decode(&self, tokens: &[u32]) -> Result<Vec<u8>> {
        match self {
            Vocabulary::Bytes => Ok(tokens.iter().map(|&t| t as u8).collect()),
            Vocabulary::Chars(chars) => Ok(chars.decode(tokens).into_bytes()),
            Vocabulary::Pieces(pieces) => Ok(pieces.decode(tokens)?.into_bytes()),
            Vocabulary::Unnamed(_) => bail!("the tokens of this data have no text"),
        }
    }
}

/// The text of tokens that come one by one: the bytes that decoding all of them at once gives behind those of the
/// prompt.
#[derive(Debug)]
pub struct TextStream<'a> {
    source: Growing<'a>,
    /// Bytes still to be left out: the text of the prompt.
    skip: usize,
    /// Nothing has been given out yet, and what would be the rest of a character then is to be left out.
    trims: bool,
}

#[derive(Debug)]
enum Growing<'a> {
    /// Each token has a text of its own.
    Single(&'a Vocabulary),
    Pieces(PieceStream<'a>),
}

impl<'a> TextStream<'a> {
    /// A text that goes on from `prompt`, whose own text is not given out. Where pieces behind a prompt change its text
    /// (bytes of it turn out to be none of UTF-8), the bytes given out may begin inside a character; see
    /// [`TextStream::in_whole_characters`].
    pub fn new(vocabulary: &'a Vocabulary, prompt: &[u32]) -> Result<TextStream<'a>> {
        let skip = vocabulary.decode(prompt)?.len();
        let Vocabulary::Pieces(pieces) = vocabulary else {
            return Ok(TextStream { source: Growing::Single(vocabulary), skip: 0, trims: false });
        };
        let mut stream = TextStream { source: Growing::Pieces(pieces.stream()), skip, trims: false };
        for &token in prompt {
            stream.push(token)?;
        }
        Ok(stream)
    }

    /// Pieces of a tokenizer begin with a whole character, so that what is given out is UTF-8.
    pub fn in_whole_characters(mut self) -> TextStream<'a> {
        self.trims = matches!(self.source, Growing::Pieces(_));
        self
    }

    /// Adds a token and gives out the bytes that no later token can change.
    pub fn push(&mut self, token: u32) -> Result<Vec<u8>> {
        let text = match &mut self.source {
            Growing::Single(vocabulary) => vocabulary.decode(&[token])?,
            Growing::Pieces(stream) => stream.push(token)?,
        };
        Ok(self.behind_prompt(&text))
    }

    /// What was held back.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let source = std::mem::replace(&mut self.source, Growing::Single(&Vocabulary::Bytes));
        let text = match source {
            Growing::Single(_) => Vec::new(),
            Growing::Pieces(stream) => stream.finish()?,
        };
        Ok(self.behind_prompt(&text))
    }

    fn behind_prompt(&mut self, text: &[u8]) -> Vec<u8> {
        let skipped = self.skip.min(text.len());
        self.skip -= skipped;
        let mut text = &text[skipped..];
        if self.trims && !text.is_empty() {
            // Of UTF-8, the bytes of a character behind its first have the bits 10 in front.
            let whole = text.iter().position(|b| b & 0xC0 != 0x80);
            text = &text[whole.unwrap_or(text.len())..];
            self.trims = whole.is_none();
        }
        text.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_keeps_its_vocabulary() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Vocabulary::of_run(dir.path()).unwrap(), Vocabulary::Bytes));
        Vocabulary::Unnamed(77).save(dir.path()).unwrap();
        assert!(matches!(Vocabulary::of_run(dir.path()).unwrap(), Vocabulary::Unnamed(77)));
        let chars = chars::from_json(br#"{"itos": ["a", "b", "\n", "\u00e4"]}"#).unwrap();
        chars.save(dir.path()).unwrap();
        let back = Vocabulary::of_run(dir.path()).unwrap();
        assert_eq!(back.encode("ba\u{e4}\n").unwrap(), [1, 0, 3, 2]);
        assert_eq!(back.decode(&[1, 3]).unwrap(), "b\u{e4}".as_bytes());
    }

    #[test]
    fn a_stream_gives_out_every_byte_once() {
        let mut stream = TextStream::new(&Vocabulary::Bytes, b"ab".map(u32::from).as_slice()).unwrap();
        assert_eq!(stream.push(u32::from(b'c')).unwrap(), b"c");
        assert_eq!(stream.push(0xC3).unwrap(), [0xC3]);
        assert_eq!(stream.finish().unwrap(), b"");
        assert!(TextStream::new(&Vocabulary::Unnamed(3), &[1]).is_err());
    }
}

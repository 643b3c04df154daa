//! The text of pieces that come one by one: what decoding all of them at once gives, piece by piece, in time that grows
//! with their number.
//!
//! A decoder is a chain of stages, each from a list of strings to another. Most look at one string at a time, and at
//! whether it is the first; those are asked string by string. The others hold back what a later piece may still change:
//! a run of bytes that may turn out not to be text (`ByteFallback`), a character of which bytes are missing
//! (`ByteLevel`), the last string (`BPE`). A chain with a stage that cannot be taken apart gives its text at the end.
//! The stream of the crate (`DecodeStream`) gives text out that later pieces change, and fails then.

use anyhow::{Result, anyhow};
use std::collections::HashMap;
use tokenizers::{Decoder, DecoderWrapper, Tokenizer};

/// Text that grows.
#[derive(Debug)]
pub(crate) struct Growing<'a> {
    tokenizer: &'a Tokenizer,
    how: How<'a>,
}

#[derive(Debug)]
enum How<'a> {
    Stages(Vec<Stage<'a>>),
    /// All pieces so far.
    AtEnd(Vec<u32>),
}

impl<'a> Growing<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Growing<'a> {
        let stages = stages(tokenizer.get_decoder());
        Growing { tokenizer, how: stages.map_or(How::AtEnd(Vec::new()), How::Stages) }
    }

    /// Adds a piece and appends what is certain now.
    pub(super) fn push(&mut self, token: u32, out: &mut Vec<u8>) -> Result<()> {
        match &mut self.how {
            How::AtEnd(tokens) => tokens.push(token),
            How::Stages(stages) => {
                // A number without a piece has no text.
                if let Some(piece) = self.tokenizer.id_to_token(token) {
                    feed(stages, vec![piece], false, out)?;
                }
            }
        }
        Ok(())
    }

    /// Appends what was held back.
    pub(super) fn finish(self, out: &mut Vec<u8>) -> Result<()> {
        match self.how {
            How::AtEnd(tokens) => {
                let text = self.tokenizer.decode(&tokens, false).map_err(failed)?;
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
            How::Stages(mut stages) => feed(&mut stages, Vec::new(), true, out),
        }
    }
}

/// Sends strings through the stages; `end` says that they are the last.
fn feed(stages: &mut [Stage<'_>], mut strings: Vec<String>, end: bool, out: &mut Vec<u8>) -> Result<()> {
    for stage in stages {
        let mut given = Vec::new();
        for string in strings {
            stage.push(string, &mut given)?;
        }
        if end {
            stage.end(&mut given)?;
        }
        strings = given;
    }
    strings.iter().for_each(|s| out.extend_from_slice(s.as_bytes()));
    Ok(())
}

/// A decoder, and what it has to remember.
#[derive(Debug)]
enum Stage<'a> {
    /// Looks at one string at a time, and at whether it is the first.
    Single { decoder: &'a DecoderWrapper, started: bool },
    /// A space between strings: a tokenizer without a decoder.
    Spaces { started: bool },
    /// Changes the end of the last string.
    Last { decoder: &'a DecoderWrapper, held: Option<String> },
    /// Leaves out repetitions.
    Repeats { decoder: &'a DecoderWrapper, previous: Option<String> },
    /// Bytes written out, such as `<0x41>`: as text if all of a run are, else a mark for each.
    ByteRuns { decoder: &'a DecoderWrapper, run: Vec<String> },
    /// Characters that stand for bytes.
    ByteLevel { bytes_of: HashMap<char, u8>, held: Vec<u8> },
    /// Joins all strings to one.
    Fuse,
    /// Takes up to so many characters off the start of the one string there is.
    StripStart { content: char, left: usize },
}

/// The stages of a decoder; `None` if one of them cannot be taken apart.
fn stages(decoder: Option<&DecoderWrapper>) -> Option<Vec<Stage<'_>>> {
    let chain = match decoder {
        None => return Some(vec![Stage::Spaces { started: false }]),
        Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
        Some(one) => std::slice::from_ref(one),
    };
    // Behind some stages there is one string, which grows.
    let mut one = false;
    let mut stages = Vec::new();
    for decoder in chain {
        stages.push(match decoder {
            DecoderWrapper::Fuse(_) => Stage::Fuse,
            DecoderWrapper::Strip(strip) if one && strip.stop == 0 => {
                Stage::StripStart { content: strip.content, left: strip.start }
            }
            _ if one => return None,
            // With something to take off their ends it fails on empty strings.
            DecoderWrapper::Strip(strip) if strip.stop > 0 => return None,
            DecoderWrapper::Strip(_)
            | DecoderWrapper::Replace(_)
            | DecoderWrapper::Metaspace(_)
            | DecoderWrapper::WordPiece(_) => Stage::Single { decoder, started: false },
            DecoderWrapper::BPE(_) => Stage::Last { decoder, held: None },
            DecoderWrapper::CTC(_) => Stage::Repeats { decoder, previous: None },
            DecoderWrapper::ByteFallback(_) => Stage::ByteRuns { decoder, run: Vec::new() },
            DecoderWrapper::ByteLevel(_) => Stage::ByteLevel { bytes_of: bytes_of_chars(), held: Vec::new() },
            DecoderWrapper::Sequence(_) => return None,
        });
        one |= matches!(decoder, DecoderWrapper::Fuse(_) | DecoderWrapper::ByteLevel(_));
    }
    Some(stages)
}

impl Stage<'_> {
    /// Takes a string and gives what is certain now.
    fn push(&mut self, string: String, out: &mut Vec<String>) -> Result<()> {
        match self {
            Stage::Single { decoder, started } => {
                // Anything in front says that it is not the first.
                let before = usize::from(std::mem::replace(started, true));
                let strings = [vec![String::new(); before], vec![string]].concat();
                out.extend(decode(decoder, strings)?.into_iter().skip(before));
            }
            Stage::Spaces { started } => {
                let space = if std::mem::replace(started, true) { " " } else { "" };
                out.push(format!("{space}{string}"));
            }
            Stage::Last { decoder, held } => {
                if let Some(before) = held.replace(string) {
                    // Anything behind says that it is not the last.
                    out.extend(decode(decoder, vec![before, String::new()])?.into_iter().take(1));
                }
            }
            Stage::Repeats { decoder, previous } => {
                if previous.as_ref() != Some(&string) {
                    out.extend(decode(decoder, vec![string.clone()])?);
                    *previous = Some(string);
                }
            }
            Stage::ByteRuns { decoder, run } => {
                let alone = decode(decoder, vec![string.clone()])?;
                if alone.first() == Some(&string) {
                    out.extend(decode(decoder, std::mem::take(run))?);
                    out.push(string);
                } else {
                    run.push(string);
                }
            }
            Stage::ByteLevel { bytes_of, held } => {
                let bytes: Option<Vec<u8>> = string.chars().map(|c| bytes_of.get(&c).copied()).collect();
                held.extend(bytes.unwrap_or_else(|| string.into_bytes()));
                let (text, rest) = certain(held);
                out.push(text);
                held.drain(..held.len() - rest);
            }
            Stage::Fuse => out.push(string),
            Stage::StripStart { content, left } => {
                let mut rest = string.as_str();
                while *left > 0 && !rest.is_empty() {
                    match rest.strip_prefix(*content) {
                        Some(shorter) => (rest, *left) = (shorter, *left - 1),
                        None => *left = 0,
                    }
                }
                out.push(rest.to_string());
            }
        }
        Ok(())
    }

    /// Gives what was held back.
    fn end(&mut self, out: &mut Vec<String>) -> Result<()> {
        match self {
            Stage::Last { decoder, held: Some(last) } => out.extend(decode(decoder, vec![std::mem::take(last)])?),
            Stage::ByteRuns { decoder, run } => out.extend(decode(decoder, std::mem::take(run))?),
            Stage::ByteLevel { held, .. } => out.push(String::from_utf8_lossy(held).into_owned()),
            Stage::Last { held: None, .. }
            | Stage::Single { .. }
            | Stage::Spaces { .. }
            | Stage::Repeats { .. }
            | Stage::Fuse
            | Stage::StripStart { .. } => {}
        }
        Ok(())
    }
}

fn decode(decoder: &DecoderWrapper, strings: Vec<String>) -> Result<Vec<String>> {
    decoder.decode_chain(strings).map_err(failed)
}

fn failed(e: tokenizers::Error) -> anyhow::Error {
    anyhow!("the tokenizer failed: {e}")
}

/// The text of bytes, with a mark for what is none, and how many bytes at the end may still become a character.
fn certain(bytes: &[u8]) -> (String, usize) {
    let (mut text, mut rest) = (String::new(), 0);
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let cut = chunks.peek().is_none() && std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
        if cut {
            rest = chunk.invalid().len();
        } else if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    (text, rest)
}

/// The bytes that characters stand for at byte level: those that print stand for themselves, the others follow from
/// U+0100 on. Source: `bytes_to_unicode` in <https://github.com/openai/gpt-2>, `src/encoder.py`.
pub(super) fn bytes_of_chars() -> HashMap<char, u8> {
    let prints = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=u8::MAX).filter(prints).map(|b| (char::from(b), b));
    let other = (0..=u8::MAX).filter(|b| !prints(b)).zip('\u{100}'..).map(|(b, c)| (c, b));
    own.chain(other).collect()
}

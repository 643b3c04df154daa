//! Token files: how their tokens are laid out, judged from their first bytes, their size and samples.
//!
//! - nanoGPT's: 16-bit tokens, little-endian, nothing else. Source: <https://github.com/karpathy/nanoGPT>,
//!   `data/*/prepare.py`.
//! - llm.c's: a header of 256 words of 32 bits (mark, version, number of tokens), then tokens of 16 bits (GPT-2) or 32
//!   bits (Llama 3). Source: <https://github.com/karpathy/llm.c>, `dev/data/data_common.py`.
//! - NumPy arrays, see [`super::npy`].
//! - Plain tokens of any width, if the user names it.

use super::formats::{self, NUMPY};
use super::npy;
use super::token_layout::{Layout, TokenDtype};
use crate::error::{Error, Result};

/// Bytes from the start of a file that [`layout`] wants to see, or all of a shorter one.
pub const HEAD_BYTES: usize = 4096;

/// Where the tokens of a file lie that begins with `head` (its first [`HEAD_BYTES`], or all) and has `size` bytes.
/// `asked` is what the user says of its tokens; a header that says otherwise is an error. Without a header and without
/// a word of the user, tokens have 16 bits.
pub fn layout(what: &str, head: &[u8], size: u64, asked: Option<TokenDtype>) -> Result<Layout> {
    if size == 0 {
        return Err(Error::data(what, "tokens", "an empty file"));
    }
    let own = match header(what, head, size)? {
        Some(layout) => layout,
        None => plain_layout(what, head, size, asked)?,
    };
    match asked {
        Some(asked) if asked != own.dtype => {
            Err(Error::config("--token-dtype", format!("{}, as the header says ({})", own.dtype, own.kind), asked.name()))
        }
        Some(_) | None => Ok(own),
    }
}

/// The layout that a header gives.
fn header(what: &str, head: &[u8], size: u64) -> Result<Option<Layout>> {
    if head.starts_with(NUMPY) {
        return npy::layout(what, head, size).map(Some);
    }
    llm_c(what, head, size)
}

fn plain_layout(what: &str, head: &[u8], size: u64, asked: Option<TokenDtype>) -> Result<Layout> {
    let dtype = asked.unwrap_or(TokenDtype::U16);
    let width = dtype.size_bytes() as u64;
    if let (None, Some(format)) = (asked, formats::named(head)) {
        return Err(Error::data(what, "tokens (if it is that, give --token-dtype)", format));
    }
    if !size.is_multiple_of(width) {
        let expected = format!("{}-bit tokens, so a multiple of {width} bytes", 8 * width);
        return Err(Error::data(what, expected, format!("{size} bytes (truncated)")));
    }
    Ok(Layout { kind: "token file", dtype, offset: 0, len: size / width })
}

/// Words of the header of llm.c.
const LLM_C_HEADER_WORDS: u64 = 256;
/// First word, second word, and what follows.
const LLM_C: [(u32, u32, TokenDtype); 2] = [(20_240_520, 1, TokenDtype::U16), (20_240_801, 7, TokenDtype::U32)];
/// First word of a file of questions with several answers.
const LLM_C_QUESTIONS: u32 = 20_240_522;

fn llm_c(what: &str, head: &[u8], size: u64) -> Result<Option<Layout>> {
    let word = |i: usize| head.as_chunks().0.get(i).map(|&b| u32::from_le_bytes(b));
    let magic = word(0);
    if magic == Some(LLM_C_QUESTIONS) {
        return Err(Error::data(what, "tokens", "a file of llm.c with questions and answers"));
    }
    let Some((_, known, dtype)) = LLM_C.into_iter().find(|(m, ..)| magic == Some(*m)) else { return Ok(None) };
    let (Some(version), Some(len)) = (word(1), word(2)) else {
        return Err(Error::data(what, "a file of llm.c", format!("{size} bytes (truncated)")));
    };
    if version != known {
        return Err(Error::data(what, format!("a file of llm.c of version {known}"), format!("version {version}")));
    }
    let (offset, len) = (4 * LLM_C_HEADER_WORDS, u64::from(len));
    let expected = offset + len * dtype.size_bytes() as u64;
    if size != expected && (len as u32) > i32::MAX as u32 {
        // Written as a signed number.
        let found = i64::from(len as u32 as i32).to_string();
        return Err(Error::data(what, "a number of tokens in the header of llm.c", found));
    }
    if size != expected {
        let expected = format!("{expected} bytes, for the {len} {dtype} tokens that the header of llm.c tells of");
        return Err(Error::data(what, expected, format!("{size} bytes")));
    }
    Ok(Some(Layout { kind: "token file of llm.c", dtype, offset, len }))
}

/// Words that [`check_width`] wants to see at least.
const MIN_SAMPLE_WORDS: usize = 32;
/// Upper halves of 32-bit tokens stay below this: no vocabulary in use has 262,144 entries.
const UPPER_HALVES: u16 = 4;

/// Refuses 16-bit tokens that can only be halves of wider ones. `sample` is bytes from one or more places of the file,
/// each place a multiple of 8 bytes from its start and of 8 bytes.
pub fn check_width(what: &str, sample: &[u8]) -> Result<()> {
    let words: Vec<u16> = sample.as_chunks().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
    if words.len() < MIN_SAMPLE_WORDS {
        return Ok(());
    }
    let largest = |lane: usize, of: usize| words[lane..].iter().step_by(of).copied().max().unwrap_or(0);
    let (low, high) = (largest(0, 2), largest(1, 2));
    if low == 0 {
        return Ok(());
    }
    let (found, dtype) = match high {
        0 if largest(2, 4) == 0 => ("three of four 16-bit values always 0, as in 64-bit tokens", TokenDtype::U64),
        0 => ("every second 16-bit value 0, as in 32-bit tokens", TokenDtype::U32),
        // Small tokens alone may be small in every second place.
        _ if high < UPPER_HALVES && low > u16::from(u8::MAX) => {
            ("every second 16-bit value next to 0, as in 32-bit tokens", TokenDtype::U32)
        }
        _ => return Ok(()),
    };
    Err(Error::data(what, "16-bit tokens", format!("{found}; give --token-dtype {dtype}, or u16 if that is right")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::Largest;
    use crate::data::token_layout::BadToken;

    fn words(values: impl IntoIterator<Item = u16>) -> Vec<u8> {
        values.into_iter().flat_map(u16::to_le_bytes).collect()
    }

    fn llm_c_file(magic: u32, version: u32, len: u32, data_bytes: usize) -> Vec<u8> {
        let mut out = vec![0; 4 * LLM_C_HEADER_WORDS as usize + data_bytes];
        for (i, word) in [magic, version, len].into_iter().enumerate() {
            out[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn read(bytes: &[u8], asked: Option<TokenDtype>) -> Result<Layout> {
        layout("x.bin", &bytes[..bytes.len().min(HEAD_BYTES)], bytes.len() as u64, asked)
    }

    #[test]
    fn plain_files_have_16_bits_unless_the_user_says_otherwise() {
        let plain = |dtype, len| Layout { kind: "token file", dtype, offset: 0, len };
        assert_eq!(read(&[1, 0, 0x57, 0xC4], None).unwrap(), plain(TokenDtype::U16, 2));
        assert_eq!(read(&[1, 0, 0, 0, 2, 0, 0, 0], Some(TokenDtype::U32)).unwrap(), plain(TokenDtype::U32, 2));
        let error = |bytes: &[u8], asked| read(bytes, asked).unwrap_err().to_string();
        let message = "x.bin: expected 16-bit tokens, so a multiple of 2 bytes, found 3 bytes (truncated)";
        assert_eq!(error(&[1, 2, 3], None), message);
        assert!(error(&[1; 12], Some(TokenDtype::U64)).contains("a multiple of 8 bytes"));
        assert!(error(&[], None).contains("an empty file"));
        assert!(error(b"PK\x03\x04....", None).contains("a ZIP archive"));
        assert!(read(b"PK\x03\x04....", Some(TokenDtype::U16)).is_ok());
    }

    #[test]
    fn headers_of_llm_c_are_read_in_both_kinds() {
        let two = read(&llm_c_file(20_240_520, 1, 5, 10), None).unwrap();
        assert_eq!((two.dtype, two.offset, two.len), (TokenDtype::U16, 1024, 5));
        let four = read(&llm_c_file(20_240_801, 7, 5, 20), Some(TokenDtype::U32)).unwrap();
        assert_eq!((four.dtype, four.offset, four.len), (TokenDtype::U32, 1024, 5));
        let error = |bytes: &[u8], asked| read(bytes, asked).unwrap_err().to_string();
        assert!(error(&llm_c_file(20_240_801, 7, 5, 18), None).contains("for the 5 u32 tokens that the header of llm.c"));
        let negative = error(&llm_c_file(20_240_520, 1, -5i32 as u32, 10), None);
        assert_eq!(negative, "x.bin: expected a number of tokens in the header of llm.c, found -5");
        assert!(error(&llm_c_file(20_240_520, 3, 5, 10), None).contains("version 3"));
        assert!(error(&llm_c_file(20_240_522, 1, 5, 10), None).contains("questions"));
        assert!(error(&llm_c_file(20_240_520, 1, 5, 10)[..6], None).contains("truncated"));
        let message = error(&llm_c_file(20_240_520, 1, 5, 10), Some(TokenDtype::U32));
        assert_eq!(message, "--token-dtype: expected u16, as the header says (token file of llm.c), got u32");
    }

    #[test]
    fn halves_of_wider_tokens_are_seen() {
        let error = |sample: Vec<u8>| check_width("x", &sample).unwrap_err().to_string();
        assert!(error((0..100u32).flat_map(u32::to_le_bytes).collect()).contains("--token-dtype u32"));
        assert!(error((0..100u64).flat_map(u64::to_le_bytes).collect()).contains("--token-dtype u64"));
        assert!(error((0..100u32).flat_map(|t| (t * 1300).to_le_bytes()).collect()).contains("next to 0"));
        for good in [words(0..100), words([0; 64]), words((0..64).map(|i| i % 3)), words([5, 0, 5, 0]), Vec::new()] {
            check_width("x", &good).unwrap();
        }
    }

    #[test]
    fn every_width_is_read_and_what_is_no_token_is_named() {
        let read = |dtype: TokenDtype, bytes: &[u8]| {
            let mut out = vec![9; bytes.len() / dtype.size_bytes()];
            dtype.decode(bytes, &mut out).map(|()| out)
        };
        let all = [
            TokenDtype::U8,
            TokenDtype::I8,
            TokenDtype::U16,
            TokenDtype::I16,
            TokenDtype::U32,
            TokenDtype::I32,
            TokenDtype::U64,
            TokenDtype::I64,
        ];
        for dtype in all {
            let width = dtype.size_bytes();
            let bytes: Vec<u8> = [3u64, 100, 7].into_iter().flat_map(|t| t.to_le_bytes().into_iter().take(width)).collect();
            assert_eq!(read(dtype, &bytes).unwrap(), [3, 100, 7], "{dtype}");
            assert_eq!(dtype.largest(&bytes, 10).unwrap(), Some(Largest { position: 11, token: 100 }), "{dtype}");
            assert_eq!(dtype.largest(&[], 10).unwrap(), None);
        }
        assert_eq!(read(TokenDtype::I32, &(-1i32).to_le_bytes()), Err(BadToken { index: 0, value: -1 }));
        let large = (1u64 << 32).to_le_bytes();
        assert_eq!(read(TokenDtype::U64, &[[0; 8], large].concat()), Err(BadToken { index: 1, value: 1 << 32 }));
        assert!(TokenDtype::I64.largest(&u64::MAX.to_le_bytes(), 0).is_err());
        assert_eq!(read(TokenDtype::U32, &[0xff; 4]).unwrap(), [u32::MAX]);
    }
}

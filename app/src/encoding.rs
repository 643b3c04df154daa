//! From the bytes of a file to text. UTF-8 and, by their mark in front, UTF-16 are read, also in gzip and zstd; the
//! mark goes. Whatever else a file is, is said by name.

use flate2::read::MultiGzDecoder;
use mantissa_core::data::Largest;
use mantissa_core::data::formats::{self, GZIP, ZSTD};
use std::io::Read;

/// Most bytes that a packed text may unpack to.
const MAX_UNPACKED_BYTES: u64 = 1 << 34;
/// Marks in front of text.
pub const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
const UTF16_LE_MARK: &[u8] = b"\xff\xfe";
const UTF16_BE_MARK: &[u8] = b"\xfe\xff";
/// First characters looked at for UTF-16 without a mark.
const LOOK_CHARS: usize = 4096;

/// A text, and what it was read from, if that is not plain UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The text.
    pub text: String,
    /// Such as `UTF-16`, `gzip`.
    pub from: Vec<&'static str>,
}

/// The text of a file; the error says what was found instead.
pub fn decode(bytes: Vec<u8>) -> Result<Decoded, String> {
    let (packed, bytes) = unpacked(bytes)?;
    let inside = packed.map_or(String::new(), |packed| format!(" in a {packed} file"));
    let (encoding, text) = text(bytes).map_err(|found| found + &inside)?;
    Ok(Decoded { text, from: encoding.into_iter().chain(packed).collect() })
}

/// The contents of a packed file, and what packed it.
fn unpacked(bytes: Vec<u8>) -> Result<(Option<&'static str>, Vec<u8>), String> {
    if bytes.starts_with(GZIP) {
        return Ok((Some("gzip"), all_of("gzip", MultiGzDecoder::new(bytes.as_slice()))?));
    }
    if bytes.starts_with(ZSTD) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(bytes.as_slice());
        return Ok((Some("zstd"), all_of("zstd", decoder.map_err(|_| damaged("zstd"))?)?));
    }
    Ok((None, bytes))
}

fn all_of(packed: &str, decoder: impl Read) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    match decoder.take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut out) {
        Err(_) => Err(damaged(packed)),
        Ok(n) if n as u64 > MAX_UNPACKED_BYTES => {
            Err(format!("a {packed} file of more than {MAX_UNPACKED_BYTES} bytes inside"))
        }
        Ok(_) => Ok(out),
    }
}

/// What the crates say of it is about their insides.
fn damaged(packed: &str) -> String {
    format!("a damaged {packed} file, or one that was cut short")
}

fn text(bytes: Vec<u8>) -> Result<(Option<&'static str>, String), String> {
    if let Some(format) = formats::named(&bytes).filter(|_| !is_text(&bytes)) {
        return Err(format.into());
    }
    if let Some(rest) = bytes.strip_prefix(UTF16_LE_MARK) {
        return Ok((Some("UTF-16"), utf16(rest, u16::from_le_bytes)?));
    }
    if let Some(rest) = bytes.strip_prefix(UTF16_BE_MARK) {
        return Ok((Some("UTF-16"), utf16(rest, u16::from_be_bytes)?));
    }
    if let Some(order) = unmarked_utf16(&bytes) {
        return Err(unmarked(order));
    }
    // A zero byte is legal UTF-8, but no text file has one.
    if let Some(at) = bytes.iter().position(|&b| b == 0) {
        return Err(zero_byte(at as u64));
    }
    let text = String::from_utf8(without_mark(bytes));
    text.map(|text| (None, text)).map_err(|e| invalid_byte(e.utf8_error().valid_up_to() as u64))
}

/// A look through a text that comes in pieces: what [`decode`] would say of all of it.
#[derive(Debug)]
pub struct Look {
    mark_bytes: u64,
    /// What its first bytes say it is, if it turns out to be no text.
    named: Option<&'static str>,
    /// Bytes seen before those of `cut`.
    at: u64,
    /// The first bytes of a character whose rest is to come.
    cut: Vec<u8>,
    largest: Option<Largest>,
}

impl Look {
    /// Begins with the first bytes of a file, which [`Look::piece`] wants to see again, without the mark. `None` if it
    /// must be unpacked or decoded first.
    pub fn at_head(head: &[u8]) -> Result<Option<Look>, String> {
        if [GZIP, ZSTD, UTF16_LE_MARK, UTF16_BE_MARK].iter().any(|mark| head.starts_with(mark)) {
            return Ok(None);
        }
        if let Some(order) = unmarked_utf16(head) {
            return Err(unmarked(order));
        }
        let mark_bytes = if head.starts_with(UTF8_MARK) { UTF8_MARK.len() as u64 } else { 0 };
        Ok(Some(Look { mark_bytes, named: formats::named(head), at: 0, cut: Vec::new(), largest: None }))
    }

    /// Bytes in front of the text.
    pub fn mark_bytes(&self) -> u64 {
        self.mark_bytes
    }

    /// The next piece.
    pub fn piece(&mut self, piece: &[u8]) -> Result<(), String> {
        let start = self.at + self.cut.len() as u64;
        if let Some(at) = piece.iter().position(|&b| b == 0) {
            return Err(self.found(zero_byte(start + at as u64)));
        }
        self.largest = Largest::higher(self.largest, Largest::of(piece, start as usize));
        // Up to the end of the character that the last piece was cut in.
        let mut rest = piece;
        while !self.cut.is_empty() && !rest.is_empty() {
            self.cut.push(rest[0]);
            rest = &rest[1..];
            match std::str::from_utf8(&self.cut) {
                Ok(_) => {
                    self.at += self.cut.len() as u64;
                    self.cut.clear();
                }
                Err(e) if e.error_len().is_none() => {}
                Err(_) => return Err(self.found(invalid_byte(self.at))),
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => self.at += rest.len() as u64,
            Err(e) => {
                self.at += e.valid_up_to() as u64;
                if e.error_len().is_some() {
                    return Err(self.found(invalid_byte(self.at)));
                }
                self.cut.extend_from_slice(&rest[e.valid_up_to()..]);
            }
        }
        Ok(())
    }

    /// The end of the text; its largest byte.
    pub fn end(self) -> Result<Option<Largest>, String> {
        match self.cut.is_empty() {
            true => Ok(self.largest),
            false => Err(self.found(invalid_byte(self.at))),
        }
    }

    fn found(&self, problem: String) -> String {
        self.named.map_or(problem, String::from)
    }
}

fn zero_byte(at: u64) -> String {
    format!("binary data (a zero byte at {at})")
}

fn invalid_byte(at: u64) -> String {
    format!("an invalid byte at {at}")
}

fn unmarked(order: &str) -> String {
    format!("UTF-16 text ({order}) without a mark; save it as UTF-8")
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// The text of a file that may have the mark of UTF-8 in front.
pub fn without_mark(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(UTF8_MARK) {
        bytes.drain(..UTF8_MARK.len());
    }
    bytes
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (units, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err("UTF-16 text of an odd number of bytes".into());
    }
    let decoded: Result<String, _> = char::decode_utf16(units.iter().map(|&b| unit(b))).collect();
    decoded.map_err(|e| format!("UTF-16 text with half a character ({:#06x})", e.unpaired_surrogate()))
}

/// The byte order of what can only be UTF-16 without a mark: mostly characters below U+0100, whose other byte is 0.
fn unmarked_utf16(bytes: &[u8]) -> Option<&'static str> {
    let (units, _) = bytes.as_chunks::<2>();
    let units = &units[..units.len().min(LOOK_CHARS)];
    let zero = |place: usize| units.iter().filter(|unit| unit[place] == 0).count();
    let (first, second) = (zero(0), zero(1));
    match units.len() / 2 {
        0 => None,
        half if second > half && first == 0 => Some("little-endian"),
        half if first > half && second == 0 => Some("big-endian"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const TEXT: &str = "plain t\u{e4}xt \u{1F600}\n";

    fn from(bytes: &[u8]) -> (String, Vec<&'static str>) {
        let Decoded { text, from } = decode(bytes.to_vec()).unwrap();
        (text, from)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn utf16(mark: &[u8], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        [mark.to_vec(), TEXT.encode_utf16().flat_map(bytes).collect()].concat()
    }

    #[test]
    fn text_is_read_whatever_it_lies_in() {
        assert_eq!(from(TEXT.as_bytes()), (TEXT.into(), vec![]));
        assert_eq!(from(&[UTF8_MARK, TEXT.as_bytes()].concat()), (TEXT.into(), vec![]));
        assert_eq!(from(&utf16(UTF16_LE_MARK, u16::to_le_bytes)), (TEXT.into(), vec!["UTF-16"]));
        assert_eq!(from(&utf16(UTF16_BE_MARK, u16::to_be_bytes)), (TEXT.into(), vec!["UTF-16"]));
        // As one writes them, one behind the other.
        let two = [gzip(TEXT.as_bytes()), gzip(TEXT.as_bytes())].concat();
        assert_eq!(from(&two), (TEXT.repeat(2), vec!["gzip"]));
        assert_eq!(from(&gzip(&utf16(UTF16_LE_MARK, u16::to_le_bytes))), (TEXT.into(), vec!["UTF-16", "gzip"]));
        let zstd = ruzstd::encoding::compress_to_vec(TEXT.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
        assert_eq!(from(&zstd), (TEXT.into(), vec!["zstd"]));
        assert_eq!(from(b""), (String::new(), vec![]));
        assert_eq!(from(b"PAR1 is a word"), ("PAR1 is a word".into(), vec![]));
    }

    #[test]
    fn what_is_no_text_is_named() {
        let error = |bytes: &[u8]| decode(bytes.to_vec()).unwrap_err();
        assert_eq!(error(b"abc\xff"), "an invalid byte at 3");
        assert_eq!(error(b"abc\0"), "binary data (a zero byte at 3)");
        assert_eq!(error(b"\x89PNG\r\n\x1a\n"), "a PNG image");
        assert_eq!(error(&gzip(b"\x89PNG\0")), "a PNG image in a gzip file");
        assert_eq!(error(&gzip(&gzip(b"x"))), "a gzip file in a gzip file");
        assert!(error(&gzip(TEXT.as_bytes())[..20]).starts_with("a damaged gzip file"));
        assert!(error(&[ZSTD, &[9; 20]].concat()).starts_with("a damaged zstd file"));
        let unmarked: Vec<u8> = "text".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(error(&unmarked).contains("UTF-16 text (little-endian) without a mark"));
        let swapped: Vec<u8> = "text".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(error(&swapped).contains("UTF-16 text (big-endian)"));
        assert_eq!(error(&[UTF16_LE_MARK, &[0x00, 0xd8]].concat()), "UTF-16 text with half a character (0xd800)");
        assert!(error(&[UTF16_LE_MARK, &[0x41, 0, 0x42]].concat()).contains("an odd number of bytes"));
    }
}

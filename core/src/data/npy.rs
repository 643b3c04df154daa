//! The header of a NumPy array file (`.npy`), versions 1 to 3: a mark, a length, and a Python dict as text.
//! Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>
//!
//! Only what a list of tokens can be is read: one axis of integers in little-endian order.

use super::formats::NUMPY;
use super::token_layout::{Layout, TokenDtype};
use crate::error::{Error, Result};

/// What is read.
const EXPECTED: &str = "a NumPy array of one axis of little-endian integers";

/// Where the tokens of a file lie that begins with `head` and has `size` bytes in all.
pub(super) fn layout(what: &str, head: &[u8], size: u64) -> Result<Layout> {
    let bad = |found: String| Error::data(what, EXPECTED, found);
    let cut = || bad(format!("a header that is cut or longer than {} bytes", head.len()));
    // Two bytes of version; then the length of the text, in two bytes in version 1 and in four later.
    let at = NUMPY.len();
    let version = *head.get(at).ok_or_else(cut)?;
    let (text_at, length) = match (version, head.get(at + 2..)) {
        (1, Some(&[a, b, ..])) => (at + 4, u32::from(u16::from_le_bytes([a, b]))),
        (2 | 3, Some(&[a, b, c, d, ..])) => (at + 6, u32::from_le_bytes([a, b, c, d])),
        (1..=3, _) => return Err(cut()),
        (other, _) => return Err(bad(format!("version {other} of the format"))),
    };
    let end = text_at as u64 + u64::from(length);
    let text = usize::try_from(end).ok().and_then(|end| head.get(text_at..end)).ok_or_else(cut)?;
    let text = String::from_utf8_lossy(text).replace('"', "'");
    let dtype = dtype(&text).map_err(bad)?;
    let len = axis(&text).map_err(bad)?;
    let needed = len.checked_mul(dtype.size_bytes() as u64).and_then(|bytes| bytes.checked_add(end));
    if needed != Some(size) {
        let expected =
            needed.map_or("a length that fits 64 bits".into(), |n| format!("{n} bytes, for {len} tokens of {dtype}"));
        return Err(Error::data(what, expected, format!("{size} bytes")));
    }
    Ok(Layout { kind: "NumPy array", dtype, offset: end, len })
}

/// What follows `'key':` in the dict.
fn value<'a>(text: &'a str, key: &str) -> Result<&'a str, String> {
    let key = format!("'{key}'");
    let rest = text.split_once(key.as_str()).and_then(|(_, rest)| rest.trim_start().strip_prefix(':'));
    rest.map(str::trim_start).ok_or_else(|| format!("a header without {key}"))
}

fn dtype(text: &str) -> Result<TokenDtype, String> {
    let value = value(text, "descr")?;
    let descr = value.strip_prefix('\'').and_then(|v| v.split_once('\'')).map(|(descr, _)| descr);
    match descr {
        Some("|u1" | "<u1") => Ok(TokenDtype::U8),
        Some("|i1" | "<i1") => Ok(TokenDtype::I8),
        Some("<u2") => Ok(TokenDtype::U16),
        Some("<i2") => Ok(TokenDtype::I16),
        Some("<u4") => Ok(TokenDtype::U32),
        Some("<i4") => Ok(TokenDtype::I32),
        Some("<u8") => Ok(TokenDtype::U64),
        Some("<i8") => Ok(TokenDtype::I64),
        Some(big @ (">u2" | ">i2" | ">u4" | ">i4" | ">u8" | ">i8")) => {
            let little = big.replace('>', "<");
            Err(format!("big-endian ones (dtype {big}); save them again with array.astype('{little}')"))
        }
        Some(other) => Err(format!("elements of dtype {}", other.escape_debug())),
        None => Err("a record dtype".into()),
    }
}

/// Length of the one axis.
fn axis(text: &str) -> Result<u64, String> {
    let value = value(text, "shape")?;
    let shape = value.strip_prefix('(').and_then(|v| v.split_once(')')).map(|(shape, _)| shape.trim());
    let shape = shape.ok_or("a header without a shape")?;
    // A tuple of one is written with a comma behind.
    let length = shape.strip_suffix(',').unwrap_or(shape).trim();
    length.parse().map_err(|_| format!("the shape ({})", shape.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, shape: &str, version: u8, data_bytes: usize) -> Vec<u8> {
        let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut out = [NUMPY, &[version, 0]].concat();
        match version {
            1 => out.extend((dict.len() as u16).to_le_bytes()),
            _ => out.extend((dict.len() as u32).to_le_bytes()),
        }
        out.extend(dict.bytes());
        out.extend(std::iter::repeat_n(0, data_bytes));
        out
    }

    fn read(bytes: &[u8]) -> Result<Layout> {
        layout("x.npy", bytes, bytes.len() as u64)
    }

    #[test]
    fn arrays_of_one_axis_are_found() {
        for (descr, dtype) in [("<u2", TokenDtype::U16), ("<i8", TokenDtype::I64), ("|u1", TokenDtype::U8)] {
            for version in [1, 2, 3] {
                let bytes = file(descr, "(5,)", version, 5 * dtype.size_bytes());
                let found = read(&bytes).unwrap();
                assert_eq!((found.dtype, found.len), (dtype, 5));
                assert_eq!(found.offset as usize, bytes.len() - 5 * dtype.size_bytes());
            }
        }
    }

    #[test]
    fn anything_else_is_named() {
        let error = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(
            error(&file(">u2", "(5,)", 1, 10))
                .contains("found big-endian ones (dtype >u2); save them again with array.astype('<u2')")
        );
        assert!(error(&file(">f4", "(5,)", 1, 20)).contains("elements of dtype >f4"));
        assert!(error(&file("<f4", "(5,)", 1, 20)).contains("<f4"));
        assert!(error(&file("<u2", "(5, 2)", 1, 20)).contains("the shape (5, 2)"));
        assert!(error(&file("<u2", "()", 1, 2)).contains("the shape ()"));
        assert!(error(&file("<u2", "(5,)", 1, 9)).contains("for 5 tokens of u16"));
        assert!(error(&file("<u2", "(18446744073709551615,)", 1, 9)).contains("fits 64 bits"));
        assert!(error(&file("<u2", "(5,)", 4, 10)).contains("version 4"));
        let good = file("<u2", "(5,)", 1, 10);
        for cut in NUMPY.len()..good.len() {
            assert!(read(&good[..cut]).is_err(), "{cut} bytes");
        }
    }
}

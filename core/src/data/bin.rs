//! nanoGPT's token files: 16-bit tokens, little-endian, nothing else. Source: <https://github.com/karpathy/nanoGPT>, `data/*/prepare.py`.

use crate::error::{Error, Result};

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 2;

/// First word of a token file of llm.c, which has a header and is refused by name.
const LLM_C_MAGIC: u32 = 20_240_520;

/// The tokens of a file.
pub fn tokens(what: &str, bytes: &[u8]) -> Result<Vec<u16>> {
    if bytes.is_empty() {
        return Err(Error::data(what, "16-bit tokens", "an empty file"));
    }
    if !bytes.len().is_multiple_of(TOKEN_BYTES) {
        return Err(Error::data(
            what,
            "16-bit tokens, so an even number of bytes",
            format!("{} bytes (truncated)", bytes.len()),
        ));
    }
    if let Some(&[a, b, c, d]) = bytes.first_chunk()
        && u32::from_le_bytes([a, b, c, d]) == LLM_C_MAGIC
    {
        return Err(Error::data(
            what,
            "16-bit tokens from the first byte, as nanoGPT writes them",
            "the header of a file of llm.c",
        ));
    }
    Ok(bytes.chunks_exact(TOKEN_BYTES).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_little_endian_tokens_and_refuses_what_is_none() {
        assert_eq!(tokens("x", &[1, 0, 0x57, 0xC4]).unwrap(), [1, 50263]);
        let error = |bytes: &[u8]| tokens("x.bin", bytes).unwrap_err().to_string();
        assert_eq!(error(&[1, 2, 3]), "x.bin: expected 16-bit tokens, so an even number of bytes, found 3 bytes (truncated)");
        assert!(error(&[]).contains("an empty file"));
        assert!(error(&[LLM_C_MAGIC.to_le_bytes(), [0; 4]].concat()).contains("llm.c"));
    }
}

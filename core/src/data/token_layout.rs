//! How tokens lie in a file: width and sign of one, and the bytes before the first.

use super::source::Largest;

/// How a token lies in a file. Little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is its name")]
pub enum TokenDtype {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
}

/// A token that is negative or has more than 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadToken {
    /// Its place among the tokens looked at.
    pub index: usize,
    /// Its value.
    pub value: i128,
}

impl TokenDtype {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            TokenDtype::U8 => "u8",
            TokenDtype::I8 => "i8",
            TokenDtype::U16 => "u16",
            TokenDtype::I16 => "i16",
            TokenDtype::U32 => "u32",
            TokenDtype::I32 => "i32",
            TokenDtype::U64 => "u64",
            TokenDtype::I64 => "i64",
        }
    }

    /// Bytes of a token.
    pub fn size_bytes(self) -> usize {
        match self {
            TokenDtype::U8 | TokenDtype::I8 => 1,
            TokenDtype::U16 | TokenDtype::I16 => 2,
            TokenDtype::U32 | TokenDtype::I32 => 4,
            TokenDtype::U64 | TokenDtype::I64 => 8,
        }
    }

    /// Reads as many tokens as fit both. Fails at the first that is negative or above 32 bits, with its place.
    pub fn decode(self, bytes: &[u8], out: &mut [u32]) -> Result<(), BadToken> {
        match self {
            TokenDtype::U8 => plain(bytes, out, |[b]: [u8; 1]| u32::from(b)),
            TokenDtype::U16 => plain(bytes, out, |b| u32::from(u16::from_le_bytes(b))),
            TokenDtype::U32 => plain(bytes, out, u32::from_le_bytes),
            TokenDtype::I8 => checked(bytes, out, |b| i8::from_le_bytes(b).into()),
            TokenDtype::I16 => checked(bytes, out, |b| i16::from_le_bytes(b).into()),
            TokenDtype::I32 => checked(bytes, out, |b| i32::from_le_bytes(b).into()),
            TokenDtype::U64 => checked(bytes, out, |b| u64::from_le_bytes(b).into()),
            TokenDtype::I64 => checked(bytes, out, |b| i64::from_le_bytes(b).into()),
        }
    }

    /// The largest token of a piece that begins at position `start`: what [`TokenDtype::decode`] and a look at each
    /// token would give, at the speed of memory for 16 bits. Fails as that does.
    pub fn largest(self, bytes: &[u8], start: usize) -> Result<Option<Largest>, BadToken> {
        if self == TokenDtype::U16 {
            let words = bytes.as_chunks().0;
            let Some(token) = words.iter().map(|&b| u16::from_le_bytes(b)).max() else { return Ok(None) };
            let at = words.iter().position(|&b| u16::from_le_bytes(b) == token).unwrap_or_default();
            return Ok(Some(Largest { position: start + at, token: token.into() }));
        }
        let mut tokens = vec![0; bytes.len() / self.size_bytes()];
        self.decode(bytes, &mut tokens)?;
        Ok(Largest::of(&tokens, start))
    }
}

impl std::fmt::Display for TokenDtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn plain<const N: usize>(bytes: &[u8], out: &mut [u32], value: impl Fn([u8; N]) -> u32) -> Result<(), BadToken> {
    out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, &b)| *o = value(b));
    Ok(())
}

fn checked<const N: usize>(bytes: &[u8], out: &mut [u32], value: impl Fn([u8; N]) -> i128) -> Result<(), BadToken> {
    for (index, (o, &b)) in out.iter_mut().zip(bytes.as_chunks().0).enumerate() {
        let value = value(b);
        *o = u32::try_from(value).map_err(|_| BadToken { index, value })?;
    }
    Ok(())
}

/// Where the tokens of a file lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What kind of file it is, for people.
    pub kind: &'static str,
    /// How a token lies there.
    pub dtype: TokenDtype,
    /// Bytes before the first token.
    pub offset: u64,
    /// Number of tokens.
    pub len: u64,
}

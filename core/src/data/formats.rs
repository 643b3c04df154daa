//! Formats that a file names in its first bytes. Used to say what a file is that is not what was expected.
//! Source: the `magic` database of file(1), and the specification of each format.

/// First bytes, and what such a file is.
const FORMATS: [(&[u8], &str); 20] = [
    (GZIP, "a gzip file"),
    (ZSTD, "a zstd file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x04\x22\x4d\x18", "an LZ4 file"),
    (b"PK\x03\x04", "a ZIP archive, as PyTorch and .npz files are"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"\x7fELF", "a program (ELF)"),
    (NUMPY, "a NumPy array"),
    (b"GGUF", "a GGUF model"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xfe\0\0", "UTF-32 text"),
    (b"\0\0\xfe\xff", "UTF-32 text"),
    (b"RIFF", "a RIFF file (sound, video or WebP)"),
];

/// First bytes of a gzip file: its mark, and deflate, the one method there is.
pub const GZIP: &[u8] = b"\x1f\x8b\x08";
/// First bytes of a zstd file.
pub const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// First bytes of a NumPy array (`.npy`).
pub const NUMPY: &[u8] = b"\x93NUMPY";

/// What a file is that begins with `head`, if that says so.
pub fn named(head: &[u8]) -> Option<&'static str> {
    FORMATS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        assert_eq!(named(&[0x1f, 0x8b, 8, 0]), Some("a gzip file"));
        assert_eq!(named(b"\x93NUMPY\x01\0"), Some("a NumPy array"));
        assert_eq!((named(b"plain text"), named(b""), named(&[0x1f])), (None, None, None));
    }
}

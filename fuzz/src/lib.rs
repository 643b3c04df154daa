//! What every reader of foreign bytes is put through: no panic, no memory that the bytes do not account for. Each
//! function takes any bytes.
//!
//! Used twice: by the targets of cargo-fuzz in `fuzz_targets`, and, with random and mutated bytes, by
//! `app/tests/hostile.rs`, which runs with all other tests.

#[path = "checkpoint.rs"]
mod damaged;
#[path = "program.rs"]
mod malformed;

pub use damaged::{checkpoint, whole_checkpoints};
pub use malformed::program;

use mantissa_app::config::RunConfig;
use mantissa_app::tensor_file::Header;
use mantissa_app::vocabulary::{Vocabulary, chars, pieces::Pieces};
use mantissa_core::data::{Images, Tokens, bin, images};
use safetensors::SafeTensors;

/// A safetensors file: as read whole (weights, checkpoints) and piece by piece (casts).
pub fn safetensors(data: &[u8]) {
    let whole = SafeTensors::deserialize(data);
    let header = Header::read(&mut &data[..], data.len() as u64);
    assert_eq!(whole.is_ok(), header.is_ok(), "both readers judge alike");
    if let Ok(header) = header {
        let claimed: usize = header.entries.iter().map(|e| e.size_bytes).sum();
        assert!(claimed < data.len(), "no more than there is");
    }
}

/// A config file. What is accepted survives being written and read again.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = RunConfig::from_toml(text) {
        let written = config.to_toml().expect("a config can be written");
        let again = RunConfig::from_toml(&written).expect("a written config can be read");
        assert_eq!(again.to_toml().expect("a config can be written"), written);
    }
}

/// An IDX image file and an IDX label file, cut where the first byte says.
pub fn idx(data: &[u8]) {
    let Some((&at, rest)) = data.split_first() else { return };
    let (pixels, labels) = rest.split_at(rest.len() * usize::from(at) / 256);
    let _ = images::idx_len("IDX images", images::IDX_IMAGES, pixels);
    if let Ok(images) = Images::from_idx(pixels, labels) {
        assert_eq!(images.train_len() + images.val_len(), labels.len() - 8);
        assert!(images.image(0).len() <= pixels.len());
    }
}

/// A token file, with or without a header: what is accepted lies inside the file.
pub fn token_file(data: &[u8]) {
    let head = &data[..data.len().min(bin::HEAD_BYTES)];
    let _ = bin::check_width("token file", data);
    if let Ok(layout) = bin::layout("token file", head, data.len() as u64, None) {
        let (width, from) = (layout.dtype.size_bytes(), layout.offset as usize);
        assert_eq!(from + width * layout.len as usize, data.len());
        let mut tokens = vec![0; layout.len as usize];
        let decoded = layout.dtype.decode(&data[from..], &mut tokens);
        let largest = layout.dtype.largest(&data[from..], 0);
        assert_eq!(decoded.is_ok(), largest.is_ok());
        if let Ok(Some(largest)) = largest {
            assert_eq!(tokens[largest.position], largest.token);
            let tokens = Tokens::from_ids(tokens, largest.token as usize + 1).expect("the largest is one of them");
            let _ = tokens.check_context(8);
        }
    }
}

/// A `tokenizer.json` and a `meta.json`: what is accepted can be used.
pub fn tokenizer(data: &[u8]) {
    const TEXT: &str = "Hello, w\u{f6}rld\n\n 12 \u{1F600}";
    if let Ok(pieces) = Pieces::from_json(data.to_vec()) {
        if let Ok(tokens) = pieces.encode(TEXT) {
            assert!(tokens.iter().all(|&t| (t as usize) < pieces.size()), "tokens below the size");
            let _ = pieces.decode(&tokens);
        }
        let _ = pieces.decode(&[0, 1, u32::MAX]);
    }
    if let Ok(vocabulary @ (Vocabulary::Chars(_) | Vocabulary::Unnamed(_))) = chars::from_json(data) {
        let _ = vocabulary.encode(TEXT);
        let _ = vocabulary.decode(&[0, 1, u32::MAX]);
    }
}

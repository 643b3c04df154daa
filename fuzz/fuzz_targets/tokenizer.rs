//! See `tokenizer` in `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    // Panics inside the tokenizers crate are caught by the reader; only those that escape it count, and still end the
    // process.
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| mantissa_fuzz::tokenizer(data)
);

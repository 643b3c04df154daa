//! See `checkpoint` in `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mantissa_fuzz::checkpoint(data));

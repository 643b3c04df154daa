//! Readers against hostile bytes: the targets of `fuzz/`, on random bytes and on valid files with a few edits, some
//! thousand cases each. The cases are the same in every run. The allocator of this test refuses more than a fixed
//! amount for the whole process, so that memory taken on the word of a header ends the test.

use cap::Cap;
use mantissa_app::cli::StepArgs;
use mantissa_app::cli::resolve;
use mantissa_core::data::images::{IDX_IMAGES, IDX_LABELS};
use mantissa_core::precision::recipe::RecipeName;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::alloc::System;

#[expect(unreachable_pub, reason = "a library for cargo-fuzz, a module here")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// The readers and the recorded Programs need a few MiB.
const MEMORY_BYTES: usize = 256 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_BYTES);

/// Cases of one kind, for one reader.
const CASES: u32 = 3000;

/// A change of a file.
#[derive(Clone, Debug)]
enum Edit {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    Truncate(usize),
    /// An extreme number in place of eight bytes.
    Word(usize, u64),
    /// An extreme token of TOML or JSON in place of some bytes.
    Token(usize, usize, &'static str),
}

const TOKENS: [&str; 16] = [
    "-1",
    "0",
    "18446744073709551615",
    "1e999",
    "nan",
    "null",
    "true",
    "\"\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[[[[[[[[",
    "{\"a\":",
    "4294967296",
    "1e-320",
    "\u{1F600}",
];

fn edit() -> impl Strategy<Value = Edit> {
    let at = || any::<u16>().prop_map(usize::from);
    let extremes = [0, 1, u64::MAX, u64::MAX - 7, 1 << 32, 1 << 40, 1 << 63, i64::MAX as u64, 0x0000_0803_FFFF_FFFF];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(a, b)| Edit::Set(a, b)),
        (at(), vec(any::<u8>(), 1..9)).prop_map(|(a, b)| Edit::Insert(a, b)),
        (at(), 1usize..40).prop_map(|(a, n)| Edit::Remove(a, n)),
        (at(), 1usize..40).prop_map(|(a, n)| Edit::Repeat(a, n)),
        at().prop_map(Edit::Truncate),
        (at(), prop::sample::select(extremes.to_vec())).prop_map(|(a, w)| Edit::Word(a, w)),
        (at(), 0usize..12, prop::sample::select(TOKENS.to_vec())).prop_map(|(a, n, t)| Edit::Token(a, n, t)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let within = |at: usize, len: usize| at % (len + 1);
    let len = bytes.len();
    match edit {
        Edit::Set(at, b) => {
            let at = within(*at, len);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = *b;
            }
        }
        Edit::Insert(at, new) => {
            let at = within(*at, len);
            bytes.splice(at..at, new.iter().copied());
        }
        Edit::Remove(at, n) => {
            let at = within(*at, len);
            bytes.drain(at..(at + n).min(len));
        }
        Edit::Repeat(at, n) => {
            let at = within(*at, len);
            let copy = bytes[at..(at + n).min(len)].to_vec();
            bytes.splice(at..at, copy);
        }
        Edit::Truncate(at) => bytes.truncate(within(*at, len)),
        Edit::Word(at, word) => {
            let at = within(*at, len);
            bytes.splice(at..(at + 8).min(len), word.to_le_bytes());
        }
        Edit::Token(at, n, token) => {
            let at = within(*at, len);
            bytes.splice(at..(at + n).min(len), token.bytes());
        }
    }
}

/// Runs a reader on random bytes and on edited files. The valid files themselves come first.
fn check(reader: fn(&[u8]), valid: Vec<Vec<u8>>) {
    valid.iter().for_each(|file| reader(file));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let runner = || TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let random = vec(any::<u8>(), 0..200);
    let run = |bytes: Vec<u8>| {
        reader(&bytes);
        Ok(())
    };
    runner().run(&random, run).unwrap_or_else(|e| panic!("random bytes: {e}"));
    let edited = (prop::sample::select(valid), vec(edit(), 1..5)).prop_map(|(mut file, edits)| {
        edits.iter().for_each(|e| apply(&mut file, e));
        file
    });
    runner().run(&edited, run).unwrap_or_else(|e| panic!("an edited file: {e}"));
}

#[test]
fn safetensors_files() {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
    let two = [("w", view(Dtype::F32, &[2, 2], &[1; 16])), ("b", view(Dtype::BF16, &[3], &[2; 6]))];
    let metadata = [("step".to_string(), "7".to_string())].into();
    let one = [("code", view(Dtype::U8, &[5], &[3; 5]))];
    check(
        targets::safetensors,
        vec![safetensors::serialize(two, Some(metadata)).unwrap(), safetensors::serialize(one, None).unwrap()],
    );
}

#[test]
fn config_files() {
    let written = |recipe| {
        let args = StepArgs { recipe: Some(recipe), ..StepArgs::default() };
        resolve::resolve(&args.as_train()).unwrap().config.to_toml().unwrap().into_bytes()
    };
    check(targets::config, RecipeName::ALL.map(written).to_vec());
}

#[test]
fn idx_files() {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
    let images = [words(&[IDX_IMAGES, 20, 2, 3]), vec![9; 120]].concat();
    let labels = [words(&[IDX_LABELS, 20]), vec![1; 20]].concat();
    // The first byte says where the first file ends, in parts of 256.
    let both = (1..=255u8).map(|cut| [&[cut], &images[..], &labels].concat()).filter(|file| {
        let rest = file.len() - 1;
        rest * usize::from(file[0]) / 256 == images.len()
    });
    let valid: Vec<Vec<u8>> = both.collect();
    assert!(!valid.is_empty());
    check(targets::idx, valid);
}

#[test]
fn token_files() {
    check(targets::token_file, vec![vec![7; 64], [20_240_520u32.to_le_bytes(), [0; 4]].concat()]);
}

#[test]
fn tokenizer_files() {
    let bpe = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":7,"content":"<|end|>","single_word":false,
        "lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"NFC"},
        "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"post_processor":null,
        "decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
        "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,
        "byte_fallback":false,"vocab":{"H":0,"e":1,"He":2,"l":3,"o":4,"w":5,"r":6},"merges":["H e"]}}"#;
    let words = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
        "model":{"type":"WordLevel","vocab":{"Hello":0,"[UNK]":1},"unk_token":"[UNK]"}}"#;
    let meta = r#"{"vocab_size": 3, "itos": {"0": "\n", "1": "H", "2": "e"}, "stoi": {"\n": 0}}"#;
    let list = r#"{"itos": ["a", "bc", "\u00e4"]}"#;
    check(targets::tokenizer, [bpe, words, meta, list].map(|t| t.as_bytes().to_vec()).to_vec());
}

#[test]
fn checkpoint_folders() {
    check(targets::checkpoint, targets::whole_checkpoints());
}

#[test]
fn programs() {
    // Here any bytes are edits of a recorded Program.
    check(targets::program, vec![vec![0; 8], (0..=255).collect()]);
}

#[test]
fn the_allocator_refuses_what_no_file_accounts_for() {
    assert_eq!(ALLOCATOR.limit(), MEMORY_BYTES);
    let mut huge: Vec<u8> = Vec::new();
    assert!(huge.try_reserve_exact(2 * MEMORY_BYTES).is_err());
}

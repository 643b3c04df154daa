//! Small tokenizers of every family, for tests.

use super::Pieces;
use serde_json::{Value, json};

/// Letters that the texts of tests are made of.
const LETTERS: [&str; 12] = ["a", "b", "n", "t", "h", "e", "\n", ".", "'", "\u{e4}", "\u{65e5}", "\u{1F600}"];

fn pieces(parts: Value) -> Pieces {
    let mut whole = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null});
    for (key, value) in parts.as_object().unwrap() {
        whole[key] = value.clone();
    }
    Pieces::from_json(whole.to_string().into_bytes()).unwrap()
}

fn vocab(names: impl IntoIterator<Item = String>) -> Value {
    Value::Object(names.into_iter().enumerate().map(|(i, name)| (name, json!(i))).collect())
}

fn special(id: usize, content: &str) -> Value {
    json!([{"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}])
}

fn bpe(names: Vec<String>, merges: &[&str], byte_fallback: bool) -> Value {
    let merged = merges.iter().map(|m| m.replace(' ', ""));
    json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": true, "byte_fallback": byte_fallback, "vocab": vocab(names.into_iter().chain(merged)), "merges": merges})
}

/// Bytes as characters, some pairs, and one special token, as GPT-2 has it.
pub(super) fn byte_level(add_prefix_space: bool) -> Pieces {
    let mut bytes: Vec<(u8, char)> = super::stream::bytes_of_chars().into_iter().map(|(c, b)| (b, c)).collect();
    bytes.sort_unstable();
    let names = bytes.into_iter().map(|(_, c)| c.to_string()).chain(["<unk>".into()]).collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true});
    pieces(json!({"added_tokens": special(264, "<|end|>"), "pre_tokenizer": level, "decoder": level,
        "model": bpe(names, &["t h", "th e", "Ġ the", "a n", "a a", "aa aa", "Ċ Ċ"], false)}))
}

/// SentencePiece's BPE as Llama has it: a mark in front of the text, no words, bytes for what is missing.
pub(super) fn sentence_piece() -> Pieces {
    let names = ["<unk>".to_string()].into_iter().chain((0..=255u8).map(|b| format!("<0x{b:02X}>")));
    let names = names.chain(["\u{2581}", "a", "b", "n", "t", "h", "e"].map(String::from)).collect();
    let normalizers = json!([{"type": "Prepend", "prepend": "\u{2581}"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]);
    let decoders = json!([{"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
    let merges = ["t h", "th e", "\u{2581} the", "a n", "a a", "aa aa", "\u{2581} \u{2581}", "\u{2581}the \u{2581}"];
    pieces(json!({"added_tokens": special(0, "<unk>"), "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "decoder": {"type": "Sequence", "decoders": decoders}, "model": bpe(names, &merges, true)}))
}

/// BERT's: words in parts, unknown ones as one token.
pub(super) fn word_piece() -> Pieces {
    let names = ["[UNK]", "the", "an", "a", "##a", "##n", "##the", "b", "##b", ".", "'", "do", "not", "n", "t", "##t", "[PAD]"];
    let model = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 20, "vocab": vocab(names.map(String::from))});
    pieces(
        json!({"normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
        "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}, "model": model}),
    )
}

/// SentencePiece's unigram model, with words or without. Sums of its scores are exact.
pub(super) fn unigram(split: bool) -> Pieces {
    let parts = ["<unk>", "\u{2581}", "\u{2581}the", "the", "th", "an", "aa", "aaa"].map(String::from);
    let scored = parts.into_iter().chain(LETTERS.map(String::from)).enumerate();
    let scored: Vec<Value> = scored.map(|(i, part)| json!([part, -1.0 - (i * 7 % 5) as f64 / 4.0])).collect();
    let space = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": split});
    pieces(json!({"pre_tokenizer": space, "decoder": space,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": scored, "byte_fallback": false}}))
}

/// Words without a decoder.
pub(super) fn words() -> Pieces {
    let names = ["[UNK]", "the", "an", "a", "b", "."].map(String::from);
    pieces(json!({"pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab(names)}}))
}

/// A decoder over the pieces of [`sentence_piece`].
pub(super) fn decoding(decoder: Value) -> Pieces {
    let mut whole: Value = serde_json::from_slice(sentence_piece().json()).unwrap();
    whole["decoder"] = decoder;
    Pieces::from_json(whole.to_string().into_bytes()).unwrap()
}

/// One of each family, with its name.
pub(super) fn all() -> Vec<(&'static str, Pieces)> {
    vec![
        ("byte level", byte_level(false)),
        ("byte level with a space in front", byte_level(true)),
        ("SentencePiece", sentence_piece()),
        ("WordPiece", word_piece()),
        ("unigram", unigram(true)),
        ("words", words()),
    ]
}

/// A generator of numbers below its argument, the same in every run.
pub(super) fn numbers() -> impl FnMut(u64) -> u64 {
    let mut state = 12345u64;
    move |n| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    }
}

/// A text with words, runs of blanks, of one letter and of line breaks, and words longer than any vocabulary has.
pub(super) fn text(parts: usize, next: &mut impl FnMut(u64) -> u64) -> String {
    let mut out = String::new();
    for _ in 0..parts {
        let times = 1 + next(9) as usize;
        match next(9) {
            0 => out.push_str(&" ".repeat(times)),
            1 => out.push_str(&"a".repeat(times * 5)),
            2 => out.push_str(&"\n".repeat(times)),
            3 => (0..times * 6).for_each(|_| out.push_str(LETTERS[next(12) as usize])),
            4 => out.push_str("do n't "),
            _ => out.push_str([" the", " an", " banana.", "the ", " \u{65e5}\u{e4}"][next(5) as usize]),
        }
    }
    out
}

//! Long texts and texts that grow: the same tokens and bytes as all at once.

use super::windows::{OVERLAP_BYTES, WINDOW_BYTES, Windows};
use super::{Pieces, testing};
use serde_json::json;

fn whole(p: &Pieces, text: &str) -> Vec<u32> {
    p.tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn windows_give_the_tokens_of_the_whole() {
    for (name, p) in testing::all() {
        let mut next = testing::numbers();
        for round in 0..40 {
            let text = testing::text(400, &mut next);
            let sizes = Windows { window: 200 + next(800) as usize, overlap: 50 + next(150) as usize };
            let mut windows = 0;
            let tokens = p.encode_in(text.as_str(), sizes, |_| windows += 1).unwrap();
            assert!(windows > 1, "{name}: {} bytes in one window", text.len());
            assert!(tokens == whole(&p, &text), "{name}, round {round}, {sizes:?}: {text:?}");
        }
    }
}

#[test]
fn texts_without_a_place_to_cut_give_the_tokens_of_the_whole() {
    let sizes = Windows { window: 1000, overlap: 60 };
    for (name, p) in testing::all() {
        for text in ["a".repeat(5001), " ".repeat(3000), "\n".repeat(3000), "\u{1F600}".repeat(1000), "ab".repeat(3000)] {
            let tokens = p.encode_in(text.as_str(), sizes, |_| {}).unwrap();
            assert!(tokens == whole(&p, &text), "{name}: {:?} ..", &text[..4]);
        }
    }
}

#[test]
fn sums_over_all_of_a_text_are_not_cut() {
    let text = testing::text(400, &mut testing::numbers());
    let sizes = Windows { window: 300, overlap: 100 };
    for (split, windows) in [(true, text.len().div_ceil(300)), (false, 1)] {
        let mut seen = 0;
        testing::unigram(split).encode_in(text.as_str(), sizes, |_| seen += 1).unwrap();
        assert!(seen >= windows && (split || seen == 1), "{seen}");
    }
}

#[test]
fn sizes_in_use_give_the_tokens_of_the_whole() {
    let mut next = testing::numbers();
    let mut text = String::new();
    while text.len() < 2 * WINDOW_BYTES + 5 * OVERLAP_BYTES {
        text += &testing::text(1000, &mut next);
    }
    // The kinds that put something in front of a text.
    for p in [testing::byte_level(true), testing::sentence_piece()] {
        assert!(p.encode(&text).unwrap() == whole(&p, &text));
    }
}

/// What a stream gives, piece by piece.
fn streamed(p: &Pieces, tokens: &[u32]) -> Vec<String> {
    let mut stream = p.stream();
    let mut out: Vec<Vec<u8>> = tokens.iter().map(|&t| stream.push(t).unwrap()).collect();
    out.push(stream.finish().unwrap());
    out.into_iter().map(|bytes| String::from_utf8(bytes).expect("whole characters")).collect()
}

/// Tokenizers with the decoders that are in use, and some that nobody would write.
fn decoders() -> Vec<(&'static str, Pieces)> {
    let mut all = testing::all();
    let fallback = json!({"type": "ByteFallback"});
    let space = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true});
    let chain = |decoders| testing::decoding(json!({"type": "Sequence", "decoders": decoders}));
    all.extend([
        ("BPE", testing::decoding(json!({"type": "BPEDecoder", "suffix": "e"}))),
        ("CTC", testing::decoding(json!({"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": true}))),
        ("Metaspace and bytes", chain(json!([space, fallback]))),
        ("a strip of each", chain(json!([{"type": "Strip", "content": "t", "start": 2, "stop": 0}, fallback]))),
        ("a long strip", chain(json!([fallback, {"type": "Fuse"}, {"type": "Strip", "content": "a", "start": 7, "stop": 0}]))),
        (
            "all at once",
            chain(json!([fallback, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "an"}, "content": "!"}])),
        ),
    ]);
    all
}

#[test]
fn streams_give_the_text_of_the_whole() {
    for (name, p) in decoders() {
        let mut next = testing::numbers();
        for _ in 0..3000 {
            let tokens: Vec<u32> = (0..1 + next(12)).map(|_| next(p.size() as u64) as u32).collect();
            assert_eq!(streamed(&p, &tokens).concat(), p.decode(&tokens).unwrap(), "{name}: {tokens:?}");
        }
        // A number that no piece has is left out.
        let strange: Vec<u32> = whole(&p, "the an").into_iter().flat_map(|t| [t, u32::MAX]).collect();
        assert_eq!(streamed(&p, &strange).concat(), p.decode(&strange).unwrap(), "{name}");
        let tokens = whole(&p, &testing::text(200, &mut next));
        assert_eq!(streamed(&p, &tokens).concat(), p.decode(&tokens).unwrap(), "{name}");
        assert_eq!(p.stream().finish().unwrap(), b"", "{name}");
    }
}

#[test]
fn streams_give_text_as_soon_as_it_is_certain() {
    let p = testing::sentence_piece();
    let ids = whole(&p, "the an\n\u{65e5} b");
    let text = streamed(&p, &ids);
    assert_eq!(text.first().map(String::as_str), Some("the "));
    // The bytes wait for the piece behind them: one of them may still be wrong, and then all are.
    assert!(text.contains(&"\n\u{65e5} ".to_string()), "{text:?}");
    let p = testing::byte_level(false);
    let text = streamed(&p, &whole(&p, "\u{65e5}\u{65e5}"));
    assert_eq!(text, ["", "", "\u{65e5}", "", "", "\u{65e5}", ""]);
}

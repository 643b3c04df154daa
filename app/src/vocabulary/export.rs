//! What `transformers` needs beside the weights of a model that writes text: `AutoTokenizer.from_pretrained` reads
//! `tokenizer.json` and `tokenizer_config.json`, `generate` reads `generation_config.json`. Models of bytes get a
//! tokenizer whose tokens are the bytes.

use super::{META, TOKENIZER};
use crate::plain_file;
use anyhow::{Context, Result};
use mantissa_core::data::tokens::BYTE_VOCAB;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// What a tokenizer is to `transformers`.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Which tokens begin and end a text.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// Pairs of tokens that begin and end a text, as families of models call them; the first pair counts whose end is
/// there.
const ENDS: [(&str, &str); 5] = [
    ("<|endoftext|>", "<|endoftext|>"),
    ("<s>", "</s>"),
    ("<bos>", "<eos>"),
    ("<|begin_of_text|>", "<|end_of_text|>"),
    ("[BOS]", "[EOS]"),
];

/// A file: its name and contents.
pub type NamedFile = (&'static str, Vec<u8>);

/// The files for a checkpoint of `model` from what the folder of its run keeps; none for a model without text.
pub fn files(run: &Path, model: &ModelConfig) -> Result<Vec<NamedFile>> {
    let ModelConfig::Gpt(gpt) = model else { return Ok(Vec::new()) };
    let kept = |name: &str| -> Result<Option<Vec<u8>>> {
        let path = run.join(name);
        let bytes = path.is_file().then(|| plain_file::read(&path, super::MAX_FILE_BYTES)).transpose();
        bytes.with_context(|| format!("cannot read the vocabulary of the run: {}", path.display()))
    };
    if let Some(tokenizer) = kept(TOKENIZER)? {
        return with_tokenizer(tokenizer, gpt);
    }
    match kept(META)? {
        Some(meta) => Ok(vec![(META, meta), generation(None, None)?]),
        None if gpt.vocab == BYTE_VOCAB => with_tokenizer(pretty(&bytes_tokenizer())?, gpt),
        None => Ok(vec![generation(None, None)?]),
    }
}

/// A token that is never cut into pieces.
#[derive(Debug, Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// What is read of a `tokenizer.json`.
#[derive(Debug, Default, Deserialize)]
struct Tokenizer {
    #[serde(default)]
    added_tokens: Vec<Added>,
}

fn with_tokenizer(json: Vec<u8>, gpt: &GptConfig) -> Result<Vec<NamedFile>> {
    let parsed: Tokenizer = serde_json::from_slice(&json).context("the tokenizer of the run has no list of added tokens")?;
    let find = |text: &str| parsed.added_tokens.iter().find(|t| t.content == text && (t.id as usize) < gpt.vocab);
    let (begin, end) = ENDS.iter().find_map(|(begin, end)| find(end).map(|end| (find(begin), Some(end)))).unwrap_or_default();
    let mut config = Map::from_iter([
        ("tokenizer_class".to_string(), json!("PreTrainedTokenizerFast")),
        ("model_max_length".to_string(), json!(gpt.context)),
        ("clean_up_tokenization_spaces".to_string(), json!(false)),
    ]);
    config.extend(begin.map(|t| ("bos_token".to_string(), json!(t.content))));
    config.extend(end.map(|t| ("eos_token".to_string(), json!(t.content))));
    let generation = generation(begin.map(|t| t.id), end.map(|t| t.id))?;
    Ok(vec![(TOKENIZER, json), (TOKENIZER_CONFIG, pretty(&Value::Object(config))?), generation])
}

/// Tokens that begin and end a text; `null` is written for none, or the ids of GPT-2 itself would stand for them.
fn generation(begin: Option<u32>, end: Option<u32>) -> Result<NamedFile> {
    Ok((GENERATION_CONFIG, pretty(&json!({ "bos_token_id": begin, "eos_token_id": end }))?))
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).context("cannot write JSON")?;
    text.push(b'\n');
    Ok(text)
}

/// A byte-level tokenizer without merges, in which every token is the byte of its number.
fn bytes_tokenizer() -> Value {
    // The characters that byte-level tokenizers write bytes in: those that are seen stand for themselves, others are
    // moved beyond them (`bytes_to_unicode` of GPT-2).
    let seen = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut moved = 256;
    let vocab = (0..=u8::MAX).map(|b| {
        let code = if seen(b) { u32::from(b) } else { moved };
        moved += u32::from(!seen(b));
        (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER).to_string(), json!(b))
    });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": Value::Object(vocab.collect()), "merges": [],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(files: &[NamedFile], name: &str) -> Value {
        let (_, bytes) = files.iter().find(|(n, _)| *n == name).unwrap();
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn the_ends_of_a_text_are_those_of_the_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let gpt = GptConfig { vocab: 300, ..GptConfig::tiny() };
        let tokens = |list: &[(u32, &str)]| {
            let added: Vec<Value> =
                list.iter().map(|(id, content)| json!({ "id": id, "content": content, "special": true })).collect();
            std::fs::write(dir.path().join(TOKENIZER), json!({ "added_tokens": added, "model": {} }).to_string()).unwrap();
            let files = files(dir.path(), &ModelConfig::Gpt(gpt.clone())).unwrap();
            assert_eq!(value(&files, TOKENIZER)["added_tokens"].as_array().unwrap().len(), list.len());
            (value(&files, GENERATION_CONFIG), value(&files, TOKENIZER_CONFIG))
        };
        let (generation, config) = tokens(&[(7, "[PAD]"), (8, "<|endoftext|>")]);
        assert_eq!(generation, json!({ "bos_token_id": 8, "eos_token_id": 8 }));
        assert_eq!(
            (&config["eos_token"], &config["tokenizer_class"]),
            (&json!("<|endoftext|>"), &json!("PreTrainedTokenizerFast"))
        );
        let (generation, config) = tokens(&[(2, "</s>")]);
        assert_eq!((generation, &config["bos_token"]), (json!({ "bos_token_id": null, "eos_token_id": 2 }), &Value::Null));
        let (generation, _) = tokens(&[(300, "</s>")]);
        assert_eq!(generation["eos_token_id"], Value::Null, "beyond the model");
        assert!(files(dir.path(), &ModelConfig::preset("mlp").unwrap().0).unwrap().is_empty());
    }

    #[test]
    fn a_list_of_characters_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(META), "{\"vocab_size\": 9}").unwrap();
        let files = files(dir.path(), &ModelConfig::Gpt(GptConfig { vocab: 64, ..GptConfig::tiny() })).unwrap();
        assert_eq!(files.iter().map(|f| f.0).collect::<Vec<_>>(), [META, GENERATION_CONFIG]);
    }

    #[cfg(feature = "tokenizer")]
    #[test]
    fn bytes_have_a_tokenizer_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), &ModelConfig::Gpt(GptConfig::tiny())).unwrap();
        let json = files.iter().find(|(n, _)| *n == TOKENIZER).unwrap().1.clone();
        let pieces = crate::vocabulary::pieces::Pieces::from_json(json).unwrap();
        assert_eq!(pieces.size(), BYTE_VOCAB);
        // Every byte that UTF-8 has, blanks and controls included.
        let text: String = ('\0'..='\u{7FF}').chain("\u{4e2d}\u{1F600}\u{10FFFF}  \n\n a".chars()).collect();
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        assert_eq!(pieces.encode(&text).unwrap(), ids);
        assert_eq!(pieces.decode(&ids).unwrap(), text);
    }
}

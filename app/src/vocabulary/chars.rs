//! The list of strings behind the tokens of a nanoGPT data set: its `meta.pkl` as JSON.
//!
//! A pickle is a program that builds an object, so it is not read here; one line of Python turns it into JSON:
//! `import json, pickle; json.dump(pickle.load(open("meta.pkl", "rb")), open("meta.json", "w"))`.

use super::Vocabulary;
use crate::encoding::without_mark;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most token values of a list, far above any in use.
const MAX_SIZE: usize = 1 << 24;

#[derive(Deserialize, Serialize)]
struct Meta {
    #[serde(skip_serializing_if = "Option::is_none")]
    vocab_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    itos: Option<Itos>,
}

/// "Integer to string": a list, or, as JSON writes a Python dict, a map from decimal numbers.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Itos {
    List(Vec<String>),
    Map(BTreeMap<String, String>),
}

/// One string per token.
#[derive(Clone, Debug)]
pub struct Chars {
    strings: Vec<String>,
    /// Tokens of those strings that are one character.
    tokens: BTreeMap<char, u32>,
}

/// Reads a `meta.json`: `vocab_size`, `itos` or both.
pub fn from_json(bytes: &[u8]) -> Result<Vocabulary> {
    let meta: Meta =
        serde_json::from_slice(&without_mark(bytes.to_vec())).context("expected a JSON object with `vocab_size` or `itos`")?;
    let strings = match meta.itos {
        None => None,
        Some(Itos::List(strings)) => Some(strings),
        Some(Itos::Map(map)) => Some(in_order(map)?),
    };
    let size = match (&strings, meta.vocab_size) {
        (Some(strings), Some(size)) if strings.len() != size => {
            bail!("expected `itos` with {size} entries, as `vocab_size` says, found {}", strings.len())
        }
        (Some(strings), _) => strings.len(),
        (None, Some(size)) => size,
        (None, None) => bail!("expected `vocab_size` or `itos`, found neither"),
    };
    if !(1..=MAX_SIZE).contains(&size) {
        bail!("expected a vocabulary of 1 to {MAX_SIZE} tokens, found {size}");
    }
    Ok(strings.map_or(Vocabulary::Unnamed(size), |strings| Vocabulary::Chars(Chars::new(strings))))
}

/// The strings of a map with the keys 0, 1, 2, ...
fn in_order(map: BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut by_token = BTreeMap::new();
    for (key, text) in map {
        let token: u32 = key.parse().map_err(|_| anyhow::anyhow!("expected tokens as keys of `itos`, found `{key}`"))?;
        by_token.insert(token, text);
    }
    match by_token.keys().enumerate().find(|(i, t)| *i != **t as usize) {
        Some((i, found)) => bail!("expected token {i} in `itos`, found {found} next"),
        None => Ok(by_token.into_values().collect()),
    }
}

impl Chars {
    fn new(strings: Vec<String>) -> Chars {
        let mut tokens = BTreeMap::new();
        for (i, text) in strings.iter().enumerate() {
            let mut chars = text.chars();
            if let (Some(c), None) = (chars.next(), chars.next()) {
                // The first token of a character that appears twice.
                tokens.entry(c).or_insert(i as u32);
            }
        }
        Chars { strings, tokens }
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.strings.len()
    }

    /// The tokens of a text, one per character.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let token = |c: char| {
            self.tokens.get(&c).copied().with_context(|| format!("expected characters of the vocabulary, found {c:?}"))
        };
        text.chars().map(token).collect()
    }

    /// The text of tokens; tokens beyond the list have none.
    pub fn decode(&self, tokens: &[u32]) -> String {
        tokens.iter().filter_map(|&t| self.strings.get(t as usize)).map(String::as_str).collect()
    }

    /// As `meta.json`.
    pub fn to_json(&self) -> Result<String> {
        let meta = Meta { vocab_size: Some(self.size()), itos: Some(Itos::List(self.strings.clone())) };
        serde_json::to_string(&meta).context("cannot write the vocabulary as JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_maps_of_python_are_read() {
        let map = br#"{"vocab_size": 11, "itos": {"0":"a","1":"b","2":"c","3":"d","4":"e","5":"f","6":"g","7":"h","8":"i","9":"j","10":"k"},
            "stoi": {"a": 0}}"#;
        let v = from_json(map).unwrap();
        assert_eq!((v.size(), v.encode("kab").unwrap()), (11, vec![10, 0, 1]));
        assert_eq!(from_json(br#"{"vocab_size": 50257}"#).unwrap().size(), 50257);
        assert_eq!(from_json(b"\xef\xbb\xbf{\"vocab_size\": 9}").unwrap().size(), 9, "with a mark in front");
        let message = format!("{:#}", v.encode("az").unwrap_err());
        assert_eq!(message, "expected characters of the vocabulary, found 'z'");
    }

    #[test]
    fn wrong_files_are_refused() {
        let error = |text: &str| format!("{:#}", from_json(text.as_bytes()).unwrap_err());
        assert!(error("{}").contains("found neither"));
        assert!(error("[1]").contains("expected a JSON object"));
        assert!(error(r#"{"vocab_size": 3, "itos": ["a"]}"#).contains("`itos` with 3 entries"));
        assert!(error(r#"{"itos": {"0": "a", "2": "b"}}"#).contains("expected token 1 in `itos`, found 2"));
        assert!(error(r#"{"itos": {"x": "a"}}"#).contains("found `x`"));
        assert!(error(r#"{"vocab_size": 99999999999}"#).contains("1 to 16777216"));
        assert!(error(r#"{"itos": []}"#).contains("found 0"));
    }
}

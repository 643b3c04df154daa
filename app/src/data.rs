//! Reads what `--data` names: the built-in corpus, a text file, a folder of texts, token files, IDX images. Files are
//! judged before anything is trained.

pub mod digest;
pub mod file_tokens;
pub mod folder;
mod images;
pub mod long_text;
mod texts;
pub mod token_files;

pub use texts::CORPUS;

use crate::config::RunConfig;
use crate::vocabulary::Vocabulary;
use anyhow::{Result, bail};
use mantissa_core::data::tokens::Split;
use mantissa_core::data::{Dataset, Tokens};
use mantissa_core::model::ModelConfig;
use std::collections::BTreeMap;
use std::path::Path;

/// A model is made large enough for its data in steps of this many token values: sizes that hardware multiplies well.
const VOCAB_MULTIPLE: usize = 64;
/// Tokens that a model lacks, by name.
const TOLD: usize = 5;

/// A data set and what to say about it.
#[derive(Debug)]
pub struct Loaded {
    /// The data.
    pub dataset: Dataset,
    /// What its tokens mean; of no use for images.
    pub vocabulary: Vocabulary,
    /// One line for the banner.
    pub about: String,
    /// Things that were left out, for people.
    pub notes: Vec<String>,
}

/// How data is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Token values of the model, where they were given: then nobody has to look for the largest token of a large file.
    pub vocab: Option<usize>,
    /// Nothing is said while it takes its time.
    pub silent: bool,
}

/// Loads the data of a run.
pub fn load(config: &RunConfig, how: Reading) -> Result<Loaded> {
    let run = &config.run;
    if run.data.is_empty() {
        bail!("--data: expected a file, a folder or `builtin`, got an empty name");
    }
    if let ModelConfig::Mlp(_) = &config.train.model {
        return images::load(&run.data);
    }
    let tokenizer = run.tokenizer.as_ref().map(|path| Vocabulary::from_tokenizer(Path::new(path))).transpose()?;
    match token_files::find(Path::new(&run.data)) {
        Some(files) => files.load(&run.data, tokenizer, run.token_dtype.dtype(), how),
        None if run.token_dtype.dtype().is_some() => {
            bail!("--token-dtype: expected --data with a token file (.bin, .npy), got: {}", run.data)
        }
        None => texts::load(&run.data, tokenizer, how.silent),
    }
}

/// Makes a model that is too small for the tokens of its data large enough, unless its size was `given`; the note says
/// so. A given size must have the tokens that are used.
pub fn settle_vocab(config: &mut RunConfig, given: bool, loaded: &Loaded) -> Result<Option<String>> {
    let (ModelConfig::Gpt(gpt), Dataset::Tokens(tokens)) = (&mut config.train.model, &loaded.dataset) else { return Ok(None) };
    if gpt.vocab >= tokens.vocab() {
        return Ok(None);
    }
    if given {
        if tokens.check_vocab(gpt.vocab).is_err() {
            let missing = missing(tokens, gpt.vocab, &loaded.vocabulary)?;
            let need = tokens.largest().map_or(tokens.vocab(), |largest| largest.token as usize + 1);
            bail!("--vocab: expected at least {need} token values for the data, got {}; it lacks {missing}", gpt.vocab);
        }
        let (has, of) = (gpt.vocab, tokens.vocab());
        return Ok(Some(format!("the model has {has} of the {of} tokens of the vocabulary, which are all that the data uses")));
    }
    let old = std::mem::replace(&mut gpt.vocab, tokens.vocab().next_multiple_of(VOCAB_MULTIPLE));
    let note = format!("model.vocab raised from {old} to {} for the {} tokens of the data", gpt.vocab, tokens.vocab());
    config.train.validate()?;
    Ok(Some(note))
}

/// Tokens of the data that a model of `vocab` values lacks, for people.
fn missing(tokens: &Tokens, vocab: usize, vocabulary: &Vocabulary) -> Result<String> {
    let mut times: BTreeMap<u32, usize> = BTreeMap::new();
    for split in [Split::Train, Split::Val] {
        tokens.visit(split, 0..tokens.len(split), |piece| {
            for &token in piece.iter().filter(|&&t| t as usize >= vocab) {
                *times.entry(token).or_default() += 1;
            }
        })?;
    }
    let told = times.iter().take(TOLD).map(|(&token, n)| format!("{} ({n} x)", vocabulary.name(token)));
    let more = if times.len() > TOLD { format!(" and {} more", times.len() - TOLD) } else { String::new() };
    Ok(told.collect::<Vec<_>>().join(", ") + &more)
}

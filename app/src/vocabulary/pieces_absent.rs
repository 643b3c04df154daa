//! Stands in for `pieces.rs` in builds without the feature `tokenizer`: every file is refused, saying why.

use crate::data::long_text::LongText;
use anyhow::{Result, bail};
use std::convert::Infallible;
use std::marker::PhantomData;

/// A tokenizer; none exists in this build.
#[derive(Clone, Debug)]
pub struct Pieces(Infallible);

impl Pieces {
    /// Refuses the file.
    pub fn from_json(_json: Vec<u8>) -> Result<Pieces> {
        bail!("this program was built without the feature `tokenizer`, which reads tokenizer.json files")
    }

    /// The file.
    pub fn json(&self) -> &[u8] {
        match self.0 {}
    }

    /// One more than the largest token.
    pub fn size(&self) -> usize {
        match self.0 {}
    }

    /// The tokens of a text.
    pub fn encode(&self, _text: &str) -> Result<Vec<u32>> {
        match self.0 {}
    }

    /// The text of tokens.
    pub fn decode(&self, _tokens: &[u32]) -> Result<String> {
        match self.0 {}
    }

    /// The tokens of a long text.
    pub fn encode_long(&self, _text: &(impl LongText + ?Sized), _each: impl FnMut(usize)) -> Result<Vec<u32>> {
        match self.0 {}
    }

    /// What a token is called in the file.
    pub fn name(&self, _token: u32) -> Option<String> {
        match self.0 {}
    }

    /// The text of tokens that come one by one.
    pub fn stream(&self) -> PieceStream<'_> {
        match self.0 {}
    }
}

/// The text of tokens that come one by one.
#[derive(Debug)]
pub struct PieceStream<'a>(Infallible, PhantomData<&'a ()>);

impl PieceStream<'_> {
    /// Adds a token.
    pub fn push(&mut self, _token: u32) -> Result<Vec<u8>> {
        match self.0 {}
    }

    /// What was held back.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.0 {}
    }
}

//! Training data. No files, no clock: hosts read bytes or give a source of tokens, this module turns them into batches.
//!
//! Which examples a step sees is a pure function of (seed, step, micro-step, row), so resuming a run needs one integer, the step number.
//! [`tokens`] cuts windows out of a text, which lies in a [`source`]; [`bin`] and [`npy`] tell how token files are laid out; [`images`] shuffles labelled images, [`glyphs`]
//! draws some, [`batch`] lays out what a session takes.

pub mod batch;
pub mod bin;
pub mod formats;
pub mod glyphs;
pub mod images;
pub mod npy;
pub mod permute;
pub mod source;
pub mod tokens;

pub use batch::{BatchBytes, Loader};
pub use images::Images;
pub use source::{Largest, MemoryTokens, TokenSource};
pub use tokens::Tokens;

/// What a run learns from.
#[derive(Clone, Debug)]
pub enum Dataset {
    /// A text as tokens.
    Tokens(Tokens),
    /// Labelled images.
    Images(Images),
}

impl Dataset {
    /// What its examples are called: the unit of throughput.
    pub fn unit(&self) -> &'static str {
        match self {
            Dataset::Tokens(_) => "tok",
            Dataset::Images(_) => "img",
        }
    }
}

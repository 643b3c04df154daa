//! Training data. No files, no clock: hosts read bytes or give a source of tokens, this module turns them into batches.
//!
//! Which examples a step sees is a pure function of (seed, step, micro-step, row), so resuming a run needs one integer,
//! the step number. [`tokens`] cuts windows out of a text, which lies in a [`source`]. [`bin`] and [`npy`] say how
//! token files are laid out ([`token_layout`]). [`images`] shuffles labelled images, [`synthetic_digits`] draws some.
//! [`loader`] puts examples into a [`batch`], which is what a session takes.

pub mod batch;
pub mod bin;
pub mod formats;
pub mod images;
pub mod loader;
pub mod npy;
pub mod permute;
pub mod source;
pub mod synthetic_digits;
pub mod token_layout;
pub mod tokens;

pub use batch::{Batch, BatchBytes};
pub use images::Images;
pub use loader::{BatchPlan, Dataset, Examples, Loader};
pub use source::{Largest, MemoryTokens, TokenSource};
pub use tokens::Tokens;

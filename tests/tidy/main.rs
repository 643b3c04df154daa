//! House rules that a compiler cannot check, over the text of the repository. Each rule also sees a planted violation.
//!
//! A rule returns what it found, one line a finding, so that a failure names every place at once.

mod crates;
mod documents;
mod floors;
mod imports;
mod kernels;
mod repository;
mod text_rules;
mod words;

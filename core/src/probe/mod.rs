//! Looking inside a step: what every instruction reads and writes, what rounding does to it, and what to do about it.
//!
//! [`observe`] is the hook that backends call around each instruction; [`stats`] measures one tensor, a rounded copy against its original,
//! or what a format would do to it. On top of them: [`compare`] (two recipes, instruction by instruction), [`examine`] (the first non-finite
//! value of a step), [`doctor`] (findings and remedies) and [`health`] (warnings from step reports alone, cheap enough for every run). After a run, [`history`]
//! reads its reports and [`states`] the values that it kept.
//! No clock here: a host that wants times brings its own observer, or asks a device that has a clock for a [`Span`] of every instruction.

pub mod compare;
pub mod conversion;
pub mod doctor;
pub mod examine;
pub mod health;
pub mod history;
pub mod observe;
pub mod phase;
pub mod span;
pub mod states;
pub mod stats;

#[cfg(test)]
pub(crate) mod testing;

pub use observe::{Moment, Observer, Values};
pub use span::Span;

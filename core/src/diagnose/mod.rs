//! What goes wrong inside a step, and what helps.
//!
//! [`stats`] measures one tensor, a rounded copy against its original, or what a format would do to it. [`compare`]
//! runs two recipes instruction by instruction, [`examine`] finds the first non-finite value of a step, [`doctor`]
//! turns both into findings with remedies. [`health`] warns from step reports alone, cheap enough for every run. After
//! a run, [`history`] reads its reports and [`states`] checks the values that it kept. Steps are observed through
//! [`crate::program::observe`].

pub mod compare;
pub mod conversion;
pub mod doctor;
pub mod examine;
pub mod finding;
pub mod health;
pub mod history;
pub mod states;
pub mod stats;

#[cfg(test)]
pub(crate) mod testing;

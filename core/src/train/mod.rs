//! Training: what a run consists of ([`TrainConfig`]), its recorded Programs ([`record`]) and the loop over them
//! ([`Session`]). The report of a step arrives later than the step ([`flight`]).
//!
//! ```
#![doc = include_str!("../../docs/session.rs")]
//! ```

pub mod config;
pub mod flight;
pub mod measured;
pub mod phase;
pub mod record;
pub mod session;

#[cfg(test)]
mod measured_tests;
#[cfg(test)]
mod resume_tests;

pub use config::TrainConfig;
pub use flight::{LEAD, Landed};
pub use session::Session;

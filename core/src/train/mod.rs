//! Training: what a run consists of ([`TrainConfig`]), its recorded Programs ([`record`]) and the loop over them
//! ([`Session`]). The report of a step arrives later than the step ([`in_flight`]).
//!
//! ```
#![doc = include_str!("../../docs/session.rs")]
//! ```

pub mod config;
pub mod in_flight;
pub mod measured;
pub mod phase;
pub mod record;
pub mod session;

#[cfg(test)]
mod measured_tests;
#[cfg(test)]
mod resume_tests;

pub use config::TrainConfig;
pub use in_flight::{MAX_IN_FLIGHT, StepResult};
pub use session::Session;

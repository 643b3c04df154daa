//! Mantissa core.

pub mod cpu;
pub mod dtype;
pub mod error;
pub mod float;
pub mod op;
pub mod rng;

pub use dtype::{DType, Format, Overflow};
pub use error::{Error, Result};

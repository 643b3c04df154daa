//! Mantissa core.

pub mod cpu;
pub mod dtype;
pub mod error;
pub mod float;
pub mod op;
pub mod optim;
pub mod precision;
pub mod program;
pub mod rng;
pub mod shape;
pub mod trace;

pub use dtype::{DType, Format, Overflow};
pub use error::{Error, Result};

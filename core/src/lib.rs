//! Mantissa core.

pub mod backend;
pub mod cpu;
pub mod data;
pub mod dtype;
pub mod error;
pub mod float;
pub mod model;
pub mod nn;
pub mod op;
pub mod optim;
pub mod plan;
pub mod precision;
pub mod probe;
pub mod program;
pub mod rng;
pub mod shape;
pub mod telemetry;
pub mod trace;
pub mod train;

pub use dtype::{DType, Format, Overflow};
pub use error::{Error, Result};

//! Mantissa's core: number formats, recorded Programs, precision policy, the CPU backend and the trainer.
//!
//! Model code records a [`program::Program`] through a [`trace::Graph`]; a [`backend::Backend`] compiles it once and
//! runs it every step. [`train::Session`] does all of this for a [`train::TrainConfig`]. The lessons in `examples/` go
//! through the parts one by one.
//!
//! ```
#![doc = include_str!("../docs/one_layer.rs")]
//! ```
//!
//! A model of one's own, with loss scaling and an optimizer:
//!
//! ```
#![doc = include_str!("../docs/own_model.rs")]
//! ```

pub mod backend;
pub mod cpu;
pub mod data;
pub mod diagnose;
pub mod dtype;
pub mod error;
pub mod float;
pub mod model;
pub mod near;
pub mod nn;
pub mod op;
pub mod optim;
pub mod par;
pub mod plan;
pub mod precision;
pub mod program;
pub mod rng;
pub mod shape;
pub mod show;
pub mod telemetry;
pub mod trace;
pub mod train;

pub use dtype::{DType, Format, Overflow};
pub use error::{Error, Result};

/// Reads slices of numbers as bytes and back, which is how batches are passed and values are read.
pub use bytemuck;

//! The only ways to threads and to vector units: parallel loops over slices, and [`simd`].
//!
//! The loops have two bodies with the same functions: over rayon, and on one thread where there is no other (wasm32, or
//! the feature `threads` off).

#[cfg_attr(not(feature = "threads"), path = "one_thread.rs")]
mod threads;

pub mod simd;

pub use threads::{chunks, chunks2, chunks3, chunks4, install, threads, use_threads};

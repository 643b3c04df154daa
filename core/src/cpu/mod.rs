//! The CPU backend: the specification of every operation and a fast trainer in its own right.

#[cfg_attr(not(feature = "threads"), path = "par_seq.rs")]
pub mod par;
pub mod simd;
pub mod view;

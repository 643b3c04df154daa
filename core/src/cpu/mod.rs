//! The CPU backend: the specification of every operation and a fast trainer in its own right.

pub mod clip;
pub mod fp8_scale;
pub mod grad_norm;
pub mod loss_scale;
pub mod optimizer;
#[cfg_attr(not(feature = "threads"), path = "par_seq.rs")]
pub mod par;
mod pieces;
pub mod quantize;
pub mod quantize_mx;
pub mod simd;
pub mod unscale;
pub mod view;

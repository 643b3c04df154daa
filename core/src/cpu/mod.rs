//! The CPU backend: the specification of every operation and a fast trainer in its own right.
//!
//! Kernels are pure functions over [`crate::float::view::View`]s, one file a kernel stem. `dispatch` binds instructions
//! to them, [`backend`] runs Programs, [`arena`] is the memory. Threads and vector units are reached through
//! [`crate::par`].

pub mod arena;
pub mod attention;
pub mod attention_backward;
pub mod backend;
mod bits;
mod chunks;
pub mod clip;
pub mod concat;
pub mod conv2d;
mod dispatch;
pub mod embedding;
pub mod epilogue;
pub mod fp8_scale;
pub mod gather;
pub mod gemm;
pub mod grad_norm;
mod lanes;
pub mod loss_scale;
pub mod map;
pub mod matmul;
mod micro;
pub mod norm;
pub mod optimizer;
mod pack;
pub mod permute;
pub mod pool;
pub mod quantize;
pub mod quantize_mx;
pub mod reduce;
mod rows;
pub mod softmax;
pub mod tensor_stats;
#[cfg(test)]
mod testing;
pub mod unscale;
pub mod window;
pub mod xent;

pub use backend::CpuBackend;

/// Hash of the kernel and codec sources and the version of this crate: runs with the same value computed with the same
/// arithmetic.
pub const KERNEL_SET: &str = env!("MANTISSA_KERNEL_SET");

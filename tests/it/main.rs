//! Integration tests, one binary: the proof that recorded Programs compute what they say, in every precision.

mod convergence;
mod device_clock;
mod fp8;
mod gradients;
mod indices;
mod large_gradients;
mod nonfinite;
mod owed;
mod parity;
mod passes;
mod precision_graph;
mod runtime;
mod scaler;
mod wgpu_limits;
mod wgpu_steps;

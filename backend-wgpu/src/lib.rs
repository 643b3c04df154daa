//! Runs Programs on any GPU through wgpu: Vulkan, Metal, DX12, GL, and WebGPU in the browser.
//!
//! Values lie packed at their real width and are computed in f32; casts and scale updates are integer work with the
//! bits of the CPU backend. A compiled Program is a list of dispatches with their bind groups, encoded into one pass
//! and one submission a step.
//!
//! From the ground up; a file imports only what stands above it in this table, and children of a folder their parent:
//!
//! | file | does |
//! |---|---|
//! | `fault` | what went wrong on a device |
//! | `adapter` | lists and chooses adapters |
//! | `gpu` | an open device: queue, limits, first fault |
//! | `launch` | from an instruction to kernels, arguments and grid: pure functions |
//! | `budget` | dispatches and kernels of a step, known without a device |
//! | `pipeline` | compiles kernels once |
//! | `readback` | bytes on their way from the device |
//! | `memory` | buffers of the memory plan, writes and reads |
//! | `context` | device, pipelines and staging buffers together |
//! | `dispatch` | kernels with their memory bound |
//! | `profile` | what an adapter can do, found by probes when it is opened |
//! | `tune` | which kernel multiplies matrices of a shape |
//! | `bound` | a Program with its buffers and dispatches |
//! | `observed`, `timed` | a step instruction by instruction, seen by an observer or timed by the device |
//! | `executable` | compiled Programs |
//! | `peak` | peak rates of the device |
//! | `backend` | opens, allocates, compiles |
//! | `blocking` | the same for hosts that can wait |

mod adapter;
mod backend;
#[cfg(not(target_arch = "wasm32"))]
mod blocking;
mod bound;
mod budget;
mod context;
mod dispatch;
mod executable;
mod fault;
mod gpu;
mod launch;
mod memory;
mod observed;
#[cfg(not(target_arch = "wasm32"))]
mod peak;
mod pipeline;
mod profile;
mod readback;
mod timed;
mod tune;

// Counts tests that need a device; this crate cannot depend on the one that has it.
#[cfg(test)]
#[expect(dead_code, unreachable_pub, reason = "another test program reads the tally")]
#[path = "../../tests/src/device_checks.rs"]
mod device_checks;

pub use adapter::{AdapterChoice, AdapterFacts, LowerLimits, adapters};
pub use backend::{Options, WgpuBackend};
#[cfg(not(target_arch = "wasm32"))]
pub use blocking::adapters_blocking;
pub use budget::{dispatches, kernels};
pub use launch::{AttentionKernel, Kernel, MatmulKernel};
pub use mantissa_shaders::{F16Decoding, Prelude, Vec8Access};
pub use profile::AdapterProfile;
pub use tune::{MatmulChoice, Tuning};

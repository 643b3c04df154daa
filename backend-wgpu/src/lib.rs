//! Runs Programs on any GPU through wgpu: Vulkan, Metal, DX12, GL, and WebGPU in the browser.
//!
//! Values lie packed at their real width and are computed in f32; casts and scale updates are integer work with the bits of the CPU
//! backend. A compiled Program is a list of dispatches with their bind groups, encoded into one pass and one submission a step.
//!
//! | file | does |
//! |---|---|
//! | `adapter` | lists adapters, opens a device |
//! | `fault` | what went wrong on a device |
//! | `budget` | dispatches and kernels of a step, known without a device |
//! | `memory` | buffers of the memory plan, writes and reads |
//! | `look` | whether subgroups and conversions do what kernels take them to |
//! | `launch` | from an instruction to kernels, arguments and grid: pure functions |
//! | `pipeline` | compiles kernels once |
//! | `dispatch` | kernels with their memory bound |
//! | `executable` | a Program as dispatches; steps |
//! | `probe` | the rates of the device |
//! | `observe` | a step instruction by instruction, for tools |
//! | `tune` | which kind of matrix product suits a shape |
//! | `timestamps` | a step timed by the device, instruction by instruction |

mod adapter;
mod budget;
mod dispatch;
mod executable;
mod fault;
mod launch;
#[cfg(not(target_arch = "wasm32"))]
mod profile;
mod memory;
mod observed;
mod pipeline;
#[cfg(not(target_arch = "wasm32"))]
mod peak;
mod readback;
mod timed;
mod tune;

// Counts tests that need a device; this crate cannot depend on the one that has it.
#[cfg(test)]
#[expect(dead_code, unreachable_pub, reason = "another test program reads the tally")]
#[path = "../../tests/src/device_checks.rs"]
mod device_checks;

#[cfg(not(target_arch = "wasm32"))]
pub use adapter::adapters_blocking;
pub use adapter::{AdapterChoice, AdapterFacts, Choice, LowerLimits, Products, WgpuBackend, adapters};
pub use budget::{dispatches, kernels};
pub use mantissa_shaders::{Dialect, Eights, F16};
pub use pipeline::Kernel;
#[cfg(not(target_arch = "wasm32"))]
pub use tune::Tuning;

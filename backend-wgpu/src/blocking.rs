//! The same for hosts that can wait. A page cannot, so this module is not there.

use crate::adapter::{AdapterChoice, AdapterFacts, adapters};
use crate::backend::{Options, WgpuBackend};
use crate::peak;
use mantissa_core::error::Result;
use pollster::block_on;

/// As [`adapters`], waiting for the answer.
pub fn adapters_blocking() -> Vec<AdapterFacts> {
    block_on(adapters())
}

impl WgpuBackend {
    /// As [`WgpuBackend::open`], waiting for the answer.
    pub fn open_blocking(choice: &AdapterChoice) -> Result<WgpuBackend> {
        block_on(WgpuBackend::open(choice))
    }

    /// As [`WgpuBackend::open_with`], waiting for the answer.
    pub fn open_with_blocking(choice: &AdapterChoice, options: Options) -> Result<WgpuBackend> {
        block_on(WgpuBackend::open_with(choice, options))
    }

    /// Measures f32 operations a second of multiply-adds that touch no memory, on a device that must be idle: other
    /// work on it can only make them too few. Errs if the device fails.
    pub fn measure_flops_per_s(&self) -> Result<f64> {
        peak::flops_per_s(&self.context)
    }

    /// Measures bytes a second of a copy, read and written ones together, likewise.
    pub fn measure_bytes_per_s(&self) -> Result<f64> {
        peak::bytes_per_s(&self.context)
    }
}

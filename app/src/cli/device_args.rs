//! Flags for the device that a command computes on, the same for every command.

use crate::config::{DeviceChoice, TuneChoice};
use crate::device::{self, Device};
use anyhow::Result;
use clap::Args;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct DeviceArgs {
    /// Device [default: auto]
    #[arg(long)]
    pub device: Option<DeviceChoice>,
    /// GPU adapter, by its number in `mantissa devices` or a part of its name [default: the best]
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// When the matmul kernels of a GPU are measured, and the fastest for each shape kept: never, once on a GPU, or
    /// once on a software adapter too [default: $MANTISSA_TUNE, else auto]
    #[arg(long, value_name = "WHEN")]
    pub tune: Option<TuneChoice>,
}

impl DeviceArgs {
    /// Opens it. Errs if there is no such device.
    pub fn open(&self) -> Result<Device> {
        device::open(self.device.unwrap_or(DeviceChoice::Auto), self.adapter.as_deref(), self.tune)
    }
}

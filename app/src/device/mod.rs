//! Devices: which one a run uses, what each can do, and the rates that achieved ones are compared with.

mod cpu_rates;
mod list;
mod memory;
mod tuning;

pub use list::command;
pub use memory::Shortage;

use crate::config::{DeviceChoice, TuneChoice};
use anyhow::{Context, Result, bail};
use mantissa_backend_wgpu::{AdapterChoice, Options, WgpuBackend, adapters_blocking};
use mantissa_core::DType;
use mantissa_core::backend::{Backend, Support};
use mantissa_core::cpu::CpuBackend;
use mantissa_core::program::memory::{Layout, MemoryPlan};
use mantissa_core::train::{TrainConfig, record};
use std::sync::Arc;

/// An open device.
#[derive(Clone, Debug)]
pub struct Device {
    /// What runs Programs.
    pub backend: Arc<dyn Backend>,
    /// Why it is this one.
    pub why: String,
    /// The same once more, if it is a GPU: it can be asked for its rates, and for what it does in its own way.
    gpu: Option<Arc<WgpuBackend>>,
}

impl Device {
    fn cpu(why: impl Into<String>) -> Device {
        Device { backend: Arc::new(CpuBackend::new()), why: why.into(), gpu: None }
    }

    fn wgpu(choice: &AdapterChoice, tune: Option<TuneChoice>, why: impl Into<String>) -> Result<Device> {
        let options = Options { matmul: tuning::choice(tune)?, ..Options::default() };
        let gpu = Arc::new(WgpuBackend::open_with_blocking(choice, options).context("--device wgpu")?);
        let profile = gpu.profile();
        let why = format!("{}; matmul by {}, f16 decoded by {}", why.into(), profile.matmul[0], profile.prelude.f16);
        Ok(Device { backend: gpu.clone(), why, gpu: Some(gpu) })
    }

    /// The peak of matmuls in `dtype`. Where the device multiplies in f32 whatever operands are stored in, that of f32,
    /// measured now.
    pub fn peak(&self, dtype: DType) -> Result<Peak> {
        let emulated = self.backend.capabilities().dtypes.iter().any(|(d, s)| *d == dtype && *s == Support::Emulated);
        let note = if emulated { format!("; {} is computed in f32 here", dtype.name()) } else { String::new() };
        let (flops_per_s, how) = match &self.gpu {
            None => (cpu_rates::flops(), cpu_rates::HOW),
            Some(gpu) => (gpu.measure_flops_per_s()?, "f32 multiply-adds"),
        };
        Ok(Peak { flops_per_s, source: format!("measured: {how}{note}") })
    }

    /// Bytes a second of a copy, read and written ones together, measured now.
    pub fn copy_rate(&self) -> Result<f64> {
        match &self.gpu {
            None => Ok(cpu_rates::copy()),
            Some(gpu) => gpu.measure_bytes_per_s().map_err(Into::into),
        }
    }
}

/// Opens the device of a choice. A GPU is taken by `auto` only if it is one: an adapter that software emulates is
/// slower than the CPU backend.
/// Errs if there is no such device.
pub fn open(choice: DeviceChoice, adapter: Option<&str>, tune: Option<TuneChoice>) -> Result<Device> {
    if let (DeviceChoice::Cpu, Some(_)) = (choice, tune) {
        bail!("--tune: expected --device wgpu or auto beside it, got --device cpu");
    }
    let wanted = adapter.map(|a| a.parse::<AdapterChoice>().unwrap_or_default());
    match (choice, wanted) {
        (DeviceChoice::Cpu, Some(_)) => bail!("--adapter: expected --device wgpu or auto beside it, got --device cpu"),
        (DeviceChoice::Cpu, None) => Ok(Device::cpu("as asked")),
        (DeviceChoice::Wgpu | DeviceChoice::Auto, Some(adapter)) => Device::wgpu(&adapter, tune, "as asked"),
        (DeviceChoice::Wgpu, None) => Device::wgpu(&AdapterChoice::Best, tune, "as asked"),
        (DeviceChoice::Auto, None) => {
            let found = adapters_blocking();
            match found.iter().find(|a| a.software) {
                _ if found.iter().any(|a| !a.software) => Device::wgpu(&AdapterChoice::Best, tune, "auto: the best GPU"),
                Some(a) => Ok(Device::cpu(format!("auto: the one adapter, {}, is software; --device wgpu takes it", a.name))),
                None => Ok(Device::cpu("auto: no GPU adapter")),
            }
        }
    }
}

/// A peak rate of arithmetic, and where the number is from.
#[derive(Clone, Debug)]
pub struct Peak {
    /// Floating-point operations a second.
    pub flops_per_s: f64,
    /// Where it is from.
    pub source: String,
}

/// Refuses a run whose planned memory, that of evaluations included, is not there on its device, before any of it is
/// taken.
pub fn check_memory(config: &TrainConfig, backend: &dyn Backend) -> Result<()> {
    let program = record::train_step(config)?;
    let layout = Arc::new(Layout::new(&program));
    let plan = MemoryPlan::new(&program, &layout)?;
    // Evaluation has buffers and scratch of its own beside the step.
    let eval = record::eval_step(config)?;
    let eval_plan = MemoryPlan::new(&eval, &layout)?;
    let cpu = CpuBackend::new();
    let scratch = cpu.scratch_bytes(&program, &plan)? + cpu.scratch_bytes(&eval, &eval_plan)?;
    let needed = (plan.total_bytes() + eval_plan.temp_bytes() + scratch) as u64;
    match memory::available_on(backend.capabilities().memory) {
        Some(available) if needed > available.bytes => Err(Shortage { needed, available }.into()),
        Some(_) | None => Ok(()),
    }
}

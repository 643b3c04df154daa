//! `mantissa devices`: the CPU and every adapter, with what each can do.

use super::{Device, memory};
use crate::Outcome;
use crate::cli::text::{print, print_json};
use crate::show::spaced;
use anyhow::Result;
use mantissa_backend_wgpu::{AdapterChoice, AdapterFacts, adapters_blocking};
use mantissa_core::DType;
use mantissa_core::backend::Support;
use serde::Serialize;

/// What there is to compute on.
#[derive(Debug, Serialize)]
struct Devices {
    cpu: Cpu,
    adapters: Vec<Adapter>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    name: String,
    /// Bytes that a run may take, and by what they are limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Debug, Serialize)]
struct Memory {
    bytes: u64,
    limited: &'static str,
}

#[derive(Debug, Serialize)]
struct Adapter {
    name: String,
    api: String,
    driver: String,
    software: bool,
    max_buffer_bytes: u64,
    max_storage_buffers: u32,
    workgroup_invocations: u32,
    workgroup_bytes: u32,
    features: Vec<String>,
    #[serde(flatten)]
    opened: Opened,
}

/// What was seen of an adapter.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Opened {
    Open(Rates),
    Failed { error: String },
}

/// How a device multiplies every dtype, and how fast.
#[derive(Debug, Serialize)]
struct Rates {
    native: Vec<&'static str>,
    /// Stored at their width, multiplied and summed in f32.
    emulated: Vec<&'static str>,
    /// How a GPU multiplies matrices, and decodes f16 and fp8.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernels: Option<String>,
    flops_per_s: f64,
    flops_source: String,
    copy_bytes_per_s: f64,
}

/// `mantissa devices`.
pub fn command(json: bool) -> Result<Outcome> {
    let devices = Devices::found()?;
    if json { print_json(&devices) } else { print(&devices.text()) }
}

impl Devices {
    fn found() -> Result<Devices> {
        let cpu = Device::cpu("listed");
        let memory = memory::available().map(|a| Memory { bytes: a.bytes, limited: a.by.name() });
        let name = cpu.backend.capabilities().device.clone();
        let adapters = adapters_blocking().into_iter().enumerate().map(|(index, facts)| Adapter::opened(index, facts));
        Ok(Devices { cpu: Cpu { name, memory, rates: Rates::of(&cpu)? }, adapters: adapters.collect() })
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("cpu: {}", self.cpu.name)];
        if let Some(Memory { bytes, limited }) = &self.cpu.memory {
            lines.push(format!("  memory available: {:.1} GiB, {limited}", gib(*bytes)));
        }
        lines.extend(self.cpu.rates.lines());
        if self.adapters.is_empty() {
            lines.push("wgpu: no adapter (on Linux, a Vulkan driver such as mesa-vulkan-drivers makes one)".into());
        }
        for (index, adapter) in self.adapters.iter().enumerate() {
            lines.extend(adapter.lines(index));
        }
        lines.join("\n") + "\n"
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

impl Adapter {
    fn opened(index: usize, a: AdapterFacts) -> Adapter {
        let device = Device::wgpu(&AdapterChoice::Index(index), None, "listed");
        let lanes = a.subgroup.map(|lanes| format!(" of {lanes} lanes")).unwrap_or_default();
        Adapter {
            software: a.software,
            max_buffer_bytes: a.max_buffer_bytes,
            max_storage_buffers: a.max_storage_buffers,
            workgroup_invocations: a.workgroup_invocations,
            workgroup_bytes: a.workgroup_bytes,
            features: a.features.iter().map(|f| f.replace("subgroups", &format!("subgroups{lanes}"))).collect(),
            opened: device
                .and_then(|device| Rates::of(&device))
                .map_or_else(|e| Opened::Failed { error: format!("{e:#}") }, Opened::Open),
            name: a.name,
            api: a.api.to_string(),
            driver: a.driver,
        }
    }

    fn lines(&self, index: usize) -> Vec<String> {
        let software = if self.software { ", software" } else { "" };
        let features = if self.features.is_empty() { "none".into() } else { self.features.join(", ") };
        let mut lines = vec![
            format!("wgpu adapter {index}: {} ({}, {}{software})", self.name, self.api, self.driver),
            format!(
                "  limits: buffers of {:.1} GiB, {} storage buffers a kernel, {} invocations and {} KiB a workgroup",
                gib(self.max_buffer_bytes),
                self.max_storage_buffers,
                self.workgroup_invocations,
                self.workgroup_bytes / 1024
            ),
            format!("  features: {features}"),
        ];
        match &self.opened {
            Opened::Open(rates) => lines.extend(rates.lines()),
            Opened::Failed { error } => lines.push(format!("  cannot be opened: {error}")),
        }
        lines
    }
}

impl Rates {
    fn of(device: &Device) -> Result<Rates> {
        let dtypes = &device.backend.capabilities().dtypes;
        let those = |support| dtypes.iter().filter(move |(_, s)| *s == support).map(|(d, _)| d.name()).collect();
        let (peak, copy_bytes_per_s) = (device.peak(DType::F32)?, device.copy_rate()?);
        let kernels = device.gpu.as_ref();
        Ok(Rates {
            native: those(Support::Native),
            emulated: those(Support::Emulated),
            kernels: kernels
                .map(|gpu| gpu.profile())
                .map(|p| format!("matmul by {}, f16 and fp8 decoded by {}", p.matmul[0], p.prelude.f16)),
            flops_per_s: peak.flops_per_s,
            flops_source: peak.source,
            copy_bytes_per_s,
        })
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("  native: {}", self.native.join(" ")),
            format!("  emulated, stored at their width, multiplied and summed in f32: {}", self.emulated.join(" ")),
        ];
        lines.extend(self.kernels.as_ref().map(|kernels| format!("  {kernels}")));
        let (flops, copy) = (spaced(self.flops_per_s), spaced(self.copy_bytes_per_s));
        lines.push(format!("  peak: {flops}FLOP/s ({}), copy {copy}B/s", self.flops_source));
        lines
    }
}

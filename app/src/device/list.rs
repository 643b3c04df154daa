//! `mantissa devices`: the CPU and every adapter, with what each can do.

use super::{Device, memory};
use crate::Outcome;
use crate::show::spaced;
use anyhow::Result;
use mantissa_backend_wgpu::{AdapterChoice, AdapterFacts, adapters_blocking};
use mantissa_core::DType;
use mantissa_core::backend::Support;
use std::io::{ErrorKind, Write};

/// `mantissa devices`. A reader that has seen enough (`| head`) is no error.
pub fn command() -> Result<Outcome> {
    let mut out = crate::out::stdout();
    match list(&mut out) {
        Err(e) if e.root_cause().downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => {}
        done => done?,
    }
    Ok(Outcome::Done)
}

fn list(out: &mut impl Write) -> Result<()> {
    let cpu = Device::cpu("listed");
    writeln!(out, "cpu: {}", cpu.backend.capabilities().device)?;
    if let Some(available) = memory::available() {
        let gib = available.bytes as f64 / (1u64 << 30) as f64;
        writeln!(out, "  memory available: {gib:.1} GiB, {}", available.by.name())?;
    }
    rates(out, &cpu)?;
    let adapters = adapters_blocking();
    if adapters.is_empty() {
        writeln!(out, "wgpu: no adapter (on Linux, a Vulkan driver such as mesa-vulkan-drivers makes one)")?;
    }
    for (index, facts) in adapters.iter().enumerate() {
        describe(out, index, facts)?;
        match Device::wgpu(&AdapterChoice::Index(index), None, "listed") {
            Ok(device) => rates(out, &device)?,
            Err(e) => writeln!(out, "  cannot be opened: {e:#}")?,
        }
    }
    Ok(())
}

fn describe(out: &mut impl Write, index: usize, a: &AdapterFacts) -> Result<()> {
    let software = if a.software { ", software" } else { "" };
    writeln!(out, "wgpu adapter {index}: {} ({}, {}{software})", a.name, a.api, a.driver)?;
    writeln!(
        out,
        "  limits: buffers of {:.1} GiB, {} storage buffers a kernel, {} invocations and {} KiB a workgroup",
        a.max_buffer_bytes as f64 / (1u64 << 30) as f64,
        a.max_storage_buffers,
        a.workgroup_invocations,
        a.workgroup_bytes / 1024
    )?;
    let features = if a.features.is_empty() { "none".into() } else { a.features.join(", ") };
    let lanes = a.subgroup.map(|lanes| format!(" of {lanes} lanes")).unwrap_or_default();
    Ok(writeln!(out, "  features: {}", features.replace("subgroups", &format!("subgroups{lanes}")))?)
}

/// How a device multiplies every dtype, and how fast.
fn rates(out: &mut impl Write, device: &Device) -> Result<()> {
    for support in [Support::Native, Support::Emulated] {
        let how = match support {
            Support::Native => "native",
            Support::Emulated => "emulated, stored at their width, multiplied and summed in f32",
        };
        let named = device.backend.capabilities().dtypes.iter().filter(|(_, s)| *s == support);
        let names: Vec<&str> = named.map(|(d, _)| d.name()).collect();
        writeln!(out, "  {how}: {}", names.join(" "))?;
    }
    if let Some(gpu) = &device.gpu {
        writeln!(out, "  products by {}, f16 and fp8 decoded by {}", gpu.products()[0], gpu.dialect().f16)?;
    }
    let (peak, copy) = (device.peak(DType::F32)?, device.copy_rate()?);
    writeln!(out, "  peak: {}FLOP/s ({}), copy {}B/s", spaced(peak.flops_per_s), peak.source, spaced(copy))?;
    Ok(())
}

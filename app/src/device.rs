//! Devices: which one a run uses, what each can do, and the arithmetic peak that MFU is measured against.

use crate::Outcome;
use crate::config::DeviceChoice;
use anyhow::{Result, bail};
use mantissa_core::DType;
use mantissa_core::backend::{Backend, Capabilities, Support};
use mantissa_core::cpu::CpuBackend;
use mantissa_core::cpu::gemm::{Dims, Parallelism, gemm, gemm_work_len};
use mantissa_core::program::memory::{Layout, MemoryPlan};
use mantissa_core::train::{TrainConfig, record};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Side of the square product that measures the peak.
const PROBE_SIDE: usize = 512;
/// How long the peak is measured.
const PROBE_TIME: Duration = Duration::from_millis(50);

/// Opens the device of a choice and says why it is this one.
pub fn open(choice: DeviceChoice) -> (Arc<dyn Backend>, &'static str) {
    match choice {
        DeviceChoice::Auto => (Arc::new(CpuBackend::new()), "auto: the only device of this build"),
        DeviceChoice::Cpu => (Arc::new(CpuBackend::new()), "as asked"),
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

/// The peak of products in `dtype`. The CPU multiplies in f32 whatever the operands are stored in, so its peak is that of an f32 product,
/// measured now.
pub fn peak(capabilities: &Capabilities, dtype: DType) -> Peak {
    let emulated = capabilities.dtypes.iter().any(|(d, s)| *d == dtype && *s == Support::Emulated);
    let note = if emulated { format!("; {} is computed in f32 here", dtype.name()) } else { String::new() };
    Peak { flops_per_s: probe(), source: format!("measured: f32 product of {PROBE_SIDE}^3{note}") }
}

/// Best rate of an f32 product over [`PROBE_TIME`].
fn probe() -> f64 {
    let n = PROBE_SIDE;
    let d = Dims { m: n, n, k: n, trans_a: false, trans_b: false };
    let (a, b) = (vec![0.5; n * n], vec![0.25; n * n]);
    let mut c = vec![0.0; n * n];
    let mut work = vec![0.0; gemm_work_len(d, Parallelism::Par)];
    let start = Instant::now();
    let mut best = f64::INFINITY;
    // The first round warms threads and caches; the best of the others counts.
    for round in 0.. {
        let begin = Instant::now();
        gemm(&mut c, &a, &b, d, 1.0, false, Parallelism::Par, &mut work);
        std::hint::black_box(&c);
        if round > 0 {
            best = best.min(begin.elapsed().as_secs_f64());
            if start.elapsed() >= PROBE_TIME {
                break;
            }
        }
    }
    2.0 * (n as f64).powi(3) / best
}

/// Bytes of memory that a program may still take, where the system says so.
pub fn available_memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Refuses a run whose planned memory is not there, before any of it is taken.
pub fn check_memory(config: &TrainConfig) -> Result<()> {
    let program = record::train_step(config)?;
    let layout = Arc::new(Layout::new(&program));
    let planned = MemoryPlan::new(&program, &layout)?.total_bytes() as u64;
    match available_memory_bytes() {
        Some(available) if planned > available => {
            let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
            bail!(
                "memory: expected a run of at most {}, which is available, got one of {} planned; try a smaller --batch-size or --seq-len",
                gib(available),
                gib(planned)
            )
        }
        Some(_) | None => Ok(()),
    }
}

/// `mantissa devices`.
pub fn command() -> Result<Outcome> {
    let cpu = CpuBackend::new();
    let c = cpu.capabilities();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}: {}", c.kind, c.device)?;
    for (dtype, support) in &c.dtypes {
        let how = match support {
            Support::Native => "native",
            Support::Emulated => "emulated: stored at its width, multiplied and summed in f32",
        };
        writeln!(out, "  {:<5} {how}", dtype.name())?;
    }
    if let Some(bytes) = available_memory_bytes() {
        writeln!(out, "  memory available: {:.1} GiB", bytes as f64 / (1u64 << 30) as f64)?;
    }
    let peak = probe();
    writeln!(out, "  peak: {:.1} GFLOP/s (measured: f32 product of {PROBE_SIDE}^3)", peak / 1e9)?;
    Ok(Outcome::Done)
}

//! The devices of this machine, opened once. A missing one is a loud skip, or a failure where `MANTISSA_REQUIRE` names
//! it; either way the test is counted ([`crate::device_checks`]).

use crate::device_checks;
use mantissa_backend_wgpu::{AdapterChoice, AttentionKernel, LowerLimits, MatmulChoice, Options, WgpuBackend};
use mantissa_core::backend::Backend;
use mantissa_core::cpu::CpuBackend;
use std::sync::{Arc, OnceLock};

/// The CPU: the specification.
pub fn cpu() -> Arc<dyn Backend> {
    Arc::new(CpuBackend::new())
}

/// The best adapter that wgpu finds, or `None` with a line on stderr.
///
/// # Panics
/// If there is none though `MANTISSA_REQUIRE` names `wgpu`.
pub fn wgpu() -> Option<Arc<dyn Backend>> {
    wgpu_backend().map(|b| b as Arc<dyn Backend>)
}

/// As [`wgpu`], by its own type.
pub fn wgpu_backend() -> Option<Arc<WgpuBackend>> {
    static OPEN: OnceLock<Result<Arc<WgpuBackend>, Missing>> = OnceLock::new();
    counted(OPEN.get_or_init(|| open(Options::default())).clone())
}

/// As [`wgpu`], once for every matmul kernel that the adapter can run, the usual one first.
pub fn wgpu_with_every_matmul() -> Vec<Arc<WgpuBackend>> {
    static OPEN: OnceLock<Result<Vec<Arc<WgpuBackend>>, Missing>> = OnceLock::new();
    let every = || -> Result<Vec<Arc<WgpuBackend>>, Missing> {
        let usual = open(Options::default())?;
        let fixed = |kernel| Options { matmul: MatmulChoice::Fixed(kernel), ..Options::default() };
        usual.profile().matmul.iter().map(|kernel| open(fixed(*kernel))).collect()
    };
    counted(OPEN.get_or_init(every).clone()).unwrap_or_default()
}

/// As [`wgpu`], once for every attention kernel that the adapter can run: the usual one, and the one for every device.
pub fn wgpu_with_every_attention() -> Vec<Arc<WgpuBackend>> {
    static OPEN: OnceLock<Result<Vec<Arc<WgpuBackend>>, Missing>> = OnceLock::new();
    let every = || -> Result<Vec<Arc<WgpuBackend>>, Missing> {
        let mut all = vec![open(Options::default())?];
        if all[0].profile().attention != AttentionKernel::Workgroups {
            all.push(open(Options { attention: Some(AttentionKernel::Workgroups), ..Options::default() })?);
        }
        Ok(all)
    };
    counted(OPEN.get_or_init(every).clone()).unwrap_or_default()
}

/// As [`wgpu`], with the prelude that every adapter can run, whatever this one can do.
pub fn wgpu_baseline() -> Option<Arc<dyn Backend>> {
    static OPEN: OnceLock<Result<Arc<WgpuBackend>, Missing>> = OnceLock::new();
    let baseline = || open(Options { baseline: true, ..Options::default() });
    counted(OPEN.get_or_init(baseline).clone()).map(|b| b as Arc<dyn Backend>)
}

/// As [`wgpu`], with the limits of a smaller device.
pub fn wgpu_limited(limits: LowerLimits) -> Option<Arc<dyn Backend>> {
    wgpu()?;
    Some(open(Options { limits, ..Options::default() }).expect("the adapter opens once more"))
}

/// [`wgpu`] and [`wgpu_baseline`].
pub fn wgpu_both_preludes() -> Vec<Arc<dyn Backend>> {
    wgpu().into_iter().chain(wgpu_baseline()).collect()
}

/// Why there is no adapter.
type Missing = String;

fn open(options: Options) -> Result<Arc<WgpuBackend>, Missing> {
    WgpuBackend::open_with_blocking(&AdapterChoice::Best, options).map(Arc::new).map_err(|e| e.to_string())
}

/// The device, and the test counted as one that has it or lacks it.
fn counted<T>(device: Result<T, Missing>) -> Option<T> {
    match device {
        Ok(device) => {
            device_checks::ran();
            Some(device)
        }
        Err(why) => {
            device_checks::skipped("wgpu", &why);
            None
        }
    }
}

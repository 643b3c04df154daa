//! The devices of this machine, opened once. A missing one is a loud skip, or a failure where `MANTISSA_REQUIRE` names it; either way the test is
//! counted ([`crate::device_checks`]).

use crate::device_checks;
use mantissa_backend_wgpu::{AdapterChoice, Choice, LowerLimits, WgpuBackend};
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
    counted(OPEN.get_or_init(|| open(Choice::default())).clone())
}

/// As [`wgpu`], once for every kind of matrix product that the adapter can do, the one it gets by itself first.
pub fn wgpu_with_every_product() -> Vec<Arc<WgpuBackend>> {
    static OPEN: OnceLock<Result<Vec<Arc<WgpuBackend>>, Missing>> = OnceLock::new();
    let every = || -> Result<Vec<Arc<WgpuBackend>>, Missing> {
        let usual = open(Choice::default())?;
        usual.products().iter().map(|kind| open(Choice::Fixed(*kind))).collect()
    };
    counted(OPEN.get_or_init(every).clone()).unwrap_or_default()
}

/// As [`wgpu`], spoken to as any adapter is, whatever this one can do.
pub fn wgpu_spoken_to_plainly() -> Option<Arc<dyn Backend>> {
    static OPEN: OnceLock<Result<Arc<WgpuBackend>, Missing>> = OnceLock::new();
    let plain = || open(Choice::default()).inspect(|backend| backend.speak_plainly());
    counted(OPEN.get_or_init(plain).clone()).map(|b| b as Arc<dyn Backend>)
}

/// As [`wgpu`], with the limits of a smaller device.
pub fn wgpu_limited(lower: LowerLimits) -> Option<Arc<dyn Backend>> {
    wgpu()?;
    let limited = WgpuBackend::open_limited_blocking(&AdapterChoice::Best, Choice::default(), lower);
    Some(Arc::new(limited.expect("the adapter opens once more")))
}

/// [`wgpu`] and [`wgpu_spoken_to_plainly`].
pub fn wgpu_either_way() -> Vec<Arc<dyn Backend>> {
    wgpu().into_iter().chain(wgpu_spoken_to_plainly()).collect()
}

/// Why there is no adapter.
type Missing = String;

fn open(products: Choice) -> Result<Arc<WgpuBackend>, Missing> {
    WgpuBackend::open_with_blocking(&AdapterChoice::Best, products).map(Arc::new).map_err(|e| e.to_string())
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

//! The devices of this machine, opened once. A missing one is a loud skip, or a failure where `MANTISSA_REQUIRE` names it.

use mantissa_backend_wgpu::{AdapterChoice, Choice, WgpuBackend};
use mantissa_core::backend::Backend;
use mantissa_core::cpu::CpuBackend;
use std::sync::{Arc, OnceLock};

/// Variable with the devices that must be there, such as `wgpu`.
const REQUIRE: &str = "MANTISSA_REQUIRE";

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
    static OPEN: OnceLock<Option<Arc<WgpuBackend>>> = OnceLock::new();
    OPEN.get_or_init(|| open(Choice::default())).clone()
}

/// As [`wgpu`], once for every kind of matrix product that the adapter can do, the one it gets by itself first.
pub fn wgpu_with_every_product() -> Vec<Arc<WgpuBackend>> {
    static OPEN: OnceLock<Vec<Arc<WgpuBackend>>> = OnceLock::new();
    let every = || {
        let kinds = open(Choice::default()).map(|usual| usual.products().to_vec()).unwrap_or_default();
        kinds.into_iter().filter_map(|kind| open(Choice::Fixed(kind))).collect()
    };
    OPEN.get_or_init(every).clone()
}

/// As [`wgpu`], spoken to as any adapter is, whatever this one can do.
pub fn wgpu_spoken_to_plainly() -> Option<Arc<dyn Backend>> {
    static OPEN: OnceLock<Option<Arc<WgpuBackend>>> = OnceLock::new();
    let plain = || open(Choice::default()).inspect(|backend| backend.speak_plainly());
    OPEN.get_or_init(plain).clone().map(|b| b as Arc<dyn Backend>)
}

/// [`wgpu`] and [`wgpu_spoken_to_plainly`].
pub fn wgpu_either_way() -> Vec<Arc<dyn Backend>> {
    wgpu().into_iter().chain(wgpu_spoken_to_plainly()).collect()
}

fn open(products: Choice) -> Option<Arc<WgpuBackend>> {
    match WgpuBackend::open_with_blocking(&AdapterChoice::Best, products) {
        Ok(backend) => Some(Arc::new(backend)),
        Err(e) => {
            let required = std::env::var(REQUIRE).is_ok_and(|r| r.split(',').any(|d| d.trim() == "wgpu"));
            assert!(!required, "{REQUIRE} names wgpu: {e}");
            eprintln!("SKIPPED: no wgpu adapter: {e}");
            None
        }
    }
}

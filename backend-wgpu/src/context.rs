//! What everything that runs kernels shares: the device, its pipelines and its staging buffers.

use crate::gpu::Gpu;
use crate::pipeline::Pipelines;
use crate::readback::Staging;
use mantissa_shaders::Prelude;
use std::sync::Arc;

/// A device with what its kernels are compiled to. Nothing of it changes but the caches.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) pipelines: Pipelines,
    pub(crate) staging: Arc<Staging>,
}

impl Context {
    /// A context whose kernels have `prelude` in front.
    pub(crate) fn new(gpu: &Arc<Gpu>, prelude: Prelude) -> Context {
        Context { gpu: gpu.clone(), pipelines: Pipelines::new(prelude), staging: Arc::new(Staging::new(gpu)) }
    }
}

//! Looks at what a device really does, when it is opened, before kernels rely on it. They wait: not for browsers.

mod f16;
mod subgroups;

pub(crate) use f16::decodes_f16;
pub(crate) use subgroups::has_subgroups;

use crate::adapter::Gpu;
use crate::dispatch::Binder;
use crate::launch::{Arg, Builder};
use crate::memory::allocate;
use crate::readback::Download;
use mantissa_core::backend::Readback;
use mantissa_core::error::Result;
use mantissa_core::program::memory::{Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use std::sync::Arc;

/// The `bytes` that a kernel writes to its one buffer, `y`, as words.
fn written(gpu: &Arc<Gpu>, kernel: Builder, bytes: usize) -> Result<Vec<u32>> {
    let launch = kernel.bind("y", Arg::Piece(0)).done()?;
    let buffers = allocate(gpu, &[Buffer { size: bytes, purpose: Purpose::Activations }])?;
    let operands = Operands::at(vec![Place { buffer: 0, offset: 0, size: bytes }]);
    let dispatch = Binder::new(gpu, &buffers, &[], &[], 0, [&launch], 1)?.dispatch(&launch, &operands, 0)?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("look") });
    dispatch.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), 0);
    gpu.queue.submit([encoder.finish()]);
    let seen = Download::start(gpu, &buffers[0], 0, bytes).wait()?.unwrap_or_default();
    Ok(seen.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{AdapterChoice, Choice, WgpuBackend};
    use crate::device_checks;
    use mantissa_shaders::Dialect;

    /// The best adapter. The test is counted as one that has it or lacks it.
    fn best() -> Option<WgpuBackend> {
        match WgpuBackend::open_with_blocking(&AdapterChoice::Best, Choice::default()) {
            Ok(backend) => {
                device_checks::ran();
                Some(backend)
            }
            Err(e) => {
                device_checks::skipped("wgpu", &e.to_string());
                None
            }
        }
    }

    #[test]
    fn subgroups_of_another_size_are_not_taken() {
        let Some(backend) = best() else { return };
        let Some(size) = backend.facts().subgroup else { return };
        for other in [8, 16, 32, 64] {
            assert_eq!(has_subgroups(backend.gpu(), other).unwrap(), other == size, "{other}");
        }
    }

    #[test]
    fn integers_decode_every_code() {
        let Some(backend) = best() else { return };
        backend.speak_plainly();
        assert_eq!(backend.dialect(), Dialect::default());
        assert!(decodes_f16(backend.gpu()).unwrap());
    }
}

//! What an adapter can do, found by small kernels when it is opened, before other kernels rely on it. Fixed from then
//! on.
//!
//! Probes are async: natively they wait for the device, in a page its event loop runs meanwhile.

mod f16;
mod subgroups;

use crate::context::Context;
use crate::dispatch::{Binder, Buffers};
use crate::gpu::Gpu;
use crate::launch::{Arg, AttentionKernel, Builder, MatmulKernel, PANEL_LANES};
use crate::memory::allocate;
use mantissa_core::error::Result;
use mantissa_core::program::memory::{Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use mantissa_shaders::{F16Decoding, Prelude, Vec8Access};
use std::sync::Arc;

/// What an open adapter can do, and the kernels that suit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterProfile {
    /// How kernels decode f16, and access eight words.
    pub prelude: Prelude,
    /// Lanes of a subgroup, where subgroups were shown to work.
    pub subgroup: Option<u32>,
    /// Kernels for a matmul, the usual one first.
    pub matmul: Vec<MatmulKernel>,
    /// The kernel for attention.
    pub attention: AttentionKernel,
}

impl AdapterProfile {
    /// The profile of an open device. Errs only if the device cannot go on.
    pub(crate) async fn find(gpu: &Arc<Gpu>) -> Result<AdapterProfile> {
        let baseline = Context::new(gpu, Prelude::default());
        let subgroup = match gpu.facts.subgroup {
            Some(size) if gpu.attempt(subgroups::work(&baseline, size)).await?.unwrap_or(false) => Some(size),
            Some(_) | None => None,
        };
        let unpack = Context::new(gpu, Prelude { f16: F16Decoding::Unpack, ..Prelude::default() });
        let unpacks = gpu.facts.converts_f16 && gpu.attempt(f16::decodes(&unpack)).await?.unwrap_or(false);
        // A load costs what it has components on software adapters only.
        let by_words = gpu.facts.software && gpu.has_int64();
        let prelude = Prelude {
            f16: if unpacks { F16Decoding::Unpack } else { F16Decoding::Integers },
            vec8: if by_words { Vec8Access::Words64 } else { Vec8Access::Vectors },
        };
        let cpu_lanes = gpu.facts.software && subgroup == Some(PANEL_LANES);
        Ok(AdapterProfile {
            prelude,
            subgroup,
            matmul: matmul_kernels(gpu.facts.software, subgroup, cpu_lanes && gpu.has_int64()),
            attention: if cpu_lanes { AttentionKernel::Subgroups } else { AttentionKernel::Workgroups },
        })
    }
}

/// Kernels for a matmul, the best for its kind of device first.
fn matmul_kernels(software: bool, subgroup: Option<u32>, panels: bool) -> Vec<MatmulKernel> {
    let subgroups = subgroup.map(MatmulKernel::Subgroups);
    if software {
        let first = panels.then_some(MatmulKernel::Panels).into_iter().chain(subgroups);
        return first.chain([MatmulKernel::Registers, MatmulKernel::WorkgroupMemory]).collect();
    }
    // Subgroups were not measured on a GPU yet, so they come last.
    [MatmulKernel::WorkgroupMemory, MatmulKernel::Registers].into_iter().chain(subgroups).collect()
}

/// The `bytes` that a kernel writes to its one buffer, `y`, as words.
async fn written(context: &Context, kernel: Builder, bytes: usize) -> Result<Vec<u32>> {
    let launch = kernel.bind("y", Arg::Piece(0)).done()?;
    let memory = allocate(&context.gpu, &[Buffer { size: bytes, purpose: Purpose::Activations }])?;
    let operands = Operands::at(vec![Place { buffer: 0, offset: 0, size: bytes }]);
    let binder = Binder::new(context, Buffers { persistent: &memory, ..Buffers::default() }, [&launch], 1)?;
    let dispatch = binder.dispatch(&launch, &operands, 0)?;
    context.gpu.submit_pass("probe", |pass| dispatch.encode(pass, 0));
    let bytes = context.staging.download(&memory[0], 0, bytes).bytes().await?;
    Ok(bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{AdapterChoice, LowerLimits, pick};
    use crate::device_checks;
    use pollster::block_on;

    /// The best adapter. The test is counted as one that has it or lacks it.
    fn best() -> Option<Arc<Gpu>> {
        let open = async { Gpu::open(&pick(&AdapterChoice::Best).await?, LowerLimits::default()).await };
        match block_on(open) {
            Ok(gpu) => {
                device_checks::ran();
                Some(Arc::new(gpu))
            }
            Err(e) => {
                device_checks::skipped("wgpu", &e.to_string());
                None
            }
        }
    }

    #[test]
    fn subgroups_of_another_size_are_not_taken() {
        let Some(gpu) = best() else { return };
        let Some(size) = gpu.facts.subgroup else { return };
        let context = Context::new(&gpu, Prelude::default());
        for other in [8, 16, 32, 64] {
            assert_eq!(block_on(subgroups::work(&context, other)).unwrap(), other == size, "{other}");
        }
    }

    #[test]
    fn integers_decode_every_code() {
        let Some(gpu) = best() else { return };
        assert!(block_on(f16::decodes(&Context::new(&gpu, Prelude::default()))).unwrap());
    }

    #[test]
    fn a_refused_attempt_leaves_the_device_as_it_was() {
        let Some(gpu) = best() else { return };
        let size = |size| Buffer { size, purpose: Purpose::Activations };
        // A binding beyond the buffer: the driver sees nothing of it, wgpu refuses it.
        let refused = gpu.attempt(async {
            let buffer = allocate(&gpu, &[size(256)])?.remove(0);
            gpu.queue.write_buffer(&buffer, 1 << 20, &[0; 4]);
            Ok(())
        });
        assert!(matches!(block_on(refused), Ok(Err(_))), "a write beyond the end");
        assert!(matches!(block_on(gpu.attempt(async { allocate(&gpu, &[size(256)]) })), Ok(Ok(_))));
        gpu.check().expect("the device goes on");
        // Outside of an attempt the same is a fault of the device.
        let buffer = allocate(&gpu, &[size(256)]).expect("a small buffer").remove(0);
        gpu.queue.write_buffer(&buffer, 1 << 20, &[0; 4]);
        assert!(gpu.check().is_err());
        assert!(block_on(gpu.attempt(async { Ok(()) })).is_err(), "a device that had failed before");
    }

    #[test]
    fn a_refused_buffer_is_an_error_at_once_and_no_fault_of_the_device() {
        let Some(gpu) = best() else { return };
        let refused = gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("too large"),
            size: gpu.limits.max_buffer_size + 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        assert!(refused.is_err());
        gpu.check().expect("the device goes on");
    }

    #[test]
    fn panels_come_first_where_they_come_at_all() {
        use MatmulKernel::{Panels, Registers, Subgroups, WorkgroupMemory};
        let cases: [(bool, Option<u32>, bool, &[MatmulKernel]); 4] = [
            (true, Some(8), true, &[Panels, Subgroups(8), Registers, WorkgroupMemory]),
            (true, Some(16), false, &[Subgroups(16), Registers, WorkgroupMemory]),
            (true, None, false, &[Registers, WorkgroupMemory]),
            (false, Some(32), false, &[WorkgroupMemory, Registers, Subgroups(32)]),
        ];
        for (software, subgroup, panels, expected) in cases {
            assert_eq!(matmul_kernels(software, subgroup, panels), expected, "{software} {subgroup:?} {panels}");
        }
    }
}

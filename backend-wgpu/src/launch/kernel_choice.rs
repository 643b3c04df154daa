//! Where there are several kernels for one operation: which of them launches take.

/// The kernel of a matmul, by how its invocations share what they read. All sum k ascending in one accumulator: the
/// same bits, but for what a GPU's compiler contracts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatmulKernel {
    /// Not at all: each keeps a large tile in registers. Best where workgroup memory is emulated.
    Registers,
    /// A workgroup decodes its operands once into workgroup memory. Best on GPUs.
    WorkgroupMemory,
    /// A subgroup of this many lanes reads them once and broadcasts. Best where lanes are those of CPU vectors.
    Subgroups(u32),
    /// As subgroups of eight, after both operands have been packed into panels. For software adapters.
    Panels,
}

impl std::fmt::Display for MatmulKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MatmulKernel::Registers => f.write_str("registers"),
            MatmulKernel::WorkgroupMemory => f.write_str("workgroup memory"),
            MatmulKernel::Subgroups(lanes) => write!(f, "subgroups of {lanes}"),
            MatmulKernel::Panels => f.write_str("panels"),
        }
    }
}

/// The kernel of attention and of its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKernel {
    /// Workgroups that share keys and values in workgroup memory. Every device.
    Workgroups,
    /// Subgroups of eight lanes that broadcast keys and values. For software adapters.
    Subgroups,
}

/// What launches depend on beside the instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchLimits {
    /// Storage buffers a kernel may bind.
    pub(crate) max_storage_buffers: usize,
    /// Which kernel multiplies matrices.
    pub(crate) matmul: MatmulKernel,
    /// Which kernel computes attention.
    pub(crate) attention: AttentionKernel,
}

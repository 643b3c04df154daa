//! The backend: an open adapter that allocates memory and compiles Programs.

use crate::adapter::{AdapterChoice, AdapterFacts, LowerLimits, pick};
use crate::budget;
use crate::context::Context;
use crate::executable::WgpuExecutable;
use crate::gpu::Gpu;
use crate::launch::AttentionKernel;
use crate::memory::WgpuMemory;
use crate::profile::AdapterProfile;
use crate::tune::{MatmulChoice, Tuner};
use mantissa_core::backend::{Backend, Capabilities, DeviceMemory, Executable, Memory, Support};
use mantissa_core::dtype::DType;
use mantissa_core::error::Result;
use mantissa_core::program::Program;
use mantissa_core::program::memory::{Layout, MemoryPlan};
use mantissa_shaders::Prelude;
use std::sync::Arc;

/// How an adapter is opened. By default as its profile says, and never tuned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Who chooses the kernel of a matmul.
    pub matmul: MatmulChoice,
    /// The kernel of attention, instead of the profile's.
    pub attention: Option<AttentionKernel>,
    /// Limits of a smaller device, to see what would run there.
    pub limits: LowerLimits,
    /// Kernels get the prelude that runs on every device, whatever this one can do.
    pub baseline: bool,
}

/// A GPU as a device that runs Programs.
#[derive(Debug)]
pub struct WgpuBackend {
    pub(crate) context: Arc<Context>,
    capabilities: Capabilities,
    tuner: Arc<Tuner>,
}

impl WgpuBackend {
    /// Opens an adapter with the default options. Errs if there is none such, naming those there are, or if its driver
    /// refuses it.
    pub async fn open(choice: &AdapterChoice) -> Result<WgpuBackend> {
        WgpuBackend::open_with(choice, Options::default()).await
    }

    /// As [`WgpuBackend::open`], with options. Errs, too, if a kernel is asked for that the adapter cannot run.
    pub async fn open_with(choice: &AdapterChoice, options: Options) -> Result<WgpuBackend> {
        let adapter = pick(choice).await?;
        let gpu = Arc::new(Gpu::open(&adapter, options.limits).await?);
        let mut profile = AdapterProfile::find(&gpu).await?;
        if options.baseline {
            profile.prelude = Prelude::default();
        }
        profile.attention = options.attention.unwrap_or(profile.attention);
        let context = Arc::new(Context::new(&gpu, profile.prelude));
        let tuner = Arc::new(Tuner::new(profile, gpu.facts.software, options.matmul)?);
        Ok(WgpuBackend { context, capabilities: capabilities(&gpu.facts), tuner })
    }

    /// What the adapter can do, and the kernels that suit it. Its matmul kernels are those that Programs may get.
    pub fn profile(&self) -> &AdapterProfile {
        self.tuner.profile()
    }

    /// What was known of the adapter before it was opened.
    pub fn facts(&self) -> &AdapterFacts {
        &self.context.gpu.facts
    }
}

fn capabilities(facts: &AdapterFacts) -> Capabilities {
    let support = |d: DType| if d == DType::F32 { Support::Native } else { Support::Emulated };
    Capabilities {
        kind: "wgpu",
        device: format!("{} ({}, {})", facts.name, facts.api, facts.driver),
        units: 1,
        // wgpu does not say how much memory a GPU has.
        memory: if facts.software { DeviceMemory::Host } else { DeviceMemory::Own(None) },
        dtypes: DType::ALL.into_iter().filter(|d| d.is_float()).map(|d| (d, support(d))).collect(),
    }
}

impl Backend for WgpuBackend {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, layout: Arc<Layout>) -> Result<Arc<dyn Memory>> {
        Ok(Arc::new(WgpuMemory::new(&self.context.staging, layout)?))
    }

    fn compile(&self, program: Arc<Program>, memory: &Arc<dyn Memory>) -> Result<Box<dyn Executable>> {
        let gpu = &self.context.gpu;
        let memory = memory.as_any().downcast_ref::<WgpuMemory>().filter(|m| Arc::ptr_eq(m.gpu(), gpu));
        let memory = memory.ok_or_else(|| gpu.error("the memory is of another backend"))?;
        Ok(Box::new(WgpuExecutable::compile(&self.context, program, memory, &self.tuner)?))
    }

    fn scratch_bytes(&self, program: &Program, plan: &MemoryPlan) -> Result<usize> {
        budget::scratch_bytes(program, plan, self.context.gpu.max_storage_buffers())
    }

    /// Classes of matmuls, and the kernel that each gets.
    fn tuned(&self) -> Vec<(String, String)> {
        self.tuner.choices()
    }

    fn warnings(&self) -> Vec<String> {
        self.tuner.warnings()
    }
}

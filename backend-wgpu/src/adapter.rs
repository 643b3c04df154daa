//! Adapters: what there is, which one a run takes, and the open device.

use crate::fault::{Fault, Faults};
use crate::launch::PANEL_LANES;
use crate::memory::WgpuMemory;
use crate::pipeline::Pipelines;
use crate::readback::Staging;
use crate::tune::{Tuner, Tuning};
use mantissa_core::backend::{Backend, Capabilities, DeviceMemory, Executable, Memory, Support};
use mantissa_core::dtype::DType;
use mantissa_core::error::{Error, Result};
use mantissa_core::program::Program;
use mantissa_core::program::memory::{Layout, MemoryPlan};
use mantissa_shaders::{Dialect, Eights, F16};
use std::path::PathBuf;
use std::sync::Arc;

/// Which adapter a run asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The most capable GPU; a software adapter only if nothing else is there.
    #[default]
    Best,
    /// By position in [`adapters`].
    Index(usize),
    /// By a part of its name, in any case.
    Name(String),
}

impl std::str::FromStr for AdapterChoice {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<AdapterChoice, Self::Err> {
        Ok(s.parse().map_or_else(|_| AdapterChoice::Name(s.into()), AdapterChoice::Index))
    }
}

/// How the invocations of a matrix product share what they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Products {
    /// Not at all: each keeps a large tile in registers. Best where workgroup memory is emulated.
    Registers,
    /// A workgroup decodes its operands once into memory of its own. Best on GPUs.
    WorkgroupMemory,
    /// A subgroup of this many lanes reads them once and broadcasts. Best where lanes are those of CPU vectors.
    Subgroups(u32),
    /// As subgroups of eight, after both operands have been laid out anew. Best on CPUs for all but small products.
    Panels,
}

impl std::fmt::Display for Products {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Products::Registers => f.write_str("registers"),
            Products::WorkgroupMemory => f.write_str("workgroup memory"),
            Products::Subgroups(lanes) => write!(f, "subgroups of {lanes}"),
            Products::Panels => f.write_str("panels"),
        }
    }
}

/// Who chooses among the kinds of matrix product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The caller.
    Fixed(Products),
    /// The device's order, or measurements.
    Tuned {
        /// When to measure.
        when: Tuning,
        /// Folder in which choices are kept for later runs.
        folder: Option<PathBuf>,
    },
}

impl Default for Choice {
    fn default() -> Choice {
        Choice::Tuned { when: Tuning::Off, folder: None }
    }
}

impl Choice {
    /// As `MANTISSA_TUNE` asks.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_env() -> Result<Choice> {
        Ok(Choice::tuned(Tuning::from_env()?))
    }

    /// Measured then, and kept in the folder of `MANTISSA_CACHE_DIR` or that of the platform.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn tuned(when: Tuning) -> Choice {
        Choice::Tuned { when, folder: crate::tune::cache::folder() }
    }
}

/// Limits below those of an adapter, as a smaller one has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LowerLimits {
    /// Largest buffer, bytes.
    pub buffer_bytes: Option<u64>,
    /// Workgroups along a side of a grid.
    pub groups: Option<u32>,
}

/// What is known of an adapter before it is opened.
#[derive(Clone, Debug)]
pub struct AdapterFacts {
    /// Name that its driver gives.
    pub name: String,
    /// API: `vulkan`, `metal`, `dx12`, `gl`, `webgpu`.
    pub api: String,
    /// Driver and its version.
    pub driver: String,
    /// Emulated on the CPU.
    pub software: bool,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Storage buffers a kernel may bind.
    pub max_storage_buffers: u32,
    /// Workgroup memory, bytes.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub workgroup_invocations: u32,
    /// Lanes of a subgroup, where the adapter has subgroups, all of one size.
    pub subgroup: Option<u32>,
    /// Whether kernels may convert f16.
    pub converts_f16: bool,
    /// Optional features of use here: `timestamps`, `shader-f16`, `subgroups`.
    pub features: Vec<&'static str>,
}

/// Sizes of subgroups that kernels are made for.
const SUBGROUP_SIZES: [u32; 4] = [8, 16, 32, 64];

impl AdapterFacts {
    fn of(adapter: &wgpu::Adapter) -> AdapterFacts {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let named = [
            ("timestamps", wgpu::Features::TIMESTAMP_QUERY),
            ("shader-f16", wgpu::Features::SHADER_F16),
            ("subgroups", wgpu::Features::SUBGROUP),
        ];
        let (lanes, most) = (info.subgroup_min_size, info.subgroup_max_size);
        let usable = features.contains(wgpu::Features::SUBGROUP) && lanes == most && SUBGROUP_SIZES.contains(&lanes);
        let downlevel = adapter.get_downlevel_capabilities().flags;
        AdapterFacts {
            converts_f16: downlevel.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32),
            subgroup: usable.then_some(lanes),
            api: info.backend.to_str().to_string(),
            driver: [info.driver, info.driver_info].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" "),
            software: info.device_type == wgpu::DeviceType::Cpu,
            name: info.name,
            max_buffer_bytes: limits.max_buffer_size.min(limits.max_storage_buffer_binding_size),
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            features: named.iter().filter(|(_, f)| features.contains(*f)).map(|(n, _)| *n).collect(),
        }
    }

    /// Better adapters have a higher rank.
    fn rank(adapter: &wgpu::Adapter) -> u32 {
        match adapter.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 4,
            wgpu::DeviceType::IntegratedGpu => 3,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 1,
            wgpu::DeviceType::Cpu => 0,
        }
    }
}

async fn enumerate() -> Vec<wgpu::Adapter> {
    // GL shows the same devices once more, with less: the last resort.
    for backends in [wgpu::Backends::PRIMARY, wgpu::Backends::SECONDARY] {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = backends;
        let instance = wgpu::Instance::new(descriptor);
        let mut found = instance.enumerate_adapters(backends).await;
        if found.is_empty() {
            // Browsers list nothing; they answer a request.
            found.extend(instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await);
        }
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// Every adapter of this machine, in the order that [`AdapterChoice::Index`] counts.
pub async fn adapters() -> Vec<AdapterFacts> {
    enumerate().await.iter().map(AdapterFacts::of).collect()
}

/// As [`adapters`], waiting for the answer. Not for browsers.
#[cfg(not(target_arch = "wasm32"))]
pub fn adapters_blocking() -> Vec<AdapterFacts> {
    pollster::block_on(adapters())
}

/// An open device.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) facts: AdapterFacts,
    pub(crate) limits: wgpu::Limits,
    pub(crate) pipelines: Pipelines,
    pub(crate) staging: Staging,
    faults: Arc<Faults>,
}

impl Gpu {
    async fn open(adapter: &wgpu::Adapter, lower: LowerLimits) -> Result<Gpu> {
        let facts = AdapterFacts::of(adapter);
        // All that the adapter has, not the defaults of WebGPU.
        let mut limits = adapter.limits();
        if let Some(bytes) = lower.buffer_bytes {
            limits.max_buffer_size = limits.max_buffer_size.min(bytes);
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(bytes);
        }
        if let Some(groups) = lower.groups {
            limits.max_compute_workgroups_per_dimension = limits.max_compute_workgroups_per_dimension.min(groups);
        }
        let mut wanted = wgpu::Features::TIMESTAMP_QUERY;
        if facts.subgroup.is_some() {
            wanted |= wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("mantissa"),
            required_features: adapter.features() & wanted,
            required_limits: limits.clone(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|e| Fault::of_text(e.to_string()).error(&facts.name, None))?;
        let faults = Arc::new(Faults::default());
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| sink.note(Fault::of(error))));
        let sink = faults.clone();
        device.set_device_lost_callback(move |reason, text| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                sink.note(Fault::Lost(text));
            }
        });
        Ok(Gpu { device, queue, facts, limits, pipelines: Pipelines::default(), staging: Staging::default(), faults })
    }

    /// Errs if anything has gone wrong so far. `bytes` is what was just asked for, if memory was.
    pub(crate) fn check(&self, bytes: Option<u64>) -> Result<()> {
        self.faults.first().map_or(Ok(()), |fault| Err(fault.error(&self.facts.name, bytes)))
    }

    /// What `work` comes to. Errs only if the device cannot go on; any other failure is that of `work`, and forgotten.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn attempt<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
        crate::fault::attempt(&self.faults, || self.check(None), work)
    }

    /// Whether passes can be timed by the device.
    pub(crate) fn has_clock(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) && self.queue.get_timestamp_period() > 0.0
    }

    /// Largest buffer that kernels can bind.
    pub(crate) fn max_buffer_bytes(&self) -> u64 {
        self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size)
    }

    /// An [`Error::Device`].
    pub(crate) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Device { device: self.facts.name.clone(), problem: problem.into() }
    }
}

/// A GPU as a device that runs Programs.
#[derive(Debug)]
pub struct WgpuBackend {
    gpu: Arc<Gpu>,
    capabilities: Capabilities,
    tuner: Arc<Tuner>,
}

impl WgpuBackend {
    /// Opens an adapter, never tuned. Errs if there is none such, naming those there are.
    pub async fn open(choice: &AdapterChoice) -> Result<WgpuBackend> {
        WgpuBackend::open_with(choice, Choice::default()).await
    }

    /// As [`WgpuBackend::open`], with a say in the kinds of matrix product.
    pub async fn open_with(choice: &AdapterChoice, products: Choice) -> Result<WgpuBackend> {
        WgpuBackend::open_limited(choice, products, LowerLimits::default()).await
    }

    /// As [`WgpuBackend::open_with`], with no more than a smaller device allows: to see what would run there.
    pub async fn open_limited(choice: &AdapterChoice, products: Choice, lower: LowerLimits) -> Result<WgpuBackend> {
        let all = enumerate().await;
        let picked = match choice {
            AdapterChoice::Best => all.iter().rev().max_by_key(|a| AdapterFacts::rank(a)),
            AdapterChoice::Index(i) => all.get(*i),
            AdapterChoice::Name(part) => {
                let part = part.to_lowercase();
                all.iter().find(|a| a.get_info().name.to_lowercase().contains(&part))
            }
        };
        let Some(adapter) = picked else {
            let names: Vec<String> = all.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.get_info().name)).collect();
            let found = if names.is_empty() { "no adapter at all".into() } else { names.join(", ") };
            let wanted = match choice {
                AdapterChoice::Best => "a GPU adapter (on Linux, a Vulkan driver such as mesa-vulkan-drivers)".to_string(),
                AdapterChoice::Index(i) => format!("adapter number {i}"),
                AdapterChoice::Name(part) => format!("an adapter with `{part}` in its name"),
            };
            return Err(Error::config("adapter", wanted, found));
        };
        let gpu = Arc::new(Gpu::open(adapter, lower).await?);
        let kinds = kinds(&gpu)?;
        choose_dialect(&gpu)?;
        let tuner = match products {
            Choice::Fixed(one) if kinds.contains(&one) => Tuner::new(vec![one], false, None),
            Choice::Fixed(one) => {
                return Err(Error::config(
                    "products",
                    format!("one of {kinds:?}, which the adapter can do"),
                    format!("{one:?}"),
                ));
            }
            Choice::Tuned { when, folder } => {
                let measures = when == Tuning::Always || (when == Tuning::Auto && !gpu.facts.software);
                Tuner::new(kinds, measures, folder)
            }
        };
        let dtypes = DType::ALL
            .into_iter()
            .filter(|d| d.is_float())
            .map(|d| (d, if d == DType::F32 { Support::Native } else { Support::Emulated }))
            .collect();
        let device = format!("{} ({}, {})", gpu.facts.name, gpu.facts.api, gpu.facts.driver);
        // wgpu tells nobody how much a GPU has.
        let memory = if gpu.facts.software { DeviceMemory::Host } else { DeviceMemory::Own(None) };
        let capabilities = Capabilities { kind: "wgpu", device, units: 1, memory, dtypes };
        Ok(WgpuBackend { gpu, capabilities, tuner: Arc::new(tuner) })
    }

    /// As [`WgpuBackend::open`], tuned as `MANTISSA_TUNE` asks, waiting for the answer. Not for browsers.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking(choice: &AdapterChoice) -> Result<WgpuBackend> {
        WgpuBackend::open_with_blocking(choice, Choice::from_env()?)
    }

    /// As [`WgpuBackend::open_with`], waiting for the answer. Not for browsers.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_with_blocking(choice: &AdapterChoice, products: Choice) -> Result<WgpuBackend> {
        pollster::block_on(WgpuBackend::open_with(choice, products))
    }

    /// As [`WgpuBackend::open_limited`], waiting for the answer. Not for browsers.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_limited_blocking(choice: &AdapterChoice, products: Choice, lower: LowerLimits) -> Result<WgpuBackend> {
        pollster::block_on(WgpuBackend::open_limited(choice, products, lower))
    }

    /// Kinds of matrix product that Programs may get, the usual one first.
    pub fn products(&self) -> &[Products] {
        &self.tuner.kinds
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// How kernels decode f16 and fp8, and read and write eight words.
    pub fn dialect(&self) -> Dialect {
        self.gpu.pipelines.dialect()
    }

    /// Speaks as to any device in what is compiled from now on, whatever this one can do.
    pub fn speak_plainly(&self) {
        self.gpu.pipelines.speak(Dialect::default());
    }

    /// What is known of the adapter.
    pub fn facts(&self) -> &AdapterFacts {
        &self.gpu.facts
    }
}

/// Kinds of matrix product that a device can do, the best for its kind first.
fn kinds(gpu: &Arc<Gpu>) -> Result<Vec<Products>> {
    if !gpu.facts.software {
        // Not measured on a GPU yet, so last.
        let plain = vec![Products::WorkgroupMemory, Products::Registers];
        return Ok(plain.into_iter().chain(subgroups(gpu)?).collect());
    }
    let subgroups = subgroups(gpu)?;
    let panels =
        subgroups == Some(Products::Subgroups(PANEL_LANES)) && gpu.device.features().contains(wgpu::Features::SHADER_INT64);
    let plain = [Products::Registers, Products::WorkgroupMemory];
    Ok(panels.then_some(Products::Panels).into_iter().chain(subgroups).chain(plain).collect())
}

/// Products by subgroups, where they have been seen to work.
#[cfg(not(target_arch = "wasm32"))]
fn subgroups(gpu: &Arc<Gpu>) -> Result<Option<Products>> {
    match gpu.facts.subgroup {
        Some(size) if gpu.attempt(|| crate::profile::has_subgroups(gpu, size))?.unwrap_or(false) => {
            Ok(Some(Products::Subgroups(size)))
        }
        Some(_) | None => Ok(None),
    }
}

/// A browser lets nobody wait for a look at them.
#[cfg(target_arch = "wasm32")]
fn subgroups(_: &Arc<Gpu>) -> Result<Option<Products>> {
    Ok(None)
}

/// Speaks to the device as it understands best: f16 by its conversion, where that is seen to be exact, and 64 bits at once where a load costs what
/// it has components.
fn choose_dialect(gpu: &Arc<Gpu>) -> Result<()> {
    let by_words = gpu.facts.software && gpu.device.features().contains(wgpu::Features::SHADER_INT64);
    let eights = if by_words { Eights::Words64 } else { Eights::Vectors };
    gpu.pipelines.speak(Dialect { f16: F16::Unpack, eights });
    if !converts_f16(gpu)? {
        gpu.pipelines.speak(Dialect { f16: F16::Integers, eights });
    }
    Ok(())
}

/// Whether the device's conversion of f16 is seen to be exact.
#[cfg(not(target_arch = "wasm32"))]
fn converts_f16(gpu: &Arc<Gpu>) -> Result<bool> {
    Ok(gpu.facts.converts_f16 && gpu.attempt(|| crate::profile::decodes_f16(gpu))?.unwrap_or(false))
}

/// A browser lets nobody wait for a look at it.
#[cfg(target_arch = "wasm32")]
fn converts_f16(_: &Arc<Gpu>) -> Result<bool> {
    Ok(false)
}

impl Backend for WgpuBackend {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, layout: Arc<Layout>) -> Result<Arc<dyn Memory>> {
        Ok(Arc::new(WgpuMemory::new(self.gpu.clone(), layout)?))
    }

    fn compile(&self, program: Arc<Program>, memory: &Arc<dyn Memory>) -> Result<Box<dyn Executable>> {
        let own = memory.as_any().downcast_ref::<WgpuMemory>().filter(|m| Arc::ptr_eq(&m.gpu, &self.gpu));
        let memory = own.ok_or_else(|| self.gpu.error("the memory is of another backend"))?;
        crate::executable::compile(&self.gpu, program, memory, &self.tuner)
    }

    fn scratch_bytes(&self, program: &Program, plan: &MemoryPlan) -> Result<usize> {
        crate::budget::scratch_bytes(program, plan, &self.gpu.limits)
    }

    /// Classes of matrix products, and the kind that each gets.
    fn tuned(&self) -> Vec<(String, String)> {
        self.tuner.choices()
    }

    fn warnings(&self) -> Vec<String> {
        self.tuner.warnings()
    }
}

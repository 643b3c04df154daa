//! Adapters: what there is, and which one a run takes. Nothing is opened here.

use mantissa_core::error::{Error, Result};

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

/// Limits below those of an adapter, as a smaller one has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LowerLimits {
    /// Largest buffer, bytes.
    pub buffer_bytes: Option<u64>,
    /// Workgroups along a side of a grid.
    pub groups: Option<u32>,
}

impl LowerLimits {
    /// The limits of an adapter, lowered.
    pub(crate) fn apply(self, mut limits: wgpu::Limits) -> wgpu::Limits {
        if let Some(bytes) = self.buffer_bytes {
            limits.max_buffer_size = limits.max_buffer_size.min(bytes);
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(bytes);
        }
        if let Some(groups) = self.groups {
            limits.max_compute_workgroups_per_dimension = limits.max_compute_workgroups_per_dimension.min(groups);
        }
        limits
    }
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
    pub(crate) fn of(adapter: &wgpu::Adapter) -> AdapterFacts {
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

/// The adapter of a choice. Errs if there is none such, naming those there are.
pub(crate) async fn pick(choice: &AdapterChoice) -> Result<wgpu::Adapter> {
    let mut all = enumerate().await;
    let position = match choice {
        AdapterChoice::Best => (0..all.len()).rev().max_by_key(|&i| AdapterFacts::rank(&all[i])),
        AdapterChoice::Index(i) => Some(*i).filter(|i| *i < all.len()),
        AdapterChoice::Name(part) => {
            let part = part.to_lowercase();
            all.iter().position(|a| a.get_info().name.to_lowercase().contains(&part))
        }
    };
    if let Some(i) = position {
        return Ok(all.swap_remove(i));
    }
    let names: Vec<String> = all.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.get_info().name)).collect();
    let found = if names.is_empty() { "no adapter at all".into() } else { names.join(", ") };
    let wanted = match choice {
        AdapterChoice::Best => "a GPU adapter (on Linux, a Vulkan driver such as mesa-vulkan-drivers)".to_string(),
        AdapterChoice::Index(i) => format!("adapter number {i}"),
        AdapterChoice::Name(part) => format!("an adapter with `{part}` in its name"),
    };
    Err(Error::config("adapter", wanted, found))
}

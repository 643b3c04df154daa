//! Compiled kernels, each compiled once for a device.

use crate::adapter::Gpu;
use mantissa_core::error::Result;
use mantissa_shaders::{BindingKind, Dialect, Need};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A kernel: text, entry point and bindings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Stem and entry point, for people.
    pub label: String,
    /// The whole text, but for what the dialect of a device puts in front.
    pub text: String,
    /// Entry point.
    pub entry: &'static str,
    /// Number and use of each binding.
    pub bindings: Vec<(u32, BindingKind)>,
    /// What the device must be able to do.
    pub needs: &'static [Need],
}

/// A kernel ready to run.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// All pipelines of a device.
#[derive(Debug, Default)]
pub(crate) struct Pipelines(Mutex<Known>);

/// Their dialect, and those that there are.
#[derive(Debug, Default)]
struct Known {
    dialect: Dialect,
    made: HashMap<Kernel, Arc<Pipeline>>,
}

impl Pipelines {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the device is spoken to.
    pub(crate) fn dialect(&self) -> Dialect {
        self.known().dialect
    }

    /// Speaks so in what is asked for from now on.
    pub(crate) fn speak(&self, dialect: Dialect) {
        *self.known() = Known { dialect, made: HashMap::new() };
    }

    /// The pipeline of `kernel`, compiled if it is new, and whether it is. Errs where the device lacks what it needs.
    pub(crate) fn get(&self, gpu: &Gpu, kernel: &Kernel) -> Result<(Arc<Pipeline>, bool)> {
        for need in kernel.needs {
            let feature = match need {
                Need::Subgroups => wgpu::Features::SUBGROUP,
                Need::Int64 => wgpu::Features::SHADER_INT64,
            };
            if !gpu.device.features().contains(feature) {
                return Err(gpu.error(format!("{} needs {need:?}, which this adapter lacks", kernel.label)));
            }
        }
        let mut known = self.known();
        if let Some(found) = known.made.get(kernel) {
            return Ok((found.clone(), false));
        }
        let made = Arc::new(compile(&gpu.device, kernel, known.dialect));
        known.made.insert(kernel.clone(), made.clone());
        Ok((made, true))
    }
}

fn compile(device: &wgpu::Device, kernel: &Kernel, dialect: Dialect) -> Pipeline {
    let label = Some(kernel.label.as_str());
    let entries: Vec<wgpu::BindGroupLayoutEntry> = kernel
        .bindings
        .iter()
        .map(|&(binding, kind)| {
            let ty = match kind {
                BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
                BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                BindingKind::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
            };
            wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            }
        })
        .collect();
    let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let source = wgpu::ShaderSource::Wgsl((dialect.text() + &kernel.text).into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(kernel.entry),
        // Zeroing workgroup memory costs a barrier; kernels write theirs before they read it.
        compilation_options: wgpu::PipelineCompilationOptions { zero_initialize_workgroup_memory: false, ..Default::default() },
        cache: None,
    });
    Pipeline { pipeline, layout }
}

//! Compiled kernels, each compiled once for a device.

use crate::gpu::Gpu;
use crate::launch::Kernel;
use mantissa_core::error::Result;
use mantissa_shaders::{BindingKind, Need, Prelude};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A kernel ready to run.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// All pipelines of a device.
#[derive(Debug)]
pub(crate) struct Pipelines {
    /// What stands in front of every kernel.
    prelude: Prelude,
    compiled: Mutex<HashMap<Kernel, Arc<Pipeline>>>,
}

impl Pipelines {
    pub(crate) fn new(prelude: Prelude) -> Pipelines {
        Pipelines { prelude, compiled: Mutex::default() }
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
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = compiled.get(kernel) {
            return Ok((found.clone(), false));
        }
        let pipeline = Arc::new(compile(&gpu.device, kernel, self.prelude));
        compiled.insert(kernel.clone(), pipeline.clone());
        Ok((pipeline, true))
    }
}

fn compile(device: &wgpu::Device, kernel: &Kernel, prelude: Prelude) -> Pipeline {
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
    let source = wgpu::ShaderSource::Wgsl((prelude.text() + &kernel.text).into());
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

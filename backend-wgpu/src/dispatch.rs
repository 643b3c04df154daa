//! Kernels with their memory bound: uniforms, scratch and bind groups, made once when compiling.

use crate::adapter::Gpu;
use crate::launch::{Arg, Launch, folded};
use crate::memory::{allocate, bound, table};
use crate::pipeline::Pipeline;
use mantissa_core::error::Result;
use mantissa_core::program::memory::{ALIGN, Buffer, Place, Purpose};
use mantissa_core::program::operands::Operands;
use mantissa_shaders::BindingKind;
use std::sync::Arc;

/// Binding numbers that stems use are below this.
const MAX_BINDINGS: usize = 32;

/// A kernel with its memory bound.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    pipeline: Arc<Pipeline>,
    /// One for each micro-step, or one for all.
    groups: Vec<wgpu::BindGroup>,
    grid: [u32; 3],
}

impl Dispatch {
    /// Encodes it for micro-step `micro`.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, micro: usize) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.groups[micro.min(self.groups.len() - 1)], &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

/// The uniform structs of all launches, one behind the other in one buffer.
struct Uniforms {
    buffer: wgpu::Buffer,
    /// Where each launch's struct starts; at the end, the bytes of all.
    offsets: Vec<usize>,
}

impl Uniforms {
    fn new<'a>(gpu: &Gpu, launches: impl Iterator<Item = &'a Launch>) -> Result<Uniforms> {
        let mut bytes = Vec::new();
        let mut offsets = vec![0];
        for launch in launches {
            bytes.extend_from_slice(&launch.uniform);
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            offsets.push(bytes.len());
        }
        bytes.resize(bytes.len().max(ALIGN), 0);
        let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.check(Some(bytes.len() as u64))?;
        gpu.queue.write_buffer(&buffer, 0, &bytes);
        Ok(Uniforms { buffer, offsets })
    }
}

/// Makes bind groups.
pub(crate) struct Binder<'a> {
    gpu: &'a Gpu,
    persistent: &'a [wgpu::Buffer],
    own: &'a [wgpu::Buffer],
    scratch: &'a [wgpu::Buffer],
    /// Memory behind absent operands: that of reading ones, that of written ones.
    absent: Vec<wgpu::Buffer>,
    /// Rows that quantizations collect in.
    seen: wgpu::Buffer,
    uniforms: Uniforms,
    micro_steps: usize,
}

impl<'a> Binder<'a> {
    /// Room for `launches`, which are bound in this order, over the buffers of a plan, scratch buffers, and as many bytes as
    /// quantizations collect in.
    pub(crate) fn new<'l>(
        gpu: &'a Gpu,
        persistent: &'a [wgpu::Buffer],
        own: &'a [wgpu::Buffer],
        scratch: &'a [wgpu::Buffer],
        seen_bytes: usize,
        launches: impl IntoIterator<Item = &'l Launch>,
        micro_steps: usize,
    ) -> Result<Binder<'a>> {
        let buffer = |size: usize| Buffer { size, purpose: Purpose::Activations };
        Ok(Binder {
            gpu,
            persistent,
            own,
            scratch,
            absent: allocate(gpu, &[buffer(MAX_BINDINGS * ALIGN); 2])?,
            seen: allocate(gpu, &[buffer(seen_bytes)])?.remove(0),
            uniforms: Uniforms::new(gpu, launches.into_iter())?,
            micro_steps,
        })
    }

    /// Bytes of everything it made.
    pub(crate) fn bytes(&self) -> usize {
        let buffers = self.scratch.iter().chain(&self.absent).chain([&self.seen]);
        buffers.map(|b| b.size() as usize).sum::<usize>() + self.uniforms.offsets.last().copied().unwrap_or(0)
    }

    /// The dispatch of `launch`, whose uniforms are number `slot`.
    pub(crate) fn dispatch(&self, launch: &Launch, operands: &Operands, slot: usize) -> Result<Dispatch> {
        let used = launch.args.len();
        let most = self.gpu.limits.max_storage_buffers_per_shader_stage as usize;
        if used > most {
            let label = &launch.kernel.label;
            return Err(self.gpu.error(format!("{label} binds {used} buffers; this adapter allows {most}")));
        }
        let (pipeline, new) = self.gpu.pipelines.get(self.gpu, &launch.kernel)?;
        let tables = launch.tables.iter().map(|words| table(self.gpu, words)).collect::<Result<Vec<_>>>()?;
        let moves = |arg: &Arg| matches!(arg, Arg::Piece(p) if operands.strides[*p] != 0);
        let copies = if launch.args.iter().any(|(_, a)| moves(a)) { self.micro_steps } else { 1 };
        let groups = (0..copies).map(|micro| {
            let mut entries = Vec::with_capacity(launch.args.len() + 1);
            if !launch.uniform.is_empty() {
                let binding = launch.kernel.bindings.iter().find(|(_, k)| *k == BindingKind::Uniform);
                if let Some((binding, _)) = binding {
                    let size = launch.uniform.len();
                    entries.push(entry(*binding, &self.uniforms.buffer, self.uniforms.offsets[slot], size));
                }
            }
            for (binding, arg) in &launch.args {
                entries.push(match arg {
                    Arg::Scratch(k) => entry(*binding, &self.scratch[*k], 0, self.scratch[*k].size() as usize),
                    Arg::Seen => entry(*binding, &self.seen, 0, self.seen.size() as usize),
                    Arg::Table(k) => entry(*binding, &tables[*k], 0, tables[*k].size() as usize),
                    // Places of their own: a buffer may not be read and written by one dispatch, nor written through two bindings.
                    Arg::Absent => {
                        let written = launch.kernel.bindings.contains(&(*binding, BindingKind::ReadWrite));
                        entry(*binding, &self.absent[usize::from(written)], *binding as usize * ALIGN, ALIGN)
                    }
                    Arg::Piece(p) => {
                        let Place { buffer, offset, size } = operands.places[*p];
                        let at = offset + micro * operands.strides[*p];
                        entry(*binding, self.buffer(buffer), at, bound(size))
                    }
                });
            }
            self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&launch.kernel.label),
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        let most = self.gpu.limits.max_compute_workgroups_per_dimension;
        let grid = folded(launch.groups, most).ok_or_else(|| {
            let label = &launch.kernel.label;
            self.gpu.error(format!("{label} needs {} workgroups, more than grids of {most} a side hold", launch.groups))
        })?;
        let dispatch = Dispatch { groups: groups.collect(), pipeline, grid };
        if new && self.gpu.facts.software {
            self.touch(&dispatch);
        }
        Ok(dispatch)
    }

    /// Runs it over no workgroups: llvmpipe compiles at the first dispatch, on the thread of its queue, while this one makes the next pipeline.
    fn touch(&self, dispatch: &Dispatch) {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("touch") });
        let empty = Dispatch { grid: [0; 3], ..dispatch.clone() };
        empty.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()), 0);
        self.gpu.queue.submit([encoder.finish()]);
    }

    fn buffer(&self, index: usize) -> &wgpu::Buffer {
        match index.checked_sub(self.persistent.len()) {
            None => &self.persistent[index],
            Some(own) => &self.own[own],
        }
    }
}

fn entry(binding: u32, buffer: &wgpu::Buffer, offset: usize, size: usize) -> wgpu::BindGroupEntry<'_> {
    let binding_size = std::num::NonZeroU64::new(size as u64);
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: offset as u64, size: binding_size });
    wgpu::BindGroupEntry { binding, resource }
}

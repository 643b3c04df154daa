//! Kernels with their memory bound: uniforms, scratch and bind groups, made once when compiling.

use crate::context::Context;
use crate::gpu::Gpu;
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
        let buffer = gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })?;
        gpu.queue.write_buffer(&buffer, 0, &bytes);
        Ok(Uniforms { buffer, offsets })
    }
}

/// The buffers that launches of a Program may be bound to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buffers<'a> {
    /// Those of a session's persistent values.
    pub(crate) persistent: &'a [wgpu::Buffer],
    /// Those of temporaries, inputs and outputs.
    pub(crate) temps: &'a [wgpu::Buffer],
    /// Scratch of single instructions.
    pub(crate) scratch: &'a [wgpu::Buffer],
    /// Bytes of the rows that quantizations stage statistics in.
    pub(crate) staged_stats_bytes: usize,
}

impl<'a> Buffers<'a> {
    /// The buffer of this number, persistent ones counted first.
    pub(crate) fn at(&self, index: usize) -> &'a wgpu::Buffer {
        match index.checked_sub(self.persistent.len()) {
            None => &self.persistent[index],
            Some(temp) => &self.temps[temp],
        }
    }
}

/// Makes bind groups.
pub(crate) struct Binder<'a> {
    context: &'a Context,
    buffers: Buffers<'a>,
    /// Dummy buffers for unbound operands: one for read-only bindings, one for read-write.
    absent: Vec<wgpu::Buffer>,
    /// Rows that quantizations stage statistics in.
    staged_stats: wgpu::Buffer,
    uniforms: Uniforms,
    micro_steps: usize,
}

impl<'a> Binder<'a> {
    /// Uniforms and dummies for `launches`, which are bound in this order. Errs if memory runs out.
    pub(crate) fn new<'l>(
        context: &'a Context,
        buffers: Buffers<'a>,
        launches: impl IntoIterator<Item = &'l Launch>,
        micro_steps: usize,
    ) -> Result<Binder<'a>> {
        let gpu = &*context.gpu;
        let buffer = |size: usize| Buffer { size, purpose: Purpose::Activations };
        Ok(Binder {
            context,
            buffers,
            absent: allocate(gpu, &[buffer(MAX_BINDINGS * ALIGN); 2])?,
            staged_stats: allocate(gpu, &[buffer(buffers.staged_stats_bytes)])?.remove(0),
            uniforms: Uniforms::new(gpu, launches.into_iter())?,
            micro_steps,
        })
    }

    /// Bytes of everything it made.
    pub(crate) fn bytes(&self) -> usize {
        let buffers = self.buffers.scratch.iter().chain(&self.absent).chain([&self.staged_stats]);
        buffers.map(|b| b.size() as usize).sum::<usize>() + self.uniforms.offsets.last().copied().unwrap_or(0)
    }

    /// The dispatch of `launch`, whose uniforms are number `slot`. Errs where the device lacks bindings, features or
    /// workgroups for it.
    pub(crate) fn dispatch(&self, launch: &Launch, operands: &Operands, slot: usize) -> Result<Dispatch> {
        let used = launch.args.len();
        let gpu = &*self.context.gpu;
        let most = gpu.max_storage_buffers();
        if used > most {
            let label = &launch.kernel.label;
            return Err(gpu.error(format!("{label} binds {used} buffers; this adapter allows {most}")));
        }
        let (pipeline, new) = self.context.pipelines.get(gpu, &launch.kernel)?;
        let tables = launch.tables.iter().map(|words| table(gpu, words)).collect::<Result<Vec<_>>>()?;
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
                    Arg::Scratch(k) => entry(*binding, &self.buffers.scratch[*k], 0, self.buffers.scratch[*k].size() as usize),
                    Arg::StagedStats => entry(*binding, &self.staged_stats, 0, self.staged_stats.size() as usize),
                    Arg::Table(k) => entry(*binding, &tables[*k], 0, tables[*k].size() as usize),
                    // Separate places: a buffer may not be read and written by one dispatch, nor written through two
                    // bindings.
                    Arg::Absent => {
                        let written = launch.kernel.bindings.contains(&(*binding, BindingKind::ReadWrite));
                        entry(*binding, &self.absent[usize::from(written)], *binding as usize * ALIGN, ALIGN)
                    }
                    Arg::Piece(p) => {
                        let Place { buffer, offset, size } = operands.places[*p];
                        let at = offset + micro * operands.strides[*p];
                        entry(*binding, self.buffers.at(buffer), at, bound(size))
                    }
                });
            }
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&launch.kernel.label),
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        let most = gpu.limits.max_compute_workgroups_per_dimension;
        let grid = folded(launch.groups, most).ok_or_else(|| {
            let label = &launch.kernel.label;
            gpu.error(format!("{label} needs {} workgroups, more than grids of {most} a side hold", launch.groups))
        })?;
        let dispatch = Dispatch { groups: groups.collect(), pipeline, grid };
        if new && gpu.facts.software {
            warm_up(gpu, &dispatch);
        }
        Ok(dispatch)
    }
}

/// Runs a new pipeline over no workgroups. For software adapters only: llvmpipe compiles at the first dispatch, on the
/// thread of its queue, while this thread makes the next pipeline.
fn warm_up(gpu: &Gpu, dispatch: &Dispatch) {
    let empty = Dispatch { grid: [0; 3], ..dispatch.clone() };
    gpu.submit_pass("warm-up", |pass| empty.encode(pass, 0));
}

fn entry(binding: u32, buffer: &wgpu::Buffer, offset: usize, size: usize) -> wgpu::BindGroupEntry<'_> {
    let binding_size = std::num::NonZeroU64::new(size as u64);
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: offset as u64, size: binding_size });
    wgpu::BindGroupEntry { binding, resource }
}

//! A Program as dispatches over buffers: everything is made when compiling, so that a step is writes of its inputs, one pass, one submission.

use crate::adapter::Gpu;
use crate::launch::{Arg, Facts, Launch, cast_list, launches};
use crate::memory::{WgpuMemory, allocate, table, upload};
use crate::pipeline::Pipeline;
use crate::readback::Download;
use mantissa_core::backend::{Executable, Readback};
use mantissa_core::error::{Error, Result};
use mantissa_core::probe::Observer;
use mantissa_core::program::memory::{ALIGN, Buffer, MemoryPlan, Place, Purpose, align};
use mantissa_core::program::operands::Operands;
use mantissa_core::program::{Kind, Program, Rate, ValueId};
use mantissa_shaders::BindingKind;
use std::ops::Range;
use std::sync::Arc;

/// Binding numbers that stems use are below this.
const MAX_BINDINGS: usize = 32;

/// A kernel with its memory bound.
#[derive(Debug)]
struct Dispatch {
    pipeline: Arc<Pipeline>,
    /// One for each micro-step, or one for all.
    groups: Vec<wgpu::BindGroup>,
    grid: [u32; 3],
}

/// A compiled Program.
#[derive(Debug)]
pub(crate) struct WgpuExecutable {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) program: Arc<Program>,
    pub(crate) plan: MemoryPlan,
    persistent: Arc<Vec<wgpu::Buffer>>,
    own: Vec<wgpu::Buffer>,
    scratch_bytes: usize,
    /// Dispatches of each instruction.
    steps: Vec<Vec<Dispatch>>,
}

/// Compiles `program` over `memory`.
pub(crate) fn compile(gpu: &Arc<Gpu>, program: Arc<Program>, memory: &WgpuMemory) -> Result<Box<dyn Executable>> {
    program.validate()?;
    let plan = MemoryPlan::new(&program, mantissa_core::backend::Memory::layout(memory))?;
    let own = allocate(gpu, &plan.buffers)?;
    let facts = Facts { max_storage_buffers: gpu.limits.max_storage_buffers_per_shader_stage as usize };
    let mut all = Vec::with_capacity(program.instrs.len());
    let mut scratch_sizes: Vec<usize> = Vec::new();
    for (at, instr) in program.instrs.iter().enumerate() {
        if let Some(group) = plan.cast_groups.iter().find(|g| g.contains(&at)) {
            // The first of a group does the work of all.
            let (operands, launch) = cast_list(&program, &plan, group)?;
            all.push((operands, if at == group[0] { vec![launch] } else { Vec::new() }));
            continue;
        }
        let operands = Operands::new(&program, &plan, instr)?;
        let (launches, scratch) = launches(&instr.op, &operands, facts)?;
        for (k, bytes) in scratch.into_iter().enumerate() {
            match scratch_sizes.get_mut(k) {
                Some(have) => *have = (*have).max(align(bytes)),
                None => scratch_sizes.push(align(bytes)),
            }
        }
        all.push((operands, launches));
    }
    let scratch_plan: Vec<Buffer> = scratch_sizes.iter().map(|&size| Buffer { size, purpose: Purpose::Activations }).collect();
    let binder = Binder {
        gpu,
        persistent: &memory.buffers,
        own: &own,
        scratch: allocate(gpu, &scratch_plan)?,
        absent: allocate(gpu, &[Buffer { size: MAX_BINDINGS * ALIGN, purpose: Purpose::Activations }; 2])?,
        uniforms: Uniforms::new(gpu, all.iter().flat_map(|(_, l)| l))?,
        micro_steps: program.grad_accum,
    };
    let mut slot = 0;
    let mut steps = Vec::with_capacity(all.len());
    for (operands, launches) in &all {
        let dispatches = launches.iter().map(|launch| {
            slot += 1;
            binder.dispatch(launch, operands, slot - 1)
        });
        steps.push(dispatches.collect::<Result<Vec<_>>>()?);
    }
    gpu.check(None)?;
    let uniform_bytes = binder.uniforms.offsets.last().copied().unwrap_or(0);
    let tables = all.iter().flat_map(|(_, l)| l).flat_map(|l| &l.tables);
    let table_bytes = tables.map(|words| align(size_of_val(words.as_slice()))).sum::<usize>();
    let scratch_bytes = scratch_sizes.iter().sum::<usize>() + uniform_bytes + table_bytes;
    Ok(Box::new(WgpuExecutable {
        gpu: gpu.clone(),
        program,
        plan,
        persistent: memory.buffers.clone(),
        own,
        scratch_bytes,
        steps,
    }))
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
struct Binder<'a> {
    gpu: &'a Gpu,
    persistent: &'a [wgpu::Buffer],
    own: &'a [wgpu::Buffer],
    scratch: Vec<wgpu::Buffer>,
    /// Memory behind absent operands: that of reading ones, that of written ones.
    absent: Vec<wgpu::Buffer>,
    uniforms: Uniforms,
    micro_steps: usize,
}

impl Binder<'_> {
    /// The dispatch of `launch`, whose uniforms are number `slot`.
    fn dispatch(&self, launch: &Launch, operands: &Operands, slot: usize) -> Result<Dispatch> {
        let used = launch.args.len();
        let most = self.gpu.limits.max_storage_buffers_per_shader_stage as usize;
        if used > most {
            let label = &launch.kernel.label;
            return Err(self.gpu.error(format!("{label} binds {used} buffers; this adapter allows {most}")));
        }
        let pipeline = self.gpu.pipelines.get(self.gpu, &launch.kernel);
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
                    Arg::Table(k) => entry(*binding, &tables[*k], 0, tables[*k].size() as usize),
                    // Places of their own: a buffer may not be read and written by one dispatch, nor written through two bindings.
                    Arg::Absent => {
                        let written = launch.kernel.bindings.contains(&(*binding, BindingKind::ReadWrite));
                        entry(*binding, &self.absent[usize::from(written)], *binding as usize * ALIGN, ALIGN)
                    }
                    Arg::Piece(p) => {
                        let Place { buffer, offset, size } = operands.places[*p];
                        let at = offset + micro * operands.strides[*p];
                        entry(*binding, self.buffer(buffer), at, size.next_multiple_of(VECTOR))
                    }
                });
            }
            self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&launch.kernel.label),
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        Ok(Dispatch { groups: groups.collect(), pipeline, grid: launch.grid })
    }

    fn buffer(&self, index: usize) -> &wgpu::Buffer {
        match index.checked_sub(self.persistent.len()) {
            None => &self.persistent[index],
            Some(own) => &self.own[own],
        }
    }
}

/// Bytes of a `vec4<u32>`: bindings are whole vectors; the padding of the plan covers the rest.
const VECTOR: usize = 16;

fn entry(binding: u32, buffer: &wgpu::Buffer, offset: usize, size: usize) -> wgpu::BindGroupEntry<'_> {
    let binding_size = std::num::NonZeroU64::new(size as u64);
    let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: offset as u64, size: binding_size });
    wgpu::BindGroupEntry { binding, resource }
}

impl WgpuExecutable {
    pub(crate) fn buffer(&self, index: usize) -> &wgpu::Buffer {
        match index.checked_sub(self.persistent.len()) {
            None => &self.persistent[index],
            Some(own) => &self.own[own],
        }
    }

    pub(crate) fn load_inputs(&self, inputs: &[(ValueId, &[u8])]) -> Result<()> {
        for (id, value) in self.program.values_where(|v| matches!(v.kind, Kind::Input(_))) {
            let bytes = inputs.iter().find(|(i, _)| *i == id).map(|(_, b)| *b);
            let copies = if value.kind == Kind::Input(Rate::MicroStep) { self.program.grad_accum } else { 1 };
            let size = value.ty.size_bytes();
            let bytes = bytes.filter(|b| b.len() == size * copies).ok_or_else(|| {
                let found = bytes.map_or("nothing".to_string(), |b| format!("{} bytes", b.len()));
                Error::operand(format!("input `{}`", value.name), format!("{} bytes", size * copies), found)
            })?;
            let Some(place) = self.plan.places[id.index()] else { continue };
            for (m, part) in bytes.chunks(size.max(1)).enumerate() {
                upload(&self.gpu, self.buffer(place.buffer), place.offset + m * align(size), part);
            }
        }
        Ok(())
    }

    /// Encodes the dispatches of `range` in micro-step `micro`.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, range: Range<usize>, micro: usize) {
        for d in self.steps[range].iter().flatten() {
            pass.set_pipeline(&d.pipeline.pipeline);
            pass.set_bind_group(0, &d.groups[micro.min(d.groups.len() - 1)], &[]);
            pass.dispatch_workgroups(d.grid[0], d.grid[1], d.grid[2]);
        }
    }

    /// Encodes one pass with `fill` and submits it.
    pub(crate) fn pass(&self, fill: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") });
        fill(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        self.gpu.queue.submit([encoder.finish()]);
    }
}

impl Executable for WgpuExecutable {
    fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    fn submit(&mut self, inputs: &[(ValueId, &[u8])]) -> Result<()> {
        self.load_inputs(inputs)?;
        self.pass(|pass| {
            for micro in 0..self.program.grad_accum {
                self.encode(pass, 0..self.program.micro_end, micro);
            }
            self.encode(pass, self.program.micro_end..self.program.instrs.len(), 0);
        });
        self.gpu.check(None)
    }

    fn submit_observed(&mut self, inputs: &[(ValueId, &[u8])], observer: &mut dyn Observer) -> Result<()> {
        crate::observe::run(self, inputs, observer)
    }

    fn read(&self, output: ValueId) -> Result<Box<dyn Readback>> {
        let place = self.plan.places.get(output.index()).copied().flatten();
        let place = place.ok_or_else(|| Error::operand("read", "an output of this Program", format!("%{}", output.0)))?;
        Ok(Box::new(Download::start(&self.gpu, self.buffer(place.buffer), place.offset, place.size)))
    }
}

//! A Program as dispatches over buffers: everything is made when compiling, so that a step is writes of its inputs, one pass, one submission.

use crate::adapter::Gpu;
use crate::dispatch::{Binder, Dispatch};
use crate::launch::{Facts, cast_list, launches};
use crate::memory::{WgpuMemory, allocate, upload};
use crate::readback::Download;
use crate::tune::Tuner;
use mantissa_core::backend::{Executable, Readback};
use mantissa_core::error::{Error, Result};
use mantissa_core::probe::{Observer, Span};
use mantissa_core::program::memory::{MemoryPlan, align};
use mantissa_core::program::operands::Operands;
use mantissa_core::program::{Program, ValueId};
use std::ops::Range;
use std::sync::Arc;

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

/// Compiles `program` over `memory`, with the kinds of matrix product that `tuner` chooses.
pub(crate) fn compile(
    gpu: &Arc<Gpu>,
    program: Arc<Program>,
    memory: &WgpuMemory,
    tuner: &Tuner,
) -> Result<Box<dyn Executable>> {
    program.validate()?;
    let plan = MemoryPlan::new(&program, mantissa_core::backend::Memory::layout(memory))?;
    let own = allocate(gpu, &plan.buffers)?;
    let max_storage_buffers = gpu.limits.max_storage_buffers_per_shader_stage as usize;
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
        let products = tuner.choose(gpu, &instr.op, &operands)?;
        let (launches, scratch) = launches(&instr.op, &operands, Facts { max_storage_buffers, products })?;
        for (k, bytes) in scratch.into_iter().enumerate() {
            match scratch_sizes.get_mut(k) {
                Some(have) => *have = (*have).max(bytes),
                None => scratch_sizes.push(bytes),
            }
        }
        all.push((operands, launches));
    }
    let launched = all.iter().flat_map(|(_, l)| l);
    let binder = Binder::new(gpu, &memory.buffers, &own, &scratch_sizes, launched, program.grad_accum)?;
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
    let tables = all.iter().flat_map(|(_, l)| l).flat_map(|l| &l.tables);
    let table_bytes = tables.map(|words| align(size_of_val(words.as_slice()))).sum::<usize>();
    let scratch_bytes = binder.bytes() + table_bytes;
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

impl WgpuExecutable {
    pub(crate) fn buffer(&self, index: usize) -> &wgpu::Buffer {
        match index.checked_sub(self.persistent.len()) {
            None => &self.persistent[index],
            Some(own) => &self.own[own],
        }
    }

    pub(crate) fn load_inputs(&self, inputs: &[(ValueId, &[u8])]) -> Result<()> {
        self.plan.place_inputs(&self.program, inputs, |buffer, from, part| upload(&self.gpu, self.buffer(buffer), from, part))
    }

    /// Whether instruction `index` launches anything.
    pub(crate) fn launches(&self, index: usize) -> bool {
        !self.steps[index].is_empty()
    }

    /// Encodes the dispatches of `range` in micro-step `micro`.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, range: Range<usize>, micro: usize) {
        self.steps[range].iter().flatten().for_each(|d| d.encode(pass, micro));
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

    fn own_bytes(&self) -> usize {
        self.own.iter().map(|b| b.size() as usize).sum()
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

    fn has_clock(&self) -> bool {
        self.gpu.has_clock()
    }

    fn submit_timed(&mut self, inputs: &[(ValueId, &[u8])]) -> Result<Vec<Span>> {
        if !self.has_clock() {
            return Err(self.gpu.error("it has no timestamps; observe the step"));
        }
        crate::timestamps::run(self, inputs)
    }

    fn read(&self, output: ValueId) -> Result<Box<dyn Readback>> {
        let place = self.plan.places.get(output.index()).copied().flatten();
        let place = place.ok_or_else(|| Error::operand("read", "an output of this Program", format!("%{}", output.0)))?;
        Ok(Box::new(Download::start(&self.gpu, self.buffer(place.buffer), place.offset, place.size)))
    }
}

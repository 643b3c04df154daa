//! A Program as dispatches over buffers: everything is made when compiling, so that a step is writes of its inputs, one pass, one submission.

use crate::adapter::Gpu;
use crate::dispatch::{Binder, Dispatch};
use crate::launch::{Facts, Step, Work};
use crate::memory::{WgpuMemory, allocate, reuse, upload};
use crate::readback::Download;
use crate::tune::Tuner;
use mantissa_core::backend::{Executable, Readback};
use mantissa_core::error::{Error, Result};
use mantissa_core::op::Op;
use mantissa_core::program::memory::{Buffer, MemoryPlan, Purpose, align};
use mantissa_core::program::observe::{Observer, Span};
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
    scratch: Vec<wgpu::Buffer>,
    tuner: Arc<Tuner>,
    scratch_bytes: usize,
    /// Dispatches of each instruction.
    steps: Vec<Vec<Dispatch>>,
    /// What moves to the states what quantizations have collected; nothing happens where nothing waits.
    records: Vec<Dispatch>,
}

/// Compiles `program` over `memory`, with the kinds of matrix product that `tuner` chooses.
pub(crate) fn compile(
    gpu: &Arc<Gpu>,
    program: Arc<Program>,
    memory: &WgpuMemory,
    tuner: &Arc<Tuner>,
) -> Result<Box<dyn Executable>> {
    let plan = MemoryPlan::new(&program, mantissa_core::backend::Memory::layout(memory))?;
    let own = allocate(gpu, &plan.buffers)?;
    Ok(Box::new(WgpuExecutable::new(gpu, program, plan, &memory.buffers, own, &[], tuner)?))
}

impl WgpuExecutable {
    /// Binds `program` to the buffers of its plan, and to scratch buffers that are there already where those are large enough.
    fn new(
        gpu: &Arc<Gpu>,
        program: Arc<Program>,
        plan: MemoryPlan,
        persistent: &Arc<Vec<wgpu::Buffer>>,
        own: Vec<wgpu::Buffer>,
        scratch: &[wgpu::Buffer],
        tuner: &Arc<Tuner>,
    ) -> Result<WgpuExecutable> {
        program.validate()?;
        let max_storage_buffers = gpu.limits.max_storage_buffers_per_shader_stage as usize;
        let facts =
            |op: &Op, operands: &Operands| Ok(Facts { max_storage_buffers, products: tuner.choose(gpu, op, operands)? });
        let step = Step::new(&program, &plan, facts)?;
        let wanted: Vec<Buffer> = step.scratch.iter().map(|&size| Buffer { size, purpose: Purpose::Activations }).collect();
        let scratch = reuse(gpu, scratch, &wanted)?;
        let binder = Binder::new(gpu, persistent, &own, &scratch, step.seen, step.launches(), program.grad_accum)?;
        let mut slot = 0;
        let mut bind = |work: &[Work]| -> Result<Vec<Vec<Dispatch>>> {
            let of = |(operands, launches): &Work| {
                let dispatches = launches.iter().map(|launch| {
                    slot += 1;
                    binder.dispatch(launch, operands, slot - 1)
                });
                dispatches.collect()
            };
            work.iter().map(of).collect()
        };
        let (mut steps, records) = (bind(&step.instrs)?, bind(&step.records)?);
        for (dispatches, after) in steps.iter_mut().zip(&step.after) {
            after.iter().for_each(|&k| dispatches.extend_from_slice(&records[k]));
        }
        gpu.check(None)?;
        let tables = step.launches().flat_map(|l| &l.tables);
        let table_bytes = tables.map(|words| align(size_of_val(words.as_slice()))).sum::<usize>();
        let scratch_bytes = binder.bytes() + table_bytes;
        let (gpu, persistent, records, tuner) = (gpu.clone(), persistent.clone(), records.concat(), tuner.clone());
        Ok(WgpuExecutable { gpu, program, plan, persistent, own, scratch, tuner, scratch_bytes, steps, records })
    }

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

    /// Encodes what moves to the states what quantizations have collected.
    pub(crate) fn encode_records(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.records.iter().for_each(|d| d.encode(pass, 0));
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
        crate::observed::run(self, inputs, observer)
    }

    fn compile_variant(&self, program: Arc<Program>) -> Result<Option<Box<dyn Executable>>> {
        let plan = MemoryPlan::new(&program, &self.plan.layout)?;
        if !plan.fits_variant_of(&self.plan) {
            return Ok(None);
        }
        let (gpu, persistent) = (&self.gpu, &self.persistent);
        let own = reuse(gpu, &self.own, &plan.buffers)?;
        let variant = WgpuExecutable::new(gpu, program, plan, persistent, own, &self.scratch, &self.tuner)?;
        Ok(Some(Box::new(variant)))
    }

    fn has_clock(&self) -> bool {
        self.gpu.has_clock()
    }

    fn submit_timed(&mut self, inputs: &[(ValueId, &[u8])]) -> Result<Vec<Span>> {
        if !self.has_clock() {
            return Err(self.gpu.error("it has no timestamps; observe the step"));
        }
        crate::timed::run(self, inputs)
    }

    fn read(&self, output: ValueId) -> Result<Box<dyn Readback>> {
        let place = self.plan.places.get(output.index()).copied().flatten();
        let place = place.ok_or_else(|| Error::operand("read", "an output of this Program", format!("%{}", output.0)))?;
        Ok(Box::new(Download::start(&self.gpu, self.buffer(place.buffer), place.offset, place.size)))
    }
}

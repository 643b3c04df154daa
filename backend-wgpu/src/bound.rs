//! A Program bound to memory: its buffers and the dispatches of each instruction, all made when compiling.

use crate::context::Context;
use crate::dispatch::{Binder, Buffers, Dispatch};
use crate::launch::{LaunchLimits, Step, Work};
use crate::memory::{reuse, upload};
use crate::readback::Download;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::Op;
use mantissa_core::program::memory::{Buffer, MemoryPlan, Place, Purpose, align};
use mantissa_core::program::operands::Operands;
use mantissa_core::program::{Kind, Program, Rate, ValueId};
use std::ops::Range;
use std::sync::Arc;

/// A Program with its buffers and dispatches.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) context: Arc<Context>,
    pub(crate) program: Arc<Program>,
    pub(crate) plan: MemoryPlan,
    pub(crate) persistent: Arc<Vec<wgpu::Buffer>>,
    /// Buffers of temporaries, inputs and outputs.
    pub(crate) temps: Vec<wgpu::Buffer>,
    /// Scratch buffers of single instructions.
    pub(crate) scratch: Vec<wgpu::Buffer>,
    /// Bytes of scratch, uniforms, tables, dummies and staged statistics.
    pub(crate) scratch_bytes: usize,
    /// Dispatches of each instruction.
    dispatches: Vec<Vec<Dispatch>>,
    /// Copies staged amax and counts of fp8 tensors into their states; a no-op when none is staged.
    records: Vec<Dispatch>,
}

impl Bound {
    /// Binds `program` to the buffers of its plan. Scratch buffers of `scratch` are used again where they are large
    /// enough. `limits` gives the launch limits of an instruction. Errs if the Program is invalid, if the device lacks
    /// what a kernel needs, or if memory runs out.
    pub(crate) fn new(
        context: &Arc<Context>,
        program: Arc<Program>,
        plan: MemoryPlan,
        persistent: &Arc<Vec<wgpu::Buffer>>,
        temps: Vec<wgpu::Buffer>,
        scratch: &[wgpu::Buffer],
        limits: impl Fn(&Op, &Operands) -> Result<LaunchLimits>,
    ) -> Result<Bound> {
        program.validate()?;
        let step = Step::new(&program, &plan, limits)?;
        let wanted = step.scratch.iter().map(|&size| Buffer { size, purpose: Purpose::Activations });
        let scratch = reuse(&context.gpu, scratch, &wanted.collect::<Vec<_>>())?;
        let staged_stats_bytes = step.staged_stats_bytes;
        let buffers = Buffers { persistent, temps: &temps, scratch: &scratch, staged_stats_bytes };
        let binder = Binder::new(context, buffers, step.launches(), program.grad_accum)?;
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
        let (mut dispatches, records) = (bind(&step.instrs)?, bind(&step.records)?);
        for (dispatches, after) in dispatches.iter_mut().zip(&step.after) {
            after.iter().for_each(|&k| dispatches.extend_from_slice(&records[k]));
        }
        context.gpu.check()?;
        let tables = step.launches().flat_map(|l| &l.tables);
        let table_bytes = tables.map(|words| align(size_of_val(words.as_slice()))).sum::<usize>();
        let scratch_bytes = binder.bytes() + table_bytes;
        let (context, persistent, records) = (context.clone(), persistent.clone(), records.concat());
        Ok(Bound { context, program, plan, persistent, temps, scratch, scratch_bytes, dispatches, records })
    }

    fn buffer(&self, index: usize) -> &wgpu::Buffer {
        Buffers { persistent: &self.persistent, temps: &self.temps, ..Buffers::default() }.at(index)
    }

    /// Queues the writes of a step's inputs. Errs unless every input is there, once, with its exact size.
    pub(crate) fn load_inputs(&self, inputs: &[(ValueId, &[u8])]) -> Result<()> {
        self.plan.place_inputs(&self.program, inputs, |buffer, from, part| {
            upload(&self.context.gpu, self.buffer(buffer), from, part);
        })
    }

    /// Instructions of a step in their order, each with its micro-step.
    pub(crate) fn order(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let (micro_end, all) = (self.program.micro_end, self.program.instrs.len());
        let micro_steps = (0..self.program.grad_accum).flat_map(move |micro| (0..micro_end).map(move |i| (i, micro)));
        micro_steps.chain((micro_end..all).map(|i| (i, 0)))
    }

    /// Whether instruction `index` launches anything.
    pub(crate) fn launches(&self, index: usize) -> bool {
        !self.dispatches[index].is_empty()
    }

    /// Encodes the dispatches of the instructions `range` in micro-step `micro`.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, range: Range<usize>, micro: usize) {
        self.dispatches[range].iter().flatten().for_each(|d| d.encode(pass, micro));
    }

    /// Encodes the copies of staged statistics into their states.
    pub(crate) fn encode_records(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.records.iter().for_each(|d| d.encode(pass, 0));
    }

    /// Encodes a whole step.
    pub(crate) fn encode_step(&self, pass: &mut wgpu::ComputePass<'_>) {
        for micro in 0..self.program.grad_accum {
            self.encode(pass, 0..self.program.micro_end, micro);
        }
        self.encode(pass, self.program.micro_end..self.program.instrs.len(), 0);
    }

    /// Where `value` lies in micro-step `micro`; `None` if it has no memory of the plan.
    pub(crate) fn place(&self, value: ValueId, micro: usize) -> Option<Place> {
        let place = self.plan.places.get(value.index()).copied().flatten()?;
        let moves = self.program.value(value).kind == Kind::Input(Rate::MicroStep);
        let moved = if moves { micro * align(place.size) } else { 0 };
        Some(Place { offset: place.offset + moved, ..place })
    }

    /// Starts a read of the bytes at `place`.
    pub(crate) fn download(&self, place: Place) -> Download {
        self.context.staging.download(self.buffer(place.buffer), place.offset, place.size)
    }

    /// Starts a read of an output. Errs if the Program has no such value in memory.
    pub(crate) fn download_output(&self, output: ValueId) -> Result<Download> {
        let place = self.plan.places.get(output.index()).copied().flatten();
        let place = place.ok_or_else(|| Error::operand("read", "an output of this Program", format!("%{}", output.0)))?;
        Ok(self.download(place))
    }
}

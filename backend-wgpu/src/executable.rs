//! Compiled Programs: a step is the writes of its inputs, one pass, one submission.

use crate::bound::Bound;
use crate::context::Context;
use crate::memory::{WgpuMemory, allocate, reuse};
use crate::tune::Tuner;
use crate::{observed, timed};
use mantissa_core::backend::{Executable, Memory, Readback};
use mantissa_core::error::Result;
use mantissa_core::program::memory::MemoryPlan;
use mantissa_core::program::observe::{Observer, Span};
use mantissa_core::program::{Program, ValueId};
use std::sync::Arc;

/// A compiled Program.
#[derive(Debug)]
pub(crate) struct WgpuExecutable {
    bound: Bound,
    tuner: Arc<Tuner>,
}

impl WgpuExecutable {
    /// Compiles `program` over `memory`, with the kernels that `tuner` chooses. Errs as [`Bound::new`] does, and if the
    /// plan's buffers cannot be allocated.
    pub(crate) fn compile(
        context: &Arc<Context>,
        program: Arc<Program>,
        memory: &WgpuMemory,
        tuner: &Arc<Tuner>,
    ) -> Result<WgpuExecutable> {
        let plan = MemoryPlan::new(&program, memory.layout())?;
        let temps = allocate(&context.gpu, &plan.buffers)?;
        let limits = |op: &_, operands: &_| tuner.limits(context, op, operands);
        let bound = Bound::new(context, program, plan, &memory.buffers, temps, &[], limits)?;
        Ok(WgpuExecutable { bound, tuner: tuner.clone() })
    }
}

impl Executable for WgpuExecutable {
    fn plan(&self) -> &MemoryPlan {
        &self.bound.plan
    }

    fn temp_bytes(&self) -> usize {
        self.bound.temps.iter().map(|b| b.size() as usize).sum()
    }

    fn scratch_bytes(&self) -> usize {
        self.bound.scratch_bytes
    }

    fn submit(&mut self, inputs: &[(ValueId, &[u8])]) -> Result<()> {
        self.bound.load_inputs(inputs)?;
        let gpu = &self.bound.context.gpu;
        gpu.submit_pass("step", |pass| self.bound.encode_step(pass));
        gpu.check()
    }

    fn submit_observed(&mut self, inputs: &[(ValueId, &[u8])], observer: &mut dyn Observer) -> Result<()> {
        observed::run(&self.bound, inputs, observer)
    }

    fn compile_variant(&self, program: Arc<Program>) -> Result<Option<Box<dyn Executable>>> {
        let Bound { context, plan, persistent, temps, scratch, .. } = &self.bound;
        let variant = MemoryPlan::new(&program, &plan.layout)?;
        if !variant.fits_variant_of(plan) {
            return Ok(None);
        }
        let temps = reuse(&context.gpu, temps, &variant.buffers)?;
        let limits = |op: &_, operands: &_| self.tuner.limits(context, op, operands);
        let bound = Bound::new(context, program, variant, persistent, temps, scratch, limits)?;
        Ok(Some(Box::new(WgpuExecutable { bound, tuner: self.tuner.clone() })))
    }

    fn has_clock(&self) -> bool {
        self.bound.context.gpu.has_clock()
    }

    fn submit_timed(&mut self, inputs: &[(ValueId, &[u8])]) -> Result<Vec<Span>> {
        if !self.has_clock() {
            return Err(self.bound.context.gpu.error("it has no timestamps; observe the step"));
        }
        timed::run(&self.bound, inputs)
    }

    fn read(&self, output: ValueId) -> Result<Box<dyn Readback>> {
        Ok(Box::new(self.bound.download_output(output)?))
    }
}

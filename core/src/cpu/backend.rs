//! `CpuBackend`: runs Programs instruction by instruction on the threads of this machine.
//!
//! Compiling resolves every operand to a place in memory and sizes the scratch space; a submitted step then allocates
//! nothing.

use super::arena::{Buffer, MAX_PIECES, disjoint_slices, grow};
use super::dispatch;
use crate::backend::{Backend, Capabilities, DeviceMemory, Executable, Memory, Readback, Support};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::float::view::View;
use crate::par;
use crate::program::memory::{Layout, MemoryPlan, Place, align};
use crate::program::observe::{Moment, Observer, Values};
use crate::program::operands::Operands;
use crate::program::{Instr, Kind, Program, Rate, ValueId};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The CPU as a device.
#[derive(Debug)]
pub struct CpuBackend {
    capabilities: Capabilities,
}

impl Default for CpuBackend {
    fn default() -> CpuBackend {
        CpuBackend::new()
    }
}

impl CpuBackend {
    /// The CPU of this machine.
    pub fn new() -> CpuBackend {
        let dtypes = DType::ALL
            .into_iter()
            .filter(|d| d.is_float())
            .map(|d| (d, if d == DType::F32 { Support::Native } else { Support::Emulated }))
            .collect();
        let threads = par::threads();
        let device = format!("CPU, {threads} thread{}, {}", if threads == 1 { "" } else { "s" }, crate::par::simd::name());
        let memory = DeviceMemory::Host;
        CpuBackend { capabilities: Capabilities { kind: "cpu", device, units: par::threads(), memory, dtypes } }
    }
}

impl Backend for CpuBackend {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, layout: Arc<Layout>) -> Result<Arc<dyn Memory>> {
        let buffers = layout.buffers.iter().map(|b| Buffer::new(b.size)).collect::<Result<_>>()?;
        Ok(Arc::new(CpuMemory { layout, buffers: Arc::new(Mutex::new(buffers)) }))
    }

    fn compile(&self, program: Arc<Program>, memory: &Arc<dyn Memory>) -> Result<Box<dyn Executable>> {
        let memory =
            memory.as_any().downcast_ref::<CpuMemory>().ok_or_else(|| device_error("the memory is of another backend"))?;
        let plan = MemoryPlan::new(&program, &memory.layout)?;
        Ok(Box::new(CpuExecutable::new(program, plan, memory.buffers.clone(), Arc::default())?))
    }

    fn scratch_bytes(&self, program: &Program, plan: &MemoryPlan) -> Result<usize> {
        Ok(size_of::<f32>() * work_len(&steps(program, plan)?))
    }
}

fn steps(program: &Program, plan: &MemoryPlan) -> Result<Vec<Step>> {
    program.instrs.iter().map(|i| Step::new(program, plan, i)).collect()
}

/// Elements of scratch that the largest of `steps` needs.
fn work_len(steps: &[Step]) -> usize {
    steps.iter().map(|s| s.work).max().unwrap_or(0)
}

fn device_error(problem: impl Into<String>) -> Error {
    Error::Device { device: "cpu".into(), problem: problem.into() }
}

/// Persistent buffers, shared by the executables of a session.
#[derive(Debug)]
struct CpuMemory {
    layout: Arc<Layout>,
    buffers: Arc<Mutex<Vec<Buffer>>>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic inside a step is a bug already reported; the bytes are still bytes.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory for CpuMemory {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let place = find(&self.layout, name)?;
        if place.size != bytes.len() {
            return Err(Error::operand(format!("write `{name}`"), format!("{} bytes", place.size), bytes.len().to_string()));
        }
        lock(&self.buffers)[place.buffer].bytes_mut()[place.offset..place.offset + place.size].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Box<dyn Readback>> {
        let place = find(&self.layout, name)?;
        let bytes = lock(&self.buffers)[place.buffer].bytes()[place.offset..place.offset + place.size].to_vec();
        Ok(Box::new(Ready(Some(bytes))))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn find(layout: &Layout, name: &str) -> Result<Place> {
    layout
        .find(name)
        .map(|e| e.place)
        .ok_or_else(|| Error::operand("memory", "the name of a parameter or state", format!("`{name}`")))
}

struct Ready(Option<Vec<u8>>);

impl Readback for Ready {
    fn poll(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.0.take())
    }
}

/// One instruction with its operands resolved.
#[derive(Debug)]
struct Step {
    operands: Operands,
    work: usize,
}

impl Step {
    fn new(program: &Program, plan: &MemoryPlan, instr: &Instr) -> Result<Step> {
        let operands = Operands::new(program, plan, instr)?;
        if operands.places.len() > MAX_PIECES {
            let (name, n) = (instr.op.row().name, operands.places.len());
            return Err(device_error(format!("{name} touches {n} pieces of memory, at most {MAX_PIECES}")));
        }
        let work = dispatch::work_len(&instr.op, &operands);
        Ok(Step { operands, work })
    }
}

/// What lives inside a step: the buffers of the plan and scratch. Shared by the variants of a step.
#[derive(Debug, Default)]
struct Workspace {
    own: Vec<Buffer>,
    work: Vec<f32>,
}

impl Workspace {
    /// Makes room for `plan` and `work` elements of scratch. A buffer that grows loses its contents. Fails if there is
    /// no memory.
    fn fit(&mut self, plan: &MemoryPlan, work: usize) -> Result<()> {
        self.own.resize_with(plan.buffers.len().max(self.own.len()), Buffer::default);
        for (own, planned) in self.own.iter_mut().zip(&plan.buffers) {
            if own.bytes().len() < planned.size {
                *own = Buffer::new(planned.size)?;
            }
        }
        grow(&mut self.work, work)
    }
}

#[derive(Debug)]
struct CpuExecutable {
    program: Arc<Program>,
    plan: MemoryPlan,
    steps: Vec<Step>,
    memory: Arc<Mutex<Vec<Buffer>>>,
    workspace: Arc<Mutex<Workspace>>,
}

impl CpuExecutable {
    fn new(
        program: Arc<Program>,
        plan: MemoryPlan,
        memory: Arc<Mutex<Vec<Buffer>>>,
        workspace: Arc<Mutex<Workspace>>,
    ) -> Result<CpuExecutable> {
        program.validate()?;
        let steps = steps(&program, &plan)?;
        lock(&workspace).fit(&plan, work_len(&steps))?;
        Ok(CpuExecutable { program, plan, steps, memory, workspace })
    }

    fn run(&mut self, inputs: &[(ValueId, &[u8])], mut observer: Option<&mut dyn Observer>) -> Result<()> {
        let mut workspace = lock(&self.workspace);
        let Workspace { own, work } = &mut *workspace;
        let base = self.plan.layout.buffers.len();
        self.plan.place_inputs(&self.program, inputs, |buffer, from, part| {
            own[buffer - base].bytes_mut()[from..from + part.len()].copy_from_slice(part);
        })?;
        let CpuExecutable { program, plan, steps, memory, .. } = self;
        let program: &Program = program;
        let mut guard = lock(memory);
        let persistent: &mut [Buffer] = &mut guard;
        par::install(|| {
            let mut run = |range: std::ops::Range<usize>, micro: usize| {
                for index in range {
                    let (instr, step) = (&program.instrs[index], &steps[index]);
                    if let Some(o) = &mut observer {
                        let values = Memories { program, plan, persistent, own, micro };
                        o.before(&Moment { program, index, micro, values: &values });
                    }
                    let mut places: arrayvec::ArrayVec<Place, MAX_PIECES> = step.operands.places.iter().copied().collect();
                    for (p, stride) in places.iter_mut().zip(&step.operands.strides) {
                        p.offset += micro * stride;
                    }
                    let mut pieces = disjoint_slices(persistent, own, &places);
                    dispatch::run(&instr.op, &step.operands, &mut pieces, work);
                    drop(pieces);
                    if let Some(o) = &mut observer {
                        let values = Memories { program, plan, persistent, own, micro };
                        o.after(&Moment { program, index, micro, values: &values });
                    }
                }
            };
            for micro in 0..program.grad_accum {
                run(0..program.micro_end, micro);
            }
            run(program.micro_end..program.instrs.len(), 0);
        });
        Ok(())
    }
}

/// What an observer may read: the buffers between two instructions.
struct Memories<'a> {
    program: &'a Program,
    plan: &'a MemoryPlan,
    persistent: &'a [Buffer],
    own: &'a [Buffer],
    micro: usize,
}

impl Values for Memories<'_> {
    fn view(&self, id: ValueId) -> Option<View<'_>> {
        let place = self.plan.places.get(id.index()).copied().flatten()?;
        let value = self.program.value(id);
        let moved = if value.kind == Kind::Input(Rate::MicroStep) { self.micro * align(place.size) } else { 0 };
        let start = place.offset + moved;
        let buffer = match place.buffer.checked_sub(self.persistent.len()) {
            None => &self.persistent[place.buffer],
            Some(own) => &self.own[own],
        };
        Some(View::new(value.ty.dtype, &buffer.bytes()[start..start + place.size]))
    }
}

impl Executable for CpuExecutable {
    fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    fn temp_bytes(&self) -> usize {
        lock(&self.workspace).own.iter().map(|b| b.bytes().len()).sum()
    }

    fn scratch_bytes(&self) -> usize {
        size_of_val(&lock(&self.workspace).work[..])
    }

    fn submit(&mut self, inputs: &[(ValueId, &[u8])]) -> Result<()> {
        self.run(inputs, None)
    }

    fn submit_observed(&mut self, inputs: &[(ValueId, &[u8])], observer: &mut dyn Observer) -> Result<()> {
        self.run(inputs, Some(observer))
    }

    fn compile_variant(&self, program: Arc<Program>) -> Result<Option<Box<dyn Executable>>> {
        let plan = MemoryPlan::new(&program, &self.plan.layout)?;
        if !plan.fits_variant_of(&self.plan) {
            return Ok(None);
        }
        Ok(Some(Box::new(CpuExecutable::new(program, plan, self.memory.clone(), self.workspace.clone())?)))
    }

    fn read(&self, output: ValueId) -> Result<Box<dyn Readback>> {
        let place = self.plan.places.get(output.index()).copied().flatten();
        let place = place.ok_or_else(|| Error::operand("read", "an output of this Program", format!("%{}", output.0)))?;
        let base = self.plan.layout.buffers.len();
        let range = place.offset..place.offset + place.size;
        let bytes = if place.buffer < base {
            lock(&self.memory)[place.buffer].bytes()[range].to_vec()
        } else {
            lock(&self.workspace).own[place.buffer - base].bytes()[range].to_vec()
        };
        Ok(Box::new(Ready(Some(bytes))))
    }
}

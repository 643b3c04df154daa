//! What a machine must be able to do to run Programs. Object safe; chosen at run time as `Arc<dyn Backend>`.
//!
//! [`Backend::alloc`] makes the persistent memory of a session, [`Backend::compile`] turns a Program into an
//! [`Executable`] over it, [`Executable::submit`] runs one step. Nothing here blocks: reads are polled, since a browser
//! cannot wait. [`wait`] is for hosts that can.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::program::memory::{Layout, MemoryPlan};
use crate::program::observe::{Observer, Span};
use crate::program::{Program, ValueId};
use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

/// How a backend handles a dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The hardware multiplies it.
    Native,
    /// Stored at its width, computed in f32.
    Emulated,
}

/// The memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceMemory {
    /// That of the host.
    Host,
    /// Its own: its bytes, where the device reports them.
    Own(Option<u64>),
}

/// What a backend can do.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Kind of device: `cpu`, `wgpu`, `cuda`.
    pub kind: &'static str,
    /// The device, for people.
    pub device: String,
    /// Threads or multiprocessors.
    pub units: usize,
    /// The memory that Programs take.
    pub memory: DeviceMemory,
    /// How each floating dtype is multiplied.
    pub dtypes: Vec<(DType, Support)>,
}

/// A machine that runs Programs.
pub trait Backend: Send + Sync + Debug {
    /// What it can do.
    fn capabilities(&self) -> &Capabilities;

    /// Memory for the persistent values of a session, zeroed. Fails if the device lacks it.
    fn alloc(&self, layout: Arc<Layout>) -> Result<Arc<dyn Memory>>;

    /// Prepares `program` to run over `memory`, which must come from this backend. Fails if the program is invalid, the
    /// device lacks memory or an ability, or the memory is of another backend.
    fn compile(&self, program: Arc<Program>, memory: &Arc<dyn Memory>) -> Result<Box<dyn Executable>>;

    /// Bytes of scratch space that an executable of `program`, laid out as `plan`, will take on top of it. Nothing is
    /// taken yet. Fails if it cannot be compiled.
    fn scratch_bytes(&self, program: &Program, plan: &MemoryPlan) -> Result<usize>;

    /// What Programs got because it was measured to be the fastest on this device, now or in an earlier run: of what,
    /// and which. For the record.
    fn tuned(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// What people should know of its work, oldest first: failures that ended nothing, and what was done instead. The
    /// list only grows.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Persistent values of a session.
pub trait Memory: Send + Sync + Debug {
    /// What lies where.
    fn layout(&self) -> &Arc<Layout>;

    /// Sets the value `name`; `bytes` must have its exact size. Fails for an unknown name or another size.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Reads the value `name` as it is after all steps submitted so far. Fails for an unknown name.
    fn read(&self, name: &str) -> Result<Box<dyn Readback>>;

    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A compiled Program.
pub trait Executable: Send + Debug {
    /// Where everything lies.
    fn plan(&self) -> &MemoryPlan;

    /// Bytes of the buffers in which its temporaries lie, as they are allocated now: those of the plan, and what
    /// variants have added.
    fn temp_bytes(&self) -> usize;

    /// Bytes this machine takes for scratch space on top of the plan.
    fn scratch_bytes(&self) -> usize;

    /// Runs one step. `inputs` holds the bytes of every `Input`; those of a micro-step rate hold one value per
    /// micro-step, one after the other. Fails if an input is missing, of the wrong size or has an index out of range,
    /// before anything runs; or if the device fails.
    fn submit(&mut self, inputs: &[(ValueId, &[u8])]) -> Result<()>;

    /// As [`Executable::submit`], and calls `observer` around every instruction. For tools; slower than `submit` by
    /// what they do. Fails as that does, and where a backend cannot.
    fn submit_observed(&mut self, _inputs: &[(ValueId, &[u8])], _observer: &mut dyn Observer) -> Result<()> {
        Err(Error::Device {
            device: "this backend".into(),
            problem: "observing a step is not supported; use the cpu device".into(),
        })
    }

    /// Whether the device has a clock of its own, which [`Executable::submit_timed`] reads.
    fn has_clock(&self) -> bool {
        false
    }

    /// As [`Executable::submit`], then waits for the step; when every instruction ran by the clock of the device, in
    /// the order in which they ran. Nothing waits between them. For tools. Fails as that does, and where the device has
    /// no clock.
    fn submit_timed(&mut self, _inputs: &[(ValueId, &[u8])]) -> Result<Vec<Span>> {
        Err(Error::Device { device: "this device".into(), problem: "it has no clock of its own; observe the step".into() })
    }

    /// Compiles `program` over the same persistent values and over the temporaries of this executable, which never runs
    /// at the same time: a variant of its step. Outputs of one are gone once the other has run. `Ok(None)` where a
    /// backend or the memory plans do not allow it; then [`Backend::compile`] it. Fails as [`Backend::compile`] does.
    fn compile_variant(&self, _program: Arc<Program>) -> Result<Option<Box<dyn Executable>>> {
        Ok(None)
    }

    /// Reads an `Output` of the last step submitted. Fails if there is no such output.
    fn read(&self, output: ValueId) -> Result<Box<dyn Readback>>;
}

/// Bytes on their way from the device.
pub trait Readback: Send {
    /// The bytes once they are there. Asking again after that gives `None`. Fails if the device did.
    fn poll(&mut self) -> Result<Option<Vec<u8>>>;

    /// As [`Readback::poll`], but may sleep until the bytes are there. For hosts that can wait. Fails as that does.
    fn wait(&mut self) -> Result<Option<Vec<u8>>> {
        std::thread::yield_now();
        self.poll()
    }
}

/// Waits for a readback. Not for browsers. Fails if the device does.
pub fn wait(mut readback: Box<dyn Readback>) -> Result<Vec<u8>> {
    loop {
        if let Some(bytes) = readback.wait()? {
            return Ok(bytes);
        }
    }
}

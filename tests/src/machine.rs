//! A recorded Program compiled on a backend, with named access to its inputs, states and outputs.

use mantissa_core::Result;
use mantissa_core::backend::{Backend, Executable, Memory, wait};
use mantissa_core::float::slices;
use mantissa_core::program::memory::{Layout, MemoryPlan};
use mantissa_core::program::{Init, Kind, Program, ValueId};
use mantissa_core::rng::Rng;
use mantissa_core::shape::Ty;
use std::sync::Arc;

/// A compiled Program over persistent memory.
#[derive(Debug)]
pub struct Machine {
    /// What runs.
    pub program: Arc<Program>,
    /// Its persistent values; shared by the machines of one session.
    pub memory: Arc<dyn Memory>,
    executable: Box<dyn Executable>,
}

impl Machine {
    /// Compiles `program` over memory of its own, filled with the first contents it declares.
    pub fn new(backend: &dyn Backend, program: Program) -> Result<Machine> {
        let memory = backend.alloc(Arc::new(Layout::new(&program)))?;
        for entry in &memory.layout().entries {
            memory.write(&entry.name, &first_bytes(&entry.ty, entry.init, &entry.name))?;
        }
        Machine::over(backend, program, memory)
    }

    /// Compiles `program` over the memory of another machine.
    pub fn over(backend: &dyn Backend, program: Program, memory: Arc<dyn Memory>) -> Result<Machine> {
        let program = Arc::new(program);
        let executable = backend.compile(program.clone(), &memory)?;
        Ok(Machine { program, memory, executable })
    }

    /// Where everything lies.
    pub fn plan(&self) -> &MemoryPlan {
        self.executable.plan()
    }

    /// Runs one step with inputs by name. Names that the Program does not have are left out.
    pub fn step(&mut self, inputs: &[(&str, &[u8])]) -> Result<()> {
        let known: Vec<(ValueId, &[u8])> =
            inputs.iter().filter_map(|(name, bytes)| self.program.find(name).map(|id| (id, *bytes))).collect();
        self.executable.submit(&known)
    }

    /// Bytes of a parameter, state or output.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let id = self.program.find(name).filter(|&id| self.program.value(id).kind == Kind::Output);
        match id {
            Some(id) => wait(self.executable.read(id)?),
            None => wait(self.memory.read(name)?),
        }
    }

    /// An f32 value, as it lies in memory.
    pub fn f32s(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.bytes(name)?.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// A u32 or i32 value as words.
    pub fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.bytes(name)?.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Every persistent value with its bytes, in declaration order.
    pub fn snapshot(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let names = self.memory.layout().entries.iter().map(|e| e.name.clone());
        names.map(|n| Ok((n.clone(), wait(self.memory.read(&n)?)?))).collect()
    }
}

/// The contents a value starts with.
fn first_bytes(ty: &Ty, init: Init, name: &str) -> Vec<u8> {
    let mut rng = Rng::named(1, name);
    let values: Vec<f32> = (0..ty.shape.numel())
        .map(|_| match init {
            Init::Fill(c) => c as f32,
            Init::Normal { std } => rng.normal() * std,
            Init::Uniform { bound } => (2.0 * rng.uniform() - 1.0) * bound,
        })
        .collect();
    bytes_of(ty, &values)
}

/// `values` as a value of this type stores them.
pub fn bytes_of(ty: &Ty, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; ty.size_bytes()];
    slices::encode(ty.dtype, ty.dtype.overflow(), values, &mut bytes);
    bytes
}

//! A Program: one training step (or one forward pass) as a flat list of instructions over typed values.
//!
//! It is recorded once by `trace` and run many times by a backend. There is no hidden state: everything a step changes
//! is a `Param` or `State` value that some instruction lists among its outputs. A `Temp` is written once, by one
//! instruction.
//!
//! Instructions `0..micro_end` run once per micro-step, the rest once per step. With `grad_accum == 1` values may flow
//! freely from the first part to the second; otherwise only through `Param` and `State` values.

pub mod cost;
pub mod display;
pub mod indices;
pub mod memory;
pub mod observe;
pub mod operands;
pub mod passes;
pub mod validate;

use crate::op::Op;
use crate::shape::Ty;
use std::panic::Location;
use std::sync::Arc;

/// A value of a Program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

impl ValueId {
    /// Position in [`Program::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A scope of the model, such as `gpt.block3.mlp.up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScopeId(pub u32);

/// First contents of a `Param` or `State`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All elements this value (integers: truncated).
    Fill(f64),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// Half width.
        bound: f32,
    },
}

/// What a `State` is for: decides where its bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Optimizer moments and step counters.
    Optimizer,
    /// Loss scale, trackers, amax histories, fp8 scales.
    Precision,
    /// Gradient sums across micro-steps.
    Accumulator,
    /// Numbers for the host: loss, norms, statistics.
    Telemetry,
}

/// How often the host provides an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rate {
    /// One value per micro-step.
    MicroStep,
    /// One value per step.
    Step,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A trained tensor, f32 master weights.
    Param(Init),
    /// Anything else that outlives a step.
    State(Role, Init),
    /// Provided by the host.
    Input(Rate),
    /// Lives inside a step.
    Temp,
    /// A temporary that the host may read after the step.
    Output,
}

impl Kind {
    /// Outlives a step.
    pub fn is_persistent(&self) -> bool {
        match self {
            Kind::Param(_) | Kind::State(..) => true,
            Kind::Input(_) | Kind::Temp | Kind::Output => false,
        }
    }
}

/// A typed value.
#[derive(Clone, Debug)]
pub struct Value {
    /// Name; empty for temporaries nobody named.
    pub name: String,
    /// Type.
    pub ty: Ty,
    /// What it is.
    pub kind: Kind,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instr {
    /// What is done.
    pub op: Op,
    /// Values read.
    pub inputs: Vec<ValueId>,
    /// Values written.
    pub outputs: Vec<ValueId>,
    /// Where in the model.
    pub scope: ScopeId,
    /// Why precision policy inserted or typed it, if it did.
    pub why: Option<Arc<str>>,
    /// Source line of the model code.
    pub source: &'static Location<'static>,
}

/// A tensor that an fp8 recipe quantizes: its amax, scale and statistics stand at its slot of the fp8 states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fp8Slot {
    /// Scope and role, such as `gpt.h0.mlp.up.dy`.
    pub name: String,
    /// Format it is quantized to.
    pub dtype: crate::DType,
}

/// A linear layer that an fp8 recipe leaves in another dtype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fp8LeftOut {
    /// Its scope.
    pub scope: String,
    /// Why.
    pub why: String,
}

/// A recorded step.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// What it is, for people.
    pub name: String,
    /// All values.
    pub values: Vec<Value>,
    /// All instructions in execution order.
    pub instrs: Vec<Instr>,
    /// Scope names; index 0 is the root, "".
    pub scopes: Vec<String>,
    /// Instructions before this run once per micro-step.
    pub micro_end: usize,
    /// Micro-steps per step, at least 1.
    pub grad_accum: usize,
    /// Tensors with an fp8 scale of their own, in slot order.
    pub fp8_slots: Vec<Fp8Slot>,
    /// Linear layers of an fp8 recipe that are not in fp8, in recording order.
    pub fp8_left_out: Vec<Fp8LeftOut>,
}

impl Program {
    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Type of the value `id`.
    pub fn ty(&self, id: ValueId) -> &Ty {
        &self.value(id).ty
    }

    /// Name of a scope.
    pub fn scope(&self, id: ScopeId) -> &str {
        &self.scopes[id.0 as usize]
    }

    /// Input types of an instruction.
    pub fn input_types(&self, instr: &Instr) -> Vec<Ty> {
        instr.inputs.iter().map(|&i| self.ty(i).clone()).collect()
    }

    /// Output types of an instruction.
    pub fn output_types(&self, instr: &Instr) -> Vec<Ty> {
        instr.outputs.iter().map(|&i| self.ty(i).clone()).collect()
    }

    /// The value with this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(|i| ValueId(i as u32))
    }

    /// Ids and values of one kind, in order.
    pub fn values_where(&self, keep: impl Fn(&Value) -> bool) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().filter(move |(_, v)| keep(v)).map(|(i, v)| (ValueId(i as u32), v))
    }

    /// Total elements of all parameters.
    pub fn param_count(&self) -> usize {
        self.values.iter().filter(|v| matches!(v.kind, Kind::Param(_))).map(|v| v.ty.shape.numel()).sum()
    }

    /// For each value the one whose memory it shows: itself, or what it is a reshape of.
    pub fn viewed(&self) -> Vec<ValueId> {
        let mut viewed: Vec<ValueId> = (0..self.values.len() as u32).map(ValueId).collect();
        for instr in &self.instrs {
            if let Op::Reshape(_) = instr.op {
                viewed[instr.outputs[0].index()] = viewed[instr.inputs[0].index()];
            }
        }
        viewed
    }

    /// For each value the indices of the instructions that read it, ascending.
    pub fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.values.len()];
        for (i, instr) in self.instrs.iter().enumerate() {
            for id in &instr.inputs {
                let list: &mut Vec<usize> = &mut readers[id.index()];
                if list.last() != Some(&i) {
                    list.push(i);
                }
            }
        }
        readers
    }
}

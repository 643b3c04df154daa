//! One instruction on two backends: the same operands, byte for byte, and a comparison of everything it wrote.
//!
//! Casts, scale updates, skips and counts must agree to the bit ([`Bound::Exact`]); sums meet a bound that follows from
//! their length and magnitudes. Non-finite results must be of the same class: both NaN, or the same infinity.

use crate::machine::bytes_of;
use mantissa_core::backend::{Backend, wait};
use mantissa_core::dtype::DType;
use mantissa_core::error::Result;
use mantissa_core::float::slices;
use mantissa_core::op::Op;
use mantissa_core::program::memory::Layout;
use mantissa_core::program::{Init, Instr, Kind, Program, Role, ScopeId, Value, ValueId};
use mantissa_core::shape::Ty;
use std::panic::Location;
use std::sync::Arc;

/// An instruction with the contents of its operands.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is, for messages.
    pub name: String,
    /// The operation.
    pub op: Op,
    /// Type and bytes of each input.
    pub inputs: Vec<(Ty, Vec<u8>)>,
    /// Output and the input that it overwrites, besides those that the operation always overwrites.
    pub in_place: Vec<(usize, usize)>,
}

/// How far two results of a float dtype may lie apart.
#[derive(Clone, Debug)]
pub enum Bound {
    /// Not at all: the same bits.
    Exact,
    /// `n` units of f32 roundoff of the largest magnitude of the tensor, and one step of the stored dtype.
    Ulps(f64),
    /// An absolute bound for each element (or one for all), and one step of the stored dtype.
    Absolute(Vec<f64>),
}

impl Case {
    /// An instruction on f32 values, stored as each input's dtype.
    pub fn of(name: impl Into<String>, op: Op, inputs: Vec<(Ty, Vec<f32>)>) -> Case {
        let inputs = inputs.into_iter().map(|(ty, values)| (ty.clone(), bytes_of(&ty, &values))).collect();
        Case::of_bytes(name, op, inputs)
    }

    /// An instruction on operands given as bytes.
    pub fn of_bytes(name: impl Into<String>, op: Op, inputs: Vec<(Ty, Vec<u8>)>) -> Case {
        Case { name: name.into(), op, inputs, in_place: Vec::new() }
    }

    /// The same with output `output` written over input `input`.
    #[must_use]
    pub fn over(mut self, output: usize, input: usize) -> Case {
        self.in_place.push((output, input));
        self
    }

    /// A Program of this one instruction. Every input is a state, so that lists lie in one piece and updates happen in
    /// place.
    fn program(&self) -> (Program, Vec<ValueId>) {
        let types: Vec<Ty> = self.inputs.iter().map(|(t, _)| t.clone()).collect();
        let made = self.op.infer(&types).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let mut p = Program { name: self.name.clone(), scopes: vec![String::new()], grad_accum: 1, ..Program::default() };
        let state = Kind::State(Role::Telemetry, Init::Fill(0.0));
        for (i, ty) in types.into_iter().enumerate() {
            p.values.push(Value { name: format!("in{i}"), ty, kind: state });
        }
        let inputs: Vec<ValueId> = (0..self.inputs.len() as u32).map(ValueId).collect();
        let same: Vec<(usize, usize)> = if let Op::Reshape(_) = self.op {
            Vec::new()
        } else {
            [self.op.updates(inputs.len()), self.op.aliases(inputs.len()), self.in_place.clone()].concat()
        };
        let outputs: Vec<ValueId> = made
            .into_iter()
            .enumerate()
            .map(|(o, ty)| match same.iter().find(|(out, _)| *out == o) {
                Some((_, i)) => inputs[*i],
                None => {
                    p.values.push(Value { name: format!("out{o}"), ty, kind: Kind::Output });
                    ValueId(p.values.len() as u32 - 1)
                }
            })
            .collect();
        p.instrs.push(Instr {
            op: self.op.clone(),
            inputs,
            outputs: outputs.clone(),
            scope: ScopeId(0),
            why: None,
            source: Location::caller(),
        });
        p.micro_end = 1;
        (p, outputs)
    }

    /// Runs it on `backend`: the type and bytes of every output.
    pub fn run(&self, backend: &dyn Backend) -> Result<Vec<(Ty, Vec<u8>)>> {
        let (program, outputs) = self.program();
        let memory = backend.alloc(Arc::new(Layout::new(&program)))?;
        for (i, (_, bytes)) in self.inputs.iter().enumerate() {
            memory.write(&format!("in{i}"), bytes)?;
        }
        let program = Arc::new(program);
        let mut exe = backend.compile(program.clone(), &memory)?;
        exe.submit(&[])?;
        let read = |id: ValueId| {
            let value = program.value(id);
            let bytes = if value.kind.is_persistent() { memory.read(&value.name)? } else { exe.read(id)? };
            Ok((value.ty.clone(), wait(bytes)?))
        };
        outputs.into_iter().map(read).collect()
    }

    /// Runs it on both and compares every output, output `i` by `bounds[i]` (the last bound serves the rest).
    #[track_caller]
    pub fn check(&self, specification: &dyn Backend, device: &dyn Backend, bounds: &[Bound]) {
        let want = self.run(specification).unwrap_or_else(|e| panic!("{} on the specification: {e}", self.name));
        let got = self.run(device).unwrap_or_else(|e| panic!("{} on the device: {e}", self.name));
        for (i, ((ty, want), (_, got))) in want.iter().zip(&got).enumerate() {
            let bound = &bounds[i.min(bounds.len() - 1)];
            if let Err(e) = compare(ty, got, want, bound) {
                panic!("{}, output {i}: {e}", self.name);
            }
        }
    }
}

/// Compares the bytes of a value from a device with those of the specification. Errs naming the first element that is
/// off.
pub fn compare(ty: &Ty, got: &[u8], want: &[u8], bound: &Bound) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{ty}: expected {} bytes, found {}", want.len(), got.len()));
    }
    let size = ty.dtype.size_bytes();
    let exact = matches!(bound, Bound::Exact) || !ty.dtype.is_float();
    if exact {
        return match want.chunks(size).zip(got.chunks(size)).position(|(w, g)| w != g) {
            None => Ok(()),
            Some(i) => {
                let code = |b: &[u8]| b[i * size..(i + 1) * size].iter().rev().map(|x| format!("{x:02x}")).collect::<String>();
                Err(format!("{ty} at {i}: expected the bits {}, found {}", code(want), code(got)))
            }
        };
    }
    let (want, got) = (values(ty.dtype, want), values(ty.dtype, got));
    let largest = want.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(f64::from(v.abs())));
    let format = ty.dtype.format().ok_or("a float dtype")?;
    for (i, (&w, &g)) in want.iter().zip(&got).enumerate() {
        let allowed = match bound {
            Bound::Exact => 0.0,
            Bound::Ulps(n) => n * DType::F32.unit_roundoff() * largest,
            Bound::Absolute(each) => each[i.min(each.len() - 1)],
        };
        // A sum at the border of two stored values may round either way.
        let step = if ty.dtype == DType::F32 {
            0.0
        } else {
            2.0 * format.min_subnormal.max(ty.dtype.unit_roundoff() * (f64::from(w.abs()) + allowed)) * 1.01
        };
        let same = w == g || (w.is_nan() && g.is_nan());
        let close = (f64::from(w) - f64::from(g)).abs() <= allowed + step;
        if !(same || close) {
            return Err(format!("{ty} at {i}: expected {w:e} within {:e}, found {g:e}", allowed + step));
        }
    }
    Ok(())
}

fn values(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.size_bytes()];
    slices::decode(dtype, bytes, &mut out);
    out
}

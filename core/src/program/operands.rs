//! Where the operands of an instruction lie: what every backend needs to bind a kernel.

use super::memory::{MemoryPlan, Place, align};
use super::{Instr, Kind, Program, Rate, ValueId};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::Ty;

/// Operands of one instruction: distinct pieces of memory, and which piece each operand is. A list operand is one piece
/// from its first member to its last.
#[derive(Clone, Debug)]
pub struct Operands {
    /// Distinct pieces of memory, sorted; none overlaps another.
    pub places: Vec<Place>,
    /// Bytes each piece moves on from one micro-step to the next.
    pub strides: Vec<usize>,
    /// Piece and dtype of each input; a list is one input.
    pub inputs: Vec<(usize, DType)>,
    /// Piece and dtype of each output; a list is one output.
    pub outputs: Vec<(usize, DType)>,
    /// Recorded input types, lists member by member.
    pub input_types: Vec<Ty>,
    /// Recorded output types, lists member by member.
    pub output_types: Vec<Ty>,
}

impl Operands {
    /// Pieces of memory that belong to no instruction.
    pub fn at(places: Vec<Place>) -> Operands {
        let strides = vec![0; places.len()];
        let (inputs, outputs, input_types, output_types) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Operands { places, strides, inputs, outputs, input_types, output_types }
    }

    /// Resolves the operands of `instr`. Fails if a value has no place, or pieces overlap: a plan that breaks its own
    /// rules.
    pub fn new(program: &Program, plan: &MemoryPlan, instr: &Instr) -> Result<Operands> {
        let broken = |expected: &str, found: String| Error::operand(instr.op.row().name, expected, found);
        let place = |id: ValueId| {
            plan.places[id.index()].ok_or_else(|| broken("operands with a place in memory", format!("%{} without", id.0)))
        };
        let lists = instr.op.packs(instr.inputs.len());
        let span = |list: &[ValueId]| -> Result<Place> {
            let first = place(list[0])?;
            let mut end = first.offset;
            for &id in list {
                let p = place(id)?;
                if p.buffer != first.buffer || p.offset != end {
                    return Err(broken("a list operand in one piece", format!("%{} elsewhere", id.0)));
                }
                end += align(p.size);
            }
            Ok(Place { size: end - first.offset, ..first })
        };
        let mut inputs: Vec<(Place, DType)> = Vec::new();
        let mut at = 0;
        while at < instr.inputs.len() {
            let dtype = program.ty(instr.inputs[at]).dtype;
            match lists.iter().find(|r| r.start == at) {
                Some(list) => {
                    inputs.push((span(&instr.inputs[list.clone()])?, dtype));
                    at = list.end;
                }
                None => {
                    inputs.push((place(instr.inputs[at])?, dtype));
                    at += 1;
                }
            }
        }
        let mut outputs: Vec<(Place, DType)> = Vec::new();
        for &id in &instr.outputs {
            let (p, dtype) = (place(id)?, program.ty(id).dtype);
            // Members of a list that is also an input are covered by that piece.
            let covers = |i: &Place| i.buffer == p.buffer && i.offset <= p.offset && p.offset + p.size <= i.offset + i.size;
            let p = inputs.iter().map(|(i, _)| *i).find(covers).unwrap_or(p);
            if lists.is_empty() || outputs.last() != Some(&(p, dtype)) {
                outputs.push((p, dtype));
            }
        }
        let mut places: Vec<Place> = inputs.iter().chain(&outputs).map(|(p, _)| *p).collect();
        places.sort_by_key(|p| (p.buffer, p.offset, p.size));
        places.dedup();
        if let Some(w) = places.windows(2).find(|w| w[0].buffer == w[1].buffer && w[0].offset + w[0].size > w[1].offset) {
            return Err(broken("operands in pieces of memory that do not overlap", format!("{:?} and {:?}", w[0], w[1])));
        }
        let index = |(p, dtype): &(Place, DType)| (places.iter().position(|q| q == p).unwrap_or(0), *dtype);
        let strides = places.iter().map(|p| {
            let micro = program
                .values_where(|v| v.kind == Kind::Input(Rate::MicroStep))
                .any(|(id, _)| plan.places[id.index()] == Some(*p));
            if micro { align(p.size) } else { 0 }
        });
        Ok(Operands {
            inputs: inputs.iter().map(index).collect(),
            outputs: outputs.iter().map(index).collect(),
            input_types: program.input_types(instr),
            output_types: program.output_types(instr),
            strides: strides.collect(),
            places,
        })
    }
}

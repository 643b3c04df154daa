//! The training step with statistics: names for the tensors of a recorded step, and a variant of the step that measures
//! some of them.
//!
//! The variant is the finished Program with `TensorStats` instructions put in right behind the writer of each tensor,
//! where it lies in memory anyway. So it computes the same bits, no pass sees other readers than before, and its
//! temporaries live as long as those of the plain step, in memory of the same size. Every row of the block is about the
//! last micro-step.

use super::config::TrainConfig;
use super::record;
use crate::dtype::DType;
use crate::error::Result;
use crate::op::matmul::MatMul;
use crate::op::quantize::STATS;
use crate::op::tensor_stats::{TensorStats, WORDS};
use crate::op::{Family, Op};
use crate::precision::fp8::STATISTICS;
use crate::precision::overrides::Pattern;
use crate::program::{Init, Instr, Kind, Program, Role, ScopeId, Value, ValueId};
use crate::shape::Ty;
use crate::train::phase::{Phase, phases};
use std::panic::Location;

/// Name of the state with a row for each measured tensor.
pub const TENSOR_STATS: &str = "tensor_stats";

/// A tensor of a recorded step that can be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Scope and role, such as `gpt.h0.mlp.up.x`; for parameters their name.
    pub name: String,
    /// The format it is judged by: what the matmul reads, else what is stored.
    pub format: DType,
    /// Dtype in memory.
    pub stored: DType,
    /// Number among the fp8 tensors, if it is one.
    pub fp8_slot: Option<usize>,
    /// It has one scale, which applies to the whole tensor. mxfp8 has one for each block, so that its rounding is not
    /// measured here.
    pub judged: bool,
    /// Measured when nothing is chosen.
    by_default: bool,
    value: ValueId,
    scale_at: Option<usize>,
    /// Measured before this instruction, ..
    before: usize,
    /// .. in this part of the step.
    micro: bool,
    scope: ScopeId,
}

/// The training step of `config` and those of its tensors that [`select`] finds. What is chosen by name is looked for
/// in a step whose matmuls do nothing of what follows them, so that `layer.y` is what the layer gives; inputs, weights
/// and gradients lie in memory in any case. Fails if `config` is invalid, or a glob matches nothing.
pub fn step(config: &TrainConfig, globs: &[String]) -> Result<(Program, Vec<Tensor>)> {
    let program = if globs.is_empty() { record::train_step(config)? } else { record::observable_step(config)? };
    let tensors = select(&program, globs)?;
    Ok((program, tensors))
}

/// The tensors of `program` that match any of `globs`, which name tensors or scopes around them as overrides do;
/// without globs input, weight, gradient of the output and gradient of the weight of every linear layer. Refuses a glob
/// that matches nothing.
pub fn select(program: &Program, globs: &[String]) -> Result<Vec<Tensor>> {
    let all = tensors(program);
    if globs.is_empty() {
        return Ok(all.into_iter().filter(|t| t.by_default).collect());
    }
    let patterns = globs.iter().map(|g| Pattern::new(g)).collect::<Result<Vec<_>>>()?;
    patterns.iter().try_for_each(|p| p.check("stats", "tensor", all.iter().map(|t| t.name.as_str())))?;
    Ok(all.into_iter().filter(|t| patterns.iter().any(|p| p.covers(&t.name))).collect())
}

/// `program` with a `TensorStats` instruction for each of `tensors`. Fails if `tensors` are not those of `program`.
pub fn measured(program: &Program, tensors: &[Tensor]) -> Result<Program> {
    let mut program = program.clone();
    let block = ValueId(program.values.len() as u32);
    program.values.push(Value {
        name: TENSOR_STATS.into(),
        ty: Ty::new(DType::U32, [tensors.len(), WORDS]),
        kind: Kind::State(Role::Telemetry, Init::Fill(0.0)),
    });
    let scales = program.find(STATISTICS);
    let mut added: Vec<(usize, bool, Instr)> = tensors
        .iter()
        .enumerate()
        .map(|(slot, t)| {
            let scale = t.scale_at.and(scales);
            let op = TensorStats { format: t.format, scale_at: t.scale_at, slot }.op();
            let inputs = [Some(t.value), scale, Some(block)].into_iter().flatten().collect();
            let (why, source) = (None, Location::caller());
            (t.before, t.micro, Instr { op, inputs, outputs: vec![block], scope: t.scope, why, source })
        })
        .collect();
    // What belongs to the micro-step stands before what belongs to the update at the border between them.
    added.sort_by_key(|(before, micro, _)| (*before, !micro));
    let in_micro = added.iter().filter(|(_, micro, _)| *micro).count();
    let mut added = added.into_iter().peekable();
    let mut instrs = Vec::with_capacity(program.instrs.len() + tensors.len());
    for (at, instr) in std::mem::take(&mut program.instrs).into_iter().enumerate() {
        while let Some((_, _, stats)) = added.next_if(|(before, ..)| *before == at) {
            instrs.push(stats);
        }
        instrs.push(instr);
    }
    instrs.extend(added.map(|(_, _, stats)| stats));
    program.instrs = instrs;
    program.micro_end += in_micro;
    program.validate()?;
    Ok(program)
}

/// Every tensor that has a name: of each linear or convolution layer input, weight, output and the gradient of the
/// output; every other parameter and all their gradients; what the last instruction of each other scope of the forward
/// pass writes.
fn tensors(program: &Program) -> Vec<Tensor> {
    let mut names = Names { program, writer: writers(program), found: Vec::new() };
    let phases = phases(program);
    let products = |phase: Phase| {
        let all = program.instrs.iter().enumerate();
        let is_layer = move |i: &Instr| matches!(i.op.row().family, Family::Product | Family::Convolution);
        let phases = &phases;
        all.filter(move |(at, i)| phases[*at] == phase && is_layer(i))
    };
    let mut weights = Vec::new();
    for (at, instr) in products(Phase::Forward) {
        let [x, w] = [instr.inputs[0], instr.inputs[1]];
        let Some(weight) = names.param_behind(w) else { continue };
        let layer = program.scope(instr.scope);
        names.operand(format!("{layer}.x"), x, at, instr);
        names.weight(weight, w, at, instr);
        names.written(format!("{layer}.y"), at, instr);
        let known = [x, w].map(|id| names.origin(id));
        let backward = products(Phase::Backward).filter(|(_, i)| i.scope == instr.scope);
        let mut operands = backward.flat_map(|(at, i)| [(at, i, i.inputs[0]), (at, i, i.inputs[1])]);
        if let Some((at, instr, dy)) = operands.find(|(.., id)| !known.contains(&names.origin(*id))) {
            names.operand(format!("{layer}.dy"), dy, at, instr);
        }
        weights.push(weight);
    }
    names.parameters(&weights);
    for (at, instr) in program.instrs.iter().enumerate().rev().filter(|(at, _)| phases[*at] == Phase::Forward) {
        let scope = program.scope(instr.scope);
        if !scope.is_empty() {
            names.written(format!("{scope}.y"), at, instr);
        }
    }
    names.found
}

/// For each value the instruction that writes it first.
fn writers(program: &Program) -> Vec<Option<usize>> {
    let mut writer = vec![None; program.values.len()];
    for (at, instr) in program.instrs.iter().enumerate() {
        for o in &instr.outputs {
            writer[o.index()].get_or_insert(at);
        }
    }
    writer
}

struct Names<'a> {
    program: &'a Program,
    writer: Vec<Option<usize>>,
    found: Vec<Tensor>,
}

impl<'a> Names<'a> {
    fn add(&mut self, tensor: Tensor) {
        if self.found.iter().all(|t| t.name != tensor.name) {
            self.found.push(tensor);
        }
    }

    /// A tensor as it lies in memory, measured before instruction `before` of the micro-step.
    fn plain(&self, name: String, value: ValueId, before: usize, scope: ScopeId) -> Tensor {
        let stored = self.program.ty(value).dtype;
        Tensor {
            name,
            format: stored,
            stored,
            fp8_slot: None,
            judged: true,
            by_default: false,
            value,
            scale_at: None,
            before,
            micro: true,
            scope,
        }
    }

    /// The instruction that makes a temporary.
    fn maker(&self, id: ValueId) -> Option<(usize, &'a Instr)> {
        let temporary = !self.program.value(id).kind.is_persistent();
        self.writer[id.index()].filter(|_| temporary).map(|at| (at, &self.program.instrs[at]))
    }

    /// What a plain conversion or a view is made from; `None` for anything else.
    fn converted(&self, id: ValueId) -> Option<ValueId> {
        let (_, instr) = self.maker(id)?;
        let from = *instr.inputs.first()?;
        let cast = if let Op::Map(m) = &instr.op { m.as_cast(self.program.ty(from)).is_some() } else { false };
        let same = cast || matches!(instr.op, Op::Quantize(_) | Op::QuantizeMx(_) | Op::Reshape(_));
        same.then_some(from)
    }

    /// What `id` is a conversion or a view of, however often.
    fn origin(&self, id: ValueId) -> ValueId {
        std::iter::successors(Some(id), |&id| self.converted(id)).last().unwrap_or(id)
    }

    fn param_behind(&self, id: ValueId) -> Option<ValueId> {
        Some(self.origin(id)).filter(|&id| matches!(self.program.value(id).kind, Kind::Param(_)))
    }

    /// Operand `id` of the matmul `instr`: before it is quantized, if it is.
    fn operand(&mut self, name: String, id: ValueId, at: usize, instr: &Instr) {
        let tensor = self.judged(name, id, at, instr);
        self.add(Tensor { by_default: true, ..tensor });
    }

    /// The parameter behind operand `id`, judged by the format that the matmul reads.
    fn weight(&mut self, weight: ValueId, id: ValueId, at: usize, instr: &Instr) {
        let name = self.program.value(weight).name.clone();
        let operand = self.judged(name, id, at, instr);
        let stored = self.program.ty(weight).dtype;
        self.add(Tensor { by_default: true, value: weight, stored, ..operand });
    }

    fn judged(&self, name: String, id: ValueId, at: usize, instr: &Instr) -> Tensor {
        let maker = self.maker(id);
        let before = maker.map_or(at, |(made, _)| made + 1);
        if let Some((_, Instr { op: Op::Quantize(q), inputs, .. })) = maker {
            // Behind the quantization, which has just written the scale it used into its row.
            let scale_at = Some(q.slot * STATS + SCALE_COLUMN);
            let tensor = self.plain(name, inputs[0], before, instr.scope);
            return Tensor { format: q.dtype, fp8_slot: Some(q.slot), scale_at, ..tensor };
        }
        if let Some((_, Instr { op: Op::QuantizeMx(q), inputs, .. })) = maker {
            let tensor = self.plain(name, inputs[0], before, instr.scope);
            return Tensor { fp8_slot: Some(q.slot), judged: false, ..tensor };
        }
        let tensor = self.plain(name, id, before, instr.scope);
        Tensor { format: compute(instr, tensor.stored), ..tensor }
    }

    /// The first result of an instruction, if it is a temporary of a float dtype.
    fn written(&mut self, name: String, at: usize, instr: &Instr) {
        let Some(&value) = instr.outputs.first() else { return };
        let v = self.program.value(value);
        if v.ty.dtype.is_float() && !v.kind.is_persistent() {
            let tensor = self.plain(name, value, at + 1, instr.scope);
            self.add(tensor);
        }
    }

    /// Parameters and gradients, after unscale and before clip. `weights` are those of layers.
    fn parameters(&mut self, weights: &[ValueId]) {
        let program = self.program;
        let update = program.instrs.iter().enumerate().skip(program.micro_end);
        let lists = |i: &'a Instr| {
            let Op::Optimizer(o) = &i.op else { return None };
            let (params, rest) = i.inputs[o.scalars()..].split_at(o.len());
            Some((i, params, &rest[..o.len()]))
        };
        let Some((optimizer, params, grads)) = update.clone().find_map(|(_, i)| lists(i)) else { return };
        let reads_gradients = |i: &Instr| matches!(i.op, Op::GradNorm(_) | Op::ClipValue(_) | Op::Optimizer(_));
        let Some((before, reader)) = update.clone().find(|(_, i)| reads_gradients(i)) else { return };
        let grads = if reads_only_gradients(reader) { &reader.inputs[..] } else { grads };
        for (&param, &grad) in params.iter().zip(grads) {
            let name = &program.value(param).name;
            let at = |name: String, value: ValueId| self.plain(name, value, before, optimizer.scope);
            let [own, of_grad] = [at(name.clone(), param), at(format!("{name}.grad"), grad)];
            let by_default = weights.contains(&param);
            self.add(Tensor { micro: false, ..own });
            self.add(Tensor { micro: false, by_default, ..of_grad });
        }
    }
}

fn reads_only_gradients(instr: &Instr) -> bool {
    matches!(instr.op, Op::GradNorm(_) | Op::ClipValue(_))
}

/// Column of an fp8 statistics row with the scale used.
const SCALE_COLUMN: usize = 1;

/// What a matmul rounds an operand of this dtype to.
fn compute(instr: &Instr, stored: DType) -> DType {
    let tf32 = matches!(instr.op, Op::MatMul(MatMul { compute: DType::Tf32, .. }));
    if tf32 && stored == DType::F32 { DType::Tf32 } else { stored }
}

//! Every instruction of a recorded training step: what it does, where, on which types, why in that precision, and its
//! price.
//!
//! Counts are for one step: instructions of the micro-step part are multiplied by the number of micro-steps in totals,
//! not in rows. The field names and their order are those of the JSON report, which is stable.

use super::price;
use crate::dtype::DType;
use crate::error::Result;
use crate::op::Family;
use crate::op::{CastClass, Op};
use crate::precision::overrides::Pattern;
use crate::program::memory::{Layout, MemoryPlan, Purpose};
use crate::program::{Instr, Kind, Program, passes};
use crate::train::{TrainConfig, record};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Name of the Program: `train bf16`.
    pub program: String,
    /// Pattern that the rows and totals are limited to.
    pub scope: Option<String>,
    /// Micro-steps of a step.
    pub grad_accum: usize,
    /// Instructions, in execution order.
    pub instructions: Vec<Row>,
    /// Sums over the rows.
    pub totals: Totals,
    /// What became of the casts of the whole step.
    pub casts: Casts,
    /// Activations of the whole step by storage dtype.
    pub activations: Vec<Activations>,
    /// Planned memory of the whole step.
    pub memory: Vec<PurposeBytes>,
    /// Sum of `memory`.
    pub memory_bytes: usize,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Position in the Program.
    pub index: usize,
    /// `micro-step` or `update`.
    pub part: &'static str,
    /// Operation with its attributes.
    pub op: String,
    /// Name of the operation.
    pub name: &'static str,
    /// Where in the model; empty for the step itself.
    pub scope: String,
    /// Types of the inputs: `bf16[16, 128, 128]`.
    pub inputs: Vec<String>,
    /// Types of the outputs.
    pub outputs: Vec<String>,
    /// Dtype that is multiplied.
    pub compute: &'static str,
    /// Why it computes in that dtype.
    pub why: String,
    /// Precision policy decided; otherwise the types of the inputs did.
    pub by_policy: bool,
    /// What autocast does with operations of its kind: `low`, `f32`, `promote` or `keep`.
    pub class: &'static str,
    /// Floating-point operations of one run.
    pub flops: u64,
    /// Bytes read by one run.
    pub read_bytes: u64,
    /// Bytes written by one run.
    pub written_bytes: u64,
}

/// Sums over rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Instructions.
    pub instructions: usize,
    /// Floating-point operations of a step.
    pub flops: u64,
    /// Bytes read and written by a step.
    pub bytes: u64,
    /// Floating-point operations by the dtype that is multiplied.
    pub flops_by_compute: Vec<DTypeCount>,
    /// Bytes read and written by the dtype they are stored in.
    pub bytes_by_storage: Vec<DTypeCount>,
}

/// A count that belongs to a dtype.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DTypeCount {
    /// Dtype.
    pub dtype: &'static str,
    /// FLOPs or bytes.
    pub count: u64,
}

/// The way of the casts from recording to the Program that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Casts {
    /// Cast instructions recorded: by autocast, fp8 layers, gradients and the model.
    pub inserted: usize,
    /// Dropped because an equal cast of the same value exists (the weight-cast cache).
    pub shared: usize,
    /// Folded into the store of a producer, the load of a reader or an elementwise neighbour, or dropped as unread.
    pub folded: usize,
    /// Left as instructions of their own.
    pub left: usize,
    /// fp8 quantizations.
    pub quantized: usize,
}

/// Temporaries of one storage dtype, gradients of parameters left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Activations {
    /// Dtype.
    pub dtype: &'static str,
    /// Bytes of all of them, buffer reuse left out.
    pub total_bytes: u64,
    /// Bytes alive at the moment when most bytes of all dtypes are.
    pub peak_bytes: u64,
}

/// Planned bytes for one purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PurposeBytes {
    /// `weights`, `optimizer`, ..
    pub purpose: &'static str,
    /// Bytes.
    pub bytes: usize,
}

/// Explains the training step of `config`; `scope` limits rows and totals to the scopes that it covers. Fails if
/// `config` is invalid, or if `scope` matches nothing.
pub fn explain(config: &TrainConfig, scope: Option<&str>) -> Result<Explanation> {
    let (program, casts) = with_casts(record::train_graph(config)?.finish_raw()?);
    program.validate()?;
    let plan = MemoryPlan::new(&program, &Arc::new(Layout::new(&program)))?;
    let pattern = scope.map(Pattern::new).transpose()?;
    if let Some(pattern) = &pattern {
        pattern.check("scope", "scope", program.scopes.iter().map(String::as_str))?;
    }
    let kept = |i: &Instr| pattern.as_ref().is_none_or(|p| p.covers(program.scope(i.scope)));
    let instructions: Vec<Row> =
        program.instrs.iter().enumerate().filter(|(_, i)| kept(i)).map(|(at, i)| row(&program, at, i)).collect();
    Ok(Explanation {
        program: program.name.clone(),
        scope: scope.map(str::to_string),
        grad_accum: program.grad_accum,
        totals: totals(&program, &instructions),
        instructions,
        casts,
        activations: activations(&program, &plan),
        memory: memory(&plan),
        memory_bytes: plan.total_bytes(),
    })
}

/// Planned bytes by purpose, in the order of [`Purpose`].
pub(super) fn memory(plan: &MemoryPlan) -> Vec<PurposeBytes> {
    plan.bytes_by_purpose().into_iter().map(|(p, bytes)| PurposeBytes { purpose: p.name(), bytes }).collect()
}

/// Runs the passes one by one, counting casts between them.
fn with_casts(mut program: Program) -> (Program, Casts) {
    let inserted = count(&program, is_cast);
    passes::cse::run(&mut program);
    let merged = count(&program, is_cast);
    passes::dce::run(&mut program);
    passes::fuse::run(&mut program);
    passes::dce::run(&mut program);
    let left = count(&program, is_cast);
    passes::optimize(&mut program);
    let quantized = count(&program, |_, i| matches!(i.op, Op::Quantize(_) | Op::QuantizeMx(_)));
    (program, Casts { inserted, shared: inserted - merged, folded: merged - left, left, quantized })
}

fn count(program: &Program, which: impl Fn(&Program, &Instr) -> bool) -> usize {
    program.instrs.iter().filter(|i| which(program, i)).count()
}

fn is_cast(program: &Program, instr: &Instr) -> bool {
    match (&instr.op, instr.inputs.first()) {
        (Op::Map(m), Some(&x)) => m.as_cast(program.ty(x)).is_some_and(|to| to != program.ty(x).dtype),
        (_op, _input) => false,
    }
}

fn row(program: &Program, index: usize, instr: &Instr) -> Row {
    let cost = program.cost(instr);
    let table = instr.op.row();
    // A reshape inside a layer that policy decided about is still only a reshape.
    let policy = instr.why.as_deref().filter(|_| table.family != Family::View);
    Row {
        index,
        part: if index < program.micro_end { "micro-step" } else { "update" },
        op: program.op_text(instr),
        name: table.name,
        scope: program.scope(instr.scope).to_string(),
        inputs: program.input_types(instr).iter().map(ToString::to_string).collect(),
        outputs: program.output_types(instr).iter().map(ToString::to_string).collect(),
        compute: price::compute_dtype(program, instr).name(),
        why: policy.map_or_else(|| follows(program, instr), str::to_string),
        by_policy: policy.is_some(),
        class: match table.class {
            CastClass::Low => "low",
            CastClass::F32 => "f32",
            CastClass::Promote => "promote",
            CastClass::Keep => "keep",
        },
        flops: cost.flops,
        read_bytes: cost.read_bytes,
        written_bytes: cost.written_bytes,
    }
}

/// Why an instruction computes as it does where policy had nothing to decide.
fn follows(program: &Program, instr: &Instr) -> String {
    let dtype = price::compute_dtype(program, instr);
    if is_cast(program, instr) {
        return format!("the model or a gradient takes {}", program.ty(instr.outputs[0]).dtype);
    }
    match instr.op.row().family {
        Family::View => "a reshape moves nothing".to_string(),
        Family::Product | Family::Attention | Family::AttentionBackward | Family::Convolution => {
            format!("its operands lie in {}, so it multiplies them as {dtype}", program.ty(instr.inputs[0]).dtype)
        }
        Family::Update => duty(instr.op.row().name).to_string(),
        Family::Elementwise | Family::Reduction | Family::Quantize | Family::Index | Family::Layout => {
            "it takes its inputs as they lie and computes in f32".to_string()
        }
    }
}

/// What an operation of the update is for, by its name in the table of operations.
fn duty(name: &str) -> &'static str {
    match name {
        "unscale_check" => "gradients carry the loss scale: it is taken off in f32, and one that is not finite skips the step",
        "update_loss_scale" => "the loss scale backs off after an overflow, and grows after enough good steps",
        "update_fp8_scales" => "amaxes of this step enter the histories, from which the next scales come",
        "grad_norm" => "the norm of all gradients after unscaling, summed in f32",
        "clip_coef" => "the factor that brings the norm down to its limit; the optimizer applies it as it reads",
        "record" => "a number for the log; the host reads it late",
        _other => "weights, moments, norms and scales are kept in f32",
    }
}

fn totals(program: &Program, rows: &[Row]) -> Totals {
    let mut totals = Totals { instructions: rows.len(), ..Totals::default() };
    let mut flops: BTreeMap<DType, u64> = BTreeMap::new();
    let mut bytes: BTreeMap<DType, u64> = BTreeMap::new();
    for row in rows {
        let instr = &program.instrs[row.index];
        let times = if row.index < program.micro_end { program.grad_accum.max(1) as u64 } else { 1 };
        totals.flops += times * row.flops;
        totals.bytes += times * (row.read_bytes + row.written_bytes);
        *flops.entry(price::compute_dtype(program, instr)).or_default() += times * row.flops;
        for (dtype, n) in program.bytes_by_dtype(instr) {
            *bytes.entry(dtype).or_default() += times * n;
        }
    }
    totals.flops_by_compute = counts(flops);
    totals.bytes_by_storage = counts(bytes);
    totals
}

fn counts(map: BTreeMap<DType, u64>) -> Vec<DTypeCount> {
    map.into_iter().filter(|(_, n)| *n > 0).map(|(d, count)| DTypeCount { dtype: d.name(), count }).collect()
}

/// Bytes of temporaries by dtype: all of them, and those alive at the worst moment.
fn activations(program: &Program, plan: &MemoryPlan) -> Vec<Activations> {
    let base = plan.layout.buffers.len();
    let held_as_activation = |id: usize| {
        let buffer = plan.places[id].and_then(|p| p.buffer.checked_sub(base));
        buffer.is_some_and(|b| plan.buffers[b].purpose == Purpose::Activations)
    };
    // A reshape is another name of the same memory: it counts once and lives as long as any of its names.
    let mut root: Vec<usize> = (0..program.values.len()).collect();
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; program.values.len()];
    for (at, instr) in program.instrs.iter().enumerate() {
        for (output, input) in instr.op.aliases(instr.inputs.len()) {
            root[instr.outputs[output].index()] = root[instr.inputs[input].index()];
        }
        for id in instr.inputs.iter().chain(&instr.outputs) {
            let life = &mut lives[root[id.index()]];
            *life = Some(life.map_or((at, at), |(first, _)| (first, at)));
        }
    }
    let mut total: BTreeMap<DType, u64> = BTreeMap::new();
    let mut change: Vec<BTreeMap<DType, i64>> = vec![BTreeMap::new(); program.instrs.len() + 1];
    for (id, value) in program.values.iter().enumerate() {
        let temporary = matches!(value.kind, Kind::Temp | Kind::Output) && root[id] == id && held_as_activation(id);
        let (Some((first, last)), true) = (lives[id], temporary) else { continue };
        let size = value.ty.size_bytes();
        *total.entry(value.ty.dtype).or_default() += size as u64;
        *change[first].entry(value.ty.dtype).or_default() += size as i64;
        *change[last + 1].entry(value.ty.dtype).or_default() -= size as i64;
    }
    let mut now: BTreeMap<DType, i64> = BTreeMap::new();
    let (mut peak, mut at_peak) = (0, BTreeMap::new());
    for step in change {
        for (dtype, n) in step {
            *now.entry(dtype).or_default() += n;
        }
        let sum: i64 = now.values().sum();
        if sum > peak {
            (peak, at_peak) = (sum, now.clone());
        }
    }
    total
        .into_iter()
        .map(|(dtype, total_bytes)| Activations {
            dtype: dtype.name(),
            total_bytes,
            peak_bytes: at_peak.get(&dtype).map_or(0, |n| n.unsigned_abs()),
        })
        .collect()
}

#[cfg(test)]
#[path = "explain_tests.rs"]
pub(super) mod tests;

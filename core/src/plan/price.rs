//! The modelled time of one instruction on one GPU:
//! `max(FLOPs / (peak * efficiency), bytes / (bandwidth * efficiency)) + launch`.
//!
//! The efficiencies of [`EFFICIENCY`] and the launch time are assumptions: round numbers for large operands, not
//! measured by this project. Small operands are slower than modelled but for the launch, since a matmul with few tiles
//! leaves most of a GPU idle. Communication, the host and the data loader are not modelled.

use super::device::{Architecture, Device, Rate};
use crate::dtype::DType;
use crate::op::matmul::MatMul;
use crate::op::quantize::Scaling;
use crate::op::scale::OperandScale;
use crate::op::{Family, Op};
use crate::program::{Instr, Program};
use serde::Serialize;

/// Seconds that one instruction is assumed to add on its own when the step is replayed as a CUDA graph.
pub const LAUNCH_SECS: f64 = 2e-6;

impl Family {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        self.efficiency().name
    }

    /// Its row of [`EFFICIENCY`].
    pub fn efficiency(self) -> &'static Efficiency {
        &EFFICIENCY[self as usize]
    }
}

/// The share of a peak that a family reaches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Efficiency {
    /// Name of the family.
    pub name: &'static str,
    /// Share of the peak rate.
    pub compute: f64,
    /// Share of the memory bandwidth.
    pub bandwidth: f64,
    /// What the numbers stand for.
    pub basis: &'static str,
}

/// Assumed efficiencies, in the order of [`Family`].
#[rustfmt::skip]
pub const EFFICIENCY: [Efficiency; 11] = [
    Efficiency { name: "product",            compute: 0.70, bandwidth: 0.80, basis: "cuBLAS on large matmuls: 0.65 to 0.75 of the dense peak under a power limit" },
    Efficiency { name: "attention",          compute: 0.50, bandwidth: 0.80, basis: "FlashAttention-2 and -3 forward, head size 64 to 128" },
    Efficiency { name: "attention_backward", compute: 0.40, bandwidth: 0.80, basis: "FlashAttention-2 and -3 backward" },
    Efficiency { name: "convolution",        compute: 0.50, bandwidth: 0.80, basis: "cuDNN, channels last, 64 channels and more" },
    Efficiency { name: "elementwise",        compute: 0.50, bandwidth: 0.80, basis: "streaming kernels" },
    Efficiency { name: "reduction",          compute: 0.50, bandwidth: 0.70, basis: "row kernels: norms, softmax, losses" },
    Efficiency { name: "quantize",           compute: 0.50, bandwidth: 0.70, basis: "cast with amax and transpose" },
    Efficiency { name: "index",              compute: 0.25, bandwidth: 0.50, basis: "gathers and scatters of rows" },
    Efficiency { name: "layout",             compute: 0.50, bandwidth: 0.70, basis: "strided copies" },
    Efficiency { name: "update",             compute: 0.50, bandwidth: 0.80, basis: "multi-tensor kernels over all parameters" },
    Efficiency { name: "view",               compute: 1.00, bandwidth: 1.00, basis: "nothing is done" },
];

/// What bounds an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Memory traffic.
    Memory,
    /// The launch takes longer than either.
    Launch,
}

impl Bound {
    /// All bounds.
    pub const ALL: [Bound; 3] = [Bound::Compute, Bound::Memory, Bound::Launch];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
            Bound::Launch => "launch",
        }
    }
}

/// A priced instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Kind of work.
    pub family: Family,
    /// Rate the arithmetic was recorded for.
    pub rate: Rate,
    /// The GPU has that rate.
    pub native: bool,
    /// Modelled seconds.
    pub secs: f64,
    /// What decides them.
    pub bound: Bound,
}

/// The dtype an instruction multiplies in: that of the operands of matmuls (e5m2 where one of two fp8 operands is
/// e5m2), f32 elsewhere.
pub fn compute_dtype(program: &Program, instr: &Instr) -> DType {
    let dtype = |k: usize| program.ty(instr.inputs[k]).dtype;
    match (&instr.op, instr.op.row().family) {
        (Op::MatMul(m), _) if m.compute == DType::Tf32 && dtype(0) == DType::F32 => DType::Tf32,
        (Op::MatMul(_), _) if dtype(0).is_fp8() && dtype(1) == DType::E5m2 => DType::E5m2,
        (_, Family::Product | Family::Attention | Family::AttentionBackward | Family::Convolution) => dtype(0),
        (
            _,
            Family::Elementwise
            | Family::Reduction
            | Family::Quantize
            | Family::Index
            | Family::Layout
            | Family::Update
            | Family::View,
        ) => DType::F32,
    }
}

/// The rate of an instruction.
pub fn rate(program: &Program, instr: &Instr) -> Rate {
    let blocks = |m: &MatMul| m.scales.iter().any(|s| matches!(s, OperandScale::Blocks(_)));
    if matches!(&instr.op, Op::MatMul(m) if blocks(m)) { Rate::Mxfp8 } else { Rate::of(compute_dtype(program, instr)) }
}

/// Prices `instr`; `None` if it takes no time.
pub fn price(program: &Program, instr: &Instr, device: &Device) -> Option<Price> {
    let family = instr.op.row().family;
    if family == Family::View {
        return None;
    }
    let (rate, cost, efficiency) = (rate(program, instr), program.cost(instr), family.efficiency());
    let resolved = device.resolve(rate);
    let bytes = cost.read_bytes + cost.written_bytes + extra_bytes(program, instr, device.architecture, resolved.native);
    let compute = cost.flops as f64 / (resolved.peak * efficiency.compute);
    let memory = bytes as f64 / (device.bandwidth() * efficiency.bandwidth);
    let work = compute.max(memory);
    let bound = if work < LAUNCH_SECS {
        Bound::Launch
    } else if compute >= memory {
        Bound::Compute
    } else {
        Bound::Memory
    };
    Some(Price { family, rate, native: resolved.native, secs: work + LAUNCH_SECS, bound })
}

/// Traffic that the operands alone do not show: the amax pass of current scaling, and transposed copies of fp8
/// operands.
fn extra_bytes(program: &Program, instr: &Instr, architecture: Architecture, native: bool) -> u64 {
    let size = |k: usize| program.ty(instr.inputs[k]).size_bytes() as u64;
    if let Op::Quantize(q) = &instr.op
        && matches!(q.scaling, Scaling::Current { .. })
    {
        return size(0);
    }
    if let Op::MatMul(m) = &instr.op
        && native
        && architecture.fp8_needs_transposes()
        && program.ty(instr.inputs[0]).dtype.is_fp8()
    {
        let a = if m.trans_a { size(0) } else { 0 };
        let b = if m.trans_b { 0 } else { size(1) };
        return a + b;
    }
    0
}

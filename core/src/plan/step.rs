//! The modelled time, throughput and memory of a training step on one GPU.
//!
//! Field names and order are those of the JSON report, which is stable. Every time here is modelled from the tables of
//! [`super::device`] and [`super::price`]; memory is the memory plan itself.

use super::device::{Architecture, Device, Figure, Rate};
use super::explain::{self, PurposeBytes};
use super::fit::{self, Estimate, Variant};
use super::price::{self, Bound, LAUNCH_SECS};
use super::shapes;
use crate::error::Result;
use crate::model::ModelConfig;
use crate::op::Family;
use crate::precision::recipe::Recipe;
use crate::precision::settings::Fp8Scaling;
use crate::program::Program;
use crate::program::memory::{Layout, MemoryPlan};
use crate::train::{TrainConfig, record};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes kept free for driver, context, kernels and library workspaces.
pub const RESERVE_BYTES: u64 = 1 << 30;

/// Instructions listed as slowest.
const SLOWEST: usize = 8;

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// `modelled`: nothing here was measured.
    pub basis: &'static str,
    /// GPU.
    pub gpu: &'static str,
    /// Its full name.
    pub gpu_title: &'static str,
    /// Precision recipe.
    pub recipe: &'static str,
    /// Sequences or images of a micro-step.
    pub batch: usize,
    /// Micro-steps of a step.
    pub grad_accum: usize,
    /// Tokens or images of a step.
    pub items_per_step: usize,
    /// `tok` or `img`.
    pub item: &'static str,
    /// Trained parameters.
    pub params: usize,
    /// Modelled time.
    pub time: Time,
    /// Modelled time by family, slowest first.
    pub families: Vec<FamilyTime>,
    /// The instructions that take longest.
    pub slowest: Vec<SlowInstr>,
    /// Planned memory against what there is.
    pub memory: Memory,
    /// What would make it fit; empty where it does.
    pub fixes: Vec<Variant>,
    /// Formats that the GPU lacks, and other things to know.
    pub warnings: Vec<String>,
    /// Advice on the sizes of matmuls.
    pub shapes: Vec<String>,
    /// The numbers of the GPU that were used, with their sources.
    pub figures: Vec<UsedFigure>,
}

/// Modelled time of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Time {
    /// Milliseconds.
    pub step_ms: f64,
    /// Tokens or images per second.
    pub items_per_s: f64,
    /// Floating-point operations of a step.
    pub flops: u64,
    /// `flops` over time and peak, 0 to 1.
    pub mfu: f64,
    /// Rate whose peak `mfu` refers to: the recipe's, or what the GPU has instead.
    pub mfu_rate: Rate,
    /// That dense peak, TFLOP/s.
    pub mfu_peak_tflops: f64,
    /// Milliseconds in instructions bound by arithmetic, launches left out.
    pub compute_ms: f64,
    /// Milliseconds in instructions bound by memory traffic, launches left out.
    pub memory_ms: f64,
    /// Milliseconds of launches, and of instructions shorter than one.
    pub launch_ms: f64,
}

/// Modelled time of one family.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FamilyTime {
    /// Family.
    pub family: &'static str,
    /// Instructions run per step.
    pub launches: usize,
    /// Milliseconds per step.
    pub ms: f64,
    /// Share of the step, 0 to 1.
    pub share: f64,
    /// Assumed share of the peak rate.
    pub compute_efficiency: f64,
    /// Assumed share of the memory bandwidth.
    pub bandwidth_efficiency: f64,
}

/// A slow instruction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlowInstr {
    /// Position in the Program.
    pub index: usize,
    /// Name of the operation.
    pub op: &'static str,
    /// Where in the model.
    pub scope: String,
    /// Type of its first output.
    pub output: String,
    /// Rate of its arithmetic.
    pub rate: Rate,
    /// What bounds it.
    pub bound: Bound,
    /// Milliseconds per step.
    pub ms: f64,
}

/// Planned memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Bytes by purpose.
    pub purposes: Vec<PurposeBytes>,
    /// Their sum.
    pub needed_bytes: u64,
    /// Memory of the GPU less the reserve.
    pub available_bytes: u64,
    /// Bytes kept free.
    pub reserve_bytes: u64,
    /// `needed_bytes <= available_bytes`.
    pub fits: bool,
}

/// A number of the device table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsedFigure {
    /// What it is, with unit.
    pub what: String,
    /// The number and its source.
    #[serde(flatten)]
    pub figure: Figure,
}

/// Models the training step of `config` on `device`. Fails if `config` is invalid.
pub fn plan(config: &TrainConfig, device: &Device) -> Result<Plan> {
    let program = record::train_step(config)?;
    let memory = memory(config, &program, device)?;
    let (time, priced) = time(config, &program, device);
    let fixes = if memory.fits { Vec::new() } else { fit::fixes(config, device, &|changed| estimate(changed, device))? };
    Ok(Plan {
        basis: "modelled",
        gpu: device.name,
        gpu_title: device.title,
        recipe: config.recipe.name.name(),
        batch: config.batch,
        grad_accum: config.grad_accum,
        items_per_step: config.items_per_step(),
        item: match config.model {
            ModelConfig::Gpt(_) => "tok",
            ModelConfig::Mlp(_) => "img",
        },
        params: program.param_count(),
        families: families(&priced, time.step_ms),
        slowest: slowest(&program, &priced),
        warnings: warnings(&program, config, device).into_iter().chain(too_large(&memory, &fixes)).collect(),
        shapes: shapes::advice(&program),
        figures: figures(&priced, device),
        time,
        memory,
        fixes,
    })
}

/// A priced instruction and how often a step runs it.
struct Priced {
    index: usize,
    times: usize,
    price: price::Price,
}

impl Priced {
    fn ms(&self) -> f64 {
        self.times as f64 * self.price.secs * 1e3
    }
}

fn time(config: &TrainConfig, program: &Program, device: &Device) -> (Time, Vec<Priced>) {
    let times = |index: usize| if index < program.micro_end { program.grad_accum.max(1) } else { 1 };
    let priced: Vec<Priced> = program
        .instrs
        .iter()
        .enumerate()
        .filter_map(|(index, i)| Some(Priced { index, times: times(index), price: price::price(program, i, device)? }))
        .collect();
    let step_ms: f64 = priced.iter().map(Priced::ms).sum();
    let launch = |p: &Priced| p.times as f64 * LAUNCH_SECS * 1e3;
    let bound_ms = |b: Bound| -> f64 { priced.iter().filter(|p| p.price.bound == b).map(|p| p.ms() - launch(p)).sum() };
    let launches: f64 = priced.iter().map(launch).sum();
    let secs = step_ms * 1e-3;
    let flops = program.step_cost().flops;
    let peak = device.resolve(recipe_rate(&config.recipe));
    let time = Time {
        step_ms,
        items_per_s: config.items_per_step() as f64 / secs,
        flops,
        mfu: flops as f64 / secs / peak.peak,
        mfu_rate: peak.rate,
        mfu_peak_tflops: peak.peak * 1e-12,
        compute_ms: bound_ms(Bound::Compute),
        memory_ms: bound_ms(Bound::Memory),
        launch_ms: launches + bound_ms(Bound::Launch),
    };
    (time, priced)
}

/// Plans and prices the step of `config`.
fn estimate(config: &TrainConfig, device: &Device) -> Result<Estimate> {
    let program = record::train_step(config)?;
    let Memory { needed_bytes, fits, .. } = memory(config, &program, device)?;
    Ok(Estimate { needed_bytes, fits, step_ms: time(config, &program, device).0.step_ms })
}

/// The rate most of the arithmetic of a recipe runs at.
pub fn recipe_rate(recipe: &Recipe) -> Rate {
    match recipe.fp8.map(|f| f.scaling) {
        Some(Fp8Scaling::Mx { .. }) => Rate::Mxfp8,
        Some(Fp8Scaling::Delayed { .. } | Fp8Scaling::Current { .. }) | None => Rate::of(recipe.compute_dtype()),
    }
}

/// Planned memory of `program`, the step of `config`, and of its evaluation, against that of `device`.
fn memory(config: &TrainConfig, program: &Program, device: &Device) -> Result<Memory> {
    let layout = Arc::new(Layout::new(program));
    let plan = MemoryPlan::new(program, &layout)?;
    let evaluation = MemoryPlan::new(&record::eval_step(config)?, &layout)?.temp_bytes();
    let needed_bytes = (plan.total_bytes() + evaluation) as u64;
    let available_bytes = device.memory_bytes().saturating_sub(RESERVE_BYTES);
    Ok(Memory {
        purposes: explain::memory(&plan)
            .into_iter()
            .chain([PurposeBytes { purpose: "evaluation", bytes: evaluation }])
            .collect(),
        needed_bytes,
        available_bytes,
        reserve_bytes: RESERVE_BYTES,
        fits: needed_bytes <= available_bytes,
    })
}

fn families(priced: &[Priced], step_ms: f64) -> Vec<FamilyTime> {
    let mut sums: BTreeMap<Family, (usize, f64)> = BTreeMap::new();
    for p in priced {
        let sum = sums.entry(p.price.family).or_default();
        sum.0 += p.times;
        sum.1 += p.ms();
    }
    let mut list: Vec<FamilyTime> = sums
        .into_iter()
        .map(|(family, (launches, ms))| FamilyTime {
            family: family.name(),
            launches,
            ms,
            share: ms / step_ms,
            compute_efficiency: family.efficiency().compute,
            bandwidth_efficiency: family.efficiency().bandwidth,
        })
        .collect();
    list.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    list
}

fn slowest(program: &Program, priced: &[Priced]) -> Vec<SlowInstr> {
    let mut order: Vec<&Priced> = priced.iter().collect();
    order.sort_by(|a, b| b.ms().total_cmp(&a.ms()).then(a.index.cmp(&b.index)));
    let of = |p: &Priced| {
        let instr = &program.instrs[p.index];
        SlowInstr {
            index: p.index,
            op: instr.op.row().name,
            scope: program.scope(instr.scope).to_string(),
            output: instr.outputs.first().map(|&o| program.ty(o).to_string()).unwrap_or_default(),
            rate: p.price.rate,
            bound: p.price.bound,
            ms: p.ms(),
        }
    };
    order.into_iter().take(SLOWEST).map(of).collect()
}

fn warnings(program: &Program, config: &TrainConfig, device: &Device) -> Vec<String> {
    let mut lines = Vec::new();
    for rate in Rate::ALL {
        let used = program.instrs.iter().any(|i| {
            let tensor_core = matches!(
                i.op.row().family,
                Family::Product | Family::Attention | Family::AttentionBackward | Family::Convolution
            );
            tensor_core && price::rate(program, i) == rate
        });
        let resolved = device.resolve(rate);
        if used && !resolved.native {
            lines.push(format!(
                "{} has no {} matmuls ({}): they are emulated with the same values and priced at its {} rate, {:.1} TFLOP/s",
                device.title,
                rate.name(),
                since(rate),
                resolved.rate.name(),
                resolved.peak * 1e-12
            ));
        }
    }
    if config.recipe.low == Some(crate::DType::F16) && config.recipe.scaler.is_none() {
        lines.push("f16 without a loss scaler: small gradients become 0".to_string());
    }
    lines
}

/// Where no change fits: what must be shared between GPUs.
fn too_large(memory: &Memory, fixes: &[Variant]) -> Option<String> {
    if memory.fits || fixes.iter().any(|v| v.fits) {
        return None;
    }
    let persistent = |p: &&PurposeBytes| matches!(p.purpose, "weights" | "optimizer" | "gradients");
    let bytes: u64 = memory.purposes.iter().filter(persistent).map(|p| p.bytes as u64).sum();
    Some(format!(
        "no change of batch, precision or context fits: weights, optimizer and gradients alone need {:.1} GB; split evenly they need at least {} such GPUs",
        bytes as f64 * 1e-9,
        bytes.div_ceil(memory.available_bytes.max(1)).max(2)
    ))
}

/// The first generation with a rate.
fn since(rate: Rate) -> String {
    match rate {
        Rate::F32 | Rate::F16 => format!("{} and later have them", Architecture::Volta.name()),
        Rate::Tf32 | Rate::Bf16 => format!("{} and later have them", Architecture::Ampere.name()),
        Rate::Fp8 => format!("{}, {} and later have them", Architecture::Ada.name(), Architecture::Hopper.name()),
        Rate::Mxfp8 => format!("{} has them", Architecture::Blackwell.name()),
    }
}

fn figures(priced: &[Priced], device: &Device) -> Vec<UsedFigure> {
    let used = |rate: Rate| priced.iter().any(|p| device.resolve(p.price.rate).rate == rate);
    let peaks = Rate::ALL.into_iter().filter(|r| used(*r)).filter_map(|r| {
        let figure = device.peak(r)?;
        Some(UsedFigure { what: format!("{} peak, TFLOP/s", r.name()), figure })
    });
    let memory = [("memory bandwidth, GB/s", device.bandwidth_gb_s), ("memory, GB", device.memory_gb)];
    peaks.chain(memory.map(|(what, figure)| UsedFigure { what: what.to_string(), figure })).collect()
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;

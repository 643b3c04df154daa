//! Lesson 2: autocast writes ordinary casts into the Program. Run with
//! `cargo run --release -p mantissa-lessons --bin 02_autocast`.
//!
//! Model code names no dtype. Inside an autocast region each operation computes in the dtype of its class: matmuls in
//! bf16, losses and norms in f32. What was decided, and why, stands in the recorded Program.

use mantissa_core::nn::{LayerNorm, Linear};
use mantissa_core::op::Op;
use mantissa_core::optim::{Optim, OptimConfig};
use mantissa_core::precision::scaler::GradScaler;
use mantissa_core::precision::settings::Region;
use mantissa_core::program::{Program, Rate};
use mantissa_core::shape::Ty;
use mantissa_core::trace::{Graph, Var};
use mantissa_core::{DType, Result};

/// A step of a two-layer net whose first layer is used twice: once per view of the same rows.
fn record(region: Region, optimize: bool) -> Result<Program> {
    let g = Graph::new("lesson 2", true);
    let a = g.input("a", Ty::new(DType::F32, [8, 16]), Rate::MicroStep);
    let b = g.input("b", Ty::new(DType::F32, [8, 16]), Rate::MicroStep);
    let targets = g.input("targets", Ty::new(DType::U32, [8]), Rate::MicroStep);
    let loss = g.autocast(region, || {
        fn hidden(x: Var<'_>) -> Var<'_> {
            Linear::new("up", 16, 32).forward(x).gelu()
        }
        let h = LayerNorm::new("norm").forward(hidden(a) + hidden(b));
        Linear::new("down", 32, 4).forward(h).cross_entropy(targets, 0.0)
    });
    assert_eq!(loss.dtype(), DType::F32, "losses are in the f32 class");
    let mut optim = Optim::new("optim", OptimConfig::adamw(), g.params())?;
    let mut scaler = GradScaler::new(&g, None)?;
    optim.backward(scaler.scale(loss));
    g.begin_update();
    scaler.step(&mut optim)?;
    if optimize { g.finish() } else { g.finish_raw() }
}

/// Instructions that read the value `name` and do nothing but convert it to bf16.
fn casts_of(program: &Program, name: &str) -> usize {
    let Some(id) = program.find(name) else { return 0 };
    let is_cast = |op: &Op| matches!(op, Op::Map(m) if m.as_cast(program.ty(id)) == Some(DType::Bf16));
    program.instrs.iter().filter(|i| i.inputs == [id] && is_cast(&i.op)).count()
}

fn main() -> Result<()> {
    let raw = record(Region::low(DType::Bf16), false)?;
    let program = record(Region::low(DType::Bf16), true)?;
    println!("{program}");

    println!("why:");
    let mut reasons: Vec<&str> = program.instrs.iter().filter_map(|i| i.why.as_deref()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons.iter().for_each(|why| println!("  {why}"));
    assert!(reasons.iter().any(|why| why.contains("matmul is in the low class: bf16")));

    // The weight of `up` is cast at each of its uses; equal casts are one after the passes. That is the whole
    // weight-cast cache.
    let (before, after) = (casts_of(&raw, "up.weight"), casts_of(&program, "up.weight"));
    println!("\ncasts of up.weight: {before} as recorded, {after} after the passes");
    assert_eq!((before, after), (2, 1));
    println!("instructions: {} as recorded, {} after the passes", raw.instrs.len(), program.instrs.len());
    assert!(program.instrs.len() < raw.instrs.len());

    // Parameters and what the optimizer reads stay f32, whatever the region.
    for (_, value) in program.values_where(|v| v.kind.is_persistent() && v.ty.dtype.is_float()) {
        assert_eq!(value.ty.dtype, DType::F32, "{} is a master copy", value.name);
    }

    // Without a region the same model code is a plain f32 step: no casts, no reasons.
    let plain = record(Region::off(), true)?;
    assert!(plain.instrs.iter().all(|i| i.why.is_none()));
    println!("without a region: {} instructions, none with a reason", plain.instrs.len());
    Ok(())
}

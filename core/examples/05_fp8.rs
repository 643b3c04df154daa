//! Lesson 5: fp8 with delayed scaling. Run with `cargo run --release -p mantissa-lessons --bin 05_fp8`.
//!
//! e4m3 spans 2^-9 to 448: a tensor has to be moved there first. Delayed scaling takes the factor from the largest
//! magnitudes (amax) of past steps. The first step has no past: it uses 1, and small values underflow. When values
//! suddenly grow, one step saturates before the scale follows. Watch both happen to the inputs of the first layer, and
//! compare the loss with f32 on the same batches.

use mantissa_core::Result;
use mantissa_core::bytemuck;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::model::{ModelConfig, mlp::MlpConfig};
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::OnNonFinite;
use mantissa_core::precision::{Recipe, RecipeName, fp8};
use mantissa_core::rng::Rng;
use mantissa_core::train::{Session, TrainConfig};
use std::sync::Arc;

const STEPS: u64 = 300;
const WIDTH: usize = 32;
const CLASSES: usize = 16;
const ROWS: usize = 64;
const HISTORY: usize = 16;
/// From this step on the inputs are 25 times larger.
const JUMP: u64 = 101;

/// Layer widths are multiples of 16 and the batch of 8: what fp8 matmuls ask for.
fn session(name: RecipeName) -> Result<Session> {
    let config = TrainConfig {
        model: ModelConfig::Mlp(MlpConfig { inputs: WIDTH, hidden: vec![64], classes: CLASSES }),
        recipe: Recipe::new(name).amax_history(HISTORY),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-2, min_lr: 1e-2, warmup: 0, steps: STEPS, decay: Decay::Constant },
        clip: None,
        batch: ROWS,
        grad_accum: 1,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        seed: 1,
    };
    Session::new(Arc::new(CpuBackend::new()), config)
}

/// Rows of small numbers whose largest of the first `CLASSES` features is the class.
fn batch(rng: &mut Rng, step: u64) -> (Vec<f32>, Vec<u32>) {
    let deviation = if step < JUMP { 0.004 } else { 0.1 };
    let x: Vec<f32> = (0..ROWS * WIDTH).map(|_| deviation * rng.normal()).collect();
    let largest = |row: &[f32]| (0..CLASSES).fold(0, |best, c| if row[c] > row[best] { c } else { best }) as u32;
    let targets = x.chunks(WIDTH).map(largest).collect();
    (x, targets)
}

fn main() -> Result<()> {
    let (mut plain, mut fp8) = (session(RecipeName::F32)?, session(RecipeName::Fp8Delayed)?);
    let slots = fp8.program().fp8_slots.clone();
    println!("fp8 tensors: {}", slots.iter().map(|s| format!("{} {}", s.name, s.dtype)).collect::<Vec<_>>().join(", "));
    let watch = slots.iter().position(|s| s.name == "mlp.fc1.x").unwrap_or(0);
    let fp8_max = slots[watch].dtype.max_f32();

    let mut rng = Rng::new(7, 0);
    let (mut amaxes, mut underflow, mut saturated) = (Vec::new(), Vec::new(), Vec::new());
    let mut sums = [0.0, 0.0];
    println!("\n step   f32 loss   fp8 loss | {}: amax, scale, underflow, saturated", slots[watch].name);
    for step in 1..=STEPS {
        let (x, targets) = batch(&mut rng, step);
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) };
        let losses = [plain.step(batch)?.loss, fp8.step(batch)?.loss];
        let s = fp8.fp8_stats()?[watch];

        // The scale in use follows from earlier steps: the largest of the last `HISTORY` amaxes decides.
        let window = amaxes.iter().rev().take(HISTORY).fold(0.0_f32, |a, &b| a.max(b));
        assert_eq!(s.scale, if step == 1 { 1.0 } else { fp8_max / window });
        amaxes.push(s.amax);
        underflow.push(s.underflow);
        saturated.push(s.saturated);
        if step > STEPS - 20 {
            (0..2).for_each(|k| sums[k] += losses[k] / 20.0);
        }
        if step <= 2 || step % 50 == 0 || (JUMP - 1..=JUMP + 1).contains(&step) {
            let [a, b] = losses;
            println!("{step:>5} {a:>10.4} {b:>10.4} | {:.2e} {:.2e} {:.4} {:.4}", s.amax, s.scale, s.underflow, s.saturated);
        }
    }
    // The history is a state on the device, one column a tensor: row 0 is for the step in flight, the last row is the
    // newest.
    let history = fp8.read_f32(fp8::HISTORY)?;
    let column: Vec<f32> = history.iter().skip(watch).step_by(slots.len()).copied().collect();
    assert_eq!((column[0], &column[1..]), (0.0, &amaxes[amaxes.len() + 1 - HISTORY..]));

    let jump = JUMP as usize - 1;
    assert!(underflow[0] >= 0.15, "without a past, small inputs are lost: {}", underflow[0]);
    assert!(underflow[1..].iter().all(|&u| u <= 1e-3), "with a scale, hardly any");
    assert!(saturated[jump] >= 0.5, "the scale of the past is too large for the jump: {}", saturated[jump]);
    assert!(saturated[jump + 1..].iter().all(|&s| s <= 0.01), "one step later it fits");

    let [a, b] = sums;
    println!("\nmean of the last 20 losses: f32 {a:.4}, fp8 {b:.4} ({:+.2} %)", 100.0 * (b / a - 1.0));
    assert!((b / a - 1.0).abs() <= 0.05, "fp8 learns what f32 learns");
    Ok(())
}

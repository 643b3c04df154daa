//! Lesson 3: f16 needs a loss scale. Run with `cargo run --release -p mantissa-lessons --bin 03_scaler`.
//!
//! Gradients below 2^-24 vanish in f16, so the loss is multiplied before the backward pass and the gradients are
//! divided after it. If a scaled gradient overflows, the step is skipped and the scale halved; after `growth_interval`
//! good steps it doubles. Here the first scale is far too large on purpose, two micro-steps share each scale, and the
//! norm is clipped after unscaling.

use mantissa_core::Result;
use mantissa_core::bytemuck;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::model::{ModelConfig, mlp::MlpConfig};
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::OnNonFinite;
use mantissa_core::precision::clip::Clip;
use mantissa_core::precision::scaler::ScalerConfig;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::rng::Rng;
use mantissa_core::show;
use mantissa_core::train::{Session, TrainConfig};
use std::sync::Arc;

const STEPS: u64 = 60;
const FEATURES: usize = 16;
const CLASSES: usize = 4;

fn config() -> TrainConfig {
    let scaler = ScalerConfig { init_scale: 2f64.powi(30), growth_interval: 10, ..ScalerConfig::default() };
    TrainConfig {
        model: ModelConfig::Mlp(MlpConfig { inputs: FEATURES, hidden: vec![32], classes: CLASSES }),
        recipe: Recipe::new(RecipeName::F16).scaler(scaler),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-2, min_lr: 1e-2, warmup: 0, steps: STEPS, decay: Decay::Constant },
        clip: Some(Clip::Norm(1.0)),
        batch: 32,
        grad_accum: 2,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        seed: 1,
    }
}

/// Rows whose largest of the first `CLASSES` features is the class.
fn batch(rng: &mut Rng, rows: usize) -> (Vec<f32>, Vec<u32>) {
    let x: Vec<f32> = (0..rows * FEATURES).map(|_| rng.normal()).collect();
    let largest = |row: &[f32]| (0..CLASSES).fold(0, |best, c| if row[c] > row[best] { c } else { best }) as u32;
    let targets = x.chunks(FEATURES).map(largest).collect();
    (x, targets)
}

fn main() -> Result<()> {
    let mut session = Session::new(Arc::new(CpuBackend::new()), config())?;
    let mut rng = Rng::new(7, 0);
    let weight = "mlp.fc1.weight";
    let (mut skipped_first, mut grew, mut shrank) = (true, 0, 0);
    let mut losses = Vec::new();
    let mut before = session.read_f32(weight)?;
    let mut scale = f32::INFINITY;
    println!("step    loss  grad_norm  loss_scale  good steps");
    for _ in 0..STEPS {
        let (x, targets) = batch(&mut rng, 2 * 32); // both micro-steps, one after the other
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) };
        let report = session.step(batch)?;
        let used = report.loss_scale.unwrap_or_default();
        let after = session.read_f32(weight)?;
        let note = if report.skipped { "  skipped: a gradient overflowed" } else { "" };
        println!(
            "{:>4}  {:.4}  {:>9.3}  {:>10}  {:>10}{note}",
            report.step,
            report.loss,
            report.grad_norm,
            show::loss_scale(used),
            report.growth_tracker.unwrap_or_default()
        );

        // A skipped step changes nothing but the scale. A good one moves the weights.
        assert_eq!(report.skipped, after == before);
        assert_eq!(report.skipped, !report.grad_norm.is_finite());
        skipped_first &= report.step > 1 || report.skipped;
        shrank += u32::from(used < scale && scale.is_finite());
        grew += u32::from(used > scale);
        losses.push(report.loss);
        (before, scale) = (after, used);
    }
    assert!(skipped_first, "2^30 overflows at once");
    assert!(shrank >= 5 && grew >= 1, "the scale came down {shrank} times and went up {grew} times");
    let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len() as f32;
    let (first, last) = (mean(&losses[..5]), mean(&losses[losses.len() - 5..]));
    println!(
        "\nmean loss of the first five steps {first:.3}, of the last five {last:.3}; scale down {shrank} times, up {grew} times"
    );
    assert!(last <= 0.7 * first, "it learns once the scale fits");
    Ok(())
}

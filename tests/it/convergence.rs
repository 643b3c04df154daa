//! A small GPT learns a generated text in every recipe, about equally well; f16 recovers from an absurd initial loss
//! scale.

use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::precision::{Recipe, RecipeName};
use mantissa_core::rng::Rng;
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::Session;
use mantissa_tests::data::{SUCCESSORS, text, windows};
use mantissa_tests::tiny;
use std::sync::Arc;

/// Enough to reach the plateau, where a relative tolerance on the loss is not one on the speed of learning.
const STEPS: u64 = 200;
const BATCH: usize = 8;
const CONTEXT: usize = 32;

/// Trains for [`STEPS`] steps on the same batches and returns the reports and the mean loss of ten held-out batches.
fn train(recipe: Recipe) -> (Vec<StepReport>, f32) {
    let data = text(20_000);
    let (train, held_out) = data.split_at(16_000);
    let mut s = Session::new(Arc::new(CpuBackend::new()), tiny::gpt(recipe, STEPS)).expect("a valid run");
    let mut rng = Rng::new(3, 1);
    let mut next = |from: &[u8]| windows(from, BATCH, CONTEXT, &mut rng);
    let reports = (0..STEPS)
        .map(|_| {
            let (x, targets) = next(train);
            s.step(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) }).expect("runs")
        })
        .collect();
    let loss: f32 = (0..10)
        .map(|_| {
            let (x, targets) = next(held_out);
            s.eval(Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&targets) }).expect("evaluates")
        })
        .sum();
    (reports, loss / 10.0)
}

#[test]
fn every_recipe_ends_within_two_percent_of_f32() {
    let losses: Vec<(RecipeName, f32, f32)> = RecipeName::ALL
        .into_iter()
        .map(|name| {
            let (reports, end) = train(Recipe::new(name));
            assert!(reports.iter().all(|r| r.loss.is_finite() && (r.grad_norm.is_finite() || r.skipped)), "{name}");
            // f16 may find its loss scale in the first steps; nothing else ever skips.
            let skipped: Vec<u64> = reports.iter().filter(|r| r.skipped).map(|r| r.step).collect();
            let allowed = if name == RecipeName::F16 { 4 } else { 0 };
            assert!(skipped.len() <= allowed, "{name} skipped steps {skipped:?}");
            (name, reports[0].loss, end)
        })
        .collect();
    let f32_end = losses[0].2;
    for (name, start, end) in &losses {
        assert!((5.0..6.0).contains(start), "{name}: a fresh model over 256 bytes starts near ln 256 = 5.55, not {start}");
        assert!(*end <= (SUCCESSORS as f32).ln(), "{name}: from {start} to {end}, more than the text's own entropy");
        assert!((end / f32_end - 1.0).abs() <= 0.02, "{name}: {end}, f32 {f32_end}\n{losses:?}");
    }
    // The recipes really differ: no two low-precision runs end on the same bits.
    let mut bits: Vec<u32> = losses.iter().map(|(_, _, end)| end.to_bits()).collect();
    bits.sort_unstable();
    bits.dedup();
    assert_eq!(bits.len(), losses.len(), "{losses:?}");
}

#[test]
fn f16_skips_backs_off_and_recovers() {
    let (reports, end) = train(Recipe::new(RecipeName::F16).init_scale(2.0f64.powi(30)));
    let skipped: Vec<u64> = reports.iter().filter(|r| r.skipped).map(|r| r.step).collect();
    assert!(skipped.len() >= 5 && reports[0].skipped, "{skipped:?}");
    assert_eq!(reports.last().map(|r| r.skipped_total), Some(skipped.len() as u64));
    let mut scale = 2.0f32.powi(30);
    for r in &reports {
        assert_eq!(r.loss_scale, Some(scale), "step {}", r.step);
        assert!(r.loss.is_finite() && r.found_inf == r.skipped);
        if r.skipped {
            scale /= 2.0;
            assert_eq!(r.growth_tracker, Some(0));
        }
    }
    let last = reports.last().expect("steps");
    assert!(!last.skipped && last.growth_tracker > Some(10), "it has recovered: {last:?}");
    assert!(end <= 1.02 * (SUCCESSORS as f32).ln(), "from {} to {end}", reports[0].loss);
}

//! Whole training steps, plain and measured: items (tokens, images) a second.
//!
//! `cargo bench -p mantissa-tests --bench steps`; recipes in turn, with their memory: `mantissa bench`.

use divan::Bencher;
use divan::counter::ItemsCount;
use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::model::ModelConfig;
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::clip::Clip;
use mantissa_core::precision::{OnNonFinite, Recipe, RecipeName};
use mantissa_core::rng::Rng;
use mantissa_core::train::{Session, TrainConfig};
use std::sync::Arc;

fn main() {
    divan::main();
}

const RECIPES: [RecipeName; 7] = RecipeName::ALL;

/// A run of a preset and one batch of random data.
struct Run {
    session: Session,
    x: Vec<u32>,
    targets: Vec<u32>,
}

impl Run {
    fn new(preset: &str, recipe: RecipeName) -> Run {
        let (model, batch) = ModelConfig::preset(preset).expect("a preset");
        let config = TrainConfig {
            recipe: Recipe::new(recipe),
            optim: OptimConfig::adamw(),
            schedule: Schedule { lr: 1e-3, min_lr: 1e-3, warmup: 0, steps: 1, decay: Decay::Constant },
            clip: Some(Clip::Norm(1.0)),
            error_if_nonfinite: false,
            on_nonfinite: OnNonFinite::Skip,
            batch,
            grad_accum: 1,
            seed: 1,
            model,
        };
        let [x, targets] = config.model.input_types(batch);
        let mut rng = Rng::new(1, 0);
        let mut words = |n: usize, below: u64| (0..n).map(|_| rng.below(below) as u32).collect::<Vec<u32>>();
        let (x, targets) = match &config.model {
            ModelConfig::Gpt(gpt) => (words(x.shape.numel(), gpt.vocab as u64), words(targets.shape.numel(), gpt.vocab as u64)),
            ModelConfig::Mlp(mlp) => {
                let pixels = words(x.shape.numel(), 256).into_iter().map(|p| (p as f32 / 255.0).to_bits()).collect();
                (pixels, words(targets.shape.numel(), mlp.classes as u64))
            }
        };
        Run { session: Session::measuring(Arc::new(CpuBackend::new()), config, &[]).expect("a run"), x, targets }
    }

    fn time(mut self, bencher: Bencher<'_, '_>, measured: bool) {
        let batch = Batch { x: bytemuck::cast_slice(&self.x), targets: bytemuck::cast_slice(&self.targets) };
        let items = ItemsCount::new(self.session.config().items_per_step());
        let step =
            |s: &mut Session, batch: Batch<'_>| if measured { s.step_measured(batch).map(|l| l.report) } else { s.step(batch) };
        bencher.counter(items).bench_local(|| step(&mut self.session, batch).expect("a step"));
    }
}

#[divan::bench(args = RECIPES)]
fn mlp(bencher: Bencher<'_, '_>, recipe: RecipeName) {
    Run::new("mlp", recipe).time(bencher, false);
}

#[divan::bench(args = RECIPES)]
fn gpt_tiny(bencher: Bencher<'_, '_>, recipe: RecipeName) {
    Run::new("gpt-tiny", recipe).time(bencher, false);
}

#[divan::bench(args = RECIPES)]
fn gpt_tiny_measured(bencher: Bencher<'_, '_>, recipe: RecipeName) {
    Run::new("gpt-tiny", recipe).time(bencher, true);
}

//! How fast the store takes events, and how long a plot of a long run takes: `cargo bench -p mantissa-dashboard`.

use divan::{Bencher, counter::ItemsCount};
use mantissa_core::model::ModelConfig;
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::OnNonFinite;
use mantissa_core::precision::Recipe;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::telemetry::StepReport;
use mantissa_core::telemetry::event::{Event, StepEvent, Timing};
use mantissa_core::train::TrainConfig;
use mantissa_dashboard::store::{Column, LineReader, Origin, Run};

const STEPS: u64 = 100_000;

fn main() {
    divan::main();
}

fn run() -> Run {
    let (model, batch) = ModelConfig::preset("mlp").expect("a preset");
    let config = TrainConfig {
        model,
        recipe: Recipe::new(RecipeName::F16),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-3, min_lr: 0.0, warmup: 0, steps: STEPS, decay: Decay::Constant },
        clip: None,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::default(),
        batch,
        grad_accum: 1,
        seed: 1,
    };
    Run::new("run", "mlp", Origin::Live, config)
}

fn events() -> Vec<Event> {
    let report = |step| StepReport {
        step,
        loss: 2.0 + (step % 97) as f32,
        lr: 1e-3,
        grad_norm: 1.0,
        loss_scale: Some(65536.0),
        found_inf: false,
        skipped: false,
        skipped_total: 0,
        growth_tracker: Some(1),
        fp8: None,
    };
    let timing = Timing { ms: 1.25, items_per_s: 1e5, mfu: 0.5 };
    (1..=STEPS).map(|step| Event::Step(StepEvent::new(&report(step), timing, false))).collect()
}

#[divan::bench]
fn ingest(bencher: Bencher<'_, '_>) {
    let inputs = || (run(), events());
    bencher.counter(ItemsCount::new(STEPS)).with_inputs(inputs).bench_values(|(mut run, events)| {
        events.into_iter().for_each(|e| run.push(e));
        run
    });
}

#[divan::bench]
fn ingest_lines(bencher: Bencher<'_, '_>) {
    let text: String = events().iter().map(|e| e.to_line().expect("an event is JSON") + "\n").collect();
    bencher.counter(ItemsCount::new(STEPS)).with_inputs(run).bench_values(|mut run| {
        LineReader::default().feed(text.as_bytes(), |e| run.push(e));
        run
    });
}

#[divan::bench]
fn line_of_a_long_run(bencher: Bencher<'_, '_>) {
    let mut run = run();
    events().into_iter().for_each(|e| run.push(e));
    let x = |row: usize| run.steps.steps()[row] as f64;
    bencher.bench(|| run.steps.line(Column::Loss as usize, x, f64::NEG_INFINITY..=f64::INFINITY, 1200));
}

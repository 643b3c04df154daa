//! How fast the store takes events, and how long a plot of a long run takes: `cargo bench -p mantissa-dashboard`.

#[path = "../tests/it/made_up.rs"]
mod made_up;

use divan::{Bencher, counter::ItemsCount};
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::telemetry::event::{Event, StepEvent, Timing};
use mantissa_core::telemetry::reader::LogReader;
use mantissa_core::telemetry::schema::StepScalar;
use mantissa_dashboard::store::{Origin, Run};

const STEPS: u64 = 100_000;

fn main() {
    divan::main();
}

fn run() -> Run {
    Run::new("run", "mlp", Origin::Live, made_up::config("mlp", RecipeName::F16, STEPS))
}

fn events() -> Vec<Event> {
    let report = |step| made_up::report(step, 2.0 + (step % 97) as f32, Some(65536.0), 0);
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
        LogReader::default().feed(text.as_bytes(), |e| run.push(e)).expect("a log of this version");
        run
    });
}

#[divan::bench]
fn line_of_a_long_run(bencher: Bencher<'_, '_>) {
    let mut run = run();
    events().into_iter().for_each(|e| run.push(e));
    let x = |row: usize| run.steps.steps()[row] as f64;
    bencher.bench(|| run.steps.line(StepScalar::Loss as usize, x, f64::NEG_INFINITY..=f64::INFINITY, 1200));
}

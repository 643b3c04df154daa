//! Processor time of a frame over three runs of 100,000 steps: layout and triangles, everything but the graphics card's
//! part. 60 frames a second leave 16.7 ms. `cargo bench -p mantissa-dashboard --bench frames`.

#[path = "../tests/it/made_up.rs"]
mod made_up;

use divan::Bencher;
use egui_kittest::Harness;
use mantissa_core::DType;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::telemetry::event::{Event, StepEvent, TensorEvent, Timing};
use mantissa_core::telemetry::{AmaxRing, Histogram, TensorReport, TensorStats};
use mantissa_dashboard::form::Panel;
use mantissa_dashboard::palette;
use mantissa_dashboard::panels::{States, panel_ui};
use mantissa_dashboard::shell::{Dashboard, Settings};
use mantissa_dashboard::store::{Origin, Run, Store};

const STEPS: u64 = 100_000;
/// Steps between reports of tensors: 2,000 a tensor.
const STATS_EVERY: u64 = 50;
const SIZE: [f32; 2] = [1360.0, 860.0];

fn main() {
    divan::main();
}

/// A run of gpt-tiny with a skipped step now and then, and 48 tensors.
fn run(recipe: RecipeName) -> Run {
    let mut run = Run::new(recipe.name(), "gpt-tiny", Origin::Live, made_up::config("gpt-tiny", recipe, STEPS));
    let scaled = run.config.recipe.scaler.is_some();
    for step in 1..=STEPS {
        let noise = (step * 7919 % 1009) as f32 / 1009.0;
        let skipped_total = if scaled { step / 97 } else { 0 };
        let scale = scaled.then(|| 2f32.powi((step / 97 % 9) as i32));
        let report = made_up::report(step, 2.0 + noise, scale, skipped_total);
        let timing = Timing { ms: 1.0 + f64::from(noise), items_per_s: 1e5, mfu: 0.5 };
        run.push(Event::Step(StepEvent::new(&report, timing, false)));
        if step % STATS_EVERY == 0 {
            (0..48).for_each(|i| run.push(Event::Tensor(TensorEvent { step, tensor: tensor(i, noise) })));
        }
    }
    run
}

fn tensor(i: i32, noise: f32) -> TensorReport {
    let stats = TensorStats {
        stored: DType::Bf16,
        len: 24_000,
        mean: 0.0,
        l1: 1.0,
        l2: 1.0,
        zero: 0.0,
        subnormal: Some(0.1),
        sqnr_db: Some(31.0),
        histogram: Histogram { first: 107, zeros: 0, counts: vec![1000; 24] },
    };
    let amax = 2f32.powi(-i / 4) * (1.0 + noise);
    TensorReport {
        name: format!("gpt.h{}.tensor{i}", i / 12),
        dtype: DType::E4m3,
        amax: Some(amax),
        amax_nonfinite: None,
        scale: Some(448.0 / amax),
        underflow: Some(0.01),
        saturated: Some(0.0),
        nonfinite: Some(0.0),
        ring: Some(AmaxRing { room: 1023, held: 16, largest: Some(amax), largest_age: 0, newest: vec![Some(amax); 16] }),
        stats: Some(stats),
    }
}

fn store() -> Store {
    let mut store = Store::default();
    for recipe in [RecipeName::F32, RecipeName::F16, RecipeName::Fp8Delayed] {
        store.add(run(recipe));
    }
    store
}

/// Times frames with their tessellation.
fn frames<State>(bencher: Bencher<'_, '_>, draw: impl FnMut(&mut egui::Ui, &mut State), state: State) {
    let setup = Harness::builder().with_size(SIZE).with_context_setup(palette::apply);
    let mut harness = setup.build_ui_state(draw, state);
    harness.run_steps(8);
    bencher.bench_local(|| {
        harness.step();
        let output = harness.output();
        harness.ctx.tessellate(output.shapes.clone(), output.pixels_per_point)
    });
}

/// The window as it opens: loss, loss scale, amax history and health.
#[divan::bench(max_time = 5)]
fn window(bencher: Bencher<'_, '_>) {
    let mut dashboard = Dashboard::new(Settings::default());
    dashboard.store = store();
    frames(bencher, |ui, d: &mut Dashboard| drop(d.ui(ui)), dashboard);
}

/// One panel in the whole window.
#[divan::bench(args = Panel::ALL, max_time = 3)]
fn panel(bencher: Bencher<'_, '_>, panel: Panel) {
    let draw = move |ui: &mut egui::Ui, (store, states): &mut (Store, States)| panel_ui(panel, ui, store, states);
    frames(bencher, draw, (store(), States::default()));
}

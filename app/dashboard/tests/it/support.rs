//! What the tests share: the application without a window, and a store of made-up events that is the same every time.

use crate::made_up;
use clap::Parser;
use egui_kittest::{Harness, HarnessBuilder};
use mantissa_core::DType;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::telemetry::event::{
    EvalEvent, Event, MemoryEvent, MemoryRow, Prediction, Predictions, PredictionsEvent, ProfileEvent, ProfileRow, SampleEvent,
    StepEvent, TensorEvent, Timing, TunedEvent, TunedRow, WarningEvent,
};
use mantissa_core::telemetry::warning::{Warning, WarningKind};
use mantissa_core::telemetry::{AmaxRing, Fp8Report, Histogram, StepReport, TensorReport, TensorStats};
use mantissa_core::train::TrainConfig;
use mantissa_dashboard::desktop::{App, Args, Signals};
use mantissa_dashboard::palette;
use mantissa_dashboard::store::{Origin, Run, Store};
use std::path::Path;
use std::sync::Once;

/// Frames that a condition may take: far more than it ever does, so that a broken test ends.
const FRAMES: usize = 50_000;

/// Every run of these tests lies below one temporary folder.
pub(crate) fn enter_temporary_folder() {
    static ENTER: Once = Once::new();
    ENTER.call_once(|| {
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        std::env::set_current_dir(folder).expect("it was just made");
    });
}

pub(crate) fn builder<State>() -> HarnessBuilder<State> {
    Harness::builder()
        .with_size([1360.0, 860.0])
        .with_theme(egui::Theme::Dark)
        .with_max_steps(64)
        .with_context_setup(palette::apply)
}

/// The application with the runs in `folders`.
pub(crate) fn app(folders: &[&Path]) -> Harness<'static, App> {
    hearing(folders, Signals::default())
}

/// [`app`], which receives `signals`.
pub(crate) fn hearing(folders: &[&Path], signals: Signals) -> Harness<'static, App> {
    enter_temporary_folder();
    let words = std::iter::once("mantissa-gui".into()).chain(folders.iter().map(|f| f.as_os_str().to_owned()));
    let app = App::new(&Args::try_parse_from(words).expect("flags of the window"), signals).expect("runs that can be opened");
    let draw = |ui: &mut egui::Ui, app: &mut App| {
        app.update(ui.ctx());
        app.draw(ui);
    };
    builder().build_ui_state(draw, app)
}

/// Draws frames until something holds.
#[track_caller]
pub(crate) fn until<S>(harness: &mut Harness<'_, S>, what: &str, holds: impl Fn(&Harness<'_, S>) -> bool) {
    for _ in 0..FRAMES {
        harness.step();
        if holds(harness) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("it never came: {what}");
}

pub(crate) fn config(recipe: RecipeName) -> TrainConfig {
    let model = ModelConfig::Gpt(GptConfig { layers: 2, width: 64, heads: 4, context: 32, ..GptConfig::tiny() });
    TrainConfig { model, batch: 4, ..made_up::config("gpt-tiny", recipe, 400) }
}

/// A run with 300 steps of everything.
pub(crate) fn full_run(recipe: RecipeName) -> Run {
    let mut run = Run::new(&format!("runs/gpt-tiny-{recipe}-1"), "gpt-tiny", Origin::Saved, config(recipe));
    let scaled = run.config.recipe.scaler.is_some();
    let names: Vec<String> = (0..2).flat_map(|h| ["attn.qkv", "mlp.up"].map(|l| format!("gpt.h{h}.{l}"))).collect();
    let (mut scale, mut skipped) = (2f32.powi(24), 0);
    for step in 1..=300u64 {
        let t = step as f32;
        let wave = ((step * 37) % 11) as f32 / 11.0;
        let skip = scaled && (step < 8 || step == 200);
        skipped += u64::from(skip);
        let report = StepReport {
            grad_norm: 1.0 + wave,
            found_inf: skip,
            skipped: skip,
            growth_tracker: scaled.then_some(step as i32 % 100),
            fp8: run.config.recipe.fp8.is_some().then(|| Fp8Report {
                underflow: (0.01, names[0].clone()),
                saturated: (0.0, names[1].clone()),
                nonfinite: 0.0,
            }),
            ..made_up::report(step, 5.5 / (1.0 + 0.01 * t) + 0.2 * wave, scaled.then_some(scale), skipped)
        };
        let timing = Timing { ms: 40.0 + f64::from(wave), items_per_s: 48_000.0 + 900.0 * f64::from(wave), mfu: 0.3 };
        run.push(Event::Step(StepEvent::new(&report, timing, false)));
        if skip {
            scale /= 2.0;
        }
        if step % 100 == 0 && scaled {
            scale *= 2.0;
        }
        if step % 5 == 0 {
            for (i, name) in names.iter().enumerate() {
                for (role, dtype) in [("x", DType::E4m3), ("weight", DType::E4m3), ("dy", DType::E5m2)] {
                    let amax = 2f32.powf(3.0 - i as f32 + (t / 40.0).sin());
                    run.push(tensor(step, &format!("{name}.{role}"), dtype, amax, run.config.recipe.fp8.is_some()));
                }
            }
        }
        if step % 50 == 0 {
            run.push(Event::Eval(EvalEvent::new(step, 5.6 / (1.0 + 0.01 * t), None)));
            run.push(Event::Sample(SampleEvent { step, sample: format!("fn main() {{\n    step({step});\n}}\n") }));
        }
    }
    run.push(Event::Profile(ProfileEvent { step: 253, profile: profile(), clock: "host clock".into() }));
    let row = |product: &str, kind: &str| TunedRow { product: product.into(), kind: kind.into() };
    let tuned = vec![row("NN bf16", "tiles"), row("NT bf16", "subgroups of 8"), row("TN bf16", "tiles")];
    run.push(Event::Tuned(TunedEvent { step: 1, tuned }));
    run.push(Event::Memory(MemoryEvent { step: 1, memory: memory(&run) }));
    let warning = Warning {
        kind: WarningKind::Fp8Underflow,
        step: 120,
        message: "more than 10% of the non-zero values become 0 in fp8: gpt.h0.attn.qkv.dy".into(),
        remedy: "take a shorter --amax-history, or --recipe fp8-current".into(),
    };
    run.push(Event::Warning(WarningEvent { step: 120, warning }));
    run
}

/// What is planned, and a little beside it.
fn memory(run: &Run) -> Vec<MemoryRow> {
    let planned = run.step.iter().flat_map(|s| &s.memory).map(|p| (p.purpose, p.bytes as u64));
    let all = planned.chain([("evaluation", 3 << 20), ("scratch", 5 << 18)]);
    all.map(|(purpose, bytes)| MemoryRow { purpose: purpose.into(), bytes }).collect()
}

fn profile() -> Vec<ProfileRow> {
    let row = |family: &str, ms| ProfileRow { family: family.into(), calls: 12, ms, flops: 4_000_000_000, bytes: 9_000_000 };
    vec![row("matmul", 21.0), row("attention", 9.5), row("map", 4.0), row("optimizer", 2.5), row("norm", 1.0)]
}

fn tensor(step: u64, name: &str, dtype: DType, amax: f32, fp8: bool) -> Event {
    let counts: Vec<u32> = (0..24u32).map(|i| 4000 - (12 - i as i32).pow(2) as u32 * 20).collect();
    let stats = TensorStats {
        stored: DType::Bf16,
        len: counts.iter().map(|n| u64::from(*n)).sum(),
        mean: 0.0,
        l1: 1.0,
        l2: 1.0,
        zero: 0.0,
        subnormal: Some(0.1),
        sqnr_db: Some(31.0),
        histogram: Histogram { first: 107, zeros: 0, counts },
    };
    let tensor = TensorReport {
        name: name.into(),
        dtype,
        amax: Some(amax),
        amax_nonfinite: None,
        scale: fp8.then(|| dtype.max_f32() / amax),
        underflow: Some(0.01),
        saturated: Some(0.0),
        nonfinite: Some(0.0),
        ring: fp8.then(|| ring(step, amax)),
        stats: Some(stats),
    };
    Event::Tensor(TensorEvent { step, tensor })
}

/// A ring that rises by a sixteenth an amax to `amax`.
fn ring(step: u64, amax: f32) -> AmaxRing {
    let held = step.min(1023) as usize;
    let newest = (0..held.min(16)).map(|age| Some(amax * (1.0 - age as f32 / 16.0))).collect();
    AmaxRing { room: 1023, held, largest: Some(amax), largest_age: 0, newest }
}

/// Three full runs, the fp8 one looked at.
pub(crate) fn full_store() -> Store {
    let mut store = Store::default();
    for recipe in [RecipeName::F32, RecipeName::F16, RecipeName::Fp8Delayed] {
        store.add(full_run(recipe));
    }
    store
}

/// A classifier with answers to two images.
pub(crate) fn classifier() -> Run {
    let mut config = config(RecipeName::F32);
    config.model = ModelConfig::preset("mlp").expect("a preset").0;
    let mut run = Run::new("runs/mlp-f32-1", "mlp", Origin::Saved, config);
    let image = |label, answer| Prediction { label, answer, confidence: 0.9, pixels: "00ff8000".into() };
    let predictions = Predictions { size: [2, 2], images: vec![image(3, 3), image(4, 9)] };
    run.push(Event::Predictions(PredictionsEvent { step: 10, predictions }));
    run
}

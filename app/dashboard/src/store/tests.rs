//! Events in, columns out: what panels rely on.

#[path = "../../tests/it/made_up.rs"]
mod made_up;

use super::*;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::telemetry::event::{EvalEvent, Event, SampleEvent, StepEvent, Timing};
use mantissa_core::telemetry::schema::StepScalar;

fn run(recipe: RecipeName) -> Run {
    Run::new("runs/mlp-1/", "mlp", Origin::Live, made_up::config("mlp", recipe, 10))
}

fn step(step: u64, loss: f32, scale: f32, skipped_total: u64) -> Event {
    let report = made_up::report(step, loss, Some(scale), skipped_total);
    Event::Step(StepEvent::new(&report, Timing { ms: 500.0, items_per_s: 100.0, mfu: 0.5 }, true))
}

#[test]
fn a_run_knows_its_step_and_its_name() {
    let run = run(RecipeName::F16);
    assert_eq!(run.name, "mlp-1");
    assert!(run.step.as_ref().unwrap().instructions.len() > 10);
}

#[test]
fn the_life_of_a_loss_scale_is_marked() {
    let mut r = run(RecipeName::F16);
    let story = [(65536.0, 0), (65536.0, 1), (32768.0, 1), (65536.0, 1), (1e9, 2), (5e8, 3), (6e-5, 4)];
    for (i, (scale, skipped)) in story.into_iter().enumerate() {
        r.push(step(i as u64 + 1, 2.0, scale, skipped));
    }
    let marks: Vec<(u64, MarkKind)> = r.marks.iter().map(|m| (m.step, m.kind)).collect();
    use MarkKind::{ByHand, Floor, Growth, Overflow};
    assert_eq!(marks, [(2, Overflow), (4, Growth), (5, ByHand), (5, Overflow), (6, Overflow), (7, Floor)]);
    assert_eq!(r.skipped, 4);
}

#[test]
fn rows_smooth_time_and_refuse_the_past() {
    let mut r = run(RecipeName::F32);
    r.push(step(1, 4.0, 1.0, 0));
    r.push(step(2, f32::NAN, 1.0, 0));
    r.push(step(3, 2.0, 1.0, 0));
    r.push(step(3, 9.0, 1.0, 0));
    assert_eq!((r.taken(), r.refused, r.last(StepScalar::Loss as usize)), (3, 1, Some(2.0)));
    let smooth = r.last(SMOOTH).unwrap();
    assert!(smooth > 2.0 && smooth < 4.0, "{smooth}");
    let mut store = Store::default();
    store.add(r);
    let x = |axis, s: &mut Store| {
        s.axis = axis;
        let (run, x) = (&s.runs[0], s.x_of_step(&s.runs[0], 3));
        assert_eq!(s.x(run, &run.steps)(2), x, "a row and its step have one place");
        x
    };
    assert_eq!(x(Axis::Step, &mut store), 3.0);
    assert_eq!(x(Axis::Items, &mut store), 3.0 * store.runs[0].items_per_step() as f64);
    assert!((x(Axis::Time, &mut store) - 1.5).abs() < 1e-9);
}

#[test]
fn plots_reach_from_the_first_to_the_last_step_of_all_runs() {
    let mut store = Store::default();
    assert_eq!(store.x_range(), None);
    for steps in [3..=8, 1..=4] {
        let mut r = run(RecipeName::F32);
        steps.for_each(|i| r.push(step(i, 2.0, 1.0, 0)));
        store.add(r);
    }
    store.add(run(RecipeName::F32));
    assert_eq!(store.x_range(), Some([1.0, 8.0]));
    store.axis = Axis::Time;
    assert_eq!(store.x_range(), Some([0.5, 3.0]));
}

#[test]
fn a_loss_that_is_lost_is_said_to_be() {
    let mut r = run(RecipeName::F32);
    assert_eq!(r.loss_text(), None);
    r.push(step(1, 2.5, 1.0, 0));
    assert_eq!(r.loss_text().unwrap(), "loss 2.5000");
    r.push(step(2, f32::NAN, 1.0, 0));
    assert_eq!(r.loss_text().unwrap(), "loss not finite");
}

#[test]
fn runs_keep_their_places_when_another_is_closed() {
    let mut store = Store::default();
    for _ in 0..4 {
        store.add(run(RecipeName::F32));
    }
    (store.race, store.selected) = (vec![0, 1, 3], 3);
    store.remove(1);
    assert_eq!((store.runs.len(), &store.race[..], store.selected), (3, &[0, 2][..], 2));
    store.remove(2);
    assert_eq!((&store.race[..], store.selected), (&[0][..], 1));
}

#[test]
fn tensors_beyond_the_most_are_refused() {
    let mut r = run(RecipeName::F32);
    for i in 0..5_000 {
        let line = format!(r#"{{"step":1,"tensor":{{"name":"{i}","dtype":"e4m3","amax":1.0}}}}"#);
        r.push(Event::from_line(&line).unwrap().unwrap());
    }
    assert_eq!((r.tensors.len(), r.refused), (4096, 5_000 - 4096));
}

#[test]
fn lists_are_bounded_and_keep_the_newest() {
    let mut r = run(RecipeName::F32);
    for i in 1..=500 {
        r.push(Event::Sample(SampleEvent { step: i, sample: "x".into() }));
        r.push(Event::Eval(EvalEvent::new(i, 2.0, None)));
    }
    assert!(r.samples.len() <= 64 && r.samples.back().unwrap().step == 500);
    assert_eq!(r.val_loss(), Some(2.0));
    r.clear();
    assert!(r.samples.is_empty() && r.evals.is_empty());
}

#[test]
fn a_long_run_stays_small() {
    let mut r = run(RecipeName::F16);
    for i in 1..=600_000 {
        r.push(step(i, 2.0, 65536.0, i / 2));
    }
    // Every column of 2^18 rows with their levels, where a vector may have twice the room it needs.
    assert!(r.size_bytes() <= 2 * run::COLUMNS * (1 << 18) * 11 + (1 << 24), "{}", r.size_bytes());
    assert!(r.marks.len() <= 4096 && r.taken() == 600_000);
}

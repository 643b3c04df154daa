//! A real trainer behind the dashboard: small models, few steps.

use crate::support::{app, hearing, until};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use mantissa_app::cli::TrainArgs;
use mantissa_app::stop::Signal;
use mantissa_core::precision::recipe::RecipeName;
use mantissa_dashboard::desktop::{App, Signals, Told, Trainer};
use mantissa_dashboard::form::{Form, Notice, Phase};
use mantissa_dashboard::store::{MarkKind, Run};
use std::path::{Path, PathBuf};

/// A classifier that trains in milliseconds, on the drawn digits.
fn small(recipe: RecipeName, steps: u64) -> Form {
    Form { model: "mlp".into(), batch: 4, seq_len: 0, steps, recipe, stats_every: 2, ..Form::default() }
}

fn with(form: Form) -> Harness<'static, App> {
    let mut h = app(&[]);
    h.state_mut().dashboard.bar.form = form;
    h.step();
    h
}

fn phase(h: &Harness<'_, App>) -> Phase {
    h.state().dashboard.bar.status.phase
}

fn run<'a>(h: &'a Harness<'_, App>) -> Option<&'a Run> {
    h.state().dashboard.store.run()
}

fn taken(h: &Harness<'_, App>) -> u64 {
    run(h).map_or(0, Run::taken)
}

#[test]
fn a_run_is_started_paused_stepped_stopped_opened_and_resumed() {
    let mut h = with(small(RecipeName::F32, 100_000));
    h.get_by_label("Start").click();
    until(&mut h, "three steps", |h| taken(h) >= 3);
    h.get_by_label_contains("loss over steps");
    h.key_press(egui::Key::Space);
    until(&mut h, "the pause", |h| phase(h) == Phase::Paused);
    h.step();
    let before = taken(&h);
    h.key_press(egui::Key::S);
    until(&mut h, "one more step", |h| taken(h) > before);
    h.run_steps(20);
    assert_eq!(taken(&h), before + 1, "one step and no more");
    h.get_by_label("Save").click();
    until(&mut h, "the checkpoint", |h| h.state().dashboard.bar.status.notice == Some(Notice::Good("checkpoint saved".into())));
    h.get_by_label("Continue").click();
    until(&mut h, "more steps", |h| taken(h) > before + 1);
    h.get_by_label("Stop").click();
    until(&mut h, "the end", |h| phase(h) == Phase::Idle);
    let (folder, steps) = (PathBuf::from(&run(&h).unwrap().folder), taken(&h));
    assert!(folder.join("checkpoints").is_dir());

    let mut saved = app(&[Path::new(&folder)]);
    until(&mut saved, "the log", |h| taken(h) == steps);
    saved.get_by_label_contains("loss over steps");
    saved.get_by_label("Resume").click();
    until(&mut saved, "steps beyond the saved ones", |h| taken(h) > steps);
    assert_eq!(run(&saved).unwrap().refused, 0, "no event came twice");
    saved.get_by_label("Stop").click();
    until(&mut saved, "the end", |h| phase(h) == Phase::Idle);
}

#[test]
fn another_recipe_is_chosen_and_said_to_be_recorded_anew() {
    let mut h = with(small(RecipeName::Bf16, 100_000));
    h.get_by_label("Start").click();
    until(&mut h, "a step", |h| taken(h) >= 1);
    h.get_by_role_and_label(egui::Role::ComboBox, "recipe").click();
    h.step();
    h.step();
    h.get_by_role_and_label(egui::Role::Button, "mxfp8").click();
    until(&mut h, "the choice", |h| h.state().dashboard.bar.form.recipe == RecipeName::Mxfp8);
    h.step();
    h.get_by_label_contains("records the step anew: recipe");
    h.key_press(egui::Key::R);
    until(&mut h, "the next run", |h| run(h).is_some_and(|r| r.config.recipe.name == RecipeName::Mxfp8 && r.taken() > 0));
    assert_eq!(h.state().dashboard.store.runs.len(), 2);
    h.get_by_label("Stop").click();
    until(&mut h, "the end", |h| phase(h) == Phase::Idle);
}

#[test]
fn an_injected_overflow_is_skipped_marked_and_recovered_from() {
    let mut h = with(small(RecipeName::F16, 100_000));
    h.get_by_label("Start").click();
    until(&mut h, "steps", |h| taken(h) >= 3);
    h.get_by_label("Inject an overflow").click();
    let marked = |r: &Run, kind| r.marks.iter().any(|m| m.kind == kind);
    until(&mut h, "the overflow", |h| run(h).is_some_and(|r| marked(r, MarkKind::ByHand) && marked(r, MarkKind::Overflow)));
    until(&mut h, "a good step after it", |h| {
        run(h).is_some_and(|r| r.marks.iter().rfind(|m| m.kind == MarkKind::Overflow).is_some_and(|m| r.taken() > m.step + 3))
    });
    assert!(run(&h).unwrap().skipped > 0);
    h.step();
    assert!(h.query_by_label_contains(" 0 overflow markers").is_none());
    h.get_by_label_contains("overflow markers");
    h.get_by_label("Stop").click();
    until(&mut h, "the end", |h| phase(h) == Phase::Idle);
}

#[test]
fn fp8_amaxes_and_histograms_arrive() {
    let form = Form { batch: 32, ..small(RecipeName::Fp8Delayed, 12) };
    let mut h = with(form);
    h.get_by_label("Start").click();
    until(&mut h, "the last step", |h| taken(h) == 12 && phase(h) == Phase::Idle);
    let r = run(&h).unwrap();
    assert!(r.tensors.iter().any(|t| t.is_scaled() && t.rows.len() == 6), "{:?}", r.tensors.len());
    assert!(r.tensors.iter().any(|t| !t.reports.items().is_empty()));
    assert!(r.profile.is_some() && r.predictions.is_some() && r.val_loss().is_some());
    h.step();
    h.get_by_label_contains("amax of ");
}

#[test]
fn recipes_race_in_turn() {
    let mut h = with(Form { race: vec![RecipeName::F32, RecipeName::Bf16], ..small(RecipeName::F32, 20) });
    h.get_by_label("Precision race").click();
    h.run_steps(20);
    h.get_by_label("Start race").click();
    until(&mut h, "both runs", |h| {
        let runs = &h.state().dashboard.store.runs;
        runs.len() == 2 && runs.iter().all(|r| r.taken() == 20) && phase(h) == Phase::Idle
    });
    h.get_by_label("Race").click();
    h.run_steps(4);
    h.get_by_label("losses of 2 recipes");
}

#[test]
fn an_error_is_told_with_what_helps() {
    let mut h = with(Form { data: "no-such-folder".into(), ..small(RecipeName::F32, 5) });
    h.get_by_label("Start").click();
    until(&mut h, "the error", |h| phase(h) == Phase::Idle && h.state().dashboard.bar.status.notice.is_some());
    h.step();
    h.get_by_label_contains("no-such-folder");
    h.get_by_label_contains("Check the path");
    h.get_by_label("Dismiss").click();
    h.run();
    assert!(h.query_by_label_contains("no-such-folder").is_none());
}

/// A path that was dropped on the window.
#[derive(Debug)]
struct Dropped(PathBuf);

impl egui::DroppedFile for Dropped {
    fn path(&self) -> &Path {
        &self.0
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        Err("nobody reads it here".into())
    }
}

#[test]
fn what_is_dropped_or_typed_is_opened() {
    let mut h = with(small(RecipeName::F32, 3));
    h.get_by_label("Start").click();
    until(&mut h, "the end of a short run", |h| taken(h) == 3 && phase(h) == Phase::Idle);
    let r = run(&h).unwrap();
    let folder = PathBuf::from(&r.folder);
    let memory = |purpose: &str| r.memory.iter().find(|m| m.purpose == purpose).map_or(0, |m| m.bytes);
    assert!(memory("weights") > 0 && memory("evaluation") > 0, "{:?}", r.memory);

    let mut other = app(&[]);
    other.step();
    other.input_mut().dropped_files.push(std::sync::Arc::new(Dropped(folder.clone())));
    until(&mut other, "the dropped run", |h| taken(h) == 3);
    other.input_mut().dropped_files.push(std::sync::Arc::new(Dropped("some/text.txt".into())));
    until(&mut other, "the dropped data", |h| h.state().dashboard.bar.form.data == "some/text.txt");
    other.step();
    other.get_by_label("data of the next run: some/text.txt");
    other.get_by_label("x").click();
    until(&mut other, "an empty store", |h| run(h).is_none());

    for (path, opened) in [("no/such/run", false), (folder.to_str().unwrap(), true)] {
        other.get_by_role_and_label(egui::Role::TextInput, "folder").focus();
        other.run_steps(2);
        other.get_by_role_and_label(egui::Role::TextInput, "folder").type_text(path);
        other.run_steps(2);
        other.get_by_label("Open").click();
        other.run_steps(4);
        match opened {
            false => drop(other.get_by_label_contains("one of the folders under runs/")),
            true => {
                until(&mut other, "the typed run", |h| taken(h) == 3);
                assert_eq!(other.state().dashboard.bar.status.notice, None, "an error is over when it has worked");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_signal_saves_what_is_trained_and_closes_the_window() {
    let signals = Signals::listen().unwrap();
    let mut h = hearing(&[], signals.clone());
    h.state_mut().dashboard.bar.form = small(RecipeName::F32, 100_000);
    h.step();
    h.get_by_label("Start").click();
    until(&mut h, "steps", |h| taken(h) >= 2);
    assert_eq!(signals.asked(), None);
    let kill = std::process::Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
    assert!(kill.unwrap().success());
    let closes = |h: &Harness<'_, App>| {
        h.output().viewport_output[&egui::ViewportId::ROOT].commands.contains(&egui::ViewportCommand::Close)
    };
    until(&mut h, "the close", closes);
    assert_eq!(signals.asked().map(Signal::exit_code), Some(143));
    let steps = taken(&h);
    let saved = Path::new(&run(&h).unwrap().folder).join(format!("checkpoints/step-{steps:08}/DONE"));
    assert!(saved.is_file(), "{}", saved.display());
    // A window that trains nothing closes at once.
    let mut idle = hearing(&[], signals);
    idle.step();
    assert!(closes(&idle));
}

#[test]
fn the_last_evaluation_is_made_up_for_and_no_step_follows_it() {
    let mut h = with(small(RecipeName::F32, 6));
    h.get_by_label("Start").click();
    until(&mut h, "the end", |h| taken(h) == 6 && phase(h) == Phase::Idle);
    let folder = PathBuf::from(&run(&h).unwrap().folder);
    let log = folder.join("events.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let eval = text.lines().find(|line| line.starts_with("{\"kind\":\"eval\",\"step\":6,")).expect("an evaluation");
    std::fs::write(&log, text.replace(&format!("{eval}\n"), "")).unwrap();
    let trainer = Trainer::start(vec![TrainArgs { resume: Some(Some(folder)), ..TrainArgs::default() }]).unwrap();
    let ended = loop {
        match trainer.told() {
            Some(Told::Ended(result)) => break result,
            Some(_) => {}
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(ended, Ok(()));
    let made_up = std::fs::read_to_string(&log).unwrap();
    assert!(made_up.lines().any(|line| line == eval), "{made_up}");
    assert_eq!(made_up.matches("\"kind\":\"step\"").count(), 6, "{made_up}");
}

#[test]
fn closing_while_training_saves_first() {
    let mut h = with(small(RecipeName::F32, 100_000));
    h.get_by_label("Start").click();
    until(&mut h, "steps", |h| taken(h) >= 2);
    let viewport = h.input_mut().viewports.entry(egui::ViewportId::ROOT).or_default();
    viewport.events.push(egui::ViewportEvent::Close);
    h.step();
    let commands = |h: &Harness<'_, App>| h.output().viewport_output[&egui::ViewportId::ROOT].commands.clone();
    assert!(commands(&h).contains(&egui::ViewportCommand::CancelClose));
    h.input_mut().viewports.entry(egui::ViewportId::ROOT).or_default().events.clear();
    until(&mut h, "the close", |h| commands(h).contains(&egui::ViewportCommand::Close));
    assert!(Path::new(&run(&h).unwrap().folder).join("checkpoints").is_dir());
}

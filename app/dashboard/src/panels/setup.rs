//! The settings of the next run, at the side, with the runs that are shown and things to try while one trains.

use super::run_bar::RunBarState;
use crate::form::{Action, Form, RACE};
use crate::palette;
use crate::store::Store;
use egui::{CollapsingHeader, ComboBox, DragValue, Grid, Response, RichText, ScrollArea, Ui};
use mantissa_core::model::PRESETS;
use mantissa_core::precision::recipe::RecipeName;
use std::ops::RangeInclusive;

/// A first loss scale that overflows for a while before it fits.
const TOO_HIGH_LOG2: i32 = 30;
/// What the loss scale is multiplied by to see it overflow.
const OVERFLOW_FACTOR: f32 = (1 << 16) as f32;

/// Draws the settings.
pub fn setup_ui(ui: &mut Ui, store: &Store, state: &mut RunBarState) {
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        ui.label(RichText::new("Next run").strong());
        form_ui(ui, state);
        anew_ui(ui, state);
        race_ui(ui, state);
        learn_ui(ui, store, state);
        runs_ui(ui, store, state);
    });
}

fn form_ui(ui: &mut Ui, state: &mut RunBarState) {
    let RunBarState { form, status, actions, .. } = state;
    Grid::new("settings").num_columns(2).spacing([8.0, 4.0]).show(ui, |ui| {
        row(ui, "model", |ui| {
            let before = form.model.clone();
            let response = combo(ui, "model", before.as_str().into(), |ui| {
                for preset in PRESETS {
                    ui.selectable_value(&mut form.model, preset.to_string(), preset);
                }
            });
            if form.model != before {
                form.take_preset();
            }
            response
        });
        row(ui, "data", |ui| {
            let field = egui::TextEdit::singleline(&mut form.data).desired_width(if status.has_files { 64.0 } else { 118.0 });
            let response = ui.add(field);
            let response =
                response.on_hover_text(format!("{}\nA file or a folder, which can be dropped here, or builtin", form.data));
            if status.has_files && ui.small_button("Choose").clicked() {
                actions.push(Action::PickData);
            }
            response
        });
        row(ui, "recipe", |ui| {
            let dark = ui.visuals().dark_mode;
            let text = |name: RecipeName| RichText::new(name.name()).color(palette::ink_on(dark, palette::recipe(name)));
            combo(ui, "recipe", text(form.recipe), |ui| {
                for name in RecipeName::ALL {
                    ui.selectable_value(&mut form.recipe, name, text(name));
                }
            })
        });
        if status.devices.len() > 1 {
            row(ui, "device", |ui| {
                combo(ui, "device", form.device.as_str().into(), |ui| {
                    for device in &status.devices {
                        ui.selectable_value(&mut form.device, device.clone(), device);
                    }
                })
            });
        }
        number(ui, "steps", &mut form.steps, 10.0, 1..=1_000_000_000);
        number(ui, "batch", &mut form.batch, 0.2, 1..=4096);
        if form.is_text() {
            number(ui, "sequence", &mut form.seq_len, 1.0, 1..=65536);
        }
        number(ui, "accumulation", &mut form.grad_accum, 0.1, 1..=1024);
        row(ui, "lr", |ui| {
            let value = DragValue::new(&mut form.lr).speed(1e-5).range(0.0..=10.0);
            ui.add(value.custom_formatter(|x, _| format!("{x:.1e}")).custom_parser(|t| t.parse().ok()))
        });
        row(ui, "clip", |ui| {
            let value = DragValue::new(&mut form.clip).speed(0.05).range(0.0..=1e6);
            ui.add(value).on_hover_text("Largest gradient norm; 0 for none")
        });
        number(ui, "seed", &mut form.seed, 1.0, 0..=i64::MAX as u64);
        precision_ui(ui, form);
        number(ui, "statistics every", &mut form.stats_every, 0.2, 0..=100_000);
    });
}

/// The knobs of the recipe.
fn precision_ui(ui: &mut Ui, form: &mut Form) {
    match form.recipe {
        RecipeName::F16 => {
            row(ui, "first scale", |ui| {
                let response = ui.add(DragValue::new(&mut form.init_scale_log2).speed(0.1).range(-14..=60).prefix("2^"));
                let hint = "Watch overflows back it off";
                if form.init_scale_log2 != TOO_HIGH_LOG2 && ui.small_button("Too high").on_hover_text(hint).clicked() {
                    form.init_scale_log2 = TOO_HIGH_LOG2;
                }
                response
            });
            number(ui, "growth interval", &mut form.growth_interval, 10.0, 0..=1_000_000);
        }
        RecipeName::Fp8Delayed => number(ui, "amax history", &mut form.amax_history, 1.0, 1..=1024),
        RecipeName::F32 | RecipeName::Tf32 | RecipeName::Bf16 | RecipeName::Fp8Current | RecipeName::Mxfp8 => {}
    }
}

/// Says which edits mean another recorded step than that of the run in progress.
fn anew_ui(ui: &mut Ui, state: &RunBarState) {
    let Some(current) = state.status.form.as_ref().filter(|_| state.status.phase.is_live()) else { return };
    if *current == state.form {
        return;
    }
    let anew = state.form.changes_program(current);
    let text = match anew[..] {
        [] => "Edits count from the next start.".to_string(),
        _ => format!("Edits count from the next start, which records the step anew: {}.", anew.join(", ")),
    };
    ui.label(RichText::new(text).small().color(palette::ink(ui, palette::WARN)));
}

fn race_ui(ui: &mut Ui, state: &mut RunBarState) {
    CollapsingHeader::new("Precision race").default_open(false).show(ui, |ui| {
        let form = &mut state.form;
        for name in RecipeName::ALL {
            let mut on = form.race.contains(&name);
            let full = form.race.len() >= *RACE.end();
            let check = egui::Checkbox::new(&mut on, RichText::new(name.name()).color(palette::ink(ui, palette::recipe(name))));
            if ui.add_enabled(!full || form.race.contains(&name), check).changed() {
                form.race.retain(|r| *r != name);
                if on {
                    form.race.push(name);
                }
            }
        }
        let ready = RACE.contains(&form.race.len()) && !state.status.phase.is_live();
        if ui
            .add_enabled(ready, egui::Button::new("Start race"))
            .on_disabled_hover_text("Choose 2 to 6 recipes while nothing trains")
            .clicked()
        {
            state.actions.push(Action::Race(form.clone()));
        }
    });
}

/// Experiments on the run in progress.
fn learn_ui(ui: &mut Ui, store: &Store, state: &mut RunBarState) {
    CollapsingHeader::new("Try it").default_open(true).show(ui, |ui| {
        let live = state.status.run.and_then(|i| store.runs.get(i)).filter(|_| state.status.phase.is_live());
        let scaled = live.is_some_and(|r| r.config.recipe.scaler.is_some());
        let button = egui::Button::new("Inject an overflow");
        let hint = "Multiplies the loss scale by 2^16: gradients overflow, steps are skipped and the scale backs off";
        if ui
            .add_enabled(scaled, button)
            .on_hover_text(hint)
            .on_disabled_hover_text("Needs a running f16 run: only f16 has a loss scale")
            .clicked()
        {
            state.actions.push(Action::ScaleLossScale(OVERFLOW_FACTOR));
        }
    });
}

fn runs_ui(ui: &mut Ui, store: &Store, state: &mut RunBarState) {
    if store.runs.is_empty() && !state.status.has_files {
        return;
    }
    ui.add_space(4.0);
    ui.label(RichText::new("Runs").strong());
    if state.status.has_files {
        open_ui(ui, state);
    }
    for (i, run) in store.runs.iter().enumerate() {
        ui.horizontal(|ui| {
            let (dot, _) = ui.allocate_exact_size(egui::Vec2::splat(9.0), egui::Sense::hover());
            ui.painter().circle_filled(dot.center(), 4.0, palette::run(store, i));
            if ui.selectable_label(store.selected == i, &run.name).on_hover_text(&run.folder).clicked() {
                state.selected = Some(i);
            }
            let busy = state.status.phase.is_live() && (state.status.run == Some(i) || store.race.contains(&i));
            if !busy && ui.small_button("x").on_hover_text("Close").clicked() {
                state.actions.push(Action::Close(i));
            }
        });
    }
}

/// A field for the folder of a run: for those who know it, and where there are no dialogs.
fn open_ui(ui: &mut Ui, state: &mut RunBarState) {
    ui.horizontal(|ui| {
        let label = ui.label(RichText::new("folder").weak());
        let field = egui::TextEdit::singleline(&mut state.folder).desired_width(110.0).hint_text("runs/gpt-tiny-f16-1");
        let field = ui.add(field).labelled_by(label.id);
        let field = field.on_hover_text("A folder with config.toml and events.jsonl, which can be dropped here as well");
        let entered = field.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
        let pressed = ui.add_enabled(!state.folder.is_empty(), egui::Button::new("Open").small()).clicked();
        if (entered || pressed) && !state.folder.is_empty() {
            state.actions.push(Action::Open(std::mem::take(&mut state.folder)));
        }
    });
}

/// A name and what it names, in two cells of a grid.
fn row(ui: &mut Ui, name: &str, add: impl FnOnce(&mut Ui) -> Response) {
    let label = ui.label(RichText::new(name).weak());
    ui.horizontal(|ui| add(ui).labelled_by(label.id));
    ui.end_row();
}

fn number<N: egui::emath::Numeric>(ui: &mut Ui, name: &str, value: &mut N, speed: f64, range: RangeInclusive<N>) {
    row(ui, name, |ui| ui.add(DragValue::new(value).speed(speed).range(range)));
}

fn combo(ui: &mut Ui, id: &str, selected: RichText, add: impl FnOnce(&mut Ui)) -> Response {
    ComboBox::from_id_salt(id).selected_text(selected).width(118.0).show_ui(ui, add).response
}

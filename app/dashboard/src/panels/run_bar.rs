//! The strip at the top: what is running, the buttons that steer it, and the one at the bottom: messages.

use crate::form::{Action, Form, Notice, Phase, Status};
use crate::palette;
use crate::store::{Axis, Origin, Run, Store};
use egui::{Button, Key, ProgressBar, RichText, Theme, Ui};
use mantissa_core::show;
use mantissa_core::telemetry::schema::StepScalar;

/// What the run bar and the settings share.
#[derive(Clone, Debug, Default)]
pub struct RunBarState {
    /// Settings of the next run.
    pub form: Form,
    /// What the host says about the trainer.
    pub status: Status,
    /// What the user wants done; the host takes them.
    pub actions: Vec<Action>,
    /// Horizontal axis that the user chose; whoever owns the store takes it.
    pub axis: Option<Axis>,
    /// Folder of the run to open, as it is typed.
    pub folder: String,
    /// Run that the user chose to look at; whoever owns the store takes it.
    pub selected: Option<usize>,
}

impl RunBarState {
    /// Does what a key stands for: space pauses and goes on, S takes one step, R starts again.
    pub fn keys(&mut self, ctx: &egui::Context) {
        if ctx.egui_wants_keyboard_input() {
            return;
        }
        let pressed = |key| ctx.input(|i| i.key_pressed(key) && i.modifiers.is_none());
        if pressed(Key::Space) {
            self.toggle();
        }
        if pressed(Key::S) && matches!(self.status.phase, Phase::Running | Phase::Paused) {
            self.actions.push(Action::StepOnce);
        }
        if pressed(Key::R) && self.status.phase != Phase::Starting {
            self.actions.push(Action::Start(self.form.clone()));
        }
    }

    fn toggle(&mut self) {
        match self.status.phase {
            Phase::Idle => self.actions.push(Action::Start(self.form.clone())),
            Phase::Running => self.actions.push(Action::Pause),
            Phase::Paused => self.actions.push(Action::Continue),
            Phase::Starting | Phase::Stopping => {}
        }
    }
}

/// Draws the strip.
pub fn run_bar_ui(ui: &mut Ui, store: &Store, state: &mut RunBarState) {
    ui.horizontal_wrapped(|ui| {
        ui.label(RichText::new("Mantissa").heading().strong());
        buttons_ui(ui, store, state);
        ui.separator();
        ui.label(RichText::new("axis").weak());
        for axis in Axis::ALL {
            if ui.selectable_label(store.axis == axis, store.axis_name(axis)).clicked() {
                state.axis = Some(axis);
            }
        }
        ui.separator();
        for (theme, name) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
            if ui.selectable_label(ui.ctx().theme() == theme, name).clicked() {
                ui.ctx().set_theme(theme);
            }
        }
    });
    let live = state.status.run.and_then(|i| store.runs.get(i));
    ui.horizontal(|ui| {
        let followed = store.run().filter(|r| state.status.phase == Phase::Idle && r.origin == Origin::Saved);
        let phase = match followed {
            Some(run) if run.taken() < run.config.schedule.steps => "following",
            Some(_) => "saved run",
            None => state.status.phase.name(),
        };
        ui.label(RichText::new(phase).strong().color(palette::ink(ui, phase_color(state.status.phase))));
        if let Some(run) = live.or(store.run()) {
            let (taken, of) = (run.taken(), run.config.schedule.steps);
            let share = taken as f32 / of.max(1) as f32;
            ui.add(ProgressBar::new(share).desired_width(130.0).desired_height(10.0).corner_radius(3.0).fill(palette::ACCENT));
            ui.label(progress(run, state.status.phase.is_live() && live.is_some()));
        }
    });
}

fn buttons_ui(ui: &mut Ui, store: &Store, state: &mut RunBarState) {
    let phase = state.status.phase;
    let mut act = |ui: &mut Ui, name: &str, on: bool, hint: &str, action: Action| {
        if ui.add_enabled(on, Button::new(name)).on_hover_text(hint).clicked() {
            state.actions.push(action);
        }
    };
    match phase {
        Phase::Idle => {
            let start = Button::new(RichText::new("Start").strong().color(egui::Color32::WHITE)).fill(palette::ACCENT);
            if ui.add(start).on_hover_text("Train with these settings (space)").clicked() {
                state.actions.push(Action::Start(state.form.clone()));
            }
        }
        Phase::Paused => act(ui, "Continue", true, "Go on (space)", Action::Continue),
        Phase::Starting | Phase::Running | Phase::Stopping => {
            act(ui, "Pause", phase == Phase::Running, "Wait between steps (space)", Action::Pause);
        }
    }
    let steered = matches!(phase, Phase::Running | Phase::Paused);
    let mut act = |ui: &mut Ui, name: &str, on: bool, hint: &str, action: Action| {
        if ui.add_enabled(on, Button::new(name)).on_hover_text(hint).clicked() {
            state.actions.push(action);
        }
    };
    act(ui, "Step", steered, "Take one step and wait (S)", Action::StepOnce);
    act(ui, "Stop", steered, "Save a checkpoint and end", Action::Stop);
    act(ui, "Save", steered, "Save a checkpoint and go on", Action::Save);
    if let Some(run) = store.run().filter(|_| state.status.has_files && phase == Phase::Idle) {
        let unfinished = run.taken() < run.config.schedule.steps;
        act(ui, "Resume", unfinished, "Go on with this run from its last checkpoint", Action::Resume(run.folder.clone()));
    }
    if state.status.has_files {
        act(ui, "Open run", true, "Look at a saved run, or follow one that is being written", Action::PickRun);
    }
}

fn phase_color(phase: Phase) -> egui::Color32 {
    match phase {
        Phase::Running => palette::GOOD,
        Phase::Starting | Phase::Paused | Phase::Stopping => palette::WARN,
        Phase::Idle => palette::dtype(mantissa_core::DType::F32),
    }
}

/// Where a run is, in one line.
fn progress(run: &Run, live: bool) -> String {
    let (taken, of) = (run.taken(), run.config.schedule.steps);
    let mut parts = vec![run.name.clone(), format!("step {taken}/{of}")];
    parts.extend(run.loss_text());
    if let Some(ms) = run.last(StepScalar::Ms as usize) {
        parts.push(format!("{ms:.1} ms"));
    }
    if live && taken > 0 && taken < of {
        let left = (of - taken) as f64 * run.secs() / run.steps.len().max(1) as f64;
        parts.push(format!("eta {}", show::clock(left)));
    }
    parts.join("  |  ")
}

/// Draws the messages: a strip at the bottom, so that nothing that can be pressed moves when it comes.
pub fn notice_ui(ui: &mut Ui, state: &mut RunBarState) {
    let Some(notice) = &state.status.notice else { return };
    let mut dismissed = false;
    egui::Panel::bottom("notice").show(ui, |ui| {
        ui.add_space(4.0);
        ui.horizontal_wrapped(|ui| {
            dismissed = ui.small_button("Dismiss").clicked();
            match notice {
                Notice::Good(text) => drop(ui.label(RichText::new(text).color(palette::ink(ui, palette::GOOD)))),
                Notice::Bad(what, remedy) => {
                    ui.label(RichText::new(what).strong().color(palette::ink(ui, palette::BAD)));
                    ui.label(*remedy);
                }
            }
        });
        ui.add_space(4.0);
    });
    if dismissed {
        state.status.notice = None;
    }
}

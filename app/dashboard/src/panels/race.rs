//! Recipes side by side on the same data and seed: curves, how far each is from the first, time and memory.

use super::{csv, empty, field};
use crate::chart::{Curve, Scale, base, describe, with_legend};
use crate::palette;
use crate::store::{Run, SMOOTH, Store};
use egui::{Grid, RichText, ScrollArea, Ui};
use egui_plot::{HLine, Line};
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::show;
use mantissa_core::telemetry::schema::StepScalar;
use serde::{Deserialize, Serialize};

/// What the panel remembers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RaceState {
    /// Show the difference of the losses instead of the losses.
    pub difference: bool,
}

/// The runs that are compared, the one that others are measured against first: those of the race, or else all there
/// are.
fn runners(store: &Store) -> Vec<usize> {
    let mut runs = if store.race.is_empty() { (0..store.runs.len()).collect() } else { store.race.clone() };
    runs.retain(|i| store.runs.get(*i).is_some_and(|r| !r.steps.is_empty()));
    // f32 is the reference, if it takes part.
    runs.sort_by_key(|i| (store.runs[*i].config.recipe.name != RecipeName::F32, *i));
    runs
}

/// Draws the panel.
pub fn race_ui(ui: &mut Ui, store: &Store, state: &mut RaceState) {
    let runs = runners(store);
    let [first, _, ..] = runs[..] else {
        let text = "Choose two to six recipes under Precision race and start them: they train in turn, step by step, on the same data and seed. \
                    Two saved runs can be compared as well.";
        return empty(ui, "No race yet", text);
    };
    let base_run = &store.runs[first];
    ScrollArea::horizontal().id_salt("race table").show(ui, |ui| table_ui(ui, store, &runs));
    ui.horizontal(|ui| {
        ui.selectable_value(&mut state.difference, false, "Loss");
        let name = format!("Difference from {}", base_run.config.recipe.name);
        ui.selectable_value(&mut state.difference, true, name);
    });
    if state.difference { difference_ui(ui, store, &runs) } else { losses_ui(ui, store, &runs) }
}

fn table_ui(ui: &mut Ui, store: &Store, runs: &[usize]) {
    let first = &store.runs[runs[0]];
    // The smallest window has room for all but the last column, which scrolls into view.
    ui.style_mut().override_text_style = Some(egui::TextStyle::Small);
    Grid::new("race table").num_columns(7).striped(true).spacing([10.0, 3.0]).show(ui, |ui| {
        for title in ["recipe", "loss", "val_loss", "from first", "ms a step", "memory", "step"] {
            ui.label(RichText::new(title).weak());
        }
        ui.end_row();
        for &i in runs {
            let run = &store.runs[i];
            ui.label(RichText::new(run.config.recipe.name.name()).strong().color(palette::ink(ui, palette::run(store, i))))
                .on_hover_text(&run.name);
            ui.label(run.last(SMOOTH).map_or("-".into(), |x| format!("{x:.4}")));
            ui.label(run.val_loss().map_or("-".into(), |x| format!("{x:.4}")));
            ui.label(difference_now(first, run).filter(|_| i != runs[0]).map_or("-".into(), |d| format!("{d:+.4}")));
            ui.label(times(first, run));
            ui.label(run.memory_bytes().map_or("-".into(), show::mebibytes));
            ui.label(run.taken().to_string());
            ui.end_row();
        }
    });
}

/// Mean milliseconds of a step, and their ratio to those of the first.
fn times(first: &Run, run: &Run) -> String {
    let ms = |r: &Run| 1e3 * r.secs() / r.taken().max(1) as f64;
    format!("{:.1} ({:.2}x)", ms(run), ms(run) / ms(first))
}

/// Smoothed loss above that of the first at the last step that both have taken.
fn difference_now(first: &Run, run: &Run) -> Option<f32> {
    difference(first, run, first.taken().min(run.taken()))
}

fn difference(first: &Run, run: &Run, step: u64) -> Option<f32> {
    let at = |r: &Run| r.steps.at(SMOOTH, step).map(|s| s.max);
    Some(at(run)? - at(first)?)
}

fn losses_ui(ui: &mut Ui, store: &Store, runs: &[usize]) {
    let plot = with_legend(base("race losses", Scale::Linear), ui).x_axis_label(store.axis_label()).show(ui, |plot| {
        for &i in runs {
            let run = &store.runs[i];
            let curve = Curve { store, run, table: &run.steps, column: SMOOTH, scale: Scale::Linear };
            curve.draw(plot, run.config.recipe.name.name(), palette::run(store, i), 2.0);
        }
    });
    describe(ui, &plot.response, &format!("losses of {} recipes", runs.len()));
}

fn difference_ui(ui: &mut Ui, store: &Store, runs: &[usize]) {
    let first = &store.runs[runs[0]];
    let plot = with_legend(base("race difference", Scale::Linear), ui).x_axis_label("step").show(ui, |plot| {
        let pixels = plot.response().rect.width() as usize;
        plot.hline(HLine::new("", 0.0).color(palette::run(store, runs[0])).width(1.0));
        for &i in &runs[1..] {
            let run = &store.runs[i];
            let last = first.taken().min(run.taken());
            // Smoothed curves have no spikes that a sample could miss.
            let steps = run.steps.steps();
            let stride = steps.len().div_ceil(pixels.max(1)).max(1);
            let points = steps.iter().step_by(stride).take_while(|s| **s <= last);
            let points: Vec<[f64; 2]> =
                points.filter_map(|s| Some([*s as f64, f64::from(difference(first, run, *s)?)])).collect();
            plot.line(Line::new(run.config.recipe.name.name(), points).color(palette::run(store, i)).width(2.0));
        }
    });
    describe(ui, &plot.response, "difference of losses over steps");
}

/// The race as CSV: a row a step, a column a recipe.
pub fn race_csv(store: &Store) -> String {
    let runs = runners(store);
    let names = runs.iter().map(|i| store.runs[*i].name.as_str());
    let steps = runs.first().map_or(&[][..], |i| store.runs[*i].steps.steps());
    let rows = steps.iter().map(|step| {
        let losses = runs.iter().map(|i| field(store.runs[*i].steps.at(StepScalar::Loss as usize, *step).map(|s| s.max)));
        std::iter::once(step.to_string().into()).chain(losses).collect()
    });
    csv(std::iter::once("step").chain(names), rows)
}

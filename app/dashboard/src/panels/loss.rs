//! Loss curves of every run, one over the other: raw training loss faintly, smoothed on top, held-out loss as points.

use super::{csv, empty, field, parts_ui};
use crate::chart::{Curve, Scale, describe, over_steps, with_legend};
use crate::palette;
use crate::store::{SMOOTH, Store};
use egui::Ui;
use egui_plot::{MarkerShape, Points};
use mantissa_core::telemetry::schema::StepScalar;
use serde::{Deserialize, Serialize};

/// Switches of the panel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LossState {
    /// Logarithmic vertical axis.
    pub log: bool,
    /// The training loss of each step.
    pub raw: bool,
}

impl Default for LossState {
    fn default() -> LossState {
        LossState { log: false, raw: true }
    }
}

/// Draws the panel.
pub fn loss_ui(ui: &mut Ui, store: &Store, state: &mut LossState) {
    if store.runs.iter().all(|r| r.steps.is_empty()) {
        return empty(
            ui,
            "No loss yet",
            "Start a run to see its loss fall. Runs are drawn over each other, in the colour of their recipe.",
        );
    }
    ui.horizontal_wrapped(|ui| {
        ui.checkbox(&mut state.raw, "raw")
            .on_hover_text("The loss of each step, thin. The thick line is smoothed, so it lags behind.");
        ui.checkbox(&mut state.log, "log loss");
        parts_ui(ui, summary(store));
    });
    let scale = if state.log { Scale::Log10 } else { Scale::Linear };
    let plot = with_legend(over_steps("loss", store, scale), ui).show(ui, |plot| {
        for (i, run) in store.runs.iter().enumerate() {
            let color = palette::run(store, i);
            let curve = |column: usize| Curve { store, run, table: &run.steps, column, scale };
            if state.raw {
                // Without a name of its own it stays out of the legend.
                curve(StepScalar::Loss as usize).draw(plot, "", color.gamma_multiply(0.3), 1.0);
            }
            curve(SMOOTH).draw(plot, &run.name, color, 2.0);
            let val = Curve { store, run, table: &run.evals, column: 0, scale }.points(plot);
            if !val.is_empty() {
                // Under the same name, so that one entry of the legend hides both.
                plot.points(Points::new(&run.name, val).color(color).radius(3.5).shape(MarkerShape::Diamond).filled(true));
            }
        }
    });
    describe(ui, &plot.response, "loss over steps");
}

fn summary(store: &Store) -> Vec<String> {
    let Some(run) = store.run() else { return Vec::new() };
    let mut parts: Vec<String> = run.loss_text().into_iter().collect();
    if let Some(val) = run.val_loss() {
        parts.push(format!("val_loss {val:.4}"));
    }
    if let Some(accuracy) = run.evals.last().map(|(_, v)| v[1]).filter(|a| !a.is_nan()) {
        parts.push(format!("val_accuracy {:.1}%", 100.0 * accuracy));
    }
    parts
}

/// The curves as CSV.
pub fn loss_csv(store: &Store) -> String {
    let steps = store.runs.iter().flat_map(|run| {
        run.steps.steps().iter().enumerate().map(move |(row, step)| {
            let of = |c: usize| field(run.steps.over(c, row..row + 1).map(|s| s.max));
            let val = run.evals.steps().binary_search(step).ok().and_then(|at| run.evals.over(0, at..at + 1));
            vec![
                run.name.as_str().into(),
                step.to_string().into(),
                of(StepScalar::Loss as usize),
                of(SMOOTH),
                of(StepScalar::Lr as usize),
                of(StepScalar::GradNorm as usize),
                field(val.map(|s| s.max)),
            ]
        })
    });
    csv(["run", "step", "loss", "smoothed", "lr", "grad_norm", "val_loss"], steps)
}

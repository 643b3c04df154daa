//! The trainer's warnings, each with what helps and a way to the panel that shows it.

use super::{csv, empty};
use crate::form::Panel;
use crate::palette;
use crate::store::{Run, Store};
use egui::{RichText, ScrollArea, Ui};
use mantissa_core::telemetry::warning::WarningKind;
use serde::{Deserialize, Serialize};

/// What the panel remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HealthState {
    /// The panel that the user asked to see, and the tensor in it; whoever draws the panels takes it.
    #[serde(skip)]
    pub go_to: Option<(Panel, Option<String>)>,
}

/// The panel in which the numbers of a warning can be seen.
pub const fn shown_in(kind: WarningKind) -> Panel {
    match kind {
        WarningKind::NonFinite | WarningKind::Skipped | WarningKind::Stuck | WarningKind::ZeroGradients => Panel::Loss,
        WarningKind::ScaleSpiral | WarningKind::ScaleAtFloor | WarningKind::ManySkips => Panel::LossScale,
        WarningKind::DeadFp8 | WarningKind::Fp8NonFinite => Panel::Amax,
        WarningKind::Fp8Underflow | WarningKind::Fp8Saturation => Panel::Histogram,
    }
}

/// Draws the panel.
pub fn health_ui(ui: &mut Ui, store: &Store, state: &mut HealthState) {
    let Some(run) = store.run() else {
        return empty(
            ui,
            "No run to look after",
            "While a run trains, overflows, dead or saturating tensors and lost weights are named here, with what helps.",
        );
    };
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        if run.warnings.is_empty() {
            ui.label(RichText::new(well(run)).color(palette::ink(ui, palette::GOOD)));
        }
        for warning in run.warnings.iter().rev() {
            egui::Frame::group(ui.style()).show(ui, |ui| {
                ui.set_width(ui.available_width());
                ui.horizontal_wrapped(|ui| {
                    ui.label(RichText::new(format!("step {}", warning.step)).small().weak());
                    ui.label(RichText::new(&warning.message).strong().color(palette::ink(ui, palette::WARN)));
                });
                ui.label(&warning.remedy);
                let panel = shown_in(warning.kind);
                if ui.link(format!("Show in {}", panel.name())).clicked() {
                    state.go_to = Some((panel, tensor_named(run, &warning.message)));
                }
            });
        }
        for line in counts(run) {
            ui.label(RichText::new(line).small().weak());
        }
    });
}

/// The first tensor of the run that a message names.
fn tensor_named(run: &Run, message: &str) -> Option<String> {
    let mut words = message.split([' ', ',']);
    words.find(|word| run.tensors.iter().any(|t| t.name == *word)).map(str::to_string)
}

fn well(run: &Run) -> String {
    match (run.taken(), run.skipped) {
        (0, _) => "Nothing to report before the first step.".into(),
        (steps, 0) => format!("{steps} steps without a warning."),
        (steps, skipped) => format!("{steps} steps without a warning; {skipped} skipped while the loss scale found its place."),
    }
}

/// What was lost on the way here.
fn counts(run: &Run) -> Vec<String> {
    let one = |n: u64, what: &str| (n > 0).then(|| format!("{n} {what}"));
    [
        one(run.dropped, "events dropped rather than slow a step"),
        one(run.corrupt, "lines of the log are damaged or out of order"),
        one(run.refused, "events came twice or of too many tensors"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The warnings as CSV.
pub fn health_csv(store: &Store) -> String {
    let warnings = store.run().into_iter().flat_map(|r| &r.warnings);
    let row = |w: &mantissa_core::telemetry::warning::Warning| {
        vec![w.step.to_string().into(), w.message.clone().into(), w.remedy.clone().into()]
    };
    csv(["step", "what", "remedy"], warnings.map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_shown_where_its_numbers_are() {
        use WarningKind::{
            DeadFp8, Fp8NonFinite, Fp8Saturation, Fp8Underflow, ManySkips, NonFinite, ScaleAtFloor, ScaleSpiral, Skipped,
            Stuck, ZeroGradients,
        };
        let places = [
            (Panel::Loss, &[NonFinite, Skipped, Stuck, ZeroGradients][..]),
            (Panel::LossScale, &[ScaleSpiral, ScaleAtFloor, ManySkips]),
            (Panel::Amax, &[DeadFp8, Fp8NonFinite]),
            (Panel::Histogram, &[Fp8Underflow, Fp8Saturation]),
        ];
        for (panel, kinds) in places {
            kinds.iter().for_each(|a| assert_eq!(shown_in(*a), panel, "{a:?}"));
        }
    }
}

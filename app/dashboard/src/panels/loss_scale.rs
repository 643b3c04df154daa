//! The loss scale of a run on an axis of powers of two, with what happened to it: overflows, growth, its floor.

use super::{csv, empty, field, line_ui};
use crate::chart::{Curve, Scale, describe, over_steps, with_legend};
use crate::palette;
use crate::store::{Mark, MarkKind, Run, Store};
use egui::{Color32, RichText, Ui};
use egui_plot::{HLine, LineStyle, MarkerShape, Points};
use mantissa_core::show;
use mantissa_core::telemetry::schema::StepScalar;
use mantissa_core::telemetry::warning::WarningKind;

/// Height of a panel that has room for the remedy of a warning above its plot.
const REMEDY_ROOM: f32 = 280.0;

impl MarkKind {
    const ALL: [MarkKind; 4] = [MarkKind::Overflow, MarkKind::Growth, MarkKind::Floor, MarkKind::ByHand];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            MarkKind::Overflow => "overflow, step skipped",
            MarkKind::Growth => "growth",
            MarkKind::Floor => "overflow at the floor",
            MarkKind::ByHand => "set by hand",
        }
    }

    const fn look(self) -> (Color32, MarkerShape) {
        match self {
            MarkKind::Overflow => (palette::BAD, MarkerShape::Down),
            MarkKind::Growth => (palette::GOOD, MarkerShape::Up),
            MarkKind::Floor => (palette::BAD, MarkerShape::Square),
            MarkKind::ByHand => (palette::WARN, MarkerShape::Diamond),
        }
    }
}

/// Draws the panel.
pub fn loss_scale_ui(ui: &mut Ui, store: &Store) {
    let Some(shown) = shown(store) else {
        let text = "Only f16 needs a loss scale: its range is so small that gradients are multiplied before the backward pass. Start a run with the \
                    recipe f16 and a first scale of 2^30 to watch it being found.";
        return empty(ui, "No loss scale to see", text);
    };
    let run = &store.runs[shown];
    let growth_interval = run.config.recipe.scaler.map_or(0, |s| s.growth_interval);
    if let Some(warning) =
        run.warnings.iter().rev().find(|w| matches!(w.kind, WarningKind::ScaleSpiral | WarningKind::ScaleAtFloor))
    {
        egui::Frame::new().fill(palette::BAD.gamma_multiply(0.2)).inner_margin(6.0).corner_radius(4.0).show(ui, |ui| {
            ui.label(RichText::new(&warning.message).strong().color(palette::ink(ui, palette::BAD)));
            // In a low panel the curve is worth more than what Health says as well.
            if ui.available_height() > REMEDY_ROOM {
                ui.label(&warning.remedy);
            }
        });
    }
    line_ui(ui, summary(run, growth_interval));
    let color = palette::run(store, shown);
    let plot = with_legend(over_steps("loss scale", store, Scale::Log2), ui).show(ui, |plot| {
        let column = StepScalar::LossScale as usize;
        let line = Curve { store, run, table: &run.steps, column, scale: Scale::Log2 };
        let points = stairs(line.points(plot));
        if !points.is_empty() {
            plot.line(egui_plot::Line::new("loss_scale", points).color(color).width(2.0).allow_band(false));
        }
        let floor = run.config.recipe.scaler.map_or(0.0, |s| s.min_scale).log2();
        if floor.is_finite() && run.last(StepScalar::LossScale as usize).is_some_and(|s| f64::from(s.log2()) < floor + 8.0) {
            plot.hline(HLine::new("floor", floor).color(palette::BAD.gamma_multiply(0.6)).style(LineStyle::dashed_dense()));
        }
        for kind in MarkKind::ALL {
            let (color, shape) = kind.look();
            let of = run.marks.iter().filter(|m| m.kind == kind);
            let points: Vec<[f64; 2]> = of.map(|m| [store.x_of_step(run, m.step), f64::from(m.scale).log2()]).collect();
            if !points.is_empty() {
                plot.points(Points::new(kind.name(), points).color(color).shape(shape).radius(5.0).filled(true));
            }
        }
    });
    let overflows = run.marks.iter().filter(|m| is_overflow(m)).count();
    describe(ui, &plot.response, &format!("loss scale over steps, {overflows} overflow markers"));
}

fn shown(store: &Store) -> Option<usize> {
    store.run_with(|r| r.config.recipe.scaler.is_some())
}

fn is_overflow(mark: &Mark) -> bool {
    match mark.kind {
        MarkKind::Overflow | MarkKind::Floor => true,
        MarkKind::Growth | MarkKind::ByHand => false,
    }
}

fn summary(run: &Run, growth_interval: u32) -> Vec<String> {
    let mut parts = vec![run.name.clone()];
    if let Some(scale) = run.last(StepScalar::LossScale as usize) {
        parts.push(format!("loss_scale {}", show::loss_scale(scale)));
    }
    parts.push(format!("skipped {}", run.skipped));
    if let (Some(good), true) = (run.last(StepScalar::GrowthTracker as usize), growth_interval > 0) {
        parts.push(format!("{good} of {growth_interval} good steps until it grows"));
    }
    parts
}

/// Holds each value until the next one.
fn stairs(points: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let mut out = Vec::with_capacity(2 * points.len());
    for p in points {
        if let Some(last) = out.last().copied() {
            let [_, y]: [f64; 2] = last;
            out.push([p[0], y]);
        }
        out.push(p);
    }
    out
}

/// The scale and its marks as CSV.
pub fn loss_scale_csv(store: &Store) -> String {
    let rows = shown(store).map(|i| &store.runs[i]).into_iter().flat_map(|run| {
        run.steps.steps().iter().enumerate().map(move |(row, step)| {
            let of = |c: StepScalar| field(run.steps.over(c as usize, row..row + 1).map(|s| s.max));
            let marks: Vec<&str> = run.marks.iter().filter(|m| m.step == *step).map(|m| m.kind.name()).collect();
            vec![step.to_string().into(), of(StepScalar::LossScale), of(StepScalar::GrowthTracker), marks.join("; ").into()]
        })
    });
    csv(["step", "loss_scale", "growth_tracker", "what"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stairs_hold_each_value() {
        assert_eq!(stairs(vec![[1.0, 5.0], [3.0, 4.0]]), [[1.0, 5.0], [3.0, 5.0], [3.0, 4.0]]);
        assert!(stairs(Vec::new()).is_empty());
    }
}

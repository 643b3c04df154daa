//! Speed over time, where the time of a step goes, and what memory is for.

use super::{csv, empty, field, left, parts_ui};
use crate::chart::{Curve, Scale, describe, over_steps, with_legend};
use crate::palette;
use crate::store::{Run, Store};
use egui::{RichText, ScrollArea, Sense, Ui, Vec2};
use mantissa_core::plan::explain::Explanation;
use mantissa_core::show;
use mantissa_core::telemetry::event::TunedRow;
use mantissa_core::telemetry::schema::StepScalar;
use serde::{Deserialize, Serialize};

/// Width of the names of bars.
const NAMES: f32 = 90.0;
/// Width of the notes beside them.
const NOTES: f32 = 150.0;

/// What is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// Throughput over steps.
    #[default]
    Speed,
    /// Time of a step by operation.
    Operations,
    /// Planned and used memory by purpose.
    Memory,
}

/// What the panel remembers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ThroughputState {
    /// What is shown.
    pub view: View,
}

/// Draws the panel.
pub fn throughput_ui(ui: &mut Ui, store: &Store, state: &mut ThroughputState) {
    let Some(run) = store.run() else {
        return empty(
            ui,
            "No speed yet",
            "Start a run to see its throughput, where the time of a step goes and what memory it plans.",
        );
    };
    ui.horizontal_wrapped(|ui| {
        for (view, name) in [(View::Speed, "Speed"), (View::Operations, "Operations"), (View::Memory, "Memory")] {
            ui.selectable_value(&mut state.view, view, name);
        }
        parts_ui(ui, summary(run));
    });
    match state.view {
        View::Speed => speed_ui(ui, store),
        View::Operations => operations_ui(ui, run),
        View::Memory => memory_ui(ui, run),
    }
}

/// The last step in numbers.
fn summary(run: &Run) -> Vec<String> {
    let (Some(ms), Some(rate)) = (run.last(StepScalar::Ms as usize), run.last(StepScalar::Rate as usize)) else {
        return Vec::new();
    };
    let mut parts = vec![format!("{} {}/s", show::prefixed(rate.into()), run.unit()), format!("{ms:.1} ms a step")];
    if let Ok(step) = &run.step {
        parts.push(format!("{}FLOP/s", show::spaced(step.totals.flops as f64 / (f64::from(ms) / 1e3))));
    }
    if let Some(mfu) = run.last(StepScalar::Mfu as usize) {
        parts.push(format!("mfu {:.1}%", 100.0 * mfu));
    }
    parts
}

fn speed_ui(ui: &mut Ui, store: &Store) {
    let plot = with_legend(over_steps("throughput", store, Scale::Linear), ui).include_y(0.0).show(ui, |plot| {
        for (i, run) in store.runs.iter().enumerate() {
            let curve = Curve { store, run, table: &run.steps, column: StepScalar::Rate as usize, scale: Scale::Linear };
            curve.draw(plot, &format!("{} {}/s", run.name, run.unit()), palette::run(store, i), 1.5);
        }
    });
    describe(ui, &plot.response, "throughput over steps");
}

fn operations_ui(ui: &mut Ui, run: &Run) {
    if !run.tuned.is_empty() {
        let each = run.tuned.iter().map(|t| format!("{}: {}", t.product, t.kind)).collect::<Vec<_>>().join("\n");
        ui.label(RichText::new(tuned(&run.tuned)).small().weak()).on_hover_text(each);
    }
    let Some(profile) = &run.profile else {
        return empty(
            ui,
            "No times yet",
            "A run that is trained here times one step now and then, instruction by instruction.",
        );
    };
    let total: f64 = profile.profile.iter().map(|r| r.ms).sum();
    let mut text = format!("step {}: {total:.1} ms in {} kernels", profile.step, profile.profile.len());
    if !profile.clock.is_empty() {
        text += &format!(", by {}", profile.clock);
    }
    ui.label(RichText::new(text).small().weak());
    let rows = profile.profile.iter().map(|r| {
        let secs = (r.ms / 1e3).max(f64::MIN_POSITIVE);
        let note = format!("{:.2} ms, {:.0}%, {} calls", r.ms, 100.0 * r.ms / total.max(f64::MIN_POSITIVE), r.calls);
        let rates = format!("{}FLOP/s, {}B/s", show::spaced(r.flops as f64 / secs), show::spaced(r.bytes as f64 / secs));
        (r.family.as_str(), r.ms, note, rates)
    });
    bars_ui(ui, rows.collect());
}

/// How many classes of products got each kind of kernel, the most frequent kind first.
fn tuned(rows: &[TunedRow]) -> String {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        match kinds.iter_mut().find(|(kind, _)| *kind == row.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((&row.kind, 1)),
        }
    }
    kinds.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} by {kind}")).collect();
    format!("fastest kernel measured for {} classes of products: {}", rows.len(), kinds.join(", "))
}

fn memory_ui(ui: &mut Ui, run: &Run) {
    let step = match &run.step {
        Ok(step) => step,
        Err(e) => return empty(ui, "The step cannot be recorded", e),
    };
    let planned: usize = step.memory_bytes;
    let text = match run.memory_bytes() {
        Some(taken) if !run.memory.is_empty() => {
            format!("{} planned for the step, {} used for the run", show::mebibytes(planned), show::mebibytes(taken))
        }
        _ => format!("{} planned for the step; what is used is told after the first step", show::mebibytes(planned)),
    };
    ui.label(RichText::new(text).small().weak());
    let rows = purposes(run, step).into_iter().map(|(purpose, planned, used)| {
        let what = match purpose {
            "weights" => "f32 master weights",
            "optimizer" => "moments and counters",
            "precision" => "scales, trackers, amax histories",
            "gradients" => "gradients of weights",
            "activations" => "everything else inside a step, buffers shared in turn",
            "statistics" => "what a step that measures tensors takes beside a plain one",
            "evaluation" => "activations of an evaluation",
            "scores" => "activations of samples and predictions",
            "scratch" => "workspace of kernels",
            _ => "data from and for the host",
        };
        let note = match (planned, used) {
            (p, None) => format!("{} planned", show::mebibytes(p)),
            (p, Some(u)) if p == u => format!("{} as planned", show::mebibytes(u)),
            (0, Some(u)) => format!("{} beside the plan", show::mebibytes(u)),
            (p, Some(u)) => format!("{} of {} planned", show::mebibytes(u), show::mebibytes(p)),
        };
        (purpose, used.unwrap_or(planned) as f64, note, what.to_string())
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    bars_ui(ui, rows);
    ui.add_space(4.0);
    for a in &step.activations {
        let text = format!("{}: {} of activations at their peak", a.dtype, show::mebibytes(a.peak_bytes as usize));
        ui.label(RichText::new(text).small().color(palette::ink(ui, palette::dtype_named(a.dtype))));
    }
}

/// Every purpose that memory is planned or used for, with planned bytes, and used ones if the run has reported any.
fn purposes<'a>(run: &'a Run, step: &'a Explanation) -> Vec<(&'a str, usize, Option<usize>)> {
    let used = |purpose: &str| run.memory.iter().find(|r| r.purpose == purpose).map_or(0, |r| r.bytes as usize);
    let told = |bytes: usize| (!run.memory.is_empty()).then_some(bytes);
    let planned = step.memory.iter().map(|p| (p.purpose, p.bytes, told(used(p.purpose))));
    let is_planned = |purpose: &str| step.memory.iter().any(|p| p.purpose == purpose);
    let beside = run.memory.iter().filter(|r| !is_planned(&r.purpose));
    let beside = beside.map(|r| (r.purpose.as_str(), 0, told(r.bytes as usize)));
    planned.chain(beside).filter(|(_, planned, used)| *planned > 0 || used.is_some_and(|u| u > 0)).collect()
}

/// Named bars, longest first: name, length, note beside it, more on hover.
fn bars_ui(ui: &mut Ui, rows: Vec<(&str, f64, String, String)>) {
    let longest = rows.iter().map(|r| r.1).fold(f64::MIN_POSITIVE, f64::max);
    ScrollArea::vertical().auto_shrink([false, true]).show(ui, |ui| {
        for (name, length, note, hover) in rows {
            ui.horizontal(|ui| {
                let name = egui::Label::new(RichText::new(name).small()).truncate();
                left(ui, Vec2::new(NAMES, 16.0), |ui| ui.add(name));
                let room = (ui.available_width() - NOTES).max(40.0);
                let (rect, response) = ui.allocate_exact_size(Vec2::new(room, 12.0), Sense::hover());
                let bar = egui::Rect::from_min_size(rect.min, Vec2::new(room * (length / longest) as f32, rect.height()));
                ui.painter().rect_filled(rect, 2.0, ui.visuals().faint_bg_color);
                ui.painter().rect_filled(bar, 2.0, palette::ACCENT.gamma_multiply(0.8));
                ui.label(RichText::new(note).small());
                response.on_hover_text(hover);
            });
        }
    });
}

/// The numbers of the view as CSV.
pub fn throughput_csv(store: &Store, state: &ThroughputState) -> String {
    match state.view {
        View::Speed => speed_csv(store),
        View::Operations => operations_csv(store),
        View::Memory => memory_csv(store),
    }
}

fn speed_csv(store: &Store) -> String {
    let rows = store.run().into_iter().flat_map(|run| {
        run.steps.steps().iter().enumerate().map(move |(row, step)| {
            let of = |c: StepScalar| field(run.steps.over(c as usize, row..row + 1).map(|s| s.max));
            vec![step.to_string().into(), of(StepScalar::Ms), of(StepScalar::Rate), of(StepScalar::Mfu)]
        })
    });
    csv(["step", "ms", "items_per_s", "mfu"], rows)
}

fn operations_csv(store: &Store) -> String {
    let profile = store.run().and_then(|run| run.profile.as_ref());
    let rows = profile.into_iter().flat_map(|p| &p.profile).map(|r| {
        let numbers = [r.calls.to_string(), r.ms.to_string(), r.flops.to_string(), r.bytes.to_string()];
        std::iter::once(r.family.as_str().into()).chain(numbers.map(Into::into)).collect()
    });
    csv(["family", "calls", "ms", "flops", "bytes"], rows)
}

fn memory_csv(store: &Store) -> String {
    let known = store.run().and_then(|run| Some((run, run.step.as_ref().ok()?)));
    let rows = known.into_iter().flat_map(|(run, step)| purposes(run, step)).map(|(purpose, planned, used)| {
        vec![purpose.into(), planned.to_string().into(), used.map_or(String::new(), |u| u.to_string()).into()]
    });
    csv(["purpose", "planned_bytes", "used_bytes"], rows)
}

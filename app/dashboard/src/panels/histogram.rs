//! How the magnitudes of a tensor are spread over powers of two, against what every format can hold: what becomes zero,
//! subnormal, or too large.

use super::{csv, empty, line_ui};
use crate::chart::{Scale, base, describe, number};
use crate::palette;
use crate::store::{Run, Store, Tensor};
use egui::{ComboBox, Grid, RichText, Ui};
use egui_plot::{Bar, BarChart, Line, PlotPoint, Text};
use mantissa_core::DType;
use mantissa_core::telemetry::TensorReport;
use serde::{Deserialize, Serialize};

/// The formats that a tensor is held against.
const FORMATS: [DType; 5] = [DType::F32, DType::Bf16, DType::F16, DType::E5m2, DType::E4m3];

/// Room for the names of formats at the left of their bands, octaves.
const LABELS: f64 = 4.0;

/// Height of the plot as a multiple of the tallest bar.
const TOP: f64 = 1.15;
/// Height of the horizontal axis with its label, pixels.
const AXIS: f64 = 42.0;
/// Height of the name of a format with what the margins of the plot add to it, pixels.
const NAME: f64 = 13.0;

/// What the panel remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistogramState {
    /// Name of the chosen tensor.
    pub selected: String,
    /// Report shown, counted from the newest.
    #[serde(skip)]
    pub age: usize,
    /// Whether fp8 formats get the scale that takes the amax to their largest value.
    pub scaled: bool,
}

impl Default for HistogramState {
    fn default() -> HistogramState {
        HistogramState { selected: String::new(), age: 0, scaled: true }
    }
}

/// Draws the panel.
pub fn histogram_ui(ui: &mut Ui, store: &Store, state: &mut HistogramState) {
    let Some(run) = shown(store) else {
        let text = "Weights, activations and gradients are counted by magnitude every few steps: see `statistics every` in the settings, or \
                    --stats-every of `mantissa train`.";
        return empty(ui, "No histograms yet", text);
    };
    let tensors = measured(run);
    let Some(tensor) = chosen(&tensors, state) else { return };
    ui.horizontal(|ui| {
        let label = ui.label("Tensor");
        let combo = ComboBox::from_id_salt("tensor").selected_text(&tensor.name).width(190.0).show_ui(ui, |ui| {
            for t in &tensors {
                ui.selectable_value(&mut state.selected, t.name.clone(), &t.name);
            }
        });
        combo.response.labelled_by(label.id);
        let last = tensor.reports.items().len() - 1;
        state.age = state.age.min(last);
        let mut at = last - state.age;
        let slider = egui::Slider::new(&mut at, 0..=last).show_value(false).text("time");
        if last > 0 && ui.add(slider).changed() {
            state.age = last - at;
        }
        ui.checkbox(&mut state.scaled, "scale fp8")
            .on_hover_text("Give fp8 formats the scale that takes the amax to their largest value.");
    });
    let tensor = chosen(&tensors, state).unwrap_or(tensor);
    let Some((step, report)) = nth_newest(tensor, state.age) else { return };
    line_ui(ui, summary(run, *step, report));
    ui.scope(|ui| shares_ui(ui, report, state.scaled));
    bars_ui(ui, run, report, state.scaled);
}

fn shown(store: &Store) -> Option<&Run> {
    store.run_with(|r| !measured(r).is_empty()).map(|i| &store.runs[i])
}

fn measured(run: &Run) -> Vec<&Tensor> {
    run.tensors.iter().filter(|t| !t.reports.items().is_empty()).collect()
}

fn chosen<'a>(tensors: &[&'a Tensor], state: &HistogramState) -> Option<&'a Tensor> {
    tensors.iter().find(|t| t.name == state.selected).or(tensors.first()).copied()
}

fn nth_newest(tensor: &Tensor, age: usize) -> Option<&(u64, TensorReport)> {
    let reports = tensor.reports.items();
    reports.iter().rev().nth(age).or(reports.back())
}

fn summary(run: &Run, step: u64, report: &TensorReport) -> Vec<String> {
    let amax = report.amax.map_or("not finite".to_string(), |a| number(a.into()));
    let mut parts = vec![run.name.clone(), format!("step {step}"), format!("amax {amax}")];
    if let Some(stats) = &report.stats {
        parts.push(format!("stored as {}", stats.stored));
        parts.push(format!("zeros {:.1}%", 100.0 * stats.zero));
        parts.extend(stats.sqnr_db.map(|sqnr| format!("SQNR in {} {sqnr:.1} dB", report.dtype)));
    }
    parts
}

/// The scale that a format is asked with.
fn scale_for(report: &TensorReport, dtype: DType, scaled: bool) -> f32 {
    match (scaled && dtype.is_fp8(), report.scale) {
        (false, _) => 1.0,
        // The scale that was used, for the format that was used.
        (true, Some(scale)) if report.dtype == dtype => scale,
        (true, _) => report.amax_scale(dtype),
    }
}

/// "What would it be in ..?"
fn shares_ui(ui: &mut Ui, report: &TensorReport, scaled: bool) {
    ui.spacing_mut().interact_size.y = 0.0;
    Grid::new("what if").num_columns(5).spacing([14.0, 1.0]).show(ui, |ui| {
        for title in ["stored as", "scale", "becomes zero", "subnormal", "too large"] {
            ui.label(RichText::new(title).small().weak());
        }
        ui.end_row();
        for dtype in FORMATS {
            let scale = scale_for(report, dtype, scaled);
            let Some(format_loss) = report.what_if(dtype, scale) else { continue };
            ui.label(RichText::new(dtype.name()).color(palette::ink(ui, palette::dtype(dtype))).strong());
            ui.label(if scale == 1.0 { "-".to_string() } else { number(scale.into()) });
            for (share, bad) in [(format_loss.underflow, 0.1), (format_loss.subnormal, 0.5), (format_loss.saturated, 0.001)] {
                let text = RichText::new(percent(share));
                ui.label(if share > bad { text.color(palette::ink(ui, palette::BAD)) } else { text });
            }
            ui.end_row();
        }
    });
}

fn percent(share: f64) -> String {
    match share {
        0.0 => "0".into(),
        s if s < 1e-4 => "<0.01%".into(),
        s => format!("{:.2}%", 100.0 * s),
    }
}

fn bars_ui(ui: &mut Ui, run: &Run, report: &TensorReport, scaled: bool) {
    let Some(stats) = &report.stats else { return };
    let all = stats.len.max(1) as f64;
    let shares: Vec<(f64, f64)> =
        stats.histogram.magnitudes().map(|(k, n)| (f64::from(k), 100.0 * f64::from(n) / all)).collect();
    let top = shares.iter().map(|s| s.1).fold(0.0, f64::max).max(1e-6);
    let low = shares.first().map_or(-24.0, |s| s.0).min(-24.0);
    let high = shares.last().map_or(16.0, |s| s.0 + 1.0).max(16.0);
    // The bands of formats lie as far apart as their names need, as a share of the tallest bar.
    let height = f64::from(ui.available_height()) - AXIS;
    let band = (NAME * TOP / (height - NAME * FORMATS.len() as f64).max(1.0)).clamp(0.11, 0.3);
    let dark = ui.visuals().dark_mode;
    let plot = base("histogram", Scale::Linear)
        .x_axis_label("magnitude")
        .x_axis_formatter(|mark, _| format!("2^{:.0}", mark.value))
        .y_axis_formatter(|mark, _| if mark.value < 0.0 { String::new() } else { format!("{}%", number(mark.value)) })
        .include_y(TOP * top)
        .include_x(low - LABELS)
        .include_x(high)
        .show(ui, |plot| {
            let bars = shares.iter().map(|(k, share)| Bar::new(k + 0.5, *share).width(0.92)).collect();
            let name = format!("share of {}", report.name);
            let color = palette::dtype(report.dtype);
            plot.bar_chart(BarChart::new(name, bars).color(color.gamma_multiply(0.85)).element_formatter(Box::new(
                |bar, _| format!("2^{:.0} to 2^{:.0}: {:.2}%", bar.argument - 0.5, bar.argument + 0.5, bar.value),
            )));
            for (i, dtype) in FORMATS.into_iter().enumerate() {
                let Some(format) = dtype.format() else { continue };
                let y = -band * top * (i + 1) as f64;
                let shift = f64::from(scale_for(report, dtype, scaled)).log2();
                // Drawn as far as one looks: f32 goes on beyond.
                let at = |value: f64| (value.log2() - shift).clamp(low - 1.0, high + 1.0);
                let (zero, normal, max) = (at(format.min_subnormal), at(format.min_normal), at(format.max));
                let color = palette::dtype(dtype);
                let band = |from: f64, to: f64| Line::new("", vec![[from, y], [to, y]]).width(5.0).allow_hover(false);
                plot.line(band(zero, normal).color(color.gamma_multiply(0.35)));
                plot.line(band(normal, max).color(color));
                let label = egui::RichText::new(dtype.name()).size(9.5).color(palette::ink_on(dark, color));
                plot.text(Text::new("", PlotPoint::new(zero, y), label).anchor(egui::Align2::RIGHT_CENTER));
            }
        });
    describe(ui, &plot.response, &format!("histogram of {} in {}", report.name, run.name));
}

/// The histogram that is shown as CSV.
pub fn histogram_csv(store: &Store, state: &HistogramState) -> String {
    let tensors = shown(store).map(measured).unwrap_or_default();
    let report = chosen(&tensors, state).and_then(|t| nth_newest(t, state.age));
    let rows = report.into_iter().flat_map(|(step, report)| {
        let magnitudes = report.stats.iter().flat_map(|s| s.histogram.magnitudes());
        magnitudes.map(move |(k, n)| {
            vec![report.name.as_str().into(), step.to_string().into(), k.to_string().into(), n.to_string().into()]
        })
    });
    csv(["tensor", "step", "exponent", "count"], rows)
}

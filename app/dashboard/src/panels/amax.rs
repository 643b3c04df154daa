//! Amax of every fp8 tensor over time as a heat map (a row a tensor, colour = log2), and the chosen one as a line
//! between the edges of what its format can hold under its scale.

use super::{csv, empty, field, left, line_ui};
use crate::chart::{Curve, Scale, describe, grid, number, over_steps};
use crate::palette;
use crate::store::{Run, Store, Tensor, TensorColumn};
use egui::{Color32, Mesh, RichText, ScrollArea, Sense, Ui, Vec2};
use egui_plot::{Line, LineStyle};
use mantissa_core::telemetry::AmaxRing;
use serde::{Deserialize, Serialize};

/// Height of a row of the map.
const ROW: f32 = 15.0;
/// Width of the names.
const NAMES: f32 = 170.0;
/// Width of a cell of the map.
const CELL: f32 = 4.0;
/// Amaxes of a ring that are written on a line.
const LISTED: usize = 8;

/// What the panel remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AmaxState {
    /// Name of the chosen tensor.
    pub selected: String,
    /// Only tensors whose name contains this are shown.
    pub filter: String,
}

/// Draws the panel.
pub fn amax_ui(ui: &mut Ui, store: &Store, state: &mut AmaxState) {
    let Some(run) = shown(store) else {
        let text = match store.run().and_then(|r| r.config.recipe.fp8) {
            None => "Start a run with the recipe fp8-delayed to see the amax of every tensor and the scales that follow it.",
            Some(_) => {
                "They come every few steps: see `statistics every` in the settings, or --stats-every of `mantissa train`."
            }
        };
        return empty(ui, "No fp8 tensors yet", text);
    };
    let scaled: Vec<&Tensor> = run.tensors.iter().filter(|t| t.is_scaled()).collect();
    ui.horizontal(|ui| {
        let label = ui.label("Find tensor");
        ui.add(egui::TextEdit::singleline(&mut state.filter).desired_width(140.0).hint_text("mlp.up")).labelled_by(label.id);
        ui.label(RichText::new(format!("{} fp8 tensors of {}", scaled.len(), run.name)).weak());
    });
    let shown: Vec<&Tensor> = scaled.iter().copied().filter(|t| t.name.contains(&state.filter)).collect();
    let map_height = (0.4 * ui.available_height()).max(3.0 * ROW);
    let range = range_log2(&scaled);
    ui.scope(|ui| {
        ui.spacing_mut().item_spacing.y = 0.0;
        ui.spacing_mut().interact_size.y = ROW;
        let map = ScrollArea::vertical().id_salt("amax map").max_height(map_height).auto_shrink([false, true]);
        map.show_rows(ui, ROW, shown.len(), |ui, rows| {
            for tensor in &shown[rows] {
                row_ui(ui, tensor, range, &mut state.selected);
            }
        });
    });
    let selected = scaled.iter().find(|t| t.name == state.selected).or(shown.first()).or(scaled.first());
    if let Some(tensor) = selected {
        legend_ui(ui, range, tensor);
        plot_ui(ui, store, run, tensor);
    }
}

fn shown(store: &Store) -> Option<&Run> {
    store.run_with(|r| r.tensors.iter().any(Tensor::is_scaled)).map(|i| &store.runs[i])
}

/// log2 of the smallest and largest amax.
fn range_log2(tensors: &[&Tensor]) -> [f32; 2] {
    let spans = tensors.iter().filter_map(|t| t.rows.over(TensorColumn::Amax as usize, 0..t.rows.len()));
    let logs = spans.flat_map(|s| [s.min.log2(), s.max.log2()]).filter(|l| l.is_finite());
    let (low, high) = logs.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    if low > high { [0.0, 1.0] } else { [low.floor(), high.ceil().max(low.floor() + 1.0)] }
}

fn row_ui(ui: &mut Ui, tensor: &Tensor, range: [f32; 2], selected: &mut String) {
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        let is_selected = *selected == tensor.name;
        let name = egui::Button::selectable(is_selected, RichText::new(&tensor.name).small()).truncate();
        if left(ui, Vec2::new(NAMES, ROW - 1.0), |ui| ui.add(name)).clicked() {
            selected.clone_from(&tensor.name);
        }
        let (rect, response) = ui.allocate_exact_size(Vec2::new(ui.available_width() - 8.0, ROW - 1.0), Sense::click());
        let (rows, cells) = (tensor.rows.len(), ((rect.width() / CELL) as usize).max(1));
        let cells = cells.min(rows);
        let mut mesh = Mesh::default();
        for cell in 0..cells {
            let of = |c: usize| c * rows / cells;
            let amax = tensor.rows.over(TensorColumn::Amax as usize, of(cell)..of(cell + 1)).map(|s| s.max);
            let at = |c: usize| rect.left() + rect.width() * c as f32 / cells as f32;
            let area = egui::Rect::from_x_y_ranges(at(cell)..=at(cell + 1), rect.y_range());
            mesh.add_colored_rect(area, color(amax, range));
        }
        ui.painter().add(mesh);
        describe(ui, &response, &format!("map of {}", tensor.name));
        if response.clicked() {
            selected.clone_from(&tensor.name);
        }
        if let Some(pos) = response.hover_pos() {
            let row = ((pos.x - rect.left()) / rect.width() * rows as f32) as usize;
            response.on_hover_text(moment(tensor, row.min(rows - 1)));
        }
    });
}

fn color(amax: Option<f32>, [low, high]: [f32; 2]) -> Color32 {
    match amax {
        None => Color32::TRANSPARENT,
        Some(a) if !a.is_finite() => palette::BAD,
        Some(a) => palette::heat((a.log2() - low) / (high - low)),
    }
}

/// What was reported of a tensor at a row of its table, with the ring of amaxes as it was then.
fn moment(tensor: &Tensor, row: usize) -> String {
    let step = tensor.rows.steps()[row];
    let of = |c: TensorColumn| tensor.rows.over(c as usize, row..row + 1).map_or(f32::NAN, |s| s.max);
    let (amax, scale) = (of(TensorColumn::Amax), of(TensorColumn::Scale));
    let mut text = format!("{} ({}), step {step}", tensor.name, tensor.dtype);
    text += &format!("\namax {}, scale {}", number(amax.into()), number(scale.into()));
    if let Some((at, ring)) = tensor.rings.at(step) {
        text += &ring_text(ring, if *at == step { String::new() } else { format!(" after step {at}") });
    }
    text
}

fn ring_text(ring: &AmaxRing, when: String) -> String {
    let amax = |a: Option<f32>| a.map_or("not finite".into(), |a| number(a.into()));
    let mut text = format!("\nring{when}: {} of {} amaxes", ring.held, ring.room);
    if ring.held > 0 {
        let age = match ring.largest_age {
            0 => "the newest".to_string(),
            n => format!("{n} before the newest"),
        };
        text += &format!("\nlargest {}, {age}", amax(ring.largest));
        let newest: Vec<String> = ring.newest.iter().map(|a| amax(*a)).collect();
        for (i, line) in newest.chunks(LISTED).enumerate() {
            text += if i == 0 { "\nnewest first: " } else { ",\n" };
            text += &line.join(", ");
        }
        text += if ring.held > newest.len() { ", .." } else { "" };
    }
    text
}

/// What the colours of the map mean, and the lines of the plot below, which is too low for a legend of its own.
fn legend_ui(ui: &mut Ui, [low, high]: [f32; 2], tensor: &Tensor) {
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        ui.label(RichText::new(format!("amax 2^{low:.0}")).small().weak());
        let (rect, _) = ui.allocate_exact_size(Vec2::new(90.0, 8.0), Sense::hover());
        let mut mesh = Mesh::default();
        for i in 0..30 {
            let at = |i: i32| rect.left() + rect.width() * i as f32 / 30.0;
            mesh.add_colored_rect(
                egui::Rect::from_x_y_ranges(at(i)..=at(i + 1), rect.y_range()),
                palette::heat(i as f32 / 29.0),
            );
        }
        ui.painter().add(mesh);
        ui.label(RichText::new(format!("2^{high:.0}")).small().weak());
        ui.add_space(12.0);
        ui.label(RichText::new(format!("largest {}", tensor.dtype)).small().color(palette::ink(ui, palette::BAD)));
        ui.label(RichText::new("- - smallest normal").small().color(palette::ink(ui, palette::WARN)));
        ui.label(RichText::new(".... smallest").small().color(palette::ink(ui, palette::WARN.gamma_multiply(0.6))));
    });
}

fn plot_ui(ui: &mut Ui, store: &Store, run: &Run, tensor: &Tensor) {
    let Some(format) = tensor.dtype.format() else { return };
    let color = palette::dtype(tensor.dtype);
    line_ui(ui, summary(tensor, ui.visuals().dark_mode));
    // Labels closer than a line of text would be left out.
    let lines = f64::from(ui.available_height() / 40.0).clamp(2.0, 5.0);
    let plot = over_steps("amax", store, Scale::Log2).y_grid_spacer(move |input| grid(input, Scale::Log2, lines));
    let plot = plot.show(ui, |plot| {
        let curve = |column: TensorColumn| {
            Curve { store, run, table: &tensor.rows, column: column as usize, scale: Scale::Log2 }.points(plot)
        };
        // Under a scale s the format holds magnitudes up to max / s.
        let scales = curve(TensorColumn::Scale);
        let edge = |value: f64| -> Vec<[f64; 2]> { scales.iter().map(|p| [p[0], value.log2() - p[1]]).collect() };
        let edges = [
            (format!("largest {}", tensor.dtype), edge(format.max), palette::BAD, LineStyle::Solid),
            ("smallest normal".to_string(), edge(format.min_normal), palette::WARN, LineStyle::dashed_dense()),
            ("smallest".to_string(), edge(format.min_subnormal), palette::WARN.gamma_multiply(0.6), LineStyle::dotted_dense()),
        ];
        let amax = curve(TensorColumn::Amax);
        for (name, points, color, style) in edges {
            plot.line(Line::new(name, points).color(color).style(style).width(1.5));
        }
        plot.line(Line::new("amax", amax).color(color).width(2.0));
    });
    describe(ui, &plot.response, &format!("amax of {} over steps", tensor.name));
}

/// The last report of a tensor.
fn summary(tensor: &Tensor, dark: bool) -> Vec<RichText> {
    let name = RichText::new(&tensor.name).strong();
    let mut parts = vec![name, RichText::new(tensor.dtype.name()).color(palette::ink_on(dark, palette::dtype(tensor.dtype)))];
    let Some((_, v)) = tensor.rows.last() else { return parts };
    let (amax, scale) = (v[TensorColumn::Amax as usize], v[TensorColumn::Scale as usize]);
    parts.push(format!("amax {}", number(amax.into())).into());
    parts.push(format!("scale {}", number(scale.into())).into());
    // How far the amax may still grow under this scale; a margin of -0.0 is none.
    let room = (tensor.dtype.max_f32() / (amax * scale)).log2();
    if room.is_finite() {
        parts.push(format!("margin {:.1} bits", (10.0 * room).round() / 10.0 + 0.0).into());
    }
    let share = |c: TensorColumn| 100.0 * v[c as usize];
    parts.push(format!("underflow {:.1}%", share(TensorColumn::Underflow)).into());
    parts.push(format!("saturated {:.1}%", share(TensorColumn::Saturated)).into());
    parts
}

/// Every report of the fp8 tensors as CSV.
pub fn amax_csv(store: &Store) -> String {
    let tensors = shown(store).into_iter().flat_map(|r| &r.tensors);
    let rows = tensors.flat_map(|t| {
        t.rows.steps().iter().enumerate().map(move |(row, step)| {
            let of = |c: TensorColumn| field(t.rows.over(c as usize, row..row + 1).map(|s| s.max));
            vec![
                t.name.as_str().into(),
                t.dtype.name().into(),
                step.to_string().into(),
                of(TensorColumn::Amax),
                of(TensorColumn::Scale),
                of(TensorColumn::Underflow),
                of(TensorColumn::Saturated),
                of(TensorColumn::Nonfinite),
            ]
        })
    });
    csv(["tensor", "dtype", "step", "amax", "scale", "underflow", "saturated", "nonfinite"], rows)
}

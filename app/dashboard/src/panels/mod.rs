//! The panels: each is a function of the store and of a small state of its own (what is selected, which switch is on),
//! so that the window, the browser and tests draw them alike. Each also gives its numbers as CSV.

pub mod amax;
pub mod health;
pub mod histogram;
pub mod loss;
pub mod loss_scale;
pub mod program;
pub mod race;
pub mod run_bar;
pub mod samples;
pub mod setup;
pub mod throughput;

use crate::form::Panel;
use crate::store::Store;
use egui::{Align, Layout, RichText, Ui, WidgetText};
use serde::{Deserialize, Serialize};

/// States of all panels.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct States {
    /// Loss.
    pub loss: loss::LossState,
    /// Amax history.
    pub amax: amax::AmaxState,
    /// Histogram.
    pub histogram: histogram::HistogramState,
    /// Throughput.
    pub throughput: throughput::ThroughputState,
    /// Program.
    pub program: program::ProgramState,
    /// Race.
    pub race: race::RaceState,
    /// Health.
    pub health: health::HealthState,
    /// Samples.
    #[serde(skip)]
    pub samples: samples::SamplesState,
}

/// Draws a panel.
pub fn panel_ui(panel: Panel, ui: &mut Ui, store: &Store, states: &mut States) {
    match panel {
        Panel::Loss => loss::loss_ui(ui, store, &mut states.loss),
        Panel::LossScale => loss_scale::loss_scale_ui(ui, store),
        Panel::Amax => amax::amax_ui(ui, store, &mut states.amax),
        Panel::Histogram => histogram::histogram_ui(ui, store, &mut states.histogram),
        Panel::Throughput => throughput::throughput_ui(ui, store, &mut states.throughput),
        Panel::Program => program::program_ui(ui, store, &mut states.program),
        Panel::Race => race::race_ui(ui, store, &mut states.race),
        Panel::Health => health::health_ui(ui, store, &mut states.health),
        Panel::Samples => samples::samples_ui(ui, store, &mut states.samples),
    }
}

/// The numbers of a panel as CSV.
pub fn panel_csv(panel: Panel, store: &Store, states: &States) -> String {
    match panel {
        Panel::Loss => loss::loss_csv(store),
        Panel::LossScale => loss_scale::loss_scale_csv(store),
        Panel::Amax => amax::amax_csv(store),
        Panel::Histogram => histogram::histogram_csv(store, &states.histogram),
        Panel::Throughput => throughput::throughput_csv(store, &states.throughput),
        Panel::Program => program::program_csv(store),
        Panel::Race => race::race_csv(store),
        Panel::Health => health::health_csv(store),
        Panel::Samples => samples::samples_csv(store),
    }
}

/// What a panel says while it has nothing to show: what it will show, and how to get there.
pub(crate) fn empty(ui: &mut Ui, title: &str, body: &str) {
    ui.with_layout(Layout::top_down(Align::Center), |ui| {
        ui.add_space((ui.available_height() * 0.3).max(8.0));
        ui.label(RichText::new(title).strong());
        ui.set_max_width(ui.available_width().min(360.0));
        ui.label(RichText::new(body).weak());
    });
}

/// Numbers beside each other, each in one piece: lines break between them.
pub(crate) fn parts_ui(ui: &mut Ui, parts: impl IntoIterator<Item: Into<WidgetText>>) {
    for part in parts {
        ui.add(egui::Label::new(part).extend());
    }
}

/// A line of nothing else: no higher than its text.
pub(crate) fn line_ui(ui: &mut Ui, parts: impl IntoIterator<Item: Into<WidgetText>>) {
    ui.scope(|ui| {
        ui.spacing_mut().interact_size.y = 0.0;
        ui.horizontal_wrapped(|ui| parts_ui(ui, parts));
    });
}

/// A place of fixed size whose contents begin at its left edge.
pub(crate) fn left<R>(ui: &mut Ui, size: egui::Vec2, add: impl FnOnce(&mut Ui) -> R) -> R {
    ui.allocate_ui_with_layout(size, Layout::left_to_right(Align::Center), |ui| {
        ui.set_min_size(size);
        add(ui)
    })
    .inner
}

/// Rows of text as CSV below their header.
pub(crate) fn csv<'a>(
    header: impl IntoIterator<Item = &'a str>,
    rows: impl Iterator<Item = Vec<std::borrow::Cow<'a, str>>>,
) -> String {
    const MEMORY: &str = "memory takes every row";
    // Rows of other lengths are written as they are, so that no row is refused.
    let mut out = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    out.write_record(header).expect(MEMORY);
    for row in rows {
        out.write_record(row.iter().map(|field| field.as_bytes())).expect(MEMORY);
    }
    let bytes = out.into_inner().expect(MEMORY);
    String::from_utf8(bytes).expect("fields are text, and so is what stands between them")
}

/// A number of a table as a field: empty if there is none.
pub(crate) fn field(x: Option<f32>) -> std::borrow::Cow<'static, str> {
    x.map_or(String::new(), |x| x.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must() {
        let rows = [vec!["a".into(), "b,c".into()], vec!["say \"x\"".into(), field(None)]];
        assert_eq!(csv(["h", "i"], rows.into_iter()), "h,i\na,\"b,c\"\n\"say \"\"x\"\"\",\n");
        assert_eq!(field(Some(0.5)), "0.5");
    }
}

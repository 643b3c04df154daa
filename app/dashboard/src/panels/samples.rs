//! What the model writes, or what it says to test images.

use super::{csv, empty};
use crate::palette;
use crate::store::Store;
use egui::{Color32, ColorImage, RichText, ScrollArea, TextureHandle, TextureOptions, Ui};
use mantissa_core::model::ModelConfig;
use mantissa_core::telemetry::event::Predictions;

/// Size of a picture.
const PICTURE: egui::Vec2 = egui::vec2(64.0, 64.0);

/// Pictures already handed to the graphics card, and which sample is shown.
#[derive(Clone, Default)]
pub struct SamplesState {
    /// Age of the sample shown: 0 is the newest.
    pub age: usize,
    /// The run and step that `images` are of.
    of: Option<(usize, u64)>,
    images: Vec<TextureHandle>,
}

impl std::fmt::Debug for SamplesState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SamplesState").field("age", &self.age).finish_non_exhaustive()
    }
}

/// Draws the panel.
pub fn samples_ui(ui: &mut Ui, store: &Store, state: &mut SamplesState) {
    let Some(run) = store.run() else {
        return empty(
            ui,
            "No samples yet",
            "A text model writes a sample now and then; an image model is shown with its answers to test images.",
        );
    };
    if let (ModelConfig::Mlp(_), Some((step, predictions))) = (&run.config.model, &run.predictions) {
        return images_ui(ui, (store.selected, *step), predictions, state);
    }
    let count = run.samples.len();
    let Some(sample) = run.samples.iter().rev().nth(state.age.min(count.saturating_sub(1))) else {
        return empty(ui, "No samples yet", "They come with evaluations, and at the end of a run.");
    };
    ui.horizontal(|ui| {
        ui.label(format!("after step {}", sample.step));
        if ui.add_enabled(state.age + 1 < count, egui::Button::new("Earlier")).clicked() {
            state.age += 1;
        }
        if ui.add_enabled(state.age > 0, egui::Button::new("Later")).clicked() {
            state.age -= 1;
        }
    });
    ScrollArea::both().auto_shrink(false).show(ui, |ui| {
        ui.add(egui::Label::new(RichText::new(printable(&sample.text)).monospace()).selectable(true).extend());
    });
}

/// The text with a dot for each character that has no look: a model that has just begun writes many.
fn printable(text: &str) -> String {
    let has_look = |c: char| c == '\n' || c == '\t' || !(c.is_control() || c == char::REPLACEMENT_CHARACTER);
    text.chars().map(|c| if has_look(c) { c } else { '\u{b7}' }).collect()
}

fn images_ui(ui: &mut Ui, of: (usize, u64), predictions: &Predictions, state: &mut SamplesState) {
    if state.of != Some(of) {
        let picture = |(i, pixels): (usize, &str)| {
            let image = grey(predictions.size, pixels);
            ui.ctx().load_texture(format!("prediction {i}"), image, TextureOptions::NEAREST)
        };
        let pixels = predictions.images.iter().map(|p| p.pixels.as_str());
        state.images = pixels.enumerate().map(picture).collect();
        state.of = Some(of);
    }
    let right = predictions.images.iter().filter(|p| p.label == p.answer).count();
    ui.label(format!("after step {}: the hardest images of a batch, {right} of {} right", of.1, predictions.images.len()));
    ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        ui.horizontal_wrapped(|ui| {
            for (p, texture) in predictions.images.iter().zip(&state.images) {
                ui.allocate_ui_with_layout(PICTURE + egui::vec2(8.0, 20.0), egui::Layout::top_down(egui::Align::Min), |ui| {
                    ui.add(egui::Image::new((texture.id(), PICTURE)).alt_text(format!("a {}", p.label)));
                    let color = if p.label == p.answer { palette::GOOD } else { palette::BAD };
                    ui.label(
                        RichText::new(format!("{} ({:.0}%)", p.answer, 100.0 * p.confidence)).color(palette::ink(ui, color)),
                    );
                });
            }
        });
    });
}

/// Grey values from pairs of hexadecimal digits; what is missing or no digit is black.
fn grey([rows, cols]: [usize; 2], pixels: &str) -> ColorImage {
    // An event of a log may claim any size.
    let (rows, cols) = (rows.clamp(1, 256), cols.clamp(1, 256));
    let digits = pixels.as_bytes();
    let pixel = |i: usize| {
        digits.get(2 * i..2 * i + 2).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok())
    };
    let colors = (0..rows * cols).map(|i| Color32::from_gray(pixel(i).unwrap_or(0))).collect();
    ColorImage::new([cols, rows], colors)
}

/// The samples as CSV.
pub fn samples_csv(store: &Store) -> String {
    let samples = store.run().into_iter().flat_map(|r| &r.samples);
    csv(["step", "text"], samples.map(|s| vec![s.step.to_string().into(), s.text.as_str().into()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_look_is_a_dot() {
        assert_eq!(printable("a\n\tb\u{1}\u{fffd}é"), "a\n\tb\u{b7}\u{b7}é");
    }

    #[test]
    fn pictures_survive_damage() {
        let image = grey([1, 3], "ff0");
        assert_eq!((image.size, image.pixels[0], image.pixels[2]), ([3, 1], Color32::WHITE, Color32::BLACK));
        assert_eq!(grey([0, 1 << 40], "é").pixels.len(), 256);
    }
}

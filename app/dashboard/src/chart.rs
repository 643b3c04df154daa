//! What every plot over steps shares: linked axes and cursor, labels, grids, and lines that are drawn from extremes.

use crate::store::{Run, Store, Table};
use egui::{Color32, Id, Ui};
use egui_plot::{GridInput, GridMark, HoverPosition, Legend, Line, Plot, PlotUi};
use mantissa_core::show;

/// How the vertical axis is drawn. Plots hold the logarithm where it is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Scale {
    /// As it is.
    #[default]
    Linear,
    /// Powers of ten.
    Log10,
    /// Powers of two.
    Log2,
}

impl Scale {
    /// A value in the units of the plot.
    pub fn to_plot(self, y: f64) -> f64 {
        match self {
            Scale::Linear => y,
            Scale::Log10 => y.log10(),
            Scale::Log2 => y.log2(),
        }
    }

    /// A place in the plot as a value.
    pub fn to_value(self, y: f64) -> f64 {
        match self {
            Scale::Linear => y,
            Scale::Log10 => 10f64.powf(y),
            Scale::Log2 => y.exp2(),
        }
    }

    /// A value as text.
    pub fn text(self, y: f64) -> String {
        match self {
            Scale::Linear | Scale::Log10 => number(y),
            Scale::Log2 if (y.log2() - y.log2().round()).abs() < 1e-6 => format!("2^{:.0}", y.log2()),
            Scale::Log2 => number(y),
        }
    }
}

/// A number with a few digits.
pub fn number(y: f64) -> String {
    let size = y.abs();
    if y == 0.0 || (0.01..1e4).contains(&size) {
        // Trailing zeros say nothing.
        let text = format!("{y:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else if (1e4..1e15).contains(&size) {
        show::prefixed(y)
    } else {
        format!("{y:.1e}")
    }
}

/// A plot over steps: its horizontal axis and cursor are those of every other one.
pub fn over_steps<'a>(name: &'a str, store: &Store, scale: Scale) -> Plot<'a> {
    let group = Id::unique(("steps", store.axis));
    let plot = base(name, scale).link_axis(group, [true, false]).link_cursor(group, [true, false]);
    // Plots of one run reach as far as those of all: otherwise the cursor of one would stand beside the other.
    store.x_range().into_iter().flatten().fold(plot, |plot, x| plot.include_x(x)).x_axis_label(store.axis_label())
}

/// A plot with the common look.
pub fn base(name: &str, scale: Scale) -> Plot<'_> {
    Plot::new(name)
        .allow_scroll(false)
        .set_margin_fraction(egui::vec2(0.01, 0.08))
        .y_axis_min_width(38.0)
        .grid_color(Color32::from_gray(128).gamma_multiply(0.3))
        .x_axis_formatter(|mark, _| number(mark.value))
        .y_axis_formatter(move |mark, _| scale.text(scale.to_value(mark.value)))
        .x_grid_spacer(|input| grid(input, Scale::Linear, LINES))
        .y_grid_spacer(move |input| grid(input, scale, LINES))
        .label_formatter(move |at| match at {
            HoverPosition::NearDataPoint { plot_name, position, .. } => {
                let value = format!("{} at {}", scale.text(scale.to_value(position.y)), number(position.x));
                // What stays out of the legend has no name.
                Some(if plot_name.is_empty() { value } else { format!("{plot_name}\n{value}") })
            }
            HoverPosition::Elsewhere { .. } => None,
        })
}

/// The plot with a legend, if what is left of `ui` has room for one beside the curves.
pub fn with_legend<'a>(plot: Plot<'a>, ui: &Ui) -> Plot<'a> {
    match ui.available_height() > LEGEND_ROOM {
        true => plot.legend(Legend::default().background_alpha(0.6).text_style(egui::TextStyle::Small)),
        false => plot,
    }
}

/// Height of a plot, with its axis, that has room for a legend.
const LEGEND_ROOM: f32 = 140.0;

/// About so many lines of a grid, where there is room for them.
const LINES: f64 = 5.0;

/// Whole powers on logarithmic axes, round numbers on others, about `lines` of them.
pub fn grid(input: GridInput, scale: Scale, lines: f64) -> Vec<GridMark> {
    let (low, high) = input.bounds;
    // A plot of nothing has no bounds yet.
    if !(high - low).is_finite() {
        return Vec::new();
    }
    let smallest = match scale {
        Scale::Linear => 0.0,
        Scale::Log10 | Scale::Log2 => 1.0,
    };
    // The coarsest labels are this far apart, and lines between them a fifth of it.
    let rough = ((high - low) / lines).max(smallest);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| GridMark { value: i as f64 * step, step_size: step }).collect()
}

/// A line through a column of a table.
pub struct Curve<'a, const N: usize> {
    /// What everything belongs to.
    pub store: &'a Store,
    /// The run.
    pub run: &'a Run,
    /// Its table.
    pub table: &'a Table<N>,
    /// The column.
    pub column: usize,
    /// How the plot's vertical axis is drawn.
    pub scale: Scale,
}

impl<const N: usize> Curve<'_, N> {
    /// The points to draw in the plot as it is seen now.
    pub fn points(&self, ui: &PlotUi<'_>) -> Vec<[f64; 2]> {
        let bounds = ui.plot_bounds();
        // Bounds that follow the data must see all of it.
        let view = if ui.auto_bounds().x { f64::NEG_INFINITY..=f64::INFINITY } else { bounds.min()[0]..=bounds.max()[0] };
        let pixels = ui.response().rect.width() as usize;
        let mut points = self.table.line(self.column, self.store.x(self.run, self.table), view, pixels);
        points.iter_mut().for_each(|p| p[1] = self.scale.to_plot(p[1]));
        // The logarithm of what is not positive has no place.
        points.retain(|p| p[1].is_finite());
        points
    }

    /// Draws it.
    pub fn draw(&self, ui: &mut PlotUi<'_>, name: &str, color: Color32, width: f32) {
        let points = self.points(ui);
        if !points.is_empty() {
            ui.line(Line::new(name, points).color(color).width(width));
        }
    }
}

/// Gives a plot a name and a summary for those who cannot see it, and for tests.
pub fn describe(ui: &Ui, response: &egui::Response, text: &str) {
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, ui.is_enabled(), text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 2.5, 0.0123, 12345.0, 1e-5, 1e20].map(number);
        assert_eq!(texts, ["0", "2.5", "0.0123", "12.3k", "1.0e-5", "1.0e20"]);
        assert_eq!(Scale::Log2.text(65536.0), "2^16");
        assert_eq!(Scale::Log10.to_plot(Scale::Log10.to_value(-3.0)), -3.0);
    }

    #[test]
    fn grids_have_few_round_lines() {
        for (low, high) in [(0.0, 1.0), (-3.0, 4.5), (0.0, 1234.0), (2.0, 2.001)] {
            let marks = grid(GridInput { bounds: (low, high), base_step_size: 0.1 }, Scale::Linear, LINES);
            assert!((2..=7).contains(&marks.len()), "{low}..{high}: {}", marks.len());
        }
        let powers = grid(GridInput { bounds: (0.0, 3.0), base_step_size: 0.1 }, Scale::Log10, LINES);
        assert_eq!(powers.iter().map(|m| m.value).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0]);
    }
}

//! Colours, the same everywhere: one a dtype, one a recipe (that of the dtype it multiplies in), one for what goes
//! wrong. And the look of widgets.

use crate::store::Store;
use egui::{Color32, FontFamily, FontId, Stroke, Style, TextStyle, Theme, Ui, Visuals};
use mantissa_core::DType;
use mantissa_core::precision::recipe::RecipeName;

/// Overflows, skips, non-finite values.
pub const BAD: Color32 = Color32::from_rgb(0xe5, 0x48, 0x4d);
/// Growth, health.
pub const GOOD: Color32 = Color32::from_rgb(0x30, 0xa4, 0x6c);
/// Floors, warnings, what was done by hand.
pub const WARN: Color32 = Color32::from_rgb(0xe0, 0x8e, 0x1b);
/// What can be pressed or is chosen.
pub const ACCENT: Color32 = Color32::from_rgb(0x3d, 0x8b, 0xfd);

/// What text on light ground keeps of the lightness of its colour, and how pale it may be.
const INK: f32 = 0.68;
const INK_ALPHA: u8 = 210;

/// The colour of a dtype.
pub const fn dtype(dtype: DType) -> Color32 {
    match dtype {
        DType::F32 => Color32::from_rgb(0x8a, 0x94, 0xa6),
        DType::Tf32 => Color32::from_rgb(0x2f, 0xa5, 0x9a),
        DType::F16 => Color32::from_rgb(0xf2, 0x9f, 0x38),
        DType::Bf16 => Color32::from_rgb(0x3d, 0x8b, 0xfd),
        DType::E4m3 => Color32::from_rgb(0xe0, 0x52, 0x8a),
        DType::E5m2 => Color32::from_rgb(0x9b, 0x6b, 0xe8),
        DType::E8m0 => Color32::from_rgb(0xb0, 0x84, 0x58),
        DType::U32 | DType::I32 => Color32::from_rgb(0x6b, 0x72, 0x80),
    }
}

/// The colour of a dtype by its token; that of integers for anything else.
pub fn dtype_named(name: &str) -> Color32 {
    DType::ALL.into_iter().find(|d| d.name() == name).map_or(dtype(DType::U32), dtype)
}

/// The colour of a recipe.
pub const fn recipe(name: RecipeName) -> Color32 {
    match name {
        RecipeName::F32 => dtype(DType::F32),
        RecipeName::Tf32 => dtype(DType::Tf32),
        RecipeName::Bf16 => dtype(DType::Bf16),
        RecipeName::F16 => dtype(DType::F16),
        RecipeName::Fp8Delayed => dtype(DType::E4m3),
        RecipeName::Fp8Current => dtype(DType::E5m2),
        RecipeName::Mxfp8 => dtype(DType::E8m0),
    }
}

/// The colour of a run: that of its recipe; later runs of the same recipe are paler.
pub fn run(store: &Store, index: usize) -> Color32 {
    let name = store.runs[index].config.recipe.name;
    let earlier = store.runs[..index].iter().filter(|r| r.config.recipe.name == name).count();
    let pale = 1.0 - 0.28 * (earlier % 3) as f32;
    recipe(name).gamma_multiply(pale)
}

/// A colour for text: on light ground a darker one, which can be read there.
pub fn ink(ui: &Ui, color: Color32) -> Color32 {
    ink_on(ui.visuals().dark_mode, color)
}

/// The same, where the ground is known.
pub fn ink_on(dark: bool, color: Color32) -> Color32 {
    if dark {
        return color;
    }
    let [r, g, b, a] = color.to_srgba_unmultiplied();
    let shade = |c: u8| (f32::from(c) * INK) as u8;
    Color32::from_rgba_unmultiplied(shade(r), shade(g), shade(b), a.max(INK_ALPHA))
}

/// The colour of a magnitude between the smallest (0) and the largest (1) that is shown.
pub fn heat(t: f32) -> Color32 {
    // Dark blue over violet and orange to pale yellow: rising in lightness, so that it also reads without colours.
    const STOPS: [[f32; 3]; 5] =
        [[20.0, 24.0, 60.0], [88.0, 40.0, 120.0], [190.0, 60.0, 100.0], [245.0, 140.0, 60.0], [252.0, 240.0, 170.0]];
    let at = t.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let i = (at as usize).min(STOPS.len() - 2);
    let mix = |c: usize| (STOPS[i][c] + (STOPS[i + 1][c] - STOPS[i][c]) * (at - i as f32)) as u8;
    Color32::from_rgb(mix(0), mix(1), mix(2))
}

/// Sets spacing, type sizes and colours of both themes.
pub fn apply(ctx: &egui::Context) {
    ctx.style_mut_of(Theme::Dark, |style| restyle(style, true));
    ctx.style_mut_of(Theme::Light, |style| restyle(style, false));
}

fn restyle(style: &mut Style, dark: bool) {
    let font = |size| FontId::new(size, FontFamily::Proportional);
    style.text_styles = [
        (TextStyle::Heading, font(16.0)),
        (TextStyle::Body, font(13.0)),
        (TextStyle::Button, font(13.0)),
        (TextStyle::Small, font(11.0)),
        (TextStyle::Monospace, FontId::new(12.0, FontFamily::Monospace)),
    ]
    .into();
    style.spacing.item_spacing = egui::vec2(8.0, 5.0);
    style.spacing.button_padding = egui::vec2(8.0, 3.0);
    style.interaction.selectable_labels = false;
    let grey = |dark_level: u8, light_level: u8| Color32::from_gray(if dark { dark_level } else { light_level });
    let mut v = if dark { Visuals::dark() } else { Visuals::light() };
    v.panel_fill = if dark { Color32::from_rgb(0x16, 0x18, 0x1d) } else { Color32::from_rgb(0xf6, 0xf7, 0xf9) };
    v.extreme_bg_color = if dark { Color32::from_rgb(0x0f, 0x11, 0x15) } else { Color32::WHITE };
    v.window_fill = if dark { Color32::from_rgb(0x1d, 0x20, 0x26) } else { Color32::WHITE };
    v.faint_bg_color = grey(0x1f, 0xee);
    v.widgets.noninteractive.fg_stroke = Stroke::new(1.0, grey(0xc8, 0x30));
    v.widgets.noninteractive.bg_stroke = Stroke::new(1.0, grey(0x2c, 0xdc));
    v.widgets.inactive.fg_stroke = Stroke::new(1.0, grey(0xd6, 0x28));
    v.weak_text_color = Some(grey(0x92, 0x66));
    v.selection.bg_fill = ACCENT.gamma_multiply(if dark { 0.55 } else { 0.35 });
    v.selection.stroke = Stroke::new(1.0, grey(0xff, 0x10));
    v.hyperlink_color = ACCENT;
    style.visuals = v;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_and_recipe_has_a_colour_of_its_own() {
        let recipes: std::collections::HashSet<Color32> = RecipeName::ALL.into_iter().map(recipe).collect();
        assert_eq!(recipes.len(), RecipeName::ALL.len());
        assert_eq!(dtype_named("e4m3"), dtype(DType::E4m3));
        // Contrast with white, as web pages are judged; 3 is asked of large and bold text.
        let channel = |c: u8| (f32::from(c) / 255.0).powf(2.2);
        let luminance = |c: Color32| 0.2126 * channel(c.r()) + 0.7152 * channel(c.g()) + 0.0722 * channel(c.b());
        for name in RecipeName::ALL {
            let contrast = 1.05 / (luminance(ink_on(false, recipe(name))) + 0.05);
            assert!(contrast >= 3.5, "{name}: {contrast}");
            assert_eq!(ink_on(true, recipe(name)), recipe(name));
        }
        let light = |c: Color32| u32::from(c.r()) + u32::from(c.g()) + u32::from(c.b());
        assert!((0..20).all(|i| light(heat(i as f32 / 20.0)) < light(heat((i + 1) as f32 / 20.0))));
    }
}

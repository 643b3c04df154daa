//! A few pictures, drawn by Mesa's software Vulkan driver so that they are the same on every machine. Where there is
//! none they are passed over, loudly, unless `MANTISSA_REQUIRE` names wgpu. `UPDATE_SNAPSHOTS=1` makes them anew.

use crate::device_checks;
use crate::support::{builder, full_store};
use egui_kittest::SnapshotOptions;
use mantissa_dashboard::shell::{Dashboard, Settings};

fn picture(name: &str, theme: egui::Theme, size: [f32; 2]) {
    let open = || drop(egui_kittest::wgpu::create_render_state(egui_kittest::wgpu::default_wgpu_setup(), Default::default()));
    let software = std::panic::catch_unwind(open).is_ok();
    if !software {
        device_checks::skipped("wgpu", "no Vulkan driver to draw with (Debian, Ubuntu: mesa-vulkan-drivers)");
        return;
    }
    device_checks::ran();
    let mut dashboard = Dashboard::new(Settings::default());
    dashboard.store = full_store();
    let draw = |ui: &mut egui::Ui, d: &mut Dashboard| {
        d.ui(ui);
    };
    let mut harness = builder().with_size(size).with_theme(theme).wgpu().build_ui_state(draw, dashboard);
    // Layouts settle and plots find their bounds.
    harness.run_steps(8);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pictures");
    // Versions of the driver round edges of glyphs and lines differently; a moved or missing part is thousands of
    // pixels.
    let options = SnapshotOptions::new().threshold(1.0).max_failed_pixels(400).output_path(folder);
    harness.snapshot_options(name, &options);
}

#[test]
fn the_dashboard_in_the_dark() {
    picture("dark", egui::Theme::Dark, [1360.0, 860.0]);
}

#[test]
fn the_smallest_window_in_the_light() {
    picture("light-small", egui::Theme::Light, [1000.0, 700.0]);
}

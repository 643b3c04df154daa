//! Pictures of the window, or of one panel, as PNG files.

use anyhow::{Context, Result};
use eframe::egui::{self, ColorImage, Rect, ScreenshotCallback, ViewportCommand};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

/// Takes a picture of `part` of the window (all of it without) with the next frame, and reports when the file is there.
pub(super) fn take(ctx: &egui::Context, part: Option<Rect>, path: PathBuf, done: Sender<Result<PathBuf>>) {
    let (scale, again) = (ctx.pixels_per_point(), ctx.clone());
    let save = move |image: std::sync::Arc<ColorImage>| {
        let image = part.map_or_else(|| (*image).clone(), |rect| image.region(&rect, Some(scale)));
        // The window may be gone by now.
        let _ = done.send(write(&image, &path).map(|()| path));
        again.request_repaint();
    };
    ctx.send_viewport_cmd(ViewportCommand::Screenshot(ScreenshotCallback::new(save)));
}

fn write(image: &ColorImage, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create the folder: {}", folder.display()))?;
    }
    let [width, height] = image.size.map(|n| n as u32);
    let pixels: Vec<u8> = image.pixels.iter().flat_map(|p| p.to_array()).collect();
    image::save_buffer(path, &pixels, width, height, image::ColorType::Rgba8)
        .with_context(|| format!("cannot write the picture: {}", path.display()))
}

//! The window `mantissa-gui`: trains on a thread of its own, opens and follows run folders, saves pictures and tables.

mod app;
mod args;
mod dialog;
mod follow;
mod picture;
mod script;
mod signals;
mod trainer;

pub use app::App;
pub use script::Script;
pub use signals::Signals;
pub use trainer::{Command, Told, Trainer};

use anyhow::{Result, anyhow};
use clap::{Parser, ValueEnum};
use eframe::egui;
use mantissa_app::cli::parse;
use mantissa_app::{in_words, out, process};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Name under which settings are remembered.
const APP_ID: &str = "mantissa";
/// The smallest window in which every panel can be read.
const MIN_SIZE: [f32; 2] = [1000.0, 700.0];
const SIZE: [f32; 2] = [1360.0, 860.0];

/// How the window ends, for scripts.
const EXIT_CODES: &str = "\
Exit codes: 0 closed; 2 refused, or no window can be opened; 130, 143, 129 ended by Ctrl-C, SIGTERM, SIGHUP, after saving what is trained; a second signal \
ends the window at once.";

/// Watch mixed-precision training: train, open saved runs, follow running ones.
#[derive(Clone, Debug, Parser)]
#[command(name = "mantissa-gui", version, after_help = EXIT_CODES)]
pub struct Args {
    /// Folders of runs to open; one that is still written is followed
    #[arg(value_name = "RUN_DIR")]
    pub runs: Vec<PathBuf>,
    /// Follow a run that another program writes; its folder may not have a run yet
    #[arg(long, value_name = "RUN_DIR")]
    pub attach: Option<PathBuf>,
    /// What draws the window [default: wgpu, or gl where that does not work]
    #[arg(long)]
    pub renderer: Option<Renderer>,
    /// What to do without a user.
    #[command(flatten)]
    pub script: Script,
}

/// What draws the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Renderer {
    /// Vulkan, Metal or DirectX.
    Wgpu,
    /// OpenGL.
    Gl,
}

/// Runs the window.
pub fn main() -> ExitCode {
    mantissa_app::quiet::restart_if_noisy();
    let args = match parse::parse::<Args>() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(out::stderr(), "error: {}", in_words(&error));
            ExitCode::from(mantissa_app::EXIT_REFUSED)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let signals = Signals::listen()?;
    let app = App::new(args, signals.clone())?;
    let renderer = args.renderer.unwrap_or(Renderer::Wgpu);
    let Err(error) = window(app, renderer, args.script.size()) else {
        return Ok(signals.asked().map_or(ExitCode::SUCCESS, |signal| ExitCode::from(signal.exit_code())));
    };
    if matches!(error, eframe::Error::Winit(_) | eframe::Error::WinitEventLoop(_)) {
        return Err(anyhow!(
            "expected a display to open a window on, found none ({}); over ssh use X forwarding (ssh -X), or train without a window: \
             `mantissa train`",
            cause(&error)
        ));
    }
    let error = cause(&error);
    if args.renderer.is_some() {
        return Err(anyhow!(
            "expected a graphics driver, found none that works ({error}); without a graphics card install a software driver (Debian, Ubuntu: \
             mesa-vulkan-drivers libgl1-mesa-dri libegl1), or train without a window: `mantissa train`"
        ));
    }
    let _ = writeln!(out::stderr(), "warning: wgpu cannot draw here ({error}); trying OpenGL");
    // A process has one event loop for its whole life, so the second try is another process.
    let mut again = std::process::Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).args(["--renderer", "gl"]);
    let code = process::become_it(again).map_err(|e| anyhow!("cannot start the window again: {e}"))?;
    Ok(ExitCode::from(code))
}

fn window(app: App, renderer: Renderer, size: Option<[f32; 2]>) -> eframe::Result {
    let viewport = egui::ViewportBuilder::default()
        .with_title("Mantissa")
        .with_app_id(APP_ID)
        .with_inner_size(size.unwrap_or(SIZE))
        .with_min_inner_size(MIN_SIZE);
    let renderer = match renderer {
        Renderer::Wgpu => eframe::Renderer::Wgpu,
        Renderer::Gl => eframe::Renderer::Glow,
    };
    // A scripted window looks the same whatever the user did in the last one.
    let persist_window = size.is_none();
    let options = eframe::NativeOptions { viewport, renderer, persist_window, ..eframe::NativeOptions::default() };
    let start = |cc: &eframe::CreationContext<'_>| Ok(Box::new(app.started(cc)) as Box<dyn eframe::App>);
    eframe::run_native(APP_ID, options, Box::new(start))
}

/// An error without the place in somebody's sources that some begin with.
fn cause(error: &eframe::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(".rs:").and_then(|(_, rest)| rest.split_once(": ")).map_or(text.as_str(), |(_, rest)| rest).to_string()
}

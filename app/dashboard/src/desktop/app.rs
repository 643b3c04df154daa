//! The application: the dashboard, fed by the trainer and by the logs of opened runs, and the doing of what its user
//! asks.

use super::dialog::{self, Chosen};
use super::follow::{self, Follower};
use super::script::Script;
use super::signals::Signals;
use super::trainer::{Command, Told, Trainer};
use super::{Args, args, picture};
use crate::form::{Action, Form, Notice, Panel, Phase, remedy};
use crate::palette;
use crate::shell::{Dashboard, Settings};
use crate::store::{Origin, Run};
use anyhow::{Context as _, Result};
use eframe::egui::{self, ViewportCommand};
use mantissa_app::cli::TrainArgs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Frames a second while something moves: enough to watch, and little enough to leave the processor to the training.
const LIVE_FRAME: Duration = Duration::from_millis(50);
/// How often the logs of opened runs are looked at.
const FOLLOW_FRAME: Duration = Duration::from_millis(250);
/// The same for runs that have taken all their steps: one may be resumed with more.
const REST_FRAME: Duration = Duration::from_secs(3);
/// Frames that a window draws before a picture of it is taken: layouts settle and plots find their bounds.
const SETTLE_FRAMES: u32 = 8;
/// What is said when a dialog has brought nothing.
const NO_CHOICE: &str = "Nothing was chosen. If no dialog came up, type the path instead, or drop the file here; dialogs need xdg-desktop-portal or \
                         zenity on Linux.";
/// Key under which settings are remembered.
const SETTINGS: &str = "dashboard";

/// The application.
#[derive(Debug)]
pub struct App {
    /// What is drawn.
    pub dashboard: Dashboard,
    trainer: Option<Trainer>,
    /// Index in the store of each run of the trainer.
    runners: Vec<usize>,
    /// What to train once the present trainer has ended.
    queued: Option<(Form, Vec<TrainArgs>)>,
    followers: Vec<(String, Follower)>,
    /// A run to follow as soon as it is there.
    attach: Option<PathBuf>,
    chosen: (Sender<Chosen>, Receiver<Chosen>),
    pictures: (Sender<Result<PathBuf>>, Receiver<Result<PathBuf>>),
    /// The window closes once the trainer has saved.
    closing: bool,
    signals: Signals,
    script: Script,
    settle: u32,
}

impl App {
    /// The application with the runs of the command line, which ends when `signals` ask for it.
    pub fn new(args: &Args, signals: Signals) -> Result<App> {
        let mut app = App {
            dashboard: Dashboard::new(Settings::default()),
            trainer: None,
            runners: Vec::new(),
            queued: None,
            followers: Vec::new(),
            attach: args.attach.clone(),
            chosen: channel(),
            pictures: channel(),
            closing: false,
            signals,
            script: args.script.clone(),
            settle: SETTLE_FRAMES,
        };
        app.dashboard.bar.status.devices = args::devices();
        app.dashboard.bar.status.has_files = true;
        if let Some(path) = &app.attach {
            app.dashboard.bar.status.notice = Some(Notice::Good(format!("waiting for a run in {}", path.display())));
        }
        for folder in &args.runs {
            app.open(folder)?;
        }
        if app.script.is_given() {
            app.dashboard.bar.form = app.script.form();
            let first = app.script.first(&app.dashboard.bar.form);
            app.dashboard.bar.actions.extend(first);
        }
        Ok(app)
    }

    /// Takes the settings of the last time, now that the window is there.
    pub(super) fn started(mut self, cc: &eframe::CreationContext<'_>) -> App {
        palette::apply(&cc.egui_ctx);
        let settings = cc.storage.and_then(|s| eframe::get_value::<Settings>(s, SETTINGS));
        if let Some(settings) = settings.filter(|_| !self.script.is_given()) {
            let old = std::mem::replace(&mut self.dashboard, Dashboard::new(settings));
            self.dashboard.store.runs = old.store.runs;
            self.dashboard.store.selected = old.store.selected;
            self.dashboard.bar.status = old.bar.status;
        }
        self
    }

    /// Does everything but drawing: news of the trainer and of logs, dialogs, dropped files, closing.
    pub fn update(&mut self, ctx: &egui::Context) {
        self.signals.wake(ctx);
        let live = self.hear();
        let more = self.follow();
        self.attach();
        while let Ok(chosen) = self.chosen.1.try_recv() {
            match chosen {
                Chosen::Data(path) => self.take_data(&path),
                Chosen::Run(path) => self.try_to(|app| app.open(&path)),
                Chosen::Nothing => self.dashboard.bar.status.notice = Some(Notice::Good(NO_CHOICE.into())),
            }
        }
        for file in ctx.input_mut(|i| std::mem::take(&mut i.raw.dropped_files)) {
            let path = file.path().to_path_buf();
            match follow::is_run(&path) {
                true => self.try_to(|app| app.open(&path)),
                false => self.take_data(&path),
            }
        }
        if !more {
            self.picture(ctx);
        }
        self.close(ctx);
        if more {
            ctx.request_repaint();
        } else if live || self.script.picture.is_some() {
            ctx.request_repaint_after(LIVE_FRAME);
        } else if self.attach.is_some() || self.followed().any(|run| run.taken() < run.config.schedule.steps) {
            ctx.request_repaint_after(FOLLOW_FRAME);
        } else if !self.followers.is_empty() {
            ctx.request_repaint_after(REST_FRAME);
        }
    }

    /// Takes the news of the trainer; returns whether there is one.
    fn hear(&mut self) -> bool {
        let Some(trainer) = self.trainer.take() else { return false };
        let mut ended = None;
        while let Some(told) = trainer.told() {
            match told {
                Told::Begin { runner, config, folder, past } => {
                    let mut run = Run::new(&folder.to_string_lossy(), &config.run.model, Origin::Live, config.train);
                    past.into_iter().for_each(|event| run.push(event));
                    self.begin(runner, run);
                }
                Told::Line(text) => self.dashboard.bar.status.notice = Some(Notice::Good(text)),
                Told::Warning(text) => self.dashboard.bar.status.notice = Some(Notice::Bad(text, "")),
                Told::Paused(paused) => {
                    self.dashboard.bar.status.phase = if paused { Phase::Paused } else { Phase::Running };
                }
                Told::Ended(result) => ended = Some(result),
            }
        }
        // Whatever was told belongs before these.
        while let Some((runner, event)) = trainer.event() {
            if let Some(run) = self.runners.get(runner).and_then(|at| self.dashboard.store.runs.get_mut(*at)) {
                run.push(event);
            }
        }
        if let Some(run) = self.runners.first().and_then(|at| self.dashboard.store.runs.get_mut(*at)) {
            run.dropped = trainer.dropped();
        }
        match ended {
            None => self.trainer = Some(trainer),
            Some(result) => {
                self.signals.tell(None);
                self.ended(result);
            }
        }
        true
    }

    /// Shows a run of the trainer, in the place of the same run read from its folder.
    fn begin(&mut self, runner: usize, run: Run) {
        let store = &mut self.dashboard.store;
        self.followers.retain(|(folder, _)| *folder != run.folder);
        let at = match store.runs.iter().position(|r| r.folder == run.folder) {
            Some(at) => {
                store.runs[at] = run;
                store.selected = at;
                at
            }
            None => store.add(run),
        };
        self.runners.resize(runner + 1, at);
        self.runners[runner] = at;
        if runner == 0 {
            self.dashboard.bar.status.run = Some(at);
        }
        store.race = if self.runners.len() > 1 { self.runners.clone() } else { Vec::new() };
    }

    fn ended(&mut self, result: Result<(), String>) {
        let status = &mut self.dashboard.bar.status;
        status.phase = Phase::Idle;
        (status.form, status.run) = (None, None);
        if let Err(error) = result {
            if self.script.is_given() {
                // Nobody reads the window.
                let _ = writeln!(mantissa_app::out::stderr(), "error: {error}");
                std::process::exit(mantissa_app::EXIT_REFUSED.into());
            }
            status.notice = Some(Notice::Bad(error.clone(), remedy(&error)));
        }
        self.runners.clear();
        if let Some((form, jobs)) = self.queued.take() {
            self.try_to(|app| app.start(form, jobs));
        }
    }

    /// Reads on in the logs of opened runs; returns whether one of them has more.
    fn follow(&mut self) -> bool {
        let mut more = false;
        let mut failed = None;
        for (folder, follower) in &mut self.followers {
            if let Some(run) = self.dashboard.store.runs.iter_mut().find(|r| r.folder == *folder) {
                match follower.poll(run) {
                    Ok(rest) => more |= rest,
                    Err(e) => failed = Some(e),
                }
            }
        }
        if let Some(e) = failed {
            self.fail(&e);
        }
        more
    }

    /// The runs whose logs are looked at.
    fn followed(&self) -> impl Iterator<Item = &Run> {
        let runs = &self.dashboard.store.runs;
        self.followers.iter().filter_map(|(folder, _)| runs.iter().find(|r| r.folder == *folder))
    }

    /// Opens the run to follow as soon as its folder has one.
    fn attach(&mut self) {
        if let Some(path) = self.attach.take_if(|path| follow::is_run(path)) {
            self.dashboard.bar.status.notice = None;
            self.try_to(|app| app.open(&path));
        }
    }

    /// Trains the next run on what is there.
    fn take_data(&mut self, path: &Path) {
        self.dashboard.bar.form.data = path.to_string_lossy().into_owned();
        self.dashboard.bar.status.notice = Some(Notice::Good(format!("data of the next run: {}", path.display())));
    }

    /// Shows the run in a folder and follows its log.
    fn open(&mut self, folder: &Path) -> Result<()> {
        let run = follow::open(folder)?;
        self.dashboard.bar.status.notice.take_if(|notice| matches!(notice, Notice::Bad(..)));
        if let Some(at) = self.dashboard.store.runs.iter().position(|r| r.folder == run.folder) {
            self.dashboard.store.selected = at;
            return Ok(());
        }
        self.followers.push((run.folder.clone(), Follower::new(folder)));
        self.dashboard.store.add(run);
        Ok(())
    }

    fn act(&mut self, ctx: &egui::Context, action: Action) -> Result<()> {
        match action {
            Action::Start(form) => {
                let job = args::train_args(&form, form.recipe)?;
                self.start_or_queue(form, vec![job])?;
            }
            Action::Race(form) => {
                let jobs = form.race.iter().map(|r| args::train_args(&form, *r)).collect::<Result<_>>()?;
                self.start_or_queue(form, jobs)?;
            }
            Action::Resume(folder) => {
                let job = TrainArgs { resume: Some(Some(folder.into())), ..TrainArgs::default() };
                self.start_or_queue(self.dashboard.bar.form.clone(), vec![job])?;
            }
            Action::Pause => self.send(Command::Pause),
            Action::Continue => self.send(Command::Continue),
            Action::StepOnce => self.send(Command::StepOnce),
            Action::Save => self.send(Command::Save),
            Action::ScaleLossScale(factor) => self.send(Command::ScaleLossScale(factor)),
            Action::Stop => self.stop(),
            Action::PickData => dialog::data(self.chosen.0.clone())?,
            Action::PickRun => dialog::run(self.chosen.0.clone())?,
            Action::Open(folder) => self.open(Path::new(&folder))?,
            Action::Close(index) => {
                let folder = self.dashboard.store.runs[index].folder.clone();
                self.followers.retain(|(f, _)| *f != folder);
                self.dashboard.store.remove(index);
                let shift = |at: &mut usize| *at -= usize::from(*at > index);
                self.runners.iter_mut().for_each(shift);
                self.dashboard.bar.status.run.as_mut().into_iter().for_each(shift);
            }
            Action::SavePicture(panel) => {
                let part = self.dashboard.places.get(&panel).copied();
                picture::take(ctx, part, self.export_path(panel, "png"), self.pictures.0.clone());
            }
            Action::SaveNumbers(panel, csv) => {
                let path = self.export_path(panel, "csv");
                let folder = path.parent().unwrap_or(Path::new("."));
                std::fs::create_dir_all(folder).with_context(|| format!("cannot create the folder: {}", folder.display()))?;
                mantissa_app::files::write_whole(&path, csv.as_bytes())?;
                self.saved(&path);
            }
        }
        Ok(())
    }

    /// Where the picture or table of a panel goes: into the folder of the run that is looked at.
    fn export_path(&self, panel: Panel, extension: &str) -> PathBuf {
        let run = self.dashboard.store.run();
        let (folder, step) = run.map_or((Path::new("."), 0), |r| (Path::new(&r.folder), r.taken()));
        let name = panel.name().to_lowercase().replace(' ', "-");
        folder.join("exports").join(format!("{name}-step-{step:08}.{extension}"))
    }

    fn saved(&mut self, path: &Path) {
        self.dashboard.bar.status.notice = Some(Notice::Good(format!("saved: {}", path.display())));
    }

    fn start_or_queue(&mut self, form: Form, jobs: Vec<TrainArgs>) -> Result<()> {
        if self.trainer.is_some() {
            self.queued = Some((form, jobs));
            self.stop();
            return Ok(());
        }
        self.start(form, jobs)
    }

    fn start(&mut self, form: Form, jobs: Vec<TrainArgs>) -> Result<()> {
        let trainer = self.trainer.insert(Trainer::start(jobs)?);
        self.signals.tell(Some(trainer.stop()));
        let status = &mut self.dashboard.bar.status;
        (status.phase, status.form, status.notice) = (Phase::Starting, Some(form), None);
        Ok(())
    }

    fn stop(&mut self) {
        self.send(Command::Stop);
        if self.trainer.is_some() {
            self.dashboard.bar.status.phase = Phase::Stopping;
        }
    }

    fn send(&self, command: Command) {
        if let Some(trainer) = &self.trainer {
            trainer.send(command);
        }
    }

    /// Saves pictures that were asked for, and the one of the script when its time has come.
    fn picture(&mut self, ctx: &egui::Context) {
        while let Ok(done) = self.pictures.1.try_recv() {
            match done {
                Ok(path) if self.script.picture.as_ref() == Some(&path) => {
                    self.script.picture = None;
                    ctx.send_viewport_cmd(ViewportCommand::Close);
                }
                Ok(path) => self.saved(&path),
                Err(e) => self.fail(&e),
            }
        }
        if self.trainer.is_some() || !self.dashboard.bar.actions.is_empty() || self.settle == 0 {
            return;
        }
        if let Some(path) = self.script.picture.clone() {
            self.settle -= 1;
            if self.settle == 0 {
                picture::take(ctx, None, path, self.pictures.0.clone());
            }
        }
    }

    /// A window that is closed, or asked to by a signal, while it trains saves a checkpoint first.
    fn close(&mut self, ctx: &egui::Context) {
        let asked = ctx.input(|i| i.viewport().close_requested());
        let signalled = self.signals.asked().is_some();
        if asked && self.trainer.is_some() {
            ctx.send_viewport_cmd(ViewportCommand::CancelClose);
        }
        if (asked || signalled) && self.trainer.is_some() && !self.closing {
            self.queued = None;
            self.stop();
            self.closing = true;
        }
        if (self.closing || signalled) && self.trainer.is_none() {
            self.closing = false;
            ctx.send_viewport_cmd(ViewportCommand::Close);
        }
    }

    fn try_to(&mut self, what: impl FnOnce(&mut App) -> Result<()>) {
        if let Err(e) = what(self) {
            self.fail(&e);
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        let help = remedy(&text);
        self.dashboard.bar.status.notice = Some(Notice::Bad(text, help));
    }

    /// Draws the dashboard and does what its user asks.
    pub fn draw(&mut self, ui: &mut egui::Ui) {
        if ui.ctx().input(|i| !i.raw.hovered_files.is_empty()) {
            drop_ui(ui.ctx());
        }
        for action in self.dashboard.ui(ui) {
            let ctx = ui.ctx().clone();
            self.try_to(|app| app.act(&ctx, action));
        }
    }
}

/// Says over everything what dropping does.
fn drop_ui(ctx: &egui::Context) {
    let layer = egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("drop"));
    let (painter, all) = (ctx.layer_painter(layer), ctx.content_rect());
    painter.rect_filled(all, 0.0, egui::Color32::from_black_alpha(180));
    let font = egui::TextStyle::Heading.resolve(&ctx.global_style());
    let text = "Drop a file or folder to train on, or the folder of a run to look at";
    painter.text(all.center(), egui::Align2::CENTER_CENTER, text, font, egui::Color32::WHITE);
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _frame: &mut eframe::Frame) {
        self.update(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        self.draw(ui);
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        if !self.script.is_given() {
            eframe::set_value(storage, SETTINGS, &self.dashboard.settings());
        }
    }
}

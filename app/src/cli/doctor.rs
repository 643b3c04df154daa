//! `mantissa doctor`: says what is wrong with a run and what helps, from observed steps, and for a run folder first
//! from its log and checkpoint.

use super::TrainArgs;
use super::several::{Bench, Run, refuse_unused, take_steps};
use super::text::{print, print_json};
use crate::checkpoint::{self, moved, read};
use crate::cli::resolve::{self, Resolved};
use crate::config::RunConfig;
use crate::progress::Progress;
use crate::run_folder::CONFIG;
use crate::run_log::{self, Logged};
use crate::{Outcome, device, findings, in_words, init_from, out, plain_file, show};
use anyhow::{Result, bail};
use clap::Args;
use mantissa_core::diagnose::doctor::Doctor;
use mantissa_core::diagnose::finding::{Finding, Severity};
use mantissa_core::diagnose::history::History;
use mantissa_core::diagnose::states;
use mantissa_core::telemetry::StepReport;
use mantissa_core::telemetry::reader::Counts;
use mantissa_core::train::Session;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Steps when none are given.
const DEFAULT_STEPS: u64 = 30;

/// Flags of `doctor`: a run folder, or the run is described as for `train`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Folder of a run, however it ended: its log and newest checkpoint are read, then it goes on from there, observed.
    /// Nothing in it is changed
    #[arg(value_name = "RUN", conflicts_with = "config")]
    pub folder: Option<PathBuf>,
    /// Only read the folder, run no steps
    #[arg(long, requires = "folder")]
    pub no_run: bool,
    /// End with exit code 1 if anything worse than a note was found; without it, 0
    #[arg(long)]
    pub exit_code: bool,
    /// The run, as for `train`; --steps defaults to 30
    #[command(flatten)]
    pub run: TrainArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    recipe: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogJson>,
    /// Step of the checkpoint that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<u64>,
    /// Observed steps.
    steps: u64,
    /// Why no step was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_run: Option<String>,
    skipped: u64,
    loss: Option<f32>,
    loss_scale: Option<f32>,
    healthy: bool,
    findings: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct LogJson {
    steps: usize,
    last_step: Option<u64>,
    lines: u64,
    corrupt_lines: u64,
    out_of_order_lines: u64,
}

#[derive(Serialize)]
struct Found<'a> {
    seen_in: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// What was read from a run folder.
struct Past {
    history: History,
    counts: Counts,
    /// Step of the checkpoint that could be used.
    checkpoint: Option<u64>,
}

/// Findings, and where they were seen.
type Places = Vec<(&'static str, Vec<Finding>)>;

/// `mantissa doctor`.
pub fn command(args: &DoctorArgs) -> Result<Outcome> {
    refuse_unused("doctor", &args.run)?;
    let (steps, mut flags) = take_steps(&args.run, DEFAULT_STEPS);
    if let Some(folder) = &args.folder {
        flags.step.config = Some(folder.join(CONFIG));
        if !folder.join(CONFIG).is_file() {
            let found = if folder.is_dir() { "no such file in it" } else { plain_file::found(folder) };
            bail!("doctor: expected the folder of a run, with {CONFIG}, found {found}: {}", folder.display());
        }
    }
    let mut runs = [resolve::resolve(&flags)?];
    if let (Some(folder), [run]) = (&args.folder, &mut runs) {
        moved::locate(&mut run.config.run, folder);
    }
    let bench = (!args.no_run).then(|| Bench::new(&mut runs)).transpose();
    let [Resolved { config, .. }] = runs;
    let backend = device::open(config.run.device, config.run.adapter.as_deref(), config.run.tune)?.backend;
    device::check_memory(&config.train, &*backend)?;
    let mut session = Session::observable(backend, config.train.clone())?;
    let mut places = Places::new();
    let past = match &args.folder {
        Some(folder) => Some(look_back(folder, &config, &mut session, &mut places)?),
        None => None,
    };
    if !args.no_run && past.as_ref().is_none_or(|p| p.checkpoint.is_none()) {
        init_from::fill(&session, &config)?.iter().for_each(|note| out::note(note));
    }
    let first = session.steps();
    let mut not_run = args.no_run.then(|| "--no-run".to_string());
    let (observed, last) = match bench.and_then(|b| b.map(|b| b.attach(session)).transpose()) {
        Ok(None) => (0, None),
        Ok(Some(mut run)) => {
            let (last, found) = observe(&mut run, steps, args.run.json || args.run.quiet)?;
            places.push(("steps", found));
            (run.session.steps() - first, last)
        }
        Err(e) if args.folder.is_none() => return Err(e),
        // What a folder holds is worth reading even if the data has gone.
        Err(e) => {
            not_run = Some(in_words(&e));
            (0, None)
        }
    };
    let report = Report {
        model: &config.run.model,
        recipe: config.train.recipe.name.name(),
        log: past.as_ref().map(|p| LogJson {
            steps: p.history.len(),
            last_step: p.history.last_step(),
            lines: p.counts.lines,
            corrupt_lines: p.counts.damaged,
            out_of_order_lines: p.counts.out_of_order,
        }),
        checkpoint: past.as_ref().and_then(|p| p.checkpoint),
        steps: observed,
        not_run,
        skipped: last.as_ref().map_or(0, |r| r.skipped_total),
        loss: last.as_ref().map(|r| r.loss).filter(|l| l.is_finite()),
        loss_scale: last.as_ref().and_then(|r| r.loss_scale),
        healthy: places.iter().flat_map(|(_, f)| f).all(|f| f.severity == Severity::Note),
        findings: places.iter().flat_map(|(seen_in, f)| f.iter().map(|finding| Found { seen_in, finding })).collect(),
    };
    match args.run.json {
        true => print_json(&report),
        false => print(&text(&report, past.as_ref(), config.train.schedule.steps, last.as_ref(), &places)),
    }?;
    Ok(if args.exit_code && !report.healthy { Outcome::Found } else { Outcome::Done })
}

/// Runs observed steps; the last report, and what was found.
fn observe(run: &mut Run, steps: u64, silent: bool) -> Result<(Option<StepReport>, Vec<Finding>)> {
    let mut progress = Progress::new("doctor", "step", steps, silent);
    let mut doctor = Doctor::new(&run.session);
    let mut last = None;
    for _ in 0..steps {
        let (session, batch) = run.next_batch()?;
        let (report, more) = doctor.step(session, batch.batch())?;
        last = Some(report);
        progress.advance(1);
        if !more {
            break;
        }
    }
    Ok((last, doctor.findings()))
}

/// Reads the log and the newest usable checkpoint of a run, and puts `session` there.
fn look_back(folder: &Path, config: &RunConfig, session: &mut Session, places: &mut Places) -> Result<Past> {
    let mut history = History::new(&config.train.recipe, session.program());
    let counts = run_log::read(folder, |event| match event {
        Logged::Step(report) => history.step(report),
        Logged::Tensor(event) => history.tensor(&event.tensor),
    })?;
    places.push(("log", history.findings()));
    let (mut found, mut checkpoint) = (Vec::new(), None);
    for (step, dir) in checkpoint::list(folder)?.into_iter().rev() {
        match read::state(&dir).and_then(|state| read::restore(&dir, &state, session)) {
            Ok(()) => {
                checkpoint = Some(step);
                found.extend(states::findings(session)?);
                break;
            }
            Err(e) => found.push(Finding {
                severity: Severity::Warning,
                step,
                problem: format!("the checkpoint of step {step} cannot be used"),
                evidence: vec![format!("{e:#}")],
                remedy: "remove it; --resume needs a whole one".into(),
            }),
        }
    }
    places.push(("checkpoint", found));
    Ok(Past { history, counts, checkpoint })
}

fn text(r: &Report<'_>, past: Option<&Past>, planned: u64, last: Option<&StepReport>, places: &Places) -> String {
    let mut out = format!("doctor    {} in {}\n", r.model, r.recipe);
    if let Some(Past { history, counts, checkpoint }) = past {
        let _ = match history.last_step() {
            Some(step) => write!(out, "log       {} steps, up to {step} of {planned}", history.len()),
            None => write!(out, "log       no step"),
        };
        if counts.damaged > 0 {
            let (n, lines, first) = (counts.damaged, counts.lines, counts.first_damaged);
            let _ = write!(out, "; {n} of {lines} lines left out as unreadable, the first is line {first}");
        }
        if counts.out_of_order > 0 {
            let _ = write!(out, "; {} left out as out of order", counts.out_of_order);
        }
        out.push('\n');
        let _ = match checkpoint {
            Some(step) => writeln!(out, "saved     after step {step}"),
            None => writeln!(out, "saved     no checkpoint that can be used"),
        };
    }
    if let Some(l) = last {
        let scale = l.loss_scale.map(|s| format!(" | loss_scale {} | skipped {}", show::loss_scale(s), l.skipped_total));
        let numbers = format!(
            "loss {} | grad_norm {}{}",
            show::measured(l.loss, 4),
            show::measured(l.grad_norm, 3),
            scale.unwrap_or_default()
        );
        let _ = writeln!(out, "observed  {} steps, the last: {numbers}", r.steps);
    }
    if let Some(why) = &r.not_run {
        let _ = writeln!(out, "observed  no steps: {why}");
    }
    if r.findings.is_empty() {
        let healthy = match r.not_run {
            None => "every value was finite and nothing was lost beyond what the formats promise",
            Some(_) => "as far as the log and the checkpoint tell",
        };
        let _ = writeln!(out, "healthy   {healthy}");
    }
    for (seen_in, found) in places.iter().filter(|(_, found)| !found.is_empty()) {
        if past.is_some() {
            let _ = writeln!(out, "\nfrom the {seen_in}:");
        }
        for finding in found {
            let _ = writeln!(out, "\n{}", findings::lines(finding).join("\n"));
        }
    }
    out
}

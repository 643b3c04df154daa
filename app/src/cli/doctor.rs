//! `mantissa doctor`: runs observed steps and says what is wrong with a run and what helps.

use super::TrainArgs;
use super::several::{Bench, refuse_unused, take_steps};
use crate::cli::resolve;
use crate::{Outcome, findings, show};
use anyhow::Result;
use clap::Args;
use mantissa_core::probe::doctor::{Doctor, Finding, Severity};
use mantissa_core::telemetry::StepReport;
use serde::Serialize;
use std::io::Write;

/// Steps when none are given.
const DEFAULT_STEPS: u64 = 30;

/// Flags of `doctor`: the run is described as for `train`; `--config RUN/config.toml` takes that of an earlier run.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The run, as for `train`; --steps defaults to 30
    #[command(flatten)]
    pub run: TrainArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    recipe: &'a str,
    steps: u64,
    skipped: u64,
    loss: Option<f32>,
    loss_scale: Option<f32>,
    healthy: bool,
    findings: &'a [Finding],
}

/// `mantissa doctor`.
pub fn command(args: &DoctorArgs) -> Result<Outcome> {
    refuse_unused("doctor", &args.run)?;
    let (steps, flags) = take_steps(&args.run, DEFAULT_STEPS);
    let config = resolve::resolve(&flags)?.config;
    let mut run = Bench::new(&config)?.run(&config)?;
    let mut doctor = Doctor::new(&run.session);
    let mut last: Option<StepReport> = None;
    for _ in 0..steps {
        let (session, batch) = run.next_batch();
        let (report, more) = doctor.step(session, batch.batch())?;
        last = Some(report);
        if !more {
            break;
        }
    }
    let findings = doctor.findings();
    let mut out = std::io::stdout().lock();
    let recipe = config.train.recipe.name.name();
    if args.run.json {
        let report = Report {
            model: &config.run.model,
            recipe,
            steps: run.session.steps(),
            skipped: last.as_ref().map_or(0, |r| r.skipped_total),
            loss: last.as_ref().map(|r| r.loss).filter(|l| l.is_finite()),
            loss_scale: last.as_ref().and_then(|r| r.loss_scale),
            healthy: findings.iter().all(|f| f.severity == Severity::Note),
            findings: &findings,
        };
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        return Ok(Outcome::Done);
    }
    writeln!(out, "doctor    {} in {recipe}: {} steps observed", config.run.model, run.session.steps())?;
    if let Some(r) = &last {
        let scale = r.loss_scale.map(|s| format!(" | loss_scale {} | skipped {}", show::loss_scale(s), r.skipped_total));
        writeln!(out, "last      loss {:.4} | grad_norm {:.3}{}", r.loss, r.grad_norm, scale.unwrap_or_default())?;
    }
    if findings.is_empty() {
        writeln!(out, "healthy   every value was finite and nothing was lost beyond what the formats promise")?;
    }
    for f in &findings {
        writeln!(out, "\n{}", findings::lines(f).join("\n"))?;
    }
    Ok(Outcome::Done)
}

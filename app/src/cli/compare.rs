//! `mantissa compare`: two recipes, or one on two devices, on the same batches, and where the second loses precision
//! against the first.

use super::TrainArgs;
use super::number::{count, not_negative};
use super::several::{Bench, finite, refuse_unused, resolve_for, take_steps};
use super::table::{Left, Right, table};
use super::text::print_json;
use crate::config::{DeviceChoice, RunConfig};
use crate::progress::Progress;
use crate::show::percent;
use crate::{Outcome, device, out, show};
use anyhow::{Result, bail};
use clap::Args;
use mantissa_core::diagnose::compare::{self, Comparison, Row, RowKind};
use mantissa_core::precision::recipe::RecipeName;
use serde::Serialize;
use std::io::Write;

/// Steps when none are given: enough for fp8 histories and loss scales to settle.
const DEFAULT_STEPS: u64 = 10;
/// Bytes in a mebibyte.
const MIB: f64 = 1_048_576.0;

/// Flags of `compare`: the run is described as for `train`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Recipe taken as right
    #[arg(long, value_name = "RECIPE", default_value = "f32")]
    pub a: RecipeName,
    /// Recipe measured against it
    #[arg(long, value_name = "RECIPE")]
    pub b: RecipeName,
    /// Device of `a` [default: --device]
    #[arg(long)]
    pub device_a: Option<DeviceChoice>,
    /// Device of `b` [default: --device]
    #[arg(long)]
    pub device_b: Option<DeviceChoice>,
    /// Rows to print, worst first; 0 prints all
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = count::<usize>)]
    pub rows: usize,
    /// Let the runs drift apart to the end; by default the compared step, the last, starts from the weights of `a` in
    /// both
    #[arg(long)]
    pub drift: bool,
    /// Most memory for the values of `a` that are kept, MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096.0, value_parser = not_negative)]
    pub keep_mib: f64,
    /// The run, as for `train`; --steps defaults to 10
    #[command(flatten)]
    pub run: TrainArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    a: &'a str,
    b: &'a str,
    device_a: &'a str,
    device_b: &'a str,
    model: &'a str,
    steps: u64,
    same_weights: bool,
    loss_a: Option<f32>,
    loss_b: Option<f32>,
    unmatched: usize,
    summary: Vec<SummaryJson>,
    rows: Vec<RowJson<'a>>,
}

#[derive(Serialize)]
struct SummaryJson {
    kind: RowKind,
    rows: usize,
    worst_sqnr_db: Option<f64>,
    median_sqnr_db: Option<f64>,
    underflow: f64,
    saturated: f64,
    nonfinite: u64,
}

#[derive(Serialize)]
struct RowJson<'a> {
    kind: RowKind,
    scope: &'a str,
    op: &'a str,
    instr: usize,
    dtypes: [&'static str; 2],
    elements: u64,
    /// Absent for an exact copy (`exact`) and for noise without signal.
    sqnr_db: Option<f64>,
    exact: bool,
    max_error: f64,
    amax: f64,
    underflow: f64,
    saturated: f64,
    nonfinite: u64,
}

/// `mantissa compare`.
pub fn command(args: &CompareArgs) -> Result<Outcome> {
    refuse_unused("compare", &args.run)?;
    if args.run.step.recipe.is_some() {
        bail!("--recipe: `compare` takes two recipes, --a and --b");
    }
    let (steps, flags) = take_steps(&args.run, DEFAULT_STEPS);
    let both = [args.a, args.b];
    let mut runs = [resolve_for(&flags, args.a, &both)?, resolve_for(&flags, args.b, &both)?];
    let bench = Bench::new(&mut runs)?;
    let [config_a, config_b] = runs.map(|r| r.config);
    let [on_a, on_b] = [args.device_a.unwrap_or(config_a.run.device), args.device_b.unwrap_or(config_b.run.device)];
    let open = |on: DeviceChoice, config: &RunConfig| {
        let (adapter, tune) = match on {
            DeviceChoice::Cpu => (None, None),
            DeviceChoice::Auto | DeviceChoice::Wgpu => (config.run.adapter.as_deref(), config.run.tune),
        };
        Ok::<_, anyhow::Error>(device::open(on, adapter, tune)?.backend)
    };
    let backend_a = open(on_a, &config_a)?;
    let backend_b = if on_b == on_a { backend_a.clone() } else { open(on_b, &config_b)? };
    let devices = [&backend_a, &backend_b].map(|b| b.capabilities().device.clone());
    let (mut a, mut b) = (bench.observable(backend_a, &config_a)?, bench.observable(backend_b, &config_b)?);
    let mut progress = Progress::new("compare", "step", steps, args.run.json || args.run.quiet);
    for _ in 1..steps {
        let (session, batch) = a.next_batch()?;
        session.step(batch.batch())?;
        b.session.step(batch.batch())?;
        progress.advance(1);
    }
    if !args.drift {
        compare::share_weights(&a.session, &b.session)?;
    }
    let (session, batch) = a.next_batch()?;
    let comparison = compare::step(session, &mut b.session, batch.batch(), (args.keep_mib * MIB) as usize)?;
    drop(progress);
    if args.run.json {
        return print_json(&report(args, &config_a.run.model, &devices, steps, &comparison));
    }
    print(&mut out::stdout(), args, &config_a.run.model, &devices, steps, &comparison)?;
    Ok(Outcome::Done)
}

/// Rows of one kind, in the order of the comparison.
fn of_kind(c: &Comparison, kind: RowKind) -> Vec<&Row> {
    c.rows.iter().filter(|r| r.kind == kind).collect()
}

fn summary(c: &Comparison) -> Vec<(RowKind, SummaryJson)> {
    let one = |kind: RowKind| {
        let rows = of_kind(c, kind);
        let all = rows.iter().fold(mantissa_core::diagnose::stats::Difference::default(), |d, r| d.joined(&r.difference));
        let db = |r: Option<&&Row>| r.map_or(f64::NAN, |r| r.difference.sqnr_db());
        let json = SummaryJson {
            kind,
            rows: rows.len(),
            worst_sqnr_db: finite(db(rows.first())),
            median_sqnr_db: finite(db(rows.get(rows.len() / 2))),
            underflow: all.underflow_share(),
            saturated: all.saturated_share(),
            nonfinite: all.new_nonfinite(),
        };
        (kind, json)
    };
    RowKind::ALL.into_iter().map(one).filter(|(_, s)| s.rows > 0).collect()
}

fn report<'a>(args: &CompareArgs, model: &'a str, devices: &'a [String; 2], steps: u64, c: &'a Comparison) -> Report<'a> {
    let shown = if args.rows == 0 { c.rows.len() } else { args.rows };
    let row = |r: &'a Row| RowJson {
        kind: r.kind,
        scope: &r.scope,
        op: &r.what,
        instr: r.instr,
        dtypes: r.dtypes.map(|d| d.name()),
        elements: r.difference.len,
        sqnr_db: finite(r.difference.sqnr_db()),
        exact: r.difference.noise == 0.0,
        max_error: r.difference.max_error,
        amax: r.difference.amax,
        underflow: r.difference.underflow_share(),
        saturated: r.difference.saturated_share(),
        nonfinite: r.difference.new_nonfinite(),
    };
    let loss = |r: &mantissa_core::telemetry::StepReport| r.loss.is_finite().then_some(r.loss);
    Report {
        a: args.a.name(),
        b: args.b.name(),
        device_a: &devices[0],
        device_b: &devices[1],
        model,
        steps,
        same_weights: !args.drift,
        loss_a: loss(&c.reports[0]),
        loss_b: loss(&c.reports[1]),
        unmatched: c.unmatched,
        summary: summary(c).into_iter().map(|(_, s)| s).collect(),
        rows: c.rows.iter().take(shown).map(row).collect(),
    }
}

fn print(
    out: &mut impl Write,
    args: &CompareArgs,
    model: &str,
    devices: &[String; 2],
    steps: u64,
    c: &Comparison,
) -> Result<()> {
    let start = if args.drift { "each from its own weights" } else { "both from the weights of a" };
    writeln!(out, "compare   {} (a) with {} (b) on {model}: step {steps}, {start}", args.a, args.b)?;
    let [on_a, on_b] = devices;
    match on_a == on_b {
        true => writeln!(out, "device    {on_a}")?,
        false => writeln!(out, "devices   a on {on_a}, b on {on_b}")?,
    }
    writeln!(out, "loss      a {:.5}   b {:.5}", c.reports[0].loss, c.reports[1].loss)?;
    if c.reports[1].skipped {
        writeln!(
            out,
            "note      b skipped the step (loss_scale {}): its updates are zero",
            show::loss_scale(c.reports[1].loss_scale.unwrap_or_default())
        )?;
    }
    if c.unmatched > 0 {
        writeln!(out, "note      {} computations of b have no counterpart in a", c.unmatched)?;
    }
    let kinds = summary(c).into_iter().map(|(kind, s)| {
        let rows = of_kind(c, kind);
        let db = |r: Option<&&Row>| r.map_or_else(String::new, |r| decibels(r.difference.sqnr_db()));
        let (worst, median) = (db(rows.first()), db(rows.get(rows.len() / 2)));
        [kind.name().into(), s.rows.to_string(), worst, median, percent(s.underflow), percent(s.saturated)]
    });
    let [rows, worst, median, underflow, saturated] =
        ["tensors", "worst dB", "median dB", "underflow", "saturated"].map(|h| (h, Right));
    write!(out, "\n{}", table(0, [("kind", Left), rows, worst, median, underflow, saturated], kinds))?;
    let shown = if args.rows == 0 { c.rows.len() } else { args.rows.min(c.rows.len()) };
    writeln!(out, "\nworst first, {shown} of {} (SQNR of b against a; a conversion against its own input)", c.rows.len())?;
    let rows = c.rows[..shown].iter().map(|r| {
        let d = &r.difference;
        let scope = if r.scope.is_empty() { "(root)" } else { &r.scope };
        let bad = if d.new_nonfinite() > 0 { format!("  {} NON-FINITE", d.new_nonfinite()) } else { String::new() };
        [
            decibels(d.sqnr_db()),
            format!("{:.2e}", d.max_error),
            percent(d.underflow_share()),
            percent(d.saturated_share()),
            r.kind.name().into(),
            format!("{} {}", r.dtypes[0], r.dtypes[1]),
            format!("{scope}: {}{bad}", r.what),
        ]
    });
    let [db, error, underflow, saturated] = ["SQNR dB", "max error", "underflow", "saturated"].map(|h| (h, Right));
    let [kind, dtypes, scope] = ["kind", "dtypes", "scope: operation"].map(|h| (h, Left));
    write!(out, "{}", table(0, [db, error, underflow, saturated, kind, dtypes, scope], rows))?;
    Ok(())
}

fn decibels(db: f64) -> String {
    if db == f64::INFINITY { "exact".into() } else { format!("{db:.1}") }
}

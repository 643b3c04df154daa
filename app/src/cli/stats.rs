//! `mantissa stats`: the tensors that a run has measured, or that a few steps of a model measure now, worst first: what
//! their format makes of them and what other formats would.

mod picture;

use super::number::{count, whole};
use super::resolve::{self, Resolved};
use super::several::Bench;
use super::table::{Left, Right, table};
use super::text::{print, print_json};
use super::{StepArgs, TrainArgs};
use crate::progress::Progress;
use crate::run_folder::EVENTS;
use crate::run_log::{self, Logged};
use crate::show::{percent, scientific};
use crate::{Outcome, device, plain_file};
use anyhow::{Result, bail};
use clap::Args;
use mantissa_core::DType;
use mantissa_core::precision::overrides::Pattern;
use mantissa_core::telemetry::{FormatLoss, TensorReport};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Steps of a model when none are given: enough for fp8 histories and loss scales to settle.
const DEFAULT_STEPS: u64 = 10;

/// Formats whose bands are asked for.
const FORMATS: [DType; 4] = [DType::E4m3, DType::E5m2, DType::F16, DType::Bf16];

/// Flags of `stats`.
#[derive(Clone, Debug, Args)]
pub struct StatsArgs {
    /// Run folder that `train --stats-every` wrote; without one, a few steps of --model are run
    #[arg(value_name = "RUN_DIR", conflicts_with_all = ["StepArgs", "steps", "data"])]
    pub run: Option<PathBuf>,
    /// Tensors to show, by glob: "gpt.h0.mlp.up" (all of a layer), "**.weight.grad". May be repeated [default: of a run
    /// all, of a model input, weight, output gradient and weight gradient of every linear layer]
    #[arg(long, value_name = "GLOB")]
    pub tensor: Vec<String>,
    /// Step of the run [default: the last one measured]
    #[arg(long, value_name = "N", value_parser = count::<u64>)]
    pub step: Option<u64>,
    /// Draw the exponent histogram of every tensor beside the bands of e4m3, e5m2, f16 and bf16
    #[arg(long)]
    pub histogram: bool,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Steps to run of a model; the last is measured [default: 10]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=1_000_000))]
    pub steps: Option<u64>,
    /// Data of the model, as for `train` [default: builtin]
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// The model
    #[command(flatten)]
    pub model: StepArgs,
}

/// What is shown.
struct Measured {
    /// Where it comes from.
    source: String,
    step: u64,
    tensors: Vec<TensorReport>,
}

#[derive(Serialize)]
struct Report<'a> {
    source: &'a str,
    step: u64,
    tensors: Vec<TensorJson<'a>>,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    #[serde(flatten)]
    report: &'a TensorReport,
    what_if: Vec<Answer>,
}

/// What a format would spoil.
#[derive(Clone, Copy, Debug, Serialize)]
struct Answer {
    dtype: DType,
    scale: f32,
    #[serde(flatten)]
    format_loss: FormatLoss,
}

/// `mantissa stats`.
pub fn command(args: &StatsArgs) -> Result<Outcome> {
    let patterns = args.tensor.iter().map(|g| Pattern::new(g)).collect::<mantissa_core::Result<Vec<_>>>()?;
    let mut measured = match (&args.run, args.step) {
        (Some(run), step) => of_run(run, step)?,
        (None, None) => of_model(args)?,
        (None, Some(_)) => bail!("--step: expected a RUN_DIR too; of a model, the last of --steps is measured"),
    };
    let names: Vec<String> = measured.tensors.iter().map(|t| t.name.clone()).collect();
    patterns.iter().try_for_each(|p| p.check("--tensor", "tensor", names.iter().map(String::as_str)))?;
    measured.tensors.retain(|t| patterns.is_empty() || patterns.iter().any(|p| p.covers(&t.name)));
    measured.tensors.sort_by(|a, b| badness(a).partial_cmp(&badness(b)).unwrap_or(std::cmp::Ordering::Equal));
    if args.json {
        let tensor = |report| TensorJson { report, what_if: answers(report) };
        let tensors = measured.tensors.iter().map(tensor).collect();
        return print_json(&Report { source: &measured.source, step: measured.step, tensors });
    }
    let mut out = format!("stats     {}, step {}: tensors, worst first\n\n", measured.source, measured.step);
    tensors(&mut out, &measured.tensors);
    if args.histogram {
        measured.tensors.iter().for_each(|t| picture::draw(&mut out, t));
    }
    print(&out)
}

/// Orders tensors, the worst first: with non-finite elements, then by rising SQNR, then by falling loss of elements.
fn badness(t: &TensorReport) -> (bool, f64, f64) {
    let finite = t.nonfinite.is_some_and(|n| n == 0.0) && t.amax.is_some();
    let lost = f64::from(t.underflow.unwrap_or(0.0)) + f64::from(t.saturated.unwrap_or(0.0));
    (finite, t.stats.as_ref().and_then(|s| s.sqnr_db).unwrap_or(f64::INFINITY), -lost)
}

/// The tensors that a run measured at `step`.
fn of_run(run: &Path, step: Option<u64>) -> Result<Measured> {
    let path = run.join(EVENTS);
    if !path.is_file() {
        let found = if run.is_dir() { "no such file in it" } else { plain_file::found(run) };
        bail!("expected a run folder with {EVENTS}, found {found}: {}", run.display());
    }
    let (mut at, mut tensors) = (None, Vec::new());
    let mut steps: Vec<u64> = Vec::new();
    run_log::read(run, |logged| {
        let Logged::Tensor(event) = logged else { return };
        if steps.last() != Some(&event.step) {
            steps.push(event.step);
        }
        if step.is_some_and(|s| s != event.step) {
            return;
        }
        if at != Some(event.step) {
            at = Some(event.step);
            tensors.clear();
        }
        tensors.push(event.tensor);
    })?;
    match (at, &steps[..]) {
        (Some(step), _) => Ok(Measured { source: run.display().to_string(), step, tensors }),
        (None, []) => bail!("expected a run with tensor statistics (train --stats-every K), found none: {}", path.display()),
        (None, [first, .., last] | [first @ last]) => {
            let asked = step.unwrap_or_default();
            bail!(
                "--step: expected one of the {} steps measured, {first} to {last}, got {asked}: {}",
                steps.len(),
                path.display()
            )
        }
    }
}

/// The tensors that the last of a few steps measures.
fn of_model(args: &StatsArgs) -> Result<Measured> {
    let mut runs = [resolve::resolve(&TrainArgs { data: args.data.clone(), ..args.model.as_train() })?];
    let bench = Bench::new(&mut runs)?;
    let [Resolved { config, .. }] = runs;
    let mut run = bench.measuring(
        device::open(config.run.device, config.run.adapter.as_deref(), config.run.tune)?.backend,
        &config,
        &args.tensor,
    )?;
    let steps = args.steps.unwrap_or(DEFAULT_STEPS);
    let mut progress = Progress::new("stats", "step", steps, args.json);
    for _ in 1..steps {
        let (session, batch) = run.next_batch()?;
        session.step(batch.batch())?;
        progress.advance(1);
    }
    let (session, batch) = run.next_batch()?;
    let tensors = session.step_measured(batch.batch())?.tensors.unwrap_or_default();
    let source = format!("{} in {}", config.run.model, config.train.recipe.name);
    Ok(Measured { source, step: steps, tensors })
}

/// What every format would spoil: the fp8 formats under the scale that the tensor has or that its amax asks for, the
/// others as it is.
fn answers(t: &TensorReport) -> Vec<Answer> {
    let answer = |dtype: DType| {
        let scale = match (dtype.is_fp8(), t.scale) {
            (false, _) => 1.0,
            (true, Some(scale)) if t.dtype == dtype => scale,
            (true, _) => t.amax_scale(dtype),
        };
        Some(Answer { dtype, scale, format_loss: t.what_if(dtype, scale)? })
    };
    FORMATS.into_iter().filter_map(answer).collect()
}

fn decibels(t: &TensorReport) -> String {
    match &t.stats {
        Some(s) if s.subnormal.is_some() => s.sqnr_db.map_or("exact".into(), |db| format!("{db:.1}")),
        Some(_) | None => "-".into(),
    }
}

fn tensors(out: &mut String, tensors: &[TensorReport]) {
    let rows = tensors.iter().map(|t| {
        let share = |x: Option<f64>| x.map_or("-".into(), percent);
        let number = |x: Option<f64>| x.map_or("-".into(), scientific);
        let stats = t.stats.as_ref();
        let answers = answers(t);
        let would = |dtype: DType| {
            let answer = answers.iter().find(|a| a.dtype == dtype);
            answer.map_or_else(String::new, |a| percent(a.format_loss.underflow + a.format_loss.saturated))
        };
        [
            t.name.clone(),
            t.dtype.to_string(),
            t.amax.map_or("not finite".into(), |x| scientific(f64::from(x))),
            number(stats.map(|s| s.l2)),
            decibels(t),
            share(t.underflow.map(f64::from)),
            share(stats.and_then(|s| s.subnormal)),
            share(t.saturated.map(f64::from)),
            would(FORMATS[0]),
            would(FORMATS[1]),
            would(FORMATS[2]),
            would(FORMATS[3]),
            t.nonfinite.filter(|n| *n > 0.0).map(|n| format!("{n} NON-FINITE")).unwrap_or_default(),
        ]
    });
    let [amax, l2, sqnr, underflow, subnormal, saturated] =
        ["amax", "l2", "SQNR dB", "underflow", "subnormal", "saturated"].map(|h| (h, Right));
    let would = FORMATS.map(|d| format!("in {d}"));
    let [a, b, c, d] = would.each_ref().map(|h| (h.as_str(), Right));
    let columns = [("tensor", Left), ("dtype", Left), amax, l2, sqnr, underflow, subnormal, saturated, a, b, c, d, ("", Left)];
    out.push_str(&table(0, columns, rows));
    out.push_str(
        "\nin FORMAT: share of elements that would become zero or saturate; fp8 under the scale of the tensor or of its amax\n",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::telemetry::Fp8Stats;
    use mantissa_core::telemetry::event::Event;
    use mantissa_core::telemetry::event::TensorEvent;

    fn report(name: &str, underflow: f32, nonfinite: f32) -> TensorReport {
        let stats = Fp8Stats { amax: 1.0, scale: 448.0, underflow, saturated: 0.0, nonfinite };
        TensorReport::of_fp8(name, DType::E4m3, &stats)
    }

    #[test]
    fn the_worst_come_first() {
        let mut all = [report("fine", 0.0, 0.0), report("lossy", 0.2, 0.0), report("broken", 0.0, 1.0)];
        all.sort_by(|a, b| badness(a).partial_cmp(&badness(b)).unwrap());
        assert_eq!(all.map(|t| t.name), ["broken", "lossy", "fine"]);
    }

    #[test]
    fn the_last_step_or_the_one_asked_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let error = |step| format!("{:#}", of_run(dir.path(), step).map(|m| m.step).unwrap_err());
        assert!(error(None).contains("expected a run folder with events.jsonl"));
        let mut text = String::from("{\"step\":1,\"loss\":2.5}\n");
        std::fs::write(dir.path().join(EVENTS), &text).unwrap();
        assert!(error(None).contains("--stats-every"), "{}", error(None));
        for step in [2, 4] {
            for name in ["a", "b"] {
                text.push_str(&Event::Tensor(TensorEvent { step, tensor: report(name, 0.0, 0.0) }).to_line().unwrap());
                text.push('\n');
            }
        }
        text.push_str("{\"step\":6,\"tensor\":{\"na");
        std::fs::write(dir.path().join(EVENTS), &text).unwrap();
        let names = |step| {
            let m = of_run(dir.path(), step).unwrap();
            (m.step, m.tensors.into_iter().map(|t| t.name).collect::<String>())
        };
        assert_eq!((names(None), names(Some(2))), ((4, "ab".into()), (2, "ab".into())));
        assert!(error(Some(3)).contains("the 2 steps measured, 2 to 4, got 3"), "{}", error(Some(3)));
    }
}

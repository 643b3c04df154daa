//! `mantissa bench`: recipes timed in turn within one run, so that they share whatever else the machine does.

use super::TrainArgs;
use super::several::{Bench, Run, refuse_unused, resolve_for, take_steps};
use super::table::{Left, Right, table};
use super::text::print_json;
use crate::profile::{Clock, Line, Profile, timed_step};
use crate::progress::Progress;
use crate::show::median;
use crate::{Outcome, device, out, show};
use anyhow::{Context, Result, bail};
use clap::Args;
use mantissa_core::DType;
use mantissa_core::precision::recipe::RecipeName;
use serde::Serialize;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Timed steps when none are given.
const DEFAULT_STEPS: u64 = 20;
/// Steps of each recipe before timing starts.
const WARM_UP: usize = 2;
/// Most timed steps for the shares by operation.
const TIMED: u64 = 5;
/// Families shown for each recipe, and operations in a profile.
const FAMILIES: usize = 4;
const OPS: usize = 30;

/// Flags of `bench`: the run is described as for `train`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Recipes, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "f32,bf16,f16,fp8-delayed")]
    pub recipes: Vec<RecipeName>,
    /// Also print a table of operations for each recipe, on a GPU by its own timestamps where it has them
    #[arg(long)]
    pub profile: bool,
    /// Write one step of each recipe as a Chrome trace, which Perfetto opens
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// The run, as for `train`; --steps defaults to 20 timed steps of each recipe
    #[command(flatten)]
    pub run: TrainArgs,
}

/// A recipe under test.
struct Contender {
    name: RecipeName,
    run: Run,
    ms: Vec<f64>,
    resident_bytes: Option<u64>,
    profile: Option<Profile>,
    /// Wall time of each profiled step.
    profiled_ms: Vec<f64>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    device: String,
    steps: u64,
    items_per_step: usize,
    unit: &'static str,
    peak_flops_per_s: f64,
    peak_source: String,
    copy_bytes_per_s: f64,
    /// What the times of operations were read from.
    clock: &'static str,
    /// Peak of the whole process, all recipes together.
    process_peak_bytes: Option<u64>,
    recipes: Vec<RecipeJson>,
}

#[derive(Serialize)]
struct RecipeJson {
    recipe: &'static str,
    median_ms: f64,
    min_ms: f64,
    items_per_s: f64,
    /// Against f32, else against the first recipe.
    speed_up: f64,
    planned_bytes: usize,
    /// What resident memory grew by as this recipe was made and warmed up.
    resident_bytes: Option<u64>,
    /// A step whose operations were timed, median.
    profiled_ms: f64,
    families: Vec<LineJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ops: Vec<LineJson>,
}

#[derive(Serialize)]
struct LineJson {
    name: String,
    calls: usize,
    ms: f64,
    share: f64,
    flops_per_s: f64,
    bytes_per_s: f64,
    share_of_peak: f64,
    share_of_copy: f64,
}

/// Rates that this machine has just shown.
struct Peaks {
    flops_per_s: f64,
    bytes_per_s: f64,
}

/// `mantissa bench`.
pub fn command(args: &BenchArgs) -> Result<Outcome> {
    refuse_unused("bench", &args.run)?;
    if args.run.step.recipe.is_some() {
        bail!("--recipe: `bench` takes a list, --recipes");
    }
    for (i, name) in args.recipes.iter().enumerate() {
        if args.recipes[..i].contains(name) {
            bail!("--recipes: expected each recipe once, got {name} twice");
        }
    }
    let (steps, flags) = take_steps(&args.run, DEFAULT_STEPS);
    let mut runs = args.recipes.iter().map(|&n| resolve_for(&flags, n, &args.recipes)).collect::<Result<Vec<_>>>()?;
    let bench = Bench::new(&mut runs).context("--recipes")?;
    let first = &runs[0].config.run;
    let device = device::open(first.device, first.adapter.as_deref(), first.tune)?;
    let backend = &device.backend;
    let capabilities = backend.capabilities();
    let peak = device.peak(DType::F32)?;
    let bytes_per_s = device.copy_rate()?;
    let profiled = steps.min(TIMED);
    let total = runs.len() as u64 * (WARM_UP as u64 + steps + profiled);
    let mut progress = Progress::new("bench", "step", total, args.run.json || args.run.quiet);
    let mut contenders = Vec::new();
    for (run, &name) in runs.iter().zip(&args.recipes) {
        let before = memory_bytes("VmRSS:");
        let mut run = bench.run(backend.clone(), &run.config)?;
        for _ in 0..WARM_UP {
            let (session, batch) = run.next_batch()?;
            session.step(batch.batch())?;
            progress.advance(1);
        }
        let grown = memory_bytes("VmRSS:").zip(before).map(|(now, before)| now.saturating_sub(before));
        contenders.push(Contender { name, run, ms: Vec::new(), resident_bytes: grown, profile: None, profiled_ms: Vec::new() });
    }
    for _ in 0..steps {
        for c in &mut contenders {
            let (session, batch) = c.run.next_batch()?;
            let start = Instant::now();
            session.step(batch.batch())?;
            c.ms.push(start.elapsed().as_secs_f64() * 1e3);
            progress.advance(1);
        }
    }
    for c in &mut contenders {
        let mut times = Vec::new();
        for _ in 0..profiled {
            let (session, batch) = c.run.next_batch()?;
            let start = Instant::now();
            let (_, spans) = timed_step(session, batch.batch())?;
            c.profiled_ms.push(start.elapsed().as_secs_f64() * 1e3);
            times.push(spans);
            progress.advance(1);
        }
        c.profile = Some(Profile::new(c.run.session.program(), times));
    }
    if let Some(path) = &args.trace {
        write_trace(path, &contenders)?;
    }
    // A busy moment makes a measured peak too small, never too large.
    let products = contenders.iter().filter_map(|c| Some(c.profile.as_ref()?.flops_per_s(c.run.session.program())));
    let flops_per_s = products.fold(peak.flops_per_s.max(device.peak(DType::F32)?.flops_per_s), f64::max);
    let peaks = Peaks { flops_per_s, bytes_per_s };
    let first = &runs[0].config;
    let items = first.train.items_per_step();
    let report = Report {
        model: &first.run.model,
        device: capabilities.device.clone(),
        steps,
        items_per_step: items,
        unit: contenders[0].run.unit(),
        peak_flops_per_s: peaks.flops_per_s,
        peak_source: peak.source,
        copy_bytes_per_s: peaks.bytes_per_s,
        clock: Clock::of(&contenders[0].run.session).name(),
        process_peak_bytes: memory_bytes("VmHWM:"),
        recipes: recipes(&mut contenders, items, &peaks, args.profile),
    };
    drop(progress);
    if args.run.json {
        return print_json(&report);
    }
    print(&mut out::stdout(), &report, args)?;
    Ok(Outcome::Done)
}

fn recipes(contenders: &mut [Contender], items: usize, peaks: &Peaks, ops: bool) -> Vec<RecipeJson> {
    let medians: Vec<f64> = contenders.iter_mut().map(|c| median(&mut c.ms)).collect();
    let base = contenders.iter().position(|c| c.name == RecipeName::F32).map_or(medians[0], |i| medians[i]);
    let one = |(c, ms): (&Contender, f64)| {
        let program = c.run.session.program();
        let lines = |of: fn(&Profile, &mantissa_core::program::Program) -> Vec<Line>| {
            let list = c.profile.as_ref().map(|p| of(p, program)).unwrap_or_default();
            let total: f64 = list.iter().map(|l| l.secs).sum();
            list.into_iter().map(|l| line(l, total, peaks)).collect::<Vec<_>>()
        };
        RecipeJson {
            recipe: c.name.name(),
            median_ms: ms,
            min_ms: c.ms.first().copied().unwrap_or(ms),
            items_per_s: items as f64 / (ms / 1e3),
            speed_up: base / ms,
            planned_bytes: c.run.session.plan().total_bytes(),
            resident_bytes: c.resident_bytes,
            profiled_ms: median(&mut c.profiled_ms.clone()),
            families: lines(Profile::by_family),
            ops: if ops { lines(Profile::by_op) } else { Vec::new() },
        }
    };
    contenders.iter().zip(medians).map(one).collect()
}

fn line(l: Line, total: f64, peaks: &Peaks) -> LineJson {
    LineJson {
        calls: l.calls,
        ms: l.secs * 1e3,
        share: l.secs / total.max(f64::MIN_POSITIVE),
        flops_per_s: l.flops_per_s(),
        bytes_per_s: l.bytes_per_s(),
        share_of_peak: (l.flops_per_s() / peaks.flops_per_s).min(1.0),
        share_of_copy: l.bytes_per_s() / peaks.bytes_per_s,
        name: l.name,
    }
}

/// A line of this process's status, where the system keeps one.
fn memory_bytes(what: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = text.lines().find_map(|l| l.strip_prefix(what))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn write_trace(path: &std::path::Path, contenders: &[Contender]) -> Result<()> {
    let events: Vec<serde_json::Value> = contenders
        .iter()
        .enumerate()
        .filter_map(|(i, c)| {
            c.profile.as_ref().map(|p| p.trace(c.run.session.program(), i + 1, c.name.name(), Clock::of(&c.run.session)))
        })
        .flatten()
        .collect();
    let document = json!({"displayTimeUnit": "ms", "traceEvents": events});
    std::fs::write(path, serde_json::to_vec(&document)?).with_context(|| format!("cannot write the trace: {}", path.display()))
}

fn print(out: &mut impl Write, r: &Report<'_>, args: &BenchArgs) -> Result<()> {
    writeln!(out, "bench     {} on {}: {} timed steps of each recipe, in turn", r.model, r.device, r.steps)?;
    writeln!(
        out,
        "machine   {}FLOP/s ({}), {}B/s (measured: copy, read and written)",
        show::spaced(r.peak_flops_per_s),
        r.peak_source,
        show::spaced(r.copy_bytes_per_s)
    )?;
    let per_s = format!("{}/s", r.unit);
    let rows = r.recipes.iter().map(|c| {
        let shares: Vec<String> =
            c.families.iter().take(FAMILIES).map(|l| format!("{} {:.0}%", l.name, 100.0 * l.share)).collect();
        [
            c.recipe.to_string(),
            format!("{:.2}", c.median_ms),
            show::prefixed(c.items_per_s),
            format!("{:.2}x", c.speed_up),
            show::mebibytes(c.planned_bytes),
            c.resident_bytes.map_or("-".into(), |b| show::mebibytes(b as usize)),
            shares.join(", "),
        ]
    });
    let [ms, rate, speed_up, planned, resident] = ["ms/step", &per_s, "speed-up", "planned", "resident"].map(|h| (h, Right));
    let columns = [("recipe", Left), ms, rate, speed_up, planned, resident, ("time by kernel family", Left)];
    write!(out, "\n{}", table(0, columns, rows))?;
    let base = if r.recipes.iter().any(|c| c.recipe == RecipeName::F32.name()) { "f32" } else { r.recipes[0].recipe };
    let peak =
        r.process_peak_bytes.map(|b| format!("; peak of the process, all recipes together: {}", show::mebibytes(b as usize)));
    writeln!(
        out,
        "speed-up over {base}; resident: growth of the process as the recipe was set up{}",
        peak.unwrap_or_default()
    )?;
    writeln!(out, "times by operation: {}, median of {} further steps", r.clock, r.steps.min(TIMED))?;
    if args.profile {
        for c in &r.recipes {
            profile_table(out, c)?;
        }
    }
    if let Some(path) = &args.trace {
        writeln!(out, "\ntrace     one step of each recipe: {}", path.display())?;
    }
    Ok(())
}

fn profile_table(out: &mut impl Write, c: &RecipeJson) -> Result<()> {
    let total: f64 = c.ops.iter().map(|l| l.ms).sum();
    writeln!(
        out,
        "\n{}: {:.2} ms in instructions of a step of {:.2} ms, {} of {} operations",
        c.recipe,
        total,
        c.profiled_ms,
        c.ops.len().min(OPS),
        c.ops.len()
    )?;
    let rows = c.ops.iter().take(OPS).map(|l| {
        [
            format!("{:.3}", l.ms),
            format!("{:.1}%", 100.0 * l.share),
            l.calls.to_string(),
            format!("{:.1}", l.flops_per_s / 1e9),
            format!("{:.0}%", 100.0 * l.share_of_peak),
            format!("{:.1}", l.bytes_per_s / 1e9),
            format!("{:.0}%", 100.0 * l.share_of_copy),
            l.name.to_string(),
        ]
    });
    let [ms, share, calls, flops, peak, bytes, copy] =
        ["ms", "share", "calls", "GFLOP/s", "peak", "GB/s", "copy"].map(|h| (h, Right));
    write!(out, "{}", table(0, [ms, share, calls, flops, peak, bytes, copy, ("operation", Left)], rows))?;
    Ok(())
}

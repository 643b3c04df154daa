//! `mantissa plan`: modelled time and planned memory of a training step on a GPU that need not be present.

use super::table::{Left, Right, table};
use super::text::{bytes, paragraph, print, print_json};
use super::{StepArgs, resolve};
use crate::{Outcome, show};
use anyhow::Result;
use clap::Args;
use mantissa_core::plan::device::Device;
use mantissa_core::plan::{Plan, plan};
use std::fmt::Write as _;

/// Flags of `plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// Model, recipe and sizes.
    #[command(flatten)]
    pub step: StepArgs,
    /// GPU: h100, h200, a100, 4090, l4, v100 or b200
    #[arg(long, value_name = "NAME", value_parser = Device::find)]
    pub gpu: &'static Device,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mantissa plan`.
pub fn command(args: &PlanArgs) -> Result<Outcome> {
    let config = resolve::resolve(&args.step.as_train())?.config;
    let report = plan(&config.train, args.gpu)?;
    if args.json { print_json(&report) } else { print(&text(&report, &config.run.model, &config.train.items_per_step_text())) }
}

fn text(p: &Plan, model: &str, items: &str) -> String {
    let mut out = String::new();
    let t = &p.time;
    let _ = writeln!(
        out,
        "{model} ({} parameters) in {} on {} ({}): modelled, not measured",
        show::thousands(p.params),
        p.recipe,
        p.gpu_title,
        p.gpu
    );
    let _ = writeln!(out, "  items a step           {items} {}", p.item);
    let _ = writeln!(out, "  step time (modelled)   {}", ms(t.step_ms));
    let _ = writeln!(out, "  throughput (modelled)  {} {}/s", show::prefixed(t.items_per_s), p.item);
    let _ = writeln!(
        out,
        "  mfu (modelled)         {:.1}% of the dense {} peak, {:.1} TFLOP/s; {}FLOP a step",
        100.0 * t.mfu,
        t.mfu_rate.name(),
        t.mfu_peak_tflops,
        show::spaced(t.flops as f64)
    );
    let share = |part: f64| 100.0 * part / t.step_ms;
    let _ = writeln!(
        out,
        "  bound by (modelled)    arithmetic {:.0}%, memory traffic {:.0}%, launches {:.0}%",
        share(t.compute_ms),
        share(t.memory_ms),
        share(t.launch_ms)
    );

    out.push_str("\ntime by family (modelled), with the assumed share of peak and of bandwidth\n");
    let families = p.families.iter().map(|f| {
        [
            f.family.to_string(),
            format!("{:.1}%", 100.0 * f.share),
            format!("{:.3}", f.ms),
            f.launches.to_string(),
            format!("{:.2}", f.compute_efficiency),
            format!("{:.2}", f.bandwidth_efficiency),
        ]
    });
    let [share, ms_a_step, launches, peak, bandwidth] =
        ["share", "ms/step", "launches", "of peak", "of bandwidth"].map(|h| (h, Right));
    out.push_str(&table(2, [("family", Left), share, ms_a_step, launches, peak, bandwidth], families));
    let _ = writeln!(out, "\nslowest instructions (modelled)");
    let slowest = p.slowest.iter().map(|s| {
        let scope = if s.scope.is_empty() { "(step)" } else { &s.scope };
        let output = s.output.replace(' ', "");
        [ms(s.ms), s.op.to_string(), scope.to_string(), output, format!("{} {}", s.rate.name(), s.bound.name())]
    });
    out.push_str(&table(2, [("", Right), ("", Left), ("", Left), ("", Left), ("", Left)], slowest));

    let m = &p.memory;
    let _ = writeln!(out, "\nmemory (planned, exact)");
    let verdict = if m.fits {
        format!("fits, {} to spare", bytes(m.available_bytes - m.needed_bytes))
    } else {
        format!("DOES NOT FIT, {} too much", bytes(m.needed_bytes - m.available_bytes))
    };
    let needed =
        format!("of {} available ({} kept for the driver): {verdict}", bytes(m.available_bytes), bytes(m.reserve_bytes));
    let purposes = m.purposes.iter().map(|p| [p.purpose.to_string(), bytes(p.bytes as u64), String::new()]);
    let rows = purposes.chain([["needed".into(), bytes(m.needed_bytes), needed]]);
    out.push_str(&table(2, [("", Left), ("", Right), ("", Left)], rows));
    if !p.fixes.is_empty() {
        let _ = writeln!(out, "\nwhat would help (each recorded and planned again; times modelled)");
        for v in &p.fixes {
            let verdict = if v.fits { "fits" } else { "too large" };
            let line = format!(
                "{}: {}, {verdict}, {} a step, {} {}/s ({})",
                v.change,
                bytes(v.needed_bytes),
                ms(v.step_ms),
                show::prefixed(v.items_per_s),
                p.item,
                v.flags
            );
            paragraph(&mut out, "  -", 4, &line);
        }
    }
    list(&mut out, "warnings", &p.warnings);
    list(&mut out, "shapes", &p.shapes);
    let _ = writeln!(out, "\nnumbers used");
    let figures = p.figures.iter().map(|f| [f.what.to_string(), format!("{:.1}", f.figure.value), f.figure.source.to_string()]);
    out.push_str(&table(2, [("", Left), ("", Right), ("", Left)], figures));
    out
}

fn list(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}");
    for line in lines {
        paragraph(out, "  -", 4, line);
    }
}

fn ms(x: f64) -> String {
    if x >= 1e4 { format!("{:.1} s", x * 1e-3) } else { format!("{x:.3} ms") }
}

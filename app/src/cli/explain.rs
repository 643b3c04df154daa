//! `mantissa explain`: every instruction of the training step with its precision, the reason for it and its price.

use super::text::{WIDTH, bytes, paragraph, print, print_json, wrap};
use super::{StepArgs, resolve};
use crate::{Outcome, show};
use anyhow::Result;
use clap::Args;
use mantissa_core::plan::explain::{DTypeCount, Explanation, Row, explain};
use std::fmt::Write as _;

/// Flags of `explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Model, recipe and sizes.
    #[command(flatten)]
    pub step: StepArgs,
    /// Only instructions of scopes that match this glob, such as `gpt.h0.*`
    #[arg(long, value_name = "GLOB")]
    pub scope: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mantissa explain`.
pub fn command(args: &ExplainArgs) -> Result<Outcome> {
    let config = resolve::resolve(&args.step.as_train())?.config;
    let report = explain(&config.train, args.scope.as_deref())?;
    if args.json { print_json(&report) } else { print(&text(&report)) }
}

/// Widths of the columns: index, operation, types, multiplied dtype, FLOPs, bytes.
const INDEX: usize = 5;
const OP: usize = 24;
const TYPES: usize = 58;
const COMPUTE: usize = 5;
const FLOPS: usize = 10;
const BYTES: usize = 10;
/// Where the second line of an instruction starts.
const INDENT: usize = INDEX + 2;
/// Longest text of an expression, columns; the JSON report has it whole.
const LONGEST: usize = 2 * (WIDTH - INDENT);

fn text(e: &Explanation) -> String {
    let mut out = String::new();
    let limited = e.scope.as_ref().map(|s| format!(", scopes {s} only")).unwrap_or_default();
    let _ = writeln!(
        out,
        "program {}: {} instructions, {}FLOP and {} moved per step{limited}",
        e.program,
        e.totals.instructions,
        show::spaced(e.totals.flops as f64),
        bytes(e.totals.bytes)
    );
    paragraph(
        &mut out,
        "",
        0,
        "Rows count one run. `mult` is the dtype that is multiplied; sums are f32. Rows without a reason take their inputs as they lie; a cast may be folded into a neighbour.",
    );
    let mut place = None;
    for row in &e.instructions {
        if place != Some((row.part, &row.scope)) {
            place = Some((row.part, &row.scope));
            let scope = if row.scope.is_empty() { "(step)" } else { &row.scope };
            let head = format!("{scope}, {}", row.part);
            let _ = writeln!(
                out,
                "\n{head:<0$} {1:<COMPUTE$} {2:>FLOPS$} {3:>BYTES$}",
                INDEX + 1 + OP + 1 + TYPES,
                "mult",
                "FLOP",
                "moved"
            );
        }
        instruction(&mut out, row);
    }
    totals(&mut out, e);
    out
}

fn instruction(out: &mut String, row: &Row) {
    let short = row.op.chars().count() <= OP;
    let types = wrap(&types(row), TYPES);
    let first = types.first().map_or("", String::as_str);
    let flops = if row.flops == 0 { "-".into() } else { show::spaced(row.flops as f64) };
    let _ = writeln!(
        out,
        "{:>INDEX$} {:<OP$} {first:<TYPES$} {:<COMPUTE$} {:>FLOPS$} {:>BYTES$}",
        row.index,
        if short { &row.op } else { row.name },
        if row.flops == 0 { "-" } else { row.compute },
        flops.trim_end(),
        bytes(row.read_bytes + row.written_bytes)
    );
    for line in types.iter().skip(1) {
        let _ = writeln!(out, "{:>INDEX$} {:<OP$} {line}", "", "");
    }
    if !short {
        let op = match row.op.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{} ..", &row.op[..end]),
            None => row.op.clone(),
        };
        paragraph(out, "", INDENT, &op);
    }
    // Of other rows the reason follows from the types that stand in them.
    let told = row.by_policy || row.class == "low" || row.part == "update" || row.op == "cast";
    if told {
        paragraph(out, "", INDENT, &format!("why: {}", row.why));
    }
}

/// `a b -> y`, long lists cut.
fn types(row: &Row) -> String {
    let list = |types: &[String]| {
        let mut shown: Vec<String> = types.iter().take(6).map(|t| t.replace(' ', "")).collect();
        if types.len() > shown.len() {
            shown.push(format!(".. {} more", types.len() - shown.len()));
        }
        shown.join(" ")
    };
    format!("{} -> {}", list(&row.inputs), list(&row.outputs))
}

fn totals(out: &mut String, e: &Explanation) {
    let list = |counts: &[DTypeCount], total: u64, unit: &str| {
        let one = |c: &DTypeCount| {
            format!("{} {}{unit} ({:.1}%)", c.dtype, show::spaced(c.count as f64), 100.0 * c.count as f64 / total.max(1) as f64)
        };
        counts.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(out, "\ntotals of a step ({} x the micro-step part)", e.grad_accum);
    paragraph(out, "  FLOPs by dtype", 24, &list(&e.totals.flops_by_compute, e.totals.flops, "FLOP"));
    paragraph(out, "  bytes by storage", 24, &list(&e.totals.bytes_by_storage, e.totals.bytes, "B"));
    let activations: Vec<String> = e
        .activations
        .iter()
        .map(|a| format!("{} {} ({} of it at the peak)", a.dtype, bytes(a.total_bytes), bytes(a.peak_bytes)))
        .collect();
    paragraph(out, "  activations", 24, &activations.join(", "));
    let c = e.casts;
    paragraph(
        out,
        "  casts",
        24,
        &format!(
            "{} inserted: {} shared with an equal one, {} folded into neighbours, {} left as instructions; {} fp8 quantizations",
            c.inserted, c.shared, c.folded, c.left, c.quantized
        ),
    );
    let memory: Vec<String> = e.memory.iter().map(|m| format!("{} {}", m.purpose, bytes(m.bytes as u64))).collect();
    paragraph(out, "  memory (planned)", 24, &format!("{}: {}", bytes(e.memory_bytes as u64), memory.join(", ")));
}

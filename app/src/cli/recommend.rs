//! `mantissa recommend`: which precision for which part of a model on which GPU, and why.

use super::text::{paragraph, print, print_json};
use crate::Outcome;
use anyhow::Result;
use clap::Args;
use mantissa_core::plan::advisor::{Advice, ModelType, recommend};
use mantissa_core::plan::device::Device;
use std::fmt::Write as _;

/// Flags of `recommend`.
#[derive(Clone, Debug, Args)]
pub struct RecommendArgs {
    /// GPU: h100, h200, a100, 4090, l4, v100 or b200
    #[arg(long, value_name = "NAME", value_parser = Device::find)]
    pub gpu: &'static Device,
    /// Kind of model: transformer, vision or gan
    #[arg(long, value_name = "KIND", default_value = "transformer")]
    pub model_type: ModelType,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mantissa recommend`.
pub fn command(args: &RecommendArgs) -> Result<Outcome> {
    let advice = recommend(args.gpu, args.model_type);
    if args.json { print_json(&advice) } else { print(&text(&advice)) }
}

fn text(a: &Advice) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} on {} ({}): --recipe {}", a.model_type.name(), a.gpu_title, a.gpu, a.recipe);
    paragraph(&mut out, "", 2, &a.why);
    let _ = writeln!(out, "\n{:<35} {:<17} why", "part", "format");
    for p in &a.parts {
        paragraph(&mut out, &format!("  {:<33} {:<16}", p.part, p.format), 54, &p.why);
    }
    let _ = writeln!(out, "\nother recipes");
    for o in &a.others {
        let verdict = if o.worthwhile { "possible" } else { "rather not" };
        paragraph(&mut out, &format!("  {:<13} {verdict:<12}", o.recipe.name()), 30, &o.why);
    }
    out
}

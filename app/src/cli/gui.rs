//! `mantissa gui`: starts the window, a program of its own beside this one, so that this one needs nothing of a
//! desktop.

use crate::{Outcome, process};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;

/// Name of the program with the window.
const PROGRAM: &str = "mantissa-gui";

/// Flags of `gui`.
#[derive(Clone, Debug, Args)]
pub struct GuiArgs {
    /// Folders of runs to open; one that is still written is followed
    #[arg(value_name = "RUN_DIR")]
    pub runs: Vec<PathBuf>,
    /// Follow a run that another program writes; its folder may not have a run yet
    #[arg(long, value_name = "RUN_DIR")]
    pub attach: Option<PathBuf>,
}

/// `mantissa gui`.
pub fn command(args: &GuiArgs, threads: Option<usize>) -> Result<Outcome> {
    let here = std::env::current_exe().context("cannot find out where this program lies")?;
    let program = here.with_file_name(format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        bail!(
            "expected the window program beside this one, found none; build it with `cargo build --release --bin {PROGRAM}`: {}",
            program.display()
        );
    }
    let mut child = Command::new(&program);
    child.args(&args.runs);
    if let Some(threads) = threads {
        // The window computes with the same library.
        child.env("RAYON_NUM_THREADS", threads.to_string());
    }
    if let Some(run) = &args.attach {
        child.arg("--attach").arg(run);
    }
    let code = process::become_it(child).with_context(|| format!("cannot start the window: {}", program.display()))?;
    Ok(Outcome::Other(code))
}

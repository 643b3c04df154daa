//! The host of Mantissa: command line, files, signals, run folders. Everything that decides numbers is in
//! `mantissa-core`.
//!
//! Flags become a [`config::RunConfig`] ([`cli`]), [`train`] steps a session over the data of [`data`] until [`stop`]
//! asks it to end, a [`watcher::Watcher`] such as the [`console`] is told what happens, [`run_folder`] and
//! [`checkpoint`] keep it. Exit codes: 0 done; 1 `doctor --exit-code` found something; 2 refused, or a file could not
//! be written (one message on stderr); 3 there is too little memory, whatever limits it (the machine, the device, a
//! container, `ulimit`), or a device was lost; 4 stopped by `--on-nonfinite stop` or `--error-if-nonfinite`, after
//! saving; 130, 143, 129 stopped by SIGINT (Ctrl-C), SIGTERM, SIGHUP: after saving, or at once by a second one, which
//! says what is not saved.

pub mod append;
pub mod banner;
pub mod cast;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod console;
pub mod data;
pub mod device;
pub mod digest;
pub mod encoding;
pub mod event_log;
pub mod files;
pub mod findings;
pub mod init_from;
pub mod out;
pub mod plain_file;
pub mod predictions;
pub mod prefetch;
pub mod process;
mod profile;
pub mod progress;
pub mod quiet;
pub mod run_folder;
pub mod run_log;
pub mod sample;
pub mod sinks;
pub mod stop;
pub mod tensor_file;
pub mod train;
pub mod transcript;
pub mod vocabulary;
pub mod watcher;

pub use mantissa_core::show;

use mantissa_core::error::Error;
use mantissa_core::program::memory::Purpose;
use std::process::ExitCode;
use stop::Signal;

/// `doctor --exit-code` found something.
const EXIT_FOUND: u8 = 1;
/// Refused: a flag, file, config or shape is wrong, or a file cannot be written.
pub const EXIT_REFUSED: u8 = 2;
/// There is too little memory, whatever limits it, or a device was lost; the last checkpoint is there.
const EXIT_DEVICE: u8 = 3;
/// Stopped at a step that was not finite, after the weights were saved.
const EXIT_NONFINITE: u8 = 4;

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Another program did the work, and ended with this exit code.
    Other(u8),
    /// It did what it was asked.
    Done,
    /// It was asked to stop, and saved first.
    Interrupted(Signal),
    /// Something was not finite that is to end a run; it saved first.
    NonFinite,
    /// It found what it was asked to tell by its exit code.
    Found,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    quiet::restart_if_noisy();
    let cli = match cli::parse::parse::<cli::Cli>() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Other(code)) => ExitCode::from(code),
        Ok(Outcome::Found) => ExitCode::from(EXIT_FOUND),
        Ok(Outcome::NonFinite) => ExitCode::from(EXIT_NONFINITE),
        Ok(Outcome::Interrupted(signal)) => ExitCode::from(signal.exit_code()),
        Err(error) => {
            use std::io::Write as _;
            // Nowhere left to report that stderr is closed.
            let _ = writeln!(out::stderr(), "error: {}{}", show::printable(&in_words(&error)), what_helps(&error));
            let short = error.chain().any(|e| e.is::<device::Shortage>());
            ExitCode::from(if short || is_of_device(&error) { EXIT_DEVICE } else { EXIT_REFUSED })
        }
    }
}

fn run(cli: cli::Cli) -> anyhow::Result<Outcome> {
    if let Some(threads) = cli.threads {
        mantissa_core::par::use_threads(threads).map_err(|e| e.of_setting("--threads"))?;
    }
    match cli.command {
        cli::Command::Train(args) => train::command(&args),
        cli::Command::Sample(args) => sample::command(&args),
        cli::Command::Cast(args) => cast::command(&args),
        cli::Command::Dump(args) => cli::dump::command(&args),
        cli::Command::Devices(args) => device::command(args.json),
        cli::Command::Explain(args) => cli::explain::command(&args),
        cli::Command::Plan(args) => cli::plan::command(&args),
        cli::Command::Recommend(args) => cli::recommend::command(&args),
        cli::Command::Compare(args) => cli::compare::command(&args),
        cli::Command::Doctor(args) => cli::doctor::command(&args),
        cli::Command::Stats(args) => cli::stats::command(&args),
        cli::Command::Gui(args) => cli::gui::command(&args, cli.threads),
        cli::Command::Bench(args) => cli::bench::command(&args),
    }
}

/// Whether a device failed: it has too little memory, is gone, or did not do what it was asked.
fn is_of_device(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<Error>()).any(|e| match e {
        Error::OutOfMemory { .. } | Error::BufferTooLarge { .. } | Error::DeviceLost { .. } | Error::Device { .. } => true,
        Error::Operand { .. }
        | Error::Config { .. }
        | Error::Misuse { .. }
        | Error::Program { .. }
        | Error::Data { .. }
        | Error::NonFinite { .. } => false,
    })
}

/// What helps where a device has too little memory, to go after the error.
fn what_helps(error: &anyhow::Error) -> &'static str {
    let of_model = [Purpose::Weights, Purpose::Optimizer, Purpose::Gradients].map(Purpose::name);
    let mut causes = error.chain().filter_map(|e| e.downcast_ref::<Error>());
    match causes.find(|e| matches!(e, Error::BufferTooLarge { .. } | Error::OutOfMemory { .. })) {
        Some(Error::BufferTooLarge { holds, .. }) if of_model.contains(holds) => "; try a smaller model, or --device cpu",
        Some(Error::BufferTooLarge { .. }) => "; try a smaller --batch-size or --seq-len, or --device cpu",
        Some(_) => "; try a smaller --batch-size or --seq-len",
        None => "",
    }
}

/// An error and its causes on one line, outermost first, settings as files name them. A cause that the words before it
/// end with is not said twice.
pub fn in_words(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(cli::keys::said).filter(|cause| !cause.is_empty()) {
        if out.is_empty() {
            out = cause;
        } else if !out.ends_with(&cause) {
            out = out + ": " + &cause;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn no_cause_is_said_twice() {
        // As crates do that put the words of a cause into their own and name it as their cause, too.
        #[derive(Debug)]
        struct Twice(std::io::Error);
        impl std::fmt::Display for Twice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "I/O error: {}", self.0)
            }
        }
        impl std::error::Error for Twice {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let full = || Twice(std::io::Error::other("no space left"));
        let error = Err::<(), _>(full()).context("cannot write: x").unwrap_err();
        assert_eq!(in_words(&error), "cannot write: x: I/O error: no space left");
        assert_eq!(in_words(&anyhow::anyhow!("a").context("b")), "b: a");
    }

    #[test]
    fn a_device_that_failed_is_no_refusal_and_what_helps_stands_behind() {
        let large =
            |holds: &'static str| Error::BufferTooLarge { device: "d".into(), holds, requested: 3 << 20, largest: 1 << 20 };
        let told = |e: Error| {
            let error = anyhow::Error::new(e).context("--device wgpu");
            (is_of_device(&error), what_helps(&error))
        };
        assert_eq!(told(large("weights")), (true, "; try a smaller model, or --device cpu"));
        assert_eq!(told(large("activations")), (true, "; try a smaller --batch-size or --seq-len, or --device cpu"));
        let memory = Error::OutOfMemory { device: "d".into(), requested: None, problem: "none left".into() };
        assert_eq!(told(memory), (true, "; try a smaller --batch-size or --seq-len"));
        assert_eq!(told(Error::Device { device: "d".into(), problem: "a bad binding".into() }), (true, ""));
        assert_eq!(told(Error::config("adapter", "one", "none")), (false, ""));
    }
}

//! Hears SIGINT, SIGTERM and SIGHUP, on a thread of its own. Twin for other systems: `listen_other.rs`.

use super::Signal;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Passes every signal on to `hear`. What `nohup` has switched off stays so. A file that grows beyond the limit of the
/// process is an error of its write, never the end of the process.
pub(super) fn listen(hear: impl FnMut(Signal) + Send + 'static) -> Result<()> {
    let hang_up = (!ignores(SIGHUP)).then_some(SIGHUP);
    let numbers = [SIGINT, SIGTERM, SIGXFSZ].into_iter().chain(hang_up);
    let mut signals = Signals::new(numbers).context("cannot listen for signals")?;
    let work = move || {
        let signal = |number| match number {
            SIGINT => Some(Signal::Interrupt),
            SIGTERM => Some(Signal::Terminate),
            SIGHUP => Some(Signal::HangUp),
            _ => None,
        };
        signals.forever().filter_map(signal).for_each(hear);
    };
    std::thread::Builder::new().name("mantissa-signals".into()).spawn(work).context("cannot start the thread of signals")?;
    Ok(())
}

/// Ends the process at once.
pub(super) fn end_process(code: i32) -> ! {
    signal_hook::low_level::exit(code)
}

/// Whether the process was started with the signal ignored, where the system tells.
fn ignores(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

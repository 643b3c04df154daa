//! Progress of commands that print their result at the end: a bar on a terminal, elsewhere a line now and then. Both on
//! stderr, none for who asked for silence or JSON.

use crate::{out, show};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Off a terminal nothing is said of what takes no longer than this..
const PATIENCE: Duration = Duration::from_secs(2);
/// .. and then no more often than this.
const EVERY: Duration = Duration::from_secs(10);
/// Shows on a terminal that a long part is in progress.
const TICK: Duration = Duration::from_millis(200);

/// A command at work.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    unit: &'static str,
    total: u64,
    done: u64,
    bar: Option<ProgressBar>,
    lines: Option<Lines>,
}

impl Progress {
    /// Of the command `what`, over `total` units, unless it is to be `silent`.
    pub fn new(what: &'static str, unit: &'static str, total: u64, silent: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let bar = (!silent && terminal).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let shown = "{msg} {wide_bar} {percent}%, {elapsed} so far, {eta} left";
            // The template is a constant; the default style is as good as any.
            if let Ok(style) = ProgressStyle::with_template(shown) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        let progress =
            Progress { what, unit, total, done: 0, bar, lines: (!silent && !terminal).then(|| Lines::new(Instant::now())) };
        progress.show();
        progress
    }

    /// `units` more are done.
    pub fn advance(&mut self, units: u64) {
        self.done = self.total.min(self.done + units);
        self.show();
        let text = self.text();
        if let Some(lines) = &mut self.lines
            && lines.due(Instant::now())
        {
            // Where stderr is closed nobody wants it.
            let _ = writeln!(out::stderr(), "{text}");
        }
    }

    fn show(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.set_message(show::printable_text(&self.text()).into_owned());
        }
    }

    fn text(&self) -> String {
        let amount = match self.unit {
            "bytes" => format!("{} of {}", show::mebibytes(self.done as usize), show::mebibytes(self.total as usize)),
            unit => format!("{unit} {} of {}", self.done, self.total),
        };
        format!("{}: {amount}", self.what)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// When a line is due.
#[derive(Clone, Copy, Debug)]
struct Lines {
    start: Instant,
    told: Option<Instant>,
}

impl Lines {
    fn new(start: Instant) -> Lines {
        Lines { start, told: None }
    }

    fn due(&mut self, now: Instant) -> bool {
        let due = match self.told {
            None => now.duration_since(self.start) >= PATIENCE,
            Some(told) => now.duration_since(told) >= EVERY,
        };
        if due {
            self.told = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_after_two_seconds_and_then_every_ten() {
        let start = Instant::now();
        let mut lines = Lines::new(start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let told: Vec<u64> = (0..40_000).step_by(500).filter(|&ms| lines.due(at(ms))).collect();
        assert_eq!(told, [2000, 12_000, 22_000, 32_000]);
    }

    #[test]
    fn the_text_counts_what_is_done() {
        let mut progress = Progress::new("compare", "step", 10, true);
        progress.advance(3);
        assert_eq!(progress.text(), "compare: step 3 of 10");
        progress.advance(30);
        assert_eq!(progress.text(), "compare: step 10 of 10");
        let mut bytes = Progress::new("cast", "bytes", 3 << 20, true);
        bytes.advance(1 << 20);
        assert_eq!(bytes.text(), "cast: 1.0 MiB of 3.0 MiB");
    }
}

//! Where lines go: results on stdout, warnings on stderr; with `--json` stdout carries JSON only and everything for
//! people goes to stderr. On a terminal the progress of a run stays on one line that rewrites itself, below those worth
//! keeping; elsewhere only these are printed.
//!
//! A stdout that cannot be written costs the lines that were to go there and one warning. [`Console::finish`] says how
//! many they are.

use crate::transcript::{Text, Transcript};
use crate::watcher::{Begin, Watcher};
use crate::{out, show};
use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mantissa_core::telemetry::event::Event;
use std::cell::RefCell;
use std::io::{Error, ErrorKind, IsTerminal, Write};
use std::time::Instant;

/// The lines of a command.
#[derive(Debug)]
pub struct Console {
    json: bool,
    quiet: bool,
    live: RefCell<Option<ProgressBar>>,
    /// The lines of the run that has begun, and when that was.
    run: RefCell<Option<(Transcript, Instant)>>,
    missing: RefCell<Missing>,
}

/// Lines that stdout did not take.
#[derive(Debug, Default)]
struct Missing {
    /// Why it did not take the last one.
    error: Option<Error>,
    lines: u64,
}

impl Console {
    /// For a command with these output flags.
    pub fn new(json: bool, quiet: bool) -> Console {
        let terminal = if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let live = (terminal && !quiet).then(|| {
            let target = if json { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
            let bar = ProgressBar::with_draw_target(None, target);
            // The template is a constant without placeholders that could fail; the default style is as good as any.
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        Console { json, quiet, live: RefCell::new(live), run: RefCell::default(), missing: RefCell::default() }
    }

    /// Errs if stdout did not take every line, unless its reader has closed it: that one has seen enough.
    pub fn finish(&self) -> Result<()> {
        let Missing { error, lines } = &*self.missing.borrow();
        match error {
            Some(e) if e.kind() != ErrorKind::BrokenPipe => bail!("stdout did not take {lines} lines: {e}"),
            Some(_) | None => Ok(()),
        }
    }

    /// A line for people; whether it was written.
    fn put(&self, text: &str) -> bool {
        if self.json { self.complain(text) } else { self.print(text) }
    }

    /// A line on stdout; whether it was written.
    fn print(&self, text: &str) -> bool {
        let mut missing = self.missing.borrow_mut();
        if missing.error.as_ref().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) {
            missing.lines += 1;
            return false;
        }
        // The start of a line that was cut off stays a line of its own.
        let start = if missing.error.is_some() { "\n" } else { "" };
        match self.around(|| write_line(std::io::stdout(), &format!("{start}{text}"))) {
            Ok(()) => true,
            Err(e) => {
                let first = missing.lines == 0;
                *missing = Missing { lines: missing.lines + 1, error: Some(e) };
                if let (true, Some(e)) = (first, &missing.error) {
                    let what = if e.kind() == ErrorKind::BrokenPipe {
                        "nobody reads stdout any more".to_string()
                    } else {
                        format!("cannot write to stdout: {e}")
                    };
                    self.complain(&format!("warning: {what}; the run goes on without it"));
                }
                false
            }
        }
    }

    /// A line on stderr; whether it was written. Where that is closed, there is nowhere left to say so.
    fn complain(&self, text: &str) -> bool {
        self.around(|| write_line(std::io::stderr(), text)).is_ok()
    }

    /// A step is rewritten in place, and kept as a line where that is worth it.
    fn say(&self, text: &Text) {
        match text {
            Text::Progress { text, keep } => {
                if *keep {
                    self.line(text);
                }
                if let Some(bar) = &*self.live.borrow() {
                    bar.set_message(show::printable_text(text).into_owned());
                }
            }
            Text::Line(text) => self.line(text),
            Text::Warning(text) => self.warn(text),
        }
    }

    /// Writes above the line that rewrites itself.
    fn around(&self, write: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        match &*self.live.borrow() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Watcher for Console {
    fn begin(&self, run: &Begin<'_>) {
        *self.run.borrow_mut() = Some((Transcript::new(run), Instant::now()));
    }

    /// A line for people, absent with `--quiet`.
    fn line(&self, text: &str) {
        if !self.quiet {
            self.put(text);
        }
    }

    /// The final result, a line: also with `--quiet`, and on stderr if stdout does not take it.
    fn result(&self, text: &str) {
        let text = show::printable(text);
        if !self.put(&text) {
            self.complain(&text);
        }
    }

    /// What can be done next: absent with `--quiet` and `--json`.
    fn hint(&self, text: &str) {
        if !self.json {
            self.line(&show::printable(text));
        }
    }

    /// Something worth knowing, on stderr, absent with `--quiet`.
    fn note(&self, text: &str) {
        if !self.quiet {
            self.complain(&format!("note: {}", show::printable(text)));
        }
    }

    /// A warning, on stderr: also with `--quiet`.
    fn warn(&self, text: &str) {
        self.complain(&format!("warning: {}", show::printable(text)));
    }

    /// Ends the line that rewrites itself: what is worth keeping of it stands above.
    fn end_progress(&self) {
        if let Some(bar) = self.live.take() {
            bar.finish_and_clear();
        }
    }

    /// On stdout, with `--json`; and in words.
    fn event(&self, event: &Event, line: &str) {
        if self.json {
            self.print(&out::json(line));
        }
        if let Some((transcript, begun)) = &mut *self.run.borrow_mut() {
            transcript.event(event, begun.elapsed(), |text| self.say(&text));
        }
    }
}

fn write_line(mut to: impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(format!("{}\n", show::printable_text(text)).as_bytes())?;
    to.flush()
}

//! Where lines go: results on stdout, warnings on stderr; with `--json` stdout carries JSON only and everything for people goes to
//! stderr. On a terminal the progress of a run stays on one line that rewrites itself; elsewhere it is printed now and then.

use crate::watcher::Watcher;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mantissa_core::telemetry::event::Event;
use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};

/// The lines of a command.
#[derive(Debug)]
pub struct Console {
    json: bool,
    quiet: bool,
    live: RefCell<Option<ProgressBar>>,
    closed: Cell<bool>,
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
        Console { json, quiet, live: RefCell::new(live), closed: Cell::new(false) }
    }

    /// Whether stdout has been closed by its reader: nobody is watching.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    fn put(&self, text: &str) {
        self.around(|| if self.json { write_line(std::io::stderr(), text) } else { write_line(std::io::stdout(), text) });
    }

    /// Writes above the line that rewrites itself.
    fn around(&self, write: impl FnOnce() -> std::io::Result<()>) {
        let done = match &*self.live.borrow() {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        if done.is_err() {
            self.closed.set(true);
        }
    }
}

impl Watcher for Console {
    /// A line for people, absent with `--quiet`.
    fn line(&self, text: &str) {
        if !self.quiet {
            self.put(text);
        }
    }

    /// The final result: also with `--quiet`.
    fn result(&self, text: &str) {
        self.put(text);
    }

    /// Something worth knowing, on stderr, absent with `--quiet`.
    fn note(&self, text: &str) {
        if !self.quiet {
            self.around(|| write_line(std::io::stderr(), &format!("note: {text}")));
        }
    }

    /// A warning, on stderr: also with `--quiet`.
    fn warn(&self, text: &str) {
        self.around(|| write_line(std::io::stderr(), &format!("warning: {text}")));
    }

    /// The progress of this step: rewritten in place, or, when `print` says so, a line of its own.
    fn progress(&self, text: &str, print: bool) {
        match &*self.live.borrow() {
            Some(bar) => bar.set_message(text.to_string()),
            None if print => self.line(text),
            None => {}
        }
    }

    /// Ends the line that rewrites itself: its last state becomes an ordinary line.
    fn end_progress(&self) {
        if let Some(bar) = self.live.take() {
            let last = bar.message();
            bar.finish_and_clear();
            self.line(&last);
        }
    }

    /// On stdout, with `--json`.
    fn event(&self, _event: &Event, line: &str) {
        if self.json {
            self.around(|| write_line(std::io::stdout(), line));
        }
    }
}

fn write_line(mut to: impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(format!("{text}\n").as_bytes())?;
    to.flush()
}

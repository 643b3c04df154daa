//! Signals to the window: what it trains is saved, then it closes, with the exit code of the signal. A second one ends
//! the process at once.

use eframe::egui;
use mantissa_app::stop::{Signal, Stop, on_signals};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether the process was asked to end. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Option<Signal>,
    /// The request that the trainer at work looks at.
    trainer: Option<Stop>,
    /// The window, which may sleep.
    window: Option<egui::Context>,
}

impl Signals {
    /// Those of this process, from now on.
    pub fn listen() -> anyhow::Result<Signals> {
        let signals = Signals::default();
        let heard = signals.clone();
        on_signals(move |signal| heard.hear(signal))?;
        Ok(signals)
    }

    /// The first signal, if one came.
    pub fn asked(&self) -> Option<Signal> {
        self.shared().asked
    }

    /// A trainer is at work, or none is.
    pub(super) fn tell(&self, trainer: Option<Stop>) {
        self.shared().trainer = trainer;
    }

    /// The window to wake.
    pub(super) fn wake(&self, window: &egui::Context) {
        self.shared().window.get_or_insert_with(|| window.clone());
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Plain values: a panic elsewhere leaves them as they are.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, signal: Signal) {
        let mut shared = self.shared();
        let first = shared.asked.is_none();
        let decides = *shared.asked.get_or_insert(signal);
        if let Some(window) = &shared.window {
            window.request_repaint();
        }
        let (trainer, has_window) = (shared.trainer.clone(), shared.window.is_some());
        drop(shared);
        match trainer {
            // What the trainer would lose decides whether it is waited for.
            Some(trainer) => trainer.hear(signal, false),
            None if first && has_window => {}
            None => decides.end_process(),
        }
    }
}

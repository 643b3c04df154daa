//! What a recording still owes: calls that must follow others. Without them a step would run and train wrongly, so
//! [`Graph::finish`] refuses the recording and names the line that the missing call belongs to.

use super::Graph;
use crate::error::{Error, Result};
use std::panic::Location;

/// A call that must follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    /// [`crate::precision::fp8::finish`], after fp8 layers.
    Fp8Finish,
    /// [`Graph::begin_update`], with several micro-steps.
    BeginUpdate,
    /// [`crate::precision::GradScaler::update`], with a loss scale.
    ScaleUpdate,
    /// [`crate::precision::GradScaler::step`], for the optimizer of this name.
    Step(String),
}

impl Owed {
    fn error(&self) -> Error {
        let (call, problem, remedy) = match self {
            Owed::Fp8Finish => (
                "fp8::finish",
                "fp8 layers are recorded, and their scales would never change".into(),
                "call it once, after backward and before begin_update",
            ),
            Owed::BeginUpdate => (
                "begin_update",
                "several micro-steps are set, and the update would run in each of them".into(),
                "call it between backward and unscale or step",
            ),
            Owed::ScaleUpdate => (
                "update",
                "the loss is scaled, and the loss scale would never change".into(),
                "call GradScaler::update once, after every step",
            ),
            Owed::Step(name) => (
                "step",
                format!("the optimizer `{name}` would never change its parameters"),
                "call GradScaler::step for it after backward",
            ),
        };
        Error::misuse(call, problem, remedy)
    }
}

/// What is owed and what was, in the order of the calls.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: Vec<(Owed, String)>,
    settled: Vec<Owed>,
}

impl Ledger {
    /// The oldest debt as an error.
    pub(super) fn check(&self) -> Result<()> {
        self.open.first().map_or(Ok(()), |(owed, place)| Err(owed.error().at_place(place.clone())))
    }
}

impl Graph {
    /// Notes at the caller's line that `owed` must follow.
    #[track_caller]
    pub(crate) fn owe(&self, owed: Owed) {
        let place = self.place(Location::caller());
        let mut ledger = self.ledger();
        if ledger.open.iter().all(|(o, _)| *o != owed) {
            ledger.open.push((owed, place));
        }
    }

    /// Notes that `owed` has come.
    pub(crate) fn settle(&self, owed: &Owed) {
        let mut ledger = self.ledger();
        ledger.open.retain(|(o, _)| o != owed);
        if !ledger.settled.contains(owed) {
            ledger.settled.push(owed.clone());
        }
    }

    /// Whether `owed` has come before.
    pub(crate) fn settled(&self, owed: &Owed) -> bool {
        self.ledger().settled.contains(owed)
    }

    /// Whether anything of this kind has been noted.
    pub(crate) fn knows(&self, owed: &Owed) -> bool {
        let ledger = self.ledger();
        ledger.settled.contains(owed) || ledger.open.iter().any(|(o, _)| o == owed)
    }

    /// Refuses `call` before [`Graph::begin_update`] where it would run in every micro-step.
    #[track_caller]
    pub(crate) fn check_in_update(&self, call: &'static str) -> Result<()> {
        if self.grad_accum() == 1 || self.in_update() {
            return Ok(());
        }
        let problem = format!("it would run in each of the {} micro-steps", self.grad_accum());
        Err(self.misuse(call, problem, "call Graph::begin_update before it"))
    }

    /// A misuse at the caller's line.
    #[track_caller]
    pub(crate) fn misuse(&self, call: &'static str, problem: impl Into<String>, remedy: &'static str) -> Error {
        Error::misuse(call, problem, remedy).at_place(self.place(Location::caller()))
    }
}

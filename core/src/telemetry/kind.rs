//! What a line of a log is, by its keys in any order.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use std::borrow::Cow;

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Log,
    Step,
    Tensor,
    Eval,
    Warning,
    Sample,
    Profile,
    Predictions,
    Memory,
    Tuned,
}

impl Kind {
    /// By the `kind` of a line.
    fn of_name(name: &str) -> Option<Kind> {
        Some(match name {
            "log" => Kind::Log,
            "step" => Kind::Step,
            "tensor" => Kind::Tensor,
            "eval" => Kind::Eval,
            "warning" => Kind::Warning,
            "sample" => Kind::Sample,
            "profile" => Kind::Profile,
            "predictions" => Kind::Predictions,
            "memory" => Kind::Memory,
            "tuned" => Kind::Tuned,
            _ => return None,
        })
    }

    /// The kind of a line; `None` for one of a later version. Errs if the line is no object of JSON.
    pub(super) fn of_line(line: &str) -> serde_json::Result<Option<Kind>> {
        // As this version writes it. What follows is judged by whoever reads the event.
        let written = line.strip_prefix("{\"kind\":\"").and_then(|rest| rest.split_once('"'));
        if let Some(kind) = written.and_then(|(name, _)| Kind::of_name(name)) {
            return Ok(Some(kind));
        }
        serde_json::from_str(line).map(|head: Head<'_>| head.kind())
    }
}

/// The keys that say what a line is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    loss: Present,
    #[serde(default)]
    tensor: Present,
    #[serde(default)]
    val_loss: Present,
    #[serde(default)]
    warning: Present,
    #[serde(default)]
    sample: Present,
    #[serde(default)]
    profile: Present,
    #[serde(default)]
    predictions: Present,
    #[serde(default)]
    memory: Present,
    #[serde(default)]
    tuned: Present,
}

impl Head<'_> {
    fn kind(&self) -> Option<Kind> {
        if let Some(name) = &self.kind {
            return Kind::of_name(name);
        }
        let by_key = [
            (&self.loss, Kind::Step),
            (&self.tensor, Kind::Tensor),
            (&self.val_loss, Kind::Eval),
            (&self.warning, Kind::Warning),
            (&self.sample, Kind::Sample),
            (&self.profile, Kind::Profile),
            (&self.predictions, Kind::Predictions),
            (&self.memory, Kind::Memory),
            (&self.tuned, Kind::Tuned),
        ];
        by_key.into_iter().find(|(key, _)| key.0).map(|(_, kind)| kind)
    }
}

/// Whether a key is there, `null` or not.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Present, D::Error> {
        IgnoredAny::deserialize(d).map(|_| Present(true))
    }
}

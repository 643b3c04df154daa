//! What a line of a log is, by its keys in any order.

use super::event::Event;
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

/// What a line of a log turns out to be.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    target_pointer_width = "64",
    expect(clippy::large_enum_variant, reason = "one lives at a time; a box would cost an allocation a line")
)]
pub enum Read {
    /// An event.
    Event(Event),
    /// An event of a later version, which belongs to this step.
    Unknown(u64),
    /// Damage: no object of JSON with a step, or not what its kind has.
    Unreadable,
}

impl Read {
    /// Judges a line, without its end.
    pub fn line(line: &[u8]) -> Read {
        #[derive(Deserialize)]
        struct Stepped {
            step: u64,
        }
        // A list would do for an object, as far as its deserializer goes.
        let object = |text: &&str| text.trim_start().starts_with('{');
        let Some(text) = std::str::from_utf8(line).ok().filter(object) else { return Read::Unreadable };
        match Event::from_line(text) {
            Ok(Some(event)) => Read::Event(event),
            Ok(None) => serde_json::from_str(text).map_or(Read::Unreadable, |Stepped { step }| Read::Unknown(step)),
            Err(_) => Read::Unreadable,
        }
    }

    /// The step it belongs to; `None` for damage.
    pub fn step(&self) -> Option<u64> {
        match self {
            Read::Event(event) => Some(event.step()),
            Read::Unknown(step) => Some(*step),
            Read::Unreadable => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::EvalEvent;

    #[test]
    fn a_line_is_an_event_one_of_a_later_version_or_damage() {
        let line = Event::Eval(EvalEvent::new(5, 2.5, None)).to_line().unwrap();
        assert_eq!(Read::line(line.as_bytes()).step(), Some(5));
        assert_eq!(Read::line(b"{\"step\":7,\"later\":[\"val_loss\"]}\r"), Read::Unknown(7));
        assert_eq!(Read::line(b"{\"kind\":\"later\",\"step\":7,\"val_loss\":{}}"), Read::Unknown(7));
        let damage: [&[u8]; 12] = [
            b"",
            b"\0\0",
            b"\xff",
            b"[1]",
            b"{}",
            b"{\"step\":\"7\",\"later\":1}",
            b"{\"step\":-7}",
            b"{\"kind\":\"later\"}",
            b"{\"kind\":\"eval\",\"val_loss\":2.5}",
            b"{\"step\":5,\"val_loss\":2.5}{\"step\":6,\"val_loss\":2.5}",
            b"{\"kind\":\"eval\",\"step\":5,\"val_loss\":2.5}{\"kind\":\"eval\",\"step\":6,\"val_loss\":2.5}",
            b"{\"step\":5,\"val_loss\":2.",
        ];
        for damage in damage {
            assert_eq!(Read::line(damage), Read::Unreadable, "{}", damage.escape_ascii());
        }
    }

    #[test]
    fn a_name_is_written_as_it_is_read() {
        let event = Event::Eval(EvalEvent::new(5, 2.5, None));
        for line in [event.to_line().unwrap(), " {\"step\":5,\"kind\":\"ev\\u0061l\",\"val_loss\":2.5}".to_string()] {
            assert_eq!(Event::from_line(&line).unwrap(), Some(event.clone()), "{line}");
        }
    }
}

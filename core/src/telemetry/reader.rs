//! Reads an event log from its bytes, however these are cut. Whoever reads a log reads it through this: a run that goes
//! on, the doctor, `stats`, the window.
//!
//! One idea of damage. A line that cannot be read (no object of JSON with a step, not what its kind has, or longer than
//! [`MAX_LINE_BYTES`](super::lines::MAX_LINE_BYTES)) is counted and skipped, and never the end. A line of a kind of a
//! later version is no damage. A log that says it is of a later schema is refused as a whole: what its lines mean is
//! not known.

use super::event::{Event, SCHEMA};
use super::in_order::InOrder;
use super::lines::{Line, Lines};
use crate::error::{Error, Result};
use serde::Deserialize;

/// What a line of a log turns out to be.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time; a box would cost an allocation a line")]
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

/// Lines of a log so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub lines: u64,
    /// Lines that cannot be read.
    pub damaged: u64,
    /// Number of the first of those, from 1.
    pub first_damaged: u64,
    /// Events of a kind that this version does not know.
    pub unknown: u64,
    /// Events out of order, which only [`LogReader`] leaves out.
    pub out_of_order: u64,
}

impl Counts {
    fn line(&mut self, read: &Read) {
        self.lines += 1;
        match read {
            Read::Event(_) => {}
            Read::Unknown(_) => self.unknown += 1,
            Read::Unreadable => {
                self.damaged += 1;
                if self.damaged == 1 {
                    self.first_damaged = self.lines;
                }
            }
        }
    }
}

/// Reads lines and what they say, in the order in which they stand.
#[derive(Clone, Debug, Default)]
pub struct LineReader {
    lines: Lines,
    counts: Counts,
    /// A later schema that a line has named.
    later: Option<u32>,
}

impl LineReader {
    /// Takes the next bytes and hands on each line that ends in them, with its size in bytes.
    ///
    /// # Errors
    /// If the log is of a later schema. Nothing is handed on from there.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Read, u64)) -> Result<()> {
        let LineReader { lines, counts, later } = self;
        lines.feed(bytes, |Line { text, size_bytes }| {
            let read = text.map_or(Read::Unreadable, Read::line);
            if let Read::Event(Event::Log(log)) = &read
                && log.schema > SCHEMA
            {
                later.get_or_insert(log.schema);
            }
            if later.is_none() {
                counts.line(&read);
                each(read, size_bytes);
            }
        });
        match later {
            Some(found) => Err(Error::data("event log", format!("schema at most {SCHEMA}"), found.to_string())),
            None => Ok(()),
        }
    }

    /// What was read so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes of a line whose end has not come: in a finished file, a line that was cut off.
    pub fn unfinished_bytes(&self) -> u64 {
        self.lines.unfinished_bytes()
    }
}

/// Reads events in the order of their steps.
#[derive(Clone, Debug, Default)]
pub struct LogReader {
    lines: LineReader,
    order: InOrder,
    /// The file ended in the middle of a line.
    cut_off: bool,
}

impl LogReader {
    /// Takes the next bytes and hands on the events that are known to be in order.
    ///
    /// # Errors
    /// If the log is of a later schema.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Event)) -> Result<()> {
        let LogReader { lines, order, .. } = self;
        lines.feed(bytes, |read, _| {
            if let Read::Event(event) = read {
                order.push(event, &mut each);
            }
        })
    }

    /// Hands on what was held back, where a log ends for good. A line without its end counts as damage.
    pub fn finish(&mut self, each: impl FnMut(Event)) {
        self.cut_off = self.lines.unfinished_bytes() > 0;
        self.order.finish(each);
    }

    /// What was read so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { out_of_order: self.order.out_of_order, ..self.lines.counts() };
        if self.cut_off {
            counts.line(&Read::Unreadable);
        }
        counts
    }

    /// Bytes of a line whose end has not come.
    pub fn unfinished_bytes(&self) -> u64 {
        self.lines.unfinished_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event::EvalEvent;

    const LOG: &str = "{\"kind\":\"log\",\"schema\":2,\"step\":0}\n{\"kind\":\"eval\",\"step\":1,\"val_loss\":2.0}\n\nnonsense\n\
                       {\"step\":1,\"later\":[]}\n{\"step\":2,\"val_loss\":1.0}\r\n{\"step\":3,\"val_l";

    fn steps(reader: &mut LogReader, bytes: &[u8]) -> Vec<u64> {
        let mut steps = Vec::new();
        reader.feed(bytes, |e| steps.push(e.step())).unwrap();
        steps
    }

    #[test]
    fn events_come_together_however_their_lines_are_cut() {
        for size in 1..=LOG.len() {
            let mut reader = LogReader::default();
            let found: Vec<u64> = LOG.as_bytes().chunks(size).flat_map(|piece| steps(&mut reader, piece)).collect();
            let counts = Counts { lines: 6, damaged: 2, first_damaged: 3, unknown: 1, out_of_order: 0 };
            assert_eq!((found, reader.counts()), (vec![0, 1, 2], counts), "pieces of {size}");
            let mut cut_off = reader.clone();
            cut_off.finish(|_| {});
            assert_eq!(cut_off.counts(), Counts { lines: 7, damaged: 3, ..counts });
            assert!(reader.unfinished_bytes() > 0);
            assert_eq!(steps(&mut reader, b"oss\":0.5}\n"), [3]);
        }
    }

    #[test]
    fn damage_is_counted_and_never_kept() {
        let mut reader = LogReader::default();
        assert!(steps(&mut reader, b"\xff\xfe\n{\"step\":9}x\n[1]\n").is_empty());
        let piece = vec![b'x'; 1 << 20];
        (0..40).for_each(|_| assert!(steps(&mut reader, &piece).is_empty()));
        assert_eq!(steps(&mut reader, b"\n{\"step\":2,\"val_loss\":1.0}\n"), [2]);
        assert_eq!((reader.counts().damaged, reader.counts().unknown), (4, 0));
        let log = "{\"step\":3,\"val_loss\":1.0}\n{\"step\":99,\"val_loss\":1.0}\n{\"step\":4,\"val_loss\":1.0}\n";
        assert_eq!(steps(&mut reader, log.as_bytes()), [3, 4]);
        assert_eq!((reader.counts().damaged, reader.counts().out_of_order), (4, 1));
    }

    #[test]
    fn a_later_schema_is_refused_by_name_wherever_it_stands() {
        let header = |schema: u32| format!("{{\"kind\":\"log\",\"schema\":{schema},\"step\":0}}\n");
        let eval = |step: u64| format!("{{\"step\":{step},\"val_loss\":1.0}}\n");
        let mut seen = 0;
        let mut reader = LogReader::default();
        reader.feed((header(1) + &header(SCHEMA) + &eval(1)).as_bytes(), |_| seen += 1).unwrap();
        let later = "{\"more\":[1],\"schema\":3,\"kind\":\"log\"}\n".to_string();
        let error = reader.feed((later + &eval(2)).as_bytes(), |_| seen += 1).unwrap_err().to_string();
        assert_eq!(error, "event log: expected schema at most 2, found 3");
        assert!(reader.feed(eval(3).as_bytes(), |_| seen += 1).is_err());
        assert_eq!(seen, 3, "nothing is handed on from there");
    }
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

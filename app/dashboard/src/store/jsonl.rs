//! Events from the bytes of an `events.jsonl`, however they are cut: a line may arrive in pieces, be damaged, or be of a later version.

use mantissa_core::telemetry::event::{Event, Read};
use mantissa_core::telemetry::in_order::InOrder;
use mantissa_core::telemetry::lines::Lines;

/// Puts lines together, hands on their events in order and counts those that are none.
#[derive(Clone, Debug, Default)]
pub struct LineReader {
    lines: Lines,
    order: InOrder,
    /// Lines that are no events.
    unreadable: u64,
    /// Events of a kind that this version does not know.
    pub unknown: u64,
}

impl LineReader {
    /// Takes the next bytes and hands on the events whose lines end in them.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Event)) {
        let LineReader { lines, order, unreadable, unknown } = self;
        lines.feed(bytes, |line| match line.text.map(Read::line) {
            Some(Read::Event(event)) => order.push(event, &mut each),
            Some(Read::Unknown(_)) => *unknown += 1,
            Some(Read::Unreadable) | None => *unreadable += 1,
        });
    }

    /// Hands on what was held back, where a log ends for good.
    pub fn finish(&mut self, each: impl FnMut(Event)) {
        self.order.finish(each);
    }

    /// Lines so far that were damaged or out of order.
    pub fn corrupt(&self) -> u64 {
        self.unreadable + self.order.out_of_order
    }

    /// Bytes of a line whose end has not come: with a finished run, a line that was cut off.
    pub fn unfinished_bytes(&self) -> u64 {
        self.lines.unfinished_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "{\"step\":1,\"val_loss\":2.0}\n\nnonsense\n{\"step\":1,\"later\":[]}\n{\"step\":2,\"val_loss\":1.0}\r\n{\"step\":3,\"val_l";

    fn steps(reader: &mut LineReader, bytes: &[u8]) -> Vec<u64> {
        let mut steps = Vec::new();
        reader.feed(bytes, |e| steps.push(e.step()));
        steps
    }

    #[test]
    fn lines_come_together_however_they_are_cut() {
        for size in 1..=LOG.len() {
            let mut reader = LineReader::default();
            let found: Vec<u64> = LOG.as_bytes().chunks(size).flat_map(|piece| steps(&mut reader, piece)).collect();
            assert_eq!((found, reader.corrupt(), reader.unknown), (vec![1, 2], 2, 1), "pieces of {size}");
            assert!(reader.unfinished_bytes() > 0);
            assert_eq!(steps(&mut reader, b"oss\":0.5}\n"), [3]);
        }
    }

    #[test]
    fn damage_is_counted_and_never_kept() {
        let mut reader = LineReader::default();
        assert!(steps(&mut reader, b"\xff\xfe\n{\"step\":9}x\n[1]\n").is_empty());
        let piece = vec![b'x'; 1 << 20];
        (0..40).for_each(|_| assert!(steps(&mut reader, &piece).is_empty()));
        assert_eq!(steps(&mut reader, b"\n{\"step\":2,\"val_loss\":1.0}\n"), [2]);
        assert_eq!((reader.corrupt(), reader.unknown), (4, 0));
        let log = "{\"step\":3,\"val_loss\":1.0}\n{\"step\":99,\"val_loss\":1.0}\n{\"step\":4,\"val_loss\":1.0}\n";
        assert_eq!(steps(&mut reader, log.as_bytes()), [3, 4]);
        assert_eq!(reader.corrupt(), 5);
    }
}

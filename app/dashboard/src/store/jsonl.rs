//! Events from the bytes of an `events.jsonl`, however they are cut: a line may arrive in pieces, be damaged, or be of a later version.

use mantissa_core::telemetry::event::Event;

/// A line longer than this is no event.
const MAX_LINE_BYTES: usize = 1 << 24;

/// Puts lines together and counts those that are no events.
#[derive(Clone, Debug, Default)]
pub struct LineReader {
    /// The start of a line whose end has not come.
    partial: Vec<u8>,
    /// The line being read is too long and is passed over.
    too_long: bool,
    /// Lines that are no JSON objects of events.
    pub corrupt: u64,
    /// Events of a kind that this version does not know.
    pub unknown: u64,
}

impl LineReader {
    /// Takes the next bytes and hands on the events whose lines end in them.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Event)) {
        let mut pieces = bytes.split(|b| *b == b'\n');
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            if self.partial.is_empty() && !self.too_long {
                self.line(piece, &mut each);
            } else {
                self.keep(piece);
                let line = std::mem::take(&mut self.partial);
                match std::mem::take(&mut self.too_long) {
                    true => self.corrupt += 1,
                    false => self.line(&line, &mut each),
                }
            }
        }
        self.keep(last);
    }

    /// Bytes of a line whose end has not come: with a finished run, a line that was cut off.
    pub fn unfinished(&self) -> usize {
        self.partial.len()
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.partial.len() + piece.len() > MAX_LINE_BYTES {
            self.too_long = true;
            self.partial = Vec::new();
        }
        if !self.too_long {
            self.partial.extend_from_slice(piece);
        }
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(Event)) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match std::str::from_utf8(line).ok().map(Event::from_line) {
            Some(Ok(Some(event))) => each(event),
            Some(Ok(None)) => self.unknown += 1,
            Some(Err(_)) | None => self.corrupt += 1,
        }
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
            assert_eq!((found, reader.corrupt, reader.unknown), (vec![1, 2], 1, 1), "pieces of {size}");
            assert!(reader.unfinished() > 0);
            assert_eq!(steps(&mut reader, b"oss\":0.5}\n"), [3]);
        }
    }

    #[test]
    fn damage_is_counted_and_never_kept() {
        let mut reader = LineReader::default();
        assert!(steps(&mut reader, b"\xff\xfe\n{\"step\":9}x\n[1]\n").is_empty());
        assert_eq!(reader.corrupt + reader.unknown, 3);
        let piece = vec![b'x'; 1 << 20];
        (0..40).for_each(|_| assert!(steps(&mut reader, &piece).is_empty()));
        assert!(reader.unfinished() <= MAX_LINE_BYTES);
        assert_eq!(steps(&mut reader, b"\n{\"step\":4,\"val_loss\":1.0}\n"), [4]);
        assert_eq!(reader.corrupt + reader.unknown, 4);
    }
}

//! Lines of a log from its bytes, however these are cut, in bounded memory. Whoever reads lines of a file reads them
//! through this.
//!
//! Invariant: nothing that this project writes has a line longer than [`MAX_LINE_BYTES`]; the events that could be
//! longer are cut where they are made ([`SampleEvent::new`](super::event::SampleEvent::new), and the images shown of an
//! evaluation).

/// The longest line that is one, bytes. A longer one is damage, and is passed over without being kept.
pub const MAX_LINE_BYTES: usize = 1 << 24;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// What it says, without its end; `None` if it is longer than [`MAX_LINE_BYTES`].
    pub text: Option<&'a [u8]>,
    /// Bytes, with its end.
    pub size_bytes: u64,
}

/// Puts lines together.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The start of a line whose end has not come; empty if that line is too long.
    partial: Vec<u8>,
    /// Bytes of that line.
    partial_bytes: u64,
}

impl Lines {
    /// Takes the next bytes and hands on the lines that end in them.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut pieces = bytes.split(|b| *b == b'\n');
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            if self.partial_bytes == 0 {
                let text = (piece.len() <= MAX_LINE_BYTES).then_some(piece);
                each(Line { text, size_bytes: piece.len() as u64 + 1 });
            } else {
                self.keep(piece);
                let (text, size_bytes) = (std::mem::take(&mut self.partial), self.partial_bytes);
                let whole = text.len() as u64 == size_bytes;
                each(Line { text: whole.then_some(&text), size_bytes: size_bytes + 1 });
                self.partial_bytes = 0;
            }
        }
        self.keep(last);
    }

    /// Bytes of a line whose end has not come: in a finished file, a line that was cut off.
    pub fn unfinished_bytes(&self) -> u64 {
        self.partial_bytes
    }

    fn keep(&mut self, piece: &[u8]) {
        self.partial_bytes += piece.len() as u64;
        if self.partial_bytes <= MAX_LINE_BYTES as u64 {
            self.partial.extend_from_slice(piece);
        } else {
            self.partial = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_together_however_they_are_cut() {
        let text = b"one\n\ntwo\r\nthree\nfo";
        for size in 1..=text.len() {
            let (mut lines, mut found, mut bytes) = (Lines::default(), Vec::new(), 0);
            for piece in text.chunks(size) {
                lines.feed(piece, |line| {
                    found.push(line.text.map(<[u8]>::to_vec));
                    bytes += line.size_bytes;
                });
            }
            let expected = ["one", "", "two\r", "three"].map(|t| Some(t.as_bytes().to_vec()));
            assert_eq!((found, bytes, lines.unfinished_bytes()), (expected.to_vec(), 16, 2), "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            lines.feed(&piece, |line| panic!("{} bytes", line.size_bytes));
            assert!(lines.partial.capacity() <= 2 * MAX_LINE_BYTES);
        }
        assert_eq!((lines.partial.capacity(), lines.unfinished_bytes()), (0, 40 << 20));
        let mut found = Vec::new();
        lines.feed(b"\nafter\n", |line| found.push((line.text.map(<[u8]>::to_vec), line.size_bytes)));
        assert_eq!(found, [(None, (40 << 20) + 1), (Some(b"after".to_vec()), 6)]);
        // The longest that is one, whole and in pieces.
        let longest = [vec![b'y'; MAX_LINE_BYTES], b"\n".to_vec()].concat();
        for size in [longest.len(), 1 << 22] {
            let mut lines = Lines::default();
            let mut whole = 0;
            longest.chunks(size).for_each(|piece| lines.feed(piece, |line| whole += line.text.map_or(0, <[u8]>::len)));
            assert_eq!(whole, MAX_LINE_BYTES);
        }
    }
}

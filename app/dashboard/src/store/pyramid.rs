//! One column of numbers with the extremes of every stretch of it, so that a plot of any zoom touches a few entries a
//! pixel and no spike is lost between two pixels.
//!
//! Level 0 has one entry a row; entry `i` of a level spans entries `4i .. 4i + 4` of the level below. A NaN spans
//! nothing.

use std::ops::Range;

/// Entries of one level that make one of the next.
pub(crate) const RADIX: usize = 4;

/// Smallest and largest of some values; empty while `min > max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Smallest.
    pub min: f32,
    /// Largest.
    pub max: f32,
}

impl Span {
    const EMPTY: Span = Span { min: f32::INFINITY, max: f32::NEG_INFINITY };

    fn of(value: f32) -> Span {
        if value.is_nan() { Span::EMPTY } else { Span { min: value, max: value } }
    }

    fn join(&mut self, other: Span) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn is_empty(self) -> bool {
        self.min > self.max
    }
}

/// A column and its levels.
#[derive(Clone, Debug, Default)]
pub(crate) struct MinMaxPyramid {
    levels: Vec<Vec<Span>>,
    /// Entries written so far: what a test bounds instead of time.
    #[cfg(test)]
    pub(crate) writes: u64,
}

impl MinMaxPyramid {
    /// Appends a row.
    pub(crate) fn push(&mut self, value: f32) {
        let span = Span::of(value);
        let mut index = self.len();
        for level in 0.. {
            if level == self.levels.len() {
                // A level above starts as a copy of what there is: one entry that spans all.
                let all = self.levels.last().map(|below: &Vec<Span>| fold(below));
                self.levels.push(all.into_iter().collect());
            }
            self.put(level, index, span);
            if self.levels[level].len() == 1 {
                break;
            }
            index /= RADIX;
        }
    }

    /// Adds a value to the last row.
    pub(crate) fn widen(&mut self, value: f32) {
        let index = self.len() - 1;
        for level in 0..self.levels.len() {
            self.put(level, index / RADIX.pow(level as u32), Span::of(value));
        }
    }

    fn put(&mut self, level: usize, index: usize, span: Span) {
        let list = &mut self.levels[level];
        match list.get_mut(index) {
            Some(entry) => entry.join(span),
            None => list.push(span),
        }
        #[cfg(test)]
        {
            self.writes += 1;
        }
    }

    /// Gives up the finest level: four rows become one.
    pub(crate) fn coarsen(&mut self) {
        if self.levels.len() > 1 {
            self.levels.remove(0);
        }
    }

    /// Rows.
    pub(crate) fn len(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// Extremes of the rows in `range`; `None` if none of them is a number.
    pub(crate) fn over(&self, range: Range<usize>) -> Option<Span> {
        let (mut start, mut end) = (range.start, range.end.min(self.len()));
        let mut span = Span::EMPTY;
        for level in &self.levels {
            if start >= end {
                break;
            }
            // Entries that stick out of the next level's grid are taken here, the rest further up.
            while start < end && !start.is_multiple_of(RADIX) {
                span.join(level[start]);
                start += 1;
            }
            while start < end && !end.is_multiple_of(RADIX) {
                end -= 1;
                span.join(level[end]);
            }
            (start, end) = (start / RADIX, end / RADIX);
        }
        // The top has one entry, which sticks out: nothing is left.
        (!span.is_empty()).then_some(span)
    }

    /// Bytes of all levels.
    pub(crate) fn size_bytes(&self) -> usize {
        self.levels.iter().map(|l| l.capacity() * size_of::<Span>()).sum()
    }
}

fn fold(spans: &[Span]) -> Span {
    spans.iter().fold(Span::EMPTY, |mut all, s| {
        all.join(*s);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f32 {
        if i.is_multiple_of(13) { f32::NAN } else { ((i * 7919) % 1009) as f32 - 500.0 }
    }

    #[test]
    fn extremes_of_any_stretch_are_those_of_its_values() {
        let mut p = MinMaxPyramid::default();
        for n in 0..700 {
            p.push(value(n));
        }
        for (start, end) in [(0, 700), (0, 1), (1, 2), (5, 699), (16, 64), (63, 257), (698, 700), (3, 3), (600, 9000)] {
            let values = (start..end.min(700)).map(value).filter(|v| !v.is_nan());
            let expected = values.fold(None, |all: Option<Span>, v| {
                let all = all.unwrap_or(Span::EMPTY);
                Some(Span { min: all.min.min(v), max: all.max.max(v) })
            });
            assert_eq!(p.over(start..end), expected, "{start}..{end}");
        }
        assert_eq!(p.over(13..14), None, "a NaN spans nothing");
    }

    #[test]
    fn a_row_touches_one_entry_a_level() {
        let mut p = MinMaxPyramid::default();
        let rows = 1 << 16;
        for i in 0..rows {
            p.push(i as f32);
        }
        // 4^8 rows have levels of 4^8, .., 4, 1 entries.
        assert_eq!(p.levels.len(), 9);
        assert!(p.writes <= 9 * rows, "{} writes for {rows} rows", p.writes);
    }

    #[test]
    fn coarser_rows_keep_the_extremes() {
        let mut p = MinMaxPyramid::default();
        (0..64).for_each(|i| p.push(i as f32));
        p.coarsen();
        assert_eq!((p.len(), p.over(1..2)), (16, Some(Span { min: 4.0, max: 7.0 })));
        p.push(-5.0);
        p.widen(99.0);
        let wide = Some(Span { min: -5.0, max: 99.0 });
        assert_eq!((p.len(), p.over(16..17), p.over(0..17)), (17, wide, wide));
        p.coarsen();
        assert_eq!((p.len(), p.over(4..5)), (5, wide), "what was added to a row is known at every level");
    }
}

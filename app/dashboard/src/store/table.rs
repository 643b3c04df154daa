//! Rows of numbers that grow without end in bounded memory: when a table is full, four rows become one that keeps their
//! extremes.

use super::pyramid::{MinMaxPyramid, RADIX, Span};
use std::ops::{Range, RangeInclusive};

/// A table of `N` columns over steps in rising order.
#[derive(Clone, Debug)]
pub struct Table<const N: usize> {
    capacity: usize,
    /// Pushed rows that one row holds.
    stride: u64,
    /// Pushed rows in the last row.
    filled: u64,
    /// First step of each row.
    steps: Vec<u64>,
    /// Seconds of training at the first step of each row.
    secs: Vec<f64>,
    columns: [MinMaxPyramid; N],
    last: Option<(u64, [f32; N])>,
}

impl<const N: usize> Table<N> {
    /// An empty table of at most `capacity` rows.
    pub fn new(capacity: usize) -> Table<N> {
        Table {
            capacity: capacity.next_multiple_of(RADIX),
            stride: 1,
            filled: 0,
            steps: Vec::new(),
            secs: Vec::new(),
            columns: std::array::from_fn(|_| MinMaxPyramid::default()),
            last: None,
        }
    }

    /// Appends a row; `false`, and nothing is kept, if its step is not above the last one. NaN stands for no number.
    pub fn push(&mut self, step: u64, secs: f64, values: [f32; N]) -> bool {
        if self.last.is_some_and(|(last, _)| step <= last) {
            return false;
        }
        if self.filled == self.stride && self.steps.len() == self.capacity {
            self.coarsen();
        }
        if self.filled < self.stride && !self.steps.is_empty() {
            self.filled += 1;
            self.columns.iter_mut().zip(values).for_each(|(c, v)| c.widen(v));
        } else {
            self.filled = 1;
            self.steps.push(step);
            self.secs.push(secs);
            self.columns.iter_mut().zip(values).for_each(|(c, v)| c.push(v));
        }
        self.last = Some((step, values));
        true
    }

    fn coarsen(&mut self) {
        self.stride *= RADIX as u64;
        self.columns.iter_mut().for_each(MinMaxPyramid::coarsen);
        let mut index = 0;
        self.steps.retain(|_| {
            index += 1;
            (index - 1) % RADIX == 0
        });
        self.secs = self.secs.iter().copied().step_by(RADIX).collect();
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The last pushed step and its values.
    pub fn last(&self) -> Option<(u64, [f32; N])> {
        self.last
    }

    /// Steps of the rows.
    pub fn steps(&self) -> &[u64] {
        &self.steps
    }

    /// Seconds of training at the rows.
    pub fn secs(&self) -> &[f64] {
        &self.secs
    }

    /// Extremes of a column over some rows.
    pub fn over(&self, column: usize, rows: Range<usize>) -> Option<Span> {
        self.columns[column].over(rows)
    }

    /// Extremes of a column at the row that holds `step`, or the one before it.
    pub fn at(&self, column: usize, step: u64) -> Option<Span> {
        let row = self.steps.partition_point(|s| *s <= step).checked_sub(1)?;
        self.over(column, row..row + 1)
    }

    /// Points of a line through a column: at most two a pixel, the smallest and the largest of the rows that fall on
    /// it, in view and one row beyond on each side. `x` maps a row to its place, rising with the row; `view` is in its
    /// units.
    pub fn line(&self, column: usize, x: impl Fn(usize) -> f64, view: RangeInclusive<f64>, pixels: usize) -> Vec<[f64; 2]> {
        let (rows, pixels) = (self.len(), pixels.max(1));
        let first = partition(rows, |r| x(r) < *view.start()).saturating_sub(1);
        let end = (partition(rows, |r| x(r) <= *view.end()) + 1).min(rows);
        let mut points = Vec::with_capacity(2 * pixels.min(end.saturating_sub(first)) + 2);
        let mut put = |rows: Range<usize>, at: f64| {
            if let Some(Span { min, max }) = self.over(column, rows) {
                points.push([at, f64::from(min)]);
                if max > min {
                    points.push([at, f64::from(max)]);
                }
            }
        };
        if end.saturating_sub(first) <= 2 * pixels {
            (first..end).for_each(|r| put(r..r + 1, x(r)));
            return points;
        }
        // Rows may be unevenly spaced, so their places decide, not their number.
        let (left, right) = (x(first), x(end - 1));
        let mut start = first;
        for pixel in 1..=pixels {
            let edge = left + (right - left) * pixel as f64 / pixels as f64;
            let stop = if pixel == pixels { end } else { start + partition(end - start, |r| x(start + r) < edge) };
            if stop > start {
                put(start..stop, x(start));
            }
            start = stop;
        }
        points
    }

    /// Bytes held.
    pub fn size_bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(MinMaxPyramid::size_bytes).sum();
        columns + self.steps.capacity() * size_of::<u64>() + self.secs.capacity() * size_of::<f64>()
    }
}

/// Number of leading rows for which `before` holds.
fn partition(rows: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, rows);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rows: u64, capacity: usize) -> Table<2> {
        let mut t = Table::new(capacity);
        for step in 1..=rows {
            let spike = if step == 777 { 1e6 } else { 0.0 };
            assert!(t.push(step, step as f64, [(step % 100) as f32 + spike, f32::NAN]));
        }
        t
    }

    #[test]
    fn a_full_table_gets_coarser_and_keeps_spikes() {
        let t = filled(100_000, 1024);
        assert!(t.len() <= 1024 && t.len() > 200, "{} rows", t.len());
        let all = t.over(0, 0..t.len()).unwrap();
        assert_eq!((all.min, all.max), (0.0, 1_000_077.0));
        assert_eq!(t.at(0, 777).unwrap().max, 1_000_077.0);
        assert_eq!((t.last().unwrap().0, t.last().unwrap().1[0]), (100_000, 0.0));
        assert_eq!(t.over(1, 0..t.len()), None, "a column of NaNs has no extremes");
    }

    #[test]
    fn memory_does_not_follow_the_number_of_rows() {
        let bytes = |rows| filled(rows, 1024).size_bytes();
        // Two columns with their levels, steps and seconds; a vector may have twice the room it needs.
        let bound = 2 * 1024 * (2 * 8 * 4 / 3 + 16) + 4096;
        assert!(bytes(5_000) <= bound && bytes(200_000) <= bound, "{} and {}, at most {bound}", bytes(5_000), bytes(200_000));
    }

    #[test]
    fn a_line_has_two_points_a_pixel_and_no_spike_is_lost() {
        let t = filled(100_000, 1 << 17);
        let x = |r: usize| t.steps()[r] as f64;
        for pixels in [1, 10, 333] {
            let line = t.line(0, x, 0.0..=1e5, pixels);
            assert!(line.len() <= 2 * pixels + 2, "{} points on {pixels} pixels", line.len());
            assert!(line.iter().any(|p| p[1] == 1_000_077.0), "{pixels} pixels");
            assert!(line.windows(2).all(|w| w[0][0] <= w[1][0]));
        }
        let mut t = t.clone();
        assert!(t.push(100_001, 0.0, [-7.0, 0.0]));
        let x = |r: usize| t.steps()[r] as f64;
        assert_eq!(t.line(0, x, 0.0..=1e6, 10).iter().map(|p| p[1]).fold(0.0, f64::min), -7.0, "the last row is drawn");
        let near = t.line(0, x, 770.0..=780.0, 333);
        assert_eq!((near.first().unwrap()[0], near.last().unwrap()[0]), (769.0, 781.0), "one row beyond the view on each side");
        assert!(t.line(0, x, -9.0..=-5.0, 10).len() <= 1);
        assert!(Table::<2>::new(8).line(0, |_| 0.0, 0.0..=1.0, 10).is_empty());
    }

    #[test]
    fn steps_only_rise() {
        let mut t = filled(5, 8);
        assert!(!t.push(5, 0.0, [1.0, 1.0]) && !t.push(2, 0.0, [1.0, 1.0]));
        assert_eq!(t.len(), 5);
    }
}

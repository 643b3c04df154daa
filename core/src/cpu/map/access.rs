//! How one input of a `Map` is read: a broadcast description, collapsed to as few axes as it takes.
//!
//! Adjacent axes that step evenly become one, so the usual cases are short: same shape is one axis of stride 1, a
//! scalar one axis of stride 0, a row `[C]` under `[.., C]` is strides `[0, 1]`, a column `[N, 1]` under `[N, C]` is
//! `[1, 0]`.

use super::MAX_RANK;
use crate::float::view::View;
use arrayvec::ArrayVec;

/// An input and the way from an output index to its elements.
pub(super) struct Access<'a> {
    view: View<'a>,
    /// `(length, stride in elements)` of the collapsed axes, outermost first; never empty.
    axes: ArrayVec<(usize, usize), MAX_RANK>,
    /// Product of the lengths of all axes but an outermost one of stride 0: the values repeat with this period.
    period: usize,
}

impl<'a> Access<'a> {
    /// Reads `view` under an output of `shape` with one element stride per output axis (0 = broadcast); no strides at
    /// all read the first element everywhere.
    pub(super) fn new(view: View<'a>, shape: &[usize], strides: &[usize]) -> Access<'a> {
        let mut axes: ArrayVec<(usize, usize), MAX_RANK> = ArrayVec::new();
        for (&length, &stride) in shape.iter().zip(strides).filter(|(length, _)| **length != 1) {
            match axes.last_mut() {
                Some(outer) if outer.1 == stride * length => *outer = (outer.0 * length, stride),
                Some(_) | None => axes.push((length, stride)),
            }
        }
        if axes.is_empty() {
            axes.push((1, 0));
        }
        let repeats = axes[0].1 == 0;
        let period = axes.iter().skip(usize::from(repeats)).map(|axis| axis.0).product();
        Access { view, axes, period }
    }

    /// One value for every element.
    pub(super) fn is_scalar(&self) -> bool {
        matches!(self.axes[..], [(_, 0)])
    }

    /// The values, where they lie in memory as f32 and in the order of the output.
    pub(super) fn contiguous_f32(&self) -> Option<&'a [f32]> {
        match self.axes[..] {
            [(_, 1)] => self.view.as_f32(),
            _ => None,
        }
    }

    /// The value of a scalar input.
    pub(super) fn scalar(&self) -> f32 {
        self.value(0)
    }

    /// The values of the elements from `start` on, as f32.
    pub(super) fn load(&self, start: usize, row: &mut [f32]) {
        // A pattern shorter than the row is read once and then doubled.
        let first = row.len().min(self.period.max(1));
        self.load_once(start, &mut row[..first]);
        let mut have = first;
        while have < row.len() {
            let more = have.min(row.len() - have);
            row.copy_within(..more, have);
            have += more;
        }
    }

    fn load_once(&self, start: usize, row: &mut [f32]) {
        let (length, stride) = self.axes[self.axes.len() - 1];
        let mut done = 0;
        while done < row.len() {
            let (outer, at) = ((start + done) / length, (start + done) % length);
            let n = (length - at).min(row.len() - done);
            let from = self.offset(outer) + at * stride;
            let part = &mut row[done..done + n];
            match stride {
                0 => part.fill(self.value(from)),
                1 => self.view.part(from..from + n).decode_into(part),
                step => self.gather(from, step, part),
            }
            done += n;
        }
    }

    /// Element offset of the inner axis whose number among all of them is `outer`.
    fn offset(&self, mut outer: usize) -> usize {
        let mut offset = 0;
        for &(length, stride) in self.axes[..self.axes.len() - 1].iter().rev() {
            offset += outer % length * stride;
            outer /= length;
        }
        offset
    }

    fn gather(&self, from: usize, step: usize, row: &mut [f32]) {
        match self.view.as_f32() {
            Some(x) => {
                for (y, x) in row.iter_mut().zip(x[from..].iter().step_by(step)) {
                    *y = *x;
                }
            }
            None => {
                for (j, y) in row.iter_mut().enumerate() {
                    *y = self.value(from + j * step);
                }
            }
        }
    }

    fn value(&self, at: usize) -> f32 {
        let mut one = [0.0];
        self.view.part(at..at + 1).decode_into(&mut one);
        one[0]
    }
}

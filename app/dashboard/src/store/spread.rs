//! Things of a long run, of which a bounded number is kept that is spread over the whole of it and ends with the
//! newest.

use std::collections::VecDeque;

/// Things with their steps, in the order in which they came.
#[derive(Clone, Debug)]
pub struct Spread<T> {
    items: VecDeque<(u64, T)>,
    most: usize,
    seen: usize,
    keep_every: usize,
}

impl<T> Spread<T> {
    pub(super) fn new(most: usize) -> Spread<T> {
        Spread { items: VecDeque::new(), most, seen: 0, keep_every: 1 }
    }

    /// Keeps a thing: when there are too many, every other one goes.
    pub(super) fn push(&mut self, step: u64, item: T) {
        if self.seen.is_multiple_of(self.keep_every) {
            if self.items.len() == self.most {
                let mut index = 0;
                self.items.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.keep_every *= 2;
            }
            self.items.push_back((step, item));
        } else if let Some(last) = self.items.back_mut() {
            // The newest is always there.
            *last = (step, item);
        }
        self.seen += 1;
    }

    /// What is kept, oldest first.
    pub fn items(&self) -> &VecDeque<(u64, T)> {
        &self.items
    }

    /// The newest thing of `step` or before it.
    pub fn at(&self, step: u64) -> Option<&(u64, T)> {
        self.items.partition_point(|(s, _)| *s <= step).checked_sub(1).map(|i| &self.items[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_span_the_run_in_bounded_number_and_end_with_the_newest() {
        let mut spread = Spread::new(64);
        for step in 1..=10_000 {
            spread.push(step, step);
            assert!(spread.items().len() <= 64 && spread.items().back() == Some(&(step, step)));
        }
        assert!(spread.items().front() == Some(&(1, 1)) && spread.items().len() >= 32);
        assert!(spread.at(0).is_none() && spread.at(1) == Some(&(1, 1)) && spread.at(u64::MAX) == Some(&(10_000, 10_000)));
        let middle = spread.at(5_000).unwrap().0;
        assert!((4_500..=5_000).contains(&middle), "{middle}");
    }
}

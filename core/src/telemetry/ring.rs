//! The ring of amaxes of one tensor under delayed fp8 scaling, as it lies on the device after a step.
//!
//! Of the `len` rows of a history the first is the staging slot, empty between steps; the others hold the amaxes that,
//! with the one of the step to come, decide the scale after it. Long rings are reported by their newest amaxes, and by
//! the largest and its age: when that leaves, the scale rises.

use serde::{Deserialize, Serialize};

/// Newest amaxes that are reported.
pub const TOLD: usize = 16;

/// A ring.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AmaxRing {
    /// Amaxes that it can hold.
    pub room: usize,
    /// Amaxes that it holds.
    pub held: usize,
    /// The largest; `None` if it is not finite, or the ring is empty.
    pub largest: Option<f32>,
    /// How many amaxes came after the largest.
    pub largest_age: usize,
    /// The newest ones first, at most [`TOLD`]; `None` for one that is not finite.
    pub newest: Vec<Option<f32>>,
}

impl AmaxRing {
    /// Column `tensor` of a history `[len, tensors]`.
    pub fn of_history(history: &[f32], tensors: usize, tensor: usize) -> AmaxRing {
        let column: Vec<f32> = history.chunks_exact(tensors.max(1)).skip(1).map(|row| row[tensor]).rev().collect();
        // Amaxes come in at the newest end, and none of them is 0.
        let held = column.iter().position(|a| *a == 0.0).unwrap_or(column.len());
        let amaxes = &column[..held];
        let largest = amaxes.iter().enumerate().max_by(|(i, a), (j, b)| a.abs().total_cmp(&b.abs()).then(j.cmp(i)));
        let told = |a: f32| a.is_finite().then_some(a);
        AmaxRing {
            room: column.len(),
            held,
            largest: largest.and_then(|(_, a)| told(*a)),
            largest_age: largest.map_or(0, |(age, _)| age),
            newest: amaxes.iter().take(TOLD).map(|a| told(*a)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_read_from_its_newest_end() {
        // Two tensors, four rows: staging, oldest, .., newest.
        let history = [9.0, 9.0, 0.0, 3.0, 1.5, f32::INFINITY, 0.5, 2.0];
        let full = AmaxRing::of_history(&history, 2, 1);
        assert_eq!((full.room, full.held, full.largest, full.largest_age), (3, 3, None, 1));
        assert_eq!(full.newest, [Some(2.0), None, Some(3.0)]);
        let part = AmaxRing::of_history(&history, 2, 0);
        assert_eq!((part.held, part.largest, part.largest_age), (2, Some(1.5), 1));
        let long: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let long = AmaxRing::of_history(&long, 1, 0);
        assert_eq!((long.room, long.held, long.newest.len(), long.newest[0]), (99, 99, TOLD, Some(99.0)));
        let same = AmaxRing::of_history(&[0.0, 2.0, 2.0, 1.0], 1, 0);
        assert_eq!(same.largest_age, 1, "the newer of two that are alike");
        assert_eq!(AmaxRing::of_history(&[0.0], 1, 0), AmaxRing::default());
    }
}

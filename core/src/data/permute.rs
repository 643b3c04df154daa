//! A pseudo-random permutation of `0..n` that is evaluated at one place at a time: a balanced Feistel network over the
//! next even power of two, with Threefry as its round function, walked until it lands inside `0..n` (cycle walking).
//!
//! Shuffling an epoch therefore needs no list and no state. Source: Black and Rogaway, "Ciphers with Arbitrary Finite
//! Domains" (2002).

use crate::rng::threefry2x32;

/// Rounds of the network; four make a pseudo-random permutation (Luby and Rackoff).
const ROUNDS: u32 = 4;

/// A permutation of `0..n`.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    key: [u32; 2],
    n: u64,
    half_bits: u32,
}

impl Permutation {
    /// The permutation number `index` (such as the epoch) of `seed` over `0..n`; `n` is 1 to 2^62.
    pub fn new(seed: u64, index: u64, n: u64) -> Permutation {
        debug_assert!((1..=1 << 62).contains(&n));
        let key = threefry2x32([seed as u32, (seed >> 32) as u32], [index as u32, (index >> 32) as u32]);
        let bits = 64 - (n - 1).leading_zeros();
        Permutation { key, n, half_bits: bits.div_ceil(2).max(1) }
    }

    /// Where `i` goes; `i < n`.
    pub fn at(&self, i: u64) -> u64 {
        debug_assert!(i < self.n);
        let mut x = self.network(i);
        // At most four times as many places as numbers: four walks on average at worst, and the walk must come back to
        // `i`.
        while x >= self.n {
            x = self.network(x);
        }
        x
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..ROUNDS {
            let f = u64::from(threefry2x32(self.key, [right as u32, round])[0]);
            (left, right) = (right, left ^ (f & mask));
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_appears_once() {
        for n in [1, 2, 3, 4, 5, 17, 64, 1000, 4097] {
            let p = Permutation::new(9, 3, n);
            let mut seen: Vec<u64> = (0..n).map(|i| p.at(i)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..n), "n = {n}");
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_order_is_mixed() {
        let list = |seed, epoch| -> Vec<u64> { (0..1000).map(|i| Permutation::new(seed, epoch, 1000).at(i)).collect() };
        assert_eq!(list(1, 0), list(1, 0));
        assert_ne!(list(1, 0), list(1, 1));
        assert_ne!(list(1, 0), list(2, 0));
        // Neighbours of a random order lie n/3 apart on average.
        let gap: u64 = list(1, 0).windows(2).map(|w| w[0].abs_diff(w[1])).sum();
        assert!((280..390).contains(&(gap / 999)), "mean gap {}", gap / 999);
    }
}

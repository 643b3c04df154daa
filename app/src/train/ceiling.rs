//! The peak rate that the steps of a run are compared with. Whatever else the machine is doing can only make a measured
//! peak too small, so the largest rate seen counts: that of the first look, of products in a timed step, of some steps
//! in a row, and of further looks where steps come suspiciously close to it. A share is never cut off: above 1 it says
//! that the peak is still too small.

use std::collections::VecDeque;

/// Steps over which a rate is believed: steps overlap, and one may be charged for the time of another.
const STEPS: usize = 8;
/// Share of the peak from which the peak is doubted.
const DOUBTFUL: f64 = 0.8;
/// Times that a doubted peak is measured again at most.
const LOOKS: u32 = 3;

/// The peak, and how close the last steps came.
#[derive(Debug)]
pub(super) struct Ceiling {
    step_flops: f64,
    flops_per_s: f64,
    /// Milliseconds of the last steps.
    recent: VecDeque<f64>,
    looks: u32,
}

impl Ceiling {
    /// For steps of `step_flops`, with the peak as it was measured first.
    pub(super) fn new(step_flops: u64, flops_per_s: f64) -> Ceiling {
        Ceiling { step_flops: step_flops as f64, flops_per_s, recent: VecDeque::new(), looks: 0 }
    }

    /// Takes the milliseconds of a step and returns its share of the peak.
    pub(super) fn share(&mut self, ms: f64) -> f64 {
        if self.recent.len() == STEPS {
            self.recent.pop_front();
        }
        self.recent.push_back(ms);
        if let Some(rate) = self.recent_rate() {
            self.raise(rate);
        }
        self.step_flops / ms * 1e3 / self.flops_per_s
    }

    /// Takes a rate that the device has shown.
    pub(super) fn raise(&mut self, flops_per_s: f64) {
        if flops_per_s.is_finite() {
            self.flops_per_s = self.flops_per_s.max(flops_per_s);
        }
    }

    /// Whether the peak should be measured again; the caller does it.
    pub(super) fn is_doubted(&mut self) -> bool {
        let doubted = self.looks < LOOKS && self.recent_rate().is_some_and(|rate| rate > DOUBTFUL * self.flops_per_s);
        self.looks += u32::from(doubted);
        doubted
    }

    fn recent_rate(&self) -> Option<f64> {
        let ms: f64 = self.recent.iter().sum();
        (self.recent.len() == STEPS).then(|| self.step_flops * STEPS as f64 / ms * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many steps of 10 ms as are judged together.
    fn take(c: &mut Ceiling) {
        for _ in 0..STEPS {
            c.share(10.0);
        }
    }

    #[test]
    fn a_peak_that_was_measured_too_small_is_raised() {
        // Steps of 10 ms do 1e9 a second; the peak says half of it.
        let mut c = Ceiling::new(10_000_000, 0.5e9);
        assert!((c.share(40.0) - 0.5).abs() < 1e-9);
        assert!(!c.is_doubted(), "too few steps to judge by");
        assert!((c.share(10.0) - 2.0).abs() < 1e-9, "told as it is, not cut off at 1");
        take(&mut c);
        assert!((c.share(10.0) - 1.0).abs() < 1e-9);
        assert!((c.share(20.0) - 0.5).abs() < 0.1, "the peak has risen to what steps in a row have shown");
        c.raise(4e9);
        c.raise(f64::INFINITY);
        c.raise(1.0);
        assert!((c.share(10.0) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn one_fast_step_raises_nothing() {
        let mut c = Ceiling::new(10_000_000, 2e9);
        take(&mut c);
        assert!((c.share(1.0) - 5.0).abs() < 1e-9);
        assert!((c.share(10.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_doubted_peak_is_measured_a_few_times_and_no_more() {
        let mut c = Ceiling::new(10_000_000, 1.1e9);
        take(&mut c);
        assert_eq!((0..9).filter(|_| c.is_doubted()).count(), LOOKS as usize);
        let mut sure = Ceiling::new(10_000_000, 2e9);
        take(&mut sure);
        assert!(!sure.is_doubted());
    }
}

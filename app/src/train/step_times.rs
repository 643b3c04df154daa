//! How long steps take, from when the host hears that they are done. Steps overlap and the host hears late, often of
//! several at once: those share the time since it last heard, or since the first of them began, if the device had
//! nothing to do before.

use mantissa_core::train::MAX_IN_FLIGHT;
use std::collections::VecDeque;
use std::time::Instant;

/// The least time a step is said to take, milliseconds: less than a clock can tell apart, so that no rate is infinite.
const LEAST_MS: f64 = 1e-6;

/// Whether the `arrived` steps that have not been reported yet are reported now, as a group that shares its time.
///
/// A step that was there when the host looked may have been there for as long as the next one takes, which then lands
/// at once: only a step that was waited for, or the last in flight, says when a group ended. A host that never waits,
/// since the device is faster, ends one every few steps.
pub(super) fn ends_a_group(arrived: usize, in_flight: usize, waited: bool) -> bool {
    arrived > 0 && (waited || in_flight == 0 || arrived > MAX_IN_FLIGHT)
}

/// Times of the steps of a run.
#[derive(Debug)]
pub(super) struct StepTimes {
    /// When the steps in flight began, oldest first.
    begun: VecDeque<Instant>,
    /// When the last steps arrived.
    arrived: Option<Instant>,
    /// Milliseconds of every step.
    all: Vec<f64>,
}

impl StepTimes {
    pub(super) fn new() -> StepTimes {
        StepTimes { begun: VecDeque::new(), arrived: None, all: Vec::new() }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.begun.push_back(now);
    }

    /// The `count` oldest steps in flight have arrived together: milliseconds of each.
    pub(super) fn arrive(&mut self, count: usize, now: Instant) -> f64 {
        let first = self.begun.front().copied();
        self.begun.drain(..count.min(self.begun.len()));
        let since = first.max(self.arrived).unwrap_or(now);
        self.arrived = Some(now);
        let ms = (now.saturating_duration_since(since).as_secs_f64() * 1e3 / count.max(1) as f64).max(LEAST_MS);
        self.all.extend(std::iter::repeat_n(ms, count));
        ms
    }

    /// Steps that have arrived.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The median, milliseconds; 0 without a step.
    pub(super) fn median(&mut self) -> f64 {
        crate::show::median(&mut self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A run told as milliseconds since its start.
    struct Told {
        times: StepTimes,
        start: Instant,
    }

    impl Told {
        fn new() -> Told {
            Told { times: StepTimes::new(), start: Instant::now() }
        }

        fn begin(&mut self, ms: u64) {
            self.times.begin(self.start + Duration::from_millis(ms));
        }

        fn arrive(&mut self, count: usize, ms: u64) -> f64 {
            self.times.arrive(count, self.start + Duration::from_millis(ms))
        }
    }

    #[test]
    fn steps_that_land_together_share_the_time_since_the_last_landing() {
        let mut run = Told::new();
        [0, 1, 2].into_iter().for_each(|ms| run.begin(ms));
        assert_eq!(run.arrive(1, 50), 50.0);
        run.begin(51);
        // Two were done when the host looked again.
        assert_eq!(run.arrive(2, 150), 50.0);
        assert_eq!(run.arrive(1, 200), 50.0);
        assert_eq!((run.times.count(), run.times.median()), (4, 50.0));
    }

    #[test]
    fn a_step_that_was_there_already_shares_the_time_of_the_next() {
        let mut run = Told::new();
        [0, 1, 2].into_iter().for_each(|ms| run.begin(ms));
        // Steps of 30 ms; a host that looks again when the second is almost done.
        assert!(!ends_a_group(1, 2, false), "the first, at 59 ms");
        assert!(ends_a_group(2, 1, true), "the second, waited for");
        assert_eq!(run.arrive(2, 60), 30.0);
        assert!(ends_a_group(1, 0, false) && ends_a_group(MAX_IN_FLIGHT + 1, 1, false) && !ends_a_group(0, 0, true));
    }

    #[test]
    fn what_happens_between_steps_is_not_their_time() {
        let mut run = Told::new();
        run.begin(0);
        assert_eq!(run.arrive(1, 40), 40.0);
        // An evaluation of two seconds.
        run.begin(2_040);
        run.begin(2_041);
        assert_eq!(run.arrive(2, 2_120), 40.0);
    }

    #[test]
    fn all_steps_together_take_the_time_of_the_run_however_they_land() {
        for groups in [&[1, 1, 1, 1, 1, 1][..], &[3, 3], &[1, 3, 2], &[6]] {
            let mut run = Told::new();
            (0..6).for_each(|ms| run.begin(ms));
            let mut done = 0;
            let sum: f64 = groups
                .iter()
                .map(|&count| {
                    done += count;
                    count as f64 * run.arrive(count, 30 * done as u64)
                })
                .sum();
            assert!((sum - 180.0).abs() < 1e-9, "{groups:?}: {sum}");
            assert!(run.times.all.iter().all(|ms| (ms - 30.0).abs() < 1e-9), "{groups:?}: {:?}", run.times.all);
        }
    }

    #[test]
    fn no_step_takes_no_time_at_all() {
        let mut run = Told::new();
        run.begin(5);
        assert_eq!(run.arrive(1, 5), LEAST_MS);
        // A clock that went back, or a step that never began.
        run.begin(9);
        assert_eq!(run.arrive(1, 4), LEAST_MS);
        assert_eq!(run.arrive(1, 4), LEAST_MS);
    }
}

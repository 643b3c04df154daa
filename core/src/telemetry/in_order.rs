//! Puts the events of a log in their order: lines with a step that does not belong where they stand cost those lines,
//! and not the lines after them.
//!
//! Steps of a log rise. Where they leap ahead, lines are missing before, or the ones that leap are out of order; which
//! of them shows only in the next step. So what leaps is held back until a line has another step: a step further on
//! keeps it, an earlier one takes it out.

use super::event::Event;

/// How far an event may be ahead of the last step: steps in flight overlap.
const AHEAD: u64 = 3;
/// Most events held back. A step with more of them than that is taken at its word.
const MAX_HELD: usize = 1 << 14;

/// Holds back what leaps ahead.
#[derive(Clone, Debug, Default)]
pub struct InOrder {
    /// The last step that was taken.
    last: u64,
    /// The latest step of any event.
    reached: u64,
    /// Events of one step, far ahead.
    held: Vec<Event>,
    /// Events left out because they were out of order.
    pub out_of_order: u64,
}

impl InOrder {
    /// Takes the next event and hands on what is known to be in order.
    pub fn push(&mut self, event: Event, mut each: impl FnMut(Event)) {
        let step = event.step();
        match self.held.first().map(Event::step) {
            Some(held) if held == step && self.held.len() < MAX_HELD => return self.held.push(event),
            Some(held) if held <= step => self.pass_held(&mut each),
            Some(_) => self.out_of_order += std::mem::take(&mut self.held).len() as u64,
            None => {}
        }
        if step > self.reached + AHEAD {
            self.held.push(event);
        } else if matches!(event, Event::Step(_)) && step <= self.last {
            self.out_of_order += 1;
        } else {
            self.pass(event, &mut each);
        }
    }

    /// Hands on what was held back, where the log ends.
    pub fn finish(&mut self, mut each: impl FnMut(Event)) {
        self.pass_held(&mut each);
    }

    fn pass_held(&mut self, each: &mut impl FnMut(Event)) {
        for event in std::mem::take(&mut self.held) {
            self.pass(event, each);
        }
    }

    fn pass(&mut self, event: Event, each: &mut impl FnMut(Event)) {
        self.reached = self.reached.max(event.step());
        if let Event::Step(e) = &event {
            self.last = e.step;
        }
        each(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::report;
    use crate::telemetry::event::{EvalEvent, StepEvent, Timing};

    fn step(step: u64) -> Event {
        Event::Step(StepEvent::new(&report(step), Timing { ms: 1.0, items_per_s: 1.0, mfu: 0.1 }, false))
    }

    fn read(events: impl IntoIterator<Item = Event>) -> (Vec<u64>, u64) {
        let (mut order, mut seen) = (InOrder::default(), Vec::new());
        for event in events {
            order.push(event, |e| seen.push(e.step()));
        }
        order.finish(|e| seen.push(e.step()));
        (seen, order.out_of_order)
    }

    #[test]
    fn one_line_out_of_order_costs_that_line() {
        let all: Vec<u64> = (1..=20).collect();
        assert_eq!(read(all.iter().map(|&s| step(s))), (all.clone(), 0));
        for foreign in [999_999, 8, 1] {
            let with = all[..9].iter().copied().chain([foreign]).chain(all[9..].iter().copied());
            assert_eq!(read(with.map(step)), (all.clone(), 1), "{foreign}");
        }
        let far = Event::Eval(EvalEvent::new(999_999, 1.0, None));
        // One event with a far step, or several with the same.
        for far in [vec![far.clone()], vec![far.clone(), far.clone()], vec![step(999_999), far.clone(), far]] {
            let lost = far.len() as u64;
            let late = all[..9].iter().copied().map(step).chain(far);
            assert_eq!(read(late.chain(all[9..].iter().copied().map(step))), (all.clone(), lost));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut order = InOrder::default();
        let mut passed = 0;
        for _ in 0..3 * MAX_HELD {
            order.push(Event::Eval(EvalEvent::new(500, 1.0, None)), |_| passed += 1);
            assert!(order.held.len() <= MAX_HELD);
        }
        order.finish(|_| passed += 1);
        assert_eq!((passed, order.out_of_order), (3 * MAX_HELD, 0));
    }

    #[test]
    fn steps_in_flight_are_in_order() {
        assert!(AHEAD > crate::train::MAX_IN_FLIGHT as u64);
    }

    #[test]
    fn a_hole_is_no_disorder() {
        let hole: Vec<u64> = (1..=5).chain(300..=305).chain([900]).collect();
        assert_eq!(read(hole.iter().map(|&s| step(s))), (hole, 0));
        // A log that begins late, and evaluations with the step they follow.
        let late = [step(500), Event::Eval(EvalEvent::new(500, 1.0, None)), step(501)];
        assert_eq!(read(late), (vec![500, 500, 501], 0));
        // An event of the last step whose own line is missing, and of a step that is about to land.
        let ahead = [step(1), Event::Eval(EvalEvent::new(4, 1.0, None)), step(2), step(3)];
        assert_eq!(read(ahead), (vec![1, 4, 2, 3], 0));
    }
}

//! Being asked to stop. A [`Stop`] is passed to whatever takes long, which looks at it at least once a second: a step,
//! a batch of an evaluation, a token of a sample. Whoever drives the work then saves and ends.
//!
//! Work that cannot look (reading data, compiling, measuring kernels) is ended from outside, by the thread that hears
//! signals, and only while nothing would be lost by it: before the first step of the process, or when the last step
//! taken is saved. A second request ends the process at once, and says which steps are lost.

#[cfg_attr(not(unix), path = "stop/listen_other.rs")]
mod listen;

use anyhow::Result;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long work with nothing unsaved may take to hear a request before it is ended from outside.
const PATIENCE: Duration = Duration::from_millis(500);

/// What asks a process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, a batch system or a container that ends.
    Terminate,
    /// The terminal was closed.
    HangUp,
}

impl Signal {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
        }
    }

    /// The exit code of a process that ended because of it: 128 and its number, as shells count.
    pub fn exit_code(self) -> u8 {
        match self {
            Signal::Interrupt => 130,
            Signal::Terminate => 143,
            Signal::HangUp => 129,
        }
    }
}

impl Signal {
    /// Ends the process with the exit code of this signal, without the handlers of `exit`: those of a graphics driver
    /// may wait for the work that is being cut off.
    pub fn end_process(self) -> ! {
        listen::end_process(self.exit_code().into())
    }
}

/// Calls `hear` with every signal that asks this process to stop, on a thread of its own.
pub fn on_signals(hear: impl FnMut(Signal) + Send + 'static) -> Result<()> {
    listen::listen(hear)
}

/// What the thread that hears signals has to do after one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// Say this: the work will hear it, save and end.
    Wait(String),
    /// Nothing would be lost: if the work has not heard it after [`PATIENCE`], end the process and say this.
    EndUnlessHeard(String),
    /// End the process now and say this.
    End(String),
}

/// A request to stop that has, or has not, been made. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    shared: Arc<(Mutex<State>, Condvar)>,
    /// Whose steps are told through it: its place in [`State::runs`].
    run: usize,
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Asked>,
    /// The work knows.
    heard: bool,
    runs: Vec<Steps>,
    /// Runs that tell of their steps.
    count: usize,
}

/// The steps of one run.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    /// Last step that this process has taken.
    taken: Option<u64>,
    /// Last step that is saved, by this process or the one it goes on from.
    saved: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    signal: Signal,
    at: Instant,
}

impl Stop {
    /// A request that signals make. `quiet` leaves out what is said when nothing is lost.
    pub fn on_signals(quiet: bool) -> Result<Stop> {
        let stop = Stop::default();
        let heard = stop.clone();
        on_signals(move |signal| heard.hear(signal, quiet))?;
        Ok(stop)
    }

    /// The same request for one more run, which tells of its steps through it.
    pub fn for_run(&self) -> Stop {
        let mut state = self.state();
        state.count += 1;
        Stop { shared: self.shared.clone(), run: state.count - 1 }
    }

    /// Makes the request. The first one counts.
    pub fn ask(&self, signal: Signal) {
        self.state().asked.get_or_insert(Asked { signal, at: Instant::now() });
    }

    /// What has asked, for work that is going to save and end.
    pub fn asked(&self) -> Option<Signal> {
        let mut state = self.state();
        state.heard |= state.asked.is_some();
        self.shared.1.notify_all();
        state.asked.map(|asked| asked.signal)
    }

    /// Tells that `step` has been taken.
    pub fn taken(&self, step: u64) {
        self.steps(|steps| steps.taken = Some(step));
    }

    /// Tells that `step` is saved.
    pub fn saved(&self, step: u64) {
        self.steps(|steps| steps.saved = Some(step));
    }

    fn steps(&self, change: impl FnOnce(&mut Steps)) {
        let mut state = self.state();
        if state.runs.len() <= self.run {
            state.runs.resize(self.run + 1, Steps::default());
        }
        change(&mut state.runs[self.run]);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values: a panic elsewhere leaves them as they are.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a signal, and does and says what follows, which may be the end of the process.
    pub fn hear(&self, signal: Signal, quiet: bool) {
        let end = |text: &str| {
            say(text);
            // The first request decides.
            self.asked().unwrap_or(signal).end_process()
        };
        match self.signal(signal) {
            Answer::Wait(_) if quiet => {}
            Answer::Wait(text) => say(&text),
            Answer::EndUnlessHeard(_) if self.is_heard_in_time() => {}
            Answer::EndUnlessHeard(text) | Answer::End(text) => end(&text),
        }
    }

    /// Takes a signal and decides what follows.
    fn signal(&self, signal: Signal) -> Answer {
        let mut state = self.state();
        let name = signal.name();
        if state.asked.is_some() {
            return Answer::End(format!("stopped at once by a second signal ({name}): {}", state.loss()));
        }
        state.asked = Some(Asked { signal, at: Instant::now() });
        if state.runs.iter().any(|steps| steps.is_unsaved()) {
            Answer::Wait(format!("{name}: finishing the step, saving; again to stop now"))
        } else if state.runs.iter().any(|steps| steps.taken.is_some()) {
            Answer::EndUnlessHeard(format!("stopped by {name}: {}", state.loss()))
        } else {
            Answer::End(format!("stopped by {name}: {}", state.loss()))
        }
    }

    /// Waits until the work has heard the request, at most [`PATIENCE`] from when it was made; whether it has.
    fn is_heard_in_time(&self) -> bool {
        let mut state = self.state();
        let until = state.asked.map_or_else(Instant::now, |asked| asked.at) + PATIENCE;
        while !state.heard {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// A line on stderr, from beside the thread that writes there.
fn say(text: &str) {
    let mut err = std::io::stderr().lock();
    // On a terminal the cursor may stand behind a line that rewrites itself, or behind `^C`.
    let start = if err.is_terminal() { "\n" } else { "" };
    // Nowhere left to report that stderr is closed.
    let _ = err.write_all(format!("{start}{text}\n").as_bytes());
}

impl State {
    /// What is lost if the process ends now.
    fn loss(&self) -> String {
        match &self.runs[..] {
            [] => Steps::default().loss(),
            [one] => one.loss(),
            several => {
                let each = several.iter().enumerate().map(|(i, steps)| format!("run {}: {}", i + 1, steps.loss()));
                each.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl Steps {
    fn is_unsaved(&self) -> bool {
        self.taken.is_some() && self.taken != self.saved
    }

    fn loss(&self) -> String {
        match (self.taken, self.saved) {
            (None, None) => "no step had been taken, there is nothing to save".into(),
            (None, Some(saved)) => format!("no step had been taken since step {saved}, which is saved"),
            (Some(taken), Some(saved)) if taken == saved => format!("step {saved} is saved"),
            (Some(taken), saved) => {
                let lost = match saved.map_or(1, |saved| saved + 1) {
                    first if first == taken => format!("step {taken} is not saved"),
                    first => format!("steps {first} to {taken} are not saved"),
                };
                lost + &saved.map_or("; no step is".into(), |saved| format!("; the last saved step is {saved}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_before_the_first_step() {
        let stop = Stop::default();
        assert_eq!(stop.asked(), None);
        assert_eq!(
            stop.signal(Signal::HangUp),
            Answer::End("stopped by SIGHUP: no step had been taken, there is nothing to save".into())
        );
        let stop = Stop::default();
        stop.saved(40);
        let Answer::End(text) = stop.signal(Signal::Terminate) else { panic!("expected an end") };
        assert!(text.contains("no step had been taken since step 40, which is saved"), "{text}");
    }

    #[test]
    fn the_first_request_waits_for_the_work_and_the_second_says_what_is_lost() {
        let stop = Stop::default();
        stop.taken(7);
        assert_eq!(
            stop.signal(Signal::Interrupt),
            Answer::Wait("SIGINT: finishing the step, saving; again to stop now".into())
        );
        assert_eq!(stop.clone().asked(), Some(Signal::Interrupt));
        let second = |stop: &Stop| match stop.signal(Signal::Terminate) {
            Answer::End(text) => text,
            other @ (Answer::Wait(_) | Answer::EndUnlessHeard(_)) => panic!("{other:?}"),
        };
        assert!(second(&stop).ends_with("(SIGTERM): steps 1 to 7 are not saved; no step is"));
        stop.saved(5);
        assert!(second(&stop).ends_with("steps 6 to 7 are not saved; the last saved step is 5"));
        stop.saved(6);
        assert!(second(&stop).ends_with("step 7 is not saved; the last saved step is 6"));
        stop.saved(7);
        assert!(second(&stop).ends_with("step 7 is saved"));
        assert_eq!(stop.asked(), Some(Signal::Interrupt), "the first one decides the exit code");
    }

    #[test]
    fn work_that_does_not_hear_is_ended_only_when_all_is_saved() {
        let stop = Stop::default();
        stop.taken(3);
        stop.saved(3);
        assert_eq!(stop.signal(Signal::Terminate), Answer::EndUnlessHeard("stopped by SIGTERM: step 3 is saved".into()));
        assert!(!stop.is_heard_in_time(), "nobody has looked");
        assert_eq!(stop.asked(), Some(Signal::Terminate));
        assert!(stop.is_heard_in_time());
    }

    #[test]
    fn of_several_runs_each_may_have_something_to_lose() {
        let stop = Stop::default();
        let [a, b] = [stop.for_run(), stop.for_run()];
        a.taken(4);
        a.saved(4);
        b.taken(4);
        assert!(matches!(stop.signal(Signal::Terminate), Answer::Wait(_)), "the second run has saved nothing");
        let Answer::End(text) = b.signal(Signal::Terminate) else { panic!("expected an end") };
        assert!(text.ends_with("run 1: step 4 is saved; run 2: steps 1 to 4 are not saved; no step is"), "{text}");
        let stop = Stop::default();
        let [a, _starting] = [stop.for_run(), stop.for_run()];
        a.taken(4);
        a.saved(4);
        assert!(matches!(stop.signal(Signal::Terminate), Answer::EndUnlessHeard(_)));
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        let codes = [Signal::HangUp, Signal::Interrupt, Signal::Terminate].map(Signal::exit_code);
        assert_eq!(codes, [128 + 1, 128 + 2, 128 + 15]);
    }
}

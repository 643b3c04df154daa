//! Training beside the window: one named thread steps one run, or several in turn, and tells what happens through
//! bounded channels. It never waits for the window: an event that finds no room is dropped and counted (it still stands
//! in the run folder).

use anyhow::{Context, Result};
use mantissa_app::cli::TrainArgs;
use mantissa_app::config::RunConfig;
use mantissa_app::run_folder::EVENTS;
use mantissa_app::stop::{Signal, Stop};
use mantissa_app::train::{Asked, Observe, Run};
use mantissa_app::watcher::{Begin, Watcher};
use mantissa_core::telemetry::event::Event;
use mantissa_core::telemetry::reader::LogReader;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;

/// Events that wait for the window at most.
const ROOM: usize = 1 << 14;
/// Bytes of a log read at a time.
const PIECE_BYTES: usize = 1 << 18;
/// Steps between steps whose instructions are timed.
const TIMED_EVERY: u64 = 50;

/// What the window asks of the trainer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// Wait between steps.
    Pause,
    /// Go on.
    Continue,
    /// Take one step and wait.
    StepOnce,
    /// Save a checkpoint.
    Save,
    /// Multiply the loss scale.
    ScaleLossScale(f32),
    /// Save and end.
    Stop,
}

/// What the trainer tells, beside events. Rare, and never dropped.
#[derive(Debug)]
pub enum Told {
    /// A run is about to take its first step.
    Begin {
        /// Its number among the runs of this trainer.
        runner: usize,
        /// Every setting.
        config: Box<RunConfig>,
        /// Its folder.
        folder: PathBuf,
        /// Events of the run that it goes on with.
        past: Vec<Event>,
    },
    /// A line worth reading.
    Line(String),
    /// A line that warns.
    Warning(String),
    /// Steps are being taken, or not.
    Paused(bool),
    /// All is over: the last result, or what went wrong.
    Ended(Result<(), String>),
}

/// A trainer at work.
#[derive(Debug)]
pub struct Trainer {
    commands: Sender<Command>,
    events: Receiver<(usize, Event)>,
    told: Receiver<Told>,
    dropped: Arc<AtomicU64>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Trainer {
    /// Starts the runs that the flags ask for, in turn, step by step.
    pub fn start(jobs: Vec<TrainArgs>) -> Result<Trainer> {
        let (commands, orders) = channel();
        let (event_sender, events) = sync_channel(ROOM);
        let (teller, told) = channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let stop = Stop::default();
        let heard = stop.clone();
        let link = Link { runner: 0, events: event_sender, told: teller, dropped: dropped.clone() };
        let work = move || {
            let ended = train(jobs, &orders, &link, &heard).map_err(|e| format!("{e:#}"));
            link.tell(Told::Ended(ended));
        };
        let thread =
            std::thread::Builder::new().name("mantissa-train".into()).spawn(work).context("cannot start the trainer")?;
        Ok(Trainer { commands, events, told, dropped, stop, thread: Some(thread) })
    }

    /// What asks it to stop in the middle of its work.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Asks for something. A trainer that has ended does not hear it.
    pub fn send(&self, command: Command) {
        if command == Command::Stop {
            // Heard in the middle of an evaluation, too.
            self.stop.ask(Signal::Interrupt);
        }
        let _ = self.commands.send(command);
    }

    /// The next thing told, if there is one; take all of these before the events.
    pub fn told(&self) -> Option<Told> {
        self.told.try_recv().ok()
    }

    /// The next event and the number of its run, if there is one.
    pub fn event(&self) -> Option<(usize, Event)> {
        self.events.try_recv().ok()
    }

    /// Events dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is on stderr already.
            let _ = thread.join();
        }
    }
}

/// The trainer's end of the channels, for one of its runs.
#[derive(Clone)]
struct Link {
    runner: usize,
    events: SyncSender<(usize, Event)>,
    told: Sender<Told>,
    dropped: Arc<AtomicU64>,
}

impl Link {
    fn tell(&self, what: Told) {
        // A window that is gone need not be told.
        let _ = self.told.send(what);
    }
}

impl Watcher for Link {
    fn begin(&self, run: &Begin<'_>) {
        let mut past = Vec::new();
        if run.steps > 0 {
            // What cannot be read is missing from the curves, nothing else.
            let (mut reader, mut piece) = (LogReader::default(), vec![0; PIECE_BYTES]);
            if let Ok(mut log) = File::open(run.folder.join(EVENTS)) {
                while let Ok(read @ 1..) = log.read(&mut piece) {
                    // A log of a later schema has been refused before the run began.
                    if reader.feed(&piece[..read], |e| past.push(e)).is_err() {
                        break;
                    }
                }
            }
            reader.finish(|e| past.push(e));
        }
        let (config, folder) = (Box::new(run.config.clone()), run.folder.to_path_buf());
        self.tell(Told::Begin { runner: self.runner, config, folder, past });
    }

    // The events say it all; a warning is also shown at once.
    fn event(&self, event: &Event, _line: &str) {
        if let Event::Warning(e) = event {
            self.warn(&e.warning.to_string());
        }
        if self.events.try_send((self.runner, event.clone())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn line(&self, _text: &str) {}

    fn warn(&self, text: &str) {
        self.tell(Told::Warning(text.to_string()));
    }

    fn note(&self, text: &str) {
        self.tell(Told::Line(text.to_string()));
    }

    fn result(&self, text: &str) {
        self.note(text);
    }
}

fn train(jobs: Vec<TrainArgs>, orders: &Receiver<Command>, link: &Link, stop: &Stop) -> Result<()> {
    let links: Vec<Link> = (0..jobs.len()).map(|runner| Link { runner, ..link.clone() }).collect();
    let mut runs = Vec::new();
    for (job, link) in jobs.iter().zip(&links) {
        runs.extend(Run::prepare(Asked::new(job)?, link, stop)?);
    }
    link.tell(Told::Paused(false));
    let ended = take_turns(&mut runs, orders, link);
    // From here on it saves.
    stop.asked();
    // What ends one run, or a request to stop, costs the others nothing.
    runs.iter_mut().map(Run::interrupt).fold(ended, Result::and)
}

/// Steps the runs in turn until all are over or the window wants no more; those not over are left.
fn take_turns(runs: &mut Vec<Run<'_>>, orders: &Receiver<Command>, link: &Link) -> Result<()> {
    let mut gate = StepGate { paused: false, credit: false };
    let mut round = 0;
    while !runs.is_empty() {
        while let Some(command) = gate.next(orders) {
            match command {
                Command::Pause | Command::Continue | Command::StepOnce => {
                    gate.take(command);
                    if gate.paused {
                        runs.iter_mut().try_for_each(Run::settle)?;
                    }
                    link.tell(Told::Paused(gate.paused));
                }
                Command::Save => {
                    let saved = runs.iter_mut().map(Run::save).collect::<Result<Vec<bool>>>()?;
                    if saved.iter().all(|saved| *saved) {
                        link.note("checkpoint saved");
                    }
                }
                Command::ScaleLossScale(factor) => {
                    for run in runs.iter_mut() {
                        // In a race, only some have a loss scale.
                        if run.has_loss_scale() {
                            run.scale_loss_scale(factor)?;
                        }
                    }
                }
                Command::Stop => return Ok(()),
            }
        }
        round += 1;
        let observe = if round % TIMED_EVERY == 3 { Observe::Times } else { Observe::Nothing };
        let mut index = 0;
        while let Some(run) = runs.get_mut(index) {
            let over = run.advance(observe).and_then(|()| {
                if gate.paused {
                    run.settle()?;
                }
                if run.is_over() { run.finish().map(|_| true) } else { Ok(false) }
            });
            match over {
                Ok(false) => index += 1,
                Ok(true) => drop(runs.remove(index)),
                Err(e) => {
                    // One that has failed is past saving.
                    drop(runs.remove(index));
                    return Err(e);
                }
            }
        }
    }
    Ok(())
}

/// Whether to step or to wait.
struct StepGate {
    paused: bool,
    /// One step is allowed although it is paused.
    credit: bool,
}

impl StepGate {
    /// The next command, waiting for one while paused; `None` to take a step. A window that is gone means stop.
    fn next(&mut self, orders: &Receiver<Command>) -> Option<Command> {
        if self.paused && !std::mem::take(&mut self.credit) {
            return Some(orders.recv().unwrap_or(Command::Stop));
        }
        match orders.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Command::Stop),
        }
    }

    fn take(&mut self, command: Command) {
        self.paused = command != Command::Continue;
        self.credit = command == Command::StepOnce;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::telemetry::event::EvalEvent;

    #[test]
    fn an_event_without_room_is_dropped_and_counted() {
        let (sender, events) = sync_channel(1);
        let (told, dropped) = (channel().0, Arc::new(AtomicU64::new(0)));
        let link = Link { runner: 0, events: sender, told, dropped: dropped.clone() };
        (1..=3).for_each(|step| link.event(&Event::Eval(EvalEvent::new(step, 1.0, None)), ""));
        assert_eq!((events.try_iter().count(), dropped.load(Ordering::Relaxed)), (1, 2));
    }
}

//! Times every instruction of a step, by the clock of the device where it has one, groups them, and writes a Chrome
//! trace (Perfetto and chrome://tracing open it).

use crate::show;
use mantissa_core::data::Batch;
use mantissa_core::error::Result;
use mantissa_core::program::Program;
use mantissa_core::program::cost::Cost;
use mantissa_core::program::observe::{Moment, Observer, Span};
use mantissa_core::telemetry::event::ProfileRow;
use mantissa_core::train::phase::{self, Phase};
use mantissa_core::train::{Session, StepResult};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Instant;

/// What the times of a step were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Timestamps that the device writes around each instruction.
    Device,
    /// The clock of this machine, read around each instruction. A device that works on its own is waited for each time.
    Host,
}

impl Clock {
    /// That of the steps of `session`.
    pub(crate) fn of(session: &Session) -> Clock {
        if session.has_clock() { Clock::Device } else { Clock::Host }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Clock::Device => "timestamps of the device",
            Clock::Host => "host clock around each instruction",
        }
    }
}

/// One timed step: its report, and when every instruction ran by [`Clock::of`] the session.
pub(crate) fn timed_step(session: &mut Session, batch: Batch<'_>) -> Result<(StepResult, Vec<Span>)> {
    match Clock::of(session) {
        Clock::Device => session.step_timed(batch),
        Clock::Host => {
            let now = Instant::now();
            let mut timer = Timer { origin: now, begin: now, spans: Vec::new() };
            let result = session.step_observed(batch, &mut timer)?;
            Ok((result, timer.spans))
        }
    }
}

/// Times the instructions of one step.
#[derive(Debug)]
struct Timer {
    origin: Instant,
    begin: Instant,
    spans: Vec<Span>,
}

impl Observer for Timer {
    fn before(&mut self, _now: &Moment<'_>) {
        self.begin = Instant::now();
    }

    fn after(&mut self, now: &Moment<'_>) {
        let (start, length) = (self.begin - self.origin, self.begin.elapsed());
        let (start_secs, length_secs) = (start.as_secs_f64(), length.as_secs_f64());
        self.spans.push(Span { instr: now.index, micro: now.micro, start_secs, length_secs });
    }
}

/// Instructions that share a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Runs a step.
    pub(crate) calls: usize,
    /// Seconds a step.
    pub(crate) secs: f64,
    pub(crate) cost: Cost,
}

impl Line {
    /// Floating-point operations a second.
    pub(crate) fn flops_per_s(&self) -> f64 {
        self.cost.flops as f64 / self.secs.max(f64::MIN_POSITIVE)
    }

    /// Bytes read and written a second.
    pub(crate) fn bytes_per_s(&self) -> f64 {
        (self.cost.read_bytes + self.cost.written_bytes) as f64 / self.secs.max(f64::MIN_POSITIVE)
    }
}

/// Timed steps of one Program.
#[derive(Debug)]
pub(crate) struct Profile {
    /// Median time of each instruction, seconds, and its runs a step.
    times: Vec<(f64, usize)>,
    last: Vec<Span>,
}

impl Profile {
    /// From the times of several steps; needs at least one.
    pub(crate) fn new(program: &Program, steps: Vec<Vec<Span>>) -> Profile {
        let mut seen: Vec<Vec<f64>> = vec![Vec::new(); program.instrs.len()];
        let count = steps.len().max(1);
        for span in steps.iter().flatten() {
            seen[span.instr].push(span.length_secs);
        }
        let times = seen.into_iter().map(|mut s| (show::median(&mut s), s.len() / count)).collect();
        Profile { times, last: steps.into_iter().next_back().unwrap_or_default() }
    }

    /// Time by kernel family, longest first. Views cost nothing and are left out.
    pub(crate) fn by_family(&self, program: &Program) -> Vec<Line> {
        self.grouped(program, |i| program.instrs[i].op.row().stem.to_string())
    }

    /// Rate of the family with most operations: the products of a step, together too long to be timed wrongly.
    pub(crate) fn flops_per_s(&self, program: &Program) -> f64 {
        self.by_family(program).iter().max_by_key(|line| line.cost.flops).map_or(0.0, Line::flops_per_s)
    }

    /// [`Profile::by_family`] for an event.
    pub(crate) fn rows(&self, program: &Program) -> Vec<ProfileRow> {
        let row = |line: Line| ProfileRow {
            family: line.name,
            calls: line.calls,
            ms: line.secs * 1e3,
            flops: line.cost.flops,
            bytes: line.cost.read_bytes + line.cost.written_bytes,
        };
        self.by_family(program).into_iter().map(row).collect()
    }

    /// Time by operation and types, longest first.
    pub(crate) fn by_op(&self, program: &Program) -> Vec<Line> {
        self.grouped(program, |i| {
            let instr = &program.instrs[i];
            let ty = |ids: &[_]| ids.first().map(|&id| program.ty(id).to_string()).unwrap_or_default();
            let lists = !instr.op.packs(instr.inputs.len()).is_empty();
            let name = phase::short(instr);
            if lists { name } else { format!("{name} {} -> {}", ty(&instr.inputs), ty(&instr.outputs)) }
        })
    }

    fn grouped(&self, program: &Program, name: impl Fn(usize) -> String) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for (i, instr) in program.instrs.iter().enumerate() {
            if matches!(instr.op, mantissa_core::op::Op::Reshape(_)) {
                continue;
            }
            let name = name(i);
            let at = *known.entry(name.clone()).or_insert_with(|| {
                lines.push(Line { name, ..Line::default() });
                lines.len() - 1
            });
            let (secs, calls) = self.times[i];
            let (line, c) = (&mut lines[at], program.cost(instr));
            line.calls += calls;
            line.secs += secs * calls as f64;
            let n = calls as u64;
            line.cost += Cost { flops: c.flops * n, read_bytes: c.read_bytes * n, written_bytes: c.written_bytes * n };
        }
        lines.sort_by(|a, b| b.secs.total_cmp(&a.secs));
        lines
    }

    /// Events of the last timed step, in the order of time: one row for each part of the step. `process` tells recipes
    /// apart.
    pub(crate) fn trace(&self, program: &Program, process: usize, title: &str, clock: Clock) -> Vec<Value> {
        let phases = phase::phases(program);
        let row = |p: Phase| match p {
            Phase::Forward => 1,
            Phase::Backward => 2,
            Phase::Update => 3,
        };
        let mut events = vec![
            json!({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": title}}),
            json!({"ph": "M", "name": "process_labels", "pid": process, "tid": 0, "args": {"labels": clock.name()}}),
        ];
        for p in [Phase::Forward, Phase::Backward, Phase::Update] {
            events.push(json!({"ph": "M", "name": "thread_name", "pid": process, "tid": row(p), "args": {"name": p.name()}}));
        }
        for s in &self.last {
            let instr = &program.instrs[s.instr];
            let cost = program.cost(instr);
            let scope = program.scope(instr.scope);
            events.push(json!({
                "ph": "X",
                "name": format!("{} {scope}", instr.op.row().name).trim_end(),
                "cat": instr.op.row().stem,
                "pid": process,
                "tid": row(phases[s.instr]),
                "ts": s.start_secs * 1e6,
                "dur": s.length_secs * 1e6,
                "args": {
                    "instr": s.instr,
                    "micro_step": s.micro,
                    "text": program.instr_text(instr),
                    "flops": cost.flops,
                    "bytes": cost.read_bytes + cost.written_bytes,
                    "source": format!("{}:{}", instr.source.file(), instr.source.line()),
                },
            }));
        }
        events
    }
}

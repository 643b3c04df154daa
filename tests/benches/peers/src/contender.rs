//! What takes part, how it is timed, and the table.

use anyhow::{Result, ensure};
use cpu_time::ProcessTime;
use std::time::{Duration, Instant};

/// Products in a turn.
pub(crate) const PRODUCTS: usize = 4;
/// Turns before timing: whatever is compiled or tuned late.
const WARM_UP: usize = 3;
/// Timed turns of each.
const TURNS: usize = 9;

/// Someone who does the same work again and again.
pub(crate) struct Contender {
    name: String,
    first: Time,
    /// Does the work and waits until it is done; what it computed.
    work: Box<dyn FnMut() -> Vec<f32>>,
    result: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Time {
    wall: Duration,
    cpu: Duration,
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Time) {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    let out = work();
    (out, Time { wall: wall.elapsed(), cpu: cpu.elapsed() })
}

impl Contender {
    /// Opens a device, prepares the work and does it a first time; all of it is the cold start.
    pub(crate) fn start<W: FnMut() -> Vec<f32> + 'static>(
        name: impl Into<String>,
        prepare: impl FnOnce() -> Result<W>,
    ) -> Result<Contender> {
        let name = name.into();
        let (started, first) = timed(|| -> Result<(W, Vec<f32>)> {
            let mut work = prepare()?;
            let result = work();
            Ok((work, result))
        });
        let (work, result) = started?;
        eprintln!("{name}: first turn after {:.2} s", first.wall.as_secs_f64());
        Ok(Contender { name, first, work: Box::new(work), result })
    }

    /// A number of the last turn, for people.
    pub(crate) fn tell(&self, what: &str) {
        eprintln!("{}: {what} {:?}", self.name, self.result.first());
    }
}

/// Errs if anyone's first turn gave something else than that of the first contender.
pub(crate) fn check_agreement(contenders: &[Contender], tolerance: f32) -> Result<()> {
    for c in contenders {
        let reference = &contenders[0].result;
        let far = c.result.iter().zip(reference).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        let same = c.result.len() == reference.len() && c.result.iter().all(|x| x.is_finite()) && far <= tolerance;
        ensure!(same, "{} computes something else: {far} off", c.name);
    }
    Ok(())
}

/// Lets the contenders take turns, and prints medians. The first is what the others are compared with.
pub(crate) fn take_turns(contenders: &mut [Contender], case: &str, rate: impl Fn(f64) -> String) -> Result<()> {
    for contender in contenders.iter_mut() {
        (0..WARM_UP).for_each(|_| contender.result = (contender.work)());
    }
    let mut times: Vec<Vec<Time>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..TURNS {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            let (result, time) = timed(&mut contender.work);
            contender.result = result;
            times.push(time);
        }
    }
    println!(
        "\n| {case} | wall, ms | processor, ms | rate by processor time | over the first: wall | processor | first turn, s | its processor, s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let median = |times: &[Time], of: fn(&Time) -> Duration| {
        let mut all: Vec<f64> = times.iter().map(|t| of(t).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let medians: Vec<(f64, f64)> = times.iter().map(|t| (median(t, |t| t.wall), median(t, |t| t.cpu))).collect();
    for (contender, (wall, cpu)) in contenders.iter().zip(&medians) {
        println!(
            "| {} | {wall:.2} | {cpu:.2} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            contender.name,
            rate(*cpu),
            wall / medians[0].0,
            cpu / medians[0].1,
            contender.first.wall.as_secs_f64(),
            contender.first.cpu.as_secs_f64(),
        );
    }
    Ok(())
}

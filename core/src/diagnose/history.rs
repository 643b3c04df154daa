//! What the reports of a whole run say in hindsight: skip rates, spikes and plateaus of the loss, fp8 tensors that
//! drift out of their formats, and every warning that [`Health`] would have raised. For logs of runs that have ended,
//! however they did.

use super::finding::{Finding, Severity};
use super::health::{Health, SATURATED, UNDERFLOW};
use crate::precision::Recipe;
use crate::program::{Fp8Slot, Program};
use crate::show;
use crate::telemetry::warning::Warning;
use crate::telemetry::{Fp8Stats, StepReport, TensorReport};

/// Losses before a step that say what was to be expected of it.
const WINDOW: usize = 32;
/// A loss this many typical deviations (the median one) above the median of its window is a spike: about five standard
/// deviations.
const SPIKE: f32 = 8.0;
/// The typical deviation counts as at least this share of the loss, so that a loss that hardly moves has no spikes.
const QUIET: f32 = 0.01;
/// Steps from which a run is long enough to stand still.
const LONG: usize = 200;
/// Standard errors by which the loss must move to have moved.
const MOVED: f64 = 2.0;
/// Share of skipped steps, after the search for the first loss scale, that is too large.
const SKIPPED: f64 = 0.05;
/// A share that has grown by this factor has a trend.
const GROWN: f32 = 2.0;
/// Steps or tensors named in a finding.
const NAMED: usize = 5;

/// The part of a report that is kept.
#[derive(Clone, Debug)]
struct Kept {
    step: u64,
    loss: f32,
    loss_scale: Option<f32>,
    skipped: bool,
    found_inf: bool,
    /// Worst underflow and saturation of the fp8 tensors.
    fp8: Option<[(f32, String); 2]>,
}

/// Collects the reports of a run in their order.
#[derive(Debug)]
pub struct History {
    health: Health,
    slots: Vec<Fp8Slot>,
    kept: Vec<Kept>,
    /// The last report, until the statistics of its tensors have come.
    pending: Option<(StepReport, Vec<Option<Fp8Stats>>)>,
    raised: Vec<Warning>,
}

impl History {
    /// For a run of `program` (its training step) under `recipe`.
    pub fn new(recipe: &Recipe, program: &Program) -> History {
        let slots = program.fp8_slots.clone();
        History { health: Health::new(recipe, program), slots, kept: Vec::new(), pending: None, raised: Vec::new() }
    }

    /// The report of the next step.
    pub fn step(&mut self, report: StepReport) {
        self.observe_pending();
        self.kept.push(Kept {
            step: report.step,
            loss: report.loss,
            loss_scale: report.loss_scale,
            skipped: report.skipped,
            found_inf: report.found_inf,
            fp8: report.fp8.as_ref().map(|f| [f.underflow.clone(), f.saturated.clone()]),
        });
        self.pending = Some((report, vec![None; self.slots.len()]));
    }

    /// The report of a tensor at the last step; only those of the fp8 tensors of the run count.
    pub fn tensor(&mut self, report: &TensorReport) {
        let slot = self.slots.iter().position(|s| s.name == report.name);
        let number = |x: Option<f32>| x.unwrap_or(f32::NAN);
        if let (Some(slot), Some((_, tensors))) = (slot, &mut self.pending) {
            tensors[slot] = Some(Fp8Stats {
                amax: number(report.amax),
                scale: number(report.scale),
                underflow: number(report.underflow),
                saturated: number(report.saturated),
                nonfinite: number(report.nonfinite),
            });
        }
    }

    /// Steps seen.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether no step was seen.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Number of the last step.
    pub fn last_step(&self) -> Option<u64> {
        self.kept.last().map(|k| k.step)
    }

    /// What the run shows, worst first.
    pub fn findings(&mut self) -> Vec<Finding> {
        self.observe_pending();
        let ended_badly = self.kept.last().is_some_and(|k| k.found_inf || !k.loss.is_finite());
        let severity = if ended_badly { Severity::Fatal } else { Severity::Warning };
        let mut findings: Vec<Finding> = self.raised.iter().map(|w| Finding::of_warning(w, severity)).collect();
        findings.extend(self.skips());
        findings.extend(self.spikes());
        findings.extend(self.direction());
        let remedy = "use --recipe fp8-current or mxfp8, a shorter --amax-history, or keep these layers in bf16";
        findings.extend(self.fp8_trend(0, UNDERFLOW, "values that become 0 in fp8", remedy));
        let remedy = "raise --margin, use --recipe fp8-current, or keep these layers in bf16";
        findings.extend(self.fp8_trend(1, SATURATED, "values cut off in fp8", remedy));
        findings.sort_by_key(|f| f.severity);
        findings
    }

    fn observe_pending(&mut self) {
        if let Some((report, tensors)) = self.pending.take() {
            let all: Option<Vec<Fp8Stats>> = tensors.into_iter().collect();
            self.raised.extend(self.health.observe(&report, &all.unwrap_or_default()));
        }
    }

    fn skips(&self) -> Option<Finding> {
        let search = self.kept.iter().take_while(|k| k.skipped).count();
        let later: Vec<&Kept> = self.kept[search..].iter().filter(|k| k.skipped).collect();
        let last = self.kept.iter().rfind(|k| k.skipped)?;
        let share = later.len() as f64 / (self.kept.len() - search).max(1) as f64;
        let mut evidence = vec![format!("{search} of them at the very start, {} later ({:.1}%)", later.len(), 100.0 * share)];
        let scales = [self.kept.first(), self.kept.last()].map(|k| k.and_then(|k| k.loss_scale));
        if let [Some(first), Some(now)] = scales {
            let [first, now] = [first, now].map(show::loss_scale);
            evidence.push(format!("loss_scale {first} at first, {now} at the end"));
        }
        let none_counted = search == self.kept.len();
        let too_many = share > SKIPPED || none_counted;
        Some(Finding {
            severity: if too_many { Severity::Warning } else { Severity::Note },
            step: last.step,
            problem: format!(
                "{} of {} logged steps were skipped, the last one {}",
                search + later.len(),
                self.kept.len(),
                last.step
            ),
            evidence,
            remedy: match (too_many, last.loss_scale) {
                (false, _) => "none needed",
                (true, Some(_)) if none_counted => {
                    "no step counted: lower --init-scale or take more steps, so that the scaler finds its scale; if that is at its floor, see \
                     above"
                }
                (true, Some(_)) => "raise --growth-interval, lower --lr, clip (--grad-clip 1), or use --recipe bf16",
                (true, None) => "lower --lr, warm up longer (--warmup), clip (--grad-clip 1)",
            }
            .into(),
        })
    }

    fn spikes(&self) -> Option<Finding> {
        let finite: Vec<&Kept> = self.kept.iter().filter(|k| k.loss.is_finite()).collect();
        let mut spikes: Vec<(u64, f32, f32)> = Vec::new();
        for (i, k) in finite.iter().enumerate().skip(WINDOW) {
            let window: Vec<f32> = finite[i - WINDOW..i].iter().map(|k| k.loss).collect();
            let middle = median(window.clone());
            let typical = median(window.iter().map(|x| (x - middle).abs()).collect()).max(QUIET * middle.abs());
            if k.loss - middle > SPIKE * typical {
                spikes.push((k.step, k.loss, middle));
            }
        }
        let worst = spikes.iter().max_by(|a, b| (a.1 - a.2).total_cmp(&(b.1 - b.2)))?;
        let line =
            |(step, loss, middle): &(u64, f32, f32)| format!("step {step}: loss {loss:.4} after a median of {middle:.4}");
        Some(Finding {
            severity: Severity::Warning,
            step: worst.0,
            problem: format!("the loss leaps at {} steps, the most at step {}", spikes.len(), worst.0),
            evidence: spikes.iter().take(NAMED).map(line).collect(),
            remedy: "lower --lr, warm up longer (--warmup), clip (--grad-clip 1, --adaptive-clip 90); look at the data of these steps".into(),
        })
    }

    /// Whether the loss of the last third has moved, and where to.
    fn direction(&self) -> Option<Finding> {
        let losses: Vec<f64> = self.kept.iter().map(|k| f64::from(k.loss)).filter(|x| x.is_finite()).collect();
        let step = self.last_step()?;
        if losses.len() < LONG {
            return None;
        }
        let tail = &losses[losses.len() - losses.len() / 3..];
        let (before, after) = tail.split_at(tail.len() / 2);
        let [(a, a_error), (b, b_error)] = [before, after].map(mean_and_error);
        let noise = MOVED * (a_error * a_error + b_error * b_error).sqrt();
        if b < a - noise {
            return None;
        }
        let rising = b > a + noise;
        let what = if rising { "rises" } else { "stands still" };
        let remedy = match rising {
            true => "lower --lr, clip (--grad-clip 1); go back to an earlier checkpoint",
            false => "if it is not as low as it should be: another --lr, a larger model, more data; else the run is done",
        };
        Some(Finding {
            severity: if rising { Severity::Warning } else { Severity::Note },
            step,
            problem: format!("the loss {what} over the last {} steps", tail.len()),
            evidence: vec![format!("mean {a:.4} in their first half, {b:.4} in their second; {noise:.4} is noise")],
            remedy: remedy.into(),
        })
    }

    /// Whether the worst fp8 tensors lose more than they may, or ever more.
    fn fp8_trend(&self, of: usize, limit: f32, what: &str, remedy: &str) -> Option<Finding> {
        let seen: Vec<(u64, &(f32, String))> = self
            .kept
            .iter()
            .filter_map(|k| k.fp8.as_ref().map(|f| (k.step, &f[of])))
            .filter(|(_, w)| w.0.is_finite())
            .collect();
        let quarter = seen.len() / 4;
        if quarter < NAMED {
            return None;
        }
        let mean = |part: &[(u64, &(f32, String))]| part.iter().map(|(_, w)| w.0).sum::<f32>() / part.len() as f32;
        let (first, last) = (mean(&seen[..quarter]), mean(&seen[seen.len() - quarter..]));
        let grown = last > limit / GROWN && last > GROWN * first;
        let (step, worst) = seen.last()?;
        (last > limit || grown).then(|| Finding {
            severity: Severity::Warning,
            step: *step,
            problem: format!("{what}: {:.1}% of the worst tensor in the last quarter of the run", 100.0 * last),
            evidence: vec![format!("{:.1}% in the first quarter; at step {step} the worst is {}", 100.0 * first, worst.1)],
            remedy: remedy.into(),
        })
    }
}

/// The middle value; the list is not empty.
fn median(mut values: Vec<f32>) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::diagnose::testing;
    use crate::precision::recipe::RecipeName;
    use crate::rng::Rng;
    use crate::telemetry::Fp8Report;

    fn history(name: RecipeName, slots: &[&str]) -> History {
        let fp8_slots = slots.iter().map(|n| Fp8Slot { name: n.to_string(), dtype: DType::E4m3 }).collect();
        History::new(&Recipe::new(name), &Program { fp8_slots, ..Program::default() })
    }

    fn report(step: u64, loss: f32) -> StepReport {
        StepReport { loss, ..testing::report(step) }
    }

    /// Findings about a run whose loss is `loss(step)` and noise of 0.1.
    fn of_losses(steps: u64, loss: impl Fn(u64) -> f32) -> Vec<Finding> {
        let mut h = history(RecipeName::Bf16, &[]);
        (1..=steps).for_each(|s| h.step(report(s, loss(s) + 0.1 * Rng::new(4, s as u32).normal())));
        h.findings()
    }

    #[test]
    fn a_falling_loss_is_no_finding() {
        assert_eq!(of_losses(600, |s| 4.0 - 0.004 * s as f32), []);
    }

    #[test]
    fn a_loss_that_stands_still_or_rises_is_told_apart() {
        let still = of_losses(600, |_| 2.0);
        assert_eq!(still.len(), 1, "{still:?}");
        assert!(still[0].severity == Severity::Note && still[0].problem.contains("stands still"), "{still:?}");
        let rising = of_losses(600, |s| 2.0 + 0.002 * s as f32);
        assert!(rising[0].severity == Severity::Warning && rising[0].problem.contains("rises"), "{rising:?}");
        assert_eq!(of_losses(100, |_| 2.0), [], "too short to tell");
    }

    #[test]
    fn a_leap_of_the_loss_is_found_with_its_step() {
        let found = of_losses(150, |s| 4.0 - 0.004 * s as f32 + if s == 90 { 3.0 } else { 0.0 });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].step == 90 && found[0].problem.contains("the loss leaps at 1 steps"), "{found:?}");
    }

    #[test]
    fn skips_after_the_search_for_a_scale_count() {
        let run = |bad: fn(u64) -> bool| {
            let mut h = history(RecipeName::F16, &[]);
            for s in 1..=100 {
                let skipped = bad(s);
                h.step(StepReport {
                    skipped,
                    found_inf: skipped,
                    loss_scale: Some(1024.0),
                    ..report(s, 4.0 - 0.01 * s as f32)
                });
            }
            h.findings().into_iter().find(|f| f.problem.contains("were skipped")).map(|f| f.severity)
        };
        assert_eq!(run(|s| s <= 14), Some(Severity::Note));
        assert_eq!(run(|s| s % 10 == 0), Some(Severity::Warning));
        assert_eq!(run(|_| false), None);
    }

    #[test]
    fn a_run_in_which_no_step_counted_is_not_well() {
        let mut h = history(RecipeName::F16, &[]);
        for s in 1..=6 {
            h.step(StepReport { skipped: true, found_inf: true, loss_scale: Some(1024.0), ..report(s, 4.0) });
        }
        let skips = h.findings().into_iter().find(|f| f.problem.contains("were skipped")).expect("a finding");
        assert_eq!(skips.severity, Severity::Warning);
        assert!(skips.remedy.contains("--init-scale") && !skips.remedy.contains("none needed"), "{}", skips.remedy);
    }

    #[test]
    fn fp8_tensors_that_drift_are_named() {
        let mut h = history(RecipeName::Fp8Delayed, &["a.x"]);
        for s in 1..=80u64 {
            let share = 0.001 * s as f32;
            let fp8 = Fp8Report { underflow: (share, "a.x".into()), saturated: (0.0, "a.x".into()), nonfinite: 0.0 };
            h.step(StepReport { fp8: Some(fp8), ..report(s, 4.0 - 0.01 * s as f32) });
            let dead = Fp8Stats { amax: 0.0, scale: 1.0, underflow: share, saturated: 0.0, nonfinite: 0.0 };
            ["a.x", "unknown"].iter().for_each(|name| h.tensor(&TensorReport::of_fp8(name, DType::E4m3, &dead)));
        }
        let text = format!("{:?}", h.findings());
        assert!(text.contains("7.1% of the worst tensor") && text.contains("a.x"), "{text}");
        assert!(text.contains("dead fp8 history") && !text.contains("unknown"), "{text}");
    }

    #[test]
    fn a_run_that_ends_in_nan_ends_fatally() {
        let mut h = history(RecipeName::Bf16, &[]);
        h.step(report(1, 2.0));
        h.step(StepReport { found_inf: true, ..report(2, f32::NAN) });
        let found = h.findings();
        assert!(found[0].severity == Severity::Fatal && found[0].problem.contains("the weights are lost"), "{found:?}");
    }
}

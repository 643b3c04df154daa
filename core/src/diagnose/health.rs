//! Warnings from what a step reports anyway: cheap enough for every run. Each is raised once.
//!
//! A skipped step is no illness: a scaler that starts high skips until its scale fits. What is: a scale that falls for
//! ever, a run that skips half its steps or stands still, gradients that are zero, fp8 tensors without a signal or that
//! lose much of it, non-finite values nobody catches.

use crate::precision::Recipe;
use crate::precision::scaler::LEAST_SCALE;
use crate::precision::settings::Fp8Scaling;
use crate::program::{Fp8Slot, Program};
use crate::show;
use crate::telemetry::warning::{Warning, WarningKind};
use crate::telemetry::{Fp8Stats, StepReport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// Steps that shares are taken over.
const WINDOW: usize = 50;
/// Skipped steps among them from which a run counts as stuck.
const STUCK: usize = 20;
/// Skipped steps in a row that end below [`DEEP`] and so cannot be a search for the first scale.
const SPIRAL: usize = 8;
/// A loss scale below this scales gradients down: no overflow of the scaling itself explains it.
const DEEP: f32 = 1.0;
/// Steps in a row with a condition until it is believed.
const PATIENCE: u32 = 5;
/// Steps at the start in which fp8 scales are still being found.
const SETTLE: u64 = 3;
/// Share of non-zero values lost to zero, and of values at the largest code, that are too many.
pub(super) const UNDERFLOW: f32 = 0.1;
pub(super) const SATURATED: f32 = 0.01;

/// Watches the reports of a run.
#[derive(Clone, Debug)]
pub struct Health {
    recipe: Recipe,
    slots: Vec<Fp8Slot>,
    seen: HealthState,
}

/// What [`Health`] remembers of the steps so far: a run that goes on is warned as if it had never ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthState {
    raised: BTreeSet<WarningKind>,
    recent_skips: VecDeque<bool>,
    skips_in_a_row: usize,
    zero_in_a_row: u32,
    /// Steps in a row, for each fp8 tensor: dead, underflowing, saturating.
    fp8_in_a_row: Vec<[u32; 3]>,
}

impl Health {
    /// For a run of `program` (its training step) under `recipe`.
    pub fn new(recipe: &Recipe, program: &Program) -> Health {
        Health {
            recipe: recipe.clone(),
            slots: program.fp8_slots.clone(),
            seen: HealthState { fp8_in_a_row: vec![[0; 3]; program.fp8_slots.len()], ..HealthState::default() },
        }
    }

    /// What it remembers.
    pub fn state(&self) -> &HealthState {
        &self.seen
    }

    /// Goes on from what another of the same run remembered.
    pub fn restore(&mut self, state: HealthState) {
        self.seen = state;
        // Whatever a file says, the lists have their lengths.
        let surplus = self.seen.recent_skips.len().saturating_sub(WINDOW);
        self.seen.recent_skips.drain(..surplus);
        self.seen.fp8_in_a_row.resize(self.slots.len(), [0; 3]);
    }

    /// Takes the report of a step, with the statistics of [`crate::train::StepResult`] (empty without fp8), and says
    /// what is new.
    pub fn observe(&mut self, report: &StepReport, fp8: &[Fp8Stats]) -> Vec<Warning> {
        let mut found = Vec::new();
        self.scale(report, &mut found);
        self.values(report, fp8, &mut found);
        self.fp8(report, fp8, &mut found);
        let new = found.into_iter().filter(|(kind, ..)| self.seen.raised.insert(*kind));
        new.map(|(kind, message, remedy)| Warning { kind, step: report.step, message, remedy }).collect()
    }

    fn scale(&mut self, r: &StepReport, found: &mut Vec<(WarningKind, String, String)>) {
        if self.seen.recent_skips.len() == WINDOW {
            self.seen.recent_skips.pop_front();
        }
        self.seen.recent_skips.push_back(r.skipped);
        self.seen.skips_in_a_row = if r.skipped { self.seen.skips_in_a_row.saturating_add(1) } else { 0 };
        let (Some(scale), Some(config), true) = (r.loss_scale, self.recipe.scaler, r.skipped) else { return };
        let remedy = "scaling is not the cause: something is non-finite by itself. Lower --lr, clip (--grad-clip 1), use --recipe bf16, or find \
                      the layer with `mantissa doctor` and keep it in f32";
        if self.seen.skips_in_a_row >= SPIRAL && scale < DEEP {
            let (n, scale) = (self.seen.skips_in_a_row, show::loss_scale(scale));
            let message = format!("loss scale spiral: {n} steps skipped in a row, loss_scale down to {scale}");
            found.push((WarningKind::ScaleSpiral, message, remedy.into()));
        }
        if scale <= (config.min_scale as f32).max(LEAST_SCALE) && self.seen.skips_in_a_row > 1 {
            let scale = show::loss_scale(scale);
            let message = format!("the loss scale is at its floor ({scale}) and steps are still skipped");
            found.push((WarningKind::ScaleAtFloor, message, remedy.into()));
        }
        let skips = self.seen.recent_skips.iter().filter(|s| **s).count();
        // A run of skips that is still going on may be the search for the first scale.
        let broken = self.seen.recent_skips.len() > skips && skips >= STUCK && self.seen.skips_in_a_row < skips;
        if broken {
            let message = format!("{skips} of the last {} steps were skipped", self.seen.recent_skips.len());
            let remedy = format!(
                "the loss scale grows too often (--growth-interval is {}) or the gradients vary too much: lower --lr, raise \
                 --growth-interval, or use --recipe bf16",
                config.growth_interval
            );
            found.push((WarningKind::ManySkips, message, remedy));
        }
    }

    fn values(&mut self, r: &StepReport, fp8: &[Fp8Stats], found: &mut Vec<(WarningKind, String, String)>) {
        if !r.skipped && (r.found_inf || !r.loss.is_finite()) {
            let message = format!(
                "the loss is {} and grad_norm {}, and the step was not skipped: the weights are lost",
                r.loss, r.grad_norm
            );
            let remedy = "start again with a lower --lr, a longer --warmup or --grad-clip 1; `mantissa doctor` names the first instruction that failed";
            found.push((WarningKind::NonFinite, message, remedy.into()));
        }
        if r.skipped && r.loss_scale.is_none() {
            let numbers = format!("the loss is {} and grad_norm {}", r.loss, r.grad_norm);
            let seen = match r.loss.is_finite() && r.grad_norm.is_finite() {
                false => numbers,
                true => format!("{}, though {numbers}", self.nonfinite_operands(fp8)),
            };
            let remedy = "if it comes back, lower --lr or clip (--grad-clip 1); `mantissa doctor` names the first instruction that failed";
            found.push((
                WarningKind::Skipped,
                format!("{seen}; the step was skipped, the weights are as before it"),
                remedy.into(),
            ));
            if self.seen.skips_in_a_row >= PATIENCE as usize {
                let message = format!("{} steps in a row were skipped, the run stands still: {seen}", self.seen.skips_in_a_row);
                let remedy = "from these weights every step gives non-finite numbers: start again, or go back to an earlier checkpoint, with a \
                              lower --lr";
                found.push((WarningKind::Stuck, message, remedy.into()));
            }
        }
        self.seen.zero_in_a_row = if r.grad_norm == 0.0 { self.seen.zero_in_a_row.saturating_add(1) } else { 0 };
        if self.seen.zero_in_a_row >= PATIENCE {
            let message = format!("every gradient has been exactly 0 for {} steps", self.seen.zero_in_a_row);
            let remedy = match r.loss_scale {
                Some(scale) => format!(
                    "they underflow: raise --init-scale (the loss scale is {}) or use --recipe bf16",
                    show::loss_scale(scale)
                ),
                None => "nothing reaches the weights: look for a dead layer or a constant loss".into(),
            };
            found.push((WarningKind::ZeroGradients, message, remedy));
        }
    }

    fn fp8(&mut self, r: &StepReport, stats: &[Fp8Stats], found: &mut Vec<(WarningKind, String, String)>) {
        let nonfinite = self.named(stats, |s| s.nonfinite > 0.0);
        if let Some((names, _)) = nonfinite {
            let became = match r.skipped {
                true => "the step was skipped",
                false => {
                    "the cast to fp8 turns infinities into the largest value of its format and keeps NaN, and the step was applied"
                }
            };
            let message = format!("fp8 tensors held non-finite values: {names}; {became}");
            let mut remedy = "lower --lr, clip (--grad-clip 1), or keep these layers in bf16".to_string();
            if !r.skipped {
                remedy += "; --on-nonfinite skip leaves such steps out";
            }
            found.push((WarningKind::Fp8NonFinite, message, remedy));
        }
        if r.step <= SETTLE {
            return;
        }
        for (counts, s) in self.seen.fp8_in_a_row.iter_mut().zip(stats) {
            let now = [s.amax == 0.0, s.underflow > UNDERFLOW, s.saturated > SATURATED];
            for (count, now) in counts.iter_mut().zip(now) {
                *count = if now { count.saturating_add(1) } else { 0 };
            }
        }
        let worst = |of: usize| {
            let slots = self.seen.fp8_in_a_row.iter().zip(&self.slots).filter(|(c, _)| c[of] >= PATIENCE);
            list(slots.map(|(_, s)| s.name.as_str()))
        };
        if let Some((names, count)) = worst(0) {
            let message = format!("dead fp8 history: amax is 0 in {count} tensors: {names}");
            let remedy = "no signal passes there: look for dead units, a zero weight or a gradient that is cut off".into();
            found.push((WarningKind::DeadFp8, message, remedy));
        }
        if let Some((names, _)) = worst(1) {
            let message = format!("more than {:.0}% of the non-zero values become 0 in fp8: {names}", 100.0 * UNDERFLOW);
            let remedy = self
                .fp8_remedy("a shorter --amax-history or --amax-algo most-recent, so that one old peak does not set the scale");
            found.push((WarningKind::Fp8Underflow, message, remedy));
        }
        if let Some((names, _)) = worst(2) {
            let message = format!("more than {:.0}% of the values saturate in fp8: {names}", 100.0 * SATURATED);
            let remedy = self.fp8_remedy("--margin 1 or more, or a longer --amax-history");
            found.push((WarningKind::Fp8Saturation, message, remedy));
        }
    }

    /// The remedy for fp8 scales that do not fit, by where they come from.
    fn fp8_remedy(&self, delayed: &str) -> String {
        match self.recipe.fp8.map(|f| f.scaling) {
            Some(Fp8Scaling::Delayed { .. }) => {
                format!("take {delayed}, or --recipe fp8-current; or keep these layers in bf16")
            }
            Some(Fp8Scaling::Current { .. }) => {
                "the values span more than fp8 holds: take --recipe mxfp8 or keep these layers in bf16".into()
            }
            Some(Fp8Scaling::Mx { .. }) => "blocks of 32 span more than fp8 holds: keep these layers in bf16".into(),
            None => "keep these layers in bf16".into(),
        }
    }

    /// The fp8 tensors to blame for a step that was skipped though its loss and gradients are finite. Statistics are
    /// those of the last micro-step.
    fn nonfinite_operands(&self, stats: &[Fp8Stats]) -> String {
        match self.named(stats, |s| s.nonfinite > 0.0) {
            Some((names, _)) => format!("fp8 tensors held non-finite values ({names})"),
            None => "fp8 tensors held non-finite values in an earlier micro-step".into(),
        }
    }

    fn named(&self, stats: &[Fp8Stats], bad: impl Fn(&Fp8Stats) -> bool) -> Option<(String, usize)> {
        list(stats.iter().zip(&self.slots).filter(|(s, _)| bad(s)).map(|(_, slot)| slot.name.as_str()))
    }
}

/// The first names, and how many there are; `None` for none.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<(String, usize)> {
    let all: Vec<&str> = names.collect();
    let shown = all.iter().take(3).copied().collect::<Vec<_>>().join(", ");
    match all.len() {
        0 => None,
        n @ 1..=3 => Some((shown, n)),
        n => Some((format!("{shown} and {} more", n - 3), n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::diagnose::testing::report;
    use crate::precision::recipe::RecipeName;

    fn health(name: RecipeName, slots: &[&str]) -> Health {
        let fp8_slots = slots.iter().map(|n| Fp8Slot { name: n.to_string(), dtype: DType::E4m3 }).collect();
        Health::new(&Recipe::new(name), &Program { fp8_slots, ..Program::default() })
    }

    fn skipped(step: u64, scale: f32) -> StepReport {
        StepReport { loss_scale: Some(scale), found_inf: true, skipped: true, grad_norm: f32::INFINITY, ..report(step) }
    }

    fn good(step: u64, scale: f32) -> StepReport {
        StepReport { loss_scale: Some(scale), ..report(step) }
    }

    fn stats(amax: f32, underflow: f32, saturated: f32) -> Fp8Stats {
        Fp8Stats { amax, scale: 1.0, underflow, saturated, nonfinite: 0.0 }
    }

    #[test]
    fn a_search_for_the_first_scale_is_no_illness() {
        let mut h = health(RecipeName::F16, &[]);
        for step in 1..=30 {
            let scale = 2f32.powi(40 - step as i32);
            assert_eq!(h.observe(&skipped(step, scale), &[]), [], "step {step}");
        }
        for step in 31..200 {
            let r = if step == 130 { skipped(step, 2048.0) } else { good(step, 1024.0) };
            assert_eq!(h.observe(&r, &[]), [], "step {step}");
        }
    }

    #[test]
    fn one_that_goes_on_warns_as_if_it_had_never_ended() {
        let story = |step: u64| match step {
            1..30 => (StepReport { grad_norm: 0.0, ..good(step, 1024.0) }, stats(0.0, 0.0, 0.0)),
            _ => (skipped(step, 2f32.powi(8 - step as i32 % 40)), stats(1.0, 0.5, 0.0)),
        };
        let observe = |h: &mut Health, steps: std::ops::Range<u64>| {
            steps.flat_map(|s| h.observe(&story(s).0, &[story(s).1])).collect::<Vec<_>>()
        };
        let mut whole = health(RecipeName::F16, &["w"]);
        let told = observe(&mut whole, 1..80);
        assert!(told.len() > 3, "{told:?}");
        for cut in 2..80 {
            let mut first = health(RecipeName::F16, &["w"]);
            let mut parts = observe(&mut first, 1..cut);
            let state = serde_json::to_string(first.state()).unwrap();
            let mut second = health(RecipeName::F16, &["w"]);
            second.restore(serde_json::from_str(&state).unwrap());
            parts.extend(observe(&mut second, cut..80));
            assert_eq!((&parts, second.state()), (&told, whole.state()), "cut before step {cut}");
        }
        let hostile = HealthState { recent_skips: vec![true; 99].into(), skips_in_a_row: usize::MAX, ..HealthState::default() };
        whole.restore(hostile);
        observe(&mut whole, 30..40);
        assert_eq!(whole.state().recent_skips.len(), WINDOW);
    }

    #[test]
    fn a_spiral_is_raised_once_and_then_the_floor() {
        let mut h = health(RecipeName::F16, &[]);
        let mut raised = Vec::new();
        for step in 1..60 {
            let scale = 2f32.powi(16 - step as i32).max(2f32.powi(-14));
            raised.extend(h.observe(&skipped(step, scale), &[]));
        }
        assert_eq!(raised.iter().map(|w| w.kind).collect::<Vec<_>>(), [WarningKind::ScaleSpiral, WarningKind::ScaleAtFloor]);
        assert!(raised[0].step == 17 && raised[0].message.contains("17 steps"), "{}", raised[0]);
        assert!(raised[0].remedy.contains("bf16"));
    }

    #[test]
    fn skipping_every_other_step_is_many_skips() {
        let mut h = health(RecipeName::F16, &[]);
        let warnings: Vec<Warning> =
            (1..=60).flat_map(|s| h.observe(&if s % 2 == 0 { skipped(s, 1024.0) } else { good(s, 512.0) }, &[])).collect();
        assert_eq!(warnings.iter().map(|w| (w.kind, w.step)).collect::<Vec<_>>(), [(WarningKind::ManySkips, 40)]);
    }

    #[test]
    fn non_finite_values_without_a_scaler_are_raised_at_once() {
        let mut h = health(RecipeName::Bf16, &[]);
        let bad = StepReport { loss: f32::NAN, grad_norm: f32::NAN, found_inf: true, ..report(4) };
        let seen: Vec<WarningKind> = h.observe(&bad, &[]).iter().map(|w| w.kind).collect();
        assert_eq!(seen, [WarningKind::NonFinite]);
        assert_eq!(h.observe(&StepReport { step: 5, ..bad }, &[]), []);
    }

    #[test]
    fn skips_without_a_loss_scale_are_told_from_a_standstill() {
        let mut h = health(RecipeName::Bf16, &[]);
        let bad = |step| StepReport { loss: f32::NAN, found_inf: true, skipped: true, ..report(step) };
        let spike: Vec<Warning> = [bad(1), report(2), bad(3)].iter().flat_map(|r| h.observe(r, &[])).collect();
        assert_eq!(spike.iter().map(|w| (w.kind, w.step)).collect::<Vec<_>>(), [(WarningKind::Skipped, 1)]);
        let stuck: Vec<Warning> = (4..20).flat_map(|s| h.observe(&bad(s), &[])).collect();
        assert_eq!(stuck.iter().map(|w| (w.kind, w.step)).collect::<Vec<_>>(), [(WarningKind::Stuck, 7)]);
    }

    #[test]
    fn zero_gradients_ask_for_a_higher_scale() {
        let mut h = health(RecipeName::F16, &[]);
        let zero = |s| StepReport { grad_norm: 0.0, ..good(s, 1.0) };
        let w: Vec<Warning> = (1..=9).flat_map(|s| h.observe(&zero(s), &[])).collect();
        assert_eq!((w.len(), w[0].kind, w[0].step), (1, WarningKind::ZeroGradients, 5));
        assert!(w[0].remedy.contains("--init-scale"));
    }

    #[test]
    fn fp8_tensors_are_named_once_the_condition_lasts() {
        let mut h = health(RecipeName::Fp8Delayed, &["a.x", "a.dy", "b.x"]);
        let bad = [stats(0.0, 0.0, 0.0), stats(1.0, 0.5, 0.0), stats(1.0, 0.0, 0.2)];
        let fine = [stats(1.0, 0.01, 0.001); 3];
        let mut seen = Vec::new();
        for step in 1..=6 {
            seen.extend(h.observe(&report(step), &bad));
        }
        seen.extend(h.observe(&report(7), &fine));
        assert_eq!(seen, [], "three steps to settle, then five in a row");
        for step in 8..=20 {
            seen.extend(h.observe(&report(step), &bad));
        }
        let kinds: Vec<WarningKind> = seen.iter().map(|w| w.kind).collect();
        assert_eq!(kinds, [WarningKind::DeadFp8, WarningKind::Fp8Underflow, WarningKind::Fp8Saturation]);
        assert!(seen[0].message.contains("a.x") && seen[1].message.contains("a.dy") && seen[2].message.contains("b.x"));
        assert!(seen[2].remedy.contains("--margin"), "{}", seen[2].remedy);
        assert!(seen.iter().all(|w| w.step == 12));
    }

    #[test]
    fn non_finite_fp8_tensors_are_raised_at_once() {
        let mut h = health(RecipeName::Fp8Current, &["a.x"]);
        let w = h.observe(&report(1), &[Fp8Stats { nonfinite: 3.0, ..stats(1.0, 0.0, 0.0) }]);
        assert_eq!(w[0].kind, WarningKind::Fp8NonFinite);
        assert!(w[0].message.contains("the step was applied") && w[0].remedy.contains("--on-nonfinite skip"), "{}", w[0]);
    }

    #[test]
    fn a_step_skipped_for_an_fp8_operand_names_it() {
        let bad = [Fp8Stats { nonfinite: 3.0, ..stats(1.0, 0.0, 0.0) }];
        let skip = |stats: &[Fp8Stats]| -> Vec<Warning> {
            health(RecipeName::Fp8Current, &["a.x"]).observe(&StepReport { found_inf: true, skipped: true, ..report(1) }, stats)
        };
        let w = skip(&bad);
        assert_eq!(w.iter().map(|w| w.kind).collect::<Vec<_>>(), [WarningKind::Skipped, WarningKind::Fp8NonFinite]);
        assert!(w[0].message.starts_with("fp8 tensors held non-finite values (a.x), though the loss is"), "{}", w[0]);
        assert!(w[1].message.ends_with("a.x; the step was skipped") && !w[1].remedy.contains("--on-nonfinite"), "{}", w[1]);
        // Statistics are those of the last micro-step.
        assert!(skip(&[stats(1.0, 0.0, 0.0)])[0].message.contains("in an earlier micro-step"));
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        assert_eq!(list(["a", "b", "c", "d", "e"].into_iter()), Some(("a, b, c and 2 more".into(), 5)));
        assert_eq!(list(std::iter::empty()), None);
    }
}

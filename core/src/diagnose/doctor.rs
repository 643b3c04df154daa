//! From what was seen to what to do: runs observed steps and turns failures and losses into findings with remedies.

use super::examine::{Conversion, Examiner, NarrowGradient, NonFinite};
use super::finding::{Finding, Severity};
use super::health::Health;
use crate::data::Batch;
use crate::dtype::DType;
use crate::error::Result;
use crate::precision::Recipe;
use crate::precision::overrides::ROOT;
use crate::telemetry::StepReport;
use crate::telemetry::warning::Warning;
use crate::train::phase::Phase;
use crate::train::{Session, StepResult};

/// Share of a narrow gradient below the normal range that costs precision. The gradient of a key bias is 0 but for
/// rounding, a third of a packed projection, so less than half is no sign.
const SUBNORMAL: f64 = 0.5;
/// Shares lost by one conversion that are worth a finding.
const UNDERFLOW: f64 = 0.1;
const SATURATED: f64 = 0.01;
/// A finite input this large points at weights that have run away, whatever the format.
const HUGE: f32 = 1e15;
/// Steps at the start whose conversions are not judged: delayed fp8 scales have no history yet.
const SETTLE: u64 = 3;

/// Watches a run step by step.
#[derive(Debug)]
pub struct Doctor {
    recipe: Recipe,
    health: Health,
    /// The first non-finite value of the first step that had one, until it is known whether the run recovers.
    failure: Option<(u64, NonFinite, bool)>,
    recovered_at: Option<u64>,
    warnings: Vec<Warning>,
    conversions: (u64, Vec<Conversion>),
    gradients: (u64, Vec<NarrowGradient>),
    last_step: u64,
    stopped: bool,
}

impl Doctor {
    /// A doctor for the run of `session`.
    pub fn new(session: &Session) -> Doctor {
        let recipe = session.config().recipe.clone();
        Doctor {
            health: Health::new(&recipe, session.program()),
            recipe,
            failure: None,
            recovered_at: None,
            warnings: Vec::new(),
            conversions: (0, Vec::new()),
            gradients: (0, Vec::new()),
            last_step: 0,
            stopped: false,
        }
    }

    /// Runs one observed step. `false` says that further steps would show nothing new: weights are lost. Fails as
    /// [`Session::step_observed`] does.
    pub fn step(&mut self, session: &mut Session, batch: Batch<'_>) -> Result<(StepReport, bool)> {
        self.examine(session, |session, examiner| session.step_observed(batch, examiner))
    }

    /// Looks into the last step of `session`, which was skipped, by running it once more. Fails as
    /// [`Session::repeat_observed`] does.
    pub fn repeat(&mut self, session: &mut Session, batch: Batch<'_>) -> Result<(StepReport, bool)> {
        self.examine(session, |session, examiner| session.repeat_observed(batch, examiner))
    }

    fn examine(
        &mut self,
        session: &mut Session,
        run: impl FnOnce(&mut Session, &mut Examiner) -> Result<StepResult>,
    ) -> Result<(StepReport, bool)> {
        let mut examiner = Examiner::new(session.program());
        let StepResult { report, fp8, .. } = run(session, &mut examiner)?;
        self.last_step = report.step;
        self.warnings.extend(self.health.observe(&report, &fp8));
        let Examiner { first, conversions, gradients, .. } = examiner;
        match first {
            Some(first) => {
                if self.failure.is_none() {
                    self.failure = Some((report.step, first, report.skipped));
                }
                self.stopped |= !report.skipped;
            }
            None => {
                self.recovered_at = self.recovered_at.or(self.failure.is_some().then_some(report.step));
                self.conversions = (report.step, conversions);
                self.gradients = (report.step, gradients);
            }
        }
        Ok((report, !self.stopped))
    }

    /// What was found so far, worst first.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some((step, first, skipped)) = &self.failure {
            findings.push(self.failure(*step, first, *skipped));
        }
        let lost = self.stopped || self.recovered_at.is_none() && self.failure.is_some();
        let severity = if lost { Severity::Fatal } else { Severity::Warning };
        findings.extend(self.warnings.iter().map(|w| Finding::of_warning(w, severity)));
        findings.extend(self.lost_in_conversions());
        findings.extend(self.weak_gradients());
        findings.sort_by_key(|f| f.severity);
        findings
    }

    fn failure(&self, step: u64, first: &NonFinite, skipped: bool) -> Finding {
        let kind = if first.output.nans > 0 { "NaN" } else { "infinite value" };
        let scope = match first.scope.as_str() {
            ROOT => "the step itself, outside the model",
            scope => scope,
        };
        let mut evidence = vec![
            format!("instruction {} ({}, micro-step {}): {}", first.instr, first.phase.name(), first.micro, first.op),
            format!("{}: {}", recorded_in(&first.source), first.source),
        ];
        evidence.extend(first.why.iter().map(|w| format!("because: {w}")));
        evidence.extend(first.inputs.iter().map(|r| {
            let bad = if r.nans + r.infs > 0 { format!(", {} NaN, {} inf", r.nans, r.infs) } else { String::new() };
            format!("reads  {}: magnitudes {:.3e} to {:.3e}{bad}", r.value, r.min_nonzero, r.amax)
        }));
        let o = &first.output;
        evidence.push(format!("writes {}: {} NaN, {} inf of {}; finite up to {:.3e}", o.value, o.nans, o.infs, o.len, o.amax));
        let (severity, ending) = match (skipped, self.recovered_at) {
            (true, Some(at)) => (Severity::Note, format!("; the step was skipped, step {at} was finite again")),
            (true, None) if step == self.last_step => (Severity::Fatal, "; the step was skipped".to_string()),
            (true, None) => (Severity::Fatal, "; the step was skipped, and no step after it was finite".to_string()),
            (false, _) => (Severity::Fatal, String::new()),
        };
        let problem = format!("step {step}: the first {kind} comes out of {scope}{ending}");
        Finding { severity, step, problem, evidence, remedy: self.failure_remedy(first, skipped) }
    }

    fn failure_remedy(&self, first: &NonFinite, skipped: bool) -> String {
        let island = |text: &str| match first.scope.as_str() {
            // The root has no name that an override could take.
            ROOT => text.to_string(),
            scope => format!("{text}; or keep it in f32 (--override {scope}=f32)"),
        };
        if !first.is_origin() && first.inputs.iter().any(|r| r.kind == "input") {
            return "the data is not finite: check the input files".into();
        }
        if !first.is_origin() {
            return "the weights were not finite when the step began: an earlier step broke them. Lower --lr, clip (--grad-clip 1)".into();
        }
        if first.input_amax() > HUGE {
            return "the values had run away before: lower --lr, warm up longer (--warmup), clip (--grad-clip 1)".into();
        }
        match (first.output.dtype, first.phase) {
            (DType::F16, Phase::Backward) if skipped && self.recovered_at.is_some() => {
                "none needed: the scaler found its scale. A lower --init-scale saves the skipped steps".into()
            }
            (DType::F16, Phase::Backward) => {
                island("scaled gradients leave the range of f16 at every scale: use --recipe bf16, lower --lr, clip")
            }
            (DType::F16, Phase::Forward) => {
                island("activations leave the range of f16, which no loss scale mends: use --recipe bf16, lower --lr")
            }
            (_, Phase::Update) => "the update itself overflows: lower --lr, clip (--grad-clip 1)".into(),
            (DType::E4m3 | DType::E5m2, _) => island("lower --lr, clip, or use --recipe bf16"),
            (_, Phase::Forward | Phase::Backward) => {
                "its inputs are finite: the operation itself overflows, divides by 0 or takes a logarithm of 0 there. Bound its input, lower --lr, clip".into()
            }
        }
    }

    fn lost_in_conversions(&self) -> Vec<Finding> {
        let (step, conversions) = &self.conversions;
        if *step <= SETTLE && self.recipe.fp8.is_some() {
            return Vec::new();
        }
        let lossy = |of: fn(&Conversion) -> f64, limit: f64| {
            let mut list: Vec<&Conversion> = conversions.iter().filter(|c| of(c) > limit).collect();
            list.sort_by(|a, b| of(b).total_cmp(&of(a)));
            list
        };
        let finding = |list: Vec<&Conversion>, of: fn(&Conversion) -> f64, what: &str, remedy: &str| -> Option<Finding> {
            let worst = list.first()?;
            let line = |c: &&Conversion| {
                let [from, to] = c.dtypes;
                format!("{:.1}% in {} ({}, {}): {from} -> {to}", 100.0 * of(c), c.scope, c.phase.name(), c.op)
            };
            Some(Finding {
                severity: Severity::Warning,
                step: *step,
                problem: format!("{} conversions {what}, up to {:.1}% in {}", list.len(), 100.0 * of(worst), worst.scope),
                evidence: list.iter().take(5).map(line).collect(),
                remedy: remedy.into(),
            })
        };
        let underflow = |c: &Conversion| c.difference.underflow_share();
        let saturated = |c: &Conversion| c.difference.saturated_share();
        let scaler = self.recipe.scaler.is_some();
        let low = if scaler {
            "raise --init-scale (more headroom for small gradients), or use --recipe bf16"
        } else {
            "use --recipe fp8-current or mxfp8, a shorter --amax-history, or keep these layers in bf16"
        };
        let high = "raise --margin, use --recipe fp8-current, or keep these layers in bf16";
        let mut findings: Vec<Finding> = Vec::new();
        findings.extend(finding(lossy(underflow, UNDERFLOW), underflow, "turn small values into 0", low));
        findings.extend(finding(lossy(saturated, SATURATED), saturated, "cut large values off", high));
        findings
    }

    fn weak_gradients(&self) -> Option<Finding> {
        let (step, gradients) = &self.gradients;
        let mut weak: Vec<&NarrowGradient> = gradients.iter().filter(|g| g.subnormal > SUBNORMAL || g.zero == 1.0).collect();
        weak.sort_by(|a, b| b.subnormal.total_cmp(&a.subnormal));
        let worst = weak.first()?;
        let line = |g: &&NarrowGradient| {
            let share = 100.0 * g.subnormal;
            format!("{share:.1}% subnormal, {:.1}% zero, amax {:.3e} in {}: {}", 100.0 * g.zero, g.amax, g.scope, g.op)
        };
        Some(Finding {
            severity: Severity::Warning,
            step: *step,
            problem: format!("{} f16 gradients lie below the normal range, the worst in {}", weak.len(), worst.scope),
            evidence: weak.iter().take(5).map(line).collect(),
            remedy: "raise --init-scale (and lower --growth-interval, so that the scale can follow), or use --recipe bf16"
                .into(),
        })
    }
}

/// Whose line `source` is: models and training steps of this library are no code of its user.
fn recorded_in(source: &str) -> &'static str {
    let own = file!().strip_suffix("diagnose/doctor.rs").unwrap_or_default();
    if !own.is_empty() && source.starts_with(own) { "recorded by Mantissa in" } else { "model code" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{session, tiny, tokens};
    use crate::precision::recipe::RecipeName;
    use crate::train::TrainConfig;

    fn diagnose(config: TrainConfig, steps: usize) -> Vec<Finding> {
        let (x, t) = tokens(&config);
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) };
        let mut session = session(config);
        let mut doctor = Doctor::new(&session);
        for _ in 0..steps {
            if !doctor.step(&mut session, batch).unwrap().1 {
                break;
            }
        }
        doctor.findings()
    }

    #[test]
    fn healthy_runs_have_no_findings() {
        for name in RecipeName::ALL {
            let findings = diagnose(tiny(name), 12);
            assert_eq!(findings, [], "{name}");
        }
    }

    #[test]
    fn a_scale_that_starts_too_high_is_only_a_note() {
        let mut config = tiny(RecipeName::F16);
        config.recipe = config.recipe.init_scale(2f64.powi(30));
        let findings = diagnose(config, 30);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].severity, Severity::Note);
        assert!(findings[0].problem.contains("was finite again"), "{}", findings[0].problem);
        assert!(findings[0].remedy.contains("none needed"), "{}", findings[0].remedy);
        assert!(findings[0].evidence.iter().any(|e| e.starts_with("recorded by Mantissa in: ") && e.contains(".rs:")));
    }

    #[test]
    fn a_scale_that_is_too_low_shows_weak_gradients() {
        let mut config = tiny(RecipeName::F16);
        config.recipe = config.recipe.init_scale(2f64.powi(-12));
        let findings = diagnose(config, 6);
        assert!(
            findings.iter().any(|f| f.problem.contains("below the normal range") && f.remedy.contains("--init-scale")),
            "{findings:?}"
        );
    }

    #[test]
    fn a_learning_rate_that_breaks_the_weights_is_named() {
        let mut config = tiny(RecipeName::F32);
        config.clip = None;
        config.optim = crate::optim::OptimConfig::sgd(0.9);
        config.schedule.lr = 1e30;
        config.schedule.min_lr = 1e30;
        let findings = diagnose(config, 10);
        assert_eq!(findings[0].severity, Severity::Fatal);
        assert!(findings[0].remedy.contains("--lr"), "{:?}", findings[0]);
        assert!(findings[0].evidence.iter().any(|e| e.starts_with("reads")));
    }

    #[test]
    fn weights_outside_f16_are_found_in_the_forward_pass() {
        let config = tiny(RecipeName::F16);
        let (x, t) = tokens(&config);
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) };
        let mut session = session(config);
        let large = |n: usize| -> Vec<f32> { (0..n).map(|i| if (i * 7) % 13 < 6 { 1e4 } else { -1e4 }).collect() };
        let n = session.read_f32("gpt.h1.mlp.up.weight").unwrap().len();
        session.memory().write("gpt.h1.mlp.up.weight", bytemuck::cast_slice(&large(n))).unwrap();
        let bias = vec![6e4f32; 64];
        session.memory().write("gpt.h1.mlp.up.bias", bytemuck::cast_slice(&bias)).unwrap();
        let mut doctor = Doctor::new(&session);
        for _ in 0..3 {
            doctor.step(&mut session, batch).unwrap();
        }
        let findings = doctor.findings();
        assert_eq!(findings[0].severity, Severity::Fatal);
        assert!(findings[0].problem.contains("gpt.h1.mlp"), "{findings:?}");
        assert!(findings[0].remedy.contains("no loss scale mends"), "{findings:?}");
    }
}

//! One step under the glass: where the first non-finite value came from, what conversions lost, which gradients sit
//! below the normal range.
//!
//! Every value is measured as it is written, so that the ranges of an instruction's inputs are known even where it
//! overwrites them.

use super::conversion;
use super::stats::{Difference, Stats};
use crate::dtype::DType;
use crate::precision::overrides::ROOT;
use crate::program::observe::{Moment, Observer};
use crate::program::{Kind, Program, Role, ValueId};
use crate::train::phase::{self, Phase};

/// Range of one operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// Name and type, such as `%7 gpt.h0.mlp.up.weight f32[512, 128]`.
    pub value: String,
    /// What kind of value it is.
    pub kind: &'static str,
    /// Element type.
    pub dtype: DType,
    /// Largest finite magnitude.
    pub amax: f32,
    /// Smallest non-zero magnitude.
    pub min_nonzero: f32,
    /// NaNs.
    pub nans: u64,
    /// Infinities.
    pub infs: u64,
    /// Elements.
    pub len: u64,
}

/// The first instruction of a step that wrote something non-finite.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// Index in the Program.
    pub instr: usize,
    /// Micro-step.
    pub micro: usize,
    /// Part of the step.
    pub phase: Phase,
    /// Scope.
    pub scope: String,
    /// Operation.
    pub op: String,
    /// Why precision policy put it there or typed it.
    pub why: Option<String>,
    /// Source line of the model code.
    pub source: String,
    /// What it read.
    pub inputs: Vec<Range>,
    /// What it wrote.
    pub output: Range,
}

impl NonFinite {
    /// Whether everything it read was finite: it made the value, it did not pass one on.
    pub fn is_origin(&self) -> bool {
        self.inputs.iter().all(|r| r.nans + r.infs == 0)
    }

    /// Largest finite magnitude among the inputs.
    pub fn input_amax(&self) -> f32 {
        self.inputs.iter().map(|r| r.amax).fold(0.0, f32::max)
    }
}

/// A gradient stored in a narrow format.
#[derive(Clone, Debug, PartialEq)]
pub struct NarrowGradient {
    /// Scope.
    pub scope: String,
    /// Operation.
    pub op: String,
    /// Element type.
    pub dtype: DType,
    /// Share of the non-zero elements below the smallest normal value.
    pub subnormal: f64,
    /// Share of zeros.
    pub zero: f64,
    /// Largest magnitude.
    pub amax: f32,
}

/// A conversion and what it lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversion {
    /// Scope.
    pub scope: String,
    /// Part of the step.
    pub phase: Phase,
    /// Operation.
    pub op: String,
    /// From and to.
    pub dtypes: [DType; 2],
    /// Copy against original.
    pub difference: Difference,
}

/// Observes one step. Use a fresh one for each.
#[derive(Debug)]
pub struct Examiner {
    phases: Vec<Phase>,
    ranges: Vec<Option<Range>>,
    /// The first non-finite value, if there was one.
    pub first: Option<NonFinite>,
    /// Conversions of the first micro-step, in order.
    pub conversions: Vec<Conversion>,
    /// f16 gradients of the first micro-step, in order.
    pub gradients: Vec<NarrowGradient>,
}

impl Examiner {
    /// An examiner for one step of `program`.
    pub fn new(program: &Program) -> Examiner {
        Examiner {
            phases: phase::phases(program),
            ranges: vec![None; program.values.len()],
            first: None,
            conversions: Vec::new(),
            gradients: Vec::new(),
        }
    }

    fn measure(&mut self, now: &Moment<'_>, id: ValueId) -> Option<Stats> {
        if !judged(now.program, id) {
            return None;
        }
        let instr = now.instr();
        let rounded = instr.op.rounded_dtype().filter(|_| instr.outputs.first() == Some(&id));
        let view = now.view(id)?;
        let stats = Stats::of_values(view, rounded.unwrap_or(view.dtype));
        self.ranges[id.index()] = Some(range(now.program, id, &stats));
        Some(stats)
    }

    fn found(&self, now: &Moment<'_>, culprit: ValueId, inputs: Vec<Range>) -> Option<NonFinite> {
        let instr = now.instr();
        Some(NonFinite {
            instr: now.index,
            micro: now.micro,
            phase: self.phases[now.index],
            scope: scope(now),
            op: now.program.op_text(instr),
            why: instr.why.as_ref().map(ToString::to_string),
            source: format!("{}:{}", instr.source.file(), instr.source.line()),
            inputs,
            output: self.ranges[culprit.index()].clone()?,
        })
    }
}

impl Observer for Examiner {
    fn before(&mut self, now: &Moment<'_>) {
        for k in 0..now.instr().inputs.len() {
            let id = now.instr().inputs[k];
            let known = self.ranges[id.index()].is_some() && !is_micro_input(now.program, id);
            if known || self.first.is_some() {
                continue;
            }
            let bad = self.measure(now, id).is_some_and(|s| s.nonfinite() > 0);
            // Written by no instruction of this step: the step was given it.
            if bad {
                self.first = self.found(now, id, self.ranges[id.index()].iter().cloned().collect());
            }
        }
    }

    fn after(&mut self, now: &Moment<'_>) {
        let instr = now.instr();
        let inputs: Vec<Range> = match self.first {
            None => instr.inputs.iter().filter_map(|i| self.ranges[i.index()].clone()).collect(),
            Some(_) => Vec::new(),
        };
        for &id in &instr.outputs {
            let Some(stats) = self.measure(now, id) else { continue };
            if stats.nonfinite() > 0 && self.first.is_none() {
                self.first = self.found(now, id, inputs.clone());
            }
            let dtype = instr.op.rounded_dtype().unwrap_or(now.program.ty(id).dtype);
            let is_view = matches!(instr.op, crate::op::Op::Reshape(_));
            if dtype == DType::F16 && self.phases[now.index] == Phase::Backward && now.micro == 0 && !is_view {
                self.gradients.push(NarrowGradient {
                    scope: scope(now),
                    op: phase::short(instr),
                    dtype,
                    subnormal: stats.subnormal_share(),
                    zero: stats.zero_share(),
                    amax: stats.amax,
                });
            }
        }
        if now.micro == 0
            && let Some(difference) = conversion::error(now)
        {
            self.conversions.push(Conversion {
                scope: scope(now),
                phase: self.phases[now.index],
                op: phase::short(instr),
                dtypes: [instr.inputs[0], instr.outputs[0]].map(|id| now.program.ty(id).dtype),
                difference,
            });
        }
    }
}

/// Scope of the instruction; the root has a name here.
fn scope(now: &Moment<'_>) -> String {
    match now.program.scope(now.instr().scope) {
        "" => ROOT.into(),
        scope => scope.into(),
    }
}

/// Whether a non-finite element of this value is a failure. Telemetry repeats what happened; precision states have
/// rules of their own.
fn judged(program: &Program, id: ValueId) -> bool {
    let value = program.value(id);
    let kept = match value.kind {
        Kind::State(Role::Telemetry | Role::Precision, _) => false,
        Kind::State(Role::Optimizer | Role::Accumulator, _) | Kind::Param(_) | Kind::Input(_) | Kind::Temp | Kind::Output => {
            true
        }
    };
    kept && value.ty.dtype.is_float()
}

fn is_micro_input(program: &Program, id: ValueId) -> bool {
    matches!(program.value(id).kind, Kind::Input(_))
}

fn range(program: &Program, id: ValueId, stats: &Stats) -> Range {
    let value = program.value(id);
    let name = if value.name.is_empty() { String::new() } else { format!(" {}", value.name) };
    let kind = match value.kind {
        Kind::Param(_) => "weight",
        Kind::State(..) => "state",
        Kind::Input(_) => "input",
        Kind::Temp | Kind::Output => "value",
    };
    Range {
        value: format!("%{}{name} {}", id.0, value.ty),
        kind,
        dtype: value.ty.dtype,
        amax: stats.amax,
        min_nonzero: stats.min_nonzero,
        nans: stats.nans,
        infs: stats.infs,
        len: stats.len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::cpu::CpuBackend;
    use crate::data::Batch;
    use crate::diagnose::testing::{session, tiny, tokens};
    use crate::precision::recipe::RecipeName;
    use crate::program::Rate;
    use crate::program::memory::Layout;
    use crate::shape::Ty;
    use crate::trace::Graph;
    use crate::train::Session;
    use std::sync::Arc;

    /// exp in one scope, a sum over it in another; the passes are off, so that every instruction is there.
    fn run(x: &[f32]) -> (Examiner, Arc<Program>) {
        let g = Graph::new("test", true);
        let input = g.input("x", Ty::new(DType::F32, [x.len()]), Rate::MicroStep);
        let y = {
            let _scope = g.scope("net.hot");
            (input * 2.0).exp()
        };
        let z = {
            let _scope = g.scope("net.cold");
            y + 1.0
        };
        g.output("z", z);
        let program = Arc::new(g.finish_raw().unwrap());
        let backend = CpuBackend::new();
        let memory = backend.alloc(Arc::new(Layout::new(&program))).unwrap();
        let mut executable = backend.compile(program.clone(), &memory).unwrap();
        let mut examiner = Examiner::new(&program);
        let id = program.find("x").unwrap();
        executable.submit_observed(&[(id, bytemuck::cast_slice(x))], &mut examiner).unwrap();
        (examiner, program)
    }

    #[test]
    fn the_instruction_that_overflows_is_named_with_its_inputs() {
        let (examiner, program) = run(&[1.0, -3.0, 60.0, 0.5]);
        let first = examiner.first.expect("exp(120) is no f32");
        assert_eq!(first.scope, "net.hot");
        assert!(first.op.contains("exp"), "{}", first.op);
        assert!(first.source.contains("examine.rs:"), "{}", first.source);
        assert!(first.is_origin());
        assert_eq!((first.output.infs, first.output.nans), (1, 0));
        assert_eq!(first.input_amax(), 120.0);
        assert_eq!(first.inputs[0].min_nonzero, 1.0);
        assert_eq!(program.scope(program.instrs[first.instr].scope), "net.hot");
    }

    #[test]
    fn a_value_the_step_was_given_is_blamed_on_nobody_else() {
        let (examiner, _) = run(&[1.0, f32::NAN]);
        let first = examiner.first.unwrap();
        assert!(!first.is_origin());
        assert_eq!((first.output.kind, first.output.nans), ("input", 1));
    }

    #[test]
    fn a_finite_step_has_no_first() {
        assert_eq!(run(&[1.0, 2.0]).0.first, None);
    }

    #[test]
    fn an_overflow_of_scaled_gradients_is_found_in_the_backward_pass() {
        let mut config = tiny(RecipeName::F16);
        config.recipe = config.recipe.init_scale(2f64.powi(40));
        let (x, t) = tokens(&config);
        let mut session = session(config);
        let mut examiner = Examiner::new(session.program());
        let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) };
        let report = session.step_observed(batch, &mut examiner).unwrap().report;
        assert!(report.skipped);
        let first = examiner.first.unwrap();
        assert_eq!((first.phase, first.output.dtype), (Phase::Backward, DType::F16));
        assert!(!examiner.gradients.is_empty());
    }

    #[test]
    fn instructions_carry_the_line_of_the_model_code() {
        for name in RecipeName::ALL {
            let program = session(tiny(name)).program().clone();
            for instr in program.instrs.iter().filter(|i| program.scope(i.scope).starts_with("gpt")) {
                let file = instr.source.file();
                assert!(
                    file.ends_with("gpt.rs") || file.ends_with("nn/mod.rs"),
                    "{name}: {file}: {}",
                    program.instr_text(instr)
                );
            }
        }
    }

    #[test]
    fn observing_changes_no_bit() {
        for name in RecipeName::ALL {
            let config = tiny(name);
            let (x, t) = tokens(&config);
            let batch = Batch { x: bytemuck::cast_slice(&x), targets: bytemuck::cast_slice(&t) };
            let mut b = Session::new(Arc::new(CpuBackend::new()), config.clone()).unwrap();
            let mut a = session(config);
            for _ in 0..3 {
                let mut examiner = Examiner::new(a.program());
                assert_eq!(a.step_observed(batch, &mut examiner).unwrap().report, b.step(batch).unwrap(), "{name}");
                assert_eq!(examiner.first, None, "{name}");
            }
        }
    }
}

//! Who decides the precision of an operation.
//!
//! Recording asks the [`Policy`] of the region around, which answers with ordinary instructions: casts, quantizations.
//! The traits stand here and `precision` implements them. So recording knows no recipe, and a policy of one's own is
//! possible.

use super::{Graph, Owed, Var};
use crate::dtype::DType;
use crate::error::Result;
use crate::op::matmul::MatMul;
use crate::op::{CastClass, Op};
use crate::program::{Fp8LeftOut, Fp8Slot, ValueId};
use std::fmt::Debug;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

/// An operation ready for recording: its dtype attributes set, its inputs cast, and the reason if a policy decided.
pub type Prepared = (Op, Vec<ValueId>, Option<Arc<str>>);

/// Decides the precision of what is recorded in a region. By default operands are taken as they are.
pub trait Policy: Debug {
    /// Makes ready an operation whose class is not `Keep`.
    fn prepare(&self, _g: &Graph, op: Op, inputs: &[Var<'_>]) -> Prepared {
        (op, inputs.iter().map(|v| v.id).collect(), None)
    }

    /// Storage dtype of the elementwise function `name` of class `class`, whose operands promote to `promoted`, and the
    /// reason if the policy decided.
    fn elementwise(&self, _g: &Graph, _class: CastClass, _name: &str, promoted: DType) -> (DType, Option<Arc<str>>) {
        (promoted, None)
    }

    /// Records `x W^T + b` with `x` [.., in], `weight` [out, in], `bias` `[out]`.
    fn linear<'g>(&self, x: Var<'g>, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
        x.g.leave_out_of_fp8(None);
        x.g.plain_linear(x, weight, bias)
    }

    /// Whether linear layers are to multiply in fp8.
    fn asks_for_fp8(&self) -> bool {
        false
    }

    /// This policy with fp8 linear layers off.
    fn without_fp8(&self) -> Rc<dyn Policy>;
}

/// Decides the policy of single scopes, inside regions only. Rules have numbers.
pub trait ScopePolicies: Debug {
    /// The rule that decides for `scope`, if any.
    fn rule(&self, scope: &str) -> Option<usize>;

    /// What a rule puts in the place of the policy of the region.
    fn policy(&self, rule: usize) -> Rc<dyn Policy>;

    /// The reason that instructions decided by a rule carry.
    fn reason(&self, rule: usize) -> Arc<str>;

    /// Refuses rules that none of `scopes`, those of the whole recording, has met.
    fn check(&self, scopes: &[String]) -> Result<()>;
}

/// The policy outside all regions: operations as they are recorded.
#[derive(Debug)]
pub(super) struct AsRecorded;

impl Policy for AsRecorded {
    fn without_fp8(&self) -> Rc<dyn Policy> {
        Rc::new(AsRecorded)
    }
}

impl Graph {
    /// Lets `overrides` decide inside the autocast regions that follow. Each must cover a scope by the end of the
    /// recording.
    pub fn set_overrides(&self, overrides: impl ScopePolicies + 'static) {
        let mut inner = self.inner.borrow_mut();
        inner.rules = inner.program.scopes.iter().map(|s| overrides.rule(s)).collect();
        inner.overrides = Some(Box::new(overrides));
    }

    /// Runs `f` inside an autocast region, such as [`crate::precision::Region`]; the previous region is back
    /// afterwards.
    pub fn autocast<R>(&self, policy: impl Policy + 'static, f: impl FnOnce() -> R) -> R {
        self.in_region(Rc::new(policy), f)
    }

    /// Runs `f` in the region around with fp8 linear layers off. Models keep their heads out of fp8 so: its errors
    /// would reach the loss without being averaged.
    pub fn without_fp8<R>(&self, f: impl FnOnce() -> R) -> R {
        self.in_region(self.policy().without_fp8(), f)
    }

    fn in_region<R>(&self, policy: Rc<dyn Policy>, f: impl FnOnce() -> R) -> R {
        self.inner.borrow_mut().regions.push(policy);
        let r = f();
        self.inner.borrow_mut().regions.pop();
        r
    }

    /// The policy in force here: that of the innermost region, unless an override decides for this scope.
    pub(super) fn policy(&self) -> Rc<dyn Policy> {
        let inner = self.inner.borrow();
        let over = inner.override_here().map(|(overrides, rule)| overrides.policy(rule));
        over.or_else(|| inner.regions.last().cloned()).unwrap_or_else(|| Rc::new(AsRecorded))
    }

    /// Why precision is decided as it is before the policy sees an operation: the reason around it, and the override of
    /// this scope.
    pub(crate) fn outer_reason(&self) -> Option<Arc<str>> {
        let inner = self.inner.borrow();
        let over = inner.override_here().map(|(overrides, rule)| overrides.reason(rule));
        match (&inner.why, over) {
            (Some(why), Some(over)) => Some(Arc::from(format!("{over}; {why}"))),
            (Some(why), None) => Some(why.clone()),
            (None, over) => over,
        }
    }

    /// Runs `f`, whose instructions belong to the line `caller` of model code, or to that whose gradients are being
    /// recorded. A call through a trait object would else hide the line.
    pub(super) fn calling_from<R>(&self, caller: &'static Location<'static>, f: impl FnOnce() -> R) -> R {
        let source = self.inner.borrow().source.unwrap_or(caller);
        self.with_source(source, f)
    }

    /// As [`Policy::elementwise`], of the policy here.
    pub(crate) fn elementwise_dtype(&self, class: CastClass, name: &str, promoted: DType) -> (DType, Option<Arc<str>>) {
        self.policy().elementwise(self, class, name, promoted)
    }

    /// As [`Policy::linear`], of the policy here.
    #[track_caller]
    pub(crate) fn linear<'g>(&'g self, x: Var<'g>, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
        let policy = self.policy();
        self.calling_from(Location::caller(), || policy.linear(x, weight, bias))
    }

    /// `x W^T + b` as a matmul of class `Low`.
    #[track_caller]
    pub(crate) fn plain_linear<'g>(&'g self, x: Var<'g>, weight: Var<'g>, bias: Option<Var<'g>>) -> Var<'g> {
        let mut op = MatMul::new(false, true, x.dtype());
        op.bias = bias.is_some();
        let inputs: Vec<Var<'g>> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
        self.apply(op.op(), &inputs)[0]
    }

    /// Registers an fp8 tensor of the current scope and returns its slot. [`crate::precision::fp8::finish`] must
    /// follow.
    #[track_caller]
    pub fn fp8_slot(&self, what: &str, dtype: DType) -> usize {
        self.owe(Owed::Fp8Finish);
        let name = self.path(what);
        let slots = &mut self.inner.borrow_mut().program.fp8_slots;
        slots.push(Fp8Slot { name, dtype });
        slots.len() - 1
    }

    /// Notes that the linear layer of the current scope is not in fp8: for the reason `why`, or, without one, because
    /// an override or the model says so. Nothing where no region around asks for fp8.
    pub(crate) fn leave_out_of_fp8(&self, why: Option<&str>) {
        let scope = self.path("");
        let mut inner = self.inner.borrow_mut();
        if inner.regions.iter().any(|r| r.asks_for_fp8()) {
            let over = inner.override_here().map(|(overrides, rule)| overrides.reason(rule));
            let why = why.or(over.as_deref()).unwrap_or("the model keeps it out").to_string();
            inner.program.fp8_left_out.push(Fp8LeftOut { scope, why });
        }
    }

    /// The fp8 tensors registered so far.
    pub fn fp8_slots(&self) -> Vec<Fp8Slot> {
        self.inner.borrow().program.fp8_slots.clone()
    }
}

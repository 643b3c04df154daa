//! The recorder. Errors do not interrupt model code: the first one is kept, with scope and source line, and comes out
//! of [`Graph::finish`]; what is recorded after it is never run.

mod guards;
mod owed;
mod policy;
mod tape;

pub(crate) use guards::TapeGuard;
pub use guards::{ScopeGuard, WhyGuard};
pub(crate) use owed::Owed;
pub use policy::{Policy, Prepared, ScopePolicies};
pub use tape::{Backward, CustomRule};

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{CastClass, Op};
use crate::program::{Init, Instr, Kind, Program, Rate, Role, ScopeId, Value, ValueId, passes};
use crate::shape::{Shape, Ty};
use owed::Ledger;
use policy::AsRecorded;
use std::cell::{RefCell, RefMut};
use std::collections::HashMap;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use tape::TapeEntry;

/// A value of a [`Graph`].
#[derive(Clone, Copy, Debug)]
pub struct Var<'g> {
    pub(crate) g: &'g Graph,
    pub(crate) id: ValueId,
}

/// Records a Program. Not shared between threads.
#[derive(Debug)]
pub struct Graph {
    inner: RefCell<Inner>,
    training: bool,
}

#[derive(Debug)]
struct Inner {
    program: Program,
    tape: Vec<TapeEntry>,
    /// Whether a gradient may be asked of this value.
    tracked: Vec<bool>,
    tape_on: bool,
    scope: ScopeId,
    /// The policies of the regions around, outermost first.
    regions: Vec<Rc<dyn Policy>>,
    overrides: Option<Box<dyn ScopePolicies>>,
    /// For each scope the override that decides there.
    rules: Vec<Option<usize>>,
    why: Option<Arc<str>>,
    /// Line of model code that gradients recorded now belong to.
    source: Option<&'static Location<'static>>,
    error: Option<Error>,
    next_stream: u32,
    ledger: Ledger,
    /// The first value of each name.
    named: HashMap<String, ValueId>,
    scope_ids: HashMap<String, ScopeId>,
    /// For each value the last instruction that writes it.
    writer: Vec<Option<usize>>,
}

impl Graph {
    /// An empty recording. `training` turns dropout and the recording of fp8 statistics on.
    pub fn new(name: impl Into<String>, training: bool) -> Graph {
        let program = Program {
            name: name.into(),
            scopes: vec![String::new()],
            micro_end: usize::MAX,
            grad_accum: 1,
            ..Program::default()
        };
        let inner = Inner {
            program,
            tape: Vec::new(),
            tracked: Vec::new(),
            tape_on: true,
            scope: ScopeId(0),
            regions: vec![Rc::new(AsRecorded)],
            overrides: None,
            rules: vec![None],
            why: None,
            source: None,
            error: None,
            next_stream: 0,
            ledger: Ledger::default(),
            named: HashMap::new(),
            scope_ids: HashMap::from([(String::new(), ScopeId(0))]),
            writer: Vec::new(),
        };
        Graph { inner: RefCell::new(inner), training }
    }

    /// Whether dropout is on and fp8 histories are written.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// Micro-steps per step. Call it before the gradients are recorded; [`Graph::begin_update`] must follow.
    #[track_caller]
    pub fn set_grad_accum(&self, n: usize) {
        if self.in_update() {
            self.fail(Error::misuse(
                "set_grad_accum",
                "the micro-steps have ended",
                "call it before the gradients are recorded",
            ));
        }
        self.inner.borrow_mut().program.grad_accum = n.max(1);
        if n > 1 {
            self.owe(Owed::BeginUpdate);
        }
    }

    /// Micro-steps per step.
    pub fn grad_accum(&self) -> usize {
        self.inner.borrow().program.grad_accum
    }

    /// Ends the part that runs once per micro-step; what follows runs once per step.
    pub fn begin_update(&self) {
        self.settle(&Owed::BeginUpdate);
        let mut inner = self.inner.borrow_mut();
        if inner.program.micro_end == usize::MAX {
            inner.program.micro_end = inner.program.instrs.len();
        }
    }

    /// Whether [`Graph::begin_update`] has been called.
    pub fn in_update(&self) -> bool {
        self.inner.borrow().program.micro_end != usize::MAX
    }

    /// Ends recording: runs the passes and validates. The first recording error, if any, is returned instead. Fails
    /// with the first error that was recorded, and if a call is missing: `step`, `update`, `begin_update` or
    /// `fp8::finish`.
    pub fn finish(self) -> Result<Program> {
        self.finish_with(passes::optimize)
    }

    /// As [`Graph::finish`], but every matmul result is materialised, for observers. The bits are the
    /// same. Fails as that does.
    pub fn finish_unfused(self) -> Result<Program> {
        self.finish_with(passes::without_epilogues)
    }

    fn finish_with(self, passes: impl Fn(&mut Program)) -> Result<Program> {
        let mut program = self.finish_raw()?;
        passes(&mut program);
        program.validate()?;
        Ok(program)
    }

    /// Ends recording without the passes. Fails as [`Graph::finish`] does.
    pub fn finish_raw(self) -> Result<Program> {
        let inner = self.inner.into_inner();
        if let Some(error) = inner.error {
            return Err(error);
        }
        inner.ledger.check()?;
        let mut program = inner.program;
        if let Some(overrides) = &inner.overrides {
            overrides.check(&program.scopes)?;
        }
        program.micro_end = program.micro_end.min(program.instrs.len());
        program.validate()?;
        Ok(program)
    }

    /// A trained tensor, named by the current scope and `name`. Asked for twice, it is the same tensor.
    #[track_caller]
    pub fn param(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Var<'_> {
        self.persistent(name, Ty::new(DType::F32, shape), Kind::Param(init))
    }

    /// A value that outlives the step, named by the current scope and `name`.
    #[track_caller]
    pub fn state(&self, name: &str, ty: Ty, role: Role, init: Init) -> Var<'_> {
        self.persistent(name, ty, Kind::State(role, init))
    }

    /// A value that the host provides. Asked for twice, it is the same input.
    #[track_caller]
    pub fn input(&self, name: &str, ty: Ty, rate: Rate) -> Var<'_> {
        self.declare(name.to_string(), ty, Kind::Input(rate))
    }

    #[track_caller]
    fn persistent(&self, name: &str, ty: Ty, kind: Kind) -> Var<'_> {
        let full = self.path(name);
        self.declare(full, ty, kind)
    }

    #[track_caller]
    fn declare(&self, name: String, ty: Ty, kind: Kind) -> Var<'_> {
        let known = self.inner.borrow().named.get(&name).copied();
        if let Some(id) = known {
            let same = {
                let inner = self.inner.borrow();
                let v = inner.program.value(id);
                v.ty == ty && std::mem::discriminant(&v.kind) == std::mem::discriminant(&kind)
            };
            if !same {
                let found = self.inner.borrow().program.ty(id).to_string();
                self.fail(Error::operand(name, format!("the type of its first use, {found}"), ty.to_string()));
            }
            return Var { g: self, id };
        }
        let tracked = matches!(kind, Kind::Param(_));
        Var { g: self, id: self.inner.borrow_mut().add(Value { name, ty, kind }, tracked) }
    }

    /// `name` inside the current scope.
    pub fn path(&self, name: &str) -> String {
        let inner = self.inner.borrow();
        let scope = inner.program.scope(inner.scope);
        match (scope.is_empty(), name.is_empty()) {
            (true, _) => name.to_string(),
            (false, true) => scope.to_string(),
            (false, false) => format!("{scope}.{name}"),
        }
    }

    /// Enters the scope `name` until the guard is dropped.
    pub fn scope(&self, name: &str) -> ScopeGuard<'_> {
        let full = self.path(name);
        let mut inner = self.inner.borrow_mut();
        let previous = inner.scope;
        inner.scope = inner.scope_id(&full);
        ScopeGuard { g: self, previous }
    }

    /// A fresh number for a place in the model that draws random numbers. Depends on recording order only.
    pub fn next_stream(&self) -> u32 {
        let mut inner = self.inner.borrow_mut();
        inner.next_stream += 1;
        inner.next_stream - 1
    }

    /// The `[seed, step]` pair that random nodes read, provided by the host for every micro-step.
    #[track_caller]
    pub fn rng(&self) -> Var<'_> {
        self.input("rng", Ty::new(DType::U32, [2]), Rate::MicroStep)
    }

    /// Records `op` under the current autocast region and returns its outputs. Gradients flow through it by its rule.
    #[track_caller]
    pub fn apply(&self, op: Op, inputs: &[Var<'_>]) -> Vec<Var<'_>> {
        let row = op.row();
        let (op, inputs, why) = match row.class {
            CastClass::Keep => (op, inputs.iter().map(|v| v.id).collect::<Vec<_>>(), None),
            CastClass::Low | CastClass::F32 | CastClass::Promote => {
                let policy = self.policy();
                self.calling_from(Location::caller(), || policy.prepare(self, op, inputs))
            }
        };
        let _why = self.because(why);
        self.push(op, &inputs)
    }

    /// Records `op` with its inputs as they are and returns its outputs.
    #[track_caller]
    pub fn push(&self, op: Op, inputs: &[ValueId]) -> Vec<Var<'_>> {
        let types: Vec<Ty> = {
            let inner = self.inner.borrow();
            inputs.iter().map(|&i| inner.program.ty(i).clone()).collect()
        };
        let outputs = match op.infer(&types) {
            Ok(outputs) => outputs,
            Err(error) => {
                self.fail(error);
                return (0..8).map(|_| self.dummy()).collect();
            }
        };
        let mut inner = self.inner.borrow_mut();
        let rule = matches!(op.row().gradient, crate::op::Gradient::Rule);
        let tracked = inner.tape_on && rule && inputs.iter().any(|i| inner.tracked[i.index()]);
        let outputs: Vec<ValueId> = outputs
            .into_iter()
            .map(|ty| {
                let tracked = tracked && ty.dtype.is_float();
                inner.add(Value { name: String::new(), ty, kind: Kind::Temp }, tracked)
            })
            .collect();
        inner.record(op, inputs.to_vec(), outputs.clone(), tracked);
        outputs.into_iter().map(|id| Var { g: self, id }).collect()
    }

    /// Records `op` whose outputs are the given persistent values (updates in place) or, for `None`, fresh temporaries.
    #[track_caller]
    pub fn push_into(&self, op: Op, inputs: &[ValueId], outputs: &[Option<ValueId>]) -> Vec<Var<'_>> {
        let types: Vec<Ty> = {
            let inner = self.inner.borrow();
            inputs.iter().map(|&i| inner.program.ty(i).clone()).collect()
        };
        let inferred = match op.infer(&types) {
            Ok(t) if t.len() == outputs.len() => t,
            Ok(t) => {
                let name = op.row().name;
                self.fail(Error::operand(name, format!("{} outputs", t.len()), outputs.len().to_string()));
                return (0..outputs.len()).map(|_| self.dummy()).collect();
            }
            Err(error) => {
                self.fail(error);
                return (0..outputs.len()).map(|_| self.dummy()).collect();
            }
        };
        let mut inner = self.inner.borrow_mut();
        let ids: Vec<ValueId> = outputs
            .iter()
            .zip(inferred)
            .map(|(o, ty)| match o {
                Some(id) => *id,
                None => inner.add(Value { name: String::new(), ty, kind: Kind::Temp }, false),
            })
            .collect();
        inner.record(op, inputs.to_vec(), ids.clone(), false);
        ids.into_iter().map(|id| Var { g: self, id }).collect()
    }

    /// Gives `y`, recorded inside [`Graph::no_grad`] from `inputs`, a gradient rule as a whole.
    #[track_caller]
    pub fn custom_rule(&self, inputs: &[Var<'_>], y: Var<'_>, rule: CustomRule) {
        let mut inner = self.inner.borrow_mut();
        if inner.tape_on && inputs.iter().any(|v| inner.tracked[v.id.index()]) {
            inner.tracked[y.id.index()] = true;
            let (scope, source) = (inner.scope, inner.source.unwrap_or(Location::caller()));
            let (inputs, rule) = (inputs.iter().map(|v| v.id).collect(), Backward::Custom(rule));
            inner.tape.push(TapeEntry { inputs, outputs: vec![y.id], scope, source, why: None, rule });
        }
    }

    /// Lets gradients be asked of `v`, as `requires_grad_`. Parameters need no such call.
    pub fn requires_grad(&self, v: Var<'_>) {
        self.inner.borrow_mut().tracked[v.id.index()] = true;
    }

    /// A state named without the current scope.
    #[track_caller]
    pub(crate) fn root_state(&self, name: &str, ty: Ty, role: Role, fill: f64) -> ValueId {
        self.declare(name.to_string(), ty, Kind::State(role, Init::Fill(fill))).id
    }

    /// Whether there is a value of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.inner.borrow().named.contains_key(name)
    }

    /// Gives a state its final shape, once recording knows it. Nothing if there is no such state.
    pub(crate) fn resize_state(&self, name: &str, shape: &[usize]) {
        let mut inner = self.inner.borrow_mut();
        if let Some(id) = inner.named.get(name).copied() {
            inner.program.values[id.index()].ty.shape = Shape::from(shape);
        }
    }

    /// Runs `f` without recording gradients, as `torch.no_grad`.
    pub fn no_grad<R>(&self, f: impl FnOnce() -> R) -> R {
        let _off = self.untracked();
        f()
    }

    /// Runs `f`; instructions recorded inside belong to the line `source` of model code.
    pub(super) fn with_source<R>(&self, source: &'static Location<'static>, f: impl FnOnce() -> R) -> R {
        let before = self.inner.borrow_mut().source.replace(source);
        let r = f();
        self.inner.borrow_mut().source = before;
        r
    }

    /// Instructions recorded until the guard is dropped carry the reason `why`, if there is one, after the reason
    /// around it. A guard, not a closure: the source line of an instruction is that of the caller, which a closure
    /// would hide.
    pub fn because(&self, why: Option<Arc<str>>) -> WhyGuard<'_> {
        let mut inner = self.inner.borrow_mut();
        let previous = inner.why.clone();
        inner.why = match (&previous, why) {
            (Some(outer), Some(why)) if *outer != why => Some(Arc::from(format!("{outer}; {why}"))),
            (_, Some(why)) => Some(why),
            (_, None) => previous.clone(),
        };
        WhyGuard { g: self, previous }
    }

    /// Records no gradients until the guard is dropped.
    pub(crate) fn untracked(&self) -> TapeGuard<'_> {
        let previous = std::mem::replace(&mut self.inner.borrow_mut().tape_on, false);
        TapeGuard { g: self, previous }
    }

    /// Keeps `error` (with the current scope and the caller's source line) unless an earlier one is kept.
    #[track_caller]
    pub fn fail(&self, error: Error) {
        let place = self.place(Location::caller());
        self.inner.borrow_mut().error.get_or_insert_with(|| error.at_place(place));
    }

    /// The current scope and a source line: that of the model code whose gradients are being recorded, else `caller`.
    pub(super) fn place(&self, caller: &Location<'_>) -> String {
        let inner = self.inner.borrow();
        let (scope, at) = (inner.program.scope(inner.scope), inner.source.unwrap_or(caller));
        let scope = if scope.is_empty() { String::new() } else { format!("{scope}, ") };
        format!("{scope}{}:{}", at.file(), at.line())
    }

    fn ledger(&self) -> RefMut<'_, Ledger> {
        RefMut::map(self.inner.borrow_mut(), |inner| &mut inner.ledger)
    }

    /// Whether recording has failed.
    pub fn failed(&self) -> bool {
        self.inner.borrow().error.is_some()
    }

    /// Names a temporary and lets the host read it after the step.
    pub fn output(&self, name: &str, v: Var<'_>) {
        let mut inner = self.inner.borrow_mut();
        let value = &mut inner.program.values[v.id.index()];
        if value.kind == Kind::Temp {
            value.kind = Kind::Output;
        }
        if value.name.is_empty() {
            value.name = name.to_string();
            inner.named.entry(name.to_string()).and_modify(|first| *first = v.id.min(*first)).or_insert(v.id);
        }
    }

    /// The handle of a value of this recording.
    pub fn var(&self, id: ValueId) -> Var<'_> {
        Var { g: self, id }
    }

    /// All trained tensors declared so far.
    pub fn params(&self) -> Vec<Var<'_>> {
        let inner = self.inner.borrow();
        inner.program.values_where(|v| matches!(v.kind, Kind::Param(_))).map(|(id, _)| Var { g: self, id }).collect()
    }

    pub(super) fn ty(&self, id: ValueId) -> Ty {
        self.inner.borrow().program.ty(id).clone()
    }

    /// Name of a value; empty for an unnamed temporary.
    pub fn name(&self, id: ValueId) -> String {
        self.inner.borrow().program.value(id).name.clone()
    }

    /// What a value is.
    pub fn kind(&self, id: ValueId) -> Kind {
        self.inner.borrow().program.value(id).kind
    }

    /// Whether a temporary shares memory with another value (it is a reshape or an in-place result).
    pub(crate) fn is_view(&self, id: ValueId) -> bool {
        let inner = self.inner.borrow();
        let writer = inner.writer[id.index()].map(|at| &inner.program.instrs[at]);
        writer.is_some_and(|i| !i.op.aliases(i.inputs.len()).is_empty())
    }

    pub(super) fn take_tape(&self) -> Vec<TapeEntry> {
        std::mem::take(&mut self.inner.borrow_mut().tape)
    }

    pub(super) fn put_back_tape(&self, tape: Vec<TapeEntry>) {
        let mut inner = self.inner.borrow_mut();
        let since = std::mem::replace(&mut inner.tape, tape);
        inner.tape.extend(since);
    }

    pub(super) fn enter(&self, scope: ScopeId) -> ScopeGuard<'_> {
        let mut inner = self.inner.borrow_mut();
        let previous = std::mem::replace(&mut inner.scope, scope);
        ScopeGuard { g: self, previous }
    }

    /// A value to go on with after a failed instruction.
    fn dummy(&self) -> Var<'_> {
        let value = Value { name: String::new(), ty: Ty::scalar(DType::F32), kind: Kind::Temp };
        Var { g: self, id: self.inner.borrow_mut().add(value, false) }
    }
}

impl Inner {
    fn add(&mut self, value: Value, tracked: bool) -> ValueId {
        let id = ValueId(self.program.values.len() as u32);
        if !value.name.is_empty() {
            self.named.entry(value.name.clone()).or_insert(id);
        }
        self.program.values.push(value);
        self.tracked.push(tracked);
        self.writer.push(None);
        id
    }

    #[track_caller]
    fn record(&mut self, op: Op, inputs: Vec<ValueId>, outputs: Vec<ValueId>, tracked: bool) {
        let source = self.source.unwrap_or(Location::caller());
        if tracked {
            let (inputs, outputs) = (inputs.clone(), outputs.clone());
            let rule = Backward::Op(op.clone());
            self.tape.push(TapeEntry { inputs, outputs, scope: self.scope, source, why: self.why.clone(), rule });
        }
        // A view does nothing that a reason could be for.
        let why = self.why.clone().filter(|_| !matches!(op, Op::Reshape(_)));
        let (scope, at) = (self.scope, self.program.instrs.len());
        outputs.iter().for_each(|o| self.writer[o.index()] = Some(at));
        self.program.instrs.push(Instr { op, inputs, outputs, scope, why, source });
    }

    /// The override that decides here, if any. None outside autocast regions.
    fn override_here(&self) -> Option<(&dyn ScopePolicies, usize)> {
        let rule = if self.regions.len() > 1 { self.rules[self.scope.0 as usize] } else { None };
        self.overrides.as_deref().zip(rule)
    }

    fn scope_id(&mut self, name: &str) -> ScopeId {
        if let Some(&id) = self.scope_ids.get(name) {
            return id;
        }
        let id = ScopeId(self.program.scopes.len() as u32);
        self.program.scopes.push(name.to_string());
        self.rules.push(self.overrides.as_ref().and_then(|o| o.rule(name)));
        self.scope_ids.insert(name.to_string(), id);
        id
    }
}

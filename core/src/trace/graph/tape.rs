//! The tape: what is differentiated, in the order of recording.

use super::{Graph, Var};
use crate::op::Op;
use crate::program::{ScopeId, ValueId};
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

/// A gradient rule of a composite: from the output gradient to the gradients of the recorded inputs.
pub struct CustomRule(pub Box<CustomFn>);

/// From the graph, the output gradient and which inputs need gradients to the gradients of the inputs.
type CustomFn = dyn for<'g> Fn(&'g Graph, Var<'g>, &[bool]) -> Vec<Option<Var<'g>>>;

impl fmt::Debug for CustomRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomRule")
    }
}

/// How a tape entry is differentiated.
#[derive(Debug)]
pub enum Backward {
    /// By the rule of the operation.
    Op(Op),
    /// By a rule recorded with it.
    Custom(CustomRule),
}

/// A recorded operation through which gradients flow.
#[derive(Debug)]
pub(crate) struct TapeEntry {
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) scope: ScopeId,
    /// Line of model code that recorded it; its gradients belong to the same line.
    pub(crate) source: &'static Location<'static>,
    /// Why precision was decided as it was; composites give their own reason.
    pub(crate) why: Option<Arc<str>>,
    pub(crate) rule: Backward,
}

//! Recording: model code that reads like PyTorch becomes a Program.
//!
//! [`Graph`] collects instructions; [`Var`] is a small handle to a value with methods such as `x.matmul(w)` and
//! `x + b`. [`Graph::grad`] appends the gradient instructions by the rules in `rules/`. Control flow is host control
//! flow at record time.

pub mod backward;
pub mod graph;
pub(crate) mod rules;
pub mod var;

pub(crate) use graph::Owed;
pub use graph::{Backward, CustomRule, Graph, Policy, Prepared, ScopeGuard, ScopePolicies, Var, WhyGuard};

//! What ends when it is dropped: a scope, a reason, a stretch without gradients.

use super::Graph;
use crate::program::ScopeId;
use std::sync::Arc;

/// Leaves the scope when dropped.
#[derive(Debug)]
pub struct ScopeGuard<'g> {
    pub(super) g: &'g Graph,
    pub(super) previous: ScopeId,
}

impl Drop for ScopeGuard<'_> {
    fn drop(&mut self) {
        self.g.inner.borrow_mut().scope = self.previous;
    }
}

/// Takes the reason back when dropped.
#[derive(Debug)]
pub struct WhyGuard<'g> {
    pub(super) g: &'g Graph,
    pub(super) previous: Option<Arc<str>>,
}

impl Drop for WhyGuard<'_> {
    fn drop(&mut self) {
        self.g.inner.borrow_mut().why = self.previous.take();
    }
}

/// Goes on recording gradients when dropped.
#[derive(Debug)]
pub(crate) struct TapeGuard<'g> {
    pub(super) g: &'g Graph,
    pub(super) previous: bool,
}

impl Drop for TapeGuard<'_> {
    fn drop(&mut self) {
        self.g.inner.borrow_mut().tape_on = self.previous;
    }
}

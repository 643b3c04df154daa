//! A kernel as text: what a device compiles.

use mantissa_shaders::{BindingKind, Need};

/// A kernel: text, entry point and bindings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Stem and entry point, for people.
    pub label: String,
    /// The whole text, but for the prelude that a device puts in front.
    pub text: String,
    /// Entry point.
    pub entry: &'static str,
    /// Number and use of each binding.
    pub bindings: Vec<(u32, BindingKind)>,
    /// What the device must be able to do.
    pub needs: &'static [Need],
}

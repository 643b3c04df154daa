//! Elementwise expressions as WGSL.

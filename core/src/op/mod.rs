//! The closed instruction set.
pub mod map;

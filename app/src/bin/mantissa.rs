//! Command line of Mantissa.
fn main() {}

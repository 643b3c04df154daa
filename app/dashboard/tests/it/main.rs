//! The dashboard as its users meet it: found by label, pressed and typed into, with a real trainer behind it or with
//! events made up.

mod made_up;
mod panels;
mod pictures;
mod support;
mod training;

// Counts what needs a device; a test crate cannot depend on one that depends on its package.
#[expect(dead_code, unreachable_pub, reason = "another test program reads the tally")]
#[path = "../../../../tests/src/device_checks.rs"]
mod device_checks;

//! Shared helpers of the tests: running a recorded Program on any backend, an independent f64 reference, tolerances,
//! generated data.
//!
//! Everything takes `&dyn Backend`, so that the same cases serve every device.

pub mod data;
pub mod device_checks;
pub mod devices;
pub mod machine;
pub mod operands;
pub mod parity;
pub mod reference64;
pub mod tiny;
pub mod tolerance;

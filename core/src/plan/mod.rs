//! What a recorded step is made of and what it would cost on a GPU that need not be present.
//!
//! [`mod@explain`] lists every instruction with its precision, reason and price. [`step`] models time and memory of a
//! step on a [`Device`] of the one table in [`device`]; [`fit`] re-plans changed configs where memory does not suffice;
//! [`shapes`] looks at the sizes of the matmuls. Everything here is arithmetic over a Program. Times are modelled,
//! never measured, and every report says so.

pub mod advisor;
pub mod device;
pub mod explain;
pub mod fit;
pub mod price;
pub mod shapes;
pub mod step;

pub use device::{Device, Rate};
pub use explain::{Explanation, explain};
pub use step::{Plan, plan};

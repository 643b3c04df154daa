//! Watch mixed precision at work: a store of events and the panels that draw it.
//!
//! Nothing here knows files, threads or windows, so that the same [`shell::Dashboard`] runs in the desktop window
//! (`desktop`), in a browser and in tests. A host puts [`store::Run`]s into the store, pushes events into them, draws,
//! and does the [`form::Action`]s that come back.

pub mod chart;
#[cfg(feature = "desktop")]
pub mod desktop;
pub mod form;
pub mod palette;
pub mod panels;
pub mod shell;
pub mod store;

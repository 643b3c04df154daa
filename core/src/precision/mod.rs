//! Precision policy, written once for all backends: recipes, autocast, loss scaling, fp8 scaling, clipping, non-finite
//! steps.
//!
//! Everything here runs at record time and only inserts instructions; backends know nothing of it.

pub mod autocast;
pub mod clip;
pub mod fp8;
pub mod fp8_layers;
pub mod nonfinite;
pub mod overrides;
pub mod recipe;
pub mod scaler;
pub mod settings;

pub use nonfinite::OnNonFinite;
pub use recipe::{Recipe, RecipeName};
pub use scaler::{GradScaler, ScalerConfig, ScalerState};
pub use settings::{Fp8Config, Override, OverrideDtype, Region};

//! Who chooses the matmul kernels of a GPU: the flag, else the environment; and the folder in which choices are kept.

use crate::config::TuneChoice;
use anyhow::{Result, bail};
use etcetera::BaseStrategy as _;
use mantissa_backend_wgpu::{MatmulChoice, Tuning};
use std::env;
use std::path::PathBuf;

/// Variable that says when to measure, where no flag does.
const TUNE: &str = "MANTISSA_TUNE";
/// Folder of the choices; overrides the platform's.
const FOLDER: &str = "MANTISSA_CACHE_DIR";

/// The choice that `flag` or the environment asks for. Errs if the variable has another word.
pub(super) fn choice(flag: Option<TuneChoice>) -> Result<MatmulChoice> {
    let when = match flag {
        Some(TuneChoice::Off) => Tuning::Off,
        Some(TuneChoice::Auto) => Tuning::Auto,
        Some(TuneChoice::Always) => Tuning::Always,
        None => of_variable(env::var(TUNE).ok().as_deref())?,
    };
    Ok(MatmulChoice::Tuned { when, folder: folder() })
}

/// The value of the variable, or `auto` without it.
fn of_variable(value: Option<&str>) -> Result<Tuning> {
    Ok(match value {
        None | Some("auto") => Tuning::Auto,
        Some("off") => Tuning::Off,
        Some("always") => Tuning::Always,
        Some(other) => bail!("{TUNE}: expected off, auto or always, got {other}"),
    })
}

/// The folder of the variable, or `mantissa` in the platform's cache folder; `None` where there is no home.
fn folder() -> Option<PathBuf> {
    let set = env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    set.or_else(|| Some(etcetera::base_strategy::choose_native_strategy().ok()?.cache_dir().join("mantissa")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_has_three_words() {
        for (value, expected) in
            [(None, Tuning::Auto), (Some("auto"), Tuning::Auto), (Some("off"), Tuning::Off), (Some("always"), Tuning::Always)]
        {
            assert_eq!(of_variable(value).unwrap(), expected, "{value:?}");
        }
        let refused = of_variable(Some("sometimes")).unwrap_err().to_string();
        assert!(refused.contains("off, auto or always") && refused.contains("sometimes"), "{refused}");
    }
}

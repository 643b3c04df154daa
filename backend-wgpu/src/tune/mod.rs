//! Which kernel multiplies matrices of a shape: the first of the adapter's profile, or the one that was measured to be
//! the fastest on this very device. The folder in which choices are kept arrives as an argument.
//!
//! Every kernel sums k ascending in one accumulator, so a choice changes the time of a run and not its bits, but for
//! what a GPU's compiler contracts. On software adapters the order is known (matmul_panels.wgsl), and compiling slower
//! kernels would cost more than it saves. In a page nothing can wait for a measurement, so nothing is measured there.

mod cache;
mod measure;

use crate::context::Context;
use crate::launch::{LaunchLimits, MatmulKernel, panels_fit, suits_panels};
use crate::profile::AdapterProfile;
use mantissa_core::error::{Error, Result};
use mantissa_core::op::Op;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::program::operands::Operands;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// When to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tuning {
    /// Never: the first kernel of the adapter's profile that suits.
    #[default]
    Off,
    /// On GPUs.
    Auto,
    /// On software adapters too.
    Always,
}

/// Who chooses the kernel of a matmul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatmulChoice {
    /// The caller.
    Fixed(MatmulKernel),
    /// The adapter's profile, or measurements.
    Tuned {
        /// When to measure.
        when: Tuning,
        /// Folder in which choices are kept for later runs.
        folder: Option<PathBuf>,
    },
}

impl Default for MatmulChoice {
    fn default() -> MatmulChoice {
        MatmulChoice::Tuned { when: Tuning::Off, folder: None }
    }
}

/// The kernel choices of an open device.
#[derive(Debug)]
pub(crate) struct Tuner {
    /// The adapter's profile; its matmul kernels are those to choose from.
    profile: AdapterProfile,
    measures: bool,
    /// Where choices are kept.
    folder: Option<PathBuf>,
    choices: Mutex<Choices>,
}

/// The choice for each class of shapes.
#[derive(Debug, Default)]
struct Choices {
    made: BTreeMap<String, MatmulKernel>,
    /// Those on disk are among them.
    loaded: bool,
    /// Classes of which no kernel could be measured.
    unmeasured: BTreeSet<String>,
    /// Failures, for people.
    warnings: Vec<String>,
}

impl Tuner {
    /// The choices of a device with this profile. Errs if the caller wants a kernel that the device cannot run.
    pub(crate) fn new(mut profile: AdapterProfile, software: bool, choice: MatmulChoice) -> Result<Tuner> {
        let (measures, folder) = match choice {
            MatmulChoice::Fixed(kernel) if profile.matmul.contains(&kernel) => {
                profile.matmul = vec![kernel];
                (false, None)
            }
            MatmulChoice::Fixed(kernel) => {
                let expected = format!("one of {:?}, which the adapter can run", profile.matmul);
                return Err(Error::config("matmul kernel", expected, format!("{kernel:?}")));
            }
            MatmulChoice::Tuned { when, folder } => {
                let wanted = when == Tuning::Always || (when == Tuning::Auto && !software);
                (wanted && cfg!(not(target_arch = "wasm32")), folder)
            }
        };
        Ok(Tuner { profile, measures, folder, choices: Mutex::default() })
    }

    /// The adapter's profile. Its matmul kernels are those that Programs may get.
    pub(crate) fn profile(&self) -> &AdapterProfile {
        &self.profile
    }

    /// Classes measured so far, with the kernel that each got.
    pub(crate) fn choices(&self) -> Vec<(String, String)> {
        let choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        choices.made.iter().map(|(class, kernel)| (class.clone(), kernel.to_string())).collect()
    }

    /// Measurements that failed so far, and what was done instead.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).warnings.clone()
    }

    /// The limits for launches of an instruction, with the kernel for its matmul. Errs if its operands do not fit each
    /// other, or if the device cannot go on.
    pub(crate) fn limits(&self, context: &Context, op: &Op, operands: &Operands) -> Result<LaunchLimits> {
        let usual = LaunchLimits {
            max_storage_buffers: context.gpu.max_storage_buffers(),
            matmul: self.profile.matmul[0],
            attention: self.profile.attention,
        };
        let Op::MatMul(m) = op else { return Ok(usual) };
        Ok(LaunchLimits { matmul: self.choose(context, usual, m, operands)?, ..usual })
    }

    fn choose(&self, context: &Context, usual: LaunchLimits, m: &MatMul, operands: &Operands) -> Result<MatmulKernel> {
        let most = context.gpu.max_buffer_bytes();
        // A kernel that was measured for a class may not fit its larger matmuls.
        if self.measures
            && let Some(kernel) = self.measured(context, usual, m, operands)?
            && (kernel != MatmulKernel::Panels || panels_fit(m, operands, most)?)
        {
            return Ok(kernel);
        }
        // Panels come first where they come at all; a matmul that is too small for them gets the next kernel.
        match self.profile.matmul[..] {
            [MatmulKernel::Panels, next, ..] if !suits_panels(m, operands, most)? => Ok(next),
            [first, ..] => Ok(first),
            [] => Ok(usual.matmul),
        }
    }

    /// The kernel that was measured to be the fastest for a matmul, now or earlier; `None` where none could be
    /// measured.
    fn measured(
        &self,
        context: &Context,
        usual: LaunchLimits,
        m: &MatMul,
        operands: &Operands,
    ) -> Result<Option<MatmulKernel>> {
        let class = measure::class(m, operands)?;
        let mut choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.folder.as_ref().map(|folder| cache::file(folder, &context.gpu.facts, self.profile.prelude));
        if let (false, Some(file)) = (choices.loaded, &file) {
            choices.made = cache::load(file, &self.profile.matmul);
            choices.loaded = true;
        }
        if let Some(kernel) = choices.made.get(&class) {
            return Ok(Some(*kernel));
        }
        if choices.unmeasured.contains(&class) {
            return Ok(None);
        }
        let measured = measure::fastest(context, usual, &self.profile.matmul, m, operands)?;
        for (kernel, problem) in &measured.failed {
            let instead = if measured.best.is_some() { "another kernel is taken" } else { "the usual kernel is taken" };
            choices.warnings.push(format!("matmul by {kernel} could not be measured for {class}; {instead}: {problem}"));
        }
        let Some(kernel) = measured.best else {
            choices.unmeasured.insert(class);
            return Ok(None);
        };
        choices.made.insert(class, kernel);
        if let Some(file) = file {
            // A file that cannot be written costs the time of measuring again.
            let _ = cache::store(&file, &choices.made);
        }
        Ok(Some(kernel))
    }
}

//! Which kind of matrix product suits a shape: the device's own order, or what was measured on this very device and remembered on disk.
//!
//! Every kind adds the products of a sum one after the other, k ascending, so a choice changes the time of a run and not its bits, but for what
//! a GPU's compiler contracts. `MANTISSA_TUNE` says when to measure: `auto` on GPUs, `always`, or `off`. On software adapters the order is
//! known (matmul_panels.wgsl) and compiling what loses would cost more than it saves; browsers let nobody wait.

use crate::adapter::{Gpu, Products};
use mantissa_core::error::Result;
use mantissa_core::op::Op;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::program::operands::Operands;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod cache;
#[cfg(not(target_arch = "wasm32"))]
mod measure;

/// Variable that says when to measure.
#[cfg(not(target_arch = "wasm32"))]
const VARIABLE: &str = "MANTISSA_TUNE";

/// When to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tuning {
    /// Never: the first kind of the device's order that suits.
    #[default]
    Off,
    /// On GPUs.
    Auto,
    /// On software adapters too.
    Always,
}

impl Tuning {
    /// What `MANTISSA_TUNE` asks for; `Auto` without it. Errs on another word.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_env() -> Result<Tuning> {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("auto") => Ok(Tuning::Auto),
            Ok("off") => Ok(Tuning::Off),
            Ok("always") => Ok(Tuning::Always),
            Ok(other) => Err(mantissa_core::error::Error::config(VARIABLE, "off, auto or always", other.to_string())),
        }
    }
}

/// The choices of a device.
#[derive(Debug)]
pub(crate) struct Tuner {
    /// Kinds that the device can do, the usual one first.
    pub(crate) kinds: Vec<Products>,
    measures: bool,
    /// Where choices are kept.
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "browsers measure nothing"))]
    folder: Option<PathBuf>,
    known: Mutex<Known>,
}

/// The choice for each class of shapes, and whether those on disk are among them.
#[derive(Debug, Default)]
struct Known {
    choices: BTreeMap<String, Products>,
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "browsers measure nothing"))]
    read: bool,
    /// Classes of which no kind could be measured.
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "browsers measure nothing"))]
    unmeasured: BTreeSet<String>,
    /// What went wrong, for people.
    warnings: Vec<String>,
}

impl Tuner {
    pub(crate) fn new(kinds: Vec<Products>, measures: bool, folder: Option<PathBuf>) -> Tuner {
        Tuner { kinds, measures, folder, known: Mutex::default() }
    }

    /// Classes seen so far, with the kind that each got.
    pub(crate) fn choices(&self) -> Vec<(String, String)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.choices.iter().map(|(class, kind)| (class.clone(), kind.to_string())).collect()
    }

    /// Measurements that failed so far, and what was done instead.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).warnings.clone()
    }

    /// The kind for an instruction; only that of a product is looked at. Errs only where the device cannot go on.
    pub(crate) fn choose(&self, gpu: &Arc<Gpu>, op: &Op, operands: &Operands) -> Result<Products> {
        // What was measured for a class may be too large for its larger products.
        if let (true, Op::MatMul(m)) = (self.measures, op)
            && let Some(kind) = self.measured(gpu, m, operands)?
            && (kind != Products::Panels || crate::launch::panels_fit(m, operands, gpu.max_buffer_bytes())?)
        {
            return Ok(kind);
        }
        // Panels come first where they come at all; what is too small for them gets the next kind.
        let panels = self.kinds[0] == Products::Panels;
        match (op, self.kinds.get(1)) {
            (Op::MatMul(m), Some(next)) if panels && !crate::launch::suits_panels(m, operands, gpu.max_buffer_bytes())? => {
                Ok(*next)
            }
            _ => Ok(self.kinds[0]),
        }
    }

    /// The kind that was measured to be the fastest for a product, now or earlier; `None` where none could be measured.
    #[cfg(not(target_arch = "wasm32"))]
    fn measured(&self, gpu: &Arc<Gpu>, m: &MatMul, operands: &Operands) -> Result<Option<Products>> {
        let class = measure::class(m, operands)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.folder.as_ref().map(|folder| cache::file(folder, &gpu.facts, gpu.pipelines.dialect()));
        if let (false, Some(file)) = (known.read, &file) {
            known.choices = cache::load(file, &self.kinds);
            known.read = true;
        }
        if let Some(kind) = known.choices.get(&class) {
            return Ok(Some(*kind));
        }
        if known.unmeasured.contains(&class) {
            return Ok(None);
        }
        let measured = measure::fastest(gpu, &self.kinds, m, operands)?;
        for (kind, problem) in &measured.failed {
            let instead = if measured.best.is_some() { "another kind is taken" } else { "the usual kind is taken" };
            known.warnings.push(format!("products by {kind} could not be measured for {class}; {instead}: {problem}"));
        }
        let Some(kind) = measured.best else {
            known.unmeasured.insert(class);
            return Ok(None);
        };
        known.choices.insert(class, kind);
        if let Some(file) = file {
            // What is lost is only the time of measuring again.
            let _ = cache::store(&file, &known.choices);
        }
        Ok(Some(kind))
    }

    #[cfg(target_arch = "wasm32")]
    fn measured(&self, _: &Arc<Gpu>, _: &MatMul, _: &Operands) -> Result<Option<Products>> {
        Ok(None)
    }
}

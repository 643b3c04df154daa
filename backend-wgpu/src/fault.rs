//! What went wrong on a device. wgpu reports errors aside; whoever uses the device asks here afterwards.

use mantissa_core::error::Error;
use std::sync::{Mutex, PoisonError};

/// A failure that wgpu reported.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    OutOfMemory {
        /// Bytes that were asked for, where that is known.
        requested: Option<u64>,
        problem: String,
    },
    Lost(String),
    Other(String),
}

impl Fault {
    /// An error of wgpu. `requested` bytes were asked for, if memory was.
    pub(crate) fn of(error: wgpu::Error, requested: Option<u64>) -> Fault {
        match error {
            wgpu::Error::OutOfMemory { source } => Fault::OutOfMemory { requested, problem: source.to_string() },
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Fault::of_text(description, requested)
            }
        }
    }

    /// A failure that is known as text only. wgpu 30 wraps a driver that is out of memory into other errors at some
    /// calls.
    pub(crate) fn of_text(problem: String, requested: Option<u64>) -> Fault {
        if problem.contains("Not enough memory") || problem.contains("out of memory") {
            Fault::OutOfMemory { requested, problem }
        } else {
            Fault::Other(problem)
        }
    }

    /// The error for users of `device`.
    pub(crate) fn error(self, device: &str) -> Error {
        let device = device.to_string();
        match self {
            // More may follow the words of the driver.
            Fault::OutOfMemory { requested, problem } => {
                let problem = problem.trim_end_matches('.').to_string();
                Error::OutOfMemory { device, requested, problem }
            }
            Fault::Lost(problem) => Error::DeviceLost { device, problem },
            Fault::Other(problem) => Error::Device { device, problem },
        }
    }
}

/// The first failure of a device.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Option<Fault>>);

impl Faults {
    pub(crate) fn note(&self, fault: Fault) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(fault);
    }

    pub(crate) fn first(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_counts() {
        let faults = Faults::default();
        assert!(faults.first().is_none());
        faults.note(Fault::Lost("unplugged".into()));
        faults.note(Fault::Other("later".into()));
        assert!(matches!(faults.first(), Some(Fault::Lost(problem)) if problem == "unplugged"));
    }

    #[test]
    fn a_driver_without_memory_is_known_by_its_words() {
        for (text, memory) in [("Not enough memory left.", true), ("Binding 3 is missing", false)] {
            let error = Fault::of_text(text.into(), Some(8)).error("d");
            assert_eq!(matches!(error, Error::OutOfMemory { requested: Some(8), .. }), memory, "{error}");
        }
    }
}

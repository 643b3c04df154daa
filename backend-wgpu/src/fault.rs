//! What went wrong on a device. wgpu reports errors aside; whoever uses the device asks here afterwards.

use mantissa_core::error::Error;
#[cfg(not(target_arch = "wasm32"))]
use mantissa_core::error::Result;
use std::sync::{Mutex, PoisonError};

/// A failure that wgpu reported.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    OutOfMemory(String),
    Lost(String),
    Other(String),
}

impl Fault {
    /// The error that wgpu gives to the handler of a device.
    pub(crate) fn of(error: wgpu::Error) -> Fault {
        match error {
            wgpu::Error::OutOfMemory { source } => Fault::OutOfMemory(source.to_string()),
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Fault::of_text(description)
            }
        }
    }

    /// A failure that is told as text only. wgpu 30 wraps a driver that is out of memory into other errors at some calls.
    pub(crate) fn of_text(problem: String) -> Fault {
        if problem.contains("Not enough memory") || problem.contains("out of memory") {
            Fault::OutOfMemory(problem)
        } else {
            Fault::Other(problem)
        }
    }

    /// The error for users of `device`. `requested` bytes were just asked for, if memory was.
    pub(crate) fn error(self, device: &str, requested: Option<u64>) -> Error {
        let device = device.to_string();
        match self {
            // More may follow the words of the driver.
            Fault::OutOfMemory(problem) => {
                let problem = problem.trim_end_matches('.').to_string();
                Error::OutOfMemory { device, requested, problem }
            }
            Fault::Lost(problem) => Error::DeviceLost { device, problem },
            Fault::Other(problem) => Error::Device { device, problem },
        }
    }
}

/// The first failure of a device that nobody has recovered from.
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

    /// Forgets it, unless the device is lost, which nothing mends.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn forget(&self) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.take_if(|fault| !matches!(fault, Fault::Lost(_)));
    }
}

/// What `work` comes to on a device whose health `check` tells, and errs only if the device cannot go on: it had failed before, or is lost.
/// Any other failure of `work` is its own, and forgotten.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn attempt<T>(
    faults: &Faults,
    check: impl Fn() -> Result<()>,
    work: impl FnOnce() -> Result<T>,
) -> Result<Result<T>> {
    check()?;
    let done = work().and_then(|made| check().map(|()| made));
    faults.forget();
    check()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(fault: Option<Fault>) -> (Faults, impl Fn(&Faults) -> Result<()>) {
        let faults = Faults::default();
        fault.into_iter().for_each(|f| faults.note(f));
        (faults, |faults: &Faults| faults.first().map_or(Ok(()), |f| Err(f.error("d", None))))
    }

    #[test]
    fn a_failed_attempt_leaves_the_device_as_it_was() {
        let (faults, check) = faulty(None);
        let check = || check(&faults);
        let refused = attempt(&faults, check, || {
            faults.note(Fault::Other("no such binding".into()));
            Ok(1)
        });
        assert!(matches!(refused, Ok(Err(Error::Device { .. }))), "{refused:?}");
        assert!(matches!(attempt(&faults, check, || Ok(2)), Ok(Ok(2))));
        let own: Result<Result<()>> = attempt(&faults, check, || Err(Error::config("a", "b", "c")));
        assert!(matches!(own, Ok(Err(Error::Config { .. }))), "{own:?}");
    }

    #[test]
    fn a_lost_device_or_one_that_had_failed_before_stays_so() {
        let (faults, check) = faulty(None);
        let lost = attempt(
            &faults,
            || check(&faults),
            || {
                faults.note(Fault::Lost("unplugged".into()));
                Ok(())
            },
        );
        assert!(matches!(lost, Err(Error::DeviceLost { .. })), "{lost:?}");
        let (faults, check) = faulty(Some(Fault::Other("earlier".into())));
        let early: Result<Result<()>> = attempt(&faults, || check(&faults), || Ok(()));
        assert!(matches!(early, Err(Error::Device { .. })), "{early:?}");
        assert!(check(&faults).is_err());
    }

    #[test]
    fn a_driver_without_memory_is_known_by_its_words() {
        for (text, memory) in [("Not enough memory left.", true), ("Binding 3 is missing", false)] {
            let error = Fault::of_text(text.into()).error("d", None);
            assert_eq!(matches!(error, Error::OutOfMemory { .. }), memory, "{error}");
        }
    }
}

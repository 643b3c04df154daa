//! The one error type of the library. Fields, not prose: what was asked, what was expected, what was found.

use std::fmt::{Display, LowerExp};

/// Anything that can go wrong for a reason outside Mantissa's own code.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum Error {
    /// An operand of an operation has the wrong shape, dtype or count.
    #[error("{op}: expected {expected}, got {got}{}", at(.place))]
    Operand {
        /// Operation that refused.
        op: String,
        /// What it takes.
        expected: String,
        /// What it was given.
        got: String,
        /// Scope and source line of the model code, when known.
        place: String,
    },
    /// A setting (flag, file entry, builder argument) has an impossible value.
    #[error("{name}: expected {expected}, got {got}")]
    Config {
        /// Name of the setting as the user wrote it.
        name: String,
        /// What it takes.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// A gradient scaler or optimizer was used in an order that would train wrongly.
    #[error("{call}: {problem}; {remedy}{}", at(.place))]
    Misuse {
        /// The call that came at the wrong time.
        call: &'static str,
        /// Why it is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
        /// Scope and source line of the user's code, when known.
        place: String,
    },
    /// A Program breaks a rule that every backend relies on.
    #[error("malformed Program: instruction {instr} ({op}) in scope `{scope}`: expected {expected}, found {found}")]
    Program {
        /// Index of the instruction.
        instr: usize,
        /// Its operation.
        op: String,
        /// Its scope.
        scope: String,
        /// The rule.
        expected: String,
        /// What breaks it.
        found: String,
    },
    /// Input data (a corpus, a file, a checkpoint) is not what its reader needs.
    #[error("{what}: expected {expected}, found {found}")]
    Data {
        /// The data.
        what: String,
        /// What its reader needs.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A device cannot do what was asked of it.
    #[error("device {device}: {problem}")]
    Device {
        /// Device name.
        device: String,
        /// What it cannot do.
        problem: String,
    },
    /// A device has no memory for what was asked.
    #[error("device {device} is out of memory{}: {problem}", requested.map_or(String::new(), |n| format!(" for {n} bytes more")))]
    OutOfMemory {
        /// Device name.
        device: String,
        /// Bytes asked for, where known.
        requested: Option<u64>,
        /// What the driver said.
        problem: String,
    },
    /// A buffer is larger than kernels of the device can bind, whatever memory there is.
    #[error("device {device}: expected buffers of at most {}, got one of {} for {holds}", mebibytes(*largest), mebibytes(*requested))]
    BufferTooLarge {
        /// Device name.
        device: String,
        /// What it would hold, see [`crate::program::memory::Purpose::name`].
        holds: &'static str,
        /// Its bytes.
        requested: u64,
        /// Most bytes that the device binds at once.
        largest: u64,
    },
    /// A device stopped answering.
    #[error("device {device} was lost: {problem}")]
    DeviceLost {
        /// Device name.
        device: String,
        /// What the driver said.
        problem: String,
    },
    /// A value that must be finite is not.
    #[error("{what} is {value} at step {step}")]
    NonFinite {
        /// Name of the value.
        what: String,
        /// What it is: `inf` or `NaN`.
        value: String,
        /// Step at which it was seen.
        step: u64,
    },
}

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// A number that somebody set, with all its digits but without long rows of zeros: `0.001`, `65536`, `1e39`.
pub fn number<T: Copy + Into<f64> + Display + LowerExp>(x: T) -> String {
    let size = x.into().abs();
    if size == 0.0 || !size.is_finite() || (1e-6..1e15).contains(&size) { format!("{x}") } else { format!("{x:e}") }
}

fn at(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" (in {place})") }
}

impl Error {
    /// An [`Error::Operand`] without a place; the recorder adds it.
    pub fn operand(op: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Operand { op: op.into(), expected: expected.into(), got: got.into(), place: String::new() }
    }

    /// An [`Error::Misuse`] without a place; the recorder adds it.
    pub fn misuse(call: &'static str, problem: impl Into<String>, remedy: &'static str) -> Error {
        Error::Misuse { call, problem: problem.into(), remedy, place: String::new() }
    }

    /// An [`Error::Config`].
    pub fn config(name: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Config { name: name.into(), expected: expected.into(), got: got.into() }
    }

    /// An [`Error::Config`] of a number, as [`number`] writes it.
    pub fn number<T: Copy + Into<f64> + Display + LowerExp>(
        name: impl Into<String>,
        expected: impl Into<String>,
        got: T,
    ) -> Error {
        Error::config(name, expected, number(got))
    }

    /// An [`Error::Config`] with its setting named `name`: the one who asked knows where the value came from.
    pub fn of_setting(self, name: &str) -> Error {
        self.rename(|_| name.to_string())
    }

    /// An [`Error::Config`] of a setting that lies inside the setting `outer`.
    pub fn within(self, outer: &str) -> Error {
        self.rename(|name| format!("{outer}.{name}"))
    }

    fn rename(self, new: impl FnOnce(&str) -> String) -> Error {
        match self {
            Error::Config { name, expected, got } => Error::Config { name: new(&name), expected, got },
            other @ (Error::Operand { .. }
            | Error::Misuse { .. }
            | Error::Program { .. }
            | Error::Data { .. }
            | Error::Device { .. }
            | Error::OutOfMemory { .. }
            | Error::DeviceLost { .. }
            | Error::BufferTooLarge { .. }
            | Error::NonFinite { .. }) => other,
        }
    }

    /// An [`Error::Data`].
    pub fn data(what: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Data { what: what.into(), expected: expected.into(), found: found.into() }
    }

    /// Adds scope and source line to an [`Error::Operand`] or [`Error::Misuse`] that has none.
    pub fn at_place(self, where_: impl Into<String>) -> Error {
        match self {
            Error::Operand { op, expected, got, place } if place.is_empty() => {
                Error::Operand { op, expected, got, place: where_.into() }
            }
            Error::Misuse { call, problem, remedy, place } if place.is_empty() => {
                Error::Misuse { call, problem, remedy, place: where_.into() }
            }
            other @ (Error::Operand { .. }
            | Error::Config { .. }
            | Error::Misuse { .. }
            | Error::Program { .. }
            | Error::Data { .. }
            | Error::Device { .. }
            | Error::OutOfMemory { .. }
            | Error::BufferTooLarge { .. }
            | Error::DeviceLost { .. }
            | Error::NonFinite { .. }) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_written_without_long_rows_of_zeros() {
        let numbers = [0.001, 65536.0, 1e39, -1e39, 1e-46, 0.0, f64::NAN];
        assert_eq!(numbers.map(number), ["0.001", "65536", "1e39", "-1e39", "1e-46", "0", "NaN"]);
        assert_eq!([0.1f32, 3e38].map(number), ["0.1", "3e38"]);
    }
}

//! When an instruction ran. Seconds by whatever clock was read, from some moment of the step on.

/// One run of one instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Index of the instruction.
    pub instr: usize,
    /// Number of the micro-step, from 0; 0 in the update part.
    pub micro: usize,
    /// When it began, seconds.
    pub start_secs: f64,
    /// How long it took, seconds.
    pub length_secs: f64,
}

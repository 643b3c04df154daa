//! Batches as the bytes that a session takes: inputs and targets of all micro-steps, one after the other.

/// One batch as bytes: inputs and targets of all micro-steps, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What the model sees.
    pub x: &'a [u8],
    /// What it should answer.
    pub targets: &'a [u8],
}

/// A batch; reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct BatchBytes {
    /// What the model sees: u32 tokens [B, T], or f32 pixels [B, rows * cols].
    pub x: Vec<u8>,
    /// u32 targets: the next tokens [B, T], or labels `[B]`.
    pub targets: Vec<u8>,
    /// Where tokens are read to.
    pub(super) window: Vec<u32>,
}

impl BatchBytes {
    /// What a session takes.
    pub fn batch(&self) -> Batch<'_> {
        Batch { x: &self.x, targets: &self.targets }
    }

    pub(super) fn clear(&mut self) {
        self.x.clear();
        self.targets.clear();
    }
}

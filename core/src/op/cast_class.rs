//! Classes of operations and functions by what autocast does with their inputs.

/// What autocast does with the inputs of an operation (the CUDA list of PyTorch, used on every backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CastClass {
    /// Matmuls, convolutions, attention: float inputs are cast to the region's low dtype.
    Low,
    /// Softmax, norms, losses, sums: computed and stored in f32. Inputs are read as they lie (widening is exact).
    F32,
    /// All float inputs are cast to the widest among them.
    Promote,
    /// Inputs are taken as they are; ordinary promotion decides the result.
    Keep,
}

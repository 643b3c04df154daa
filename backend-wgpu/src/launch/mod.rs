//! From an instruction to kernel launches: which kernel with which constants, arguments and grid. Pure functions of the
//! instruction and its operands; nothing here knows a device.
//!
//! `builder` makes one launch, a file a family the launches of an instruction, `step` those of a whole Program. Kernels
//! that serve software adapters only are launched from `software`.

mod attention;
mod axes;
mod builder;
mod cast_list;
mod conv2d;
mod grid;
mod index;
mod kernel;
mod kernel_choice;
mod layout;
mod loss;
mod map;
mod matmul;
mod norm;
mod operand;
mod pool;
mod quantize;
mod recorder;
mod reduce;
mod rows;
mod softmax;
mod software;
mod step;
mod tensor_stats;
mod unit;
mod update;

pub(crate) use builder::{Arg, Builder, Launch, kernel};
pub(crate) use grid::folded;
pub use kernel::Kernel;
pub(crate) use kernel_choice::LaunchLimits;
pub use kernel_choice::{AttentionKernel, MatmulKernel};
pub(crate) use recorder::Work;
pub(crate) use software::{PANEL_LANES, panels_fit, suits_panels};
pub(crate) use step::{Step, launches};

use builder::Frame;
use mantissa_core::error::Result;
use mantissa_core::op::Op;

/// Bytes of a vec8: eight words, which kernels read and write at once.
pub(crate) const VEC8_BYTES: usize = 32;

/// The launches of one instruction.
fn instruction(op: &Op, f: &mut Frame<'_>) -> Result<()> {
    match op {
        Op::Reshape(_) => Ok(()),
        Op::MatMul(m) => matmul::matmul(m, f),
        Op::Conv2d(o) => conv2d::forward(o, f),
        Op::Conv2dDgrad(o) => conv2d::dgrad(o, f),
        Op::Conv2dWgrad(o) => conv2d::wgrad(o, f),
        Op::Zero => update::zero(f),
        Op::Record(r) => update::record(r, f),
        Op::Map(m) => map::map(m, f),
        Op::Permute(order) => layout::permute(order, f),
        Op::Concat(axis) => layout::concat(*axis, f),
        Op::Slice(s) => layout::slice(s, false, f),
        Op::SliceBackward(s) => layout::slice(s, true, f),
        Op::Embedding => index::embedding(f),
        Op::EmbeddingBackward(_) => index::embedding_backward(f),
        Op::Gather => index::gather(f),
        Op::GatherBackward(_) => index::gather_backward(f),
        Op::TopK(k) => index::top_k(*k, f),
        Op::Norm(o) => norm::forward(o, f),
        Op::NormBackward(o) => norm::backward(o, f),
        Op::Reduce(o) => reduce::reduce(o, f),
        Op::UnscaleCheck(_) => update::unscale_check(f),
        Op::UpdateLossScale(u) => update::update_loss_scale(u, f),
        Op::Quantize(q) => quantize::quantize(q, f),
        Op::QuantizeMx(q) => quantize::quantize_mx(q, f),
        Op::TensorStats(s) => tensor_stats::tensor_stats(s, f),
        Op::UpdateFp8Scales(u) => quantize::update_fp8_scales(u, f),
        Op::GradNorm(n) => update::grad_norm(n.norm, f),
        Op::ClipCoef(c) => update::clip_coef(c, f),
        Op::ClipValue(c) => update::clip_value(c.limit, f),
        Op::CrossEntropy(o) => loss::cross_entropy(o, f),
        Op::CrossEntropyBackward(o) => loss::cross_entropy_backward(o, f),
        Op::Optimizer(o) => update::optimizer(o, f),
        Op::Attention(o) => attention::forward(o, f),
        Op::AttentionBackward(o) => attention::backward(o, f),
        Op::Softmax(o) => softmax::forward(o, f),
        Op::SoftmaxBackward(o) => softmax::backward(o, f),
        Op::Pool2d(o) => pool::forward(o, f),
        Op::Pool2dBackward(o) => pool::backward(o, f),
    }
}

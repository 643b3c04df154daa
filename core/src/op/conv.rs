//! 2-D convolution and pooling, images N H W C, weights [KH, KW, Cin, Cout]. CPU kernels: `cpu/conv2d.rs`,
//! `cpu/pool.rs`.
//!
//! `Conv2d`: inputs `x, w`; dgrad: inputs `dy, w`, output `dx`; wgrad: inputs `dy, x`, output `dw`. f32 accumulation.
//! `Pool2d`: input `x`; backward: inputs `x, dy`, output `dx`.

use super::{arity, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{Shape, Ty};

/// Attributes of `Conv2d` and its gradients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Rows and columns between windows.
    pub stride: [usize; 2],
    /// Zeros around the image.
    pub padding: [usize; 2],
    /// Distance between kernel taps.
    pub dilation: [usize; 2],
    /// Shape of `x`, [N, H, W, Cin].
    pub x_shape: Shape,
    /// Shape of `w`, [KH, KW, Cin, Cout].
    pub w_shape: Shape,
    /// Storage dtype of the output.
    pub out: DType,
}

impl Conv2d {
    /// Shape of `y`, [N, OH, OW, Cout]. Fails unless both have four axes, channels agree and the kernel fits the padded
    /// image.
    pub fn y_shape(&self) -> Result<Shape> {
        let (x, w) = (&self.x_shape, &self.w_shape);
        expect(x.len() == 4 && w.len() == 4, "conv2d", "x [N, H, W, Cin] and w [KH, KW, Cin, Cout]", &format!("{x} and {w}"))?;
        expect(x[3] == w[2], "conv2d", format!("w with {} input channels", x[3]), w)?;
        let oh = window_count(x[1], w[0], self.stride[0], self.padding[0], self.dilation[0]);
        let ow = window_count(x[2], w[1], self.stride[1], self.padding[1], self.dilation[1]);
        expect(oh > 0 && ow > 0, "conv2d", "a kernel that fits the padded image", &format!("{w} over {x}"))?;
        Ok(Shape::from([x[0], oh, ow, w[3]]))
    }

    fn pair(&self, name: &'static str, inputs: &[Ty], want: [&Shape; 2]) -> Result<()> {
        arity(name, inputs, 2)?;
        for (t, want) in inputs.iter().zip(want) {
            expect_float(name, t)?;
            expect(t.shape == *want, name, format!("an operand of shape {want}"), t)?;
        }
        expect(inputs[0].dtype == inputs[1].dtype, name, format!("operands of one dtype ({})", inputs[0]), &inputs[1])
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        self.pair("conv2d", inputs, [&self.x_shape, &self.w_shape])?;
        Ok(vec![Ty { dtype: self.out, shape: self.y_shape()? }])
    }

    pub(super) fn infer_dgrad(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        self.pair("conv2d_dgrad", inputs, [&self.y_shape()?, &self.w_shape])?;
        Ok(vec![Ty { dtype: self.out, shape: self.x_shape.clone() }])
    }

    pub(super) fn infer_wgrad(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        self.pair("conv2d_wgrad", inputs, [&self.y_shape()?, &self.x_shape])?;
        Ok(vec![Ty { dtype: self.out, shape: self.w_shape.clone() }])
    }

    pub(super) fn flops(&self, _inputs: &[Ty]) -> u64 {
        let taps: usize = self.w_shape[..3].iter().product();
        self.y_shape().map_or(0, |y| 2 * (y.numel() * taps) as u64)
    }
}

/// Number of window positions along one axis; 0 if the window does not fit.
pub fn window_count(n: usize, kernel: usize, stride: usize, padding: usize, dilation: usize) -> usize {
    let reach = dilation * (kernel.max(1) - 1) + 1;
    if stride == 0 || n + 2 * padding < reach { 0 } else { (n + 2 * padding - reach) / stride + 1 }
}

/// How a window becomes one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Largest value.
    Max,
    /// Mean over the whole window, padding counted as zeros.
    Average,
}

/// Attributes of `Pool2d`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool2d {
    /// How a window becomes one value.
    pub kind: PoolKind,
    /// Window rows and columns.
    pub window: [usize; 2],
    /// Rows and columns between windows.
    pub stride: [usize; 2],
    /// Padding; at most half the window.
    pub padding: [usize; 2],
}

impl Pool2d {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("pool2d", inputs, 1)?;
        let x = &inputs[0];
        expect_float("pool2d", x)?;
        expect(x.shape.len() == 4, "pool2d", "x of shape [N, H, W, C]", x)?;
        let pad_ok = (0..2).all(|i| self.padding[i] * 2 <= self.window[i]);
        expect(pad_ok, "pool2d", "padding of at most half the window", &format!("{:?}", self.padding))?;
        let count = |i: usize| window_count(x.shape[1 + i], self.window[i], self.stride[i], self.padding[i], 1);
        expect(count(0) > 0 && count(1) > 0, "pool2d", "a window that fits the image", x)?;
        Ok(vec![Ty::new(x.dtype, [x.shape[0], count(0), count(1), x.shape[3]])])
    }

    pub(super) fn infer_backward(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("pool2d_backward", inputs, 2)?;
        let y = self.infer(&inputs[..1])?;
        expect(inputs[1].shape == y[0].shape, "pool2d_backward", format!("dy of shape {}", y[0].shape), &inputs[1])?;
        Ok(vec![inputs[0].clone()])
    }
}

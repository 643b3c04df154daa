//! The sliding window that convolutions and pools share: kernel, stride, padding, dilation on the two image axes.

/// A window over `[H, W]`; each field is `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Taps.
    pub kernel: [usize; 2],
    /// Step between outputs, in input pixels; not 0.
    pub stride: [usize; 2],
    /// Pixels added on each side.
    pub pad: [usize; 2],
    /// Step between taps, in input pixels; not 0.
    pub dilation: [usize; 2],
}

impl Window {
    /// A square window without dilation.
    pub fn square(kernel: usize, stride: usize, pad: usize) -> Window {
        Window { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], dilation: [1; 2] }
    }

    /// Output size for an input of `[h, w]`; 0 on an axis where the window does not fit.
    pub fn output(&self, input: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|a| match (input[a] + 2 * self.pad[a]).checked_sub(self.span(a)) {
            Some(room) => room / self.stride[a] + 1,
            None => 0,
        })
    }

    /// Taps of the window.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Input pixels from the first tap to the last, on one axis.
    pub(crate) fn span(&self, axis: usize) -> usize {
        self.dilation[axis] * self.kernel[axis].saturating_sub(1) + 1
    }

    /// Input coordinate that tap `tap` of output `out` reads on one axis; `None` in the padding.
    #[inline(always)]
    pub(crate) fn input(&self, axis: usize, out: usize, tap: usize, len: usize) -> Option<usize> {
        let at = (out * self.stride[axis] + tap * self.dilation[axis]).checked_sub(self.pad[axis])?;
        (at < len).then_some(at)
    }

    /// Output coordinate that reads input `at` with tap `tap` on one axis, if there is one.
    #[inline(always)]
    pub(crate) fn reader(&self, axis: usize, at: usize, tap: usize, out_len: usize) -> Option<usize> {
        let far = (at + self.pad[axis]).checked_sub(tap * self.dilation[axis])?;
        let out = far / self.stride[axis];
        (far.is_multiple_of(self.stride[axis]) && out < out_len).then_some(out)
    }

    /// Calls `f(tap, pixel)` for every tap of output `[oh, ow]` that lies in the image, in order; `pixel` is
    /// `ih * w + iw`.
    #[inline(always)]
    pub(crate) fn each_tap(&self, [h, w]: [usize; 2], [oh, ow]: [usize; 2], mut f: impl FnMut(usize, usize)) {
        for kh in 0..self.kernel[0] {
            let Some(ih) = self.input(0, oh, kh, h) else { continue };
            for kw in 0..self.kernel[1] {
                if let Some(iw) = self.input(1, ow, kw, w) {
                    f(kh * self.kernel[1] + kw, ih * w + iw);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_reader_are_inverse_and_output_is_the_last_that_fits() {
        for (kernel, stride, pad, dilation, len) in
            [(3, 1, 1, 1, 7), (3, 2, 1, 1, 8), (2, 3, 0, 2, 10), (5, 1, 4, 2, 3), (1, 2, 0, 1, 5)]
        {
            let win = Window { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], dilation: [dilation; 2] };
            let [out, _] = win.output([len, len]);
            let last = |o: usize| o * stride + (kernel - 1) * dilation;
            assert!(last(out - 1) < len + 2 * pad && last(out) >= len + 2 * pad);
            for tap in 0..kernel {
                let forward: Vec<_> = (0..out).filter_map(|o| Some((o, win.input(0, o, tap, len)?))).collect();
                let back: Vec<_> = (0..len).filter_map(|i| Some((win.reader(0, i, tap, out)?, i))).collect();
                assert_eq!(forward, back);
            }
        }
        assert_eq!(Window::square(3, 1, 0).output([2, 5]), [0, 3]);
    }
}

//! Convolution of images `[N, H, W, Cin]` with weights `[KH, KW, Cin, Cout]`: forward, data gradient, weight gradient.
//!
//! No im2col matrix: an input row, padded with zeros, *is* the matrix of its windows when read with overlapping rows
//! (row stride `stride * Cin`, depth `KW * Cin`), so one row of outputs is one matmul over the rows it reads. The data
//! gradient runs per tap over the input pixels that a stride leaves in one phase; no matmuls with inserted zeros.
//! Padding takes part as zeros (a non-finite weight meets them as `0 * w`), in the forward and the weight gradient.
//! Values of any float dtype are decoded once per row; products and sums are f32, rounded once on store. The weight
//! gradient is summed per task of output rows and the tasks added in order. All splits depend on the shape only.

mod tile_gemm;

use super::rows;
use super::window::Window;
use crate::float::view::{View, ViewMut};
use crate::par;
use tile_gemm::{NR, Panels, Strided, gemm, panels_len};

/// Sizes of a convolution; all but `n` at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
    /// Kernel, stride, padding, dilation.
    pub window: Window,
}

impl ConvShape {
    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        self.window.output(self.input)
    }

    /// Elements of the weights.
    pub fn weight_len(&self) -> usize {
        self.window.taps() * self.cin * self.cout
    }

    /// Elements of an input row, padding included, that one row of outputs reads.
    fn line(&self) -> usize {
        (self.output()[1].saturating_sub(1) * self.window.stride[1] + self.window.span(1)) * self.cin
    }

    /// Output rows, and how many of them a task of the forward computes.
    fn output_rows(&self) -> (usize, usize) {
        let [oh, ow] = self.output();
        (self.n * oh, rows::per_task(self.n * oh, ow * self.cout))
    }

    /// Input rows, and how many of them a task of the data gradient computes.
    fn input_rows(&self) -> (usize, usize) {
        let [h, w] = self.input;
        (self.n * h, rows::per_task(self.n * h, w * self.cin))
    }

    /// Tasks of the weight gradient: each holds a whole gradient in its scratch.
    fn weight_tasks(&self) -> usize {
        const SCRATCH: usize = 4 << 20;
        let rows = self.output_rows().0;
        rows.div_ceil(rows.div_ceil((SCRATCH / self.weight_len().max(1)).clamp(4, 16)).max(1))
    }

    /// Output rows that a matmul of the weight gradient takes together: its depth should pay for loading the sums.
    fn weight_rows(&self) -> usize {
        const DEPTH: usize = 96;
        (DEPTH / self.output()[1].max(1)).clamp(1, 8)
    }

    fn weight_task_len(&self) -> usize {
        let rows = self.weight_rows();
        self.weight_len() + rows * self.line() + panels_len(rows * self.output()[1], self.cout)
    }
}

/// Scratch of [`conv2d`], in f32 elements.
pub fn conv2d_work_len(s: &ConvShape) -> usize {
    let (rows, per_task) = s.output_rows();
    panels_len(s.window.taps() * s.cin, s.cout)
        + rows.div_ceil(per_task) * (s.window.kernel[0] * s.line() + s.output()[1] * s.cout)
}

/// `y = conv(x, w)`. `x: [n, h, w, cin]`, `w: [kh, kw, cin, cout]`, `y: [n, oh, ow, cout]`.
pub fn conv2d(x: View<'_>, w: View<'_>, s: &ConvShape, y: ViewMut<'_>, work: &mut [f32]) {
    let ([h, width], [oh, ow], win) = (s.input, s.output(), &s.window);
    debug_assert!(x.len() == s.n * h * width * s.cin && w.len() == s.weight_len() && y.len() == s.n * oh * ow * s.cout);
    if y.is_empty() {
        return;
    }
    let depth = win.taps() * s.cin;
    let (panels, work) = work[..conv2d_work_len(s)].split_at_mut(panels_len(depth, s.cout));
    pack(w, depth, s.cout, panels);
    let b = Panels { data: panels, depth, n: s.cout };
    let (_, per_task) = s.output_rows();
    let (row_len, dtype) = (ow * s.cout, y.dtype);
    let (line_len, dilated) = (s.line(), win.dilation[1] != 1);
    // Depth that lies side by side in a line, and the way from there to the next: the next row or the next dilated tap.
    let (inner, outer) = if dilated { (s.cin, win.dilation[1] * s.cin) } else { (win.kernel[1] * s.cin, line_len) };
    let tap_row = win.kernel[1] * s.cin;
    let task_work = win.kernel[0] * line_len + row_len;
    par::chunks2((y.bytes, per_task * row_len * dtype.size_bytes()), (work, task_work), |i, y, work| {
        let mut y = ViewMut::new(dtype, y);
        let (lines, out) = work.split_at_mut(win.kernel[0] * line_len);
        for r in 0..y.len() / row_len {
            let row = i * per_task + r;
            let (image, at) = (row / oh, row % oh);
            // The vertical taps inside the image are neighbours.
            let (mut first, mut count) = (0, 0);
            for kh in 0..win.kernel[0] {
                let Some(ih) = win.input(0, at, kh, h) else { continue };
                padded_row(x, (image * h + ih) * width, s, &mut lines[count * line_len..(count + 1) * line_len]);
                first = if count == 0 { kh } else { first };
                count += 1;
            }
            rows::write(&mut y, r * row_len..(r + 1) * row_len, out, |y| {
                y.fill(0.0);
                let (calls, depth) = if dilated { (count, tap_row) } else { (1, count * tap_row) };
                for call in 0..calls {
                    let a = Strided { data: &lines[call * line_len..], row: win.stride[1] * s.cin, col: 1, inner, outer };
                    gemm(a, ow, (first + call) * tap_row, depth, b, y, s.cout);
                }
            });
        }
    });
}

/// Scratch of [`conv2d_dgrad`], in f32 elements.
pub fn conv2d_dgrad_work_len(s: &ConvShape) -> usize {
    let (rows, per_task) = s.input_rows();
    panels_len(s.window.taps() * s.cout, s.cin) + rows.div_ceil(per_task) * (s.output()[1] * s.cout + s.input[1] * s.cin)
}

/// `dx`, the gradient of the input. `dy: [n, oh, ow, cout]`, `w: [kh, kw, cin, cout]`, `dx: [n, h, w, cin]`.
pub fn conv2d_dgrad(dy: View<'_>, w: View<'_>, s: &ConvShape, dx: ViewMut<'_>, work: &mut [f32]) {
    let ([h, width], [oh, ow], win) = (s.input, s.output(), &s.window);
    debug_assert!(dx.len() == s.n * h * width * s.cin && w.len() == s.weight_len() && dy.len() == s.n * oh * ow * s.cout);
    if dx.is_empty() {
        return;
    }
    let depth = win.taps() * s.cout;
    let (panels, work) = work[..conv2d_dgrad_work_len(s)].split_at_mut(panels_len(depth, s.cin));
    pack_transposed(w, s, panels);
    let b = Panels { data: panels, depth, n: s.cin };
    let (_, per_task) = s.input_rows();
    let (row_len, line_len, dtype) = (width * s.cin, ow * s.cout, dx.dtype);
    par::chunks2((dx.bytes, per_task * row_len * dtype.size_bytes()), (work, line_len + row_len), |i, dx, work| {
        let mut dx = ViewMut::new(dtype, dx);
        let (line, out) = work.split_at_mut(line_len);
        for r in 0..dx.len() / row_len {
            let row = i * per_task + r;
            let (image, at) = (row / h, row % h);
            rows::write(&mut dx, r * row_len..(r + 1) * row_len, out, |dx| {
                dx.fill(0.0);
                for kh in 0..win.kernel[0] {
                    let Some(o) = win.reader(0, at, kh, oh) else { continue };
                    let from = (image * oh + o) * line_len;
                    let line = dy.load(from..from + line_len, line);
                    for kw in 0..win.kernel[1] {
                        // Outputs `first..end` read this row with tap `kw`; their input pixels lie `stride` apart.
                        let Some((first, end)) = readers(win, kw, width, ow) else { continue };
                        let iw = first * win.stride[1] + kw * win.dilation[1] - win.pad[1];
                        let a = Strided { data: &line[first * s.cout..], row: s.cout, col: 1, inner: s.cout, outer: 0 };
                        let k0 = (kh * win.kernel[1] + kw) * s.cout;
                        gemm(a, end - first, k0, s.cout, b, &mut dx[iw * s.cin..], win.stride[1] * s.cin);
                    }
                }
            });
        }
    });
}

/// Scratch of [`conv2d_wgrad`], in f32 elements.
pub fn conv2d_wgrad_work_len(s: &ConvShape) -> usize {
    s.weight_tasks() * s.weight_task_len()
}

/// `dw`, the gradient of the weights. `x: [n, h, w, cin]`, `dy: [n, oh, ow, cout]`, `dw: [kh, kw, cin, cout]`.
pub fn conv2d_wgrad(x: View<'_>, dy: View<'_>, s: &ConvShape, mut dw: ViewMut<'_>, work: &mut [f32]) {
    let ([h, width], [oh, ow], win) = (s.input, s.output(), &s.window);
    debug_assert!(x.len() == s.n * h * width * s.cin && dw.len() == s.weight_len() && dy.len() == s.n * oh * ow * s.cout);
    if dw.is_empty() {
        return;
    }
    let (total, tasks, stride) = (s.n * oh, s.weight_tasks(), s.weight_task_len());
    let work = &mut work[..tasks * stride];
    let (per_task, line_len) = (total.div_ceil(tasks.max(1)), s.line());
    if ow > 0 {
        par::chunks(work, stride, |i, work| {
            let (sums, work) = work.split_at_mut(s.weight_len());
            let (lines, panels) = work.split_at_mut(s.weight_rows() * line_len);
            sums.fill(0.0);
            let end = ((i + 1) * per_task).min(total);
            for row in (i * per_task..end).step_by(s.weight_rows()) {
                let count = s.weight_rows().min(end - row);
                let depth = count * ow;
                let dy = dy.part(row * ow * s.cout..(row + count) * ow * s.cout);
                let panels = &mut panels[..panels_len(depth, s.cout)];
                for (p, panel) in panels.chunks_exact_mut(depth * NR).enumerate() {
                    pack_panel(dy, p, s.cout, panel);
                }
                let b = Panels { data: panels, depth, n: s.cout };
                for kh in 0..win.kernel[0] {
                    for (line, row) in lines.chunks_exact_mut(line_len).zip(row..row + count) {
                        match win.input(0, row % oh, kh, h) {
                            Some(ih) => padded_row(x, (row / oh * h + ih) * width, s, line),
                            None => line.fill(0.0),
                        }
                    }
                    each_run(s, |kw, taps| {
                        let data = &lines[kw * win.dilation[1] * s.cin..];
                        let a = Strided { data, row: 1, col: win.stride[1] * s.cin, inner: ow, outer: line_len };
                        let sums = &mut sums[(kh * win.kernel[1] + kw) * s.cin * s.cout..];
                        gemm(a, taps * s.cin, 0, depth, b, sums, s.cout);
                    });
                }
            }
        });
    }
    rows::combine(if ow > 0 { work } else { &[] }, stride, 0, &mut dw);
}

/// Calls `f(first tap, taps)` for runs of horizontal taps whose inputs lie side by side: all of them, or one by one if
/// dilated.
fn each_run(s: &ConvShape, mut f: impl FnMut(usize, usize)) {
    if s.window.dilation[1] == 1 {
        f(0, s.window.kernel[1]);
    } else {
        (0..s.window.kernel[1]).for_each(|kw| f(kw, 1));
    }
}

/// Writes the input row that starts at pixel `start` into `line`, zeros where the window sees padding.
fn padded_row(x: View<'_>, start: usize, s: &ConvShape, line: &mut [f32]) {
    let (c, pad) = (s.cin, s.window.pad[1]);
    let before = (pad * c).min(line.len());
    let inside = (line.len() - before).min(s.input[1] * c);
    line[..before].fill(0.0);
    x.part(start * c..start * c + inside).decode_into(&mut line[before..before + inside]);
    line[before + inside..].fill(0.0);
}

/// The outputs, as `first..end`, whose tap `kw` lies inside a row of `width` pixels.
fn readers(win: &Window, kw: usize, width: usize, ow: usize) -> Option<(usize, usize)> {
    let (stride, shift) = (win.stride[1], kw * win.dilation[1]);
    let first = win.pad[1].saturating_sub(shift).div_ceil(stride);
    let end = (width + win.pad[1]).checked_sub(shift)?.div_ceil(stride).min(ow);
    (first < end).then_some((first, end))
}

/// Packs a `[depth, n]` matrix, the panels in parallel.
fn pack(b: View<'_>, depth: usize, n: usize, panels: &mut [f32]) {
    par::chunks(panels, depth * NR, |p, panel| pack_panel(b, p, n, panel));
}

/// Packs panel `p` of a matrix with `n` columns.
fn pack_panel(b: View<'_>, p: usize, n: usize, panel: &mut [f32]) {
    let (from, to) = (p * NR, (p * NR + NR).min(n));
    for (k, row) in panel.chunks_exact_mut(NR).enumerate() {
        let (used, rest) = row.split_at_mut(to - from);
        b.part(k * n + from..k * n + to).decode_into(used);
        rest.fill(0.0);
    }
}

/// Packs the weights with the channels exchanged: row `(kh, kw, co)`, column `ci`.
fn pack_transposed(w: View<'_>, s: &ConvShape, panels: &mut [f32]) {
    const BLOCK: usize = 256;
    par::chunks(panels, s.window.taps() * s.cout * NR, |p, panel| {
        let mut block = [0.0f32; BLOCK];
        for tap in 0..s.window.taps() {
            for lane in 0..NR {
                let ci = p * NR + lane;
                for from in (0..s.cout).step_by(BLOCK) {
                    let to = (from + BLOCK).min(s.cout);
                    let at = (tap * s.cin + ci) * s.cout;
                    let row = if ci < s.cin { w.load(at + from..at + to, &mut block) } else { &[0.0; BLOCK][..to - from] };
                    for (co, &w) in (from..to).zip(row) {
                        panel[(tap * s.cout + co) * NR + lane] = w;
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
